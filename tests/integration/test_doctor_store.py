"""`hubbub doctor` on real stores, healthy ones and such as are configured badly on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import pytest
from tests.backends import free_port
from tests.contracts.stores import Committed
from tests.databases import PostgresServer, Servers, Version, postgres_servers, shared
from tests.integration.commands import ran, refusal
from tests.integration.redis_support import until
from tests.serving import leashed

from hubbub import Hubbub
from hubbub.clock import SystemClock
from hubbub.doctor.examination import examine
from hubbub.doctor.findings import Finding
from hubbub.doctor.store_file import owner
from hubbub.doctor.store_server import CONNECTIONS
from hubbub.errors import ConfigurationError
from hubbub.model import Publication
from hubbub.settings import load
from hubbub.stores.base import Draft, Store
from hubbub.stores.postgresql import PostgresStore
from hubbub.stores.postgresql_connecting import session
from hubbub.stores.sqlite import SqliteStore
from hubbub.stores.sqlite_file import MIGRATIONS

__all__ = ["postgres_servers"]

#: Those of the time that something takes, and of the disk under the tests: that is so on this machine.
MACHINE = {"commit", "round trip", "file system", "room"}


async def findings(url: str, **given: object) -> dict[str, Finding]:
    """About the store, by subject; of several on one subject the worst."""
    keys = {name.replace("__", "."): value for name, value in given.items()}
    settings = load(None, {}, {"store.url": url, "channels.chat.delivery": "durable", **keys})
    (part,) = [part async for part in examine(settings, []) if part.about.startswith("store")]
    levels = ["ok", "note", "warning", "wrong"]
    found = sorted(part.findings, key=lambda each: levels.index(each.level))
    return {each.subject: each for each in found}


async def troubles(url: str, **given: object) -> dict[str, Finding]:
    found = await findings(url, **given)
    return {name: each for name, each in found.items() if each.level in ("warning", "wrong") and name not in MACHINE}


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    await store.start(Committed())
    try:
        yield store
    finally:
        await store.stop()


async def write(store: Store, count: int = 3) -> None:
    for number in range(count):
        await store.append(Draft("chat:1", Publication(b"%d" % number)))


# ------------------------------------------------------------------------------------------------------------ a file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def file(path: Path) -> SqliteStore:
    return SqliteStore(path, clock=SystemClock())


async def test_a_file_that_is_not_there_yet_is_well_and_is_not_there_afterwards(path: Path) -> None:
    found = await findings(url_of(path))
    assert not await troubles(url_of(path))
    assert "the first server makes it" in found["file"].seen
    assert {"version", "file system", "room", "commit"} <= set(found)
    assert os.listdir(path.parent) == []


async def test_a_file_at_rest_is_well_and_nothing_is_made_beside_it(path: Path) -> None:
    async with opened(file(path)) as store:
        await write(store)
    before = {each.name: each.stat().st_mtime_ns for each in path.parent.iterdir()}
    found = await findings(url_of(path))
    assert {each.level for name, each in found.items() if name not in MACHINE} <= {"ok", "note"}
    assert found["schema"].seen == f"version {len(MIGRATIONS)}"
    assert found["contents"].seen.startswith("1 channels")
    assert "3 commits" in found["age"].seen
    assert {each.name: each.stat().st_mtime_ns for each in path.parent.iterdir()} == before


async def test_a_file_in_use_is_looked_at_and_goes_on(path: Path) -> None:
    async with opened(file(path)) as store:
        await write(store)
        found = await findings(url_of(path))
        if owner(path) is not None:
            assert f"process {os.getpid()} " in found["owner"].seen
        assert found["age"].level == found["log"].level == "ok"
        await write(store)
        assert (await store.heads(["chat:1"]))["chat:1"].offset == 6


async def test_a_file_behind_a_link_is_looked_at_where_it_is(path: Path) -> None:
    (link := path.with_name("link.db")).symlink_to(path)
    async with opened(file(link)) as store:
        await write(store)
        for name in (link, path):
            found = await findings(url_of(name))
            if owner(name) is not None:
                assert f"process {os.getpid()} " in found["owner"].seen
            assert found["age"].level == "ok"


async def test_an_older_copy_is_noticed(path: Path) -> None:
    async with opened(file(path)) as store:
        await write(store)
    shutil.copy(path, copy := path.with_name("copy.db"))
    async with opened(file(path)) as store:
        await write(store)
    shutil.copy(copy, path)
    found = (await findings(url_of(path)))["age"]
    assert found.level == "note"
    assert "3 commits, and its last owner had 6" in found.seen
    with path.with_name("app.db-owner").open("r+b") as note:
        note.write(b"%-20d %-20d\nanother boot\n" % (3, 1))
    assert "the machine went down" in (await findings(url_of(path)))["age"].seen
    path.with_name("app.db-owner").unlink()
    assert "nobody has noted" in (await findings(url_of(path)))["age"].seen


async def test_files_that_are_not_ours(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    assert "another program" in (await troubles(url_of(path)))["contents"].seen
    (broken := path.with_name("broken.db")).write_bytes(b"no database at all" * 1000)
    assert (await troubles(url_of(broken)))["contents"].level == "wrong"
    assert (await troubles(url_of(path.parent / "nowhere" / "app.db")))["folder"].level == "wrong"
    assert (await troubles(url_of(path.parent)))["file"].level == "wrong"


async def test_a_newer_schema_and_another_journal(path: Path) -> None:
    async with opened(file(path)):
        pass
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.commit()
    assert (await troubles(url_of(path)))["journal"].level == "warning"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    assert (await troubles(url_of(path)))["schema"].level == "wrong"


async def test_what_may_not_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(file(path)):
        pass
    for closed in (path.parent, path, path.with_name("app.db-owner")):
        # Root may write everywhere, so it is said that nobody may.
        monkeypatch.setattr(os, "access", lambda asked, mode, closed=closed: Path(asked) != closed)
        found = (await troubles(url_of(path)))["file"]
        assert found.level == "wrong"
        assert str(closed) in found.seen
        assert ("beside app.db" in found.seen) == (closed == path.parent)
        assert f"chown {os.getuid()} {closed}," in found.fix


async def test_a_file_beside_a_broker_that_joins_several_is_doubtful(path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    assert (await troubles(url_of(path), broker__url=url))["sharing"].level == "warning"


@pytest.mark.timeout(90)
def test_the_command(path: Path) -> None:
    store, durable = url_of(path), "durable"
    done = ran(path.parent, "doctor", "--json", HUBBUB_STORE_URL=store, HUBBUB_CHANNELS_CHAT_DELIVERY=durable)
    assert done.returncode == 0, done
    about = {each["about"] for each in json.loads(done.stdout)["findings"]}
    assert f"store: {url_of(path)}" in about
    done = ran(path.parent, "doctor", HUBBUB_CHANNELS_CHAT_DELIVERY=durable)
    assert "store.url = 'sqlite:///app.db'" in refusal(done, 2)


async def test_the_size_of_the_file_is_counted(path: Path) -> None:
    async with opened(file(path)) as store:
        empty = store.counts()["store_bytes"]
        await store.append(Draft("chat:1", Publication(b'"%s"' % (b"x" * 100_000))))
        assert store.counts()["store_bytes"] >= max(empty, 1) + 100_000


# ---------------------------------------------------------------------------------------------------------- a server

VERSIONS: tuple[Version, ...] = get_args(Version)


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest, postgres_servers: Servers) -> PostgresServer:
    """One that tests share; fsync is off there, which is not what is tested."""
    return shared(postgres_servers, request.param)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One to mistreat, which keeps what it confirms."""
    with PostgresServer("postgres15", fsync="on", full_page_writes="on") as server:
        yield server


