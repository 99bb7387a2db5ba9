"""What a store takes of a database in trouble is bounded: connections, whoever waits, leaves or stops meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tests.contracts.stores import Committed
from tests.databases import PostgresServer, postgres_servers
from tests.integration.store_support import append, opened, read, server

from hubbub.clock import SystemClock
from hubbub.errors import BackendError, PublishFailed
from hubbub.stores import postgresql_connecting, postgresql_readers
from hubbub.stores.postgresql import READERS, WRITERS, PostgresStore
from hubbub.stores.postgresql_connecting import Database
from hubbub.stores.postgresql_readers import Readers
from hubbub.stores.postgresql_schema import LOCK
from hubbub.stores.writer import places

__all__ = ["postgres_servers", "server"]


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One to mistreat."""
    with PostgresServer("postgres15") as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is given up soon."""
    monkeypatch.setattr("hubbub.stores.writer.PATIENCE", 0.5)
    monkeypatch.setattr(postgresql_readers, "DEADLINE", 0.5)


class Watcher:
    """Looks at the database beside the store."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def count(self, condition: str = "true") -> int:
        """Connections of hubbub to this database."""
        ours = "datname = current_database() AND application_name = 'hubbub'"
        return int(
            await self.connection.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {ours} AND {condition}")
        )

    async def until(self, least: int, most: int, condition: str = "true") -> None:
        """Return once there are as many."""
        async with asyncio.timeout(60):
            while not least <= await self.count(condition) <= most:  # noqa: ASYNC110  # another process waits
                await asyncio.sleep(0.02)


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[Watcher]:
    connection = await asyncpg.connect(url)
    try:
        yield Watcher(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def locked(url: str) -> AsyncIterator[None]:
    """As VACUUM FULL and ALTER TABLE do."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("BEGIN; LOCK hubbub_log")
        yield
    finally:
        await connection.close()


# who is given up ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("other", ["LOCK_TIMEOUT", "NOTICE"])  # either will do: not every system has the second
async def test_what_is_given_up_does_not_wait_for_a_lock_for_ever(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.setattr(postgresql_connecting, other, 0)
    url = server.database()
    async with opened(url) as (store, _), watching(url) as watcher:
        async with locked(url):
            for _ in range(4):
                work = [append(store, channel=f"room{number}") for number in range(20)]
                reads = [store.read(f"room{number}", 0, 10) for number in range(READERS)]
                failures = await asyncio.gather(*work, *reads, return_exceptions=True)
                assert all(isinstance(each, BackendError) for each in failures), failures
            await watcher.until(0, WRITERS + READERS)
        assert (await append(store)).offset == 1


async def test_a_schema_that_is_being_changed_is_waited_for(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_connecting, "LOCK_TIMEOUT", 100)
    url = server.database()
    store = PostgresStore(url, clock=SystemClock())
    async with watching(url) as watcher:
        await watcher.connection.execute(f"SELECT pg_advisory_lock({LOCK})")
        starting = asyncio.create_task(store.start(Committed()))
        # Were it given up and tried again, there would never be such a one.
        await watcher.until(1, 1, "wait_event = 'advisory' AND clock_timestamp() - query_start > interval '1 second'")
        await watcher.connection.execute(f"SELECT pg_advisory_unlock({LOCK})")
        await starting
    assert (await append(store)).offset == 1
    await store.stop()


@pytest.mark.usefixtures("impatient")
async def test_commits_that_wait_for_a_standby_are_few_and_what_comes_next_is_not_sent(
    own_server: PostgresServer,
) -> None:
    url = own_server.database()
    async with opened(url) as (store, _), watching(url) as watcher:
        await append(store)
        own_server.query("ALTER SYSTEM SET synchronous_standby_names = 'away'")
        own_server.query("SELECT pg_reload_conf()")
        number = rounds = 0
        async with asyncio.timeout(60):
            while True:
                number += 1
                work = [append(store, each, channel=f"room{number}.{each}") for each in range(20)]
                answers = await asyncio.gather(*work, store.trim("room", 0), return_exceptions=True)
                failures = [str(each) for each in answers if isinstance(each, BaseException)]
                rounds += bool(failures)  # the setting is heard of by now
                # A loaded machine may be too slow to ask within this patience.
                if rounds > 4 and sum("synchronous standby" in each for each in failures) == len(answers):
                    break
        assert all(isinstance(each, PublishFailed) and each.is_retry_safe for each in answers[:-1])
        assert 0 < await watcher.count("wait_event = 'SyncRep'") <= WRITERS + READERS
        await watcher.until(1, 2 * (WRITERS + 1 + READERS))
        assert await read(store) == [0]  # readers wait for nobody
        own_server.query("ALTER SYSTEM RESET synchronous_standby_names")
        own_server.query("SELECT pg_reload_conf()")
        await watcher.until(0, 0, "wait_event = 'SyncRep'")
        assert (await append(store, 1)).offset == 2
        for each in range(20):
            assert (await store.heads([f"room{number}.{each}"]))[f"room{number}.{each}"].offset == 0
        await store.trim("room", 1)


# who leaves -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Connections that were made."""
    made, connect = [], Database.connect

    async def counting(database: Database) -> Any:
        made.append(await connect(database))
        return made[-1]

    monkeypatch.setattr(Database, "connect", counting)
    return made


@asynccontextmanager
async def reading(server: PostgresServer, count: int) -> AsyncIterator[Readers]:
    clock = SystemClock()
    database = Database(server.database(), clock=clock, is_relaxed=False)
    await database.prepare()
    readers = Readers(database, count, clock=clock)
    yield readers
    await readers.close()


async def test_who_leaves_in_the_middle_of_a_read_leaves_no_connection_behind(
    server: PostgresServer, dialled: list[Any]
) -> None:
    async with reading(server, 2) as readers:
        for _ in range(10):
            began = asyncio.Event()

            async def work(connection: Any, began: asyncio.Event = began) -> None:
                began.set()
                await connection.execute("SELECT pg_sleep(0.2)")

            asking = asyncio.create_task(readers.ask(work))
            await began.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert await readers.ask(lambda connection: connection.fetchval("SELECT 1")) == 1
    assert len(dialled) <= 2


async def test_who_leaves_before_its_turn_asks_nothing(server: PostgresServer) -> None:
    asked: list[int] = []
    goes_on = asyncio.Event()

    async def work(connection: Any, number: int) -> None:
        asked.append(number)
        await goes_on.wait()

    async with reading(server, 1) as readers:
        first = asyncio.create_task(readers.ask(lambda connection: work(connection, 1)))
        async with asyncio.timeout(60):
            while not asked:  # noqa: ASYNC110  # nobody else knows of it
                await asyncio.sleep(0.01)
        second = asyncio.create_task(readers.ask(lambda connection: work(connection, 2)))
        await asyncio.sleep(0.1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        goes_on.set()
        await first
        await readers.ask(lambda connection: work(connection, 3))
    assert asked == [1, 3]


async def test_an_answer_that_is_an_error_costs_no_connection(server: PostgresServer, dialled: list[Any]) -> None:
    async with reading(server, 1) as readers:
        for _ in range(3):
            with pytest.raises(BackendError, match="division by zero"):
                await readers.ask(lambda connection: connection.execute("SELECT 1/0"))
        assert await readers.ask(lambda connection: connection.fetchval("SELECT 1")) == 1
    assert len(dialled) == 1


async def test_who_reads_while_the_store_stops_is_told_so(server: PostgresServer) -> None:
    url = server.database()
    async with opened(url) as (store, _), watching(url) as watcher, locked(url):
        asking = asyncio.create_task(store.read("room", 0, 1))
        await watcher.until(1, 1, "wait_event_type = 'Lock'")
        await store.stop()
        with pytest.raises(BackendError, match="not running"):
            await asking


async def test_a_stop_that_somebody_gives_up_goes_on(server: PostgresServer) -> None:
    url = server.database()
    async with opened(url) as (store, _), watching(url) as watcher:
        async with locked(url):
            appending = asyncio.create_task(append(store))
            await watcher.until(1, 1, "wait_event_type = 'Lock'")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await store.stop()
            assert await watcher.count()
        await store.stop()
        assert appending.done()
        assert (await appending).offset == 1
        await watcher.until(0, 0)


# who has other settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_database_with_a_stricter_isolation(
    server: PostgresServer, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.database()
    server.query(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_isolation = '{level}'")
    stores = [PostgresStore(url, clock=SystemClock()) for _ in range(6)]
    await asyncio.gather(*(store.start(Committed()) for store in stores))
    for _ in range(20):
        await asyncio.gather(*(append(store) for store in stores))
    assert len(await read(stores[0])) == 120
    await asyncio.gather(*(store.stop() for store in stores))
    assert not [record for record in caplog.records if "is away" in record.getMessage()]


async def test_a_process_that_stood_still_in_its_transaction_writes_it_again(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = postgresql_connecting.session
    still = iter([1.5])

    def standing_still(*arguments: Any) -> Any:
        time.sleep(next(still, 0.0))  # also the event loop
        return places(*arguments)

    short = {"idle_in_transaction_session_timeout": "300"}
    monkeypatch.setattr(postgresql_connecting, "session", lambda is_relaxed: session(is_relaxed=is_relaxed) | short)
    monkeypatch.setattr("hubbub.stores.postgresql_table.places", standing_still)
    async with opened(server.database()) as (store, _):
        assert (await append(store)).offset == 1
        assert next(still, None) is None
        assert await read(store) == [0]


@pytest.mark.parametrize("error", [asyncpg.IdleInTransactionSessionTimeoutError, asyncpg.LockNotAvailableError])
async def test_a_transaction_that_the_database_has_ended_is_tried_again(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """As the same end is told where the word of it comes before the end of the connection."""
    ends = iter([error("ended")])

    def ended(*arguments: Any) -> Any:
        for each in ends:
            raise each
        return places(*arguments)

    monkeypatch.setattr("hubbub.stores.postgresql_table.places", ended)
    async with opened(server.database()) as (store, _):
        assert (await append(store)).offset == 1
        assert next(ends, None) is None


@pytest.mark.usefixtures("impatient")
async def test_a_store_that_is_emptied_meanwhile_says_so_until_it_is_back(server: PostgresServer) -> None:
    url = server.database()
    name = url.rpartition("/")[2]
    async with opened(url) as (store, _), watching(url) as watcher:
        old = await append(store)
        server.query("CREATE TABLE kept AS SELECT * FROM hubbub_meta; DELETE FROM hubbub_meta", name)
        for is_cut in (False, True):
            if is_cut:
                await watcher.connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'hubbub' AND datname = current_database()"
                )
            with pytest.raises(PublishFailed, match=r"not published.*hubbub_meta is empty") as refusal:
                await append(store)
            assert refusal.value.is_retry_safe
            for asked in (store.heads(["room"]), store.read("room", 0, 1), store.replace_epoch("room", "x")):
                with pytest.raises(BackendError, match="hubbub_meta is empty"):
                    await asked
        server.query("INSERT INTO hubbub_meta SELECT * FROM kept", name)
        assert await append(store, 1) == old._replace(offset=2)
        assert await read(store) == [0, 1]
