"""The commands of many callers over one supervised connection.

Answers for: every call has one answer, whatever happens to the server: its reply, the server's error, or
`ConnectionLost`, which says whether the command may have been carried out. Calls go out in the order in which they were
made. While the connection is down, or too much is owed, they wait for their turn up to their deadline. The connection
is renewed without end. Refuses to know: what commands mean, and whether one may be repeated: the caller knows.

    P1  A call ends by its deadline, late by TICK at most; one without an answer raises DeadlinePassed.
    P2  When the connection breaks, what was sent fails at once with was_sent True; what had not left waits on.
    P3  READONLY, LOADING and MASTERDOWN are raised to their callers, and the connection is renewed at once.
    P4  A cancelled call that has not left is never sent; one that has left disturbs no other.

One timer serves all deadlines, and a waiting call is one future: the way of a call through here is what it costs.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hubbub.clock import Clock
from hubbub.errors import BackendError
from hubbub.redis.backoff import Backoff
from hubbub.redis.dialing import Refused, dial
from hubbub.redis.topology import Endpoint, Moving
from hubbub.redis.wire import ConnectionLost, DeadlinePassed, RedisError, Wire, Word, pack
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)

#: Seconds between two looks at all deadlines.
TICK = 0.1

#: Seconds that a connection must have lived for the attempts to be counted anew.
STEADY = 5.0

#: Failed attempts in a row, after which somebody is to be woken: about half a minute.
ALERT_AFTER = 15


class Script:
    """A Lua script that is sent whole once for each connection, and by its digest from then on."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        # The server's own name for it; nothing is protected by it.
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Pipeline:
    """One connection for commands. It belongs to the event loop in which it was started.

    `deadline` (seconds) is that of calls which bring none, `max_in_flight` how many replies may be owed before calls
    wait. `observer` is told `redis_reconnect` at each loss and failed attempt, and `redis_unreachable` once when it
    lasts.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Clock,
        deadline: float = 5.0,
        max_in_flight: int = 10_000,
        observer: Callable[[str], object] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._deadline = deadline
        self._max_in_flight = max_in_flight
        self._observer = observer or _nobody
        self._wire: Wire | None = None
        self._backlog: deque[tuple[bytes, asyncio.Future[Any], float]] = deque()
        self._loaded: dict[str, object] = {}  # scripts that this connection has sent, each with a mark of its sending
        self._supervisor: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._was_late = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trouble: Exception | None = None  # why there is no connection
        self._backoff = Backoff()
        self._warnings = SparingLog(log)

    # ----------------------------------------------------------------------------------------------- lifetime

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now, greeted and not known to be broken."""
        return self._wire is not None

    async def start(self) -> None:
        """Connect. Raises BackendError when that has not worked within the deadline; Refused at once."""
        assert self._supervisor is None, "started once"
        self._loop = asyncio.get_running_loop()
        wire = await self._connect_at_first(self._clock.now() + self._deadline)
        self._tick(self._clock.now())
        self._supervisor = self._loop.create_task(self._supervise(wire), name=f"redis {self._endpoint.name}")

    async def stop(self) -> None:
        """Leave. What is owed or waits fails now. Idempotent."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None or self._ticker is None:
            return
        self._ticker.cancel()
        supervisor.cancel()
        await asyncio.wait([supervisor])
        if self._wire is not None:
            self._lost(self._wire, ConnectionAbortedError("hubbub is stopping"))
            await asyncio.sleep(0)  # the socket closes in the next turn
        for _, reply, _ in self._backlog:
            if not reply.done():
                reply.set_exception(ConnectionLost(f"{self._endpoint.name}: hubbub is stopping", was_sent=False))
        self._backlog.clear()

    # -------------------------------------------------------------------------------------------------- calls

    async def call(self, *command: Word, deadline: float | None = None) -> Any:
        """The reply to a command. Raises RedisError for the server's error, ConnectionLost when there is no answer."""
        return await self._enter(command, self._clock.now() + (self._deadline if deadline is None else deadline))

    async def run(
        self, script: Script, keys: Sequence[str | bytes], arguments: Sequence[Word], deadline: float | None = None
    ) -> Any:
        """What a script returns. Raises as `call` does."""
        when = self._clock.now() + (self._deadline if deadline is None else deadline)
        sha = script.sha
        rest = (len(keys), *keys, *arguments)
        # Sent whole by the first who needs it; the others follow behind it by the digest. Should the server have
        # forgotten it meanwhile, all who were in flight are told so, and again only the first sends it whole.
        for _ in range(2):
            mark = self._loaded.get(sha)
            try:
                if mark is not None:
                    return await self._enter(("EVALSHA", sha, *rest), when)
                mark = self._loaded[sha] = object()
                return await self._enter(("EVAL", script.source, *rest), when)
            except RedisError as error:
                if error.kind != "NOSCRIPT":
                    raise
                if self._loaded.get(sha) is mark:
                    del self._loaded[sha]
        return await self._enter(("EVAL", script.source, *rest), when)

    def _enter(self, command: tuple[Word, ...], when: float) -> asyncio.Future[Any]:
        if self._loop is None or self._supervisor is None:
            raise ConnectionLost(f"{self._endpoint.name}: the pipeline is not started, or stopped", was_sent=False)
        data = pack(command)
        reply: asyncio.Future[Any] = self._loop.create_future()
        wire = self._wire
        if wire is None or self._backlog or wire.in_flight >= self._max_in_flight or not wire.is_writable:
            self._backlog.append((data, reply, when))
        else:
            wire.send(data, reply, when)
        return reply

    def _let_in(self) -> None:
        """Send what waits, as far as there is room."""
        backlog, wire = self._backlog, self._wire
        while backlog and wire is not None and wire.in_flight < self._max_in_flight and wire.is_writable:
            data, reply, when = backlog.popleft()
            if not reply.done():
                wire.send(data, reply, when)

    def _tick(self, expected: float) -> None:
        """Let deadlines pass. `expected` is when this should have been called, on the monotonic clock."""
        assert self._loop is not None, "started"
        now = self._clock.now()
        self._ticker = self._loop.call_later(TICK, self._tick, now + TICK)
        # After a stall of our own process, answers may lie unread in the socket: they are read first. Once in a row,
        # or a loop that is always late would let no deadline pass.
        self._was_late = now - expected > 3 * TICK and not self._was_late
        if self._was_late:
            return
        if self._wire is not None:
            self._wire.tick(now)
        if self._backlog:
            self._expire(now)

    def _expire(self, now: float) -> None:
        overdue = [reply for _, reply, when in self._backlog if when <= now and not reply.done()]
        for reply in overdue:
            reply.set_exception(DeadlinePassed(f"{self._endpoint.name}: {self._why_waiting()}", was_sent=False))
        if any(reply.done() for _, reply, _ in self._backlog):
            self._backlog = deque(entry for entry in self._backlog if not entry[1].done())

    def _why_waiting(self) -> str:
        if self._wire is None:
            return f"no connection in time ({self._trouble or 'lost just now'})"
        return f"{self._wire.in_flight} commands are unanswered, and this one's turn did not come in time"

    # --------------------------------------------------------------------------------------------- connection

    async def _connect_at_first(self, until: float) -> Wire:
        while True:
            try:
                async with asyncio.timeout(max(0.0, until - self._clock.now())):
                    return await self._connect()
            except Refused:
                raise
            except (BackendError, TimeoutError) as error:
                cause = self._trouble = error if isinstance(error, BackendError) else self._trouble
                delay = self._backoff.next()
                if self._clock.now() + delay >= until:
                    raise cause or BackendError(
                        f"{self._endpoint.name} did not answer within {self._deadline:g} seconds"
                    ) from error
                await asyncio.sleep(delay)

    async def _connect(self) -> Wire:
        wire = await dial(self._endpoint, self._clock, on_room=self._let_in)
        self._wire = wire
        self._loaded.clear()
        wire.lost.add_done_callback(lambda lost: self._lost(wire, lost.result()))
        self._let_in()
        return wire

    def _lost(self, wire: Wire, cause: Exception) -> None:
        """Take back what had not left. Idempotent."""
        wire.sever(cause)
        self._backlog.extendleft(reversed(wire.unsent))
        wire.unsent.clear()
        if self._wire is wire:
            self._wire = None

    async def _supervise(self, wire: Wire) -> None:
        """Keep a connection, for ever."""
        while True:
            connected_at = self._clock.now()
            self._trouble = await self._stay(wire)
            if self._clock.now() - connected_at >= STEADY:
                self._backoff.reset()
            self._tell("redis_reconnect")
            self._warn("lost", f"lost the connection: {self._trouble}")
            wire = await self._reconnect()
            self._warn("back", "connected again")

    async def _stay(self, wire: Wire) -> Exception:
        """Until the connection is lost, or to the wrong server: why it is."""
        if not isinstance(self._endpoint, Moving):
            return await asyncio.shield(wire.lost)
        moved = asyncio.ensure_future(self._endpoint.moved())
        try:
            ends: list[asyncio.Future[Any]] = [wire.lost, moved]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            moved.cancel()
        wire.sever(BackendError("the primary is another one now"))
        return wire.lost.result()

    async def _reconnect(self) -> Wire:
        while True:
            await asyncio.sleep(self._backoff.next())
            try:
                return await self._connect()
            except Exception as error:  # whatever it is: nobody else would make the next attempt
                self._trouble = error
                self._tell("redis_reconnect")
                self._warn("failed", str(error) if isinstance(error, BackendError) else repr(error))
            if self._backoff.attempt == ALERT_AFTER:
                self._tell("redis_unreachable")
                log.error("%s: unreachable after %d attempts: %s", self._endpoint.name, ALERT_AFTER, self._trouble)

    def _warn(self, kind: str, text: str) -> None:
        name, attempt = self._endpoint.name, self._backoff.attempt
        self._warnings.warning(kind, self._clock.time(), "%s (attempt %d): %s", name, attempt, text)

    def _tell(self, event: str) -> None:
        try:
            self._observer(event)
        except Exception:
            log.exception("the observer of %s failed", event)


def _nobody(event: str) -> None:
    """Hears nothing."""
