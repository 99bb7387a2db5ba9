"""The implementations that the contract suites run against.

A new implementation adds one `BrokerBackend` or `PresenceBackend` and its name to the tuples below; no test
changes. `settle` and `pass_time` are where implementations differ: memory announces before `publish` returns
and turns a clock by hand, a server elsewhere has to be waited for and has its own time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Protocol

import pytest
from tests.faults import SlowBroker, SlowPresence, UnreliableBroker

from hubbub.brokers.base import Broker, Notice
from hubbub.brokers.memory import Exchange, MemoryBroker
from hubbub.clock import ManualClock, TimerWheel
from hubbub.model import Publication
from hubbub.presence.base import Presence
from hubbub.presence.memory import MemoryPresence, Registry

BROKERS = ("memory", "memory-slow", "memory-through-unreliable")
PRESENCES = ("memory", "memory-slow")


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


class Node:
    """A running broker and what it heard."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.heard = Heard()


BrokerFactory = Callable[[int], Awaitable[list[Node]]]
PresenceFactory = Callable[[int], Awaitable[list[Presence]]]
TimePasses = Callable[[float], Awaitable[None]]
Settle = Callable[[], Awaitable[None]]


@pytest.fixture(params=BROKERS)
def broker_backend(request: pytest.FixtureRequest) -> BrokerBackend:
    if request.param == "memory-slow":
        return MemoryBrokers(SlowBroker)
    if request.param == "memory-through-unreliable":
        return MemoryBrokers(lambda broker: UnreliableBroker(broker, is_direct=True))
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
    started: list[Presence] = []

    async def start(count: int) -> list[Presence]:
        presences: list[Presence] = [MemoryPresence(registry) for _ in range(count)]
        if request.param == "memory-slow":
            presences = [SlowPresence(presence) for presence in presences]
        for presence in presences:
            await presence.start()
            started.append(presence)
        return presences

    yield start
    for presence in started:
        await presence.stop()
