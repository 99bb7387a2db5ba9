"""Who listens here, and fan-out to them at the cost of one append and one write each.

Answers for: channels with listeners on this node, their subscriptions (live or behind), batches that make themselves,
and the flush that writes each touched subscriber once. Refuses to know: sockets, codecs (a variant is an opaque key
that can encode), brokers, permissions, and the event loop: it is given a function that schedules.

A publication is encoded once per variant and appended to the open batch of that audience. At the end of the loop turn
the flush joins each batch once, hands the same buffer to all its live subscribers, and then each touched subscriber
writes once. Under load turns take longer and batches grow, so that there are ever fewer system calls
(docs/design/delivery.md).

Invariants:
- A live subscription of a channel with memory stands exactly at the feed's position.
- Everything for a subscriber passes through its outbox, so its order holds, replies included.
- While a flush is being written no other begins: what is published meanwhile waits in the open batches.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from hubbub.brokers.base import Notice
from hubbub.channels import ChannelRules
from hubbub.core.feed import Feed
from hubbub.core.hooks import Guard
from hubbub.model import Publication

log = logging.getLogger(__name__)

#: Bytes of one batch, beyond which it is closed at once: far below what a slow reader may leave unsent. Readers in this
#: process are given objects, which are not copied; what a batch of those weighs nobody need know.
MAX_BATCH = 64 << 10

#: Seconds that a flush writes before it lets others run, and subscribers after which it looks at the clock.
SLICE, LOOK = 0.005, 32

#: Subscriptions of one channel on this node, above which joins and leaves are counted and not pushed: a crowd that
#: returns would cost the square of its number.
NOTICE_LIMIT = 500


#: `Subscription.behind` of one whose feed broke, until it is told; of one that is over; and of one that has not begun.
#: None of them gets anything.
LOST, GONE, ENTERING = -1, -2, -3


class Variant(Protocol):
    """One way of encoding for a group of subscribers; opaque to the hub but for these five, and its messages' `len`."""

    def prepare(self, channel: str) -> Any:
        """What `encode` needs of a channel."""
        ...

    def encode(self, prepared: Any, publication: Publication, epoch: str) -> Any:
        """One publication as a message."""
        ...

    def notice(self, channel: str, notice: Notice) -> Any:
        """A join or leave as a message; None if this variant has no such thing."""
        ...

    def frame(self, message: Any, /) -> Any:
        """One message as a buffer, ready to be written to every subscriber of this variant."""
        ...

    def pack(self, messages: list[Any]) -> Any:
        """Several as one."""
        ...


class Subscriber(Protocol):
    """Anything that the hub can deliver to."""

    outbox: list[Any]

    @property
    def variant(self) -> Variant:
        """Its encoding."""
        ...

    def flush(self) -> None:
        """Write the outbox at once, without waiting, and empty it."""
        ...

    def failed(self) -> None:
        """Writing raised, and what was in the outbox is gone: it must not go on as if nothing was missing."""
        ...


class Subscription:
    """One subscriber's tie to one channel. `behind` is None while live, else the offset it stands at, or as above."""

    __slots__ = (
        "behind",
        "chan_info",
        "channel",
        "expire_at",
        "guard",
        "has_entered",
        "is_announced",
        "is_present",
        "is_server_side",
        "may_publish",
        "seat",
        "subscriber",
        "wants_notices",
    )

    def __init__(self, subscriber: Subscriber, channel: Channel) -> None:
        self.subscriber = subscriber
        self.channel = channel
        self.behind: int | None = ENTERING
        self.chan_info = b""
        self.expire_at = 0.0
        self.guard: Guard | None = None
        self.has_entered = False
        self.is_announced = False
        self.is_present = False
        self.is_server_side = False
        self.may_publish = False
        self.seat = -1  # its place among those of its audience that are live
        self.wants_notices = False

    @property
    def has_begun(self) -> bool:
        """Whether its subscriber was let in, and is in."""
        return self.behind != ENTERING and self.behind != GONE


