"""Writing into PostgreSQL: transactions, and what became of one without an answer.

Answers for: many drafts in one transaction, or rows of the outbox in one with their removal; waiting out a database
that is away; and looking up a commit that had no answer. Refuses to know: batches (`writer`), connecting, and reading.

Every transaction names itself in `hubbub_writer`. Where a commit has no answer, the next connection locks that row,
which waits for whatever is still under way there, and reads whether it took place: so nothing is written twice.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from hubbub.clock import Clock
from hubbub.errors import PublishFailed
from hubbub.model import Position
from hubbub.stores.base import IN_DOUBT, Draft, Unwritable, Written, epoch_of
from hubbub.stores.columns import columns
from hubbub.stores.outbox import Judge, Moved, judged
from hubbub.stores.postgresql_connecting import AWAY, DEADLINE, FAILED, PAUSE, Database, StandbyAway, hang_up
from hubbub.stores.postgresql_outbox import settle, waiting
from hubbub.stores.postgresql_schema import not_emptied
from hubbub.stores.writer import places

#: Channels that a writer knows to be there.
MAX_KNOWN = 100_000

#: What no attempt heals: one of the drafts is at fault.
_POISON = (asyncpg.exceptions.DataError, asyncpg.IntegrityConstraintViolationError, ValueError, OverflowError)

#: Where channels stand, with their rows locked until the transaction ends.
TOPS = """
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
#: Rows of connections that have written nothing for long. Those of processes that are over are never asked for again.
#: Another one makes its row anew with its next transaction: only a doubt, which lasts for seconds, needs the old one.
FORGET_WRITERS = "DELETE FROM hubbub_writer WHERE at < now() - interval '7 days'"


