"""The variants that client connections use: one codec in one framing.

Answers for: encoding publications and notices for the hub, once per variant in use. Refuses to know: who gets them.
Deltas and filters will be variants too: the hub asks for nothing but these five methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hubbub.brokers.base import Notice
from hubbub.model import Publication
from hubbub.protocol.codec import Codec, info_message
from hubbub.protocol.messages import JoinPush, LeavePush


class Framing(Protocol):
    """How a transport wants its messages: ready-made frames, or text and bytes for a server that frames them."""

    def framer(self, *, binary: bool) -> Callable[[bytes], Any]:
        """What makes of one transport message what the transport writes."""
        ...

    def join(self, framed: list[Any]) -> Any:
        """What the transport writes for several of those, in order."""
        ...


class ClientVariant:
    """Implements the hub's Variant for clients."""

    __slots__ = ("_join", "codec", "encode", "frame")

    def __init__(self, codec: Codec, framing: Framing) -> None:
        self.codec = codec
        #: One encoded message, ready to be written.
        self.frame: Callable[[bytes], Any] = framing.framer(binary=codec.binary)
        self._join = framing.join
        #: A publication push, of what `prepare` returned: the codec's own method, since a call between would cost.
        self.encode: Callable[[bytes, Publication, str], bytes] = codec.publication_push

    def prepare(self, channel: str) -> bytes:
        """The part of a push that is the same for all publications of `channel`."""
        return self.codec.channel_prefix(channel)

    def notice(self, channel: str, notice: Notice) -> bytes:
        """A join or leave push."""
        info = info_message(notice.info)
        return self.codec.push(channel, JoinPush(info) if notice.kind == "join" else LeavePush(info))

    def pack(self, messages: list[bytes]) -> Any:
        """Several messages as one buffer, each in a frame of its own.

        The protocol allows many in one frame; but an SDK takes frames that it reads at once apart side by side, and
        what stands second in the first comes behind what stands first in the second (docs/design/delivery.md).
        """
        frame = self.frame
        return self._join([frame(message) for message in messages])


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