class Audience:
    """The live subscribers of one channel that share a variant, and their open batch.

    They sit in a list, in no order: with a channel for each client, what is delivered costs as much for the memory that
    it touches as for what it does, and a list of one is less of it than a dict.
    """

    __slots__ = ("_among", "batch", "live", "prepared", "size", "start", "variant")

    def __init__(self, variant: Variant, channel: Channel) -> None:
        self.variant = variant
        self.prepared = variant.prepare(channel.name)
        self.live: list[Subscriber] = []
        self.batch: list[Any] = []
        self.size = 0  # of the batch, as its messages' `len` has it: for clients bytes, before framing
        self.start = 0  # the offset that a subscriber without the batch stands at
        self._among = channel.subscriptions

    def enter(self, subscription: Subscription) -> None:
        """One more, if it is not in here."""
        if subscription.seat < 0:
            subscription.seat = len(self.live)
            self.live.append(subscription.subscriber)

    def leave(self, subscription: Subscription) -> None:
        """One less, if it is in here: the last one takes its seat."""
        seat, subscription.seat = subscription.seat, -1
        if seat < 0:
            return
        last = self.live.pop()
        if last is not subscription.subscriber:
            self.live[seat] = last
            self._among[last].seat = seat

    def lose(self) -> list[Subscriber]:
        """None of them gets anything more. Returns who was in here."""
        were, self.live = self.live, []
        for subscriber in were:
            subscription = self._among[subscriber]
            subscription.seat, subscription.behind = -1, LOST
        return were


class Channel:
    """A channel with listeners on this node. `feed` is None where nothing is remembered."""

    __slots__ = ("audiences", "feed", "name", "noticed", "rules", "subscriptions")

    def __init__(self, name: str, rules: ChannelRules) -> None:
        self.name = name
        self.rules = rules
        self.feed: Feed | None = None
        self.audiences: tuple[Audience, ...] = ()  # one for each variant, of which there are few
        self.subscriptions: dict[Subscriber, Subscription] = {}
        self.noticed: list[Notice] = []

    def audience_of(self, subscription: Subscription) -> Audience | None:
        """Where it is while it is live, if anybody is there."""
        variant = subscription.subscriber.variant
        for audience in self.audiences:
            if audience.variant is variant:
                return audience
        return None

    @property
    def offset(self) -> int:
        """Where the feed stands; 0 where nothing is remembered."""
        return self.feed.position.offset if self.feed is not None and self.feed.position is not None else 0


