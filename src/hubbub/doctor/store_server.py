"""The PostgreSQL of a store, asked as hubbub would ask it.

Answers for: in which order it is asked, how long it takes, what its user may do, and that a question which is refused
costs its own answer only. Refuses to know: how figures are judged.

Nothing is changed: commits are measured with a message in the database's own log that nobody reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from hubbub.clock import Clock
from hubbub.doctor import store_figures as figures
from hubbub.doctor.configured import is_this_machine
from hubbub.doctor.figures import size, unreadable
from hubbub.doctor.findings import Finding
from hubbub.settings import Settings
from hubbub.stores.postgresql import READERS, WRITERS, session
from hubbub.stores.postgresql_schema import IDENTITY, MIGRATIONS

#: What one process takes: those that write, one for the outbox, and those that read.
CONNECTIONS = WRITERS + 1 + READERS

#: Seconds for each answer.
DEADLINE = 5.0

#: How often each is asked.
ROUND_TRIPS, COMMITS = 20, 10

#: What can go wrong with one question, and with the connection.
_REFUSED = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)

_SETTINGS = (
    *("server_version", "server_encoding", "fsync", "full_page_writes", "synchronous_commit", "autovacuum"),
    *("default_transaction_read_only", "synchronous_standby_names"),
)
_FACTS = """
    SELECT name, current_setting(name) FROM unnest($1::text[]) AS asked (name)
    UNION ALL SELECT 'recovery', CASE WHEN pg_is_in_recovery() THEN 't' ELSE 'f' END
    UNION ALL SELECT 'standbys', count(*)::text FROM pg_stat_replication WHERE application_name <> 'pg_basebackup'
    UNION ALL SELECT 'user', quote_ident(current_user)
"""
_ROOM = """
    SELECT
        least(
            current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
            (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
            (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())),
        count(*), count(*) FILTER (WHERE application_name = 'hubbub' AND datname = current_database())
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_RIGHTS = """
    SELECT current_schema(), has_schema_privilege(current_schema(), 'CREATE'),
        has_function_privilege('pg_control_system()', 'EXECUTE')
        AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE')
"""
_CLOSED = """
    SELECT relname FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname LIKE 'hubbub\\_%'
        AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
            AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
    ORDER BY relname
"""
_OUTBOX = """
    SELECT count(*) FILTER (WHERE refused IS NULL),
        coalesce(extract(epoch FROM now() - min(at) FILTER (WHERE refused IS NULL)), 0)::float8, count(refused)
    FROM hubbub_outbox
"""
_COMMIT = "SELECT pg_logical_emit_message(true, 'hubbub', 'doctor')"


async def examined_server(settings: Settings, clock: Clock) -> list[Finding]:
    """Everything about one server. Never raises for what it says: that is a finding."""
    found: list[Finding] = []
    try:
        async with _connected(settings) as connection:
            found.append(Finding("reachable", "ok", _where(settings)))
            await _ask(connection, settings, clock, found)
    except _REFUSED as error:
        found.append(_unreachable(error))
    except ValueError as error:
        found.append(Finding("url", "wrong", str(error), "correct store.url: postgresql://user@host/name"))
    return found


@contextlib.asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Any]:
    """As the store connects, but for the name."""
    is_relaxed = settings.store.durability == "relaxed"
    asked = session(is_relaxed=is_relaxed) | {"application_name": "hubbub-doctor"}
    connection = await asyncpg.connect(
        settings.store.url, timeout=DEADLINE, command_timeout=DEADLINE, server_settings=asked
    )
    try:
        yield connection
    finally:
        with contextlib.suppress(*_REFUSED):
            await connection.close(timeout=1)


def _wanted(settings: Settings) -> str:
    return session(is_relaxed=settings.store.durability == "relaxed")["synchronous_commit"]


def _where(settings: Settings) -> str:
    return f"postgresql://{settings.store.url.partition('://')[2].rpartition('@')[2].partition('?')[0]}"


