"""An event loop of our own in a thread of our own, and one hub on it.

Answers for: starting it when it is needed, doing on it what other threads ask for, within a deadline; beginning again
should it ever end by itself; and ending it. Refuses to know: what the hub is asked, and forks: a child makes its own.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, NamedTuple, TypeVar

from hubbub.app import Hubbub
from hubbub.errors import BackendError, ConfigurationError
from hubbub.sync.workers import Workers, is_worker

try:
    import uvloop
except ImportError:  # it is not on Windows
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds. The parts of a hub have shorter deadlines, and say better what is wrong: these are for what nobody foresaw.
START_DEADLINE, CALL_DEADLINE, STOP_DEADLINE = 30.0, 15.0, 15.0

#: Seconds until a loop that has ended by itself begins again.
RETRY = 1.0


class Running(NamedTuple):
    """A hub that runs, and what it runs on. All of it belongs to its loop."""

    hub: Hubbub
    workers: Workers
    loop: asyncio.AbstractEventLoop
    end: asyncio.Event


class Background:
    """One thread, one loop, one hub that `make` makes. Any thread may call.

    A start returns when `begun` has, too, which is given the running hub.
    """

    def __init__(
        self, make: Callable[[Workers], Hubbub], begun: Callable[[Hubbub], Coroutine[Any, Any, object]]
    ) -> None:
        self._make = make
        self._begun = begun
        self._changing = threading.Lock()  # starts and stops wait for each other
        self._life: _Life | None = None
        self._pid = os.getpid()

    @property
    def hub(self) -> Hubbub | None:
        """The hub, while it runs. It belongs to its loop: ask it with `call`."""
        running = self._running
        return None if running is None else running.hub

    @property
    def _running(self) -> Running | None:
        life = self._life
        return None if life is None else life.running

    def start(self) -> bool:
        """Return once the hub runs and its handlers hear: whether it was not running before.

        Raises BackendError, ConfigurationError, and what the hub's start raises.
        """
        if self._running is not None:
            return False
        with self._changing:
            if self._life is not None:
                return False
            _refuse_greenlets()
            life = _Life(self._make, self._begun)
            life.start()
            self._life = life
            atexit.register(self.stop)
            return True

    def stop(self) -> None:
        """Let handlers finish for a while, and end. Idempotent. From inside a handler it returns at once."""
        if self._pid != os.getpid():
            return  # the end of a forked child, which has no such thread
        with self._changing:
            life, self._life = self._life, None
            if life is None:
                return
            atexit.unregister(self.stop)
            life.stop(wait=not is_worker())  # a loop that waits for this very handler cannot be waited for

    def add(self, topic: str, function: Callable[[Any], object]) -> None:
        """One more handler for the hub that runs. Raises what registering it raises, and BackendError."""
        running = self._running

        async def register(hub: Hubbub) -> None:
            if running is not None:
                hub.on(topic)(running.workers.asynchronous(function))

        self.call(register)

    def call(self, work: Callable[[Hubbub], Coroutine[Any, Any, T]]) -> T:
        """What `work` returns, done on the loop. Raises what it raises, and BackendError where there is no answer."""
        self.start()
        running = self._running
        if running is None:
            raise BackendError("the hub is being stopped, or begins again: ask again")
        coroutine = work(running.hub)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, running.loop)
        except RuntimeError:
            coroutine.close()
            raise BackendError("the hub has been stopped: ask again") from None
        try:
            return future.result(CALL_DEADLINE)
        except CancelledError:
            raise BackendError("the hub was stopped before it had answered") from None
        except TimeoutError:
            if future.done():
                raise  # its own
            future.cancel()
            raise BackendError(f"the hub did not answer within {CALL_DEADLINE:g} seconds") from None


class _Life:
    """From one start to one stop."""

    def __init__(
        self, make: Callable[[Workers], Hubbub], begun: Callable[[Hubbub], Coroutine[Any, Any, object]]
    ) -> None:
        self.running: Running | None = None
        self._make = make
        self._begun = begun
        self._ready: Future[None] = Future()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._live, name="hubbub", daemon=True)

    def start(self) -> None:
        self._thread.start()
        try:
            self._ready.result(START_DEADLINE)
        except TimeoutError:
            if self._ready.done():
                raise  # its own
            self._ending.set()
            raise BackendError(f"the hub did not start within {START_DEADLINE:g} seconds") from None

    def stop(self, *, wait: bool) -> None:
        self._ending.set()
        running = self.running
        if running is not None:
            try:
                running.loop.call_soon_threadsafe(running.end.set)
            except RuntimeError:
                pass  # it has ended by itself, and begins no more
        if not wait:
            return
        self._thread.join(STOP_DEADLINE)
        if self._thread.is_alive():
            log.error("the hub did not stop within %g seconds: it is left alone", STOP_DEADLINE)

    def _live(self) -> None:
        """In the thread: until it is stopped, whatever happens."""
        while True:
            try:
                with asyncio.Runner(loop_factory=new_event_loop) as runner:
                    runner.run(self._serve())
            except BaseException as error:
                self.running = None
                if not self._ready.done():
                    self._ready.set_exception(error)
                    return
                log.exception("the event loop of the hub has failed; it begins again in %g s", RETRY)
            if self._ending.wait(RETRY):
                return

    async def _serve(self) -> None:
        workers = Workers()
        hub = self._make(workers)
        await hub.start()
        try:
            await self._begun(hub)
            end = asyncio.Event()
            self.running = Running(hub, workers, asyncio.get_running_loop(), end)
            if not self._ready.done():
                self._ready.set_result(None)
            if not self._ending.is_set():
                await end.wait()
        finally:
            self.running = None
            await hub.stop()
            workers.end()


def _refuse_greenlets() -> None:
    """A loop in a greenlet would stop all others. Raises ConfigurationError."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        raise ConfigurationError(
            "gevent has made greenlets of threads, and an event loop in one stops all others: publish and history work"
            " here; run handlers, and ask for channels and presence, in a process without gevent.monkey.patch_all()"
        )
