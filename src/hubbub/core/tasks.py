"""The tasks of one node: every one is held, watched, and ended with the node.

Answers for: no task that nobody holds, and no exception that nobody sees. Refuses to know: what they do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from hubbub.core import eager

T = TypeVar("T")

log = logging.getLogger(__name__)


class Tasks:
    """A bag of running tasks."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Awaitable[T], name: str, *, quiet: bool = False) -> asyncio.Task[T]:
        """Run `work`. A failure is logged here, unless it is `quiet` because somebody always awaits it and tells."""
        coroutine = work if isinstance(work, Coroutine) else _await(work)
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended_quietly if quiet else self._ended)
        return task

    def begin(self, coroutine: Coroutine[Any, Any, object], name: str) -> None:
        """Run `coroutine` as far as it gets without waiting, and the rest of it, if any, as a task."""
        _, rest = eager.begin(coroutine)
        if rest is not None:
            self.spawn(rest, name)

    async def stop(self) -> None:
        """Cancel all of them and wait until they are gone."""
        running = [task for task in self._running if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended_quietly(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s failed", task.get_name(), exc_info=error)


async def _await(work: Awaitable[T]) -> T:
    return await work