def _unreachable(error: BaseException) -> Finding:
    """The first line of what it says, and what to do."""
    seen = (str(error) or f"no answer within {DEADLINE:g} seconds").splitlines()[0]
    match error:
        case asyncpg.InvalidCatalogNameError():
            fix = "CREATE DATABASE, or correct the name at the end of store.url"
        case asyncpg.InvalidAuthorizationSpecificationError():
            fix = "correct user and password in store.url, or pg_hba.conf of the server"
        case asyncpg.TooManyConnectionsError():
            fix = "end what holds them, or postgresql.conf: a higher max_connections"
        case asyncpg.CannotConnectNowError():
            fix = "wait: it starts, recovers or stops; its log says which"
        case asyncpg.ProtocolViolationError() if "startup parameter" in seen:
            seen = f"a pooler (PgBouncer?) refuses hubbub's settings: {seen}"
            fix = "name PostgreSQL itself in store.url: hubbub keeps its few connections open, and needs no pooler"
        case TimeoutError():
            fix = "see whether it is stopped or overloaded, and whether something on the way drops connections"
        case _:
            fix = "start it, correct store.url, or open the way to it (listen_addresses, pg_hba.conf, firewall)"
    return Finding("reachable", "wrong", seen, fix)


async def _ask(connection: Any, settings: Settings, clock: Clock, found: list[Finding]) -> None:
    """Adds to what was found, so that an end in the middle leaves it."""
    found += await _encryption(connection, settings)
    if mode := await _pooler(connection, settings):
        found.append(figures.pooler(mode))
        if mode == "transaction":
            return  # answers would be those of one server now, and of another then
    rows = await connection.fetch(_FACTS, list(_SETTINGS))
    found += figures.postgres(dict(rows) | {"wanted": _wanted(settings)})
    room = figures.Room(*await connection.fetchrow(_ROOM))
    found.append(figures.connections(room, CONNECTIONS * max(settings.server.workers, 1)))
    found.append(await _clock(connection, clock))
    found.append(figures.round_trips(await _times(connection, "SELECT 1", ROUND_TRIPS, clock)))
    is_writable = not any((each.subject, each.level) == ("role", "wrong") for each in found)
    if is_writable:
        found.append(await _commits(connection, clock))
    found += await _rights(connection, makes_tables=is_writable and await _is_behind(connection))
    found += await _contents(connection)


async def _encryption(connection: Any, settings: Settings) -> list[Finding]:
    host = urlsplit(settings.store.url).hostname or ""
    is_ours = not host or is_this_machine(host)
    if is_ours or await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"):
        return []
    fix = "nothing in a network of your own; else ?sslmode=verify-full, and TLS on the server"
    return [Finding("encryption", "note", "whoever is on the way reads publications and the password", fix)]


async def _pooler(connection: Any, settings: Settings) -> str:
    """What is in between: "" for nothing, else "transaction" where it is seen to change servers, or "session".

    A pooler names a process that the server does not have. One that gives a server back after each transaction gives
    ours to somebody who begins one.
    """
    mine = await connection.fetchval("SELECT pg_backend_pid()")
    if connection.get_server_pid() == mine:
        return ""
    try:
        async with _connected(settings) as other, other.transaction():
            await other.execute("SELECT 1")
            return "session" if await connection.fetchval("SELECT pg_backend_pid()") == mine else "transaction"
    except asyncpg.InvalidSQLStatementNameError:
        return "transaction"  # what was prepared is on the server that ours was
    except _REFUSED:
        return "session"


async def _times(connection: Any, statement: str, count: int, clock: Clock) -> list[float]:
    times = []
    for _ in range(count):
        before = clock.now()
        await connection.execute(statement)
        times.append(clock.now() - before)
    return times


