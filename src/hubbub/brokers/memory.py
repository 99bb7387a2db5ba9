"""The broker of one process: streams in memory, announcements by plain calls. The executable model of `base`.

Answers for: B1 to B8 and S1 to S5 without any I/O, on an `Exchange` that it has for itself or shares with others.
Refuses to know: rules, clients, and what listeners do with an announcement.

What is dropped for lack of room is counted: see `MemoryBroker.counts`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hubbub.brokers.base import Announcement, BrokerEvents, Notice, StreamOptions
from hubbub.brokers.exchange import MAX_STREAMS, META_TTL, Exchange
from hubbub.brokers.globs import any_matcher
from hubbub.brokers.stream import MAX_BYTES, Stream
from hubbub.clock import TimerWheel
from hubbub.errors import BackendError
from hubbub.model import Position, Publication, Published
from hubbub.source import Known, Page, altered_by_reading

__all__ = ["MemoryBroker", "Exchange", "Stream"]


class MemoryBroker:
    """Implements `Broker` and `HoldsStreams` in this process.

    Without an `exchange` it makes one for itself, with `meta_ttl`, `max_streams` and `max_bytes`; one that is
    given keeps its own.
    """

    __slots__ = ("_channels", "_events", "_now", "_timers", "announce_now", "exchange")

    def __init__(
        self,
        timers: TimerWheel,
        exchange: Exchange | None = None,
        *,
        meta_ttl: float = META_TTL,
        max_streams: int = MAX_STREAMS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if exchange is None:
            exchange = Exchange(meta_ttl=meta_ttl, max_streams=max_streams, max_bytes=max_bytes)
        self.exchange = exchange
        self.announce_now = exchange.announce  # itself: the hottest path has no call to spare
        self._timers = timers
        self._now = timers.clock.now
        self._channels: set[str] = set()
        self._events: BrokerEvents | None = None

    async def start(self, events: BrokerEvents) -> None:
        """Begin; what is announced goes to `events`."""
        assert self._events is None, "a broker is started once"
        self._events = events
        self.exchange.attach(self._timers)

    async def stop(self) -> None:
        """Listen no more. The streams live as long as the exchange."""
        if self._events is None:
            return
        for channel in self._channels:
            self.exchange.leave(channel, self._events)
        self._channels.clear()
        self.exchange.watch(self._events, None)
        self._events = None
        self.exchange.detach(self._timers)

    async def subscribe(self, channel: str) -> None:
        """Hear what is announced in `channel`."""
        if self._events is None:
            raise BackendError("the memory broker is not running")
        if channel not in self._channels:
            self._channels.add(channel)
            self.exchange.listen(channel, self._events)

    async def unsubscribe(self, channel: str) -> None:
        """Hear it no more."""
        if channel in self._channels and self._events is not None:
            self._channels.remove(channel)
            self.exchange.leave(channel, self._events)

    async def publish(self, channel: str, publication: Publication, options: StreamOptions) -> Published:
        """Keep (if so asked) and announce."""
        return self.publish_now(channel, publication, options)

    def publish_now(self, channel: str, publication: Publication, options: StreamOptions) -> Published:
        """Keep (if so asked) and announce. No await in here: see the top of this file."""
        if options.idempotency_key:
            return self.exchange.publish_once(channel, publication, options, self._now())
        if options.size > 0:
            return self.exchange.append(channel, publication, options, self._now())
        if publication.offset:
            publication = publication.at(0)
        return Published(None, self.exchange.announce(channel, publication, ""))

    async def notify(self, channel: str, said: Notice | Announcement) -> None:
        """Announce a notice, or what has its offset from elsewhere."""
        if isinstance(said, Notice):
            self.exchange.notify(channel, said)
        else:
            self.exchange.announce(channel, *said)

    async def remove_history(self, channel: str) -> None:
        """Let go of what is kept in `channel`."""
        self.exchange.clear(channel)

    async def watch(self, patterns: Collection[str]) -> None:
        """Hear what is published wherever one of these globs matches."""
        if self._events is None:
            raise BackendError("the memory broker is not running")
        self.exchange.watch(self._events, any_matcher(patterns) if patterns else None)

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Where each of these streams stands."""
        now = self._now()
        return {channel: self.exchange.stream(channel, now).head for channel in channels}

    async def read(
        self, channel: str, after: int, limit: int, max_bytes: int = 1 << 20, *, reverse: bool = False
    ) -> Page:
        """A page and the head, of the same instant."""
        now = self._now()
        stream = self.exchange.stream(channel, now)
        if stream.expires <= now:
            stream.clear()
        look = stream.page_back if reverse else stream.page
        return Page(look(after, limit, max_bytes), stream.head)

    async def altered(self, known: Mapping[str, Known]) -> set[str]:
        """Which of these are not what is held here."""
        return await altered_by_reading(self, known)

    async def replace_epoch(self, channel: str, epoch: str) -> Position:
        """Give the stream another epoch if it still has this one."""
        return self.exchange.replace_epoch(channel, epoch, self._now())

    def stored(self, channel: str) -> Stream:
        """The stream of `channel` in its present life: ask again when the epoch changed."""
        return self.exchange.stream(channel, self._now())

    def counts(self) -> dict[str, int]:
        """What was dropped for lack of room, on the whole exchange: each before its time was over."""
        exchange = self.exchange
        return {
            "streams_evicted": exchange.streams_evicted,
            "publications_evicted": exchange.shelf.publications_evicted,
            "bytes_evicted": exchange.shelf.bytes_evicted,
            "keys_evicted": exchange.keys_evicted,
        }
