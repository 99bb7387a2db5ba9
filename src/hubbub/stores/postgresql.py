"""A log in PostgreSQL, for many servers.

Answers for: who writes what, retention, and pages. Refuses to know: batches (`writer`), transactions
(`postgresql_table`), connections (`postgresql_connecting`) and the schema (`postgresql_schema`).

Some writers, each with a connection of its own; a channel belongs to one of them, so that publications of one process
do not queue for each other's row locks. What several processes write into one channel, and what one more connection
moves there from the outbox, is put in order by its row, locked from the moment that offsets are given to the commit.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from hubbub.clock import Clock
from hubbub.errors import BackendError, PublishFailed
from hubbub.model import ClientInfo, Position, Publication, Published
from hubbub.source import Known, Page, altered_by_reading
from hubbub.stores.base import Draft, StoreEvents, epoch_of
from hubbub.stores.columns import tags_of
from hubbub.stores.outbox import Judge, Moved
from hubbub.stores.postgresql_connecting import Database
from hubbub.stores.postgresql_outbox import waits
from hubbub.stores.postgresql_readers import Readers
from hubbub.stores.postgresql_schema import not_emptied
from hubbub.stores.postgresql_table import FORGET_WRITERS, TOPS, Table
from hubbub.stores.writer import Writer

T = TypeVar("T")

#: Connections that write, and at most so many that read.
WRITERS, READERS = 4, 4

#: Publications that are let go of in one transaction, and channels that are looked at in one go.
SLICE, CHANNELS = 1000, 500

#: Beyond every offset.
_END = 1 << 62

_COLUMNS = '"offset", "user", client, conn_info, chan_info, tags, data, bytes'
_PAGE = f"""
    SELECT meta.epoch, channel.life, channel.top, page.* FROM hubbub_meta meta
    LEFT JOIN hubbub_channel channel ON channel.name = $1
    LEFT JOIN LATERAL (
        SELECT * FROM (
            SELECT {_COLUMNS}, coalesce(octet_length(data), octet_length(bytes)) AS size,
                sum(coalesce(octet_length(data), octet_length(bytes))) OVER (ORDER BY "offset" {{order}}) AS upto
            FROM hubbub_log WHERE hubbub_log.channel = channel.id AND "offset" {{beyond}} $2
            ORDER BY "offset" {{order}} LIMIT $3
        ) AS asked WHERE upto = size OR upto <= $4
    ) AS page ON true ORDER BY page."offset" {{order}}
"""
_FORWARD = _PAGE.format(beyond=">", order="ASC")
_BACK = _PAGE.format(beyond="<", order="DESC")

# What is counted is what was seen, not what was deleted: of that another transaction may have taken a part. It was
# waited for, so that of a slice that is not full nothing is left (D8).
_TRIM = """
    WITH id AS (SELECT id FROM hubbub_channel WHERE name = $1),
    seen AS (
        SELECT "offset" FROM hubbub_log WHERE channel = (SELECT id FROM id) AND "offset" <= $2
        ORDER BY "offset" LIMIT $3),
    gone AS (
        DELETE FROM hubbub_log
        WHERE channel = (SELECT id FROM id) AND "offset" <= (SELECT max("offset") FROM seen))
    SELECT count(*) FROM seen
"""
# Of the oldest those that are older, up to the first that is not: clocks may jump. How many those are, and how many of
# them were taken here.
_FORGET = """
    WITH oldest AS (SELECT "offset", at FROM hubbub_log WHERE channel = $1 ORDER BY "offset" LIMIT $3),
    first AS (SELECT min("offset") AS kept FROM oldest WHERE at >= $2),
    old AS (SELECT "offset" FROM oldest, first WHERE kept IS NULL OR "offset" < kept),
    gone AS (
        DELETE FROM hubbub_log WHERE channel = $1 AND "offset" <= (SELECT max("offset") FROM old) RETURNING 1)
    SELECT (SELECT count(*) FROM old), (SELECT count(*) FROM gone)