class Hub:
    """All channels with listeners on this node."""

    def __init__(self, schedule: Callable[[Callable[[], None]], object]) -> None:
        self.channels: dict[str, Channel] = {}
        self.delivered = 0
        self.skipped = 0
        self.notices_dropped = 0
        self._schedule = schedule
        self._dirty: dict[Audience, None] = {}
        self._noticed: dict[Channel, None] = {}
        self._touched: deque[Subscriber] = deque()
        self._writing: deque[Subscriber] = deque()
        self._failed: list[Subscriber] = []  # they miss something, and are to be told
        self._is_scheduled = False

    # who listens ----------------------------------------------------------------------------------------------------

    def channel(self, name: str, rules: ChannelRules) -> Channel:
        """The channel, made if nobody listened to it so far."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name, rules)
        return channel

    def go_live(self, subscription: Subscription) -> None:
        """From here on it gets what is broadcast; what stands in the open batch it has already."""
        channel = subscription.channel
        assert channel.subscriptions.get(subscription.subscriber) is subscription, "only who is in a channel hears it"
        audience = channel.audience_of(subscription)
        if audience is None:
            audience = Audience(subscription.subscriber.variant, channel)
            channel.audiences += (audience,)
        self._close_now(audience)
        audience.enter(subscription)
        subscription.behind = None

    def fall_behind(self, subscription: Subscription) -> None:
        """It gets nothing any more until it goes live again; `behind` says where it stands."""
        if subscription.behind is not None:
            return
        channel = subscription.channel
        audience = channel.audience_of(subscription)
        assert audience is not None, "who is live has one"
        audience.leave(subscription)
        subscription.behind = audience.start if audience.batch else channel.offset
        if channel.feed is None:
            self.skipped += len(audience.batch)

    def leave(self, subscription: Subscription) -> bool:
        """The subscription is over. True if it was the last one of its channel."""
        channel = subscription.channel
        subscriber = subscription.subscriber
        if channel.subscriptions.get(subscriber) is subscription:
            del channel.subscriptions[subscriber]
        audience = channel.audience_of(subscription)
        if audience is not None:
            audience.leave(subscription)
            if not audience.live:
                audience.batch.clear()
                channel.audiences = tuple(other for other in channel.audiences if other is not audience)
        subscription.behind = GONE
        return not channel.subscriptions

    # what they get --------------------------------------------------------------------------------------------------

    def broadcast(self, channel: Channel, publication: Publication, epoch: str = "") -> None:
        """One publication to every live subscriber, at the end of this loop turn. Never waits, never raises."""
        reached = 0
        for audience in channel.audiences:
            live, batch = audience.live, audience.batch
            if not live:
                continue
            try:
                message = audience.variant.encode(audience.prepared, publication, epoch)
                size = len(message)
            except Exception:
                log.exception("a publication in channel %r cannot be encoded", channel.name)
                self._give_up(audience)
                continue
            if batch:
                size += audience.size
            else:
                if channel.feed is not None:
                    audience.start = publication.offset - 1 if publication.offset else channel.offset
                self._dirty[audience] = None
            reached += len(live)
            batch.append(message)
            audience.size = size
            if size > MAX_BATCH:
                self._dirty.pop(audience, None)
                self._close(audience)
        if not publication.offset:
            self.skipped += len(channel.subscriptions) - reached  # who is behind will not be given it later
        if not self._is_scheduled:
            self._wake()

    def hand_out(self, subscription: Subscription) -> None:
        """Put what is in the open batch into the outboxes now, not at the end of the turn."""
        audience = subscription.channel.audience_of(subscription)
        if audience is not None:
            self._close_now(audience)

    def notify(self, channel: Channel, notice: Notice) -> None:
        """A join or leave to those who want them. One that undoes another of the same flush takes it along."""
        if len(channel.subscriptions) > NOTICE_LIMIT:
            self.notices_dropped += 1
            return
        for earlier in channel.noticed:
            if earlier.info.client == notice.info.client and (earlier.kind, notice.kind) == ("join", "leave"):
                channel.noticed.remove(earlier)
                return
        channel.noticed.append(notice)
        self._noticed[channel] = None
        self._wake()

    def enqueue(self, subscriber: Subscriber, buffer: Any) -> None:
        """A buffer for one subscriber, in its order with everything else."""
        if not subscriber.outbox:
            self._touched.append(subscriber)
        subscriber.outbox.append(buffer)
        if not self._is_scheduled:
            self._wake()

    # the flush ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._schedule(self._flush)

    def close_batches(self) -> None:
        """Put everything that was broadcast so far into the outboxes, for whoever is to end with it."""
        dirty, self._dirty = self._dirty, {}
        for audience in dirty:
            self._close(audience)

    def _flush(self) -> None:
        self.close_batches()
        if self._noticed:
            self._flush_notices()
        while self._failed:
            self._failed.pop().failed()
        # What is touched while this is written belongs to the next flush, or a busy loop would never reach the batches.
        # Who is still to be written has a full outbox, so it is not touched again, and its order holds.
        self._writing, self._touched = self._touched, self._writing
        self._write()

    def _close_now(self, audience: Audience) -> None:
        """Before the end of the turn, if there is anything in it."""
        if audience.batch:
            del self._dirty[audience]
            self._close(audience)

    def _close(self, audience: Audience) -> None:
        """Join the open batch once and give the buffer to everybody live. Whoever calls has taken it off the dirty."""
        live, batch = audience.live, audience.batch
        count = len(batch)
        if not count or not live:
            batch.clear()
            return
        try:
            if count == 1:
                buffer = audience.variant.frame(batch.pop())
            else:
                audience.batch = []
                buffer = audience.variant.pack(batch)
        except Exception:
            log.exception("a batch cannot be packed")
            self._give_up(audience)
            return
        self.delivered += count * len(live)
        touch = self._touched.append
        for subscriber in live:
            outbox = subscriber.outbox
            if not outbox:
                touch(subscriber)
            outbox.append(buffer)

    def _give_up(self, audience: Audience) -> None:
        """A publication cannot be delivered here: nobody gets what comes behind it, as if there was no hole."""
        self._failed.extend(audience.lose())
        audience.batch = []

    def _flush_notices(self) -> None:
        noticed, self._noticed = self._noticed, {}
        for channel in noticed:
            notices, channel.noticed = channel.noticed, []
            if not notices:  # who came has left again
                continue
            buffers: dict[Variant, Any] = {}
            for subscriber, subscription in channel.subscriptions.items():
                if not subscription.wants_notices or subscription.behind is not None:
                    continue
                variant = subscriber.variant
                if variant not in buffers:
                    buffers[variant] = variant.pack([variant.notice(channel.name, notice) for notice in notices])
                self.enqueue(subscriber, buffers[variant])

    def _write(self) -> None:
        """Each touched subscriber writes once, in slices: a crowd must not keep the loop from reading and pinging."""
        writing = self._writing
        deadline = time.perf_counter() + SLICE
        while writing:
            for _ in range(min(len(writing), LOOK)):
                subscriber = writing.popleft()
                try:
                    subscriber.flush()
                except Exception:
                    log.exception("a subscriber failed to write: %r", subscriber)
                    subscriber.outbox.clear()
                    subscriber.failed()
            if writing and time.perf_counter() > deadline:
                self._schedule(self._write)
                return
        self._is_scheduled = False
        if self._dirty or self._noticed or self._touched or self._failed:
            self._wake()
