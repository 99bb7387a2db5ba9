"""The variants that client connections use: one codec in one framing.

Answers for: encoding publications and notices for the hub, once per variant in use. Refuses to know: who gets them.
Deltas and filters will be variants too: the hub asks for nothing but these four methods.
"""

from __future__ import annotations

from typing import Any, Protocol

from hubbub.brokers.base import Notice
from hubbub.model import Publication
from hubbub.protocol.codec import Codec, info_message
from hubbub.protocol.messages import JoinPush, LeavePush


class Framing(Protocol):
    """How a transport wants its messages: ready-made frames, or text and bytes for a server that frames them."""

    def frame(self, payload: bytes, *, binary: bool) -> Any:
        """One transport message as the transport writes it."""
        ...


class ClientVariant:
    """Implements the hub's Variant for clients."""

    __slots__ = ("codec", "framing")

    def __init__(self, codec: Codec, framing: Framing) -> None:
        self.codec = codec
        self.framing = framing

    def prepare(self, channel: str) -> bytes:
        """The part of a push that is the same for all publications of `channel`."""
        return self.codec.channel_prefix(channel)

    def encode(self, prepared: bytes, publication: Publication, epoch: str) -> bytes:
        """A publication push."""
        return self.codec.publication_push(prepared, self.codec.publication(publication, epoch))

    def notice(self, channel: str, notice: Notice) -> bytes:
        """A join or leave push."""
        info = info_message(notice.info)
        return self.codec.push(channel, JoinPush(info) if notice.kind == "join" else LeavePush(info))

    def pack(self, messages: list[bytes]) -> Any:
        """Several messages in one frame."""
        return self.framing.frame(self.codec.join(messages), binary=self.codec.binary)

    def frame(self, message: bytes) -> Any:
        """One message in one frame."""
        return self.framing.frame(message, binary=self.codec.binary)


class Variants:
    """One variant for each pair in use, so that the hub can tell by identity who shares an encoding."""

    def __init__(self) -> None:
        self._known: dict[tuple[Codec, Framing], ClientVariant] = {}

    def of(self, codec: Codec, framing: Framing) -> ClientVariant:
        """The variant of this codec in this framing."""
        variant = self._known.get((codec, framing))
        if variant is None:
            variant = self._known[codec, framing] = ClientVariant(codec, framing)
        return variant
