"""The client protocol as a peer sees it: read and written by other code than ours, for the clients of tests.

Answers for: frames to messages and commands to bytes, in JSON and in Protobuf, of which only the wire format and the
numbers of a few fields are known. Refuses to know: order, and what anything means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol


class Encoding(Protocol):
    """What is told apart here."""

    binary: ClassVar[bool]


def together(encoding: Encoding, messages: Sequence[bytes]) -> bytes:
    """Messages of the protocol as one message of the transport."""
    return (b"" if encoding.binary else b"\n").join(messages)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def varint(value: int) -> bytes:
    """A number as Protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def read_fields(data: bytes) -> dict[int, list[Any]]:
    """A Protobuf message of which only the wire format is known."""
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        if tag & 7 == 0:
            value, at = read_varint(data, at)
            fields.setdefault(tag >> 3, []).append(value)
        else:
            assert tag & 7 == 2, f"wire type {tag & 7}"
            size, at = read_varint(data, at)
            assert at + size <= len(data), "cut off"
            fields.setdefault(tag >> 3, []).append(data[at : at + size])
            at += size
    return fields


_REPLIES = {
    5: "connect", 6: "subscribe", 7: "unsubscribe", 8: "publish", 9: "presence", 10: "presence_stats", 11: "history",
    13: "rpc", 14: "refresh", 15: "sub_refresh",
}  # fmt: skip
_NUMBERS: dict[str, int] = {
    "connect": 4, "subscribe": 5, "unsubscribe": 6, "publish": 7, "presence": 8, "presence_stats": 9, "history": 10,
    "ping": 11, "send": 12, "rpc": 13, "refresh": 14, "sub_refresh": 15,
}  # fmt: skip
_FIELDS: dict[str, dict[str, int]] = {
    "connect": {"token": 1, "data": 2},
    "subscribe": {"channel": 1, "token": 2, "recover": 3, "epoch": 6, "offset": 7, "data": 8, "delta": 12, "type": 15},
    "unsubscribe": {"channel": 1},
    "publish": {"channel": 1, "data": 2},
    "presence": {"channel": 1},
    "presence_stats": {"channel": 1},
    "history": {"channel": 1, "limit": 7},
    "ping": {},
    "send": {"data": 1},
    "rpc": {"data": 1, "method": 2},
    "refresh": {"token": 1},
    "sub_refresh": {"channel": 1, "token": 2},
}


def _text(fields: dict[int, list[Any]], number: int) -> str:
    text: str = fields.get(number, [b""])[-1].decode()
    return text


def _number(fields: dict[int, list[Any]], number: int) -> int:
    value: int = fields.get(number, [0])[-1]
    return value


def _publication(data: bytes) -> dict[str, Any]:
    fields = read_fields(data)
    return {"data": fields.get(4, [b""])[-1].decode(), "offset": _number(fields, 6)}


def _subscribed(data: bytes) -> dict[str, Any]:
    fields = read_fields(data)
    return {
        "epoch": _text(fields, 6), "offset": _number(fields, 9), "recovered": bool(_number(fields, 8)),
        "was_recovering": bool(_number(fields, 12)), "recoverable": bool(_number(fields, 3)),
        "publications": [_publication(item) for item in fields.get(7, [])],
    }  # fmt: skip


def _from_protobuf(data: bytes) -> dict[str, Any]:
    """One reply, with what the clients of tests look at."""
    fields = read_fields(data)
    if not fields:
        return {}
    reply: dict[str, Any] = {"id": _number(fields, 1)}
    if 2 in fields:
        error = read_fields(fields[2][-1])
        reply["error"] = {"code": _number(error, 1), "message": _text(error, 2)}
    if 4 in fields:
        push = read_fields(fields[4][-1])
        reply["push"] = {"channel": _text(push, 2)}
        if 4 in push:
            reply["push"]["pub"] = _publication(push[4][-1])
        if 7 in push:
            inner = read_fields(push[7][-1])
            reply["push"]["unsubscribe"] = {"code": _number(inner, 2), "reason": _text(inner, 3)}
        if 9 in push:
            inner = read_fields(push[9][-1])
            reply["push"]["subscribe"] = {
                "recoverable": bool(_number(inner, 1)), "epoch": _text(inner, 4), "offset": _number(inner, 5),
                "positioned": bool(_number(inner, 6)), "data": _text(inner, 7),
            }  # fmt: skip
    for number, name in _REPLIES.items():
        if number in fields:
            body = fields[number][-1]
            reply[name] = _subscribed(body) if name == "subscribe" else {"raw": body}
    return reply


def _integer(digits: str) -> int | str:
    """Python converts no integer of more digits; they are a number in JSON all the same."""
    return int(digits) if len(digits) < 4000 else digits


def decode_frame(frame: bytes, *, binary: bool) -> list[dict[str, Any]]:
    """All messages of a frame, read by other code than wrote it. Raises if it is not whole."""
    if not binary:
        return [json.loads(line, parse_int=_integer) for line in frame.decode("utf-8").split("\n")]
    messages = []
    at = 0
    while at < len(frame):
        size, at = read_varint(frame, at)
        assert at + size <= len(frame), "cut off"
        messages.append(_from_protobuf(frame[at : at + size]))
        at += size
    return messages


def encode_command(id: int, kind: str, body: Mapping[str, Any], *, binary: bool) -> bytes:
    """A command as a client writes it. Payloads are given as JSON values; in Protobuf they travel as their JSON."""
    if not binary:
        return json.dumps({"id": id, kind: body} if id else {kind: body}).encode()
    fields = b""
    for name, value in body.items():
        number = _FIELDS[kind][name]
        if name == "data":
            value = json.dumps(value)
        if isinstance(value, (bool, int)):
            fields += varint(number << 3) + varint(int(value))
        else:
            encoded = value.encode()
            fields += varint(number << 3 | 2) + varint(len(encoded)) + encoded
    command = (varint(1 << 3) + varint(id) if id else b"") + varint(_NUMBERS[kind] << 3 | 2)
    command += varint(len(fields)) + fields
    return varint(len(command)) + command
