"""A few connections for the threads of a process without an event loop.

Answers for: never more than `largest` connections, one question at a time on each; waiting for a free one and for its
reply no longer than the caller's deadline; not asking one that died while nobody used it; and leaving those that lead
to a server which is not the one to ask any more. Refuses to know: what commands mean, and whether to ask again.

Threads share it; a forked child makes its own, and closes its copies of these sockets with `forsake`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from hubbub.clock import Clock
from hubbub.errors import BackendError
from hubbub.redis.blocking import BlockingWire, Command
from hubbub.redis.dialing import Refused, _refusal, is_replica
from hubbub.redis.outages import ALERT_AFTER
from hubbub.redis.pipeline import Script
from hubbub.redis.topology import SENTINEL_EVERY, Address, MovingAddress
from hubbub.redis.wire import RENEWING, REPLICA, ConnectionLost, RedisError, Word
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)

#: Seconds without use, after which a connection is asked whether it lives before it is asked anything else: what
#: stands between us and the server may have forgotten it. And how long it has to say so.
IDLE, PING_DEADLINE = 15.0, 1.0

#: Seconds without use, after which a connection beyond the smallest number is closed.
SPARE = 60.0

#: Seconds that Sentinels get to say who the primary is; and between two questions, at most, if they say nothing.
LOOK_DEADLINE, LOOK_EVERY = 0.3, 30.0


class Pool:
    """Connections to `address`. It keeps up to `smallest` of them however long nobody asks, and never has more than
    `largest`. Nothing is connected before the first question.
    """

    def __init__(self, address: Address, *, clock: Clock, smallest: int, largest: int) -> None:
        self.failures = 0  # to connect, since it last worked
        self._failing_since = 0.0
        self._is_alarmed = False
        self._address = address
        self._clock = clock
        self._smallest = smallest
        self._largest = largest
        self._changed = threading.Condition()
        self._idle: deque[BlockingWire] = deque()  # the last one used at the end
        self._open = 0  # idle, at work, and being connected
        self._age = 0  # counts renewals
        self._at_work: set[BlockingWire] = set()
        self._moving = address if isinstance(address, MovingAddress) else None
        self._look_again, self._look_every = 0.0, SENTINEL_EVERY
        self._warnings = SparingLog(log)

    def call(self, command: Command, end: float) -> Any:
        """The reply to a command, by `end` on the monotonic clock.

        Raises RedisError for the server's error, ConnectionLost where there is no reply, Refused where the server will
        not have us.
        """
        wire = self._take(end)
        try:
            return wire.ask(command, end)
        except RedisError as error:
            self._look_at(error, wire)
            raise
        finally:
            self._give_back(wire)

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Word], end: float) -> Any:
        """What a script returns. Raises as `call` does."""
        rest = (len(keys), *keys, *arguments)
        wire = self._take(end)
        try:
            if script.sha in wire.loaded:
                try:
                    return wire.ask(("EVALSHA", script.sha, *rest), end)
                except RedisError as error:
                    if error.kind != "NOSCRIPT":
                        raise
            reply = wire.ask(("EVAL", script.source, *rest), end)
            wire.loaded.add(script.sha)
            return reply
        except RedisError as error:
            self._look_at(error, wire)
            raise
        finally:
            self._give_back(wire)

    def close(self) -> None:
        """Close what nobody uses, and the others when they come back. The next question connects anew."""
        with self._changed:
            left, self._idle = self._idle, deque()
            self._open -= len(left)
            self._age += 1
            self._changed.notify_all()
        for wire in left:
            wire.close()

    def forsake(self) -> None:
        """In a forked child: close the child's copies. The parent's connections do not notice. Takes no lock, since
        one that was held by another thread at the fork is held for ever.
        """
        for wire in [*self._idle, *self._at_work]:
            wire.close()

    # --- one connection

    def _take(self, end: float) -> BlockingWire:
        """One that is ready, for the caller alone."""
        if self._moving is not None:
            self._look_where(self._moving, end)
        while (wire := self._idle_one(end)) is not None:
            try:
                is_alive = self._is_alive(wire, end)
            except BaseException:  # a signal's handler: its place is not to be taken for ever
                self._let_go(wire)
                raise
            if is_alive:
                return wire
            self._let_go(wire)
        try:
            wire = self._connect(end)
        except BaseException:
            with self._changed:
                self._open -= 1
                self._changed.notify()
            raise
        self._at_work.add(wire)
        return wire

    def _idle_one(self, end: float) -> BlockingWire | None:
        """The one that was used last; None: there is room for another, and it is the caller's to connect."""
        with self._changed:
            while not self._idle and self._open >= self._largest:
                left = end - self._clock.now()
                if left <= 0 or not self._changed.wait(left):
                    raise ConnectionLost(
                        f"{self._address.name}: all {self._largest} connections are in use, and none became free in"
                        " time: raise pool_max",
                        was_sent=False,
                    )
            if self._idle:
                wire = self._idle.pop()
                self._at_work.add(wire)
                return wire
            self._open += 1
            return None

    def _is_alive(self, wire: BlockingWire, end: float) -> bool:
        if not wire.is_quiet():
            return False
        now = self._clock.now()
        if now - wire.used < IDLE:
            return True
        try:
            wire.ask(("PING",), min(end, now + PING_DEADLINE))
        except (ConnectionLost, RedisError):
            return False
        return True

    def _give_back(self, wire: BlockingWire) -> None:
        spare = None
        with self._changed:
            self._at_work.discard(wire)
            if wire.is_closed or wire.age != self._age:
                self._open -= 1
                spare = wire
            else:
                self._idle.append(wire)
                if self._open > self._smallest and self._idle[0].used < self._clock.now() - SPARE:
                    self._open -= 1
                    spare = self._idle.popleft()
            self._changed.notify()
        if spare is not None:
            spare.close()

    def _let_go(self, wire: BlockingWire) -> None:
        wire.close()
        self._give_back(wire)

    def _look_at(self, error: RedisError, wire: BlockingWire) -> None:
        """Another server, or this one later, is the one to ask: none of these connections leads there."""
        if error.kind in RENEWING and wire.age == self._age:
            self._warnings.warning(error.kind, self._clock.now(), "%s: %s: connecting anew", wire.name, error)
            self.close()

    def _look_where(self, moving: MovingAddress, end: float) -> None:
        """After a planned failover the old primary goes on for seconds, and takes what will be lost."""
        with self._changed:
            now = self._clock.now()
            if now < self._look_again or not self._open:  # a new connection asks anyway
                return
            self._look_again = now + self._look_every
        has_moved = moving.has_moved(min(LOOK_DEADLINE, end - now))
        self._look_every = SENTINEL_EVERY if has_moved is not None else min(2 * self._look_every, LOOK_EVERY)
        if has_moved:
            self._warnings.warning("moved", now, "%s: the primary is another one now", self._address.name)
            self.close()

    # --- connecting

    def _connect(self, end: float) -> BlockingWire:
        """Raises Refused, and ConnectionLost for whatever may be better in a moment."""
        try:
            wire = self._greeted(end)
        except Refused:
            raise
        except BackendError as error:
            self._failed(error)
            raise ConnectionLost(str(error), was_sent=False) from error
        if self.failures:
            self._warnings.warning("back", self._clock.now(), "%s: reachable again", wire.name)
            self.failures = 0
            self._is_alarmed = False
        return wire

    def _greeted(self, end: float) -> BlockingWire:
        age = self._age
        connected = self._address.connect(max(end - self._clock.now(), 0.001))
        wire = BlockingWire(self._address.name, connected, clock=self._clock)
        wire.age = age
        commands: list[list[Word]] = [*self._address.hello(), ["PING"]]
        try:
            _judge(wire.name, commands, wire.converse(commands, end))
        except BaseException:
            wire.close()
            raise
        return wire

    def _failed(self, error: BackendError) -> None:
        now = self._clock.now()
        if not self.failures:
            self._failing_since = now
        self.failures += 1
        self._warnings.warning("failed", now, "attempt %d: %s", self.failures, error)
        down = now - self._failing_since
        if down >= ALERT_AFTER and not self._is_alarmed:
            self._is_alarmed = True
            log.error("%s: unreachable for %.1f s and %d attempts: %s", self._address.name, down, self.failures, error)


def _judge(name: str, commands: Sequence[list[Word]], answers: Sequence[Any]) -> None:
    for command, answer in zip(commands, answers, strict=True):
        if isinstance(answer, RedisError):
            raise _refusal(name, command, answer) from answer
        if command == ["ROLE"] and answer[0] != b"master":
            raise BackendError(f"{name}: whom the Sentinels named is a {answer[0].decode()}, not the primary")
    if is_replica(answers[0]):  # it would refuse some, and take announcements that reach nobody
        raise BackendError(f"{name}: {REPLICA}")
