"""CPU time a delivery: one channel with many subscribers.

Answers for: row `fanout`, and the floor beside which this and other rows are measured. Each repeat measures the floor
and then the server, seconds apart, on the same core and with the same readers, and a ratio is that of one repeat: on a
shared machine the two slow down together. Refuses to know: processes (`processes`) and sockets (`clients`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks.clients import Client, Crowd, command_frame, hello, say
from benchmarks.processes import Process, Server, floor, server
from benchmarks.report import Row, against_floor
from benchmarks.scale import Scale

#: A publication's payload: with the envelope of a push about 200 bytes on the wire.
PAYLOAD = {"text": "the quick brown fox jumps over the lazy dog", "n": 1234567890, "room": "lobby"}


class Floor:
    """Plain sockets, and who tells the floor to send."""

    def __init__(self, process: Process, crowd: Crowd, count: int) -> None:
        self.process = process
        self._crowd = crowd
        self._control = crowd.add(process.port, Client(None))
        self.peers = [Client(None) for _ in range(count)]
        self._control.send(count.to_bytes(4, "big"))
        crowd.open(process.port, self.peers, at_once=50)
        crowd.until(lambda: self._control.bytes == 1, "the floor accepts")
        self._expected = 0
        self.ordered = 0.0

    def order(self, size: int = 200) -> None:
        """One send of so many bytes on each socket, from now."""
        self._expected += size
        self.ordered = time.monotonic()
        self._control.send(size.to_bytes(4, "big"))

    def round(self, size: int) -> None:
        """One order, and wait until all of it is read."""
        self.order(size)
        _until_bytes(self._crowd, self.peers, self._expected)

    def cost(self, size: int, rounds: int) -> float:
        """Microseconds of CPU for one send."""
        self.round(size)
        before = self.process.cpu()
        for _ in range(rounds):
            self.round(size)
        return (self.process.cpu() - before) / rounds / len(self.peers) * 1e6


def _until_bytes(crowd: Crowd, peers: Sequence[Client], expected: int) -> None:
    """Readers get the same in the same order, so that the last one is looked at first."""
    for peer in reversed(peers):
        crowd.until(lambda peer=peer: peer.bytes >= expected, "bytes of the floor")  # type: ignore[misc]


def until_messages(crowd: Crowd, clients: Sequence[Client], expected: int) -> None:
    """As above, in messages since a client was opened."""
    for client in reversed(clients):
        if client.messages < expected:
            crowd.until(
                lambda client=client: client.messages >= expected,  # type: ignore[misc]
                "messages of the server",
            )


# one channel, many subscribers ----------------------------------------------------------------------------------------


def fanout(scale: Scale) -> Iterator[Row]:
    """One a flush, and bursts of 16 and of 64: these against the floor that sends each by itself."""
    with floor() as process, server() as ours, Crowd() as crowd:
        plain = Floor(process, crowd, scale.clients)
        stage = Stage(crowd, ours, scale.clients)
        for burst, limit in ((1, 1.4), (16, 0.2), (64, 0.2)):
            rounds = max(2, scale.rounds // (1 if burst == 1 else 4))
            pairs = []
            reads = stage.reads
            for repeat in range(scale.repeats):
                floor_cost = plain.cost(stage.frame_size, scale.rounds)
                pairs.append((stage.cost(burst, rounds), floor_cost))
                print_progress(f"fanout {burst}", repeat, pairs[-1])
            flushes = (stage.reads - reads) / scale.clients  # an audience in step reads each by itself
            per_flush = burst * (rounds + 1) * scale.repeats / flushes
            yield against_floor(
                f"1:{scale.clients}, {'one' if burst == 1 else burst} a flush",
                pairs,
                limit,
                complete=stage.is_complete(),
                publications_a_flush=round(per_flush, 2),
                bytes_a_delivery=stage.frame_size,
            )


class Stage:
    """One publisher, and an audience that is in step before the next burst comes.

    `publish` puts so many publications into `channel` at once; else a client of the measured server does.
    """

    def __init__(
        self,
        crowd: Crowd,
        process: Server,
        count: int,
        *,
        channel: str = "stage",
        publish: Callable[[int], object] | None = None,
    ) -> None:
        self._crowd = crowd
        self._process = process
        self._publish = publish or client_publisher(crowd, process, channel)
        self._audience = [Client(hello(channel)) for _ in range(count)]
        crowd.open(process.port, self._audience)
        self._expected = self._audience[0].messages
        before = self._audience[0].bytes
        self.burst(1)
        self.frame_size = self._audience[0].bytes - before

    @property
    def reads(self) -> int:
        """How often anything came, for all together."""
        return sum(client.reads for client in self._audience)

    def is_complete(self) -> bool:
        """Whether everybody got exactly what was published."""
        return all(client.messages == self._expected for client in self._audience)

    def burst(self, size: int) -> None:
        """So many in one frame of the publisher, hence in one flush; wait until everybody has them."""
        self._publish(size)
        self._expected += size
        until_messages(self._crowd, self._audience, self._expected)

    def cost(self, burst: int, rounds: int) -> float:
        """Microseconds of CPU for one delivery."""
        self.burst(burst)
        before = self._process.cpu()
        for _ in range(rounds):
            self.burst(burst)
        return (self._process.cpu() - before) / rounds / burst / len(self._audience) * 1e6


def client_publisher(crowd: Crowd, process: Server, channel: str) -> Callable[[int], object]:
    """A client that publishes so many in one frame."""
    client = crowd.add(process.port, Client(hello()))
    return lambda size: client.send(publications(channel, size))


_frames: dict[tuple[str, int], bytes] = {}


def publications(channel: str, count: int) -> bytes:
    """So many in one frame of a client."""
    frame = _frames.get((channel, count))
    if frame is None:
        publish = json.dumps({"id": 7, "publish": {"channel": channel, "data": PAYLOAD}}, separators=(",", ":"))
        frame = _frames[channel, count] = command_frame(*[publish.encode()] * count)
    return frame


def print_progress(what: str, repeat: int, pair: tuple[float, float]) -> None:
    """Each repeat as it comes."""
    say(f"{what}, repeat {repeat + 1}: ours {pair[0]:.2f} µs, floor {pair[1]:.2f} µs")
