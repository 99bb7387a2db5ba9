"""Glob patterns over channel names, with one meaning everywhere.

Answers for: what `*` (any characters, also `:` and `.`), `?` (one), `[abc]`, `[a-z]` and `[!abc]` match. Everything
else stands for itself, an unclosed `[` too. Refuses to know: who listens, and what a backend calls a pattern.

Matching takes time proportional to the name's length at worst for each `*`: `fnmatch` makes atomic groups of them, so
that no pattern backtracks without end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import translate

Matcher = Callable[[str], object]


def matcher(pattern: str) -> Matcher:
    """A function that is true of the names that match. Case counts."""
    return re.compile(translate(pattern)).match


def any_matcher(patterns: Iterable[str]) -> Matcher:
    """A function that is true of the names that match at least one of `patterns`."""
    return re.compile("|".join(map(translate, patterns)) or "(?!)").match
