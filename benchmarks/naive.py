"""What is written first: a transaction for each message.

Answers for: that loop over SQLite and PostgreSQL, with the tables of a log that has offsets, ours among the publishers
that are measured beside it. Refuses to know: how it is measured.

BEGIN, UPDATE … RETURNING the next offset, INSERT, COMMIT. In asyncio SQLite is asked in a thread, a hop for each
statement, as aiosqlite does it; PostgreSQL over asyncpg's pool as it comes, of ten connections.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from hubbub import Hubbub

#: 200 bytes with the braces around it.
TEXT = "x" * 189
DATA = {"text": TEXT}
_JSON = f'{{"text":"{TEXT}"}}'

#: Channels that senders have in turn, where they do not share one.
CHANNELS = 100


class Publisher(NamedTuple):
    """`publish` returns once it is committed in the channel of this number; `stored` is how many are there."""

    publish: Callable[[int], Awaitable[object]]
    stored: Callable[[], Awaitable[int]]


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Publisher]:
    """A hub on this store."""
    async with Hubbub(store=url, channels={"bench": {"delivery": "durable"}}) as hub:

        async def stored() -> int:
            pages = [await hub.history(f"bench:{number}", limit=0) for number in range(CHANNELS)]
            return sum(page.position.offset for page in pages)

        yield Publisher(lambda channel: hub.publish(f"bench:{channel}", DATA), stored)


_SQLITE = """
    CREATE TABLE channel (id INTEGER PRIMARY KEY, top INTEGER NOT NULL);
    CREATE TABLE log (channel INTEGER, offset INTEGER, at INTEGER, key TEXT, data, PRIMARY KEY (channel, offset))
    WITHOUT ROWID;
    CREATE UNIQUE INDEX log_key ON log (channel, key) WHERE key IS NOT NULL;
"""
_NEXT = "UPDATE channel SET top = top + 1 WHERE id = {} RETURNING top"


def connected(path: Path) -> sqlite3.Connection:
    """A new file, as durable as ours."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(_SQLITE)
    connection.executemany("INSERT INTO channel VALUES (?, 0)", ((number,) for number in range(CHANNELS)))
    return connection


_INSERT = "INSERT INTO log VALUES (?, ?, ?, NULL, ?)"


def bare(path: Path, seconds: float) -> float:
    """The same without asyncio and without anybody who waits: messages a second."""
    connection = connected(path)
    count, started = 0, time.monotonic()
    while time.monotonic() < started + seconds:
        connection.execute("BEGIN IMMEDIATE")
        (top,) = connection.execute(_NEXT.format("?"), (0,)).fetchone()
        connection.execute(_INSERT, (0, top, time.time_ns() // 1000, _JSON))
        connection.execute("COMMIT")
        count += 1
    connection.close()
    return count / (time.monotonic() - started)


@asynccontextmanager
async def sqlite_loop(path: Path) -> AsyncIterator[Publisher]:
    """One connection, and everybody waits for their turn."""
    turn, loop = asyncio.Lock(), asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        connection = connected(path)
        hop: Callable[..., Awaitable[Any]] = partial(loop.run_in_executor, thread)

        async def publish(channel: int) -> None:
            async with turn:
                await hop(connection.execute, "BEGIN IMMEDIATE")
                rows = await hop(connection.execute, _NEXT.format("?"), (channel,))
                (top,) = await hop(rows.fetchone)
                await hop(connection.execute, _INSERT, (channel, top, time.time_ns() // 1000, _JSON))
                await hop(connection.execute, "COMMIT")

        async def stored() -> int:
            return int(connection.execute("SELECT count(*) FROM log").fetchone()[0])

        yield Publisher(publish, stored)
        connection.close()


_POSTGRES = f"""
    CREATE TABLE naive_channel (id int PRIMARY KEY, top bigint NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE naive_log (
        channel int, "offset" bigint, at bigint, key text, data text, PRIMARY KEY (channel, "offset"));
    CREATE UNIQUE INDEX naive_key ON naive_log (channel, key) WHERE key IS NOT NULL;
    INSERT INTO naive_channel SELECT number, 0 FROM generate_series(0, {CHANNELS - 1}) AS number;
"""


@asynccontextmanager
async def postgres_loop(url: str) -> AsyncIterator[Publisher]:
    """As many at once as the pool has connections."""
    async with asyncpg.create_pool(url) as pool:
        await pool.execute(_POSTGRES)

        async def publish(channel: int) -> None:
            async with pool.acquire() as connection, connection.transaction():
                top = await connection.fetchval(_NEXT.format("$1").replace("channel", "naive_channel"), channel)
                now = time.time_ns() // 1000
                await connection.execute(
                    "INSERT INTO naive_log VALUES ($1, $2, $3, NULL, $4)", channel, top, now, _JSON
                )

        async def stored() -> int:
            return int(await pool.fetchval("SELECT count(*) FROM naive_log"))

        yield Publisher(publish, stored)


# --- a log to read in

#: Its channel.
LONG = "bench:long"


async def fill_sqlite(path: Path, count: int) -> None:
    """So many publications in LONG, in a store that nobody has open and that has the tables."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    ((channel,),) = connection.execute("INSERT INTO channel (name, top) VALUES (?, ?) RETURNING id", (LONG, count))
    rows = ((channel, number, number, _JSON) for number in range(1, count + 1))
    connection.executemany("INSERT INTO log (channel, offset, at, data) VALUES (?, ?, ?, ?)", rows)
    connection.execute("COMMIT")
    connection.close()


async def fill_postgres(url: str, count: int) -> None:
    """The same there, with COPY."""
    connection = await asyncpg.connect(url)
    query = "INSERT INTO hubbub_channel (name, top) VALUES ($1, $2) RETURNING id"
    channel = await connection.fetchval(query, LONG, count)
    rows = ((channel, number, number, _JSON) for number in range(1, count + 1))
    columns = ["channel", "offset", "at", "data"]
    await connection.copy_records_to_table("hubbub_log", records=rows, columns=columns)
    await connection.execute("VACUUM ANALYZE hubbub_log")
    await connection.close()
