"""What only a database elsewhere can suffer: many servers at once, restarts, stalls, cut connections, promotions."""

from __future__ import annotations

import asyncio
import logging
import secrets
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tests.contracts.stores import Committed
from tests.databases import PostgresServer, postgres_servers
from tests.integration.store_support import append, opened, read, server

from hubbub.clock import SystemClock
from hubbub.errors import BackendError, ConfigurationError, HubbubError, PublishFailed
from hubbub.model import Position
from hubbub.stores import postgresql_connecting, postgresql_readers
from hubbub.stores.base import Away
from hubbub.stores.postgresql import PostgresStore
from hubbub.stores.postgresql_schema import MIGRATIONS

__all__ = ["postgres_servers", "server"]


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One to mistreat."""
    with PostgresServer("postgres15") as server:
        yield server


class Sender:
    """Writes one number after the other until told to stop, and knows what became of each."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.acknowledged: list[Any] = []
        self.safe: list[Any] = []  # refused, and certainly not written
        self.unknown: list[Any] = []

    async def send(self, store: PostgresStore, until: asyncio.Event) -> None:
        number = 0
        while not until.is_set():
            number += 1
            said = [self.name, number]
            try:
                await append(store, said)
                self.acknowledged.append(said)
            except PublishFailed as error:
                (self.safe if error.is_retry_safe else self.unknown).append(said)

    def check(self, log: list[Any]) -> None:
        """Everything acknowledged once and in order, what is refused nowhere, what is unknown once or not at all."""
        mine = Counter(number for name, number in log if name == self.name)
        assert {number for _, number in self.acknowledged} <= set(mine)
        assert not {number for _, number in self.safe} & set(mine)
        assert set(mine.values()) <= {1}
        known = [number for name, number in log if name == self.name and [name, number] not in self.unknown]
        assert known == sorted(known)


@asynccontextmanager
async def sending(store: PostgresStore, count: int = 8) -> AsyncIterator[list[Sender]]:
    """Some that write meanwhile; at the end each of them has stopped, and the log is as they know it."""
    senders = [Sender(f"s{number}") for number in range(count)]
    until = asyncio.Event()
    tasks = [asyncio.create_task(each.send(store, until)) for each in senders]
    await some(senders)
    yield senders
    await some(senders)  # all goes on afterwards
    until.set()
    await asyncio.gather(*tasks)
    log = await read(store)
    for each in senders:
        each.check(log)


async def some(senders: list[Sender]) -> None:
    """Return once each has written another few."""
    goals = [len(each.acknowledged) + 3 for each in senders]
    async with asyncio.timeout(60):
        while any(len(each.acknowledged) < goal for each, goal in zip(senders, goals, strict=True)):  # noqa: ASYNC110  # many wait for it, and share no event
            await asyncio.sleep(0.02)


async def test_two_servers_write_one_sequence(server: PostgresServer) -> None:
    url = server.database()
    async with opened(url) as (one, heard_by_one), opened(url) as (two, heard_by_two):
        positions = await asyncio.gather(*(append((one, two)[number % 2], number) for number in range(400)))
        assert sorted(position.offset for position in positions) == list(range(1, 401))
        assert len({position.epoch for position in positions}) == 1
        log = await read(one)
        assert [log[position.offset - 1] for position in positions] == list(range(400))
        # Each tells of its own alone, in order.
        assert heard_by_one.offsets("room") == [position.offset for position in positions[::2]]
        assert heard_by_two.offsets("room") == [position.offset for position in positions[1::2]]


async def test_ten_servers_start_together_on_an_empty_database(server: PostgresServer) -> None:
    url = server.database()
    async with AsyncExitStack() as stack:
        stores = await asyncio.gather(*(stack.enter_async_context(opened(url)) for _ in range(10)))
        positions = await asyncio.gather(*(append(store) for store, _ in stores))
        assert sorted(position.offset for position in positions) == list(range(1, 11))


