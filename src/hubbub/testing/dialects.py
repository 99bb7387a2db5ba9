"""The client protocol from the client's side, in both encodings.

Answers for: commands to bytes, and bytes to messages in the shape that JSON gives them; written apart from the server's
codecs, so that a test hears what is really on the wire. Refuses to know: order, and what anything means.

A payload is written from bytes. Read, it is what the encoding makes of it, until `value` is told the channel's format.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import msgspec

from hubbub.payload import DataFormat
from hubbub.protocol.codec import Codec, JsonCodec
from hubbub.protocol.protobuf import ProtobufCodec

CodecName = Literal["json", "protobuf"]
Message = dict[str, Any]


class Dialect(Protocol):
    """One encoding, as a client has it. `codec` is the server's half."""

    codec: Codec
    pong: bytes

    def command(self, id: int, kind: str, body: Mapping[str, Any]) -> bytes:
        """One command."""
        ...

    def messages(self, frame: bytes) -> list[Message]:
        """What one frame says; an empty message is a ping."""
        ...

    def value(self, data: Any, format: DataFormat) -> Any:
        """A payload that was read, as the Python value that was published."""
        ...

    def opaque(self, data: Any) -> bytes:
        """A payload that was read, as JSON in bytes; empty if there is none."""
        ...


class Json:
    """One object a line."""

    pong = b"{}"

    def __init__(self) -> None:
        self.codec: Codec = JsonCodec()

    def command(self, id: int, kind: str, body: Mapping[str, Any]) -> bytes:
        """Payloads are embedded as they stand."""
        fields = {name: msgspec.Raw(value) if name == "data" else value for name, value in body.items()}
        return msgspec.json.encode({"id": id, kind: fields})

    def messages(self, frame: bytes) -> list[Message]:
        """One a line."""
        return [msgspec.json.decode(line) for line in frame.split(b"\n")]

    def value(self, data: Any, format: DataFormat) -> Any:
        """As it was read; bytes travel as base64."""
        return base64.b64decode(data) if format == "binary" else data

    def opaque(self, data: Any) -> bytes:
        """Written anew."""
        return b"" if data is None else msgspec.json.encode(data)


# Protobuf -----------------------------------------------------------------------------------------------------------

#: Fields by number, each with its name and kind: "int", "bool", "text", "bytes" or a message; "*" is repeated, "%" a
#: map from text.
_Shape = dict[int, tuple[str, str]]

# fmt: off
_COMMANDS: dict[str, _Shape] = {
    "command": {
        1: ("id", "int"), 4: ("connect", "connect"), 5: ("subscribe", "subscribe"), 6: ("unsubscribe", "channel"),
        7: ("publish", "publish"), 8: ("presence", "channel"), 9: ("presence_stats", "channel"),
        10: ("history", "history"), 13: ("rpc", "rpc"), 14: ("refresh", "refresh"), 15: ("sub_refresh", "sub_refresh"),
    },
    "connect": {1: ("token", "text"), 2: ("data", "bytes"), 3: ("subs", "%subscribe"), 4: ("name", "text")},
    "subscribe": {
        1: ("channel", "text"), 2: ("token", "text"), 3: ("recover", "bool"), 6: ("epoch", "text"),
        7: ("offset", "int"), 8: ("data", "bytes"), 11: ("join_leave", "bool"),
    },
    "channel": {1: ("channel", "text")},
    "publish": {1: ("channel", "text"), 2: ("data", "bytes")},
    "history": {1: ("channel", "text"), 7: ("limit", "int"), 8: ("since", "position"), 9: ("reverse", "bool")},
    "position": {1: ("offset", "int"), 2: ("epoch", "text")},
    "rpc": {1: ("data", "bytes"), 2: ("method", "text")},
    "refresh": {1: ("token", "text")},
    "sub_refresh": {1: ("channel", "text"), 2: ("token", "text")},
}
_REPLIES: dict[str, _Shape] = {
    "reply": {
        1: ("id", "int"), 2: ("error", "error"), 4: ("push", "push"), 5: ("connect", "connected"),
        6: ("subscribe", "subscribed"), 7: ("unsubscribe", "nothing"), 8: ("publish", "nothing"),
        9: ("presence", "presence"), 10: ("presence_stats", "stats"), 11: ("history", "history"),
        13: ("rpc", "rpc"), 14: ("refresh", "refreshed"), 15: ("sub_refresh", "sub_refreshed"),
    },
    "error": {1: ("code", "int"), 2: ("message", "text"), 3: ("temporary", "bool")},
    "push": {
        2: ("channel", "text"), 4: ("pub", "publication"), 5: ("join", "who"), 6: ("leave", "who"),
        7: ("unsubscribe", "unsubscribed"), 8: ("message", "rpc"), 9: ("subscribe", "added"),
        11: ("disconnect", "disconnect"), 12: ("refresh", "pushed"),
    },
    "publication": {
        4: ("data", "bytes"), 5: ("info", "info"), 6: ("offset", "int"), 7: ("tags", "%text"), 14: ("epoch", "text"),
    },
    "info": {1: ("user", "text"), 2: ("client", "text"), 3: ("conn_info", "bytes"), 4: ("chan_info", "bytes")},
    "who": {1: ("info", "info")},
    "unsubscribed": {2: ("code", "int"), 3: ("reason", "text")},
    "added": {1: ("recoverable", "bool"), 4: ("epoch", "text"), 5: ("offset", "int"), 7: ("data", "bytes")},
    "disconnect": {1: ("code", "int"), 2: ("reason", "text"), 3: ("reconnect", "bool")},
    "connected": {
        1: ("client", "text"), 2: ("version", "text"), 3: ("expires", "bool"), 4: ("ttl", "int"), 5: ("data", "bytes"),
        6: ("subs", "%subscribed"), 7: ("ping", "int"), 8: ("pong", "bool"),
    },
    "subscribed": {
        1: ("expires", "bool"), 2: ("ttl", "int"), 3: ("recoverable", "bool"), 6: ("epoch", "text"),
        7: ("publications", "*publication"), 8: ("recovered", "bool"), 9: ("offset", "int"), 10: ("positioned", "bool"),
        11: ("data", "bytes"), 12: ("was_recovering", "bool"),
    },
    "presence": {1: ("presence", "%info")},
    "stats": {1: ("num_clients", "int"), 2: ("num_users", "int")},
    "history": {1: ("publications", "*publication"), 2: ("epoch", "text"), 3: ("offset", "int")},
    "rpc": {1: ("data", "bytes")},
    "refreshed": {1: ("client", "text"), 2: ("version", "text"), 3: ("expires", "bool"), 4: ("ttl", "int")},
    "sub_refreshed": {1: ("expires", "bool"), 2: ("ttl", "int")},
    "pushed": {1: ("expires", "bool"), 2: ("ttl", "int")},
    "nothing": {},
}
# fmt: on


