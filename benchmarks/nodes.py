"""What a delivery costs when it was published at another node, beside what it costs at one node alone.

Answers for: row `nodes`. Refuses to know: processes (`processes`) and sockets (`clients`).

The floor here is one node with `memory://`, whose audience gets the same. Only the node of the audience is on the
measured core; the other node and Redis are part of the load. Bursts are published straight into Redis: a node carries
out the publishes of one client into one channel one after the other, each when Redis has answered the one before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

from benchmarks.backend import Publisher, redis
from benchmarks.clients import Crowd
from benchmarks.fanout import PAYLOAD, Stage, client_publisher, print_progress
from benchmarks.processes import server
from benchmarks.report import Row, against_floor
from benchmarks.scale import Scale

#: Publications in a burst.
BURST = 16


def nodes(scale: Scale) -> Iterator[Row]:
    """From a publisher at one node, or beside both, through Redis to an audience at the other node."""
    with (
        redis() as backend,
        server() as alone,
        server(broker=backend.url, is_load=True) as far,
        server(broker=backend.url) as near,
        closing(Publisher(backend.port, "burst", json.dumps(PAYLOAD, separators=(",", ":")).encode())) as outside,
        Crowd() as crowd,
    ):
        for channel, what, burst in (
            ("stage", "`live`", 1),
            ("recent:stage", "`recent`", 1),
            ("burst", "`live`", BURST),
        ):
            publish = outside.publish if burst > 1 else client_publisher(crowd, far, channel)
            across = Stage(crowd, near, scale.clients, channel=channel, publish=publish)
            single = Stage(crowd, alone, scale.clients, channel=channel)
            amount = "one" if burst == 1 else burst
            name = f"across two nodes, 1:{scale.clients}, {what}, {amount} a flush"
            yield _compare(name, across, single, burst, scale)


def _compare(name: str, across: Stage, single: Stage, burst: int, scale: Scale) -> Row:
    rounds = max(2, scale.rounds // (2 if burst == 1 else 8))
    pairs = []
    reads = across.reads
    for repeat in range(scale.repeats):
        floor_cost = single.cost(burst, rounds)
        pairs.append((across.cost(burst, rounds), floor_cost))
        print_progress(name, repeat, pairs[-1])
    flushes = (across.reads - reads) / scale.clients
    return against_floor(
        f"{name} (floor: one node, `memory://`)",
        pairs,
        1.15,
        complete=single.is_complete() and across.is_complete(),
        publications_a_flush=round(burst * (rounds + 1) * scale.repeats / flushes, 2),
    )
