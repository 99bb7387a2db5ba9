"""The tables of a PostgreSQL store: making them, and noticing that the database is not the one it was.

Answers for: migrations that ten servers may start together, the refusal of a newer schema, the rights that a server
needs, and another epoch where the database was restored from a backup, a standby was promoted, or a crash has taken
what relaxed commits have acknowledged. Refuses to know: publications, and connections.

What a database is: its system identifier (made by initdb), its timeline (counted up by every recovery that does not
go to the end of the log, and by every promotion), and the numbers of database and table (others after a restore from a
dump). They stand beside the epoch; if they are others now, writes may be missing, and nobody shall take the offsets to
come for the old ones. A planned switch-over looks the same: clients are told `recovered: false` once, and lose nothing.

Where commits are relaxed, a mark belongs to it, too. It is in an unlogged table, which PostgreSQL empties whenever it
recovers from a crash, and keeps when it was stopped.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from hubbub.errors import ConfigurationError

#: Who changes the schema holds this advisory lock ("hubbub", as a number).
LOCK = 0x687562627562

#: Each brings the schema from the version of its index to the next. Never changed once released; only added to.
MIGRATIONS = (
    """
    CREATE TABLE hubbub_channel (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL UNIQUE,
        top bigint NOT NULL DEFAULT 0,      -- the last offset that was given
        life int NOT NULL DEFAULT 0         -- how often the end of this one channel was lost
    ) WITH (fillfactor = 50);
    CREATE TABLE hubbub_log (
        channel bigint NOT NULL,
        "offset" bigint NOT NULL,
        at bigint NOT NULL,                 -- microseconds of Unix time
        key text,
        "user" text,
        client text,
        conn_info bytea,
        chan_info bytea,
        tags text,
        data text,                          -- one JSON value
        bytes bytea,                        -- instead, in binary channels
        PRIMARY KEY (channel, "offset")
    );
    CREATE UNIQUE INDEX hubbub_log_key ON hubbub_log (channel, key) WHERE key IS NOT NULL;
    CREATE TABLE hubbub_writer (
        id text PRIMARY KEY,
        batch bigint NOT NULL,              -- the last one that it has committed
        at timestamptz NOT NULL DEFAULT now()
    ) WITH (fillfactor = 50);
    """,
    # What applications publish in their own transactions; they write the columns channel, data, key and tags.
    """
    CREATE TABLE hubbub_outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT now(),
        channel text NOT NULL,
        data json NOT NULL,                 -- the payload; text as a string, bytes as one in base64
        key text,                           -- with the same key it is published once in its channel
        tags json,                          -- text by text
        refused text                        -- why it is not published; set to NULL it gets another chance
    );
    CREATE INDEX hubbub_outbox_waiting ON hubbub_outbox (id) WHERE refused IS NULL;
    """,
    # Empty after a crash: see `look_back`.
    """
    CREATE UNLOGGED TABLE hubbub_mark (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        mark text NOT NULL                  -- what was acknowledged since it was made is there
    );
    """,
)

_META = """
    CREATE TABLE hubbub_meta (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        schema int NOT NULL,
        epoch text NOT NULL,
        database text NOT NULL
    )
