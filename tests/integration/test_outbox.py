"""Publications in the application's own transactions: what is committed is published once, and nothing else is.

Real PostgreSQL, real drivers, and real servers that are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from tests.databases import VERSIONS, Servers, Version, postgres_servers, shared

from hubbub import Hubbub, Publication
from hubbub.core.mailbox import Mailbox
from hubbub.outbox import Outgoing
from hubbub.stores import postgresql_outbox
from hubbub.stores.outbox import Moved
from hubbub.stores.postgresql import PostgresStore
from hubbub.stores.postgresql_outbox import waiting
from hubbub.stores.postgresql_schema import LOCK, MIGRATIONS, migrate

__all__ = ["postgres_servers"]

CHANNELS: dict[str, Any] = {
    "chat": {"delivery": "durable", "max_bytes": 1000},
    "texts": {"delivery": "durable", "data": "text"},
    "bytes": {"delivery": "durable", "data": "binary"},
    "news": {"delivery": "live"},
}


@pytest.fixture
def url(postgres_servers: Servers) -> str:
    """An empty database."""
    return shared(postgres_servers, "postgres15").database()


@asynccontextmanager
async def opened(url: str, channels: dict[str, Any] | None = None) -> AsyncIterator[Hubbub]:
    async with Hubbub("memory://", store=url, channels=CHANNELS if channels is None else channels) as hub:
        yield hub


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def published(hub: Hubbub, channel: str = "chat:1") -> list[Any]:
    """The whole log; that there is no hole is checked here."""
    found: list[Publication[Any]] = []
    while page := (await hub.history(channel, since=found[-1].position if found else None)).publications:
        found += page
    assert [each.position.offset for each in found if each.position] == list(range(1, len(found) + 1))
    return [each.data for each in found]


async def emptied(connection: asyncpg.Connection[Any]) -> None:
    """Return once everything that waits is moved or refused."""
    async with asyncio.timeout(60):
        while await connection.fetchval("SELECT EXISTS (SELECT FROM hubbub_outbox WHERE refused IS NULL)"):  # noqa: ASYNC110  # whoever moves is another process as a rule
            await asyncio.sleep(0.02)


async def put(connection: asyncpg.Connection[Any], hub: Hubbub, data: object, channel: str = "chat:1") -> None:
    await connection.execute(*hub.outbox(channel, data).asyncpg)


class Rolled(Exception):
    """Back."""


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_committed_is_published_once_and_in_order_and_nothing_else(
    postgres_servers: Servers, version: Version
) -> None:
    url = shared(postgres_servers, version).database()
    async with opened(url) as hub, connected(url) as connection, hub.subscribe("chat:1") as listener:
        for round in range(3):
            async with connection.transaction():
                for number in range(5):
                    await put(connection, hub, [round, number])
            with contextlib.suppress(Rolled):
                async with connection.transaction():
                    await put(connection, hub, "never")
                    raise Rolled
        heard = [(await anext(listener)).data for _ in range(15)]
        assert heard == [[round, number] for round in range(3) for number in range(5)]
        await emptied(connection)
        assert await published(hub) == heard
        assert await connection.fetchval("SELECT count(*) FROM hubbub_outbox") == 0


async def test_an_open_transaction_holds_up_nobody_and_is_not_passed_over(url: str) -> None:
    async with opened(url) as hub, connected(url) as slow, connected(url) as fast:
        transaction = slow.transaction()
        await transaction.start()
        await put(slow, hub, "slow")  # with a lower number than all that follow
        for number in range(10):
            await put(fast, hub, number)
            await hub.publish("chat:1", f"direct {number}")
        await emptied(fast)
        log = await published(hub)
        assert [each for each in log if isinstance(each, int)] == list(range(10))
        assert len(log) == 20
        await transaction.commit()
        await emptied(fast)
        assert await published(hub) == [*log, "slow"]


async def test_two_servers_and_many_transactions(url: str) -> None:
    """Some are rolled back, some are slow, and some publish directly into the same channels."""
    kept: dict[int, list[Any]] = {}

    async def work(name: int, hub: Hubbub) -> None:
        kept[name] = []
        async with connected(url) as connection:
            for number in range(15):
                said = [[name, number, each] for each in range(random.randint(1, 4))]
                try:
                    async with connection.transaction():
                        for each in said:
                            await put(connection, hub, each)
                        await asyncio.sleep(random.random() * 0.02)
                        if random.random() < 0.3:
                            raise Rolled
                except Rolled:
                    continue
                kept[name] += said
                if random.random() < 0.3:
                    await hub.publish("chat:1", ["direct"])

    async with opened(url) as one, opened(url) as two, connected(url) as connection:
        async with asyncio.TaskGroup() as group:
            for name in range(6):
                group.create_task(work(name, (one, two)[name % 2]))
        await emptied(connection)
        log = [each for each in await published(one) if each != ["direct"]]
        for name, said in kept.items():
            assert [each for each in log if each[0] == name] == said
        assert len(log) == sum(map(len, kept.values()))
        moved = [hub.node.observer.counts["outbox_moved"] for hub in (one, two)]
        assert sum(moved) == len(log)


async def test_what_cannot_be_published_stays_with_the_reason_and_holds_up_nobody(url: str) -> None:
    async with opened(url) as hub, connected(url) as connection:
        insert = "INSERT INTO hubbub_outbox (channel, data, key, tags) VALUES ($1, $2::text::json, $3, $4::text::json)"
        async with connection.transaction():
            await connection.execute(insert, "chat:1", '"first"', None, None)
            await connection.execute(insert, "chat 1", "1", None, None)
            await connection.execute(insert, "chat:1", json.dumps("x" * 2000), None, None)
            await connection.execute(insert, "chat:1", "[" * 200 + "]" * 200, None, None)
            await connection.execute(insert, "chat:1", "2", "k" * 300, None)
            await connection.execute(insert, "chat:1", "3", None, '{"a": 1}')
            await connection.execute(insert, "texts:1", "4", None, None)
            await connection.execute(insert, "bytes:1", '"!"', None, None)
            await connection.execute(insert, "chat:1", '"last"', None, None)
        await emptied(connection)
        assert await published(hub) == ["first", "last"]
        rows = await connection.fetch("SELECT refused FROM hubbub_outbox ORDER BY id")
        assert [each["refused"] for each in rows] == [
            "channel name contains white space or control characters",
            "payload of 2002 bytes is over the channel's max_bytes of 1000",
            "payload is nested deeper than 128 levels",
            "idempotency_key and version_epoch have at most 256 characters",
            "tags are an object of text by text",
            "payload is no string, and this channel carries text",
            "payload is not base64, in which JSON carries bytes",
        ]
        assert hub.node.observer.counts["outbox_refused"] == 7
        # Another chance.
        await connection.execute("UPDATE hubbub_outbox SET channel = 'chat:1', refused = NULL WHERE channel = 'chat 1'")
        await emptied(connection)
        assert await published(hub) == ["first", "last", 1]


async def test_invalid_json_fails_where_it_is_written(url: str) -> None:
    async with opened(url), connected(url) as connection:
        with pytest.raises(asyncpg.InvalidTextRepresentationError):
            await connection.execute("INSERT INTO hubbub_outbox (channel, data) VALUES ('chat:1', '{\"a\"')")


async def test_one_row_that_the_log_does_not_take_is_found_among_many(url: str) -> None:
    async with opened(url) as hub, connected(url) as connection:
        await connection.execute("ALTER TABLE hubbub_log ADD CHECK (data IS DISTINCT FROM '77')")
        async with connection.transaction():
            for number in range(200):
                await put(connection, hub, number)
        await emptied(connection)
        assert await published(hub) == [number for number in range(200) if number != 77]
        (row,) = await connection.fetch("SELECT data, refused FROM hubbub_outbox")
        assert row["data"] == "77"
        assert "check constraint" in row["refused"]


async def test_what_one_server_does_not_know_another_one_publishes(url: str) -> None:
    both = {**CHANNELS, "orders": {"delivery": "durable"}}
    async with opened(url) as poor, connected(url) as connection:
        await connection.execute("INSERT INTO hubbub_outbox (channel, data) VALUES ('orders:1', '1'), ('news:1', '2')")
        await put(connection, poor, "known")
        async with poor.subscribe("chat:1", history=1) as listener:
            assert (await anext(listener)).data == "known"
        async with opened(url, both) as rich, rich.subscribe("orders:1", history=1) as listener:
            assert (await anext(listener)).data == 1
        assert await connection.fetch("SELECT channel, refused FROM hubbub_outbox") == [("news:1", None)]


async def test_a_key_is_published_once_wherever_it_was_published(url: str) -> None:
    async with opened(url) as hub, connected(url) as connection:
        await hub.publish("chat:1", "directly", idempotency_key="a")
        for key in "aabb":
            await connection.execute(*hub.outbox("chat:1", f"as row {key}", idempotency_key=key).asyncpg)
        await emptied(connection)
        again = await hub.publish("chat:1", "again", idempotency_key="b")
        assert again.duplicate
        assert await published(hub) == ["directly", "as row b"]


async def test_each_format_arrives_as_it_was_given(url: str) -> None:
    async with opened(url) as hub, connected(url) as connection:
        for channel, data in (("chat:1", {"é": [1, None]}), ("texts:1", 'a "quoted"\nline'), ("bytes:1", b"\0\xff")):
            await connection.execute(*hub.outbox(channel, data, tags={"of": channel}).asyncpg)
            async with hub.subscribe(channel, history=1) as listener:
                heard = await anext(listener)
            assert (heard.data, heard.tags) == (data, {"of": channel})


async def test_a_trigger_of_the_database_publishes(url: str) -> None:
    async with opened(url) as hub, connected(url) as connection, hub.subscribe("chat:7") as listener:
        await connection.execute("""
            CREATE TABLE orders (id int, state text);
            CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO hubbub_outbox (channel, data) VALUES ('chat:' || new.id, to_jsonb(new));
                RETURN NULL;
            END $$;
            CREATE TRIGGER tell AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION tell();
        """)
        await connection.execute("INSERT INTO orders VALUES (7, 'new')")
        await connection.execute("UPDATE orders SET state = 'paid'")
        assert [(await anext(listener)).data["state"] for _ in range(2)] == ["new", "paid"]


# drivers --------------------------------------------------------------------------------------------------------------


def by_psycopg(url: str, outgoing: Outgoing, is_kept: bool) -> None:
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(*outgoing.psycopg)
        if not is_kept:
            connection.rollback()


def by_session(url: str, outgoing: Outgoing, is_kept: bool) -> None:
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with Session(engine) as session:
        sql, values = outgoing.sqlalchemy
        session.execute(sqlalchemy.text(sql), values)
        if is_kept:
            session.commit()
    engine.dispose()


def by_async_session(url: str, outgoing: Outgoing, is_kept: bool) -> None:
    async def work() -> None:
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
        async with AsyncSession(engine) as session:
            sql, values = outgoing.sqlalchemy
            await session.execute(sqlalchemy.text(sql), values)
            if is_kept:
                await session.commit()
        await engine.dispose()

    asyncio.run(work())


@pytest.mark.parametrize("write", [by_psycopg, by_session, by_async_session])
async def test_the_statement_of_each_driver(url: str, write: Callable[[str, Outgoing, bool], None]) -> None:
    async with opened(url) as hub, connected(url) as connection:
        said = {"text": "100 % of 'it': :key $1 %(x)s"}
        await asyncio.to_thread(write, url, hub.outbox("chat:1", "never"), False)
        await asyncio.to_thread(write, url, hub.outbox("chat:1", said), True)
        keyed = hub.outbox("chat:1", "keyed", idempotency_key="k", tags={"a": "b"})
        for _ in range(2):
            await asyncio.to_thread(write, url, keyed, True)
        await emptied(connection)
        assert await published(hub) == [said, "keyed"]


# what may happen ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("happens", ["before", "after"])
async def test_a_commit_without_an_answer_is_looked_up(url: str, monkeypatch: pytest.MonkeyPatch, happens: str) -> None:
    commit = asyncpg.transaction.Transaction.commit
    failures = 0

    async def flaky(transaction: Any) -> None:
        nonlocal failures
        if failures < 2:
            failures += 1
            if happens == "after":
                await commit(transaction)
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        await commit(transaction)

    async with opened(url) as hub, connected(url) as connection, hub.subscribe("chat:1") as listener:
        await connection.execute("BEGIN")
        for number in range(20):
            await put(connection, hub, number)
        await connection.execute("COMMIT")
        monkeypatch.setattr(asyncpg.transaction.Transaction, "commit", flaky)
        assert [(await anext(listener)).data for _ in range(20)] == list(range(20))
        monkeypatch.undo()
        assert failures == 2 if happens == "before" else failures
        assert await published(hub) == list(range(20))


async def test_a_moved_one_that_is_told_late_is_heard_in_its_place(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """D4: the log has one order, whoever wrote it; those who write tell of it as they have their answers."""
    move, is_moved, go_on = PostgresStore.move, asyncio.Event(), asyncio.Event()
    commit = asyncpg.transaction.Transaction.commit
    told: list[int] = []

    async def held(transaction: Any) -> None:
        await commit(transaction)
        if asyncio.current_task() in movers:
            is_moved.set()
            await go_on.wait()

    movers: set[asyncio.Task[Any] | None] = set()

    async def noticed(store: PostgresStore, *arguments: Any) -> Moved:
        movers.add(asyncio.current_task())
        return await move(store, *arguments)

    on_committed = Mailbox.on_committed

    def tell(mailbox: Mailbox, channel: str, publication: Any, epoch: str) -> None:
        told.append(publication.offset)
        on_committed(mailbox, channel, publication, epoch)

    monkeypatch.setattr(Mailbox, "on_committed", tell)
    monkeypatch.setattr(PostgresStore, "move", noticed)
    monkeypatch.setattr(asyncpg.transaction.Transaction, "commit", held)
    async with opened(url) as hub, connected(url) as connection, hub.subscribe("chat:1") as listener:
        await put(connection, hub, "moved")
        await is_moved.wait()
        direct = await hub.publish("chat:1", "direct")
        assert direct.position is not None
        assert direct.position.offset == 2
        go_on.set()
        assert [(await anext(listener)).data for _ in range(2)] == ["moved", "direct"]
        await emptied(connection)
        assert await published(hub) == ["moved", "direct"]
    assert told == [2, 1]


async def test_a_server_that_stands_still_inside_loses_its_turn(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_outbox, "STANDSTILL", "300ms")
    async with opened(url) as hub, connected(url) as connection, AsyncExitStack() as stack:
        await connection.execute("BEGIN")
        await put(connection, hub, "said")
        still = await asyncpg.connect(url)
        stack.callback(still.terminate)
        await still.execute("BEGIN")
        assert await waiting(still, 10, []) == []  # nothing there yet, and now it stands in the way
        await connection.execute("COMMIT")
        await emptied(connection)
        assert still.is_closed()  # it had to go first
        assert await published(hub) == ["said"]


async def test_connections_cut_again_and_again(postgres_servers: Servers, url: str) -> None:
    server = shared(postgres_servers, "postgres15")
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hubbub' AND datname = '{}'"
    count = 0
    async with opened(url) as hub, connected(url) as connection, hub.subscribe("chat:1") as listener:
        for _ in range(8):
            async with connection.transaction():
                for _ in range(200):
                    await put(connection, hub, count)
                    count += 1
            await asyncio.to_thread(server.query, cut.format(url.rpartition("/")[2]))
        assert [(await anext(listener)).data for _ in range(count)] == list(range(count))
        await emptied(connection)
        assert await published(hub) == list(range(count))


async def test_the_table_comes_to_databases_that_were_made_without_it(url: str) -> None:
    async with opened(url) as hub:
        await hub.publish("chat:1", "before")
    async with connected(url) as connection:
        await connection.execute("DROP TABLE hubbub_outbox")
        await connection.execute("UPDATE hubbub_meta SET schema = 1")
        await connection.execute("DROP TABLE hubbub_mark")
        await migrate(connection)
        assert await connection.fetchval("SELECT schema FROM hubbub_meta") == len(MIGRATIONS)
        async with opened(url) as hub:
            await put(connection, hub, "after")
            await emptied(connection)
            assert await published(hub) == ["before", "after"]


def test_two_kinds_of_work_do_not_lock_each_other_out() -> None:
    assert postgresql_outbox.LOCK != LOCK
