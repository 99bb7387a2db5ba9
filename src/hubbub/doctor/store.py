"""The store of durable channels, examined as hubbub would use it.

Answers for: which kind of store is named. Refuses to know: what is looked at in
each kind.
"""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

from hubbub.clock import Clock
from hubbub.doctor.findings import Finding, Part
from hubbub.settings import Settings
from hubbub.settings.sections import without_password


async def stored(settings: Settings, clock: Clock) -> Part | None:
    """The part about the store; None where there is none: settings that need one are refused when they are read."""
    url = settings.store.url
    if not url:
        return None
    about = f"store: {without_password(url.partition('?')[0])}"  # options may hold a password, too
    if url.startswith("memory:"):
        return Part(about, [_forgets()])
    if url.startswith("sqlite:"):
        from hubbub.doctor.store_file import examined_file  # who has no such store need not load SQLite

        path = Path(url.removeprefix("sqlite:///"))
        return Part(about, [*_alone(settings), *await asyncio.to_thread(examined_file, path, clock)])
    if importlib.util.find_spec("asyncpg") is None:
        seen = "PostgreSQL needs asyncpg, not installed"
        return Part(about, [Finding("packages", "wrong", seen, "pip install 'hubbub[postgresql]'")])
    from hubbub.doctor.store_server import examined_server

    return Part(about, await examined_server(settings, clock))


def _forgets() -> Finding:
    fix = "store.url = 'sqlite:///app.db'"
    return Finding("store", "warning", "memory:// forgets everything when the process ends: for tests", fix)


def _alone(settings: Settings) -> list[Finding]:
    """A file has one process: beside a broker that joins many, each would have a log of its own."""
    if settings.broker.url.startswith("memory:"):
        return []
    seen = "one process may have this file, and broker.url joins several: each would have a log of its own"
    fix = "nothing if one server is all there is; else store.url = 'postgresql://…' for all of them"
    return [Finding("sharing", "warning", seen, fix)]
