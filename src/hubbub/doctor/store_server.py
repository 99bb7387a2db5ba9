"""The PostgreSQL of a store, asked as hubbub would ask it.

Answers for: in which order it is asked, how long it takes, what its user may do, and that a question which is refused
costs its own answer only. Refuses to know: how figures are judged.

Nothing is changed: commits are measured with a message in the database's own log that nobody reads.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from hubbub.clock import Clock
from hubbub.doctor import store_figures as figures
from hubbub.doctor.configured import is_this_machine
from hubbub.doctor.figures import size, unreadable
from hubbub.doctor.findings import Finding
from hubbub.settings import Settings
from hubbub.stores.postgresql import READERS, WRITERS
from hubbub.stores.postgresql_connecting import DEADLINE, FAILED, hang_up, pooler, session, shown, trouble
from hubbub.stores.postgresql_schema import IDENTITY, MIGRATIONS, lacking

#: What one process takes: those that write, one for the outbox, and those that read.
CONNECTIONS = WRITERS + 1 + READERS

#: How often each is asked.
ROUND_TRIPS, COMMITS = 20, 10

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
        connection = await _connected(settings)
        try:
            found.append(Finding("reachable", "ok", shown(settings.store.url)))
            await _ask(connection, settings, clock, found)
        finally:
            await hang_up(connection)
    except FAILED as error:
        found.append(_unreachable(error))
    except ValueError as error:
        seen = trouble(error)
        found.append(Finding("url", "wrong", seen.what, seen.fix))
    return found


async def _connected(settings: Settings) -> Any:
    """As the store connects, but for the name."""
    is_relaxed = settings.store.durability == "relaxed"
    asked = session(is_relaxed=is_relaxed) | {"application_name": "hubbub-doctor"}
    return await asyncpg.connect(settings.store.url, timeout=DEADLINE, command_timeout=DEADLINE, server_settings=asked)


def _wanted(settings: Settings) -> str:
    return session(is_relaxed=settings.store.durability == "relaxed")["synchronous_commit"]


def _unreachable(error: BaseException) -> Finding:
    """What it says, and what to do."""
    seen = trouble(error)
    return Finding("reachable", "wrong", seen.what, seen.fix)


async def _ask(connection: Any, settings: Settings, clock: Clock, found: list[Finding]) -> None:
    """Adds to what was found, so that an end in the middle leaves it."""
    found += await _encryption(connection, settings)
    if mode := await pooler(connection, partial(_connected, settings)):
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
        found += await _rights(connection, settings)
    found += await _contents(connection, is_writable=is_writable)


async def _encryption(connection: Any, settings: Settings) -> list[Finding]:
    host = urlsplit(settings.store.url).hostname or ""
    is_ours = not host or is_this_machine(host)
    if is_ours or await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"):
        return []
    fix = "nothing in a network of your own; else ?sslmode=verify-full, and TLS on the server"
    return [Finding("encryption", "note", "whoever is on the way reads publications and the password", fix)]


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


async def _rights(connection: Any, settings: Settings) -> list[Finding]:
    """What the store does with tables, and asks of the server."""
    missing = await lacking(connection, is_relaxed=settings.store.durability == "relaxed")
    if missing:
        return [Finding("rights", "wrong", seen, fix) for seen, fix in missing]
    schema = await connection.fetchval("SELECT quote_ident(current_schema())")
    return [Finding("rights", "ok", f"this user may do all that hubbub does, in schema {schema}")]


async def _contents(connection: Any, *, is_writable: bool) -> list[Finding]:
    if await connection.fetchval("SELECT to_regclass('hubbub_meta')") is None:
        return [Finding("schema", "ok", "nothing is there yet: the first server makes it")]
    try:
        version, database = await connection.fetchrow("SELECT schema, database FROM hubbub_meta") or (0, "")
        found = [figures.schema(version, len(MIGRATIONS))]
        if is_writable and version == len(MIGRATIONS):
            found += await _age(connection, database)
        if await connection.fetchval("SELECT to_regclass('hubbub_log')") is not None:
            length = await connection.fetchval("SELECT pg_total_relation_size('hubbub_log')")
            found.append(Finding("contents", "ok", f"the log has {size(length)}, indexes included"))
        found += await _outbox(connection)
    except asyncpg.PostgresError as error:
        return [unreadable("schema", str(error), "hubbub_meta")]
    return found


async def _age(connection: Any, database: str) -> list[Finding]:
    """Whether it is the one that the last server knew."""
    if database == await connection.fetchval(f"SELECT {IDENTITY}"):
        return []
    seen = "it was restored, a standby took over, or a crash took relaxed commits: all channels get another epoch"
    return [Finding("age", "note", seen, "nothing if that is known; the next server that connects does it")]


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
