"""A publication as a row that the application writes in its own transaction.

Answers for: the statement, in the manner of each driver, of what the gate admits. Refuses to know: connections and
transactions, which are the application's, and who moves the row (`stores.outbox`).
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from hubbub import payload
from hubbub.brokers.base import StreamOptions
from hubbub.core.node import Node
from hubbub.errors import BadRequest, ConfigurationError

_NAMES = ("channel", "data", "key", "tags")
_STATEMENT = (
    "INSERT INTO hubbub_outbox (channel, data, key, tags)"
    " VALUES ({}, CAST(CAST({} AS text) AS json), {}, CAST(CAST({} AS text) AS json))"
)
_NUMBERED = _STATEMENT.format("$1", "$2", "$3", "$4")
_NAMED = _STATEMENT.format(*(f":{name}" for name in _NAMES))
_PYFORMAT = _STATEMENT.format(*(f"%({name})s" for name in _NAMES))


class Outgoing(msgspec.Struct, frozen=True):
    """A publication as a row, from `hub.outbox(...)`: published once the transaction commits that inserts it.

        await connection.execute(*outgoing.asyncpg)               # asyncpg
        cursor.execute(*outgoing.psycopg)                         # psycopg, Django
        sql, values = outgoing.sqlalchemy
        session.execute(sqlalchemy.text(sql), values)             # SQLAlchemy, whatever the driver

    `data` and `tags` are JSON.
    """

    channel: str
    data: str
    key: str | None = None
    tags: str | None = None

    @property
    def asyncpg(self) -> tuple[str, str, str, str | None, str | None]:
        """Statement and values, with `$1`."""
        return (_NUMBERED, self.channel, self.data, self.key, self.tags)

    @property
    def psycopg(self) -> tuple[str, dict[str, Any]]:
        """Statement and values, with `%(channel)s`."""
        return (_PYFORMAT, self._values)

    @property
    def sqlalchemy(self) -> tuple[str, dict[str, Any]]:
        """Statement and values, with `:channel`."""
        return (_NAMED, self._values)

    @property
    def _values(self) -> dict[str, Any]:
        return {"channel": self.channel, "data": self.data, "key": self.key, "tags": self.tags}


def outgoing(
    node: Node, store: str, channel: str, data: Any, *, tags: dict[str, str] | None = None, key: str = ""
) -> Outgoing:
    """The row for `data`, past the gate of `node`, whose store has the URL `store`.

    Raises UnknownChannel, BadRequest, and ConfigurationError where nobody would ever look into an outbox.
    """
    if not store.startswith(("postgresql:", "postgres:")):
        raise ConfigurationError(
            f"an outbox needs store.url = 'postgresql://…', and it is {store.partition(':')[0]!r}: publish after your"
            " own commit instead, with an idempotency_key"
        )
    rules = node.namespaces.resolve(channel)
    if not rules.is_durable:
        raise BadRequest(f"channel {channel!r} is not durable: publish after your own commit, or delivery = 'durable'")
    body, options = payload.body(data, rules.data), StreamOptions(idempotency_key=key)
    publication, _ = node.admitted(channel, body, rules, options=options, tags=tags)
    text = publication.data.decode() if not publication.binary else f'"{base64.b64encode(publication.data).decode()}"'
    return Outgoing(channel, text, key or None, msgspec.json.encode(tags).decode() if tags else None)