async def others(url: str, **given: object) -> dict[str, Finding]:
    """Troubles but for the durability of servers that tests share."""
    return {name: each for name, each in (await troubles(url, **given)).items() if name != "durability"}


def as_user(server: PostgresServer, url: str, *rights: str) -> str:
    """The address for another user, who has these."""
    name = f"u{url.rpartition('/')[2]}"
    database = url.rpartition("/")[2]
    for statement in (f"CREATE ROLE {name} LOGIN", *(each.format(name) for each in rights)):
        server.query(statement, database)
    return url.replace("hubbub@", f"{name}@")


async def test_an_empty_database_is_well_and_stays_empty(server: PostgresServer) -> None:
    url = server.database()
    found = await findings(url)
    assert not await others(url)
    assert found["role"].seen == "primary, no standby"
    assert "the first server makes it" in found["schema"].seen
    assert f"takes {CONNECTIONS}" in found["connections"].seen
    assert {"version", "reachable", "clock", "commit", "round trip", "rights"} <= set(found)
    count = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert server.query(count, url.rpartition("/")[2]) == "0"


async def test_a_store_in_use_is_well(server: PostgresServer) -> None:
    url = server.database()
    async with opened(PostgresStore(url, clock=SystemClock())) as store:
        await write(store)
        found = await findings(url)
        assert not await others(url)
        assert found["contents"].seen.startswith("the log has ")
        assert found["age" if "age" in found else "schema"].level == "ok"
        assert store.counts()["store_bytes"] > 0


