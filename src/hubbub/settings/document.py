"""The TOML file.

Answers for: reading it whole, an error with line and column where it is no TOML, and the line in which a table begins.
Refuses to know: which tables and keys there are.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hubbub.errors import ConfigurationError


def read_document(path: Path) -> dict[str, Any]:
    """What the file says. Raises ConfigurationError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        place = _place(data[: error.start].decode(errors="replace"))
        raise ConfigurationError(f"{path}, {place}: not UTF-8, which TOML has to be") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        what, at, position = str(error).partition(" (at ")
        place = position.rstrip(")") if at and position.startswith("line") else _place(text)
        raise ConfigurationError(f"{path}, {place}: not TOML: {what}") from None


def _place(before: str) -> str:
    """The place that `before` leads up to, in the words of tomllib."""
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def line_of(path: str | Path, section: str) -> int | None:
    """The line of `[section]` in a TOML file, the first being 1; None where no such header stands.

    `section` is as in `origins`: "server", or "channels." and a namespace, however the file quotes it. A table that is
    written otherwise (inline, or by dotted keys) has no header, and a file that cannot be read has none either.
    """
    try:
        lines = Path(path).read_text("utf-8-sig").split("\n")
    except (OSError, ValueError):
        return None
    first, dot, rest = section.partition(".")
    wanted = [first, rest] if dot else [first]
    for at, line in enumerate(lines):
        # What stands before a header is TOML by itself, unless the line is part of a string of several lines.
        if line.lstrip().startswith("[") and _header(line) == wanted and _is_toml("\n".join(lines[:at])):
            return at + 1
    return None


def _header(line: str) -> list[str] | None:
    """The names in `[a."b"]`; None for what is no header of a table."""
    try:
        table: Any = tomllib.loads(line)
    except (ValueError, RecursionError):
        return None
    names = []
    while isinstance(table, dict) and table:
        [(name, table)] = table.items()
        names.append(name)
    return names if table == {} else None


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