"""

#: Which database this is. Until the first checkpoint after a promotion, only what recovery says of itself has the new
#: timeline. These functions are open to everybody, unless an administrator has closed them.
IDENTITY = """
    (SELECT system_identifier FROM pg_control_system())
    || '/' || greatest(
        (SELECT timeline_id FROM pg_control_checkpoint()),
        (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
    || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
    || '.' || 'hubbub_meta'::regclass::oid
    || coalesce('/' || (SELECT mark FROM hubbub_mark), '')
"""
_LOOK = f"SELECT {IDENTITY}, database FROM hubbub_meta"

#: What a server does with each table.
_NEEDED = {
    "hubbub_meta": "SELECT, UPDATE",
    "hubbub_channel": "SELECT, INSERT, UPDATE",
    "hubbub_log": "SELECT, INSERT, DELETE",
    "hubbub_writer": "SELECT, INSERT, UPDATE, DELETE",
    "hubbub_outbox": "SELECT, UPDATE, DELETE",
    "hubbub_mark": "SELECT",
}
_FUNCTIONS = ("pg_control_system()", "pg_control_checkpoint()", "pg_control_recovery()")


async def migrate(connection: Any) -> None:
    """Bring the schema up to date. Raises ConfigurationError for a newer one, and what asyncpg raises."""
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = 0")  # another server may take its time
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        if await connection.fetchval("SELECT to_regclass('hubbub_meta')") is None:
            await connection.execute(_META)
        found = await connection.fetchval("SELECT schema FROM hubbub_meta")
        if found is not None and found > len(MIGRATIONS):
            raise ConfigurationError(
                f"store.url: the database has schema {found}, and this hubbub knows {len(MIGRATIONS)}: upgrade hubbub"
            )
        for script in MIGRATIONS[found or 0 :]:
            await connection.execute(script)
        if found is None:
            epoch, database = secrets.token_hex(4), await connection.fetchval(f"SELECT {IDENTITY}")
            await connection.execute(
                "INSERT INTO hubbub_meta VALUES (true, $1, $2, $3)", len(MIGRATIONS), epoch, database
            )
        elif found < len(MIGRATIONS):
            await connection.execute("UPDATE hubbub_meta SET schema = $1", len(MIGRATIONS))


async def look_back(connection: Any, *, is_relaxed: bool = False) -> bool:
    """Give the store another epoch if this is not the database that it was; True if so. Once, whoever notices.

    `is_relaxed`: what is written here may be lost in a crash, which is to be noticed.
    """
    async with connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = on")
        # Both at the same instant: between two looks somebody may make a mark.
        ((database, known),) = not_emptied(await connection.fetch(_LOOK), 1)
        has_changed = False
        if known != database:
            change = "UPDATE hubbub_meta SET epoch = $1, database = $2 WHERE database = $3"
            changed = await connection.execute(change, secrets.token_hex(4), database, known)
            has_changed = bool(changed == "UPDATE 1")
        if is_relaxed and not await connection.fetchval("SELECT EXISTS (SELECT FROM hubbub_mark)"):
            await _mark(connection)
    return has_changed


class Emptied(OSError):
    """The database is there, and the store in it is not: perhaps a backup is being put back."""


def not_emptied(rows: Sequence[Any], place: int) -> Sequence[Any]:
    """Rows with something of `hubbub_meta` at that place. Raises Emptied where that table has none."""
    if not rows or rows[0][place] is None:
        raise Emptied("hubbub_meta is empty: wait until the backup is back, or start hubbub anew")
    return rows


async def _mark(connection: Any) -> None:
    """See to it that a crash is noticed from now on. Once, whoever comes first."""
    await connection.execute("SELECT FROM hubbub_meta FOR UPDATE")  # whoever changes both locks it first
    insert = "INSERT INTO hubbub_mark (mark) VALUES ($1) ON CONFLICT DO NOTHING"
    if await connection.execute(insert, secrets.token_hex(4)) == "INSERT 0 1":
        await connection.execute(f"UPDATE hubbub_meta SET database = {IDENTITY}")


class Lack(NamedTuple):
    """A right that is missing, and the statement that gives it."""

    seen: str
    fix: str


async def lacking(connection: Any, *, is_relaxed: bool = False) -> list[Lack]:
    """What this user may not do, and the next server that starts as this user does. Asks for nothing else."""
    schema, user = await connection.fetchrow("SELECT quote_ident(current_schema()), quote_ident(current_user)")
    if schema is None:
        seen = "no schema of search_path is there, or this user may not use it"
        return [Lack(seen, f"CREATE SCHEMA AUTHORIZATION {user}")]
    found = await _closed_tables(connection, user, is_relaxed=is_relaxed)
    may_create = await connection.fetchval("SELECT has_schema_privilege(current_schema(), 'CREATE')")
    if not may_create and await _is_behind(connection):
        seen = f"this user may not make tables in schema {schema}, and there are some to make (hubbub db upgrade)"
        found.append(Lack(seen, f"GRANT CREATE ON SCHEMA {schema} TO {user}"))
    query = "SELECT name FROM unnest($1::text[]) AS asked (name) WHERE NOT has_function_privilege(name, 'EXECUTE')"
    if closed := [row[0] for row in await connection.fetch(query, list(_FUNCTIONS))]:
        seen = "this user may not ask which database this is, so a restored one would not be noticed"
        found.append(Lack(seen, f"GRANT EXECUTE ON FUNCTION {', '.join(closed)} TO {user}"))
    return found


async def _closed_tables(connection: Any, user: str, *, is_relaxed: bool) -> list[Lack]:
    needed = _NEEDED | ({"hubbub_mark": "SELECT, INSERT"} if is_relaxed else {})
    query = """
        SELECT name, string_agg(needed, ', ' ORDER BY place)
        FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (name, needed, place)
        WHERE to_regclass(name) IS NOT NULL AND NOT has_table_privilege(to_regclass(name), needed)
        GROUP BY name ORDER BY name
    """
    pairs = [(name, right) for name, rights in needed.items() for right in rights.split(", ")]
    names, rights = zip(*pairs, strict=True)
    rows = await connection.fetch(query, list(names), list(rights))
    return [
        Lack(f"this user has no right to {what} {name}", f"GRANT {what} ON {name} TO {user}") for name, what in rows
    ]


async def _is_behind(connection: Any) -> bool:
    """Whether the next server that starts has tables to make. Who may not even look has another trouble."""
    if await connection.fetchval("SELECT to_regclass('hubbub_meta')") is None:
        return True
    if not await connection.fetchval("SELECT has_table_privilege('hubbub_meta', 'SELECT')"):
        return False
    return bool(await connection.fetchval("SELECT schema FROM hubbub_meta") < len(MIGRATIONS))