async def test_as_many_connections_as_are_said(server: PostgresServer) -> None:
    url = server.database()
    async with Hubbub(store=url, channels={"chat": {"delivery": "durable"}}) as hub:
        await asyncio.gather(*(hub.publish(f"chat:{number % 50}", number) for number in range(300)))
        await asyncio.gather(*(hub.history(f"chat:{number % 50}") for number in range(300)))
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hubbub' AND datname = '{}'"
        assert int(server.query(query.format(url.rpartition("/")[2]))) <= CONNECTIONS


async def test_what_cannot_be_reached_says_why(server: PostgresServer) -> None:
    url = server.database()
    for wrong, words in (
        (f"postgresql://hubbub@127.0.0.1:{free_port()}/x", "start it"),
        (f"{url}x", "CREATE DATABASE"),
        (url.replace("hubbub@", "nobody@"), "user and password"),
    ):
        found = (await troubles(wrong))["reachable"]
        assert found.level == "wrong"
        assert words in found.fix
    assert (await troubles("postgresql://hubbub@127.0.0.1:x/y"))["url"].level == "wrong"


async def test_rights_that_are_missing(server: PostgresServer) -> None:
    url = server.database()
    database = url.rpartition("/")[2]
    stranger = as_user(server, url)
    found = (await others(stranger))["rights"]
    assert found.fix.startswith("GRANT CREATE ON SCHEMA public TO ")
    server.query(found.fix, database)
    assert not await others(stranger)
    server.query(found.fix.replace("GRANT", "REVOKE").replace(" TO ", " FROM "), database)
    async with opened(PostgresStore(url, clock=SystemClock())):
        pass
    with pytest.raises(ConfigurationError, match="GRANT SELECT, INSERT, DELETE ON hubbub_log TO "):
        await PostgresStore(stranger, clock=SystemClock()).start(Committed())
    given = []
    while missing := (await others(stranger)).get("rights"):
        given.append(missing.fix)
        server.query(missing.fix, database)
    assert len(given) == 6  # one for each table, and nothing else: it makes none
    assert not any("CREATE" in each or "ALL" in each for each in given)
    async with opened(PostgresStore(stranger, clock=SystemClock())) as store:
        await write(store)


async def test_a_right_that_only_relaxed_commits_need(server: PostgresServer) -> None:
    url = server.database()
    async with opened(PostgresStore(url, clock=SystemClock())):
        pass
    user = as_user(server, url, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}")
    server.query(f"REVOKE INSERT ON hubbub_mark FROM u{url.rpartition('/')[2]}", url.rpartition("/")[2])
    assert not await others(user)
    assert "right to INSERT hubbub_mark" in (await others(user, store__durability="relaxed"))["rights"].seen


async def test_the_right_to_ask_which_database_it_is(own_server: PostgresServer) -> None:
    url = own_server.database()
    async with opened(PostgresStore(url, clock=SystemClock())):
        pass
    user = as_user(own_server, url, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}")
    database = url.rpartition("/")[2]
    own_server.query("REVOKE EXECUTE ON FUNCTION pg_control_recovery() FROM PUBLIC", database)
    found = (await others(user))["rights"]
    assert found.fix.startswith("GRANT EXECUTE ON FUNCTION pg_control_recovery() TO ")
    with pytest.raises(ConfigurationError, match="GRANT EXECUTE ON FUNCTION pg_control_recovery"):
        await PostgresStore(user, clock=SystemClock()).start(Committed())
    own_server.query(found.fix, database)
    async with opened(PostgresStore(user, clock=SystemClock())) as store:
        await write(store)


async def test_a_user_who_may_do_what_it_says_can_run_a_store(server: PostgresServer) -> None:
    url = server.database()
    user = as_user(server, url, "GRANT CREATE ON SCHEMA public TO {}")
    assert (await findings(user))["rights"].level == "ok"
    async with opened(PostgresStore(user, clock=SystemClock())) as store:
        await write(store)


async def test_a_database_that_is_newer_and_one_that_was_restored(server: PostgresServer) -> None:
    url = server.database()
    async with opened(PostgresStore(url, clock=SystemClock())):
        pass
    database = url.rpartition("/")[2]
    server.query("UPDATE hubbub_meta SET database = 'another'", database)
    assert (await findings(url))["age"].level == "note"
    server.query("UPDATE hubbub_meta SET schema = 99", database)
    assert (await others(url))["schema"].level == "wrong"


async def test_an_encoding_that_does_not_hold_every_text(server: PostgresServer) -> None:
    server.query(f"CREATE DATABASE {(name := 't' + str(free_port()))} ENCODING 'LATIN1' TEMPLATE template0")
    assert (await others(server.url(name)))["encoding"].level == "wrong"


