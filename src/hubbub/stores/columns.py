"""A publication as the columns of a log, whichever database keeps it.

Answers for: what is written of a draft beside its payload, and how it is read back. Refuses to know: databases, and how
each of them keeps a payload.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hubbub.stores.base import Draft


def columns(channel: int, offset: int, at: int, draft: Draft) -> tuple[Any, ...]:
    """All but the payload: channel, offset, at, key, user, client, conn_info, chan_info, tags."""
    info, tags = draft.publication.info, draft.publication.tags
    who: tuple[Any, ...] = (None, None, None, None)
    if info is not None:
        who = (info.user, info.client, info.conn_info or None, info.chan_info or None)
    return (channel, offset, at, draft.key or None, *who, msgspec.json.encode(tags).decode() if tags else None)


def tags_of(text: str | bytes | None) -> dict[str, str] | None:
    """The column `tags`, read."""
    return None if text is None else _decode(text)


_decode = msgspec.json.Decoder(dict[str, str]).decode
