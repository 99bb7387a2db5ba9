"""A crowd that returns in the moment in which Redis does.

Answers for: row `outage`. Refuses to know: processes (`processes`) and sockets (`clients`).

Everybody is cut off; some publications are made that they miss; Redis stops answering, as one that swaps or forks does;
a publisher goes on trying; and when Redis goes on, all come back at once with their old position, while the server is
still renewing its own connections. What was tried may have been published or not: what the stream holds in the end is
the truth, and everybody must have exactly this.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.backend import Redis, redis
from benchmarks.clients import Client, Crowd, Progress, command_frame, hello, say
from benchmarks.processes import Server, server
from benchmarks.report import Row
from benchmarks.scale import Scale

CHANNEL = "recent:all"

#: Publications that the crowd misses, and as many that are tried while Redis is away.
MISSED = 5

#: Seconds until a client asks again that was told that the server cannot answer now.
AGAIN = 0.2

_PUBLISH = {"publish": {"channel": CHANNEL, "data": {"text": "hello again"}}}


class Returning:
    """Clients that have been here before, and what each got since."""

    def __init__(self, epoch: str) -> None:
        self.got: dict[Client, list[int]] = {}
        self.recovered = 0
        self.refusals = 0
        self.lost: list[bytes] = []
        self.first = 0.0
        self._again: list[tuple[float, Client]] = []
        self._since = {"channel": CHANNEL, "recover": True, "epoch": epoch, "offset": 1}
        self.greeting = hello(CHANNEL, recover=True, epoch=epoch, offset=1)

    def client(self) -> Client:
        """One of them."""
        client = Client(self.greeting, self.lines)
        self.got[client] = []
        return client

    def lines(self, client: Client, lines: list[bytes]) -> None:
        """For `Client.on_lines`."""
        for line in lines:
            if line.startswith(b'{"push":'):
                self.got[client].append(json.loads(line)["push"]["pub"]["offset"])
            elif line.startswith(b'{"id":2,'):
                self._answer(client, line)

    def _answer(self, client: Client, line: bytes) -> None:
        reply = json.loads(line)
        if reply.get("error", {}).get("temporary"):
            self.refusals += 1
            self._again.append((time.monotonic() + AGAIN, client))
        elif reply.get("subscribe", {}).get("recovered"):
            self.recovered += 1
            self.first = self.first or time.monotonic()
            self.got[client] += [publication["offset"] for publication in reply["subscribe"].get("publications", [])]
        else:
            self.lost.append(line)

    def ask_again(self) -> None:
        """Those whose time has come."""
        now = time.monotonic()
        due = [client for when, client in self._again if when <= now]
        self._again = [(when, client) for when, client in self._again if when > now]
        for client in due:
            client.send(command_frame({"id": 2, "subscribe": self._since}))

    @property
    def are_settled(self) -> bool:
        """Whether everybody knows what became of its past."""
        return self.recovered + len(self.lost) >= len(self.got)


def outage(scale: Scale) -> Iterator[Row]:
    """Redis is away for a while; then everybody is there at once."""
    with redis() as backend, server(broker=backend.url) as ours, Crowd() as crowd:
        answers: list[bytes] = []
        publisher = crowd.add(ours.port, Client(hello(), lambda _, lines: answers.extend(lines)))
        returning = Returning(_leave(crowd, ours, publisher, scale))
        answers.clear()
        reads = backend.calls("lrange")
        _away(crowd, backend, publisher, scale)
        took = _come_back(crowd, ours, returning, scale.crowd)
        yield from _tell(crowd, ours, returning, answers, took, backend.calls("lrange") - reads)


def _leave(crowd: Crowd, ours: Server, publisher: Client, scale: Scale) -> str:
    """Everybody comes, hears the first publication, goes, and misses some. Returns the epoch."""
    audience = [Client(hello(CHANNEL)) for _ in range(scale.crowd)]
    crowd.open(ours.port, audience)
    publisher.send(command_frame({"id": 2, **_PUBLISH}))
    crowd.until(lambda: all(client.messages == 3 for client in audience), "everybody has the first publication")
    crowd.drop(audience)
    ours.wait_for_clients(1)
    before = publisher.messages
    publisher.send(command_frame(*({"id": 3 + number, **_PUBLISH} for number in range(MISSED))))
    crowd.until(lambda: publisher.messages == before + MISSED, "what is missed is published")
    epoch: str = ours.ask("history", channel=CHANNEL)["epoch"]
    return epoch


def _away(crowd: Crowd, backend: Redis, publisher: Client, scale: Scale) -> None:
    backend.pause()
    try:
        publisher.send(command_frame(*({"id": 100 + number, **_PUBLISH} for number in range(MISSED))))
        crowd.during(scale.outage)
    finally:
        backend.resume()


class Return(NamedTuple):
    """What it took until all had recovered: seconds of time and of the server's CPU."""

    seconds: float
    cpu: float
    first: float


def _come_back(crowd: Crowd, ours: Server, returning: Returning, count: int) -> Return:
    progress = Progress("outage")
    cpu, started = ours.cpu(), time.monotonic()
    crowd.open(ours.port, [returning.client() for _ in range(count)], at_once=count)
    while not returning.are_settled:
        returning.ask_again()
        crowd.poll(0.02)
        progress.tell(lambda: f"{returning.recovered} of {count} recovered, {returning.refusals} refusals")
        if time.monotonic() - started > 60:
            raise RuntimeError(f"after a minute, {count - returning.recovered} of {count} have not recovered")
    return Return(time.monotonic() - started, ours.cpu() - cpu, returning.first - started)


def _tell(
    crowd: Crowd, ours: Server, returning: Returning, answers: list[bytes], took: Return, lists: int
) -> Iterator[Row]:
    top: int = ours.ask("history", channel=CHANNEL)["offset"]
    crowd.until(lambda: len(answers) >= MISSED, "every publish is answered")
    due = list(range(2, top + 1))
    crowd.until(lambda: all(len(got) >= len(due) for got in returning.got.values()) or bool(returning.lost), "the end")
    count = len(returning.got)
    if returning.lost:
        say(f"not recovered: {returning.lost[0]!r} and {len(returning.lost) - 1} others")
    complete = len(answers) == MISSED and not returning.lost and all(got == due for got in returning.got.values())
    yield Row(
        f"{count} return as Redis does, {len(due)} missed: until all have recovered",
        "s",
        took.seconds,
        target="all recovered, at most 2 reads of the source",
        ok=complete and lists <= 2,
        complete=complete,
        details={
            "first_recovered": round(took.first, 2),
            "reads": lists,
            "refusals": returning.refusals,
            "failed_publishes": sum(b'"error"' in answer for answer in answers),
        },
    )
    yield Row("… and the server's CPU for each of them", "µs of CPU a connection", took.cpu / count * 1e6)
