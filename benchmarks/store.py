"""Durable channels: acknowledged publishes beside a transaction a message, and reading in a long log.

Answers for: row `store`, over a file and over a PostgreSQL. Refuses to know: how publishers publish (`naive`), and how
a database is started (`postgres`).
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.clients import say
from benchmarks.naive import (
    CHANNELS,
    LONG,
    Publisher,
    bare,
    fill_postgres,
    fill_sqlite,
    ours,
    postgres_loop,
    sqlite_loop,
)
from benchmarks.postgres import NoPostgres, postgres
from benchmarks.processes import CORES
from benchmarks.report import Row, percentile
from benchmarks.scale import Scale

from hubbub import Hubbub, Position, Publication
from hubbub.stores.sqlite_file import file_system_of

#: Senders, and whether they share a channel: the hard case, whose row is locked by one transaction at a time.
CROWDS = ((1, True), (10, True), (100, True), (100, False), (1000, True))

#: Times that a transaction a message is to be exceeded, and by how many senders.
LIMIT, MEASURED_BY = 10, (100, True)

#: Publications of a page of history.
PAGE = 50

Open = Callable[[], AbstractAsyncContextManager[Publisher]]


class Database(NamedTuple):
    """What it is called, a store in it, the naive loop in it, and how a long log gets into the store."""

    name: str
    url: str
    naive: Open
    fill: Callable[[int], Awaitable[None]]


class Measured(NamedTuple):
    """Acknowledged publishes a second, and the seconds that each sender waited, sorted."""

    rate: float
    waits: Sequence[float]


def store(scale: Scale) -> Iterator[Row]:
    """Both databases on one disk, or the file alone where there is no PostgreSQL."""
    with tempfile.TemporaryDirectory() as folder:
        kind = file_system_of(Path(folder).resolve())
        if kind in ("tmpfs", "ramfs"):
            say(f"{folder} is in memory ({kind}), which is no disk: set TMPDIR")
        yield from _rows(_file(Path(folder)), scale, kind)
        with _alone():
            rate = bare(Path(folder) / "bare.db", scale.sending)
        yield Row("a transaction a message without asyncio, SQLite FULL, for comparison", "a second", rate)
        try:
            with postgres() as url:
                yield from _rows(_server(url), scale, kind)
        except NoPostgres as missing:
            say(f"PostgreSQL is left out: {missing}")


def _file(folder: Path) -> Database:
    path = folder / "ours.db"
    return Database(
        "SQLite FULL",
        f"sqlite:///{path}",
        lambda: sqlite_loop(folder / "naive.db"),
        lambda count: fill_sqlite(path, count),
    )


def _server(url: str) -> Database:
    return Database("PostgreSQL 15", url, lambda: postgres_loop(url), lambda count: fill_postgres(url, count))


def _rows(database: Database, scale: Scale, kind: str) -> list[Row]:
    """On the core of what is measured; PostgreSQL has been started on the others."""
    with _alone():
        return [*asyncio.run(_publishing(database, scale, kind)), *asyncio.run(_reading(database, scale))]


@contextmanager
def _alone() -> Iterator[None]:
    """This thread, and those that it starts, on the core of what is measured."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


# --- publishing