class Protobuf:
    """Messages, each behind its length."""

    pong = b"\x00"

    def __init__(self) -> None:
        self.codec: Codec = ProtobufCodec()

    def command(self, id: int, kind: str, body: Mapping[str, Any]) -> bytes:
        """Payloads are bytes."""
        message = _written("command", {"id": id, kind: body})
        return _varint(len(message)) + message

    def messages(self, frame: bytes) -> list[Message]:
        """One after the other."""
        found = []
        at = 0
        while at < len(frame):
            size, at = _read_varint(frame, at)
            found.append(_message("reply", frame[at : at + size]))
            at += size
        return found

    def value(self, data: Any, format: DataFormat) -> Any:
        """JSON, but in binary channels."""
        return data if format == "binary" else msgspec.json.decode(data)

    def opaque(self, data: Any) -> bytes:
        """As it was read."""
        return data or b""


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative ones are sixty-four bits in two's complement
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _written(shape: str, body: Mapping[str, Any]) -> bytes:
    return b"".join(
        _field(number, kind, body[name]) for number, (name, kind) in _COMMANDS[shape].items() if name in body
    )


def _field(number: int, kind: str, value: Any) -> bytes:
    if kind in ("int", "bool"):
        return _varint(number << 3) + _varint(int(value))
    if kind.startswith("%"):
        entries = [_field(1, "text", key) + _field(2, kind[1:], inner) for key, inner in value.items()]
        return b"".join(_field(number, "bytes", entry) for entry in entries)
    body = value if kind == "bytes" else value.encode() if kind == "text" else _written(kind, value)
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if tag & 7 == 0:
            yield tag >> 3, value
        else:  # the protocol has no other wire type than text, bytes and messages
            yield tag >> 3, data[at : at + value]
            at += value


def _message(shape: str, data: bytes) -> Message:
    known = _REPLIES[shape]
    message: Message = {name: {} if kind[0] == "%" else [] for name, kind in known.values() if kind[0] in "%*"}
    for number, raw in _fields(data):
        if number not in known:
            continue
        name, kind = known[number]
        if kind.startswith("*"):
            message[name].append(_read(kind[1:], raw))
        elif kind.startswith("%"):
            entry = dict(_fields(raw if isinstance(raw, bytes) else b""))
            message[name][_read("text", entry.get(1, b""))] = _read(kind[1:], entry.get(2, b""))
        else:
            message[name] = _read(kind, raw)
    return message


def _read(kind: str, raw: int | bytes) -> Any:
    if isinstance(raw, int):
        return bool(raw) if kind == "bool" else raw
    if kind == "bytes":
        return raw
    return raw.decode() if kind == "text" else _message(kind, raw)


DIALECTS: dict[CodecName, type[Json] | type[Protobuf]] = {"json": Json, "protobuf": Protobuf}
