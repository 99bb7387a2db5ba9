"""Bringing subscriptions that are behind back to where the feed stands.

Answers for: feeding each of them from ring or source in pages, as fast as its subscriber takes them, until it is live
again. Refuses to know: why it fell behind (a slow reader, a long recovery), and how pages are written.

One page of each subscription goes out per flush, so that the memory a slow reader costs is its budget and one page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from hubbub.core.feeds import Feeds
from hubbub.core.hub import Hub, Subscriber, Subscription
from hubbub.core.tasks import Tasks
from hubbub.errors import InternalError
from hubbub.model import Position, Publication

#: One page: publications and bytes of payload, whichever is less (delivery.md, section 3).
PAGE_ITEMS, PAGE_BYTES = 300, 64 << 10

#: Seconds until a source that could not be asked is asked again.
RETRY = 1.0


class Reader(Subscriber, Protocol):
    """A subscriber that can be behind."""

    @property
    def is_ready(self) -> bool:
        """Whether it can take a page now. When it can again, it calls `Pump.run`."""
        ...

    @property
    def behind(self) -> list[Subscription]:
        """Its subscriptions that are behind."""
        ...

    def lost(self, subscription: Subscription) -> None:
        """What it missed is gone: it has to subscribe again."""
        ...


def page_of(publications: Sequence[Publication]) -> list[Publication]:
    """As many of them as one page holds, at least one."""
    size = 0
    page: list[Publication] = []
    for publication in islice(publications, PAGE_ITEMS):
        size += publication.payload_size
        if page and size > PAGE_BYTES:
            break
        page.append(publication)
    return page


class Pump:
    """Feeds what is behind."""

    def __init__(
        self,
        hub: Hub,
        feeds: Feeds,
        *,
        tasks: Tasks,
        schedule: Callable[[Callable[[], None]], object],
        later: Callable[[float, Callable[[], object]], object],
    ) -> None:
        self._hub = hub
        self._feeds = feeds
        self._tasks = tasks
        self._schedule = schedule
        self._later = later
        self._reading: set[Subscription] = set()

    def run(self, reader: Reader) -> None:
        """One page for each subscription that is behind; goes on by itself while the reader is ready."""
        if not reader.is_ready:
            return
        if reader.outbox:  # the last page has not been written yet
            self._schedule(lambda: self.run(reader))
            return
        for subscription in reader.behind:
            if subscription in self._reading or self.advance(subscription) or subscription in self._reading:
                continue
            # It got a page and wants more. The next one, whosever it is, waits until this one is written.
            self._schedule(lambda: self.run(reader))
            return

    def advance(self, subscription: Subscription) -> bool:
        """One page, or going live if nothing is missing. True if there is nothing more to do for it now."""
        behind = subscription.behind
        feed = subscription.channel.feed
        if behind is None or behind < 0:  # live, lost or gone
            return True
        if feed is None or feed.position is None or behind == feed.position.offset:
            self._hub.go_live(subscription)
            return True
        if subscription in self._reading:
            return False
        upto = feed.position.offset
        after = max(behind, upto - 1) if feed.skips else behind
        found = feed.stored.range(after, min(upto, after + PAGE_ITEMS))
        if found is None:
            self._reading.add(subscription)
            self._tasks.spawn(self._read(subscription, Position(feed.position.epoch, behind)), "pump")
            return False
        return self._deliver(subscription, found)

    def _deliver(self, subscription: Subscription, publications: Sequence[Publication]) -> bool:
        page = page_of(publications)
        variant = subscription.subscriber.variant
        prepared = variant.prepare(subscription.channel.name)
        messages = [variant.encode(prepared, publication, "") for publication in page]
        self._hub.enqueue(subscription.subscriber, variant.pack(messages))
        subscription.behind = page[-1].offset
        if subscription.behind != subscription.channel.offset:
            return False
        self._hub.go_live(subscription)
        return True

    async def _read(self, subscription: Subscription, position: Position) -> None:
        """What it misses is not at hand: read it, and give it the first page."""
        reader: Reader = subscription.subscriber  # type: ignore[assignment]  # only readers fall behind
        try:
            found = await self._feeds.since(subscription.channel, position)
        except InternalError:
            self._later(RETRY, lambda: self.run(reader))
            return
        finally:
            self._reading.discard(subscription)
        if subscription.behind != position.offset:
            return  # it left, or was lost, while we read
        if not reader.is_ready:
            return  # it goes on when it has drained
        if found is None:
            reader.lost(subscription)
            return
        if not found:
            self._hub.go_live(subscription)
        elif self._deliver(subscription, found):
            return
        self.run(reader)