class Table:
    """One connection that writes, made anew when it is lost."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._id = secrets.token_hex(8)
        self._batch = 0
        self._connection: Any = None
        self._known: set[str] = set()

    async def commit(self, drafts: Sequence[Draft], patience: float = DEADLINE) -> Sequence[Written]:
        """All of them in one transaction, however often the database has to be asked in `patience` seconds."""
        return (
            await self._persist(lambda connection, attempt: self._write(connection, drafts, attempt), patience)
        ).written

    async def move(self, judge: Judge, limit: int, besides: Collection[int]) -> tuple[Moved, Sequence[Written]]:
        """Rows of the outbox, in one transaction with their removal."""
        done = await self._persist(
            lambda connection, attempt: self._move(connection, judge, attempt, limit, besides), DEADLINE
        )
        return done.moved, done.written

    async def _persist(self, work: Callable[[Any, _Attempt], Awaitable[None]], patience: float) -> _Attempt:
        end = self._clock.now() + patience
        in_doubt: _Attempt | None = None  # a transaction without an answer
        while True:
            self._batch += 1
            attempt = _Attempt(self._batch)
            try:
                async with asyncio.timeout(max(end - self._clock.now(), PAUSE)):
                    connection = await self._connected()
                    await self._database.hold_back(connection)
                    if in_doubt is not None and await self._took_place(connection, in_doubt):
                        attempt = in_doubt
                    else:
                        in_doubt = None
                        await _blaming(work(connection, attempt))
                self._database.answered()
                return attempt
            except Unwritable:
                raise
            except (*FAILED, ValueError) as error:
                if not isinstance(error, StandbyAway):
                    self._drop()
                if isinstance(error, AWAY):
                    self._database.missed(error)
                if attempt.is_sent:
                    in_doubt = attempt
                is_final = not isinstance(error, AWAY) and in_doubt is None
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
            await hang_up(connection)

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect()
            self._known.clear()
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._database.give_up(self._connection)
            self._connection = None

    async def _took_place(self, connection: Any, attempt: _Attempt) -> bool:
        """Whether that transaction was committed. Waits for it if it is still under way."""
        await connection.execute("INSERT INTO hubbub_writer VALUES ($1, 0) ON CONFLICT DO NOTHING", self._id)
        query = "SELECT batch FROM hubbub_writer WHERE id = $1 FOR UPDATE"
        if await connection.fetchval(query, self._id) != attempt.number:
            return False
        # What is there may be a standby that was promoted meanwhile: it has the offsets, and another epoch.
        _, tops = await self._tops(connection, _channels(attempt.drafts))
        attempt.written = [
            place._replace(position=place.position._replace(epoch=tops[draft.channel].epoch))
            for draft, place in zip(attempt.drafts, attempt.written, strict=True)
        ]
        return True

    async def _write(self, connection: Any, drafts: Sequence[Draft], attempt: _Attempt) -> None:
        await self._make(connection, _channels(drafts))  # before: the rows of new channels are locked for no moment
        async with self._transaction(connection, attempt):
            await self._put(connection, drafts, attempt)

    async def _move(
        self, connection: Any, judge: Judge, attempt: _Attempt, limit: int, besides: Collection[int]
    ) -> None:
        async with self._transaction(connection, attempt):
            attempt.moved = moved = judged(await waiting(connection, limit, besides), judge)
            if moved.drafts:
                await self._make(connection, _channels(moved.drafts))
                await self._put(connection, moved.drafts, attempt)
            await settle(connection, moved)

    @asynccontextmanager
    async def _transaction(self, connection: Any, attempt: _Attempt) -> AsyncIterator[None]:
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

    async def _put(self, connection: Any, drafts: Sequence[Draft], attempt: _Attempt) -> None:
        """Into the log, under the names of this transaction: the offsets are its own until it ends."""
        names = _channels(drafts)
        ids, tops = await self._tops(connection, names)
        written = places(drafts, tops, await self._found(connection, drafts, ids))
        await self._insert(connection, drafts, written, ids=ids)
        moved = [tops[name].offset for name in names]
        await connection.execute(_MOVE, [ids[name] for name in names], moved, self._id, attempt.number)
        attempt.drafts, attempt.written = drafts, written

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
        rows = not_emptied(await connection.fetch(TOPS, names), 4)
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
            (*columns(ids[draft.channel], place.position.offset, at, draft), *_payload(draft))
            for draft, place in zip(drafts, written, strict=True)
            if not place.is_duplicate
        ]
        if rows:
            await connection.execute(_INSERT, *map(list, zip(*rows, strict=True)))


class _Attempt:
    """One try of a transaction, and what it has written, which is there before its commit is sent.

    `is_sent`: the commit is on the way, and nobody knows what became of it.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_sent = False
        self.moved = Moved()
        self.drafts: Sequence[Draft] = ()
        self.written: Sequence[Written] = ()


async def _blaming(work: Awaitable[None]) -> None:
    """Do it. Raises Unwritable where what is written is at fault, and not the way to the database.

    Only here are errors asked for that: making a connection has ValueErrors, too (a certificate that does not fit).
    """
    try:
        await work
    except _POISON as error:
        if isinstance(error, OSError):
            raise
        raise Unwritable(str(error)) from error


def _channels(drafts: Sequence[Draft]) -> list[str]:
    """In the order in which everybody locks them."""
    return sorted({draft.channel for draft in drafts})


def _payload(draft: Draft) -> tuple[str | None, bytes | None]:
    """The columns data and bytes."""
    publication = draft.publication
    return (None, publication.data) if publication.binary else (publication.data.decode(), None)


def _failure(error: BaseException, *, is_known: bool) -> PublishFailed:
    """What the writer is to be told."""
    what = str(error) or "no answer in time"
    if isinstance(error, asyncpg.DiskFullError):
        what = f"the database's disk is full: make room ({error})"
    if is_known:
        return PublishFailed(f"not published, publish again: {what}", is_retry_safe=True)
    return PublishFailed(f"{IN_DOUBT}: {what}", is_retry_safe=False)
