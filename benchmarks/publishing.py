"""What a publish costs the process that publishes, beside redis-py.

Answers for: row `publish`. Refuses to know: processes (`processes`) and how a library publishes (`contenders`).

The floor here is the peer: redis-py's `publish`, one call for each, from as many tasks, seconds before.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from benchmarks.backend import Redis, redis
from benchmarks.fanout import print_progress
from benchmarks.processes import Contender, contender
from benchmarks.report import Row, against_floor
from benchmarks.scale import Scale

#: Concurrent tasks of a busy back end.
MANY = 128

#: PUBLISH that may come from elsewhere meanwhile: brokers prove every few seconds that they hear.
PROBES = 10


class Match(NamedTuple):
    """Ours, by kind of contender and in words, beside one peer: each may cost `limit` times what it does."""

    ours: Sequence[tuple[str, str]]
    tasks: int
    peer: str
    peer_tasks: int
    floor: str
    limit: float | None


_KINDS = (("pipeline", "bare PUBLISH"), ("live", "`live`"), ("recent", "`recent`, kept by a script"))
MATCHES = [
    *(Match(_KINDS, tasks, "redis-py", tasks, "redis-py, one call each", 0.2) for tasks in (1, MANY)),
    Match((("live", "`live`"),), MANY, "redis-py-pipeline", 1, "redis-py, pipelines of 100", None),
]
if importlib.util.find_spec("hubbub.sync") is not None:
    MATCHES.append(
        Match((("sync", "`hubbub.sync`"),), 1, "redis-py-blocking", 1, "redis-py, blocking, one call each", None)
    )


def publishing(scale: Scale) -> Iterator[Row]:
    """One caller that waits for each, and many at once."""
    with redis() as server, ExitStack() as stack:
        kinds = dict.fromkeys(kind for match in MATCHES for kind in (match.peer, *(kind for kind, _ in match.ours)))
        running = {kind: stack.enter_context(contender(kind, server.url)) for kind in kinds}
        for match in MATCHES:
            yield from _play(match, running, server, scale)


def _play(match: Match, running: dict[str, Contender], server: Redis, scale: Scale) -> Iterator[Row]:
    pairs: dict[str, list[tuple[float, float]]] = {kind: [] for kind, _ in match.ours}
    redis_costs: dict[str, list[float]] = {kind: [] for kind, _ in match.ours}
    complete = True
    for repeat in range(scale.repeats):
        peer = _Cost(running[match.peer], server, match.peer_tasks, scale)
        complete &= peer.is_complete
        for kind, what in match.ours:
            ours = _Cost(running[kind], server, match.tasks, scale)
            complete &= ours.is_complete
            pairs[kind].append((ours.micros, peer.micros))
            redis_costs[kind].append(round(ours.redis, 2))
            print_progress(f"publish, {what}, {_callers(match)}", repeat, pairs[kind][-1])
    for kind, what in match.ours:
        name = f"publish, {what}, {_callers(match)} (floor: {match.floor})"
        yield against_floor(
            name, pairs[kind], match.limit, complete=complete, per="publish", of_redis=redis_costs[kind]
        )


def _callers(match: Match) -> str:
    return "one caller" if match.tasks == 1 else f"{match.tasks} tasks"


class _Cost:
    """One measurement: microseconds of CPU for one publish, of the publisher and of Redis."""

    def __init__(self, of: Contender, server: Redis, tasks: int, scale: Scale) -> None:
        each = -(-scale.calls * (1 if tasks == 1 else 5) // tasks)
        count = -(-each // 100) * 100 if tasks == 1 else each * tasks  # whole batches, too
        done = of.obey(publish=max(tasks, 100), tasks=tasks)  # connections and scripts are there afterwards
        calls, cpu, server_cpu = server.calls("publish"), of.cpu(), server.cpu()
        done = of.obey(publish=count, tasks=tasks) - done
        self.micros = (of.cpu() - cpu) / count * 1e6
        self.redis = (server.cpu() - server_cpu) / count * 1e6
        self.is_complete = done == count and count <= server.calls("publish") - calls <= count + PROBES
