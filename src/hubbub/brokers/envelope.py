"""The frame that we put around a publication between nodes, and what a message without one means. Pure.

Answers for: publications, joins and leaves as bytes and back; telling our frames from what strangers publish, and
reading theirs. Refuses to know: who carries the bytes, and who keeps them.

    body         flags (1 byte) · if flags say so: length (4 bytes, big-endian), MessagePack of `_Extras` · payload
    kept         C1 01 'p' epoch ' ' offset ' ' body      made where the offset is given: see `scripts`
    live         C1 01 'l' body                           or the bare payload, if it says everything
    join, leave  C1 01 'j' or 'v', MessagePack of `_Extras`

C1 begins neither UTF-8 text nor MessagePack nor a pickle. A publication's `body` is also what is kept of it: so both
can be written by old nodes and read by new ones, and what an old node cannot read it drops and counts.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from hubbub.brokers.base import Announcement, Notice
from hubbub.errors import BadRequest
from hubbub.model import ClientInfo, Publication
from hubbub.payload import json_value

#: Bytes of a stranger's message.
MAX_BYTES: Final = 1 << 20

_MAGIC, _VERSION = 0xC1, 0x01
_KEPT, _LIVE, _JOIN, _LEAVE = b"pljv"
_LIVE_HEAD, _JOIN_HEAD, _LEAVE_HEAD = (bytes([_MAGIC, _VERSION, kind]) for kind in (_LIVE, _JOIN, _LEAVE))

_BINARY, _EXTRAS = 0x01, 0x02
_KNOWN_FLAGS = _BINARY | _EXTRAS

Reason = Literal["newer", "broken", "too_large", "not_text"]


class Unreadable(ValueError):
    """What arrived is no publication and no notice. `reason` says what it is instead."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)


class _Extras(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What travels beside a payload. New fields go to the end: who does not know them skips them."""

    has_info: bool = False
    user: str = ""
    client: str = ""
    conn_info: bytes = b""
    chan_info: bytes = b""
    tags: dict[str, str] | None = None

    @classmethod
    def of(cls, info: ClientInfo | None, tags: dict[str, str] | None) -> _Extras:
        if info is None:
            return cls(tags=tags)
        return cls(True, info.user, info.client, info.conn_info, info.chan_info, tags)

    @property
    def info(self) -> ClientInfo | None:
        return ClientInfo(self.user, self.client, self.conn_info, self.chan_info) if self.has_info else None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Extras).decode
_skim = msgspec.json.Decoder(msgspec.Raw).decode


def body(publication: Publication) -> bytes:
    """A publication without its offset."""
    info, tags = publication.info, publication.tags
    flags = _BINARY if publication.binary else 0
    if info is None and tags is None:
        return (b"\x01" if flags else b"\x00") + publication.data
    extras = _encode(_Extras.of(info, tags))
    return b"".join((bytes([flags | _EXTRAS]), len(extras).to_bytes(4), extras, publication.data))


def live(publication: Publication) -> bytes:
    """A publication that is not kept: the bare payload if it says everything, so that anybody can read it."""
    data = publication.data
    if not publication.binary and publication.info is None and publication.tags is None and _is_json(data):
        return data
    return _LIVE_HEAD + body(publication)


def kept(publication: Publication, epoch: str) -> bytes:
    """A publication that is kept, by whoever gave its offset. `scripts` makes the same where Redis gives it."""
    return b"\xc1\x01p%b %d %b" % (epoch.encode("ascii"), publication.offset, body(publication))


def notice(said: Notice) -> bytes:
    """Somebody came or left."""
    head = _JOIN_HEAD if said.kind == "join" else _LEAVE_HEAD
    return head + _encode(_Extras.of(said.info, None))


def of_body(data: bytes, offset: int, start: int = 0) -> Publication:
    """The publication that has this body, which begins at `start`. Raises Unreadable."""
    try:
        flags = data[start]
        if not flags:
            return Publication(data[start + 1 :], offset)
        if flags & ~_KNOWN_FLAGS:
            raise Unreadable("newer")
        start += 1
        info = tags = None
        if flags & _EXTRAS:
            end = start + 4 + int.from_bytes(data[start : start + 4])
            if end > len(data):
                raise Unreadable("broken")
            extras = _decode(data[start + 4 : end])
            info, tags, start = extras.info, extras.tags, end
        return Publication(data[start:], offset, info, tags, bool(flags & _BINARY))
    except (IndexError, ValueError) as error:
        raise _unreadable(error) from None


def read(message: bytes) -> Announcement | Notice:
    """What a message means, ours or a stranger's. Raises Unreadable and nothing else."""
    if message[:1] != b"\xc1":
        return Announcement(_foreign(message), "")
    try:
        if message[1] != _VERSION:
            raise Unreadable("newer")
        kind = message[2]
        if kind == _KEPT:
            return _kept(message)
        if kind == _LIVE:
            return Announcement(of_body(message, 0, 3), "")
        if kind in (_JOIN, _LEAVE):
            info = _decode(message[3:]).info
            if info is None:
                raise Unreadable("broken")
            return Notice("join" if kind == _JOIN else "leave", info)
        raise Unreadable("newer")
    except (IndexError, ValueError) as error:
        raise _unreadable(error) from None


def _kept(message: bytes) -> Announcement:
    space = message.index(b" ", 3)
    second = message.index(b" ", space + 1)
    epoch = message[3:space].decode("ascii")
    digits = message[space + 1 : second]
    if not epoch or not digits.isdigit() or not (offset := int(digits)):
        raise Unreadable("broken")
    return Announcement(of_body(message, offset, second + 1), epoch)


def _unreadable(error: Exception) -> Unreadable:
    """What failed on the way, as what it says of the message; msgspec's errors are ValueErrors, too."""
    return error if isinstance(error, Unreadable) else Unreadable("broken")


def _is_json(data: bytes) -> bool:
    """Whether a receiver will take it for JSON: a skim, since the gate has looked closely already."""
    if len(data) > MAX_BYTES:  # strangers may not, and without a frame it could be one's
        return False
    try:
        _skim(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _foreign(data: bytes) -> Publication:
    """A stranger's message: JSON as it is, other text as a JSON string."""
    if len(data) > MAX_BYTES:
        raise Unreadable("too_large")
    try:
        return Publication(json_value(data))
    except BadRequest:
        pass
    try:
        text = msgspec.json.encode(data.decode())
    except UnicodeDecodeError:
        raise Unreadable("not_text") from None
    if len(text) > MAX_BYTES:  # control characters grow when they are escaped
        raise Unreadable("too_large")
    return Publication(text)
