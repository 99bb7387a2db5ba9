"""The streams of the memory broker, and who hears what is published into them.

Answers for: giving, keeping and announcing in one step (B1), what is heard by whom (B4, B8), idempotency keys (B3),
freeing what expired although nobody asks, and the bounds on streams, on the bytes that they keep, and on keys.
Refuses to know: the time, which callers bring along, rules, clients, and what listeners do with an announcement.

A publish contains no `await`: giving the offset, keeping, and announcing to every listening broker are one
critical section because nothing else can run. That is also what makes it the hottest path of the library;
hence the few places below that prefer speed to beauty, each with its reason.
"""

from __future__ import annotations

import heapq
import logging
import os
import string
from collections import OrderedDict
from typing import Final

from hubbub.brokers.base import BrokerEvents, Notice, StreamOptions
from hubbub.brokers.globs import Matcher
from hubbub.brokers.keys import MAX_KEYS, Keys
from hubbub.brokers.stream import MAX_BYTES, Shelf, Stream
from hubbub.clock import Timer, TimerWheel
from hubbub.model import Position, Publication, Published

log = logging.getLogger(__name__)

#: Seconds that a stream's head outlives the last use of it. Long, because a head is small and a forgotten one
#: makes every returning client load its state anew. The 30 days of Centrifugo's `history_meta_ttl`.
META_TTL: Final = 30 * 86400.0
#: The same for a stream into which nothing was ever published. Names cost nothing to invent, and who returns to such
#: a stream under another epoch loads a state that it need not have loaded, but misses nothing.
ASKED_TTL: Final = 60.0
#: Heads alone cost about 0.5 KB: 500 MB. Above this the least recently used stream goes, first of all one into which
#: nothing was ever published.
MAX_STREAMS: Final = 1_000_000

#: Seconds by which expired publications may linger in memory (never in what is read).
_TICK = 1.0
#: Seconds for which a publish counts as use: more of them within that time do not change who was used least recently.
_GRAIN = 1.0
#: Publications, heads and keys freed in one go, about 2 ms; the rest at the next turn of the wheel.
_SLICE = 10_000
#: Streams that are looked at to make room for one.
_LOOKED_AT = 16
_LETTERS = (string.ascii_letters.encode() * 5)[:256]
#: `Position(…)` runs a Python function that does only this, at twice the cost.
_position = tuple.__new__


def _new_epoch() -> str:
    # Not from `random`: an application that seeds it would get the same epochs after each restart.
    return os.urandom(8).translate(_LETTERS).decode()