async def test_the_same_key_on_two_servers_is_written_once(server: PostgresServer) -> None:
    url = server.database()
    async with opened(url) as (one, _), opened(url) as (two, _):
        positions = await asyncio.gather(*(append(store, key="k") for store in (one, two) * 10))
        assert set(positions) == {positions[0]}
        assert len(await read(one)) == 1


async def test_restarted_meanwhile(own_server: PostgresServer) -> None:
    async with opened(own_server.database()) as (store, _), sending(store):
        await asyncio.to_thread(own_server.stop)
        await asyncio.to_thread(own_server.start)


async def test_stalled_beyond_the_deadline(own_server: PostgresServer) -> None:
    async with opened(own_server.database()) as (store, _), sending(store) as senders:
        own_server.pause()
        async with asyncio.timeout(60):
            while not any(each.safe or each.unknown for each in senders):  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.05)
        own_server.resume()


async def test_connections_cut_again_and_again(own_server: PostgresServer) -> None:
    url = own_server.database()
    async with opened(url) as (store, _), sending(store) as senders:
        for _ in range(10):
            killing = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'hubbub'"
            await asyncio.to_thread(own_server.query, killing)
            await some(senders)


async def test_writers_that_are_long_over_are_forgotten_and_those_that_live_go_on(server: PostgresServer) -> None:
    url = server.database()
    name = url.rpartition("/")[2]
    async with opened(url) as (store, _):
        for number in range(3):
            async with opened(url) as (other, _):
                await append(other, number)
        await append(store, 3)
        before = server.query("SELECT count(*) FROM hubbub_writer", name)
        await store.sweep(lambda channel: 0.0)
        assert server.query("SELECT count(*) FROM hubbub_writer", name) == before == "4"
        server.query("UPDATE hubbub_writer SET at = now() - interval '8 days'", name)
        await store.sweep(lambda channel: 0.0)
        assert server.query("SELECT count(*) FROM hubbub_writer", name) == "0"
        await append(store, 4)
        assert server.query("SELECT count(*) FROM hubbub_writer", name) == "1"
        assert await read(store) == list(range(5))


async def test_a_sweep_deletes_nothing_where_nothing_is_old(server: PostgresServer) -> None:
    url = server.database()
    async with opened(url) as (store, _):
        await asyncio.gather(*(append(store, channel=f"room{number}") for number in range(700)))
        await store.trim("room7", 1)  # one in which there is nothing
        server.query(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'somebody deletes'; END$$;"
            "CREATE TRIGGER refuse BEFORE DELETE ON hubbub_log EXECUTE FUNCTION refuse()",
            url.rpartition("/")[2],
        )
        assert await store.sweep(lambda channel: 3600.0) == 0
        assert await store.sweep(lambda channel: 0.0) == 0
        with pytest.raises(BackendError, match="somebody deletes"):
            await store.sweep(lambda channel: -3600.0 if channel == "room9" else 3600.0)


