"""One connection for subscriptions, which proves again and again that publications arrive on it.

Answers for: saying (un)subscribe commands and knowing which answers are whose, the proof, and knowing when the
connection is lost. Refuses to know: what is wanted, and what happens after its end: who owns it makes another one.

The proof: something is published in a channel of our own that nobody else knows; then the server answers a PING on this
connection. It answers in order, so the publication must have come before. No PING alone shows that: a server can answer
and have forgotten every subscription. No time limit either: behind a megabyte of publications both come late.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from hubbub.clock import Clock
from hubbub.errors import BackendError
from hubbub.redis.dialing import dial, guarded
from hubbub.redis.sieve import PROBES
from hubbub.redis.topology import Endpoint
from hubbub.redis.wanted import Saying
from hubbub.redis.wire import ConnectionLost, RedisError, Wire, pack

#: Publishes `data` in a channel on the way that publishers take.
Publish = Callable[[bytes, bytes], Awaitable[object]]

#: Seconds between two looks at the deadlines of the wire.
TICK = 0.25

#: Seconds that a probe may take beyond the PING that follows it, where it went another way than over this connection:
#: a server that hears it from another one answers in its own order only.
GRACE = 1.0

_COMMANDS = {
    (False, True): b"SUBSCRIBE",
    (False, False): b"UNSUBSCRIBE",
    (True, True): b"PSUBSCRIBE",
    (True, False): b"PUNSUBSCRIBE",
}


class Deaf(BackendError):
    """The connection answers, and does not carry what is published."""


class _Said:
    """A subscribe command, and how many of its names are not answered yet."""

    __slots__ = ("answers", "reply")

    def __init__(self, reply: asyncio.Future[None], answers: int) -> None:
        self.reply = reply
        self.answers = answers


class Line:
    """One connection, from `open` to `close`.

    What it pushes is sorted elsewhere (`sieve`): who gets it tells the line of each probe (`probed`) and, after having
    taken it, of each answer to a subscribe command (`answered`).
    """

    def __init__(self, endpoint: Endpoint, clock: Clock, *, publish: Publish | None = None) -> None:
        self.name = endpoint.name
        self._endpoint = endpoint
        self._clock = clock
        self._publish = publish
        self._wire: Wire | None = None
        self._channel = PROBES + secrets.token_hex(8).encode()
        self._heard: asyncio.Future[None] | None = None
        self._token = b""
        self._sayings: deque[_Said] = deque()  # those that still get answers, oldest first; refused ones linger
        self._ticker: asyncio.TimerHandle | None = None

    async def open(self, on_push: Callable[[Sequence[Any]], object]) -> None:
        """Connect to a primary, and prove that the connection hears. Raises BackendError."""
        self._wire = await dial(self._endpoint, self._clock, on_push=on_push, needs_primary=True)
        self._tick()
        try:
            await self._reply(self._subscribe(b"SUBSCRIBE", [self._channel]))
            await self.prove()
        except RedisError as error:
            fix = f"ACL SETUSER <user> &{PROBES.decode()}* +subscribe +publish +ping"
            raise BackendError(f"{self.name}: whether subscriptions hear cannot be proved: {fix} ({error})") from error

    def close(self) -> None:
        """End it; nothing is pushed any more. Idempotent."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._wire is not None:
            self._wire.sever(ConnectionAbortedError("closed"))

    def guarded(self) -> AbstractAsyncContextManager[None]:
        """Meanwhile, it is cut as soon as another server is the one to ask."""
        return guarded(self._open_wire(), self._endpoint)

    async def rest(self, seconds: float) -> None:
        """Wait. Raises ConnectionLost as soon as it is lost."""
        wire = self._open_wire()
        await asyncio.wait({wire.lost}, timeout=seconds)
        if wire.lost.done():
            raise ConnectionLost(f"{self.name}: the subscription was cut: {wire.lost.result()}", was_sent=True)

    def say(self, saying: Saying, *, is_pattern: bool) -> asyncio.Future[None]:
        """Send it. The future is done after its last answer was pushed; it fails with RedisError if it is refused."""
        return self._subscribe(_COMMANDS[is_pattern, saying.on], saying.keys)

    async def prove(self) -> None:
        """Return when a publication has come here. Raises Deaf if it has not, and BackendError if the line is lost."""
        self._token = secrets.token_hex(8).encode()
        self._heard = asyncio.get_running_loop().create_future()
        await self._send_probe()
        await self._reply(self._open_wire().ask("PING", deadline=math.inf))
        if not self._heard.done():
            await asyncio.wait({self._heard}, timeout=GRACE)
        if not self._heard.done():
            await self.rest(0)  # lost is not deaf
            raise Deaf(f"{self.name}: the subscription was deaf: it answers, but a publication did not arrive on it")

    async def _send_probe(self) -> None:
        if self._publish is not None:
            try:
                await self._reply(asyncio.ensure_future(self._publish(self._channel, self._token)))
                return
            except BackendError:
                await self.rest(0)  # else that way has its own troubles, and tells them itself
        await self._reply(self._open_wire().ask("PUBLISH", self._channel, self._token, deadline=math.inf))

    async def _reply(self, reply: asyncio.Future[Any]) -> None:
        """Wait for it as long as the connection lives, which `tick` judges."""
        ends: set[asyncio.Future[Any]] = {reply, self._open_wire().lost}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not reply.done():  # it had not left
                await self.rest(0)
        finally:
            reply.cancel()  # nobody waits any more
        reply.result()

    def _subscribe(self, command: bytes, keys: Sequence[bytes]) -> asyncio.Future[None]:
        reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sayings.append(_Said(reply, len(keys)))
        self._open_wire().send(pack((command, *keys)), reply, math.inf)
        return reply

    def probed(self, channel: bytes, data: bytes) -> None:
        """A probe has come, of this line or a stranger's."""
        if (channel, data) == (self._channel, self._token) and self._heard is not None and not self._heard.done():
            self._heard.set_result(None)

    def answered(self) -> None:
        """One name of the command that is next in order was answered. What refuses a command is a reply of its own."""
        sayings = self._sayings
        while sayings and sayings[0].reply.done():
            sayings.popleft()
        if not sayings:
            self._open_wire().sever(BackendError("the server ended a subscription by itself"))
            return
        said = sayings[0]
        said.answers -= 1
        if not said.answers:
            sayings.popleft()
            self._open_wire().answered()

    def _tick(self) -> None:
        self._open_wire().tick(self._clock.now())
        self._ticker = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _open_wire(self) -> Wire:
        assert self._wire is not None, "it is opened first"
        return self._wire
