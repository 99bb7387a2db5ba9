"""What an examination finds.

Answers for: the shape of a finding, and which findings belong together. Refuses to know: what is examined, and how
findings are shown.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

Level = Literal["ok", "note", "warning", "wrong"]

LEVELS: tuple[Level, ...] = get_args(Level)


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: what was seen, and what to do about it; empty where nothing is to be done.

    ok: as it should be. note: worth knowing. warning: doubtful. wrong: it does not work, or loses something.
    """

    subject: str
    level: Level
    seen: str
    fix: str = ""


class Part(msgspec.Struct, frozen=True):
    """Findings about one thing, such as one server."""

    about: str
    findings: list[Finding]


def count(parts: list[Part], level: Level) -> int:
    """How many findings have this level."""
    return sum(finding.level == level for part in parts for finding in part.findings)
