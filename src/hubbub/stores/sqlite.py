"""A log in one SQLite file: one thread writes, others read.

Answers for: transactions, what a failed one means, and pages. Refuses to know: batches (`writer`), and whose file it
is (`sqlite_file`).

There is exactly one connection that writes and checkpoints: with two, versions of SQLite before 3.51.3 may rarely
corrupt a file (the "WAL reset" race). `sqlite3` of the standard library is called in threads of our own: a hop for each
statement, as wrappers do it, costs more than the statement.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from hubbub.clock import Clock
from hubbub.errors import BackendError, PublishFailed
from hubbub.model import ClientInfo, Position, Publication, Published
from hubbub.source import Known, Page, altered_by_reading
from hubbub.stores.base import IN_DOUBT, Draft, StoreEvents, Unwritable, Written, epoch_of
from hubbub.stores.columns import columns, tags_of
from hubbub.stores.sqlite_file import BUSY, StoreFile
from hubbub.stores.writer import Writer, places

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Reading threads, with a connection each.
READERS = 2

#: Channels of which the writer remembers where they stand.
MAX_KNOWN = 100_000

_INSERT = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_COLUMNS = "offset, user, client, conn_info, chan_info, tags, data, typeof(data) = 'blob'"
_FORWARD = f"SELECT {_COLUMNS} FROM log WHERE channel = ? AND offset > ? ORDER BY offset LIMIT ?"
_BACK = f"SELECT {_COLUMNS} FROM log WHERE channel = ? AND offset < ? ORDER BY offset DESC LIMIT ?"

#: Publications that are let go of in one transaction, and channels that are looked at in one go.
SLICE, CHANNELS = 1000, 500

#: Beyond every offset.
_END = 1 << 62


class _Row(NamedTuple):
    """A channel's row."""

    id: int
    top: int
    life: int


