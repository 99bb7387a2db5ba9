"""The table `hubbub_outbox`: reading what waits there, taking it away, and refusing it.

Answers for: one server at a time, and the statements. Refuses to know: the log, transactions (`postgresql`), and what
is refused (`outbox`). The table itself is made by `postgresql_schema`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hubbub.stores.outbox import BATCH_BYTES, Moved, Row

#: Whose transaction moves rows holds this advisory lock ("outbox", as a number). Not its session: a server that stands
#: still would keep it.
LOCK = 0x6F7574626F78

#: For how long a server may stand still with the lock; then the database ends its connection, and another one moves.
STANDSTILL = "10s"

#: Characters of one payload. No channel takes as much; it is not even fetched.
MAX_DATA = 16 << 20

_WAITS = "SELECT EXISTS (SELECT FROM hubbub_outbox WHERE refused IS NULL AND id <> ALL($1::bigint[]))"
_ENTER = "SELECT pg_try_advisory_xact_lock($1), set_config('idle_in_transaction_session_timeout', $2, true)"
_ROWS = """
    SELECT id, channel, CASE WHEN octet_length(data::text) <= $4 THEN data::text END, coalesce(key, ''), tags::text
    FROM hubbub_outbox WHERE id = ANY(ARRAY(
        SELECT id FROM (
            SELECT id, size, sum(size) OVER (ORDER BY id) AS upto FROM (
                SELECT id, least(octet_length(data::text), $4) AS size FROM hubbub_outbox
                WHERE refused IS NULL AND id <> ALL($1::bigint[]) ORDER BY id LIMIT $2
            ) AS oldest
        ) AS measured WHERE upto = size OR upto <= $3
    )) ORDER BY id FOR UPDATE SKIP LOCKED
"""
_REFUSE = """
    UPDATE hubbub_outbox SET refused = given.reason FROM unnest($1::bigint[], $2::text[]) AS given (id, reason)
    WHERE hubbub_outbox.id = given.id
"""


async def waits(connection: Any, besides: Collection[int]) -> bool:
    """Whether there is more than these rows. Reads an index only, also where many are refused."""
    return bool(await connection.fetchval(_WAITS, list(besides)))


async def waiting(connection: Any, limit: int, besides: Collection[int]) -> list[Row]:
    """The oldest rows, in a transaction that has them for itself; none where another server has."""
    (is_ours, _) = await connection.fetchrow(_ENTER, LOCK, STANDSTILL)
    if not is_ours:
        return []
    rows = await connection.fetch(_ROWS, list(besides), limit, BATCH_BYTES, MAX_DATA)
    return [Row(*row) for row in rows]


async def settle(connection: Any, moved: Moved) -> None:
    """Take away what is in the log in this transaction, and keep what is refused, with the reason."""
    if moved.ids:
        await connection.execute("DELETE FROM hubbub_outbox WHERE id = ANY($1::bigint[])", list(moved.ids))
    if moved.refused:
        ids, reasons = zip(*moved.refused, strict=True)
        await connection.execute(_REFUSE, list(ids), list(reasons))
