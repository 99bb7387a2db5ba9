"""The stores of the delivery machine: watched, so that its loop knows when they are at rest, and mistreated.

Answers for: `ModelStores`, the stores of all nodes on one database, which refuse or hold their answers back when they
are told to; a look at a log, another process that commits and dies, and a database that went back in time and knows it,
all behind the nodes' back. Refuses to know: nodes, clients, and what is to be expected of them.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import asyncpg
from tests.contracts.stores import Committed, MemoryStores, PostgresStores, SqliteStores, StoreBackend
from tests.faults import Call

from hubbub.clock import ManualClock
from hubbub.errors import BackendError, PublishFailed
from hubbub.model import Publication, Published
from hubbub.source import Page
from hubbub.stores.base import Draft, Store

T = TypeVar("T")

#: Questions that can be held back: what a node asks by itself. Everything else is its callers' affair.
QUESTIONS = frozenset({"heads", "read"})
#: What begins and ends a store: the one thing that it never refuses.
LIVES = frozenset({"start", "stop"})
#: `altered` is not among them, since it reads, nor `trim`, with which some of them sweep.
METHODS = ("append", "heads", "read", "sweep", "replace_epoch", "waits", "move", *LIVES)

#: Make each epoch that is given here another one.
_epochs = itertools.count(1)


class ModelStores:
    """Stores on one database, one for each node; numbers are those of the nodes."""

    def __init__(self, backend: StoreBackend) -> None:
        self.owed = 0  # questions without an answer, which nobody holds back
        self.asked: list[tuple[int, str]] = []  # whom, and what
        self.calls: list[tuple[int, Call]] = []
        self.made: list[Store] = []
        self._backend = backend
        self._refusing: set[int] = set()
        self._holding: set[int] = set()
        self._other: Store | None = None

    def make(self, clock: ManualClock) -> Store:
        """One for the next node."""
        store = self._backend.store(clock)
        for name in METHODS:
            if hasattr(store, name):
                setattr(store, name, partial(self._ask, len(self.made), name, getattr(store, name)))
        self.made.append(store)
        return store

    @property
    def is_shared(self) -> bool:
        """Whether other processes may write there."""
        return self.made[0].is_shared

    # the driver's side: answers -------------------------------------------------------------------------------------

    def is_well(self, number: int) -> bool:
        """Whether a node's store answers, and has answered everything."""
        is_held = any(whose == number for whose, _ in self.calls)
        return number not in self._refusing and number not in self._holding and not is_held

    def refuse(self, number: int) -> None:
        """From now on it fails at once, whatever it is asked."""
        self._refusing.add(number)

    def hold(self, number: int) -> None:
        """From now on its answers wait in `calls`."""
        self._holding.add(number)

    def heal(self, number: int) -> None:
        """From now on it answers. What waits goes on waiting."""
        self._refusing.discard(number)
        self._holding.discard(number)

    async def release(self, number: int) -> None:
        """Whoever waits gets the answer: that of now, unless it was taken before."""
        for whose, call in self.calls.copy():
            if whose == number:
                await call.take()
                call.answer()

    def _ask(
        self, number: int, name: str, call: Callable[..., Awaitable[T]], *arguments: Any, **options: Any
    ) -> asyncio.Future[T]:
        self.asked.append((number, name))
        ask = partial(call, *arguments, **options)
        if number in self._refusing and name not in LIVES:
            return asyncio.ensure_future(_refused(name))
        if number in self._holding and name in QUESTIONS:
            return asyncio.ensure_future(self._hold(number, partial(self._answer, ask)))
        return asyncio.ensure_future(self._answer(ask))

    async def _hold(self, number: int, ask: Callable[[], Awaitable[T]]) -> T:
        call = Call("read", (), ask)
        self.calls.append((number, call))
        try:
            answer: T = await call.wait()
            return answer
        finally:
            self.calls.remove((number, call))

    async def _answer(self, ask: Callable[[], Awaitable[T]]) -> T:
        self.owed += 1
        try:
            return await ask()
        finally:
            self.owed -= 1

    # behind the nodes' back -----------------------------------------------------------------------------------------

    async def oldest(self, channel: str) -> Page:
        """The oldest publication that is kept, and the head."""
        store = self.made[0]
        return await self._answer(lambda: type(store).read(store, channel, 0, 1))

    async def let_go(self, channel: str, upto: int) -> None:
        """What is kept up to there is gone."""
        store = self.made[0]
        await self._answer(lambda: type(store).trim(store, channel, upto))

    async def sweep(self, seconds: float) -> None:
        """What is older than that is gone, in all channels."""
        store = self.made[0]
        await self._answer(lambda: type(store).sweep(store, lambda channel: seconds))

    async def replace_epoch(self, channel: str, epoch: str) -> None:
        """As a node does that finds the end of this one channel lost."""
        store: Any = self.made[0]
        await self._answer(lambda: type(store).replace_epoch(store, channel, epoch))

    async def write_and_die(self, clock: ManualClock, channel: str, data: bytes) -> Published:
        """Another process commits, and is gone before anybody hears of it."""
        if self._other is None:
            self._other = self._backend.store(clock)
            await self._answer(partial(self._other.start, Committed()))
        other = self._other
        return await self._answer(lambda: other.append(Draft(channel, Publication(data))))

    async def close(self) -> None:
        """End that process, too."""
        if self._other is not None:
            await self._answer(self._other.stop)

    async def go_back(self, tops: Mapping[str, int]) -> None:
        """The newest are lost, as by a failover: these channels end there. Everything goes on under another epoch.

        A SQLite file only while no store has it open.
        """
        if isinstance(self._backend, MemoryStores):
            _cut_memory(self._backend, tops)
        elif isinstance(self._backend, SqliteStores):
            _cut_sqlite(self._backend, tops)
            for store in self.made:
                vars(store)["_known"].clear()  # whoever opens it next is another process
        elif isinstance(self._backend, PostgresStores):
            await self._answer(partial(_cut_postgresql, self._backend, tops))


