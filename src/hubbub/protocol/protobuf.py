"""The Protobuf codec, for the SDKs that speak nothing else.

Answers for: the field numbers of the protocol (client.proto, v0.21) and Protobuf's wire format, read into and
written from the structs of `messages`. Refuses to know: JSON, connections, and whether a command makes sense.

The format is read as the official runtime reads proto3: the last of several values wins, embedded messages
merge, fields that are unknown or of another wire type are skipped, integers are cut to their width, an empty
payload is an absent one. Only an offset of more than 63 bits is refused, as in JSON. Any bytes are read in linear
time, to commands or to a ProtocolError. What reads and writes a struct is put together once, at import, from its
annotations and `_NUMBERS`; a field without a number fails there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, get_args, get_origin

from msgspec import UNSET, Raw, Struct, defstruct, field, structs

from hubbub.errors import ProtocolError, ReplyError
from hubbub.model import Publication
from hubbub.protocol.codec import info_message
from hubbub.protocol.messages import (
    MAX_COMMANDS,
    PUSH_FIELDS,
    RESULT_FIELDS,
    ClientInfoMessage,
    Command,
    Int32,
    Int64,
    Payload,
    Push,
    Result,
    UInt32,
    UInt64,
)

#: The number of every field that we read or write, by the names of the structs in `messages`; what stands
#: from "Reply" on is written by hand below. If you add a field to a struct, give it its number here too.
# fmt: off
_NUMBERS: dict[str, dict[str, int]] = {
    "Command": {
        "id": 1, "connect": 4, "subscribe": 5, "unsubscribe": 6, "publish": 7, "presence": 8,
        "presence_stats": 9, "history": 10, "ping": 11, "send": 12, "rpc": 13, "refresh": 14,
        "sub_refresh": 15,
    },
    "ConnectRequest": {"token": 1, "data": 2, "subs": 3, "name": 4, "version": 5, "headers": 6},
    "SubscribeRequest": {
        "channel": 1, "token": 2, "recover": 3, "epoch": 6, "offset": 7, "data": 8, "positioned": 9,
        "recoverable": 10, "join_leave": 11, "delta": 12, "flag": 14, "type": 15,
    },
    "UnsubscribeRequest": {"channel": 1},
    "PublishRequest": {"channel": 1, "data": 2},
    "PresenceRequest": {"channel": 1},
    "PresenceStatsRequest": {"channel": 1},
    "HistoryRequest": {"channel": 1, "limit": 7, "since": 8, "reverse": 9},
    "StreamPosition": {"offset": 1, "epoch": 2},
    "PingRequest": {},
    "SendRequest": {"data": 1},
    "RPCRequest": {"data": 1, "method": 2},
    "RefreshRequest": {"token": 1},
    "SubRefreshRequest": {"channel": 1, "token": 2},
    "ConnectResult": {
        "client": 1, "version": 2, "expires": 3, "ttl": 4, "data": 5, "subs": 6, "ping": 7, "pong": 8,
        "session": 9, "node": 10,
    },
    "SubscribeResult": {
        "expires": 1, "ttl": 2, "recoverable": 3, "epoch": 6, "publications": 7, "recovered": 8, "offset": 9,
        "positioned": 10, "data": 11, "was_recovering": 12,
    },
    "UnsubscribeResult": {},
    "PublishResult": {},
    "PresenceResult": {"presence": 1},
    "ClientInfoMessage": {"user": 1, "client": 2, "conn_info": 3, "chan_info": 4},
    "PresenceStatsResult": {"num_clients": 1, "num_users": 2},
    "HistoryResult": {"publications": 1, "epoch": 2, "offset": 3},
    "RPCResult": {"data": 1},
    "RefreshResult": {"client": 1, "version": 2, "expires": 3, "ttl": 4},
    "SubRefreshResult": {"expires": 1, "ttl": 2},
    "JoinPush": {"info": 1},
    "LeavePush": {"info": 1},
    "UnsubscribePush": {"code": 2, "reason": 3},
    "SubscribePush": {"recoverable": 1, "epoch": 4, "offset": 5, "positioned": 6, "data": 7},
    "MessagePush": {"data": 1},
    "RefreshPush": {"expires": 1, "ttl": 2},
    "DisconnectPush": {"code": 1, "reason": 2, "reconnect": 3},
    "Entry": {"key": 1, "value": 2},
    "Reply": {
        "id": 1, "error": 2, "push": 4, "connect": 5, "subscribe": 6, "unsubscribe": 7, "publish": 8,
        "presence": 9, "presence_stats": 10, "history": 11, "rpc": 13, "refresh": 14, "sub_refresh": 15,
    },
    "Error": {"code": 1, "message": 2, "temporary": 3},
    "Push": {
        "channel": 2, "pub": 4, "join": 5, "leave": 6, "unsubscribe": 7, "message": 8, "subscribe": 9,
        "disconnect": 11, "refresh": 12,
    },
    "Publication": {"data": 4, "info": 5, "offset": 6, "tags": 7, "epoch": 14},
}
# fmt: on

# The wire types, in their order.
_VARINT, _FIXED64, _LENGTH, _GROUP, _GROUP_END, _FIXED32 = range(6)

#: How deep groups may nest, as in the official runtime. Nobody sends any, but they must be skipped.
_MAX_GROUPS = 100
_MAX_NUMBER = 2**29 - 1
_UINT64, _INT64 = 2**64 - 1, 2**63 - 1


def _signed(bits: int) -> Callable[[int], int]:
    half, mask = 1 << bits - 1, (1 << bits) - 1
    return lambda value: ((value & mask) ^ half) - half


def _bounded(value: int) -> int:
    """As `UInt64` is bounded. The field has another bit, which nobody uses and no database takes."""
    if value > _INT64:
        raise ProtocolError("an offset has more than 63 bits")
    return value


#: From an unsigned varint to the value of each type that travels as one.
_INTEGERS: dict[Any, Callable[[int], int]] = {
    bool: bool,
    UInt32: lambda value: value & 0xFFFFFFFF,
    UInt64: _bounded,
    Int32: _signed(32),
    Int64: _signed(64),
}


@cache
def _entry(value: type) -> type[Struct]:
    """An item of a map, which Protobuf writes as a message."""
    return defstruct("Entry", [("key", str, ""), ("value", value, field(default_factory=value))])


def _embedded(annotation: Any) -> type[Struct]:
    """The struct of a field of type `T` or `T | None`."""
    return annotation if isinstance(annotation, type) else get_args(annotation)[0]


# Reading. Every function takes the bytes, where it begins, and where the message ends that it must stay in. -

#: Sets one field of a struct from its value at a place, and returns where the value ends.
_Reader = Callable[[Any, bytes, int, int], int]


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A varint, cut to 64 bits, and where it ends."""
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        if byte < 0x80:
            return (value | byte << shift) & _UINT64, at
        value |= (byte & 0x7F) << shift
        shift += 7
    raise ProtocolError("a varint is cut off or longer than 10 bytes")


