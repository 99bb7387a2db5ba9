"""What a codec is, and the JSON one.

Answers for: bytes of a transport message to commands, and replies, pushes and publications to bytes. Refuses to know:
connections, order, and whether a command makes sense.

JSON: one object a line, several lines a message. Integers are plain numbers, payloads are embedded as they stand.
"""

from __future__ import annotations

import base64
from typing import ClassVar, Protocol

import msgspec
from msgspec import UNSET, Raw

from hubbub.errors import ProtocolError, ReplyError
from hubbub.model import ClientInfo, Publication
from hubbub.protocol.messages import (
    MAX_COMMANDS,
    PUSH_FIELDS,
    RESULT_FIELDS,
    ClientInfoMessage,
    Command,
    Payload,
    PublishResult,
    Push,
    Result,
)
from hubbub.protocol.surrogates import mask, unmask


class Codec(Protocol):
    """One encoding of the protocol.

    - C1. `decode` returns the commands of one transport message in their order, or raises ProtocolError; it raises
      nothing else, whatever the bytes are. Payloads may point into the message: whoever keeps one copies it.
    - C2. `decode` of a message without any command raises ProtocolError.
    - C3. What `reply`, `error`, `push` and `publication_push` return are whole transport messages, which every client
      of the protocol reads; and so is any sequence of them, a line each in JSON, one behind the other in Protobuf.
    - C4. A reply always carries the field of its result, even when it is empty.
    - C5. Where `checks_json`, each payload that `decode` lets through is one JSON value by its grammar, in UTF-8.
    """

    #: Whether transport messages are binary frames.
    binary: ClassVar[bool]
    #: The message that asks a client for its pong.
    ping: ClassVar[bytes]
    #: Whether reading a message reads its payloads, too (C5), so that nobody need read them again.
    checks_json: ClassVar[bool]

    def decode(self, message: bytes) -> list[Command]:
        """The commands of one transport message (C1, C2)."""
        ...

    def reply(self, id: int, result: Result) -> bytes:
        """The answer to command `id` (C4)."""
        ...

    def error(self, id: int, error: ReplyError) -> bytes:
        """The answer to command `id` that failed."""
        ...

    def push(self, channel: str, push: Push) -> bytes:
        """What the server says unasked, publications excepted."""
        ...

    def publication(self, publication: Publication, epoch: str = "") -> bytes:
        """A publication as it stands in results. `epoch` is given with the first one of a stream."""
        ...

    def publication_push(self, channel: bytes, publication: Publication, epoch: str = "") -> bytes:
        """A publication as a push, `channel` from `channel_prefix`. The hot path."""
        ...

    def channel_prefix(self, channel: str) -> bytes:
        """What `publication_push` needs of a channel, to be kept with it."""
        ...


def info_message(info: ClientInfo) -> ClientInfoMessage:
    """A client's public identity for the wire."""
    return ClientInfoMessage(info.user, info.client, _payload(info.conn_info), _payload(info.chan_info))


def _payload(data: bytes) -> Payload:
    return Raw(data) if data else UNSET


def _require_utf8(message: bytes) -> None:
    try:
        message.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"not commands in JSON: {error}") from None


def _decode_masked(message: bytes, error: Exception) -> list[Command]:
    """Second try, for the one kind of JSON that the parser refuses and browsers send."""
    masked = mask(message)
    if masked is None:
        raise ProtocolError(f"not commands in JSON: {error}") from None
    try:
        commands = _decode_lines(masked[0])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as again:
        raise ProtocolError(f"not commands in JSON: {again}") from None
    for command in commands:
        for request in (command.publish, command.rpc, command.send, command.connect, command.subscribe):
            if request is not None and request.data is not UNSET:
                request.data = Raw(unmask(bytes(request.data), masked[1]))
    return commands


#: Identities that are kept encoded, and the bytes of one.
KNOWN_INFOS, INFO_BYTES = 4096, 512

_encode = msgspec.json.encode
_decode_lines = msgspec.json.Decoder(Command).decode_lines


class JsonCodec:
    """JSON, one object a line."""

    binary: ClassVar[bool] = False
    ping: ClassVar[bytes] = b"{}"
    checks_json: ClassVar[bool] = True

    def __init__(self) -> None:
        self._infos: dict[str, tuple[ClientInfo, bytes]] = {}

    def decode(self, message: bytes) -> list[Command]:
        """The commands of one transport message."""
        if not message.isascii():
            _require_utf8(message)  # payloads are not looked at below
        try:
            commands = _decode_lines(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            commands = _decode_masked(message, error)
        if 0 < len(commands) <= MAX_COMMANDS:
            return commands
        raise ProtocolError(f"{len(commands)} commands in one message" if commands else "a message without a command")

    def reply(self, id: int, result: Result) -> bytes:
        """The answer to command `id`."""
        if type(result) is PublishResult:
            return b'{"id":%d,"publish":{}}' % id
        return b'{"id":%d,"%b":%b}' % (id, RESULT_FIELDS[type(result)].encode(), _encode(result))

    def error(self, id: int, error: ReplyError) -> bytes:
        """The answer to command `id` that failed."""
        body: dict[str, object] = {"code": error.wire_code, "message": error.message}
        if error.is_temporary:
            body["temporary"] = True
        return b'{"id":%d,"error":%b}' % (id, _encode(body))

    def push(self, channel: str, push: Push) -> bytes:
        """What the server says unasked."""
        head = b'"channel":%b,' % _encode(channel) if channel else b""
        return b'{"push":{%b"%b":%b}}' % (head, PUSH_FIELDS[type(push)].encode(), _encode(push))

    def publication(self, publication: Publication, epoch: str = "") -> bytes:
        """A publication as it stands in results."""
        return b'{"data":' + self._after_data_key(publication, epoch)

    def publication_push(self, channel: bytes, publication: Publication, epoch: str = "") -> bytes:
        """A publication as a push."""
        if publication.tags is None and not epoch and not publication.binary:  # which is most
            info, offset = publication.info, publication.offset
            if info is None:
                return channel + publication.data + (b',"offset":%d}}}' % offset if offset else b"}}}")
            known = self._infos.get(info.client)
            field = known[1] if known is not None and known[0] is info else self._info(info)
            return channel + publication.data + field + (b',"offset":%d}}}' % offset if offset else b"}}}")
        return channel + self._after_data_key(publication, epoch) + b"}}"

    def channel_prefix(self, channel: str) -> bytes:
        """Everything of the push that stands before the publication's data."""
        return b'{"push":{"channel":%b,"pub":{"data":' % _encode(channel)

    def _after_data_key(self, publication: Publication, epoch: str) -> bytes:
        data = publication.data
        return b"%b%b%b%b%b}" % (
            b'"' + base64.b64encode(data) + b'"' if publication.binary else data,
            b"" if publication.info is None else self._info(publication.info),
            b',"offset":%d' % publication.offset if publication.offset else b"",
            b',"tags":' + _encode(publication.tags) if publication.tags else b"",
            b',"epoch":' + _encode(epoch) if epoch else b"",
        )

    def _info(self, info: ClientInfo) -> bytes:
        """A client's public identity as a field. Kept while the client goes on publishing."""
        found = self._infos.get(info.client)
        if found is not None and found[0] is info:
            return found[1]
        field = b',"info":' + _encode(info_message(info))
        if len(field) <= INFO_BYTES:
            if len(self._infos) >= KNOWN_INFOS:
                self._infos.clear()
            self._infos[info.client] = info, field
        return field