async def _refused(name: str) -> Any:
    if name == "append":
        raise PublishFailed("not published, publish again: the store is made to refuse", is_retry_safe=True)
    raise BackendError(f"{name} is refused")


def _cut_memory(stores: MemoryStores, tops: Mapping[str, int]) -> None:
    stores.logs.epoch = f"again{next(_epochs)}"
    for channel, top in tops.items():
        log = stores.logs.log(channel)
        kept = max(0, top - log.first + 1)
        del log.items[kept:], log.times[kept:]
        log.first = top - kept + 1
        log.keys = {key: offset for key, offset in log.keys.items() if offset <= top}


def _cut_sqlite(stores: SqliteStores, tops: Mapping[str, int]) -> None:
    """With fewer commits than its owner's note says: what an older copy of the file looks like."""
    with closing(sqlite3.connect(stores.path)) as file, file:
        for channel, top in tops.items():
            query = "DELETE FROM log WHERE channel = (SELECT id FROM channel WHERE name = ?) AND offset > ?"
            file.execute(query, (channel, top))
            file.execute("UPDATE channel SET top = ? WHERE name = ?", (top, channel))
        file.execute("UPDATE meta SET commits = commits - 1")


async def _cut_postgresql(stores: PostgresStores, tops: Mapping[str, int]) -> None:
    """As the first node says that connects to it after that."""
    rows = (list(tops), list(tops.values()))
    given = "unnest($1::text[], $2::bigint[]) AS given (name, top)"
    connection = await asyncpg.connect(stores.url)
    async with connection.transaction():
        await connection.execute(
            f"""DELETE FROM hubbub_log log USING {given}, hubbub_channel channel
            WHERE channel.name = given.name AND log.channel = channel.id AND log."offset" > given.top""",
            *rows,
        )
        query = f"UPDATE hubbub_channel SET top = given.top FROM {given} WHERE hubbub_channel.name = given.name"
        await connection.execute(query, *rows)
        await connection.execute("UPDATE hubbub_meta SET epoch = $1", f"again{next(_epochs)}")
    await connection.close()