async def _publishing(database: Database, scale: Scale, kind: str) -> list[Row]:
    rows: list[Row] = []
    async with ours(database.url) as mine, database.naive() as naive:
        acknowledged = {each: await _warm(each) for each in (mine, naive)}
        for senders, is_shared in CROWDS:
            pairs = []
            # A thousand wait for each other in the naive loop, for seconds each time.
            for repeat in range(scale.repeats if senders < 1000 else -(-scale.repeats // 3)):
                pair = [await _senders(each, senders, is_shared=is_shared, scale=scale) for each in (mine, naive)]
                for each, measured in zip((mine, naive), pair, strict=True):
                    acknowledged[each] += len(measured.waits)
                pairs.append((pair[0], pair[1]))
                rates = " and ".join(f"{measured.rate:,.0f}" for measured in pair)
                say(f"{database.name}, {senders} at once, repeat {repeat + 1}: {rates} a second")
            rows += _told(database.name, (senders, is_shared), pairs, kind)
        complete = all([await each.stored() == count for each, count in acknowledged.items()])
    for row in rows:
        row.complete, row.ok = complete, row.ok and complete
    return rows


async def _warm(publisher: Publisher) -> int:
    """Everybody is connected, and every channel is there. Returns how many publications that took."""
    await asyncio.gather(*(publisher.publish(number) for number in range(CHANNELS)))
    return CHANNELS


async def _senders(publisher: Publisher, count: int, *, is_shared: bool, scale: Scale) -> Measured:
    """So many at once, each of which publishes again as soon as it has its answer, and once in any case."""
    waits_of_each: list[list[float]] = [[] for _ in range(count)]
    started = time.monotonic()
    end = started + scale.sending

    async def send(number: int) -> None:
        now = time.monotonic()
        while not waits_of_each[number] or now < end:
            before = now
            await publisher.publish(0 if is_shared else number % CHANNELS)
            now = time.monotonic()
            waits_of_each[number].append(now - before)

    await asyncio.gather(*(send(number) for number in range(count)))
    took = time.monotonic() - started
    waits = sorted(wait for each in waits_of_each for wait in each)
    return Measured(len(waits) / took, waits)


def _told(name: str, crowd: tuple[int, bool], pairs: Sequence[tuple[Measured, Measured]], kind: str) -> Iterator[Row]:
    """Throughput with its ratio, and the waiting times of the repeats in the middle."""
    senders, is_shared = crowd
    who = (
        f"{senders:,} senders in {'one channel' if is_shared else f'{CHANNELS} channels'}"
        if senders > 1
        else "1 sender"
    )
    rates = [mine.rate for mine, _ in pairs]
    ratio = statistics.median(mine.rate / naive.rate for mine, naive in pairs)
    is_promised = crowd == MEASURED_BY
    yield Row(
        f"acknowledged publishes, {name}, {who} (floor: a transaction a message)",
        "a second",
        statistics.median(rates),
        statistics.median(naive.rate for _, naive in pairs),
        f">= {LIMIT} x the floor" if is_promised else "",
        ratio >= LIMIT if is_promised else None,
        noise=(max(rates) - min(rates)) / 2 / statistics.median(rates),
        details={"rates": [round(rate) for rate in rates], "file_system": kind},
        ratio=ratio,
    )
    for part in (0.5, 0.99):
        mine, naive = (
            statistics.median(percentile(measured.waits, part) for measured in each) * 1000
            for each in zip(*pairs, strict=True)
        )
        yield Row(f"… p{part * 100:.0f} of their waiting", "ms", mine, naive)


# --- reading


async def _reading(database: Database, scale: Scale) -> list[Row]:
    """History and recovery in a channel of many publications."""
    say(f"{database.name}: a log of {scale.log:,} …")
    await database.fill(scale.log)
    async with Hubbub(store=database.url, channels={"bench": {"delivery": "durable"}}) as hub:
        pages, is_whole = await _pages(hub, scale)
        first, all, has_all = await _recovery(hub, scale)
    missed = f"recovery of {scale.missed:,} missed, {database.name}"
    return [
        Row(
            f"history, {database.name}: {PAGE} somewhere in {scale.log:,}, p50",
            "ms",
            percentile(pages, 0.5) * 1000,
            complete=is_whole,
            details={"p99": round(percentile(pages, 0.99) * 1000, 2), "pages": len(pages)},
        ),
        Row(f"{missed}: the first is there", "ms", statistics.median(first) * 1000, complete=has_all),
        Row(f"{missed}: all are there", "ms", statistics.median(all) * 1000, complete=has_all),
    ]


async def _pages(hub: Hubbub, scale: Scale) -> tuple[list[float], bool]:
    """Seconds of each, sorted, and whether each was what was asked for."""
    head = (await hub.history(LONG, limit=0)).position
    somewhere = random.Random(1)
    is_whole = head.offset == scale.log
    times = []
    for _ in range(scale.calls):
        since = Position(head.epoch, somewhere.randrange(head.offset - PAGE))
        before = time.monotonic()
        page = await hub.history(LONG, limit=PAGE, since=since)
        times.append(time.monotonic() - before)
        is_whole &= [_offset(each) for each in page.publications] == [
            since.offset + 1 + number for number in range(PAGE)
        ]
    return sorted(times), is_whole


async def _recovery(hub: Hubbub, scale: Scale) -> tuple[list[float], list[float], bool]:
    """Seconds until the first was there, and until all were; and whether all were, once and in order."""
    head = (await hub.history(LONG, limit=0)).position
    since = Position(head.epoch, head.offset - scale.missed)
    first, all, has_all = [], [], True
    for _ in range(scale.repeats):
        before = time.monotonic()
        got: list[int] = []
        async with hub.subscribe(LONG, since=since) as subscription:
            async for publication in subscription:
                if not got:
                    first.append(time.monotonic() - before)
                got.append(_offset(publication))
                if got[-1] == head.offset:
                    break
        all.append(time.monotonic() - before)
        has_all &= got == list(range(since.offset + 1, head.offset + 1))
    return first, all, has_all


def _offset(publication: Publication[Any]) -> int:
    """Its place; everything in a durable channel has one."""
    assert publication.position is not None
    return publication.position.offset