def _span(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Where a length-prefixed value begins and ends."""
    size, at = _varint(data, at, end)
    if size > end - at:
        raise ProtocolError("a value is cut off")
    return at, at + size


def _skip(tag: int, data: bytes, at: int, end: int) -> int:
    """Where the unknown field ends whose tag was just read."""
    groups: list[int] = []
    while True:
        number, wire = tag >> 3, tag & 7
        if not 0 < number <= _MAX_NUMBER:
            raise ProtocolError(f"no field can have the number {number}")
        if wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire == _LENGTH:
            _, at = _span(data, at, end)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
            if at > end:
                raise ProtocolError("a value is cut off")
        elif wire == _GROUP and len(groups) < _MAX_GROUPS:
            groups.append(number)
        elif wire != _GROUP_END or not groups or groups.pop() != number:
            raise ProtocolError("groups are nested wrongly or too deep, or a wire type does not exist")
        if not groups:
            return at
        tag, at = _varint(data, at, end)


def _fill(target: Struct, readers: dict[int, _Reader], data: bytes, at: int, end: int) -> None:
    """Read a message into `target`, over what is there already."""
    while at < end:
        tag = data[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = _varint(data, at, end)
        read = readers.get(tag)
        at = _skip(tag, data, at, end) if read is None else read(target, data, at, end)


def _integer_reader(name: str, convert: Callable[[int], int]) -> _Reader:
    def read(target: Any, data: bytes, at: int, end: int) -> int:
        value, at = _varint(data, at, end)
        setattr(target, name, convert(value))
        return at

    return read


def _bytes_reader(name: str, convert: Callable[[bytes], Any]) -> _Reader:
    def read(target: Any, data: bytes, at: int, end: int) -> int:
        at, end = _span(data, at, end)
        setattr(target, name, convert(data[at:end]))
        return end

    return read


def _message_reader(name: str, shape: type[Struct]) -> _Reader:
    readers = _readers(shape)

    def read(target: Any, data: bytes, at: int, end: int) -> int:
        at, end = _span(data, at, end)
        inner = getattr(target, name)
        if inner is None:
            inner = shape()
            setattr(target, name, inner)
        _fill(inner, readers, data, at, end)
        return end

    return read


def _map_reader(name: str, shape: type[Struct]) -> _Reader:
    readers = _readers(shape)

    def read(target: Any, data: bytes, at: int, end: int) -> int:
        at, end = _span(data, at, end)
        entry: Any = shape()
        _fill(entry, readers, data, at, end)
        getattr(target, name)[entry.key] = entry.value
        return end

    return read


def _reader(name: str, annotation: Any) -> tuple[int, _Reader]:
    """The wire type of a field and what reads it."""
    if annotation in _INTEGERS:
        return _VARINT, _integer_reader(name, _INTEGERS[annotation])
    if annotation is str:
        return _LENGTH, _bytes_reader(name, bytes.decode)
    if annotation == Payload:
        return _LENGTH, _bytes_reader(name, lambda data: Raw(data) if data else UNSET)
    if get_origin(annotation) is dict:
        return _LENGTH, _map_reader(name, _entry(get_args(annotation)[1]))
    return _LENGTH, _message_reader(name, _embedded(annotation))


def _readers(shape: type[Struct]) -> dict[int, _Reader]:
    """What reads each field, by tag: a known number with another wire type is an unknown field."""
    readers = {}
    for info in structs.fields(shape):
        wire, read = _reader(info.name, info.type)
        readers[_NUMBERS[shape.__name__][info.name] << 3 | wire] = read
    return readers


_COMMAND = _readers(Command)

# Writing. ---------------------------------------------------------------------------------------------------

#: A value that is not zero as a field, tag included.
_Writer = Callable[[Any], bytes]

_LAST = [bytes((byte,)) for byte in range(128)]
_MORE = [bytes((byte | 128,)) for byte in range(128)]


def _number(value: int) -> bytes:
    """A varint of an unsigned integer."""
    if value < 0x80:
        return _LAST[value]
    if value < 0x4000:
        return _MORE[value & 0x7F] + _LAST[value >> 7]
    return _MORE[value & 0x7F] + _number(value >> 7)


def _tag(message: str, name: str, wire: int = _LENGTH) -> bytes:
    return _number(_NUMBERS[message][name] << 3 | wire)


def _field(tag: bytes, value: bytes | Raw) -> bytes:
    """A length-prefixed field, or a whole message, whose tag is nothing."""
    return b"%b%b%b" % (tag, _number(len(value)), value)


def _write(message: Any, writers: list[tuple[str, _Writer]]) -> bytes:
    """A message without its length. Zero values are left out; a sub-message is there even if it is empty."""
    return b"".join([write(value) for name, write in writers if (value := getattr(message, name))])


def _writer(message: str, name: str, annotation: Any) -> _Writer:
    """What writes a field."""
    tag = _tag(message, name, _VARINT if annotation in _INTEGERS else _LENGTH)
    if annotation in _INTEGERS:
        return lambda value: tag + _number(value & _UINT64)
    if annotation is str:
        return lambda value: _field(tag, value.encode())
    if annotation == Payload:
        return lambda value: _field(tag, value)
    if annotation == list[Raw]:
        return lambda value: b"".join([_field(tag, message) for message in value])
    if get_origin(annotation) is dict:
        shape = _entry(get_args(annotation)[1])
        entry = _writers(shape)
        return lambda value: b"".join([_field(tag, _write(shape(*item), entry)) for item in value.items()])
    inner = _writers(_embedded(annotation))
    return lambda value: _field(tag, _write(value, inner))


def _writers(shape: type[Struct]) -> list[tuple[str, _Writer]]:
    """What writes each field, with its name."""
    return [(info.name, _writer(shape.__name__, info.name, info.type)) for info in structs.fields(shape)]


_RESULTS = {shape: (_tag("Reply", name), _writers(shape)) for shape, name in RESULT_FIELDS.items()}
_PUSHES = {shape: (_tag("Push", name), _writers(shape)) for shape, name in PUSH_FIELDS.items()}

_ID, _ERROR, _PUSH = _tag("Reply", "id", _VARINT), _tag("Reply", "error"), _tag("Reply", "push")
_CODE, _MESSAGE = _tag("Error", "code", _VARINT), _tag("Error", "message")
_TEMPORARY = _tag("Error", "temporary", _VARINT) + _number(True)
_CHANNEL, _PUB = _tag("Push", "channel"), _tag("Push", "pub")
_DATA, _EPOCH = _tag("Publication", "data"), _tag("Publication", "epoch")
_OFFSET = _tag("Publication", "offset", _VARINT)
_write_info = _writer("Publication", "info", ClientInfoMessage)
_write_tags = _writer("Publication", "tags", dict[str, str])


class ProtobufCodec:
    """Protobuf, every message prefixed by its length."""

    binary: ClassVar[bool] = True
    checks_json: ClassVar[bool] = False
    ping: ClassVar[bytes] = b"\x00"

    def decode(self, message: bytes) -> list[Command]:
        """The commands of one transport message."""
        if not message:
            raise ProtocolError("a message without a command")
        commands = []
        at, end = 0, len(message)
        try:
            while at < end:
                at, stop = _span(message, at, end)
                command = Command()
                _fill(command, _COMMAND, message, at, stop)
                commands.append(command)
                if len(commands) > MAX_COMMANDS:
                    raise ProtocolError("too many commands in one message")
                at = stop
        except UnicodeDecodeError as error:
            raise ProtocolError(f"a string is not UTF-8: {error}") from None
        return commands

    def reply(self, id: int, result: Result) -> bytes:
        """The answer to command `id`."""
        tag, writers = _RESULTS[type(result)]
        return _field(b"", _ID + _number(id) + _field(tag, _write(result, writers)))

    def error(self, id: int, error: ReplyError) -> bytes:
        """The answer to command `id` that failed."""
        body = _CODE + _number(error.wire_code) + _field(_MESSAGE, error.message.encode())
        if error.is_temporary:
            body += _TEMPORARY
        return _field(b"", _ID + _number(id) + _field(_ERROR, body))

    def push(self, channel: str, push: Push) -> bytes:
        """What the server says unasked."""
        tag, writers = _PUSHES[type(push)]
        head = _field(_CHANNEL, channel.encode()) if channel else b""
        return _field(b"", _field(_PUSH, head + _field(tag, _write(push, writers))))

    def publication(self, publication: Publication, epoch: str = "") -> bytes:
        """A publication as it stands in results, without its length. JSON and binary data are bytes alike."""
        data = publication.data
        fields = [_DATA, _number(len(data)), data]
        if publication.offset:
            fields += (_OFFSET, _number(publication.offset))
        if publication.info is not None:
            fields.append(_write_info(info_message(publication.info)))
        if publication.tags:
            fields.append(_write_tags(publication.tags))
        if epoch:
            fields.append(_field(_EPOCH, epoch.encode()))
        return b"".join(fields)

    def publication_push(self, channel: bytes, publication: Publication, epoch: str = "") -> bytes:
        """A publication as a push. Three lengths, innermost first, then one copy."""
        body = self.publication(publication, epoch)
        size = _number(len(body))
        push = len(channel) + len(size) + len(body)
        push_size = _number(push)
        reply_size = _number(len(_PUSH) + len(push_size) + push)
        return b"".join((reply_size, _PUSH, push_size, channel, size, body))

    def channel_prefix(self, channel: str) -> bytes:
        """Everything of the push that stands before the publication's length."""
        return _field(_CHANNEL, channel.encode()) + _PUB
