"""Plain functions as the handlers of an event loop.

Answers for: a thread for each handler, which gets one publication at a time, in order, and so holds up neither the loop
nor another handler. Refuses to know: what handlers are given, and what becomes of what they raise.

The threads are daemons: a handler that hangs does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from hubbub.errors import HubbubError


class Job:
    """A function, what it is given, and who waits for it."""

    __slots__ = ("argument", "done", "function", "loop")

    def __init__(self, function: Callable[[Any], object], argument: Any) -> None:
        self.function = function
        self.argument = argument
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()

    def run(self) -> None:
        """In the worker's thread. Raises nothing."""
        error: BaseException | None = None
        try:
            self.function(self.argument)
        except Exception as raised:
            error = raised
        except BaseException as raised:  # sys.exit() in a handler is not the end of the loop, on which this is raised
            error = HubbubError(f"a handler raised {raised!r}")
            error.__cause__ = raised
        try:
            self.loop.call_soon_threadsafe(self._settle, error)
        except RuntimeError:
            pass  # the loop has ended: the handler ran on after the last deadline

    def _settle(self, error: BaseException | None) -> None:
        if self.done.cancelled():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class Worker(threading.Thread):
    """The thread of one handler."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def run(self) -> None:
        """One job after the other, until there is None."""
        while (job := self.jobs.get()) is not None:
            job.run()
            del job  # what it was given is not kept until the next one comes


class Workers:
    """The threads of all handlers of one hub."""

    def __init__(self) -> None:
        self._all: list[Worker] = []

    def asynchronous(self, function: Callable[[Any], object]) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """The same handler for an event loop, with the same signature. It is to be called on the loop alone."""
        worker: Worker | None = None

        @functools.wraps(function)
        async def handle(publication: Any) -> None:
            nonlocal worker
            if worker is None:
                worker = Worker(f"hubbub handler {function.__qualname__}")
                worker.start()
                self._all.append(worker)
            job = Job(function, publication)
            worker.jobs.put(job)
            await job.done

        return handle

    def end(self) -> None:
        """Let the threads end, each when its handler returns."""
        for worker in self._all:
            worker.jobs.put(None)
        self._all.clear()


def is_worker() -> bool:
    """Whether a handler is asking."""
    return isinstance(threading.current_thread(), Worker)
