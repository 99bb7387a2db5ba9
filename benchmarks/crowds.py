"""What a crowd costs: memory while it is idle, and time when all of it returns.

Answers for: rows `memory` and `return`. Refuses to know: processes and sockets.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from benchmarks.clients import Client, Crowd, Progress, command_frame, hello, say
from benchmarks.processes import Server, server
from benchmarks.report import Row
from benchmarks.scale import Scale

#: Publications that the crowd misses.
MISSED = 10

#: Connections before memory is looked at for the first time: what a server needs once is no part of a connection.
WARM = 50


def memory(scale: Scale) -> Iterator[Row]:
    """Server memory for one idle connection, subscribed, that came with a browser's headers."""
    with server() as ours, Crowd() as crowd:
        crowd.open(ours.port, [Client(hello("recent:all")) for _ in range(min(WARM, scale.crowd))])
        time.sleep(scale.settle)
        before = ours.memory()
        crowd.open(ours.port, [Client(hello("recent:all")) for _ in range(scale.crowd)])
        time.sleep(scale.settle)
        after = ours.memory()
        subscribed = ours.ask("channels")["channels"]["recent:all"]["num_clients"]
    each = (after.rss - before.rss) / scale.crowd / 1024
    complete = subscribed == scale.crowd + min(WARM, scale.crowd)
    yield Row(
        f"memory of an idle connection ({scale.crowd} in one `recent` channel)",
        "KB (RSS)",
        each,
        target="<= 14 KB",
        ok=each <= 14 and complete,
        complete=complete,
        details={
            "uss": round((after.uss - before.uss) / scale.crowd / 1024, 2),
            "pss": round((after.pss - before.pss) / scale.crowd / 1024, 2),
            "server_before_mb": round(before.rss / 2**20, 1),
        },
    )


class Returning:
    """What came back to those who returned."""

    def __init__(self) -> None:
        self.recovered = 0
        self.wrong: list[bytes] = []

    def lines(self, client: Client, lines: list[bytes]) -> None:
        """For `Client.on_lines`: the answer to the subscribe must hold exactly what was missed."""
        for line in lines:
            if not line.startswith(b'{"id":2,'):
                continue
            result = json.loads(line).get("subscribe", {})
            offsets = [publication.get("offset", 0) for publication in result.get("publications", [])]
            if result.get("recovered") and offsets == list(range(2, 2 + MISSED)):
                self.recovered += 1
            else:
                self.wrong.append(line)


def crowd_returns(scale: Scale) -> Iterator[Row]:
    """Everybody is cut off, something is published, and everybody is back at once with the position it had."""
    with server() as ours, Crowd() as crowd:
        publisher = crowd.add(ours.port, Client(hello()))
        yield from _returns(crowd, ours, publisher, scale)


def _returns(crowd: Crowd, ours: Server, publisher: Client, scale: Scale) -> Iterator[Row]:
    publish = command_frame({"id": 7, "publish": {"channel": "recent:all", "data": {"text": "hello again"}}})
    audience = [Client(hello("recent:all")) for _ in range(scale.crowd)]
    crowd.open(ours.port, audience)
    publisher.send(publish)
    crowd.until(lambda: all(client.messages == 3 for client in audience), "everybody has the first publication")
    epoch = ours.ask("history", channel="recent:all")["epoch"]
    crowd.drop(audience)
    for _ in range(MISSED):
        publisher.send(publish)
    ours.wait_for_clients(1)

    returning = Returning()
    greeting = hello("recent:all", recover=True, epoch=epoch, offset=1)
    reads = ours.metrics().get("read_back", 0)
    progress = Progress("return")
    cpu, started = ours.cpu(), time.monotonic()
    back = [Client(greeting, returning.lines) for _ in range(scale.crowd)]
    crowd.open(ours.port, back, at_once=scale.crowd)
    progress.tell(lambda: f"{returning.recovered} recovered")
    seconds, cpu = time.monotonic() - started, ours.cpu() - cpu
    reads = ours.metrics().get("read_back", 0) - reads
    if returning.wrong:
        say(f"not recovered: {returning.wrong[0]!r} and {len(returning.wrong) - 1} others")
    complete = returning.recovered == scale.crowd
    yield Row(
        f"{scale.crowd} return at once with {MISSED} missed: until all have recovered",
        "s",
        seconds,
        target="all recovered, at most 1 read of the source",
        ok=complete and reads <= 1,
        complete=complete,
        details={"recovered": returning.recovered, "reads": reads},
    )
    yield Row("… and the server's CPU for each of them", "µs of CPU a connection", cpu / scale.crowd * 1e6, ok=None)
