"""The tables of a PostgreSQL store: making them, and noticing that the database is not the one it was.

Answers for: migrations that ten servers may start together, the refusal of a newer schema, and another epoch where the
database was restored from a backup or a standby was promoted. Refuses to know: publications, and connections.

What a database is: its system identifier (made by initdb) and its timeline (counted up by every recovery that does not
go to the end of the log, and by every promotion). Both stand beside the epoch; if they are others now, writes may be
missing, and nobody shall take the offsets to come for the old ones. A planned switch-over looks the same: clients are
told `recovered: false` once, and lose nothing.
"""

from __future__ import annotations

import secrets
from typing import Any

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
#: timeline. Their functions are open to everybody, unless an administrator has closed them.
IDENTITY = """
    SELECT (SELECT system_identifier FROM pg_control_system())
        || '/' || greatest(
            (SELECT timeline_id FROM pg_control_checkpoint()),
            (SELECT min_recovery_end_timeline FROM pg_control_recovery())
        )
"""


async def migrate(connection: Any) -> None:
    """Bring the schema up to date. Raises ConfigurationError for a newer one, and what asyncpg raises."""
    async with connection.transaction():
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
            epoch, database = secrets.token_hex(4), await connection.fetchval(IDENTITY)
            await connection.execute(
                "INSERT INTO hubbub_meta VALUES (true, $1, $2, $3)", len(MIGRATIONS), epoch, database
            )
        elif found < len(MIGRATIONS):
            await connection.execute("UPDATE hubbub_meta SET schema = $1", len(MIGRATIONS))


async def look_back(connection: Any) -> bool:
    """Give the store another epoch if this is not the database that it was; True if so. Once, whoever notices."""
    database = await connection.fetchval(IDENTITY)
    known = await connection.fetchval("SELECT database FROM hubbub_meta")
    if known == database:
        return False
    changed = await connection.execute(
        "UPDATE hubbub_meta SET epoch = $1, database = $2 WHERE database = $3", secrets.token_hex(4), database, known
    )
    return bool(changed == "UPDATE 1")
