"""From publish to receive: at moderate rates, and beside a client that does not read.

Answers for: rows `latency` and `slow`. A publication carries the moment at which it was sent; the moment of arrival is
taken when the reader has it in hand, so that the reader's own work is in the figure (and in the floor's).
Refuses to know: processes and sockets.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

from benchmarks.clients import Client, Crowd, Progress, command_frame, hello
from benchmarks.fanout import Floor
from benchmarks.processes import Server, floor, server
from benchmarks.report import Row, percentile
from benchmarks.scale import Scale

#: Nanoseconds since the machine started, in as many digits as it may need: all publications are of one size.
_EPOCH = 10**18

#: Row `slow`: settings of the server, and the kernel's part of the slow connection kept small, or it would take all of
#: it. What it buffers follows from segment size and congestion window; over loopback both make megabytes of it, the
#: latter once a connection was seen to be fast. Hence small segments, and a client that never was.
SLOW_CLIENT = "write_budget = 32768"
SLOW_SEGMENT, SLOW_RECEIVE = 536, 4096


def _publication(channel: str, padding: int) -> bytes:
    data = {"t": _EPOCH + time.monotonic_ns(), "text": "x" * padding}
    return command_frame({"id": 7, "publish": {"channel": channel, "data": data}})


#: p50, p99 and the longest, in milliseconds.
Delays = tuple[float, float, float]


class Watch:
    """Collects delays, in seconds, from the publications that clients receive."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    def lines(self, client: Client, lines: list[bytes]) -> None:
        """For `Client.on_lines`."""
        now = time.monotonic_ns()
        for line in lines:
            at = line.find(b'"t":')
            if at > 0:
                self.delays.append((now + _EPOCH - int(line[at + 4 : at + 23])) / 1e9)

    def take(self) -> Delays:
        """What was collected; begins anew."""
        delays = sorted(self.delays)
        self.delays.clear()
        return 1000 * percentile(delays, 0.5), 1000 * percentile(delays, 0.99), 1000 * percentile(delays, 1.0)


def at_rate(crowd: Crowd, rate: float, seconds: float, act: Callable[[], object], progress: str = "") -> int:
    """Act so many times a second, reading in between. Returns how often."""
    teller = Progress(progress)
    count = round(rate * seconds)
    started = time.monotonic()
    for number in range(count):
        while (left := started + number / rate - time.monotonic()) > 0:
            crowd.poll(left)
        act()
        if progress:
            teller.tell(lambda number=number: f"{number} of {count} published")  # type: ignore[misc]
    return count


# at a moderate rate ---------------------------------------------------------------------------------------------------


def latency(scale: Scale) -> Iterator[Row]:
    """A large audience now and then, and a small one often."""
    with server() as ours:
        for clients, rate in ((scale.clients, 20), (max(2, scale.clients // 10), 100)):
            floors = _floor_delays(clients, rate, scale)
            delays, complete = _our_delays(ours, clients, rate, scale)
            for part, name in ((0, "p50"), (1, "p99")):
                yield Row(
                    f"publish to receive, {clients} subscribers, {rate}/s, {name}",
                    "ms",
                    delays[part],
                    floors[part],
                    complete=complete,
                    details={"longest": delays[2], "floor_longest": floors[2]},
                )


def _our_delays(ours: Server, clients: int, rate: float, scale: Scale) -> tuple[Delays, bool]:
    watch = Watch()
    channel = f"stage-{clients}"
    with Crowd() as crowd:
        publisher = crowd.add(ours.port, Client(hello()))
        crowd.open(ours.port, [Client(hello(channel), watch.lines) for _ in range(clients)])

        def publish() -> None:
            publisher.send(_publication(channel, 60))

        at_rate(crowd, rate, 0.2, publish)  # to warm up
        crowd.during(scale.settle)
        watch.take()
        due = clients * at_rate(crowd, rate, scale.seconds, publish, f"latency, {clients} at {rate}/s")
        crowd.during(scale.settle)
        complete = len(watch.delays) == due
        return watch.take(), complete


def _floor_delays(clients: int, rate: float, scale: Scale) -> Delays:
    """The same, by plain sends. Rounds do not overlap at these rates."""
    watch = Watch()
    with floor() as process, Crowd() as crowd:
        plain = Floor(process, crowd, clients)
        _each_arrival(plain, watch)
        at_rate(crowd, rate, scale.seconds, plain.order)
        crowd.during(scale.settle)
        return watch.take()


def _each_arrival(plain: Floor, watch: Watch) -> None:
    for peer in plain.peers:
        peer.on_bytes = lambda: watch.delays.append(time.monotonic() - plain.ordered)


# beside a slow one ----------------------------------------------------------------------------------------------------


class Follower:
    """Checks one client's offsets: contiguous, each once."""

    def __init__(self) -> None:
        self.offset = 0
        self.is_in_order = True

    def lines(self, client: Client, lines: list[bytes]) -> None:
        """For `Client.on_lines`."""
        for line in lines:
            at = line.rfind(b'"offset":')
            if not line.startswith(b'{"push":{"channel":"recent:') or at < 0:
                continue
            end = at + 9
            while line[end : end + 1].isdigit():
                end += 1
            offset = int(line[at + 9 : end])
            self.is_in_order &= offset == self.offset + 1
            self.offset = offset


def slow(scale: Scale) -> Iterator[Row]:
    """The p99 of the others, the server's memory, and the slow one whole and in order after all."""
    with server(SLOW_CLIENT) as ours, Crowd() as crowd:
        yield from _slow(crowd, ours, scale)


def _slow(crowd: Crowd, ours: Server, scale: Scale) -> Iterator[Row]:
    watch, follower = Watch(), Follower()
    publisher = crowd.add(ours.port, Client(hello()))
    audience = [
        Client(hello("recent:slow"), watch.lines if number % 10 == 0 else None) for number in range(scale.clients)
    ]
    crowd.open(ours.port, audience)
    published = 0

    def phase(name: str) -> Delays:
        nonlocal published
        published += at_rate(
            crowd, scale.slow_rate, scale.slow_seconds, lambda: publisher.send(_publication("recent:slow", 160)), name
        )
        crowd.until(lambda: all(client.messages - 2 == published for client in audience), f"everybody has it ({name})")
        return watch.take()

    before, rss = phase("all read"), ours.memory().rss
    sluggard = _sluggard(follower, published)
    crowd.add(ours.port, sluggard)
    crowd.stop_reading(sluggard)
    beside = phase("one does not read")
    crowd.read_again(sluggard)
    crowd.until(lambda: follower.offset >= published or bool(sluggard.close_code), "the slow one catches up")
    fell_behind = ours.metrics().get("fell_behind", 0)  # if never, the kernel took all of it, and nothing was shown
    complete = follower.is_in_order and follower.offset == published
    what = f"{scale.clients} subscribers, {scale.slow_rate}/s"
    yield Row(
        f"p99 beside one that does not read for {scale.slow_seconds:g} s ({what}; floor: the same, all reading)",
        "ms",
        beside[1],
        before[1],
        "the slow one complete and in order",
        complete and fell_behind > 0,
        complete,
        details={"before": before, "beside": beside, "fell_behind": fell_behind, "slow_offset": follower.offset},
    )
    yield Row(
        "server memory at its highest meanwhile, above all reading", "KB", (ours.memory().peak - rss) / 1024, ok=None
    )


def _sluggard(follower: Follower, offset: int) -> Client:
    """A client that reads little at a time, and starts behind `offset`."""
    follower.offset = offset
    client = Client(hello("recent:slow"), follower.lines)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_RECEIVE)
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SLOW_SEGMENT)
    return client
