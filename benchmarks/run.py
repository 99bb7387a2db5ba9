"""Measure: `python3 dev.py bench`, that is `python benchmarks/run.py [--quick] [--json] [--only NAME] [--save]`.

Answers for: arguments, the order of the rows, and what is printed. Progress goes to stderr, results to stdout.
Refuses to know: how anything is measured. What each row means stands in `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

from benchmarks.backend import NoRedis
from benchmarks.clients import say
from benchmarks.crowds import crowd_returns, memory
from benchmarks.fanout import fanout
from benchmarks.latency import latency, slow
from benchmarks.nodes import nodes
from benchmarks.outage import outage
from benchmarks.pairs import echo, one_to_one
from benchmarks.processes import CORES
from benchmarks.publishing import publishing
from benchmarks.receiving import receiving
from benchmarks.report import Row, as_json, save, table
from benchmarks.scale import FULL, QUICK, SMOKE, Scale
from benchmarks.store import store

BENCHMARKS: dict[str, Callable[[Scale], Iterator[Row]]] = {
    "fanout": fanout,
    "one-to-one": one_to_one,
    "echo": echo,
    "latency": latency,
    "memory": memory,
    "return": crowd_returns,
    "slow": slow,
    "publish": publishing,
    "receive": receiving,
    "nodes": nodes,
    "outage": outage,
    "store": store,
}


def main() -> int:
    """Run what is asked for. The exit code says whether everything that was due arrived, not whether it was fast."""
    options = _parser().parse_args()
    scale = SMOKE if options.smoke else QUICK if options.quick else FULL
    if len(CORES) > 1:
        os.sched_setaffinity(0, CORES[1:])
    rows: list[Row] = []
    for name, benchmark in BENCHMARKS.items():
        if not options.only or name in options.only:
            say(f"{name} …")
            try:
                rows.extend(benchmark(scale))
            except NoRedis as missing:
                say(f"{name} is left out: {missing}")
    print(as_json(rows, scale.name) if options.json else table(rows))
    if options.save:
        save(rows, scale.name)
    return 0 if all(row.complete for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 dev.py bench", description="Measure the server beside a floor.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="shorter and noisier, about two minutes")
    size.add_argument("--smoke", action="store_true", help="tiny: shows that everything works, measures nothing")
    parser.add_argument("--json", action="store_true", help="everything that is known, for programs")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="this row alone; may be repeated")
    parser.add_argument("--save", action="store_true", help="put the table into benchmarks/results.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
