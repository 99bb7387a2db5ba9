"""How large and how long: the numbers of a full run, of a quick one, and of one that only shows that all works.

Answers for: these numbers. Refuses to know: what is done with them.
"""

from __future__ import annotations

from typing import NamedTuple


class Scale(NamedTuple):
    """`seconds` is the length of a phase of row `latency`, `slow_seconds` that of each phase of row `slow`; `settle` is
    waited before memory is looked at, and for what may still arrive. `calls` are those of one caller of a library that
    waits for each, and publications that come one by one; in bursts there are ten times as many. `outage` is in
    seconds. Row `store` sends for `sending` seconds, reads in a `log` of so many, and has `missed` so many of them.
    """

    name: str
    clients: int
    rounds: int
    repeats: int
    crowd: int
    seconds: float
    slow_seconds: float
    slow_rate: int
    settle: float
    calls: int
    outage: float
    sending: float
    log: int
    missed: int


FULL = Scale(
    "full",
    clients=1000,
    rounds=100,
    repeats=5,
    crowd=5000,
    seconds=10,
    slow_seconds=20,
    slow_rate=200,
    settle=1.0,
    calls=2000,
    outage=5,
    sending=1,
    log=1_000_000,
    missed=10_000,
)
QUICK = FULL._replace(
    name="quick", rounds=60, repeats=3, seconds=3, slow_seconds=5, calls=1000, sending=0.2, log=100_000
)
SMOKE = Scale(
    "smoke",
    clients=20,
    rounds=3,
    repeats=1,
    crowd=30,
    seconds=0.3,
    slow_seconds=0.5,
    slow_rate=1000,
    settle=0.1,
    calls=64,
    outage=0.3,
    sending=0.05,
    log=3000,
    missed=1000,
)
