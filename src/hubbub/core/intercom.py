"""How the nodes of one application speak to each other.

Answers for: one channel with memory that all nodes listen to, through a feed like any other: an order that was given is
not missed by a node whose connection to the broker was cut, for as long as the channel remembers (RULES). Who was away
for longer, or whose broker has lost its memory, says so in the log, counts `orders_lost`, and goes on with what comes.
Refuses to know: what orders mean.

The channel's name begins with a control character, which no client, application or pattern can name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from hubbub.brokers.base import INTERCOM, Broker, Remote, StreamOptions
from hubbub.channels import ChannelRules
from hubbub.core import orders
from hubbub.core.hooks import Observer
from hubbub.core.hub import LOST, Hub, Subscription
from hubbub.core.objects import OBJECTS
from hubbub.core.pump import Pump
from hubbub.core.subscribing import Doorkeeper
from hubbub.core.tasks import Tasks
from hubbub.errors import BackendError, InternalError
from hubbub.model import Publication
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)

#: Orders are kept for as long as a node may be cut off and still catch up. Revocations outlive that on purpose.
RULES = ChannelRules(delivery="recent", history_size=10_000, history_ttl=600.0, subscribe="nobody")
KEPT = StreamOptions(RULES.history_size, RULES.history_ttl)
SPOKEN = StreamOptions()

#: Seconds until a node that lost its place among the orders tries to listen again.
RETRY = 1.0


class Intercom:
    """One node's. Implements the hub's Subscriber and the pump's Reader. `obey` gets every order of other nodes."""

    def __init__(
        self,
        node_id: str,
        obey: Callable[[orders.AnyOrder], object],
        *,
        broker: Broker,
        hub: Hub,
        pump: Pump,
        doorkeeper: Doorkeeper,
        tasks: Tasks,
        observer: Observer,
        later: Callable[[float, Callable[[], object]], object],
        now: Callable[[], float],
    ) -> None:
        self.variant = OBJECTS
        self.outbox: list[Any] = []
        self.id = node_id
        self._obey = obey
        self._broker = broker
        self.is_remote = isinstance(broker, Remote)  # what is said takes a while to arrive
        self._hub = hub
        self._pump = pump
        self._doorkeeper = doorkeeper
        self._tasks = tasks
        self._observer = observer
        self._later = later
        self._now = now
        self._subscription: Subscription | None = None
        self._is_running = False
        self._sparing = SparingLog(log)

    async def start(self) -> None:
        """Listen. Raises BackendError."""
        self._is_running = True
        await self._listen()

    async def _listen(self) -> None:
        subscription = self._subscription = self._doorkeeper.reserve(self, INTERCOM, RULES)
        try:
            await self._doorkeeper.hear(subscription)
            if self._subscription is subscription:  # else it was stopped or lost meanwhile
                await self._doorkeeper.begin(subscription, None)
        except BaseException as error:
            if self._subscription is subscription:
                self._subscription = None
            if isinstance(error, InternalError):
                raise BackendError("the channel between the nodes cannot be heard") from error
            raise
        if self._subscription is subscription and not self._pump.advance(subscription):
            self._pump.run(self)

    def stop(self) -> None:
        """Listen no more. Idempotent."""
        self._is_running = False
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._doorkeeper.leave(self, subscription)

    async def tell(self, order: orders.AnyOrder, *, kept: bool = True) -> None:
        """Say it to all other nodes; `kept` for those, too, that cannot hear it now. Raises BackendError."""
        await self._broker.publish(INTERCOM, Publication(orders.encode(order)), KEPT if kept else SPOKEN)

    # subscriber and reader ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Carry out what has come."""
        batches, self.outbox = self.outbox, []
        for batch in batches:
            for heard in batch:
                self._hear(heard.publication.data)

    def failed(self) -> None:
        """Something is lost."""
        self.outbox.clear()
        if self._subscription is not None:
            self.lost(self._subscription)

    @property
    def is_ready(self) -> bool:
        """Orders are carried out at once."""
        return self._subscription is not None

    @property
    def behind(self) -> list[Subscription]:
        """Its subscription, while it is not live."""
        subscription = self._subscription
        return [subscription] if subscription is not None and subscription.behind is not None else []

    def lost(self, subscription: Subscription) -> None:
        """The broker lost orders, or we were away for too long. Listen to what comes."""
        self._observer.count("orders_lost")
        log.error("orders of other nodes are lost: somebody may be here who was sent away elsewhere")
        self._hub.fall_behind(subscription)
        subscription.behind = LOST
        self._doorkeeper.leave(self, subscription)
        self._subscription = None
        self._listen_again()

    def _listen_again(self) -> None:
        if self._is_running and self._subscription is None:
            self._tasks.spawn(self._again(), "listen to other nodes")

    async def _again(self) -> None:
        if not self._is_running or self._subscription is not None:
            return
        try:
            await self._listen()
        except Exception as error:  # whatever it is: nobody else would try again
            if not isinstance(error, BackendError):
                log.exception("the channel between the nodes cannot be heard")
            self._later(RETRY, self._listen_again)

    def _hear(self, data: bytes) -> None:
        try:
            order = orders.decode(data)
            if order.sender != self.id:
                self._obey(order)
        except orders.Unreadable as error:
            self._observer.count("order_unreadable")
            self._sparing.warning("unreadable", self._now(), "an order of another node cannot be read: %s", error)
        except Exception:
            self._observer.count("order_failed")
            log.exception("an order of another node failed: %r", data[:200])
