"""What a message from Redis costs the process that hears it, and the node that hands it on to one client.

Answers for: row `receive`. Refuses to know: processes (`processes`) and how a library listens (`contenders`).

The publisher is a bare socket. It writes one publication and rests, so that each wakes the listener; or many in one
write, as they come when there is much to do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

from benchmarks.backend import Publisher, redis
from benchmarks.clients import Client, Crowd, hello
from benchmarks.contenders import DATA
from benchmarks.fanout import Floor, print_progress
from benchmarks.processes import Contender, Server, contender, floor, server
from benchmarks.report import Row, against_floor
from benchmarks.scale import Scale

#: Publications in one write of a busy publisher.
BURST = 32

#: Seconds between two that come one by one: the listener sleeps again by then.
REST = 0.0002

SHAPES = ((1, "one by one"), (BURST, f"{BURST} at once"))

PEER = "redis-py-listens"
OURS = (("ears", "the subscription to a callback"), ("broker-hears", "the broker to a callback"))


def receiving(scale: Scale) -> Iterator[Row]:
    """Heard by a callback, and handed on to one client."""
    yield from _heard(scale)
    yield from _handed_on(scale)


# to a callback --------------------------------------------------------------------------------------------------------


class Listener:
    """A contender that listens, with a publisher that only it hears."""

    def __init__(self, process: Contender, kind: str, port: int) -> None:
        self._process = process
        self._publisher = Publisher(port, kind, DATA)
        self._due = 0
        self.is_complete = True

    def close(self) -> None:
        """The publisher leaves."""
        self._publisher.close()

    def cost(self, bursts: int, at_once: int) -> float:
        """Microseconds of CPU for one message."""
        self._burst(1, at_once)
        before = self._process.cpu()
        self._burst(bursts, at_once)
        return (self._process.cpu() - before) / bursts / at_once * 1e6

    def _burst(self, bursts: int, at_once: int) -> None:
        for _ in range(bursts):
            self._publisher.publish(at_once)
            if at_once == 1:
                time.sleep(REST)
        self._due += bursts * at_once
        self.is_complete &= self._process.obey(heard=self._due) == self._due


def _heard(scale: Scale) -> Iterator[Row]:
    with redis() as backend, ExitStack() as stack:
        listeners = {}
        for kind in (PEER, *(kind for kind, _ in OURS)):
            process = stack.enter_context(contender(kind, backend.url))
            listeners[kind] = Listener(process, kind, backend.port)
            stack.callback(listeners[kind].close)
        for at_once, shape in SHAPES:
            yield from _compare(listeners, at_once, shape, scale)


def _compare(listeners: dict[str, Listener], at_once: int, shape: str, scale: Scale) -> Iterator[Row]:
    bursts = max(1, scale.calls * (1 if at_once == 1 else 10) // at_once)
    pairs: dict[str, list[tuple[float, float]]] = {kind: [] for kind, _ in OURS}
    for repeat in range(scale.repeats):
        peer = listeners[PEER].cost(bursts, at_once)
        for kind, what in OURS:
            pairs[kind].append((listeners[kind].cost(bursts, at_once), peer))
            print_progress(f"receive, {what}, {shape}", repeat, pairs[kind][-1])
    for kind, what in OURS:
        complete = listeners[kind].is_complete and listeners[PEER].is_complete
        name = f"receive, {what}, {shape} (floor: redis-py, `listen()`)"
        yield against_floor(name, pairs[kind], None, complete=complete, per="message")


# to a client ----------------------------------------------------------------------------------------------------------


class Reader:
    """A client of a node, the only one, and who publishes for it into Redis."""

    def __init__(self, crowd: Crowd, ours: Server, port: int) -> None:
        self._crowd = crowd
        self._ours = ours
        self._client = crowd.add(ours.port, Client(hello("news")))
        self._publisher = Publisher(port, "news", DATA)
        self._due = self._client.messages
        before = self._client.bytes
        self._pass(1, 1)
        self.frame_size = self._client.bytes - before

    @property
    def is_complete(self) -> bool:
        """Whether it has exactly what was published."""
        return self._client.messages == self._due

    def close(self) -> None:
        """The publisher leaves."""
        self._publisher.close()

    def cost(self, rounds: int, at_once: int) -> float:
        """Microseconds of the node's CPU for one message."""
        self._pass(1, at_once)
        before = self._ours.cpu()
        self._pass(rounds, at_once)
        return (self._ours.cpu() - before) / rounds / at_once * 1e6

    def _pass(self, rounds: int, at_once: int) -> None:
        for _ in range(rounds):
            self._publisher.publish(at_once)
            self._due += at_once
            self._crowd.until(lambda: self._client.messages >= self._due, "what was published")


def _handed_on(scale: Scale) -> Iterator[Row]:
    with redis() as backend, floor() as process, server(broker=backend.url) as ours, Crowd() as crowd:
        plain = Floor(process, crowd, 1)
        with closing(Reader(crowd, ours, backend.port)) as reader:
            for at_once, shape in SHAPES:
                rounds = scale.calls if at_once == 1 else scale.calls * 10 // at_once
                name = f"receive and hand on to one client, {shape}"
                pairs = []
                for repeat in range(scale.repeats):
                    floor_cost = plain.cost(reader.frame_size, scale.calls)
                    pairs.append((reader.cost(rounds, at_once), floor_cost))
                    print_progress(name, repeat, pairs[-1])
                yield against_floor(
                    f"{name} (floor: one read and one send of as many bytes)",
                    pairs,
                    None,
                    complete=reader.is_complete,
                    per="message",
                )
