"""The implementations that the contract suites run against.

A new implementation adds one `BrokerBackend` or `PresenceBackend` and its name to the tuples below; no test
changes. `settle` and `pass_time` are where implementations differ: memory announces before `publish` returns
and turns a clock by hand, a server elsewhere has to be waited for and has its own time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Protocol

import pytest
from tests.backends import KINDS, RedisServer
from tests.faults import SlowBroker, SlowPresence, UnreliableBroker

from hubbub.brokers.base import Broker, BrokerEvents, Notice, StreamOptions
from hubbub.brokers.memory import Exchange, MemoryBroker
from hubbub.brokers.redis import RedisBroker
from hubbub.clock import ManualClock, SystemClock, TimerWheel
from hubbub.model import Publication
from hubbub.presence.base import Presence
from hubbub.presence.memory import MemoryPresence, Registry
from hubbub.presence.redis import RedisPresence

BROKERS = ("memory", "memory-slow", "memory-through-unreliable", *KINDS)
PRESENCES = ("memory", "memory-slow", *KINDS)


class Heard:
    """BrokerEvents that write everything down."""

    def __init__(self) -> None:
        self.announced: defaultdict[str, list[tuple[Publication, str]]] = defaultdict(list)
        self.notices: defaultdict[str, list[Notice]] = defaultdict(list)
        self.renewed: list[str] = []

    def on_publication(self, channel: str, publication: Publication, epoch: str) -> None:
        self.announced[channel].append((publication, epoch))

    def on_notice(self, channel: str, notice: Notice) -> None:
        self.notices[channel].append(notice)

    def on_cut(self) -> None:
        pass

    def on_renewed(self, channels: Iterable[str]) -> None:
        self.renewed.extend(channels)

    def offsets(self, channel: str) -> list[int]:
        return [publication.offset for publication, _ in self.announced[channel]]

    def data(self, channel: str) -> list[bytes]:
        return [publication.data for publication, _ in self.announced[channel]]


class BrokerBackend(Protocol):
    """One backend, on which any number of brokers meet."""

    def broker(self) -> Broker:
        """Another broker, not started."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Everything that expires grows older by this much."""
        ...

    async def settle(self) -> None:
        """What was announced so far has been heard."""
        ...


class MemoryBrokers:
    """Brokers on one exchange and a clock that is turned by hand."""

    def __init__(self, wrap: Callable[[MemoryBroker], Broker] = lambda broker: broker) -> None:
        self.clock = ManualClock()
        self.timers = TimerWheel(self.clock)
        self.exchange = Exchange()
        self._wrap = wrap

    def broker(self) -> Broker:
        return self._wrap(MemoryBroker(self.timers, self.exchange))

    async def pass_time(self, seconds: float) -> None:
        self.clock.move(seconds)
        self.timers.advance()

    async def settle(self) -> None:
        """Nothing to wait for: announcing is a plain call."""


#: Makes every key of a server older, as if this many milliseconds had passed. Deadlines in sorted sets are keys' own.
AGE = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key) - ARGV[1]
  if left < 0 - ARGV[1] then return redis.error_reply('key without a TTL: ' .. key) end
  if left <= 0 then redis.call('DEL', key) else redis.call('PEXPIRE', key, left) end
  if redis.call('TYPE', key).ok == 'zset' then
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -ARGV[1], member) end
  end