class Exchange:
    """The streams, and who listens. Several `MemoryBroker`s on one exchange are several nodes in one process.

    It has no clock: whoever calls says what time it is. Its sweep runs on the timer wheel of the first broker
    that is running, and moves to another's when that one stops; all of them must go by the same clock.
    """

    __slots__ = (
        "_asked", "_due", "_keys", "_listeners", "_order", "_streams", "_timer", "_watchers", "_wheels", "asked_ttl",
        "max_streams", "meta_ttl", "shelf", "streams_evicted",
    )  # fmt: skip

    def __init__(
        self,
        *,
        meta_ttl: float = META_TTL,
        max_streams: int = MAX_STREAMS,
        max_bytes: int = MAX_BYTES,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self.meta_ttl = meta_ttl
        self.asked_ttl = min(ASKED_TTL, meta_ttl)
        self.max_streams = max_streams
        self.streams_evicted = 0
        self.shelf = Shelf(max_bytes)
        self._keys = Keys(max_keys)
        # Streams that were published into, and those that were only asked for. Both least recently used first,
        # which makes it the order in which heads expire, too.
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._asked: OrderedDict[str, Stream] = OrderedDict()
        # Tuples, replaced and never changed: an announcement may go through one while somebody comes or
        # leaves.
        self._listeners: dict[str, tuple[BrokerEvents, ...]] = {}
        # Replaced and never changed, for the same reason.
        self._watchers: dict[BrokerEvents, Matcher] = {}
        # Streams by the tick in which their publications may have expired, and the ticks as a heap.
        self._due: dict[int, dict[Stream, None]] = {}
        self._order: list[int] = []
        self._wheels: list[TimerWheel] = []
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._streams) + len(self._asked)

    @property
    def keys_evicted(self) -> int:
        """Idempotency keys that were forgotten before their five minutes were over."""
        return self._keys.evicted

    # --- streams

    def stream(self, channel: str, now: float) -> Stream:
        """The stream of `channel`, which exists from here on (S2) and counts as used."""
        order, ttl = self._streams, self.meta_ttl
        stream = order.get(channel)
        if stream is None:
            order, ttl = self._asked, self.asked_ttl
            stream = order.get(channel)
            if stream is None:
                return self._create(channel, now)
        if stream.touched + ttl <= now and channel not in self._listeners:
            self.forget(channel)
            return self._create(channel, now)
        stream.touched = now
        order.move_to_end(channel)
        return stream

    def forget(self, channel: str) -> None:
        """Drop the stream. Whoever asks next gets another epoch."""
        stream = self._streams.pop(channel, None) or self._asked.pop(channel, None)
        if stream is None:
            return
        stream.retire()
        if stream.due:  # or names that come and go would pile up there
            del self._due[stream.due][stream]
            stream.due = 0

    def replace_epoch(self, channel: str, epoch: str, now: float) -> Position:
        """The head, under another epoch if it was this one (S5). Memory loses nothing, but is the model of who does."""
        stream = self.stream(channel, now)
        if stream.epoch == epoch:
            order = self._streams if channel in self._streams else self._asked
            order[channel] = heir = stream.under(_new_epoch())
            if stream.due:
                del self._due[stream.due][stream]
            if heir.items:
                self._schedule(heir)
            stream.due = 0
            stream.retire()
            stream = heir
        return stream.head

    def clear(self, channel: str) -> None:
        """Let go of what is kept there; the head stays (B7)."""
        stream = self._streams.get(channel)  # one that was only asked for keeps nothing
        if stream is not None:
            stream.clear()

    def _create(self, channel: str, now: float) -> Stream:
        if len(self) >= self.max_streams:
            self._make_room(now)
        stream = self._asked[channel] = Stream(_new_epoch(), now, shelf=self.shelf)
        if len(self._asked) == 1:
            self._arm()
        return stream

    def _open(self, channel: str, now: float) -> Stream:
        """The stream of `channel`, to be published into for the next `_GRAIN` seconds."""
        stream = self.stream(channel, now)
        stream.published = now
        self.shelf.touch(stream)
        if self._asked.pop(channel, None) is not None:
            self._streams[channel] = stream
        return stream

    def _make_room(self, now: float) -> None:
        """Evict the least recently used streams that nobody listens to, until there is room for one.

        Feeds rely on the stream of a channel that they listen to, and it is never taken from them: while more
        channels than `max_streams` are listened to, there are as many streams.
        """
        for order in (self._asked, self._streams):
            for _ in range(min(_LOOKED_AT, len(order))):
                if len(self) < self.max_streams:
                    return
                channel, stream = next(iter(order.items()))
                if self._is_listened_to(order, channel, stream, now):
                    continue
                self.forget(channel)
                if self.streams_evicted % 10_000 == 0:
                    log.warning("over %d streams: the least recently used ones are forgotten", self.max_streams)
                self.streams_evicted += 1

    def _is_listened_to(self, order: OrderedDict[str, Stream], channel: str, stream: Stream, now: float) -> bool:
        """To listen is to use: such a stream is not the least recently used one any more."""
        if channel not in self._listeners:
            return False
        stream.touched = now
        order.move_to_end(channel)
        return True

    # --- publishing

    def append(self, channel: str, publication: Publication, options: StreamOptions, now: float) -> Published:
        """Give the next offset, keep, and announce (B1)."""
        stream = self._streams.get(channel)
        if stream is None or stream.published + _GRAIN <= now:
            stream = self._open(channel, now)
        if options.version and not stream.is_news(options.version, options.version_epoch):
            return Published(stream.head, 0, True)
        kept = stream.append(publication, options.size, now, options.ttl)
        if not stream.due:
            self._schedule(stream)
        epoch = stream.epoch
        nodes = self.announce(channel, kept, epoch) if channel in self._listeners or self._watchers else 0
        return Published(_position(Position, (epoch, kept.offset)), nodes)

    def publish_once(self, channel: str, publication: Publication, options: StreamOptions, now: float) -> Published:
        """Publish unless the options' idempotency key was here already (B3)."""
        key = options.idempotency_key
        before = self._keys.find(channel, key, now)
        if before is not None:
            return before
        if options.size > 0:
            published = self.append(channel, publication, options, now)
        else:
            published = Published(None, self.announce(channel, publication.at(0), ""))
        self._keys.remember(channel, key, now, published)
        if len(self._keys) == 1:
            self._arm()
        return published

    def announce(self, channel: str, publication: Publication, epoch: str) -> int:
        """Tell everybody who listens; returns how many that are."""
        listeners = self._listeners.get(channel, ())
        if self._watchers:
            listeners = self._with_watchers(channel, listeners)
        for events in listeners:
            try:
                events.on_publication(channel, publication, epoch)
            except Exception:
                log.exception("a listener failed on channel %r, offset %d", channel, publication.offset)
        return len(listeners)

    def notify(self, channel: str, notice: Notice) -> None:
        """Tell everybody who listens that somebody came or left."""
        for events in self._listeners.get(channel, ()):
            try:
                events.on_notice(channel, notice)
            except Exception:
                log.exception("a listener failed on a notice in channel %r", channel)

    def _with_watchers(self, channel: str, listeners: tuple[BrokerEvents, ...]) -> tuple[BrokerEvents, ...]:
        """These, and who watches a pattern that matches; nobody twice (B8)."""
        more = (events for events, matches in self._watchers.items() if matches(channel) and events not in listeners)
        return (*listeners, *more)

    # --- listening

    def listen(self, channel: str, events: BrokerEvents) -> None:
        """Tell `events` from now on."""
        self._listeners[channel] = (*self._listeners.get(channel, ()), events)

    def leave(self, channel: str, events: BrokerEvents) -> None:
        """Tell `events` no more."""
        if rest := tuple(other for other in self._listeners[channel] if other is not events):
            self._listeners[channel] = rest
        else:
            del self._listeners[channel]

    def watch(self, events: BrokerEvents, matches: Matcher | None) -> None:
        """Tell `events` from now on what is published wherever the name `matches`, and nowhere else; None: no more."""
        others = {other: theirs for other, theirs in self._watchers.items() if other is not events}
        self._watchers = others if matches is None else {**others, events: matches}

    def attach(self, timers: TimerWheel) -> None:
        """A broker runs, and its wheel turns."""
        self._wheels.append(timers)
        self._arm()

    def detach(self, timers: TimerWheel) -> None:
        """That broker stops; its wheel may stand still from now on."""
        self._wheels.remove(timers)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._arm()

    # --- expiry

    def _schedule(self, stream: Stream) -> None:
        """See to it that the stream's publications are freed.

        Its entry stays where it is while the stream is published into, and is moved only when its time has
        come: a publish pays nothing for it.
        """
        tick = stream.due = int(stream.expires / _TICK) + 1
        bucket = self._due.get(tick)
        if bucket is not None:
            bucket[stream] = None
            return
        self._due[tick] = {stream: None}
        heapq.heappush(self._order, tick)
        if self._order[0] == tick:
            self._arm()

    def _arm(self) -> None:
        """Have the sweep called when the first thing expires."""
        deadlines = [self._order[0] * _TICK] if self._order else []
        for order, ttl in ((self._asked, self.asked_ttl), (self._streams, self.meta_ttl)):
            if order:
                deadlines.append(next(iter(order.values())).touched + ttl)
        if (deadline := self._keys.next_deadline()) is not None:
            deadlines.append(deadline)
        if not deadlines or not self._wheels:
            return
        when = min(deadlines)
        if self._timer is not None:
            if self._timer.when <= when:
                return
            self._timer.cancel()
        wheel = self._wheels[0]
        # Never in the past: the wheel would run it in this very turn, and the rest of a slice is meant to
        # wait.
        self._timer = wheel.at(max(when, wheel.clock.now()), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._wheels[0].clock.now()
        budget = self._sweep_publications(now, _SLICE)
        budget = self._sweep_heads(self._asked, self.asked_ttl, now, budget)
        budget = self._sweep_heads(self._streams, self.meta_ttl, now, budget)
        self._keys.sweep(now, budget)
        self._arm()

    def _sweep_publications(self, now: float, budget: int) -> int:
        while budget > 0 and self._order and self._order[0] * _TICK <= now:
            bucket = self._due[self._order[0]]
            while bucket and budget > 0:
                stream, _ = bucket.popitem()
                budget -= 1 + len(stream.items)
                stream.due = 0
                if stream.expires <= now:
                    stream.clear()
                elif stream.items:
                    self._schedule(stream)
            if not bucket:
                del self._due[heapq.heappop(self._order)]
        return budget

    def _sweep_heads(self, order: OrderedDict[str, Stream], ttl: float, now: float, budget: int) -> int:
        while budget > 0 and order:
            channel, stream = next(iter(order.items()))
            if stream.touched + ttl > now:
                break
            if not self._is_listened_to(order, channel, stream, now):
                budget -= len(stream.items)
                self.forget(channel)
            budget -= 1
        return budget