"""
_CHANNELS = """
    SELECT id, name, (SELECT at FROM hubbub_log WHERE channel = hubbub_channel.id ORDER BY "offset" LIMIT 1)
    FROM hubbub_channel WHERE id > $1 ORDER BY id LIMIT $2
"""


class PostgresStore:
    """A Store in the database at `url` (postgresql://user@host/name, with asyncpg's options)."""

    is_shared: ClassVar[bool] = True

    def __init__(self, url: str, *, clock: Clock, is_relaxed: bool = False) -> None:
        self._database = Database(url, clock=clock, is_relaxed=is_relaxed)
        self._clock = clock
        self._tables: list[Table] = []
        self._writers: list[Writer] = []
        self._mover: Table | None = None
        self._events: StoreEvents | None = None
        self._readers: Readers | None = None
        self._ending: asyncio.Task[None] | None = None
        self._bytes = 0  # of the log, when it was last looked at

    async def start(self, events: StoreEvents) -> None:
        """Connect, and bring the schema up to date."""
        await self._database.prepare()
        self._readers = Readers(self._database, READERS, clock=self._clock)
        try:
            self._bytes = await self._ask(_size)
        except BaseException:
            await self.stop()
            raise
        self._events = events
        self._tables = [Table(self._database, clock=self._clock) for _ in range(WRITERS + 1)]
        *tables, self._mover = self._tables
        self._writers = [Writer(table, on_committed=events.on_committed, clock=self._clock) for table in tables]

    async def stop(self) -> None:
        """Write what waits, and disconnect: also where nobody waits for the end of it."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end(), name="close the store")
        ending = self._ending
        await asyncio.wait([ending])
        if self._ending is ending:
            self._ending = None
        if not ending.cancelled():
            ending.result()

    async def _end(self) -> None:
        writers, self._writers = self._writers, []
        await asyncio.gather(*(writer.stop() for writer in writers))
        await asyncio.gather(*(table.close() for table in self._tables))
        self._tables, self._mover = [], None
        if self._readers is not None:
            readers, self._readers = self._readers, None
            await readers.close()

    # --- writing

    def append(self, draft: Draft) -> Awaitable[Published]:
        """Write one publication."""
        if not self._writers:
            raise PublishFailed("not published, publish again: the store is not running", is_retry_safe=True)
        return self._writers[zlib.crc32(draft.channel.encode()) % WRITERS].append(draft)

    async def waits(self, besides: Collection[int]) -> bool:
        """Whether there is something in the outbox, `besides` these rows."""
        return await self._ask(lambda connection: waits(connection, besides))

    async def move(self, judge: Judge, limit: int, besides: Collection[int]) -> Moved:
        """The oldest of the outbox into the log, and to whoever listens, as everything that is written here."""
        if self._mover is None or self._events is None:
            raise BackendError("the store is not running")
        moved, written = await self._mover.move(judge, limit, besides)
        for draft, (position, is_duplicate) in zip(moved.drafts, written, strict=True):
            if not is_duplicate:
                self._events.on_committed(draft.channel, draft.publication.at(position.offset), position.epoch)
        return moved

    async def trim(self, channel: str, upto: int) -> None:
        """Let go of what is kept up to there, a slice in each transaction."""
        while await self._change(lambda connection: connection.fetchval(_TRIM, channel, upto, SLICE)) == SLICE:
            pass

    async def sweep(self, keeps: Callable[[str], float]) -> int:
        """Let go of what is old, a slice of a channel in each transaction. Several servers may do so at once."""
        gone, last = 0, 0
        now = self._clock.time()
        while channels := await self._channels(last):
            for id, name, first in channels:
                keep = keeps(name)
                before = int((now - keep) * 1_000_000)
                if keep and first is not None and first < before:
                    gone += await self._forget(id, before)
            last = channels[-1][0]
        await self._change(lambda connection: connection.execute(FORGET_WRITERS))
        self._bytes = await self._ask(_size)
        return gone

    async def _channels(self, after: int) -> list[tuple[int, str, int | None]]:
        """Some, and since when each has something."""
        rows = await self._ask(lambda connection: connection.fetch(_CHANNELS, after, CHANNELS))
        return [(id, name, first) for id, name, first in rows]

    async def _forget(self, channel: int, before: int) -> int:
        gone: int = 0
        while True:
            old, mine = await self._change(lambda connection: connection.fetchrow(_FORGET, channel, before, SLICE))
            gone += mine
            if old < SLICE:
                return gone

    async def altered(self, known: Mapping[str, Known]) -> set[str]:
        """Which of these are not what is held here."""
        return await altered_by_reading(self, known)

    async def replace_epoch(self, channel: str, epoch: str) -> Position:
        """Another epoch, if it still has this one."""

        async def work(connection: Any) -> Position:
            async with connection.transaction():
                await connection.execute(
                    "INSERT INTO hubbub_channel (name) VALUES ($1) ON CONFLICT DO NOTHING", channel
                )
                ((id, _, top, life, store),) = not_emptied(await connection.fetch(TOPS, [channel]), 4)
                if epoch_of(store, life) == epoch:
                    life += 1
                    await connection.execute("UPDATE hubbub_channel SET life = $1 WHERE id = $2", life, id)
                return Position(epoch_of(store, life), top)

        return await self._change(work)

    async def _change(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """Do what writes, and may be done again."""

        async def held_back(connection: Any) -> T:
            await self._database.hold_back(connection)
            return await work(connection)

        return await self._ask(held_back)

    # --- reading

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Where each of these channels stands."""
        query = """
            SELECT meta.epoch, name, life, top FROM hubbub_meta meta
            LEFT JOIN hubbub_channel ON name = ANY($1::text[])
        """
        rows = await self._rows(query, list(channels))
        found = {name: Position(epoch_of(epoch, life), top) for epoch, name, life, top in rows if name is not None}
        return {channel: found.get(channel) or Position(rows[0][0], 0) for channel in channels}

    async def read(
        self, channel: str, after: int, limit: int, max_bytes: int = 1 << 20, *, reverse: bool = False
    ) -> Page:
        """A page and the head, of the same instant: one statement sees one snapshot."""
        bounds = (channel, (after or _END) if reverse else after, max(limit, 0), max_bytes)
        rows = await self._rows(_BACK if reverse else _FORWARD, *bounds)
        epoch, life, top = rows[0][:3]
        publications = [_publication(row[3:11]) for row in rows if row[3] is not None]
        return Page(publications, Position(epoch_of(epoch, life or 0), top or 0))

    async def _rows(self, query: str, *arguments: Any) -> Sequence[Any]:
        """At least one; each begins with the store's epoch."""

        async def work(connection: Any) -> Sequence[Any]:
            return not_emptied(await connection.fetch(query, *arguments), 0)

        return await self._ask(work)

    async def _ask(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        if self._readers is None:
            raise BackendError("the store is not running")
        return await self._readers.ask(work)

    def counts(self) -> dict[str, int]:
        """What was written, and what waits."""
        total: Counter[str] = Counter()
        for writer in self._writers:
            counts = writer.counts()
            for name in ("store_oldest_ms", "store_commit_ms"):
                total[name] = max(total[name], counts.pop(name))
            total.update(counts)
        return {**total, "store_bytes": self._bytes}


async def _size(connection: Any) -> int:
    """Bytes of the log with its indexes; what was deleted stays in it until it is vacuumed and used again."""
    return int(await connection.fetchval("SELECT pg_total_relation_size('hubbub_log')"))


def _publication(row: Sequence[Any]) -> Publication:
    offset, user, client, conn_info, chan_info, tags, data, binary = row
    info = None if client is None else ClientInfo(user, client, conn_info or b"", chan_info or b"")
    payload = binary if data is None else data.encode()
    return Publication(payload, offset, info, tags_of(tags), data is None)