end
"""

#: Where the brokers of this suite find out that they have heard everything so far. No test looks there.
MARKS = "\x01marks"


class MarkedBroker(RedisBroker):
    """A broker that knows when it has heard what was published before a mark."""

    def __init__(self, url: str) -> None:
        super().__init__(url, name="hubbub", prefix="hubbub:", clock=SystemClock())
        self.marks: set[bytes] = set()
        self.is_marked = asyncio.Event()
        self._heard: BrokerEvents | None = None

    async def start(self, events: BrokerEvents) -> None:
        self._heard = events
        await super().start(self)
        await self.subscribe(MARKS)

    async def stop(self) -> None:
        self._heard = None
        await super().stop()

    async def hears(self, mark: bytes) -> None:
        while self.is_running and mark not in self.marks:
            self.is_marked.clear()
            await self.is_marked.wait()

    def on_publication(self, channel: str, publication: Publication, epoch: str) -> None:
        if channel == MARKS:
            self.marks.add(publication.data)
            self.is_marked.set()
        elif self._heard is not None:
            self._heard.on_publication(channel, publication, epoch)

    def on_notice(self, channel: str, notice: Notice) -> None:
        if self._heard is not None:
            self._heard.on_notice(channel, notice)

    def on_cut(self) -> None:
        if self._heard is not None:
            self._heard.on_cut()

    def on_renewed(self, channels: Iterable[str]) -> None:
        if self._heard is not None:
            self._heard.on_renewed([channel for channel in channels if channel != MARKS])


class RedisBrokers:
    """Brokers on one server, each with connections of its own. Time passes for the server's keys, not for us."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._brokers: list[MarkedBroker] = []
        self._marks = 0

    def broker(self) -> Broker:
        """Another one."""
        self._brokers.append(MarkedBroker(self._server.url))
        return self._brokers[-1]

    async def pass_time(self, seconds: float) -> None:
        """In steps short enough for what brokers do by themselves, if that is to be tried; or in one."""
        step = seconds if seconds > 3600 else 50.0
        while seconds > 0:
            self._server.command("EVAL", AGE, 0, int(min(step, seconds) * 1000))
            seconds -= step
            for broker in self._running():
                await broker.remind()

    async def settle(self) -> None:
        """A server sends in order: who has heard the mark has heard what was before it."""
        running = self._running()
        if running:
            self._marks += 1
            mark = b"%d" % self._marks
            await running[0].publish(MARKS, Publication(mark), StreamOptions())
            for broker in running:
                await broker.hears(mark)

    def _running(self) -> list[MarkedBroker]:
        return [broker for broker in self._brokers if broker.is_running]


class Node:
    """A running broker and what it heard."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.heard = Heard()


BrokerFactory = Callable[[int], Awaitable[list[Node]]]
PresenceFactory = Callable[[int], Awaitable[list[Presence]]]
TimePasses = Callable[[float], Awaitable[None]]
Settle = Callable[[], Awaitable[None]]


def emptied(request: pytest.FixtureRequest) -> RedisServer:
    """The shared server of the kind that is the parameter."""
    server: RedisServer = request.getfixturevalue(f"{request.param}_server")
    server.flushall()
    return server


@pytest.fixture(params=BROKERS)
def broker_backend(request: pytest.FixtureRequest) -> BrokerBackend:
    if request.param == "memory-slow":
        return MemoryBrokers(SlowBroker)
    if request.param == "memory-through-unreliable":
        return MemoryBrokers(lambda broker: UnreliableBroker(broker, is_direct=True))
    if request.param in KINDS:
        return RedisBrokers(emptied(request))
    return MemoryBrokers()


@pytest.fixture
def pass_time(broker_backend: BrokerBackend) -> TimePasses:
    """Let time pass for whatever expires."""
    return broker_backend.pass_time


@pytest.fixture
def settle(broker_backend: BrokerBackend) -> Settle:
    """Wait until what was announced has been heard."""
    return broker_backend.settle


@pytest.fixture
async def broker_factory(broker_backend: BrokerBackend) -> AsyncIterator[BrokerFactory]:
    """Start n brokers on one backend; they are stopped at the end."""
    started: list[Node] = []

    async def start(count: int) -> list[Node]:
        nodes = [Node(broker_backend.broker()) for _ in range(count)]
        for node in nodes:
            await node.broker.start(node.heard)
            started.append(node)
        return nodes

    yield start
    for node in started:
        await node.broker.stop()


@pytest.fixture(params=PRESENCES)
async def presence_factory(request: pytest.FixtureRequest) -> AsyncIterator[PresenceFactory]:
    """Start n presences that share one registry; they are stopped at the end."""
    registry = Registry()
    server = emptied(request) if request.param in KINDS else None
    started: list[Presence] = []

    async def start(count: int) -> list[Presence]:
        presences: list[Presence] = [MemoryPresence(registry) for _ in range(count)]
        if server is not None:
            presences = [RedisPresence(server.url, name="hubbub", clock=SystemClock()) for _ in range(count)]
        if request.param == "memory-slow":
            presences = [SlowPresence(presence) for presence in presences]
        for presence in presences:
            await presence.start()
            started.append(presence)
        return presences

    yield start
    for presence in started:
        await presence.stop()
