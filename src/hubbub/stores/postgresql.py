"""A log in PostgreSQL, for many servers.

Answers for: transactions, waiting out a database that is away, what became of a commit without an answer, and pages.
Refuses to know: batches (`writer`), and the schema (`postgresql_schema`).

Some writers, each with a connection of its own; a channel belongs to one of them, so that publications of one process
do not queue for each other's row locks. What several processes write into one channel, and what one more connection
moves there from the outbox, is put in order by its row, locked from the moment that offsets are given to the commit.

Every transaction names itself in `hubbub_writer`. Where a commit has no answer, the next connection locks that row,
which waits for whatever is still under way there, and reads whether it took place: so nothing is written twice.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar, Generic, TypeVar

import asyncpg
import msgspec

from hubbub.clock import Clock
from hubbub.errors import BackendError, ConfigurationError, PublishFailed
from hubbub.model import ClientInfo, Position, Publication, Published
from hubbub.source import Known, Page, altered_by_reading
from hubbub.stores.base import IN_DOUBT, Draft, StoreEvents, Unwritable, Written, epoch_of
from hubbub.stores.outbox import Judge, Moved, judged
from hubbub.stores.postgresql_outbox import settle, waiting, waits
from hubbub.stores.postgresql_schema import look_back, migrate
from hubbub.stores.writer import Writer, places

log = logging.getLogger(__name__)

T = TypeVar("T")
_Outcome = tuple[Moved, Sequence[Written]]

#: Connections that write, and at most so many that read.
WRITERS, READERS = 4, 4

#: Seconds that a batch is tried, and a read; and between two attempts.
DEADLINE, READ_DEADLINE, PAUSE = 5.0, 5.0, 0.1

#: Channels that a writer knows to be there.
MAX_KNOWN = 100_000

#: Publications that are let go of in one transaction, and channels that are looked at in one go.
SLICE, CHANNELS = 1000, 500

#: Beyond every offset.
_END = 1 << 62

#: What another attempt may heal.
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # an idle connection that was told its end, and is not closed yet
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
)

#: What no attempt heals: one of the drafts is at fault.
_POISON = (asyncpg.exceptions.DataError, asyncpg.IntegrityConstraintViolationError, ValueError, OverflowError)

_TOPS = """
    SELECT id, name, top, life, (SELECT epoch FROM hubbub_meta) FROM hubbub_channel
    WHERE name = ANY($1::text[]) ORDER BY name FOR UPDATE
"""
_FOUND = """
    SELECT log.channel, log.key, log."offset" FROM hubbub_log log
    JOIN unnest($1::bigint[], $2::text[]) AS asked (channel, key) ON log.channel = asked.channel AND log.key = asked.key
"""
_INSERT = """
    INSERT INTO hubbub_log SELECT * FROM unnest(
        $1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[],
        $9::text[], $10::text[], $11::bytea[])
"""
_MOVE = """
    WITH moved AS (
        UPDATE hubbub_channel SET top = given.top
        FROM unnest($1::bigint[], $2::bigint[]) AS given (id, top) WHERE hubbub_channel.id = given.id)
    INSERT INTO hubbub_writer (id, batch) VALUES ($3, $4)
    ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, at = now()
"""
_COLUMNS = '"offset", "user", client, conn_info, chan_info, tags, data, bytes'
_PAGE = f"""
    SELECT meta.epoch, channel.life, channel.top, page.* FROM hubbub_meta meta
    LEFT JOIN hubbub_channel channel ON channel.name = $1
    LEFT JOIN LATERAL (
        SELECT * FROM (
            SELECT {_COLUMNS}, coalesce(octet_length(data), octet_length(bytes)) AS size,
                sum(coalesce(octet_length(data), octet_length(bytes))) OVER (ORDER BY "offset" {{order}}) AS upto
            FROM hubbub_log WHERE channel = channel.id AND "offset" {{beyond}} $2 ORDER BY "offset" {{order}} LIMIT $3
        ) AS asked WHERE upto = size OR upto <= $4
    ) AS page ON true ORDER BY page."offset" {{order}}
