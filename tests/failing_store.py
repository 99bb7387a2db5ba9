"""A store in memory that fails, waits and tells what it was asked, as a test says.

Answers for: `FailingStore`, for nodes of a `House`. Refuses to know: chance and time; nothing sleeps.

    with House(RULES, store=FailingStore) as house:
        store = store_of(house)
        store.failing["heads"] = BackendError("away")     # until it is taken out again
        store.held = {"read"}                             # answers of now, which come when they are let go
        house.call(store.let_go)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

from tests.fakes import House

from hubbub.clock import Clock
from hubbub.model import Position, Publication
from hubbub.source import Known, Page
from hubbub.stores.base import Draft, Written
from hubbub.stores.memory import MemoryStore


class Question(NamedTuple):
    """What it was asked: `about` is the channels, or the offset of a read."""

    name: str
    about: object


class FailingStore(MemoryStore):
    """One database of its own."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.asked: list[Question] = []
        self.failing: dict[str, Exception] = {}
        self.held: set[str] = set()
        self.under_way = 0  # reads
        self.most_under_way = 0
        self._waiting: list[asyncio.Future[None]] = []

    def let_go(self) -> None:
        """Whatever is held has its answer, and nothing is held any more."""
        self.held.clear()
        self.answer()

    def answer(self) -> None:
        """Those who wait now have their answers."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.set_result(None)

    def asked_for(self, name: str) -> list[Question]:
        """The questions of one kind."""
        return [question for question in self.asked if question.name == name]

    def write_unheard(self, channel: str, *payloads: bytes) -> None:
        """As another process does whose announcements are lost."""
        log = self.logs.log(channel)
        for payload in payloads:
            log.items.append(Publication(payload, log.top + 1))
            log.times.append(self._clock.time())

    async def _meet(self, name: str, about: object) -> None:
        self.asked.append(Question(name, about))
        if name in self.held:
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]
        if name in self.failing:
            raise self.failing[name]

    async def stop(self) -> None:
        """Nothing is held at the end: a test that fails has to end, too."""
        self.let_go()
        await super().stop()

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Where each of these channels stands."""
        answer = await super().heads(channels)
        await self._meet("heads", tuple(channels))
        return answer

    async def read(
        self, channel: str, after: int, limit: int, max_bytes: int = 1 << 20, *, reverse: bool = False
    ) -> Page:
        """A page and the head, of when it was asked."""
        answer = await super().read(channel, after, limit, max_bytes, reverse=reverse)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0)
            await self._meet("read", after)
        finally:
            self.under_way -= 1
        return answer

    async def altered(self, known: Mapping[str, Known]) -> set[str]:
        """Which of these are not what is held here."""
        await self._meet("altered", tuple(known))
        return {
            name
            for name, (epoch, item) in known.items()
            if self.logs.head(name).epoch != epoch or item not in self.logs.log(name).items
        }

    async def commit(self, drafts: Sequence[Draft], patience: float) -> Sequence[Written]:
        """All at once."""
        await self._meet("commit", tuple(draft.channel for draft in drafts))
        return await super().commit(drafts, patience)

    async def sweep(self, keeps: Callable[[str], float]) -> int:
        """Let go of what is old."""
        await self._meet("sweep", None)
        return await super().sweep(keeps)


def store_of(house: House) -> FailingStore:
    """That of the first node."""
    return cast("FailingStore", house.node.mailbox.store)
