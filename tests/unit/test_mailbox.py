"""The store of one node, without a database."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, cast

import pytest

from hubbub.clock import SystemClock
from hubbub.core.mailbox import Mailbox
from hubbub.core.tasks import Tasks
from hubbub.stores.outbox import Judge, Moved


class Stuck:
    """A store whose outbox is being looked at for as long as somebody likes."""

    is_shared = True

    def __init__(self) -> None:
        self.is_asked, self.goes_on = asyncio.Event(), asyncio.Event()
        self.is_closed = False

    async def start(self, events: object) -> None:
        pass

    async def stop(self) -> None:
        await asyncio.sleep(0)  # it has something to write
        self.is_closed = True

    async def waits(self, besides: Collection[int]) -> bool:
        self.is_asked.set()
        await self.goes_on.wait()
        return False

    async def move(self, judge: Judge, limit: int, besides: Collection[int]) -> Moved:
        return Moved()


async def test_a_stop_that_somebody_gives_up_closes_the_store_all_the_same() -> None:
    store, tasks = Stuck(), Tasks()
    others: Any = None  # neither heard nor told anything
    mailbox = Mailbox(
        cast(Any, store),
        others,
        broker=others,
        namespaces=others,
        tasks=tasks,
        observer=cast(Any, Nobody()),
        clock=SystemClock(),
        admitted=others,
    )
    await mailbox.start()
    await store.is_asked.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await mailbox.stop()
    assert store.is_closed
    store.goes_on.set()
    await mailbox.stop()
    await tasks.stop()


class Nobody:
    """Counts nothing."""

    def count(self, name: str, times: int = 1) -> None:
        pass