"""
_PAGE = _PAGE.replace("WHERE channel = channel.id", "WHERE hubbub_log.channel = channel.id")
_FORWARD = _PAGE.format(beyond=">", order="ASC")
_BACK = _PAGE.format(beyond="<", order="DESC")


def session(*, is_relaxed: bool) -> dict[str, str]:
    """What each connection asks of the server for itself."""
    return {
        "synchronous_commit": "off" if is_relaxed else "on",
        "application_name": "hubbub",
        # A process that stands still in a transaction would hold its channels' rows for all others.
        "idle_in_transaction_session_timeout": "10000",
        # Compiling the query of a page takes up to half a second, and running it two milliseconds.
        "jit": "off",
    }


class PostgresStore:
    """A Store in the database at `url` (postgresql://user@host/name, with asyncpg's options)."""

    is_shared: ClassVar[bool] = True

    def __init__(self, url: str, *, clock: Clock, is_relaxed: bool = False) -> None:
        self._url = url
        self._clock = clock
        self._settings = session(is_relaxed=is_relaxed)
        self._tables: list[_Table] = []
        self._writers: list[Writer] = []
        self._mover: _Table | None = None
        self._events: StoreEvents | None = None
        self._pool: Any = None
        self._bytes = 0  # of the log, when it was last looked at

    async def start(self, events: StoreEvents) -> None:
        """Connect, and bring the schema up to date."""
        try:
            connection = await self._connect()
        except _AWAY as error:
            raise BackendError(f"{self._shown}: the database cannot be reached: {error or 'no answer'}") from error
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise ConfigurationError(f"store.url: {self._shown}: {error}") from error
        try:
            await migrate(connection)
        except asyncpg.InsufficientPrivilegeError as error:
            raise ConfigurationError(
                f"store.url: {self._shown}: {error}: let its user create tables, or make them as another one:"
                " hubbub db upgrade"
            ) from error
        finally:
            await connection.close()
        self._pool = asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=READERS,
            command_timeout=READ_DEADLINE,
            timeout=READ_DEADLINE,
            server_settings=self._settings,
            init=self._look_back,
        )
        await self._pool
        self._bytes = await self._ask(_size)
        self._events = events
        self._tables = [_Table(self._connect, clock=self._clock) for _ in range(WRITERS + 1)]
        *tables, self._mover = self._tables
        self._writers = [Writer(table, on_committed=events.on_committed, clock=self._clock) for table in tables]

    async def stop(self) -> None:
        """Write what waits, and disconnect."""
        writers, self._writers = self._writers, []
        await asyncio.gather(*(writer.stop() for writer in writers))
        await asyncio.gather(*(table.close() for table in self._tables))
        self._tables, self._mover = [], None
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(1):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @property
    def _shown(self) -> str:
        host = self._url.rpartition("@")[2].partition("?")[0]  # an option may be the password
        return f"postgresql://{host}"

    async def _connect(self) -> Any:
        return await asyncpg.connect(self._url, timeout=DEADLINE, server_settings=self._settings)

    async def _look_back(self, connection: Any) -> None:
        if await look_back(connection):
            log.error("%s is not the database that it was: all durable channels have another epoch", self._shown)

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
        query = """
            WITH id AS (SELECT id FROM hubbub_channel WHERE name = $1),
            oldest AS (
                SELECT "offset" FROM hubbub_log WHERE channel = (SELECT id FROM id) AND "offset" <= $2
                ORDER BY "offset" LIMIT $3)
            DELETE FROM hubbub_log WHERE channel = (SELECT id FROM id) AND "offset" IN (SELECT "offset" FROM oldest)
        """
        while await self._deleted(query, channel, upto, SLICE) == SLICE:
            pass

    async def _deleted(self, query: str, *values: Any) -> int:
        done = await self._ask(lambda connection: connection.execute(query, *values))
        return int(done.rpartition(" ")[2])

    async def sweep(self, keeps: Callable[[str], float]) -> int:
        """Let go of what is old, a slice of a channel in each transaction. Several servers may do so at once."""
        gone, last = 0, 0
        now = self._clock.time()
        while channels := await self._channels(last):
            for id, name in channels:
                while keep := keeps(name):
                    slice = await self._forget(id, int((now - keep) * 1_000_000))
                    gone += slice
                    if slice < SLICE:
                        break
            last = channels[-1][0]
        self._bytes = await self._ask(_size)
        return gone

    async def _channels(self, after: int) -> list[tuple[int, str]]:
        query = "SELECT id, name FROM hubbub_channel WHERE id > $1 ORDER BY id LIMIT $2"
        return [(row[0], row[1]) for row in await self._ask(lambda each: each.fetch(query, after, CHANNELS))]

    async def _forget(self, channel: int, before: int) -> int:
        """Of the oldest publications those that are older, up to the first that is not: clocks may jump."""
        query = """
            WITH oldest AS (SELECT "offset", at FROM hubbub_log WHERE channel = $1 ORDER BY "offset" LIMIT $3),
            first AS (SELECT min("offset") AS kept FROM oldest WHERE at >= $2)
            DELETE FROM hubbub_log WHERE channel = $1 AND "offset" IN (
                SELECT "offset" FROM oldest, first WHERE kept IS NULL OR "offset" < kept)
        """
        return await self._deleted(query, channel, before, SLICE)

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
                (row,) = await connection.fetch(_TOPS, [channel])
                id, _, top, life, store = row
                if epoch_of(store, life) == epoch:
                    life += 1
                    await connection.execute("UPDATE hubbub_channel SET life = $1 WHERE id = $2", life, id)
                return Position(epoch_of(store, life), top)

        return await self._ask(work)

    # --- reading

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Where each of these channels stands."""
        query = """
            SELECT meta.epoch, name, life, top FROM hubbub_meta meta
            LEFT JOIN hubbub_channel ON name = ANY($1::text[])
        """
        rows = await self._ask(lambda connection: connection.fetch(query, list(channels)))
        found = {name: Position(epoch_of(epoch, life), top) for epoch, name, life, top in rows if name is not None}
        return {channel: found.get(channel) or Position(rows[0][0], 0) for channel in channels}

    async def read(
        self, channel: str, after: int, limit: int, max_bytes: int = 1 << 20, *, reverse: bool = False
    ) -> Page:
        """A page and the head, of the same instant: one statement sees one snapshot."""
        bounds = (channel, (after or _END) if reverse else after, max(limit, 0), max_bytes)
        rows = await self._ask(lambda connection: connection.fetch(_BACK if reverse else _FORWARD, *bounds))
        epoch, life, top = rows[0][:3]
        publications = [_publication(row[3:11]) for row in rows if row[3] is not None]
        return Page(publications, Position(epoch_of(epoch, life or 0), top or 0))

    async def _ask(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """On a connection of the pool, in a task of its own: asyncpg needs one, and commands of clients have none."""
        if self._pool is None:
            raise BackendError("the store is not running")
        return await asyncio.get_running_loop().create_task(self._look(work))

    async def _look(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        try:
            async with self._pool.acquire(timeout=READ_DEADLINE) as connection:
                return await work(connection)
        except (*_AWAY, asyncpg.PostgresError) as error:
            raise BackendError(f"{self._shown} cannot be asked: {str(error) or 'no answer in time'}") from error

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


class _Table:
    """One connection that writes, made anew when it is lost."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, Any]], *, clock: Clock) -> None:
        self._connect = connect
        self._clock = clock
        self._id = secrets.token_hex(8)
        self._batch = 0
        self._connection: Any = None
        self._known: set[str] = set()

    async def commit(self, drafts: Sequence[Draft]) -> Sequence[Written]:
        """All of them in one transaction, however often the database has to be asked."""
        return await self._persist(lambda connection, attempt: self._write(connection, drafts, attempt))

    async def move(self, judge: Judge, limit: int, besides: Collection[int]) -> _Outcome:
        """Rows of the outbox, in one transaction with their removal."""
        return await self._persist(lambda connection, attempt: self._move(connection, judge, attempt, limit, besides))

    async def _persist(self, work: Callable[[Any, _Attempt[T]], Coroutine[Any, Any, T]]) -> T:
        end = self._clock.now() + DEADLINE
        in_doubt: _Attempt[T] | None = None  # a transaction without an answer
        while True:
            self._batch += 1
            attempt: _Attempt[T] = _Attempt(self._batch)
            try:
                async with asyncio.timeout(max(end - self._clock.now(), PAUSE)):
                    connection = await self._connected()
                    if in_doubt is not None and await self._took_place(connection, in_doubt.number):
                        return in_doubt.result
                    in_doubt = None
                    return await work(connection, attempt)
            except _POISON as error:
                raise Unwritable(str(error)) from error
            except (*_AWAY, asyncpg.PostgresError) as error:
                self._drop()
                if attempt.is_sent:
                    in_doubt = attempt
                is_final = not isinstance(error, _AWAY) and in_doubt is None
                if is_final or self._clock.now() + PAUSE >= end:
                    raise _failure(error, is_known=in_doubt is None) from error
            except BaseException:  # ours: nobody may go on in a transaction that it left open
                self._drop()
                raise
            await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(*_AWAY):  # it is paused, or gone: then it is cut
                await connection.close(timeout=1)

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
            await look_back(self._connection)
            self._known.clear()
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _took_place(self, connection: Any, batch: int) -> bool:
        """Whether that batch was committed. Waits for a transaction that is still under way."""
        await connection.execute("INSERT INTO hubbub_writer VALUES ($1, 0) ON CONFLICT DO NOTHING", self._id)
        query = "SELECT batch FROM hubbub_writer WHERE id = $1 FOR UPDATE"
        return bool(await connection.fetchval(query, self._id) == batch)

    async def _write(
        self, connection: Any, drafts: Sequence[Draft], attempt: _Attempt[Sequence[Written]]
    ) -> Sequence[Written]:
        await self._make(connection, _channels(drafts))  # before: the rows of new channels are locked for no moment
        async with self._transaction(connection, attempt):
            attempt.result = await self._put(connection, drafts, attempt.number)
        return attempt.result

    async def _move(
        self, connection: Any, judge: Judge, attempt: _Attempt[_Outcome], limit: int, besides: Collection[int]
    ) -> _Outcome:
        async with self._transaction(connection, attempt):
            moved, written = judged(await waiting(connection, limit, besides), judge), list[Written]()
            if moved.drafts:
                await self._make(connection, _channels(moved.drafts))
                written = await self._put(connection, moved.drafts, attempt.number)
            await settle(connection, moved)
            attempt.result = (moved, written)
        return attempt.result

    @asynccontextmanager
    async def _transaction(self, connection: Any, attempt: _Attempt[T]) -> AsyncIterator[None]:
        """Commits what is done inside. What was sent off and not answered is marked in the attempt."""
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield
        except (*_POISON, asyncpg.PostgresError):
            self._known.clear()  # channels that were made inside are not there
            if not connection.is_closed():
                await transaction.rollback()
            raise
        attempt.is_sent = True
        await transaction.commit()
        attempt.is_sent = False

    async def _put(self, connection: Any, drafts: Sequence[Draft], number: int) -> list[Written]:
        """Into the log, under the names of this transaction: the offsets are its own until it ends."""
        names = _channels(drafts)
        ids, tops = await self._tops(connection, names)
        written = places(drafts, tops, await self._found(connection, drafts, ids))
        await self._insert(connection, drafts, written, ids=ids)
        moved = [tops[name].offset for name in names]
        await connection.execute(_MOVE, [ids[name] for name in names], moved, self._id, number)
        return written

    async def _make(self, connection: Any, names: Sequence[str]) -> None:
        """See to it that there are rows to lock."""
        new = [name for name in names if name not in self._known]
        if new:
            query = "INSERT INTO hubbub_channel (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"
            await connection.execute(query, new)
            if len(self._known) > MAX_KNOWN:
                self._known.clear()
            self._known.update(new)

    async def _tops(self, connection: Any, names: Sequence[str]) -> tuple[dict[str, int], dict[str, Position]]:
        rows = await connection.fetch(_TOPS, names)
        ids = {name: id for id, name, _, _, _ in rows}
        return ids, {name: Position(epoch_of(epoch, life), top) for _, name, top, life, epoch in rows}

    async def _found(self, connection: Any, drafts: Sequence[Draft], ids: dict[str, int]) -> dict[tuple[str, str], int]:
        """The offsets of those keys that are in the log."""
        named = [draft for draft in drafts if draft.key]
        if not named:
            return {}
        names = {id: name for name, id in ids.items()}
        rows = await connection.fetch(_FOUND, [ids[draft.channel] for draft in named], [draft.key for draft in named])
        return {(names[id], key): offset for id, key, offset in rows}

    async def _insert(
        self, connection: Any, drafts: Sequence[Draft], written: Sequence[Written], *, ids: dict[str, int]
    ) -> None:
        at = int(self._clock.time() * 1_000_000)
        rows = [
            _columns(ids[draft.channel], place.position.offset, at, draft)
            for draft, place in zip(drafts, written, strict=True)
            if not place.is_duplicate
        ]
        if rows:
            await connection.execute(_INSERT, *map(list, zip(*rows, strict=True)))


