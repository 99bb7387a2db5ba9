"""The store of durable channels, examined as hubbub would use it.

Answers for: which kind of store is named, and whether anything uses it. Refuses to know: what is looked at in each
kind.
"""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

from hubbub.channels import Namespaces
from hubbub.clock import Clock
from hubbub.doctor.findings import Finding, Part
from hubbub.settings import Settings
from hubbub.settings.sections import without_password


async def stored(settings: Settings, clock: Clock) -> Part | None:
    """The part about the store; None where there is none: that one is needed is said of the settings."""
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


def unused(namespaces: Namespaces, *, is_whole: bool) -> list[Finding]:
    """Whether nothing is kept there. `is_whole`: these are all channels that there will be, those of classes, too."""
    if namespaces.durable:
        return []
    fix = 'delivery = "durable" where nobody may miss anything, or no store.url'
    if not is_whole:
        fix = f"if an application declares channels by classes: hubbub doctor main:hub; else {fix}"
    return [Finding("use", "note", "nothing is kept here: no channel that is declared is durable", fix)]


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
