"""What servers do to clients, on all nodes; who the other nodes are, and what they know.

Answers for: doing it here and telling the others, who do the same; signs of life; asking all nodes at once. Refuses to
know: how orders travel (`intercom`), and how one is carried out here (`control`).

Counts that are returned are of this node: the others are told, not asked. An order that was accepted reaches each node
once, also one whose connection to the broker is cut at the moment, for ten minutes and up to 10,000 orders: beyond that
it is lost there, which the log of that node says. BackendError says that an order was not accepted, or perhaps not, and
that to repeat it does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

from hubbub.clock import Timer, TimerWheel
from hubbub.core import orders
from hubbub.core.control import Control
from hubbub.core.intercom import Intercom
from hubbub.core.tasks import Tasks
from hubbub.errors import BackendError, ReplyError
from hubbub.model import Position

log = logging.getLogger(__name__)

#: Seconds between two signs of life, and after which a node that gave none is taken for dead.
HEARTBEAT, DEADLINE = 10.0, 35.0

#: Seconds that the others get to say that they are there, once this node has.
MEETING = 0.5

#: Seconds in which one of the nodes that are asked must say something.
SURVEY_TIMEOUT = 1.0

#: Characters of names in one page of an answer. All channels of a large node at once would be more than a broker takes.
PAGE = 100_000


class Local(Protocol):
    """What is asked of this node itself."""

    def about(self) -> dict[str, Any]:
        """How it is."""
        ...

    def channels(self, pattern: str = "") -> dict[str, int]:
        """Its channels with listeners, and how many."""
        ...

    def trim(self, channel: str) -> None:
        """The history of `channel` was removed: forget what is remembered of it here."""
        ...


class Peer(NamedTuple):
    """Another node: how it said that it is, and until when that is believed."""

    about: dict[str, Any]
    until: float


class _Survey:
    """A question to all nodes, and what they have answered so far."""

    def __init__(self, asked: Collection[str]) -> None:
        self.waiting = set(asked)
        self.found: Counter[str] = Counter()
        self._pages: Counter[str] = Counter()  # that have come, by node
        self._is_news = asyncio.Event()

    def answered(self, tally: orders.Tally) -> None:
        """The next page of a node. Behind one that was lost, nothing makes its answer whole."""
        if tally.sender in self.waiting and tally.page == self._pages[tally.sender]:
            self._pages[tally.sender] += 1
            self.found.update(tally.channels)
            if not tally.more:
                self.gone(tally.sender)
            self._is_news.set()

    def gone(self, node: str) -> None:
        """Nothing more will come of this node."""
        self.waiting.discard(node)
        self._is_news.set()

    async def complete(self) -> None:
        """Return when all have answered. Raises TimeoutError when the rest is silent."""
        while self.waiting:
            self._is_news.clear()
            async with asyncio.timeout(SURVEY_TIMEOUT):
                await self._is_news.wait()


class Everywhere:
    """The hand of servers on all nodes."""

    def __init__(self, control: Control, intercom: Intercom, *, local: Local, timers: TimerWheel, tasks: Tasks) -> None:
        self._control = control
        self._intercom = intercom
        self._local = local
        self._timers = timers
        self._tasks = tasks
        self._peers: dict[str, Peer] = {}
        self._surveys: dict[int, _Survey] = {}
        self._number = 0
        self._beat: Timer | None = None
        self._met_by = 0.0  # when those who are there have said so, on the loop's clock

    async def start(self) -> None:
        """Listen to the others, and say that we are here. Raises BackendError."""
        await self._intercom.start()
        self._beat_now(asks=True)
        if self._intercom.is_remote:
            self._met_by = asyncio.get_running_loop().time() + MEETING

    async def stop(self) -> None:
        """Say that we go, and listen no more. A broker that does not answer holds up nobody."""
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
            self._tasks.begin(self._say(orders.Gone(sender=self._intercom.id)), "goodbye to other nodes")
            await asyncio.sleep(0)  # what is said in one turn of the loop leaves at its end
        self._intercom.stop()
        self._peers.clear()

    # what servers do ------------------------------------------------------------------------------------------------

    async def disconnect(
        self, user: str, client: str = "", *, code: int = 0, reason: str = "", whitelist: Collection[str] = ()
    ) -> int:
        """Close the connections of `user`, as `Control.disconnect`. Raises BackendError."""
        here = self._control.disconnect(user, client, code=code, reason=reason, whitelist=whitelist)
        order = orders.Disconnect(
            sender=self._intercom.id, user=user, client=client, code=code, reason=reason, whitelist=list(whitelist)
        )
        await self._intercom.tell(order)
        return here

    async def unsubscribe(self, user: str, channel: str = "", client: str = "") -> int:
        """End subscriptions of `user`, as `Control.unsubscribe`. Raises BackendError."""
        here = self._control.unsubscribe(user, channel, client)
        await self._intercom.tell(
            orders.Unsubscribe(sender=self._intercom.id, user=user, channel=channel, client=client)
        )
        return here

    async def subscribe(
        self,
        user: str,
        channel: str,
        client: str = "",
        *,
        info: bytes = b"",
        data: bytes = b"",
        since: Position | None = None,
    ) -> int:
        """Subscribe the connections of `user`, as `Control.subscribe`. Raises what that raises, and BackendError."""
        here = await self._control.subscribe(user, channel, client, info=info, data=data, since=since)
        order = orders.Subscribe(
            sender=self._intercom.id, user=user, channel=channel, client=client, info=info, data=data, since=since
        )
        await self._intercom.tell(order)
        return here

    async def refresh(
        self, user: str, client: str = "", *, expire_at: float = 0.0, expired: bool = False, info: bytes = b""
    ) -> int:
        """Give the connections of `user` another end, as `Control.refresh`. Raises BackendError."""
        here = self._control.refresh(user, client, expire_at=expire_at, expired=expired, info=info)
        order = orders.Refresh(
            sender=self._intercom.id, user=user, client=client, expire_at=expire_at, expired=expired, info=info
        )
        await self._intercom.tell(order)
        return here

    async def revoke(self, user: str, *, before: float | None = None, ttl: float) -> int:
        """Believe no token of `user` any more, as `Control.revoke`. Raises LimitExceeded, BackendError."""
        before = self._timers.clock.time() if before is None else before
        here = self._control.revoke(user, before=before, ttl=ttl)
        await self._intercom.tell(orders.Revoke(sender=self._intercom.id, user=user, before=before, ttl=ttl))
        return here

    async def trim(self, channel: str) -> None:
        """The history of `channel` was removed at its source: nobody remembers it any more. Raises BackendError."""
        self._local.trim(channel)
        await self._intercom.tell(orders.Trim(sender=self._intercom.id, channel=channel))

    # what servers ask -----------------------------------------------------------------------------------------------

    def nodes(self) -> list[dict[str, Any]]:
        """How all nodes are that gave a sign of life; this one first."""
        return [self._local.about(), *(peer.about for peer in self._alive().values())]

    async def channels(self, pattern: str = "") -> dict[str, int]:
        """Channels with listeners on any node, and how many; `pattern` is a glob, empty for all.

        What a node does not say in time is left out, and the log says so. Raises BackendError.
        """
        if (left := self._met_by - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)  # or a program that asks at once would hear of nobody
        found = Counter(self._local.channels(pattern))
        others = self._alive()
        if others:
            self._number += 1
            number = self._number
            survey = self._surveys[number] = _Survey(others)
            try:
                await self._intercom.tell(
                    orders.Survey(sender=self._intercom.id, number=number, pattern=pattern), kept=False
                )
                await survey.complete()
            except TimeoutError:
                log.warning("%d of %d nodes did not say all their channels", len(survey.waiting), len(others))
            finally:
                del self._surveys[number]
            found.update(survey.found)
        return dict(found)

    # what others say ------------------------------------------------------------------------------------------------

    def obey(self, order: orders.AnyOrder) -> None:
        """Carry out an order of another node."""
        match order:
            case orders.Disconnect():
                self._control.disconnect(
                    order.user, order.client, code=order.code, reason=order.reason, whitelist=order.whitelist
                )
            case orders.Unsubscribe():
                self._control.unsubscribe(order.user, order.channel, order.client)
            case orders.Subscribe():
                self._tasks.spawn(self._subscribe(order), f"subscribe {order.user} to {order.channel}")
            case orders.Refresh():
                self._control.refresh(
                    order.user, order.client, expire_at=order.expire_at, expired=order.expired, info=order.info
                )
            case orders.Revoke():
                self._control.revoke(order.user, before=order.before, ttl=order.ttl)
            case orders.Trim():
                self._local.trim(order.channel)
            case _:
                self._heed(order)

    async def _subscribe(self, order: orders.Subscribe) -> None:
        """Whoever gave the order is on another node, and has its answer already."""
        try:
            await self._control.subscribe(
                order.user, order.channel, order.client, info=order.info, data=order.data, since=order.since
            )
        except ReplyError as error:
            log.warning("%r cannot be subscribed to %r, as another node wants: %s", order.user, order.channel, error)

    def _heed(self, order: orders.AnyOrder) -> None:
        """What is no order, but news."""
        match order:
            case orders.Alive():
                self._peers[order.sender] = Peer(order.about, self._timers.clock.now() + DEADLINE)
                if order.asks:
                    self._tasks.begin(self._say(self._sign_of_life()), "answer another node")
            case orders.Gone():
                self._peers.pop(order.sender, None)
                for survey in self._surveys.values():
                    survey.gone(order.sender)
            case orders.Survey():
                tallies = _tallies(self._intercom.id, order, self._local.channels(order.pattern))
                self._tasks.begin(self._say(*tallies), "answer a survey")
            case orders.Tally():
                if order.to == self._intercom.id and order.number in self._surveys:
                    self._surveys[order.number].answered(order)

    def _sign_of_life(self, *, asks: bool = False) -> orders.Alive:
        return orders.Alive(sender=self._intercom.id, about=self._local.about(), asks=asks)

    def _beat_now(self, *, asks: bool = False) -> None:
        self._beat = self._timers.after(HEARTBEAT, self._beat_now)
        self._alive()  # who is dead is forgotten, whether anybody asks or not
        self._tasks.begin(self._say(self._sign_of_life(asks=asks)), "sign of life")

    def _alive(self) -> dict[str, Peer]:
        now = self._timers.clock.now()
        for node in [node for node, peer in self._peers.items() if peer.until < now]:
            log.warning("node %s has given no sign of life for %g s", node, DEADLINE)
            del self._peers[node]
        return self._peers

    async def _say(self, *told: orders.AnyOrder) -> None:
        """What may be missed: the next one comes soon, or nobody waits for long."""
        try:
            for order in told:
                await self._intercom.tell(order, kept=False)
        except BackendError as error:
            log.info("the other nodes cannot be told: %s", error)


def _tallies(sender: str, survey: orders.Survey, channels: dict[str, int]) -> list[orders.Tally]:
    """The answer, in pages."""
    pages: list[dict[str, int]] = [{}]
    size = 0
    for name, count in channels.items():
        if size >= PAGE:
            pages.append({})
            size = 0
        pages[-1][name] = count
        size += len(name)
    return [
        orders.Tally(
            sender=sender,
            to=survey.sender,
            number=survey.number,
            channels=page,
            page=number,
            more=page is not pages[-1],
        )
        for number, page in enumerate(pages)
    ]