class _Attempt(Generic[T]):
    """One try of a transaction. `is_sent`: its commit is on the way, and nobody knows what became of it."""

    result: T  # there before the commit is sent

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_sent = False


def _channels(drafts: Sequence[Draft]) -> list[str]:
    """In the order in which everybody locks them."""
    return sorted({draft.channel for draft in drafts})


def _columns(channel: int, offset: int, at: int, draft: Draft) -> tuple[Any, ...]:
    publication, info = draft.publication, draft.publication.info
    who: tuple[Any, ...] = (None, None, None, None)
    if info is not None:
        who = (info.user, info.client, info.conn_info or None, info.chan_info or None)
    tags = msgspec.json.encode(publication.tags).decode() if publication.tags else None
    what = (None, publication.data) if publication.binary else (publication.data.decode(), None)
    return (channel, offset, at, draft.key or None, *who, tags, *what)


def _publication(row: Sequence[Any]) -> Publication:
    offset, user, client, conn_info, chan_info, tags, data, binary = row
    info = None if client is None else ClientInfo(user, client, conn_info or b"", chan_info or b"")
    payload = binary if data is None else data.encode()
    return Publication(payload, offset, info, None if tags is None else _tags_of(tags), data is None)


_tags_of = msgspec.json.Decoder(dict[str, str]).decode


def _failure(error: BaseException, *, is_known: bool) -> PublishFailed:
    """What the writer is to be told."""
    what = str(error) or "no answer in time"
    if isinstance(error, asyncpg.DiskFullError):
        what = f"the database's disk is full: make room ({error})"
    if is_known:
        return PublishFailed(f"not published, publish again: {what}", is_retry_safe=True)
    return PublishFailed(f"{IN_DOUBT}: {what}", is_retry_safe=False)