async def _commits(connection: Any, clock: Clock) -> Finding:
    """With a message in the write-ahead log: a temporary table would be committed without waiting for the disk."""
    try:
        return figures.commits("commits", await _times(connection, _COMMIT, COMMITS, clock))
    except asyncpg.PostgresError as error:
        return unreadable("commit", str(error), "how long a commit takes (pg_test_fsync)")


async def _clock(connection: Any, clock: Clock) -> Finding:
    before, monotonic = clock.time(), clock.now()
    there = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    trip = clock.now() - monotonic
    return figures.clock(there - (before + trip / 2), trip)


async def _is_behind(connection: Any) -> bool:
    """Whether the next server that starts has tables to make. Who may not even look has another trouble."""
    if await connection.fetchval("SELECT to_regclass('hubbub_meta')") is None:
        return True
    try:
        return bool(await connection.fetchval("SELECT schema FROM hubbub_meta") < len(MIGRATIONS))
    except asyncpg.InsufficientPrivilegeError:
        return False


async def _rights(connection: Any, *, makes_tables: bool) -> list[Finding]:
    """What the store does with tables, and asks of the server."""
    schema, may_create, may_identify = await connection.fetchrow(_RIGHTS)
    user = await connection.fetchval("SELECT quote_ident(current_user)")
    if schema is None:
        fix = f"CREATE SCHEMA AUTHORIZATION {user}"
        return [Finding("rights", "wrong", "no schema of search_path is there, or this user may not use it", fix)]
    found = []
    if makes_tables and not may_create:
        seen = f"this user may not make tables in schema {schema}, and the next start has some to make"
        found.append(Finding("rights", "wrong", seen, f"GRANT CREATE ON SCHEMA {schema} TO {user}"))
    if closed := [row[0] for row in await connection.fetch(_CLOSED)]:
        fix = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(closed)} TO {user}; better: ALTER TABLE … OWNER TO"
        found.append(Finding("rights", "wrong", f"this user may not read and write {', '.join(closed)}", fix))
    if not may_identify:
        seen = "this user may not ask which database this is, so a restored one would not be noticed"
        fix = f"GRANT EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint() TO {user}"
        found.append(Finding("rights", "wrong", seen, fix))
    return found or [Finding("rights", "ok", f"this user may do all that hubbub does, in schema {schema}")]


async def _contents(connection: Any) -> list[Finding]:
    if await connection.fetchval("SELECT to_regclass('hubbub_meta')") is None:
        return [Finding("schema", "ok", "nothing is there yet: the first server makes it")]
    try:
        version, database = await connection.fetchrow("SELECT schema, database FROM hubbub_meta") or (0, "")
        found = [figures.schema(version, len(MIGRATIONS))]
        if version and database != await connection.fetchval(IDENTITY):
            seen = "it was restored, or a standby took over: all channels get another epoch, and clients are told"
            found.append(
                Finding("age", "note", seen, "nothing if that is known; the next server that connects does it")
            )
        if await connection.fetchval("SELECT to_regclass('hubbub_log')") is not None:
            length = await connection.fetchval("SELECT pg_total_relation_size('hubbub_log')")
            found.append(Finding("contents", "ok", f"the log has {size(length)}, indexes included"))
        found += await _outbox(connection)
    except asyncpg.PostgresError as error:
        return [unreadable("schema", str(error), "hubbub_meta")]
    return found


async def _outbox(connection: Any) -> list[Finding]:
    """What applications have put there in their own transactions."""
    if await connection.fetchval("SELECT to_regclass('hubbub_outbox')") is None:
        return []
    waiting, age, refused = await connection.fetchrow(_OUTBOX)
    found = [figures.outbox(waiting, age)]
    if refused:
        seen = f"{refused:,} publications of the outbox are refused, and stay there"
        fix = "SELECT * FROM hubbub_outbox WHERE refused IS NOT NULL; correct or delete them, or SET refused = NULL"
        found.append(Finding("outbox", "warning", seen, fix))
    return found
