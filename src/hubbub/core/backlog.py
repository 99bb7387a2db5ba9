"""Reading one channel back for those who return: one read at a time, and each serves everybody whom it reaches.

Answers for: whose turn it is, where a read begins so that many share it, and that nothing is read for who has given up.
Refuses to know: how it is read, what becomes of a page, and what a position means.

Whoever came first is served first, so nobody starves; but the read begins at the oldest position nearby that is wanted
too, where that reaches so far. How far a page reaches is known only when it is there: it ends at its limit of bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hubbub.core.tasks import Tasks
from hubbub.errors import BackendError
from hubbub.source import Page

T = TypeVar("T")


class Wish:
    """A position from which somebody wants to read on."""

    __slots__ = ("page", "waiting")

    def __init__(self) -> None:
        self.page: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        self.waiting = 0  # how many


class Backlog:
    """What is wanted of one channel. `nearby` is how many offsets before another one a read may begin for its sake."""

    __slots__ = ("_name", "_nearby", "_read", "_reading", "_tasks", "_wishes")

    def __init__(self, read: Callable[[int], Awaitable[Page]], *, tasks: Tasks, name: str, nearby: int) -> None:
        self._read = read
        self._tasks = tasks
        self._name = name
        self._nearby = nearby
        self._wishes: dict[int, Wish] = {}  # in the order in which they came
        self._reading: asyncio.Task[None] | None = None

    async def page(self, after: int, patience: float) -> Page:
        """A page in which the next one after that offset is, if there is any; older ones may come before it.

        Raises BackendError where it cannot be read, TimeoutError after `patience` seconds.
        """
        wish = self._wishes.get(after)
        if wish is None:
            wish = self._wishes[after] = Wish()
        if self._reading is None:
            self._reading = self._tasks.spawn(self._read_all(), f"read back {self._name}")
        wish.waiting += 1
        try:
            return await within(wish.page, patience)
        finally:
            wish.waiting -= 1
            if not wish.waiting and not wish.page.done():
                del self._wishes[after]

    async def _read_all(self) -> None:
        failure = BackendError("reading back has ended")
        was_passed_over = False
        try:
            while self._wishes:
                first = next(iter(self._wishes))
                start = first if was_passed_over else self._shared_start(first)
                self._hand_out(await self._read(start), start)
                was_passed_over = first in self._wishes
        except BackendError as error:
            failure = error
        finally:
            self._reading = None
            wishes, self._wishes = self._wishes, {}
            for wish in wishes.values():
                wish.page.set_exception(failure)
                wish.page.exception()  # seen: they may have given up

    def _shared_start(self, first: int) -> int:
        return min(after for after in self._wishes if first - self._nearby <= after <= first)

    def _hand_out(self, page: Page, start: int) -> None:
        """To all whom it reaches: what begins before them, and goes on behind them or ends with the channel."""
        last = page.publications[-1].offset if page.publications else page.head.offset
        is_all = last >= page.head.offset
        served = [after for after in self._wishes if after == start or (after > start and (is_all or after < last))]
        for after in served:
            self._wishes.pop(after).page.set_result(page)


async def within(future: asyncio.Future[T], seconds: float) -> T:
    """The result of what goes on in any case. Raises TimeoutError.

    Not `wait_for`: from Python 3.12 on that is tied to the current task, which what was begun eagerly has not.
    """
    done, _ = await asyncio.wait([future], timeout=seconds)
    if not done:
        raise TimeoutError
    return future.result()
