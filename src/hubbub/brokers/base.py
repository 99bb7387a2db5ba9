"""What carries publications between nodes and keeps their short history. The docstrings here are the specification.

Answers for: `Broker` (carries, and is a `Source`), and `BrokerEvents` (what a broker says upward). Refuses to know: who
listens, how anything is encoded for clients, and what rules a channel has.

An announcement is a hint that carries the whole publication. It may be lost, late, repeated or out of order without
harm, because the source can be read. Only the offset that the source gave is the truth.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Iterable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from hubbub.model import ClientInfo, Publication, Published
from hubbub.source import Source, Stored

#: The channel in which the nodes of an application speak to each other. Names that begin with a control character are
#: the nodes' own: they are no client's, and no pattern matches them (B8).
INTERCOM = "\x01orders"


def is_nodes_own(channel: str) -> bool:
    """Whether no application and no client can have chosen this name."""
    return channel[:1] < " "


class StreamOptions(msgspec.Struct, frozen=True, gc=False):
    """How to publish into a stream.

    `size` publications are kept (0: none, no offset is given), for `ttl` seconds after the newest one. The same
    `idempotency_key` in the same channel publishes once within five minutes. A `version` (above 0) not higher than the
    stream's last one is dropped if its `version_epoch` is that one's, or empty; under another epoch it is news.
    """

    size: int = 0
    ttl: float = 0
    idempotency_key: str = ""
    version: int = 0
    version_epoch: str = ""


class Notice(msgspec.Struct, frozen=True, gc=False):
    """What nodes tell each other about a channel besides publications. At most once, never kept."""

    kind: Literal["join", "leave"]
    info: ClientInfo


class Announcement(NamedTuple):
    """A publication on its way, and the life of the stream that its offset belongs to: "" where it has none."""

    publication: Publication
    epoch: str


class BrokerEvents(Protocol):
    """What a broker says upward, on the event loop. These never block and never raise."""

    def on_publication(self, channel: str, publication: Publication, epoch: str) -> None:
        """Announced. `epoch` is empty where the publication has no offset."""
        ...

    def on_notice(self, channel: str, notice: Notice) -> None:
        """Somebody came or left."""
        ...

    def on_cut(self) -> None:
        """The ties of all channels are cut. Whoever answers next may not be the one that answered before."""
        ...

    def on_renewed(self, channels: Iterable[str]) -> None:
        """The ties of these channels were cut and are whole again: announcements may be missing."""
        ...


class Broker(Source, Protocol):
    """Carries publications between nodes and keeps their short history.

    - B1. `publish` with `size` > 0 gives the next offset, keeps the publication and announces it in one step: two
      publishes of one channel are announced in the order of their offsets.
    - B2. Exactly the last `size` publications are kept, and none once `ttl` seconds passed without a new one; the head
      (epoch and offset) outlives them, so that a client can still learn that it missed nothing.
    - B3. A repeated idempotency key within five minutes publishes nothing and returns the first position with
      `duplicate`. A version that is not higher publishes nothing and returns the current position with `duplicate`.
    - B4. Once `subscribe` has returned, what is published in that channel by anybody is announced here, until
      `unsubscribe` is called. Both may be called again; the last call wins.
    - B5. A publisher hears its own announcements like everybody else's.
    - B6. `publish` with `size` 0 announces without an offset, without an epoch, and keeps nothing.
    - B7. Once `remove_history` has returned, nothing published before the call can be read. The head stays, and so do
      versions and idempotency keys: who returns from behind the head learns that what it missed is trimmed.
    - B8. Once `watch` has returned, what is published by anybody in a channel whose name matches one of its patterns
      is announced here, once, whether the channel is subscribed, too, or matches several of them. Notices are not.
      A call replaces the patterns of the one before; the last call wins.
    - B9. An announcement given to `notify` arrives with its offset and epoch, and is kept nowhere. At most once.
    """

    async def start(self, events: BrokerEvents) -> None:
        """Begin; what is announced goes to `events`."""
        ...

    async def stop(self) -> None:
        """End, and let go of everything. Idempotent."""
        ...

    async def subscribe(self, channel: str) -> None:
        """Hear what is announced in `channel` (B4). Raises BackendError."""
        ...

    async def unsubscribe(self, channel: str) -> None:
        """Hear it no more."""
        ...

    def publish(self, channel: str, publication: Publication, options: StreamOptions) -> Coroutine[Any, Any, Published]:
        """Keep (if so asked) and announce. Raises BackendError; a PublishFailed says whether to publish again."""
        ...

    async def notify(self, channel: str, said: Notice | Announcement) -> None:
        """Announce a notice, or what another source has given its offset (B9). Raises BackendError."""
        ...

    async def remove_history(self, channel: str) -> None:
        """Let go of what is kept in `channel` (B7). Raises BackendError."""
        ...

    async def watch(self, patterns: Collection[str]) -> None:
        """Hear what is published wherever one of these globs matches (B8, and `globs`); with none, no more of that.

        Raises BackendError; then either the patterns of this call are heard or those of the one before.
        """
        ...


@runtime_checkable
class Remote(Protocol):
    """A broker that is elsewhere, and may be away."""

    @property
    def is_connected(self) -> bool:
        """Whether announcements arrive now, as far as anybody can know."""
        ...


@runtime_checkable
class HoldsStreams(Protocol):
    """A broker whose streams live in this process: feeds read them directly, and publishing never waits."""

    def stored(self, channel: str) -> Stored:
        """The stream of `channel`, for as long as its epoch lasts."""
        ...

    def publish_now(self, channel: str, publication: Publication, options: StreamOptions) -> Published:
        """`Broker.publish`, at once."""
        ...

    def announce_now(self, channel: str, publication: Publication, epoch: str) -> int:
        """Tell everybody who listens of a publication that is kept nowhere, or elsewhere; returns how many nodes."""
        ...
