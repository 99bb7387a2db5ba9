"""CPU time a delivery where each channel has one subscriber.

Answers for: rows `one-to-one` and `echo`, each beside the floor and beside bare picows, measured seconds before, on the
same core, under the same load. Refuses to know: processes (`processes`) and sockets (`clients`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Protocol

from benchmarks.clients import Client, Crowd, hello
from benchmarks.fanout import Floor, print_progress, publications, until_messages
from benchmarks.processes import Process, bare, floor, server
from benchmarks.report import Row, against_floor
from benchmarks.scale import Scale

#: Connections that publish for others, as busy users do: many commands in one read, each in a frame of its own.
PUBLISHERS = 10

#: How many times the floor a delivery may cost. Beside the library nothing is promised: it does less.
LIMIT = 3.0


class Load(Protocol):
    """One delivery in each channel a round. `size` is how many bytes a client is sent for it."""

    size: int

    def rounds(self, count: int) -> bool:
        """So many. True if everybody got what was due."""
        ...


class Echo:
    """Everybody publishes in a channel of their own, and again as soon as publication and reply are there."""

    def __init__(self, process: Process, crowd: Crowd, scale: Scale) -> None:
        self._crowd = crowd
        clients = [Client(hello(f"own-{number}")) for number in range(scale.clients)]
        self._crowd.open(process.port, clients)
        self._frames = {client.sock.fileno(): publications(f"own-{at}", 1) for at, client in enumerate(clients)}
        before = clients[-1].bytes
        self.rounds(1)
        self.size = clients[-1].bytes - before

    def rounds(self, count: int) -> bool:
        """Each client so often, all at once."""
        crowd, frames = self._crowd, self._frames
        clients = crowd.clients
        ends = {fd: clients[fd].messages + 2 * count for fd in frames}
        for fd, frame in frames.items():
            clients[fd].goal = clients[fd].messages + 2
            clients[fd].send(frame)
        left = len(frames)
        while left:
            events = crowd.epoll.poll(10.0)
            if not events:
                return False
            for fd, _ in events:
                client = clients[fd]
                client.readable()
                if client.messages >= client.goal:
                    if client.messages >= ends[fd]:
                        left -= 1
                    else:
                        client.goal += 2
                        client.send(frames[fd])
        return all(clients[fd].messages == end for fd, end in ends.items())


class FromAFew:
    """A few publishers write one publication into each channel and wait for their replies; one subscriber a channel."""

    def __init__(self, process: Process, crowd: Crowd, scale: Scale) -> None:
        self._crowd = crowd
        audience = [Client(hello(f"own-{number}")) for number in range(scale.clients)]
        self._publishers = [Client(hello()) for _ in range(min(PUBLISHERS, scale.clients))]
        self._everybody = [*audience, *self._publishers]
        self._crowd.open(process.port, self._everybody)
        shares: list[list[bytes]] = [[] for _ in self._publishers]
        for number in range(scale.clients):
            shares[number % len(shares)].append(publications(f"own-{number}", 1))
        self._frames = [b"".join(share) for share in shares]
        self._due = [1] * len(audience) + [len(share) for share in shares]
        before = audience[-1].bytes
        self.rounds(1)
        self.size = audience[-1].bytes - before

    def rounds(self, count: int) -> bool:
        """One after the other."""
        begin = [client.messages for client in self._everybody]
        for number in range(1, count + 1):
            for publisher, frame in zip(self._publishers, self._frames, strict=True):
                publisher.send(frame)
            for client, start, due in zip(self._everybody, begin, self._due, strict=True):
                until_messages(self._crowd, [client], start + number * due)
        return all(
            client.messages == start + count * due
            for client, start, due in zip(self._everybody, begin, self._due, strict=True)
        )


def one_to_one(scale: Scale) -> Iterator[Row]:
    """From a few, with replies."""
    yield from _play(f"1:1 in {scale.clients} channels, {PUBLISHERS} publishers, with replies", FromAFew, scale)


def echo(scale: Scale) -> Iterator[Row]:
    """Everybody to themselves."""
    yield from _play(f"1:1 in {scale.clients} channels, publish and reply", Echo, scale)


def _play(name: str, load: Callable[[Process, Crowd, Scale], Load], scale: Scale) -> Iterator[Row]:
    with ExitStack() as stack:
        floor_process, peer, ours = (stack.enter_context(each()) for each in (floor, bare, server))
        crowds = [stack.enter_context(Crowd()) for _ in range(3)]  # closed first
        plain = Floor(floor_process, crowds[0], scale.clients)
        beside, mine = load(peer, crowds[1], scale), load(ours, crowds[2], scale)
        floors, peers = [], []
        complete = True
        for repeat in range(scale.repeats):
            floor_cost = plain.cost(mine.size, scale.rounds)
            peer_cost, _ = _cost(peer, beside, scale)
            cost, was_complete = _cost(ours, mine, scale)
            complete &= was_complete
            floors.append((cost, floor_cost))
            peers.append((cost, peer_cost))
            print_progress(name, repeat, floors[-1])
        yield against_floor(name, floors, LIMIT, complete=complete, bytes_a_delivery=mine.size)
        yield against_floor(f"{name} (floor: bare picows)", peers, None, complete=complete)


def _cost(process: Process, load: Load, scale: Scale) -> tuple[float, bool]:
    """Microseconds of CPU for one delivery, and whether all arrived."""
    before = process.cpu()
    complete = load.rounds(scale.rounds)
    return (process.cpu() - before) / scale.rounds / scale.clients * 1e6, complete
