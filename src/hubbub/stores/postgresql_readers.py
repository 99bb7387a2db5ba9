"""Connections to PostgreSQL that are asked, some at once.

Answers for: an answer or an error within a bounded time, whatever becomes of the database; and that a connection which
had none is not asked again. Refuses to know: what is asked.

asyncpg has a pool, too: it waits for each step of a question anew (a connection, the answer, giving it back), asks the
server to forget what no reader leaves behind, and logs a traceback for each attempt in an outage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hubbub.clock import Clock
from hubbub.errors import BackendError
from hubbub.stores.base import Away
from hubbub.stores.postgresql_connecting import AWAY, DEADLINE, FAILED, PAUSE, Database, hang_up, is_answer

T = TypeVar("T")


class Readers:
    """At most `count` connections, made when they are needed. What is done on one may be done again."""

    def __init__(self, database: Database, count: int, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._turns = asyncio.Semaphore(count)
        self._idle: list[Any] = []
        self._busy: set[asyncio.Task[Any]] = set()
        self._asking: set[asyncio.Task[Any]] = set()  # those of them whose turn it is
        self._is_over = False

    async def ask(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """What `work` returns on one of the connections. Raises Away, after DEADLINE seconds at most, BackendError.

        In a task of its own: asyncpg needs one, and commands of clients have none. It goes on when its caller leaves:
        the server would, too, and its connection would not be one of `count` any more.
        """
        if self._is_over:
            raise BackendError("the store is not running")
        task = asyncio.get_running_loop().create_task(self._persist(work), name="ask the store")
        self._busy.add(task)
        task.add_done_callback(self._done)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if task not in self._asking:
                task.cancel()  # it has asked nothing yet
            raise
        if task.cancelled():
            raise BackendError("the store is not running")
        return task.result()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._busy.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it any more

    async def close(self) -> None:
        """Disconnect. What is under way has a moment to end. Idempotent."""
        self._is_over = True
        if self._busy:
            _, late = await asyncio.wait(self._busy, timeout=1)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(hang_up, idle))

    async def _persist(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        end = self._clock.now() + DEADLINE
        while True:
            try:
                async with asyncio.timeout(max(end - self._clock.now(), PAUSE)), self._turns:
                    found = await self._once(work)
                self._database.answered()
                return found
            except AWAY as error:
                self._database.missed(error)
                if self._is_over or self._clock.now() + PAUSE >= end:
                    what = str(error) or "no answer in time"
                    raise Away(f"{self._database.name} cannot be asked: {what}") from error
            except FAILED as error:
                raise BackendError(f"{self._database.name} cannot be asked: {error}") from error
            await asyncio.sleep(PAUSE)

    async def _once(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        task = asyncio.current_task()
        assert task is not None, "see `ask`"
        self._asking.add(task)
        try:
            connection = await self._connected()
            try:
                found = await work(connection)
            except BaseException as error:
                self._put_back(connection, error)
                raise
            self._idle.append(connection)
            return found
        finally:
            self._asking.discard(task)

    def _put_back(self, connection: Any, error: BaseException) -> None:
        """After an answer that is an error. Where there was none, it would be taken for that of the next one."""
        if is_answer(error) and not connection.is_closed() and not connection.is_in_transaction():
            self._idle.append(connection)
        else:
            self._database.give_up(connection)

    async def _connected(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await self._database.connect()
