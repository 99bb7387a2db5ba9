"""Back-end code that listens: a subscriber that an `async for` reads from.

Answers for: joining history and live without a hole, a bounded queue in between, and for saying so when the place in
the channel is lost. Refuses to know: payload types, and how it is offered to the application.

It is a subscriber like any other: when its reader is slow it falls behind, and the pump brings it back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from hubbub.core.hub import LOST, Subscription
from hubbub.core.node import Node
from hubbub.core.objects import OBJECTS
from hubbub.errors import HubbubError
from hubbub.model import Position, Publication

log = logging.getLogger(__name__)

#: Publications that wait to be read before the reader falls behind.
QUEUE_LIMIT = 1000


#: What to do about it.
AGAIN = "read the state anew, and subscribe without since"


class PositionLost(HubbubError):
    """What was missed in a channel cannot be had any more. Read the state anew, and subscribe again."""


class ChannelReader:
    """One back-end subscription. Implements the hub's Subscriber and the pump's Reader."""

    def __init__(self, node: Node, channel: str) -> None:
        self.variant = OBJECTS
        self.outbox: list[Any] = []
        self._node = node
        self._name = channel
        self._queue: deque[Publication] = deque()
        self._news = asyncio.Event()
        self._is_paused = False
        self._is_lost = False
        self._subscription: Subscription | None = None

    async def open(self, since: Position | None, history: int) -> Position | None:
        """Start to listen after `since`, or with the last `history` publications. Returns where the channel stands.

        Raises PositionLost, UnknownChannel (102), NotAvailable (108) for history of a channel that keeps none.
        """
        node = self._node
        rules = node.namespaces.resolve(self._name)
        if history:
            since = await self._before_last(history)
        subscription = self._subscription = node.doorkeeper.reserve(self, self._name, rules)
        node.readers[self] = None
        try:
            await node.doorkeeper.hear(subscription)
            entry = await node.doorkeeper.begin(subscription, since)
            if entry.recovered is False:
                raise PositionLost(f"channel {self._name} does not reach back to {since} any more: {AGAIN}")
        except BaseException:
            self.close()
            raise
        self._take(entry.publications)
        if not node.pump.advance(subscription):
            node.pump.run(self)
        return subscription.channel.feed.position if subscription.channel.feed is not None else None

    def close(self) -> None:
        """Listen no more; what was published until now can still be read. Idempotent."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.hub.hand_out(subscription)
            self.flush()
            self._node.readers.pop(self, None)
            self._node.doorkeeper.leave(self, subscription)
        self._news.set()

    async def next(self) -> Publication | None:
        """The next publication, whenever it comes; None once it is closed and all is read. Raises PositionLost."""
        while not self._queue:
            if self._subscription is None:
                return None
            if self._is_lost:
                raise PositionLost(f"channel {self._name}: what came after the last publication is gone: {AGAIN}")
            self._news.clear()
            await self._news.wait()
        publication = self._queue.popleft()
        if self._is_paused and len(self._queue) < QUEUE_LIMIT // 4:
            self._is_paused = False
            self._node.pump.run(self)
        return publication

    # subscriber and reader ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """From the outbox into the queue."""
        for heard in self.outbox:
            self._take([item.publication for item in heard])
        self.outbox.clear()

    def failed(self) -> None:
        """Something is lost, and nothing that comes behind it is read."""
        self.outbox.clear()
        if self._subscription is not None:
            self.lost(self._subscription)

    @property
    def is_closed(self) -> bool:
        """Whether it listens no more."""
        return self._subscription is None

    @property
    def is_ready(self) -> bool:
        """Whether the queue has room for a page."""
        return not self._is_paused and self._subscription is not None

    @property
    def behind(self) -> list[Subscription]:
        """Its subscription, while it is not live."""
        subscription = self._subscription
        return [subscription] if subscription is not None and subscription.behind is not None else []

    def lost(self, subscription: Subscription) -> None:
        """The reader is told after what it still has."""
        self._node.hub.fall_behind(subscription)
        subscription.behind = LOST
        self._is_lost = True
        self._news.set()

    def _take(self, publications: Any) -> None:
        self._queue.extend(publications)
        self._news.set()
        if len(self._queue) > QUEUE_LIMIT and not self._is_paused and self._subscription is not None:
            self._is_paused = True
            self._node.observer.count("reader_fell_behind")
            if self._subscription.channel.feed is None:
                log.warning("who listens to %s is too slow: in a live channel what comes is dropped", self._name)
            self._node.hub.fall_behind(self._subscription)

    async def _before_last(self, history: int) -> Position:
        """The position right before the last `history` publications, or before the oldest that is kept."""
        page = await self._node.history(self._name, history, reverse=True)
        oldest = page.publications[-1].offset if page.publications else page.head.offset + 1
        return Position(page.head.epoch, oldest - 1)