async def test_a_connection_that_was_told_its_end_and_is_still_open_is_made_anew(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    async def fail(*arguments: object, **options: object) -> None:
        raise dying

    async with opened(server.database()) as (store, _):
        await append(store, 0)
        start = asyncpg.transaction.Transaction.start
        failures = iter([fail])
        monkeypatch.setattr(asyncpg.transaction.Transaction, "start", lambda each: next(failures, start)(each))
        assert (await append(store, 1)).offset == 2
        with monkeypatch.context() as patch:
            patch.setattr(asyncpg.Connection, "fetch", fail)
            with pytest.raises(BackendError, match="cannot be asked"):
                await store.heads(["room"])
        assert await read(store) == [0, 1]


async def test_a_database_that_is_another_one_gives_another_epoch(server: PostgresServer) -> None:
    """As after a promotion or a recovery: its timeline is another one. Whoever notices first, all have the new one."""
    url = server.database()
    async with opened(url) as (store, _):
        old = await append(store)
    server.query("UPDATE hubbub_meta SET database = '0/0'", url.rpartition("/")[2])
    async with opened(url) as (one, _), opened(url) as (two, _):
        first, second = await append(one), await append(two)
        assert (first.offset, second.offset) == (2, 3)
        assert first.epoch == second.epoch != old.epoch
    async with opened(url) as (store, _):
        assert (await append(store)).epoch == first.epoch


async def test_a_newer_schema_is_refused(server: PostgresServer) -> None:
    url = server.database()
    async with opened(url):
        pass
    server.query(f"UPDATE hubbub_meta SET schema = {len(MIGRATIONS) + 1}", url.rpartition("/")[2])
    with pytest.raises(ConfigurationError, match="upgrade hubbub"):
        await PostgresStore(url, clock=SystemClock()).start(Committed())


# why there is none ----------------------------------------------------------------------------------------------------


async def refused(url: str, *words: str, of: type[HubbubError] = ConfigurationError) -> HubbubError:
    """One line that names the setting and the fix, and tells no password; nobody can be sure about its cause."""
    with pytest.raises(of) as refusal:
        await PostgresStore(url, clock=SystemClock()).start(Committed())
    text = str(refusal.value)
    assert type(refusal.value) is of
    assert text.startswith("store.url: postgresql://")
    assert all(word in text for word in words), text
    assert "\n" not in text
    told = "".join(traceback.format_exception(refusal.value))
    assert "secret" not in told
    return refusal.value


async def test_what_somebody_has_to_change_is_refused_at_once_with_the_fix(own_server: PostgresServer) -> None:
    away, host = own_server.url().partition("@")[2].partition("/")[0], "127.0.0.1/32"
    for statement in ("CREATE ROLE ann LOGIN PASSWORD 'right'", "CREATE ROLE bob LOGIN", "CREATE DATABASE closed"):
        own_server.query(statement)
    own_server.query("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
    (own_server.data / "pg_hba.conf").write_text(
        f"host all ann {host} scram-sha-256\nhost all hubbub,bob {host} trust\n"
    )
    own_server.stop()
    own_server.start()
    await refused(f"postgresql://carl:secret@{away}/postgres", "pg_hba.conf")
    await refused(f"postgresql://ann:secret@{away}/postgres", "password authentication failed", "correct user and")
    await refused(f"postgresql://hubbub:secret@{away}/nowhere", '"nowhere" does not exist', "CREATE DATABASE")
    await refused(f"postgresql://bob:secret@{away}/closed", "GRANT CONNECT")
    await refused(f"postgresql://bob:secret@{away}/postgres", "GRANT CREATE ON SCHEMA public TO bob")
    await refused(f"postgresql://hubbub:secret@{away}/postgres?sslmode=require", "takes no TLS", "drop sslmode")
    await refused(f"postgresql://hubbub:secret@{away}/postgres?sslmode=what", "verify-full", "options")
    await refused(f"postgresql://hubbub:secret@{away}/postgres?what=1", '"what"', "drop that option")
    await refused(f"postgresql://hubbub:secret/x@{away}/postgres", "%2F for /")
    await refused(f"postgresql://{away}/postgres?user=hubbub&password=secret@x&what=1", "drop that option")


async def test_tables_that_are_not_ours_are_refused(server: PostgresServer) -> None:
    url = server.database()
    server.query("CREATE TABLE hubbub_meta (x int)", url.rpartition("/")[2])
    await refused(url, "not as hubbub made them")
    url = server.database()
    server.query("DROP SCHEMA public", url.rpartition("/")[2])
    await refused(url, "CREATE SCHEMA")


async def test_what_may_pass_is_waited_for_and_then_named(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_connecting, "DEADLINE", 0.5)
    url = own_server.database().replace("hubbub@", "hubbub:secret@")
    name = url.rpartition("/")[2]
    own_server.query("CREATE ROLE few LOGIN CONNECTION LIMIT 0")
    await refused(url.replace("hubbub:", "few:"), "too many connections", "max_connections", of=BackendError)
    own_server.query(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await refused(url, "read-only", "name the primary", of=BackendError)
    await refused(url.replace("127.0.0.1", "nowhere.invalid"), "correct the host", of=BackendError)
    own_server.pause()
    try:
        await refused(url, "no answer within", of=BackendError)
    finally:
        own_server.resume()
    own_server.stop()
    await refused(url, "start it", of=BackendError)


@pytest.mark.parametrize(
    ("says", "of", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ConfigurationError, "is no PostgreSQL"),
        (b"-ERR unknown command\r\n", ConfigurationError, "is no PostgreSQL"),
        (b"N", BackendError, "whether it is PostgreSQL"),
        (b"", BackendError, "whether it is PostgreSQL"),
    ],
)
async def test_a_port_with_something_else_behind_it(
    monkeypatch: pytest.MonkeyPatch, says: bytes, of: type[HubbubError], words: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(says)
        writer.close()

    monkeypatch.setattr(postgresql_connecting, "DEADLINE", 0.5)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        await refused(f"postgresql://hubbub:secret@127.0.0.1:{port}/x", words, of=of)


async def test_a_database_that_starts_later_is_waited_for(own_server: PostgresServer) -> None:
    """As services do that are started together; the broker waits for Redis, too."""
    url = own_server.database()
    own_server.stop()
    store = PostgresStore(url, clock=SystemClock())
    starting = asyncio.create_task(store.start(Committed()))
    await asyncio.sleep(0)  # it has begun
    await asyncio.to_thread(own_server.start)
    await starting
    assert (await append(store)).offset == 1
    await store.stop()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://ann:secret@db.example.com:5432/app", "postgresql://db.example.com:5432/app"),
        ("postgresql://ann:sec@ret@db/app?password=secret", "postgresql://db/app"),
        ("postgresql://ann:sec/ret@db/app", "postgresql://db/app"),
        ("postgresql://ann:sec?ret@db/app", "postgresql://…"),
        ("postgresql://db/app?password=sec@ret", "postgresql://…"),
        ("postgresql:///app?host=/run/postgresql", "postgresql:///app"),
    ],
)
def test_what_is_shown_of_an_address_holds_no_secret(url: str, name: str) -> None:
    assert postgresql_connecting.shown(url) == name


# outages --------------------------------------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What an operator sees."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_outage_is_one_line_and_its_end_another(
    own_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(own_server.database()) as (store, _):
        async with sending(store):
            await asyncio.gather(*(store.heads([str(number)]) for number in range(20)))
            await asyncio.to_thread(own_server.stop)
            reads = [asyncio.create_task(store.heads([str(number)])) for number in range(8)]
            await asyncio.to_thread(own_server.start)
            await asyncio.gather(*reads, return_exceptions=True)
        assert not [record for record in caplog.records if record.name.startswith(("asyncpg", "asyncio"))]
        assert [
            "again" if "is there again, after" in each else "away"
            for each in told(caplog)
            if ": the database is" in each
        ] == ["away", "again"]


async def test_reads_are_answered_in_time_though_the_database_stands_still(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_readers, "DEADLINE", 1.0)
    async with opened(own_server.database()) as (store, _):
        await append(store)
        own_server.pause()
        try:
            async with asyncio.timeout(30):  # one deadline; what is given up is not waited for again
                asked = [store.heads(["room"]), store.read("room", 0, 10), *(store.heads(["x"]) for _ in range(20))]
                answers = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            own_server.resume()
        assert {type(each) for each in answers} == {Away}
        assert "cannot be asked" in str(answers[0])
        assert await read(store) == [0]


async def test_a_read_waits_for_a_database_that_is_restarted(own_server: PostgresServer) -> None:
    async with opened(own_server.database()) as (store, _):
        await append(store)
        own_server.stop()
        reading = asyncio.create_task(store.heads(["room"]))
        await asyncio.to_thread(own_server.start)
        assert (await reading)["room"].offset == 1


async def test_a_promotion_under_way_is_told_by_those_that_write(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.database()
    name = url.rpartition("/")[2]
    async with opened(url) as (store, _):
        old = await append(store)
        server.query("UPDATE hubbub_meta SET database = '0/0'", name)
        others = f"FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        server.query(f"SELECT pg_terminate_backend(pid) {others}", name)
        new = await append(store)
    assert new.epoch != old.epoch
    assert sum("durable channels have a new epoch" in each for each in told(caplog)) == 1


# what a crash takes ---------------------------------------------------------------------------------------------------


async def crashed(server: PostgresServer, url: str, *, is_relaxed: bool) -> tuple[Position, Position]:
    """Where it stood, and where it stands after a crash of the whole server."""
    store = PostgresStore(url, clock=SystemClock(), is_relaxed=is_relaxed)
    await store.start(Committed())
    before = await append(store)
    server.kill()
    await asyncio.to_thread(server.start)
    after = (await store.heads(["room"]))["room"]
    await store.stop()
    return before, after


async def test_a_crash_takes_nothing_and_the_epoch_stays(own_server: PostgresServer) -> None:
    before, after = await crashed(own_server, own_server.database(), is_relaxed=False)
    assert after == before


async def test_a_crash_of_relaxed_commits_is_another_epoch_and_a_stop_is_not(own_server: PostgresServer) -> None:
    url = own_server.database()
    before, after = await crashed(own_server, url, is_relaxed=True)
    assert after.epoch != before.epoch
    for _ in range(2):  # it was stopped, and whoever comes next has the same
        async with opened(url) as (store, _):
            assert (await store.heads(["room"]))["room"] == after
        await asyncio.to_thread(own_server.stop)
        await asyncio.to_thread(own_server.start)
    again, last = await crashed(own_server, url, is_relaxed=True)
    assert again.epoch == after.epoch != last.epoch


async def test_relaxed_servers_that_start_together_have_one_epoch(server: PostgresServer) -> None:
    url = server.database()
    stores = [PostgresStore(url, clock=SystemClock(), is_relaxed=bool(number % 3)) for number in range(9)]
    await asyncio.gather(*(store.start(Committed()) for store in stores))
    positions = await asyncio.gather(*(append(store) for store in stores))
    assert len({each.epoch for each in positions}) == 1
    await asyncio.gather(*(store.stop() for store in stores))


async def test_a_dump_that_is_restored_on_the_same_server_is_another_database(server: PostgresServer) -> None:
    url, name = server.database(), f"r{secrets.token_hex(6)}"
    async with opened(url) as (store, _):
        old = await append(store)
    server.query(f"CREATE DATABASE {name} TEMPLATE {url.rpartition('/')[2]}")
    async with opened(server.url(name)) as (store, _):
        assert (await append(store)).epoch != old.epoch


async def test_a_failure_of_our_own_leaves_no_transaction_open(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(server.database()) as (store, _):
        await append(store)
        with monkeypatch.context() as broken:
            broken.setattr("hubbub.stores.postgresql_table.places", lambda *arguments: 1 / 0)
            with pytest.raises(PublishFailed):
                await append(store)
        assert [(await append(store, number)).offset for number in (2, 3)] == [2, 3]
        assert await read(store) == [0, 2, 3]


async def test_a_store_stops_though_its_database_stands_still(own_server: PostgresServer) -> None:
    store = PostgresStore(own_server.database(), clock=SystemClock())
    await store.start(Committed())
    await append(store)
    own_server.pause()
    try:
        await store.stop()
    finally:
        own_server.resume()


async def test_a_promotion_is_noticed_before_its_first_checkpoint(own_server: PostgresServer) -> None:
    """A standby that lacks the last writes becomes the primary: its offsets are not to be taken for the old ones."""
    url = own_server.database()
    name = url.rpartition("/")[2]
    async with opened(url) as (store, _):
        old = await append(store)
    before = own_server.query("SELECT epoch FROM hubbub_meta", name)
    await asyncio.to_thread(own_server.promote)
    async with opened(url) as (store, _):
        new = await append(store)
    assert new.epoch != old.epoch == before
