"""The commands of many callers over one supervised connection.

Answers for: every call has one answer, whatever happens to the server: its reply, the server's error, or
`ConnectionLost`, which says whether the command may have been carried out. Calls go out in the order in which they were
made. While the connection is down, or too much is owed, they wait for their turn up to their deadline, in an outbox of
a certain size. The connection is renewed without end. Refuses to know: what commands mean, and whether one may be
repeated: the caller knows.

    P1  A call ends by its deadline, late by TICK at most; one without an answer raises DeadlinePassed.
    P2  When the connection breaks, what was sent fails at once with was_sent True; what had not left waits on.
    P3  READONLY, LOADING and MASTERDOWN are raised to their callers, and the connection is renewed at once. So it is
        when the server has become a replica without refusing anything, and no replica is taken for a lost primary. Only
        the first connection may be to one: who looks at servers looks at replicas, too.
    P4  A cancelled call that has not left is never sent; one that has left disturbs no other.
    P5  What waits is bounded in bytes. A call beyond that fails at once with OutboxFull: it was not sent, and to ask
        again is of no use before others have had their answers.
    P6  A call with `patience` that finds no connection waits until there has been none for so long, and no longer.

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
from hubbub.redis.dialing import Refused, dial, guarded
from hubbub.redis.outages import Outages
from hubbub.redis.topology import Endpoint
from hubbub.redis.wire import ConnectionLost, DeadlinePassed, OutboxFull, RedisError, Wire, Word, pack
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)

#: Seconds between two looks at all deadlines.
TICK = 0.1

#: Seconds that a connection must have lived for the attempts to be counted anew.
STEADY = 5.0

#: Bytes of commands that wait while the server is away or does not read: some seconds of a busy node.
MAX_WAITING = 64 << 20

#: Bytes that a waiting call costs besides its command: a future, and its place.
PLACE = 512


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
    wait, `max_waiting` how many bytes of them may. `part` is what the log calls the connection. `observer` is told
    `redis_outbox_full` for each call that is not taken, and what `outages` count, unless those are shared with other
    connections to this server.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Clock,
        deadline: float = 5.0,
        max_in_flight: int = 10_000,
        max_waiting: int = MAX_WAITING,
        part: str = "commands",
        observer: Callable[[str], object] | None = None,
        outages: Outages | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._deadline = deadline
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self._part = part
        self._observer = observer
        self._outages = outages or Outages(clock=clock, count=observer)
        self._wire: Wire | None = None
        self._backlog: deque[tuple[bytes, asyncio.Future[Any], float]] = deque()
        self._waiting = 0  # bytes of the backlog
        self._is_full = False
        self._loaded: dict[str, object] = {}  # scripts that this connection has sent, each with a mark of its sending
        self._supervisor: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._was_late = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trouble: Exception | None = None  # why there is no connection
        self._lost_at = 0.0  # when the last one was lost
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
        self._backoff.reset()
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
        self._outages.leave(self._part)
        if self._wire is not None:
            self._lost(self._wire, ConnectionAbortedError("hubbub is stopping"))
            await asyncio.sleep(0)  # the socket closes in the next turn
        for _, reply, _ in self._backlog:
            if not reply.done():
                reply.set_exception(ConnectionLost(f"{self._endpoint.name}: hubbub is stopping", was_sent=False))
        self._backlog.clear()
        self._waiting = 0

    # -------------------------------------------------------------------------------------------------- calls

    def call(self, *command: Word, deadline: float | None = None) -> asyncio.Future[Any]:
        """The reply to a command. Raises RedisError for the server's error, ConnectionLost when there is no answer.

        OutboxFull, which is a ConnectionLost, says that it was not taken (P5), and is raised without awaiting. A future
        and no coroutine, since a coroutine costs half a microsecond.
        """
        return self._enter(command, self._clock.now() + (self._deadline if deadline is None else deadline))

    async def run(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        arguments: Sequence[Word],
        deadline: float | None = None,
        *,
        patience: float | None = None,
    ) -> Any:
        """What a script returns. Raises as `call` does.

        `patience` (seconds) is for who would rather hear soon that there is no connection (P6).
        """
        when = self._clock.now() + (self._deadline if deadline is None else deadline)
        if patience is not None and self._wire is None:
            when = min(when, self._lost_at + patience)
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
        wire = self._wire
        if wire is not None and not self._backlog and wire.in_flight < self._max_in_flight and wire.is_writable:
            data = pack(command)
            reply: asyncio.Future[Any] = self._loop.create_future()
            wire.send(data, reply, when)
            return reply
        self._check_room(command)  # before it is packed: who is refused shall cost nothing
        data = pack(command)
        reply = self._loop.create_future()
        self._backlog.append((data, reply, when))
        self._waiting += len(data) + PLACE
        return reply

    def _check_room(self, command: tuple[Word, ...]) -> None:
        size = PLACE + sum(len(word) for word in command if isinstance(word, bytes | str))
        if self._waiting + size > self._max_waiting:
            text = (
                f"{self._endpoint.name}: {self._waiting >> 10} KiB of commands wait already ({self._why_waiting()}): "
                "publish less at once, or again later"
            )
            self._refuse(text)
            raise OutboxFull(text)

    def _refuse(self, text: str) -> None:
        """Count it, and say so once until all that waits has left."""
        if not self._is_full:
            self._is_full = True
            self._warnings.warning("full", self._clock.now(), "calls are refused: %s", text)
        try:
            if self._observer is not None:
                self._observer("redis_outbox_full")
        except Exception:
            log.exception("who counts refused calls failed")

    def _let_in(self) -> None:
        """Send what waits, as far as there is room."""
        backlog, wire = self._backlog, self._wire
        while backlog and wire is not None and wire.in_flight < self._max_in_flight and wire.is_writable:
            data, reply, when = backlog.popleft()
            self._waiting -= len(data) + PLACE
            if not reply.done():
                wire.send(data, reply, when)
        if not backlog:
            self._is_full = False

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
            reply.set_exception(
                DeadlinePassed(f"{self._endpoint.name}: not sent in time: {self._why_waiting()}", was_sent=False)
            )
        if any(reply.done() for _, reply, _ in self._backlog):
            self._backlog = deque(entry for entry in self._backlog if not entry[1].done())
            self._waiting = sum(len(data) + PLACE for data, _, _ in self._backlog)
            self._is_full = self._is_full and bool(self._backlog)

    def _why_waiting(self) -> str:
        if self._wire is None:
            return f"no connection ({self._trouble or 'lost just now'})"
        return f"{self._wire.in_flight} commands are unanswered"

    # --------------------------------------------------------------------------------------------- connection

    async def _connect_at_first(self, until: float) -> Wire:
        while True:
            try:
                async with asyncio.timeout(max(0.0, until - self._clock.now())):
                    return await self._connect(needs_primary=False)
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

    async def _connect(self, *, needs_primary: bool) -> Wire:
        wire = await dial(self._endpoint, self._clock, on_room=self._let_in, needs_primary=needs_primary)
        self._wire = wire
        self._loaded.clear()
        wire.lost.add_done_callback(lambda lost: self._lost(wire, lost.result()))
        self._let_in()
        return wire

    def _lost(self, wire: Wire, cause: Exception) -> None:
        """Take back what had not left; there is room for it, whatever waits. Idempotent."""
        wire.sever(cause)
        self._backlog.extendleft(reversed(wire.unsent))
        self._waiting += sum(len(data) + PLACE for data, _, _ in wire.unsent)
        wire.unsent.clear()
        if self._wire is wire:
            self._wire = None
            self._lost_at = self._clock.now()

    async def _supervise(self, wire: Wire) -> None:
        """Keep a connection, for ever."""
        while True:
            connected_at = self._clock.now()
            async with guarded(wire, self._endpoint):
                self._trouble = await asyncio.shield(wire.lost)
            if self._clock.now() - connected_at >= STEADY:
                self._backoff.reset()
            self._outages.lost(self._part, self._endpoint.name, self._trouble)
            wire = await self._reconnect()
            self._outages.back(self._part, self._endpoint.name, self._backoff.attempt)

    async def _reconnect(self) -> Wire:
        while True:
            await asyncio.sleep(self._backoff.next())
            try:
                return await self._connect(needs_primary=True)
            except Exception as error:  # whatever it is: nobody else would make the next attempt
                self._trouble = error
                cause = error if isinstance(error, BackendError) else repr(error)
                self._outages.failed(self._part, self._endpoint.name, self._backoff.attempt, cause)