async def test_an_outbox_that_is_not_emptied_and_what_is_refused_there(server: PostgresServer) -> None:
    url = server.database()
    async with opened(PostgresStore(url, clock=SystemClock())):
        pass
    values = "(now() - interval '1 hour', 'chat:1', '{}', NULL), (now(), 'chat:1', '{}', 'no such channel')"
    server.query(f"INSERT INTO hubbub_outbox (at, channel, data, refused) VALUES {values}", url.rpartition("/")[2])
    settings = load(None, {}, {"store.url": url})
    (part,) = [part async for part in examine(settings, []) if part.about.startswith("store")]
    found = [each for each in part.findings if each.subject == "outbox"]
    assert [each.level for each in found] == ["warning", "warning"]
    assert "1 publications wait" in found[0].seen
    assert "1 publications of the outbox are refused" in found[1].seen


async def test_a_server_that_keeps_what_it_confirms_and_what_is_measured_there(own_server: PostgresServer) -> None:
    url = own_server.database()
    found = await findings(url)
    assert found["durability"].level == "ok"
    assert "relaxed" in (await findings(url, store__durability="relaxed"))["durability"].seen
    flushed = "SELECT pg_current_wal_flush_lsn() - '0/0'"
    before = own_server.query(flushed)
    assert (await findings(url))["commit"].seen.startswith("10 commits: ")
    assert own_server.query(flushed) > before  # the disk was asked


async def test_a_server_that_keeps_nothing_of_what_it_confirms(server: PostgresServer) -> None:
    settings = load(None, {}, {"store.url": server.database()})
    (part,) = [part async for part in examine(settings, []) if part.about.startswith("store")]
    found = {each.seen.split()[0]: each for each in part.findings if each.subject == "durability"}
    assert {name: each.level for name, each in found.items()} == {"fsync": "wrong", "full_page_writes": "warning"}
    assert found["fsync"].fix == "postgresql.conf: fsync = on"


async def test_a_standby_is_wrong_and_is_not_written_to(own_server: PostgresServer) -> None:
    url = own_server.database()
    own_server.stop()
    (own_server.data / "standby.signal").touch()
    own_server.start()
    found = await findings(url)
    assert found["role"].level == "wrong"
    assert "commit" not in found
    assert [name for name, each in found.items() if each.level == "wrong"] == ["role"]


async def test_a_server_that_does_not_answer(own_server: PostgresServer) -> None:
    own_server.pause()
    try:
        assert (await troubles(own_server.url()))["reachable"].level == "wrong"
    finally:
        own_server.resume()


# ------------------------------------------------------------------------------------------------------------ a pooler


@pytest.fixture
def program() -> str:
    """PgBouncer."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if program is None and os.environ.get("CI") == "true":
        pytest.fail("no pgbouncer: apt-get install pgbouncer")
    if program is None:
        pytest.skip("no pgbouncer: apt-get install pgbouncer")
    return program


@contextmanager
def pooler(program: str, server: PostgresServer, folder: Path, *lines: str) -> Iterator[str]:
    """The address of one that is configured so."""
    port = free_port()
    config = folder / "pgbouncer.ini"
    here = ("listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir =", "auth_type = any")
    database = f"postgres = host=127.0.0.1 port={server.port} user=hubbub"
    config.write_text("\n".join(("[databases]", database, "[pgbouncer]", *here, *lines, "")))
    for each in (config, folder, *folder.parents[:2]):
        each.chmod(0o755)
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    process = subprocess.Popen(
        leashed(program, "-q", *user, config), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"postgresql://hubbub@127.0.0.1:{port}/postgres"
    finally:
        process.kill()
        process.wait()


def _listens(port: int | None) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


async def test_a_pooler_is_told_from_the_server(program: str, own_server: PostgresServer, tmp_path: Path) -> None:
    quiet = f"ignore_startup_parameters = {','.join(session(is_relaxed=False))}"
    for lines, subject, level in (
        ((), "reachable", "wrong"),
        ((quiet, "pool_mode = session"), "pooler", "warning"),
        ((quiet, "pool_mode = transaction"), "pooler", "wrong"),
    ):
        with pooler(program, own_server, tmp_path, *lines) as url:
            await until(partial(_listens, urlsplit(url).port))
            found = await troubles(url)
            assert found[subject].level == level
            assert "a pooler" in found[subject].seen
            assert "name PostgreSQL itself" in found[subject].fix
            store = PostgresStore(url, clock=SystemClock())
            if level == "wrong":
                with pytest.raises(ConfigurationError, match=r"a pooler .* name PostgreSQL itself"):
                    await store.start(Committed())
            else:
                async with opened(store):
                    await write(store)
