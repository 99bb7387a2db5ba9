"""Storms: what must not happen to anybody when Redis, PostgreSQL, a node or a way between them fails.

    python3 dev.py storms                                   each fault once, on Redis and on Valkey (as in CI)
    python3 dev.py storms --faults everything_flushed       this one
    python3 dev.py storms --clients 1000 --minutes 30       faults at random, one after the other, for so long
    python3 dev.py storms --durable --minutes 35 --rate 150 durable channels above all: 200 faults, 100,000 publications
    python3 dev.py storms --save FILE                       with a table of what came of each fault, in Markdown
    python3 dev.py storms --json                            a line of JSON for each round on stdout

A storm has two or more `hubbub serve` processes, a crowd of WebSocket clients, and publishers over WebSockets, over the
HTTP API and in Python in a process of its own; each way to Redis leads through a proxy that can be cut, stalled and
delayed (`proxy`), and durable channels are in a PostgreSQL of the storm, or in the SQLite file of its only node. In a
round something fails (`faults`) while all of them publish. Then everybody gets time to recover, and it has to hold
(`ledger`, `storm`) that

- every subscriber of a `recent` channel has every acknowledged publication once and in order, and the same as all the
  others; or it was told exactly once that something is lost, where the data really was lost;
- every subscriber of a durable channel has every acknowledged publication once and in order, whatever became of Redis,
  and was never told of a loss or sent to subscribe again; unless the store itself lost its last writes (a standby took
  over that lacked them): then each of them was told once, and what was acknowledged before that or after it is there;
- the store holds what was acknowledged, once and in order, and nothing else under the same position;
- every publish was answered; what was refused is not there, what was acknowledged is there once, and what nobody can
  know is there at most once;
- a fresh publication through each node reaches everybody in every kind of channel: nobody is deaf;
- who was kicked is gone, and nobody else is;
- Redis has the keys that it had at the start, each with a TTL, and no node holds more tasks, files or clients.

A storm that goes wrong says what, and keeps what the nodes have logged. Exit code 1 if any did.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import math
import random
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.backends import KINDS, Kind, program_of
from tests.storms.disk import may_mount
from tests.storms.faults import FAULTS, Fault
from tests.storms.settings import Size
from tests.storms.storm import Storm
from tests.storms.verdict import Verdict, table

#: Seconds that a round takes besides its fault, about.
ROUND = 8.0

#: Rounds of one storm where they are drawn at random.
SEASON = 12


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev.py storms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, help="on this one only")
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), metavar="FAULT", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--clients", type=int, default=60, help="in all")
    parser.add_argument("--rate", type=float, default=40.0, help="publications a second")
    parser.add_argument(
        "--durable", action="store_true", help="publish into durable channels, and break what they need"
    )
    parser.add_argument("--minutes", type=float, help="draw faults at random, for so long")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of what is drawn")
    parser.add_argument("--at-once", type=int, default=3, help="storms on each kind, where all faults are gone through")
    parser.add_argument("--json", action="store_true", help="verdicts as JSON")
    parser.add_argument("--save", type=Path, metavar="FILE", help="where to write a table of all rounds, in Markdown")
    return parser.parse_args()


class Report:
    """Verdicts on stdout, progress on stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self.verdicts: list[Verdict] = []
        self._as_json = as_json

    def __call__(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        text = json.dumps(dataclasses.asdict(verdict)) if self._as_json else verdict.text
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    @property
    def wrong(self) -> int:
        return sum(bool(verdict.wrong) for verdict in self.verdicts)


async def season(kind: Kind, faults: Sequence[Fault], size: Size, report: Report, *, end: float = math.inf) -> None:
    """One fault after the other on one storm; after one that went wrong, on a new one. Begin none after `end`."""
    left = list(faults)
    while left and time.monotonic() < end:
        try:
            async with Storm(kind, size=size, is_guarded=left[0].is_guarded, store=left[0].store) as storm:
                await rounds(storm, left, report, end=end)
        except Exception as error:  # of ours, or of a machine that is too slow: the others go on
            name = left.pop(0).name if left else "the end"
            report(Verdict(name, kind, [f"it broke off: {error}", *traceback.format_exc().splitlines()]))


async def rounds(storm: Storm, left: list[Fault], report: Report, *, end: float) -> None:
    """Until one goes wrong, or none is left."""
    telling = asyncio.ensure_future(tell(storm))
    try:
        while left and time.monotonic() < end:
            fault = left[0]
            verdict = await storm.round(fault.name, fault.run, losses=fault.losses)
            left.pop(0)
            report(verdict)
            if verdict.wrong:
                return
    finally:
        telling.cancel()


async def tell(storm: Storm) -> None:
    """A line a second, where somebody looks."""
    while sys.stderr.isatty():
        await asyncio.sleep(1)
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {storm.kind} {storm.progress}\n")


def lanes(faults: Sequence[Fault], count: int) -> Iterator[list[Fault]]:
    """Shared out so that all end at about the same time; those that are guarded apart, and those with a file."""
    plain, *others = by_place(faults)
    made: list[list[Fault]] = [[] for _ in range(count)]
    for fault in sorted(plain, key=lambda fault: -fault.seconds):
        min(made, key=lambda lane: sum(each.seconds + ROUND for each in lane)).append(fault)
    yield from (lane for lane in (*made, *others) if lane)


def by_place(faults: Sequence[Fault]) -> tuple[list[Fault], list[Fault], list[Fault]]:
    """Those of a storm as most are, those where it is guarded, and those with a file."""
    guarded = [fault for fault in faults if fault.is_guarded]
    with_file = [fault for fault in faults if fault.store == "sqlite"]
    return [fault for fault in faults if fault not in guarded and fault not in with_file], guarded, with_file


def chosen(options: argparse.Namespace) -> tuple[list[Fault], list[Kind], Size]:
    """What blows, on what, and how large it is."""
    faults = [FAULTS[name] for name in options.faults or FAULTS]
    if options.durable and not options.faults:
        faults = [fault for fault in faults if fault.is_durable]
    kinds = [options.kind] if options.kind else [kind for kind in KINDS if program_of(kind)]
    size = Size(options.nodes, options.clients, options.rate)
    return faults, kinds, size._replace(durable=10) if options.durable else size


async def each_once(options: argparse.Namespace, report: Report) -> None:
    faults, kinds, size = chosen(options)
    for kind, fault in itertools.product(kinds, faults):
        if fault.needs_disk and not may_mount():
            report(Verdict(fault.name, kind, skipped="nobody but root can make a small disk"))
    faults = [fault for fault in faults if may_mount() or not fault.needs_disk]
    await asyncio.gather(
        *(season(kind, lane, size, report) for kind in kinds for lane in lanes(faults, options.at_once))
    )


class Deck:
    """Faults in an order that is drawn: each once before any comes again."""

    def __init__(self, draw: random.Random, faults: Sequence[Fault]) -> None:
        self._draw = draw
        self._faults = list(faults)
        self._left: list[Fault] = []

    def some(self) -> list[Fault]:
        """For one storm. Where it is guarded each once: Sentinels of a storm see to one failover only."""
        count = len(self._faults) if self._faults[0].is_guarded else SEASON
        while len(self._left) < count:
            self._left += self._draw.sample(self._faults, len(self._faults))
        some, self._left = self._left[:count], self._left[count:]
        return some


async def at_random(options: argparse.Namespace, report: Report) -> None:
    draw = random.Random(options.seed)
    faults, kinds, size = chosen(options)
    faults = [fault for fault in faults if may_mount() or not fault.needs_disk]
    plain, guarded, with_file = by_place(faults)
    turns = [Deck(draw, some) for some in (plain, with_file, plain, guarded) if some]
    end = time.monotonic() + 60 * options.minutes
    for number, deck in enumerate(itertools.cycle(turns)):
        if time.monotonic() > end:
            return
        await season(kinds[number // len(turns) % len(kinds)], deck.some(), size, report, end=end)


async def main() -> int:
    options = arguments()
    report = Report(as_json=options.json)
    may_mount()  # before there are threads
    if options.minutes:
        sys.stderr.write(f"storms of seed {options.seed}\n")
        await at_random(options, report)
    else:
        await each_once(options, report)
    acknowledged = sum(verdict.outcomes.get("acknowledged", 0) for verdict in report.verdicts)
    durable = sum(verdict.durable for verdict in report.verdicts)
    sys.stderr.write(
        f"{len(report.verdicts)} rounds, {acknowledged} publications acknowledged, {durable} of them durable; "
        f"{report.wrong} went wrong\n"
    )
    if options.save is not None:
        options.save.write_text(table(report.verdicts))
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