class SqliteStore:
    """A Store in the file at `path`.

    `is_relaxed`: the last moments may be lost with the machine, not with this process. `busy`: seconds that are waited
    for another program that has the file open.
    """

    is_shared: ClassVar[bool] = False

    def __init__(self, path: Path, *, clock: Clock, is_relaxed: bool = False, busy: float = BUSY) -> None:
        self._file = StoreFile(path, is_relaxed=is_relaxed, busy=busy)
        self._clock = clock
        self._busy = self._waits = busy  # what was asked for, and what the writing connection is told now
        self._writer: Writer | None = None
        self._writing: ThreadPoolExecutor
        self._reading: ThreadPoolExecutor
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()  # of the readers
        self._connection: sqlite3.Connection
        self._is_open = False  # the writing thread's
        self._ending: asyncio.Future[None] | None = None  # of the last start, which somebody may have given up
        self._known: dict[str, _Row] = {}  # the writing thread's
        self._commits = 0

    async def start(self, events: StoreEvents) -> None:
        """Open the file. Who gives that up has it closed again, as soon as it is open."""
        await self._ended()
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._reading = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        try:
            await _answer(self._writing.submit(self._open))
        except BaseException:
            self._ending = asyncio.wrap_future(self._leave())
            raise
        self._writer = Writer(self, on_committed=events.on_committed, clock=self._clock)

    def _open(self) -> None:
        """All of its connections, or none, and the file is free for others."""
        self._known.clear()  # of an earlier start: meanwhile it may have become another file
        self._waits = self._busy
        self._connection = self._file.open()
        readers: list[sqlite3.Connection] = []
        try:
            (self._commits,) = self._connection.execute("SELECT commits FROM meta").fetchone()
            readers += (self._file.reader() for _ in range(READERS))
        except BaseException as error:
            for reader in readers:
                reader.close()
            self._file.close(self._connection)
            if isinstance(error, sqlite3.Error):
                raise BackendError(f"{self._file.path} cannot be opened as a store: {error}") from error
            raise
        for reader in readers:
            self._idle.put(reader)
        self._is_open = True

    async def stop(self) -> None:
        """Write what waits, and close the file: also where nobody waits for the end of it."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self._ending = asyncio.get_running_loop().create_task(self._end(writer), name="close the store")
        await self._ended()

    async def _ended(self) -> None:
        """Return once the last one is closed."""
        ending = self._ending
        if ending is None:
            return
        if not ending.done():
            await asyncio.wait([ending])
        if self._ending is ending:
            self._ending = None
        if not ending.cancelled():
            ending.result()

    async def _end(self, writer: Writer) -> None:
        try:
            await writer.stop()
        finally:
            closing = self._leave()
        await _answer(closing)

    def _leave(self) -> concurrent.futures.Future[None]:
        """Close everything, behind whatever is under way in the writing thread."""
        closing = self._writing.submit(self._close)
        self._writing.shutdown(wait=False)
        return closing

    def _close(self) -> None:
        self._reading.shutdown()  # first: whoever still reads needs a connection
        if self._is_open:
            self._is_open = False
            for _ in range(READERS):
                self._idle.get().close()
            self._file.close(self._connection)

    async def _in(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    # --- writing

    def append(self, draft: Draft) -> Awaitable[Published]:
        """Write one publication."""
        if self._writer is None:
            raise PublishFailed("not published, publish again: the store is not running", is_retry_safe=True)
        return self._writer.append(draft)

    async def commit(self, drafts: Sequence[Draft], patience: float) -> Sequence[Written]:
        """All of them in one transaction. What a Table does: another program's lock is waited for."""
        at = int(self._clock.time() * 1_000_000)
        work = partial(self._transaction, lambda: self._write(drafts, at), min(patience, self._busy))
        return await self._in(self._writing, work)

    async def _change(self, work: Callable[[], T]) -> T:
        """Something besides what is published. Raises BackendError."""
        if self._writer is None:
            raise BackendError("the store is not running")
        return await self._in(self._writing, lambda: self._transaction(work, self._busy))

    def _transaction(self, work: Callable[[], T], busy: float) -> T:
        """Do it and commit, or leave nothing of it. In the writing thread."""
        connection = self._connection
        if busy != self._waits:
            connection.execute(f"PRAGMA busy_timeout={round(busy * 1000)}")
            self._waits = busy
        expected = self._commits + 1
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = work()
            connection.execute("UPDATE meta SET commits = ?", (expected,))
        except BaseException as error:
            self._known.clear()
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise _failure(error) from error
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._known.clear()
            if not self._has_committed(expected):
                raise _failure(error) from error
        self._commits = expected
        self._file.note(expected)
        return result

    def _has_committed(self, expected: int) -> bool:
        """What became of a transaction whose commit failed. Raises PublishFailed where even that cannot be read."""
        connection = self._connection
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            (commits,) = connection.execute("SELECT commits FROM meta").fetchone()
        except sqlite3.Error as error:
            self._commits = expected  # should it have taken place, the next one must have another number
            raise PublishFailed(f"{IN_DOUBT}: the file cannot be read: {error}", is_retry_safe=False) from error
        return bool(commits == expected)

    def _write(self, drafts: Sequence[Draft], at: int) -> Sequence[Written]:
        rows = {channel: self._row(channel) for channel in dict.fromkeys(draft.channel for draft in drafts)}
        tops = {channel: self._position(row) for channel, row in rows.items()}
        written = places(drafts, tops, self._found(drafts, rows))
        new = ((draft, place) for draft, place in zip(drafts, written, strict=True) if not place.is_duplicate)
        self._connection.executemany(
            _INSERT,
            (
                (*columns(rows[draft.channel].id, place.position.offset, at, draft), _payload(draft))
                for draft, place in new
            ),
        )
        self._connection.executemany(
            "UPDATE channel SET top = ? WHERE id = ?", ((tops[channel].offset, row.id) for channel, row in rows.items())
        )
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        self._known |= {channel: row._replace(top=tops[channel].offset) for channel, row in rows.items()}
        return written

    def _row(self, channel: str) -> _Row:
        """A channel's row, made if it is not there."""
        known = self._known.get(channel)
        if known is not None:
            return known
        found = _row_of(self._connection, channel)
        if found is not None:
            return found
        made = self._connection.execute("INSERT INTO channel (name, top) VALUES (?, 0)", (channel,)).lastrowid
        assert made is not None, "an INSERT makes a row"
        return _Row(made, 0, 0)

    def _found(self, drafts: Iterable[Draft], rows: dict[str, _Row]) -> dict[tuple[str, str], int]:
        """The offsets of those keys that are in the log."""
        found = {}
        for channel, _, key in drafts:
            if key:
                row = self._connection.execute(
                    "SELECT offset FROM log WHERE channel = ? AND key = ?", (rows[channel].id, key)
                ).fetchone()
                if row is not None:
                    found[channel, key] = row[0]
        return found

    async def trim(self, channel: str, upto: int) -> None:
        """Let go of what is kept up to there, a slice in each transaction."""
        while await self._change(partial(self._cut, channel, upto)) == SLICE:
            pass

    def _cut(self, channel: str, upto: int) -> int:
        id = self._row(channel).id
        oldest = "SELECT offset FROM log WHERE channel = ? AND offset <= ? ORDER BY offset LIMIT ?"
        delete = f"DELETE FROM log WHERE channel = ? AND offset IN ({oldest})"
        return self._connection.execute(delete, (id, id, upto, SLICE)).rowcount

    async def sweep(self, keeps: Callable[[str], float]) -> int:
        """Let go of what is old, a slice of a channel in each transaction."""
        gone, last = 0, 0
        now = self._clock.time()
        while channels := await self._read(partial(_channels, last)):
            for id, name, first in channels:
                keep = keeps(name)
                before = int((now - keep) * 1_000_000)
                if keep and first is not None and first < before:
                    gone += await self._forget(id, before)
            last = channels[-1][0]
        return gone

    async def _forget(self, channel: int, before: int) -> int:
        gone = 0
        while True:
            old = await self._change(partial(self._cut_old, channel, before))
            gone += old
            if old < SLICE:
                return gone

    def _cut_old(self, channel: int, before: int) -> int:
        """Of the oldest publications those that are older, up to the first that is not: clocks may jump."""
        oldest = "SELECT offset, at FROM log WHERE channel = ? ORDER BY offset LIMIT ?"
        rows = self._connection.execute(oldest, (channel, SLICE)).fetchall()
        old = next((number for number, (_, at) in enumerate(rows) if at >= before), len(rows))
        if old:
            self._connection.execute("DELETE FROM log WHERE channel = ? AND offset <= ?", (channel, rows[old - 1][0]))
        return old

    async def altered(self, known: Mapping[str, Known]) -> set[str]:
        """Which of these are not what is held here."""
        return await altered_by_reading(self, known)

    async def replace_epoch(self, channel: str, epoch: str) -> Position:
        """Another epoch, if it still has this one."""

        def work() -> Position:
            row = self._row(channel)
            if self._position(row).epoch == epoch:
                self._connection.execute("UPDATE channel SET life = life + 1 WHERE id = ?", (row.id,))
                row = row._replace(life=row.life + 1)
                self._known[channel] = row
            return self._position(row)

        return await self._change(work)

    # --- reading

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Where each of these channels stands."""
        return await self._read(lambda connection: {name: self._head(connection, name)[1] for name in channels})

    async def read(
        self, channel: str, after: int, limit: int, max_bytes: int = 1 << 20, *, reverse: bool = False
    ) -> Page:
        """A page and the head, of the same instant."""

        def work(connection: sqlite3.Connection) -> Page:
            id, head = self._head(connection, channel)
            bounds = (id, (after or _END) if reverse else after, max(limit, 0))
            return Page(_page(connection.execute(_BACK if reverse else _FORWARD, bounds), max_bytes), head)

        return await self._read(work)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """One look at the file as it is in one instant."""
        if self._writer is None:
            raise BackendError("the store is not running")

        def look() -> T:
            connection = self._idle.get()
            try:
                connection.execute("BEGIN")
                return work(connection)
            except sqlite3.Error as error:
                raise BackendError(f"the store cannot be read: {error}") from error
            finally:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                self._idle.put(connection)

        return await self._in(self._reading, look)

    def _head(self, connection: sqlite3.Connection, channel: str) -> tuple[int, Position]:
        row = _row_of(connection, channel) or _Row(0, 0, 0)
        return row.id, self._position(row)

    def _position(self, row: _Row) -> Position:
        return Position(epoch_of(self._file.epoch, row.life), row.top)

    def counts(self) -> dict[str, int]:
        """What was written, what waits, and the size of the file."""
        return self._writer.counts() | {"store_bytes": self._file.size} if self._writer is not None else {}


async def _answer(future: concurrent.futures.Future[T]) -> T:
    """Wait for it. Who is cancelled does not cancel it."""
    return await asyncio.shield(asyncio.wrap_future(future))


def _row_of(connection: sqlite3.Connection, channel: str) -> _Row | None:
    row = connection.execute("SELECT id, top, life FROM channel WHERE name = ?", (channel,)).fetchone()
    return None if row is None else _Row(*row)


def _channels(after: int, connection: sqlite3.Connection) -> list[tuple[int, str, int | None]]:
    """Some, and since when each has something."""
    first = "SELECT at FROM log WHERE log.channel = channel.id ORDER BY offset LIMIT 1"
    query = f"SELECT id, name, ({first}) FROM channel WHERE id > ? ORDER BY id LIMIT ?"
    return [(id, name.decode(), at) for id, name, at in connection.execute(query, (after, CHANNELS))]


def _payload(draft: Draft) -> str | bytes:
    publication = draft.publication
    return publication.data if publication.binary else publication.data.decode()


def _page(rows: Iterable[tuple[Any, ...]], max_bytes: int) -> list[Publication]:
    page: list[Publication] = []
    size = 0
    for offset, user, client, conn_info, chan_info, tags, data, binary in rows:
        size += len(data)
        if size > max_bytes and page:
            break
        info = (
            None if client is None else ClientInfo(user.decode(), client.decode(), conn_info or b"", chan_info or b"")
        )
        page.append(Publication(data, offset, info, tags_of(tags), bool(binary)))
    return page


def _failure(error: BaseException) -> BaseException:
    """What the writer is to be told of a transaction that left nothing behind."""
    if isinstance(
        error, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.InterfaceError | ValueError | OverflowError
    ):
        return Unwritable(str(error))
    if isinstance(error, sqlite3.Error):
        return PublishFailed(f"not published, publish again: {_what(error)}", is_retry_safe=True)
    return error


def _what(error: sqlite3.Error) -> str:
    """One line that names the fix where the error is a known one."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return "the disk is full: make room, nothing that was acknowledged is lost"
    if name.startswith("SQLITE_BUSY"):
        return "another program holds the file's lock: end it (is it open in a sqlite3 shell, in a transaction?)"
    if name.startswith("SQLITE_IOERR") or name.startswith("SQLITE_READONLY"):
        return f"the file cannot be written ({name}): look at its disk and its permissions"
    return str(error)
