"""Reading one value, as somebody wrote it in TOML, in a variable or as an argument.

Answers for: turning it into what the field of its section holds, or an error that names place, key, what was found and
what is expected. Refuses to know: other values, and which of several wins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from hubbub.errors import ConfigurationError
from hubbub.settings.names import kind, named, plain, shown
from hubbub.settings.sections import SIZES


class Found(NamedTuple):
    """A value as somebody wrote it. `is_text`: in the environment or on a command line, where all is text."""

    section: str
    name: str
    value: Any
    origin: str
    is_text: bool = False

    def is_wrong(self, expected: str) -> NoReturn:
        """Refuse it. Raises ConfigurationError."""
        found = "" if self.is_text else f", found {named(self.value)}"
        key = f"{plain(self.section)}.{self.name} = {shown(self.name, self.value)}"
        raise ConfigurationError(f"{self.origin}: {key}: expected {expected}{found}")


def read(found: Found) -> Any:
    """The value that its field holds. Raises ConfigurationError."""
    expected = get_type_hints(kind(found.section))[found.name]
    if get_origin(expected) is Literal:
        return _choice(found, get_args(expected))
    if found.name in SIZES:
        return _size(found)
    return _READERS[get_origin(expected) or expected](found)


def _choice(found: Found, choices: tuple[str, ...]) -> str:
    if isinstance(found.value, str) and found.value in choices:
        return found.value
    found.is_wrong(f"one of {', '.join(choices)}")


def _string(found: Found) -> str:
    if isinstance(found.value, str):
        return found.value
    found.is_wrong("a string")


_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def _bool(found: Found) -> bool:
    value = found.value
    if found.is_text and isinstance(value, str):
        value = _BOOLS.get(value.strip().lower(), value)
    if isinstance(value, bool):
        return value
    found.is_wrong("true or false")


def _integer(found: Found) -> int:
    value = found.value
    if found.is_text and isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found.is_wrong("an integer")


def _strings(found: Found) -> tuple[str, ...]:
    value = found.value
    if found.is_text and isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    found.is_wrong("a list of strings" + (", with commas between them" if found.is_text else ""))


def _one_or_more(found: Found) -> str | tuple[str, ...]:
    """A text as it is, commas and all, for it may be a secret; or a list of texts."""
    value = found.value
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) and item for item in value):
        return tuple(value)
    found.is_wrong("a string, or a list of strings that are not empty")


_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def _duration(found: Found) -> float:
    seconds = _measure(found.value, _SECONDS)
    if seconds is None:
        found.is_wrong('seconds, or a duration such as "500ms", "30s", "5m", "2h" or "1d"')
    return float(seconds)


def _size(found: Found) -> int:
    size = _measure(found.value, _BYTES)
    if size is None or size != int(size):
        found.is_wrong('bytes, or a size such as "64KiB" or "1MiB"')
    return int(size)


def _measure(value: object, units: Mapping[str, float]) -> float | None:
    """A number, or a number with one of the units; None for anything else. Never negative, never infinite."""
    factor: float = 1
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([a-z]*)\s*", value.lower())
        if match is None or (match[2] and match[2] not in units):
            return None
        value, factor = float(match[1]), units.get(match[2], 1)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value * factor if 0 <= value < math.inf else None


_READERS: dict[object, Callable[[Found], object]] = {str: _string, bool: _bool, int: _integer}
_READERS |= {float: _duration, tuple: _strings, UnionType: _one_or_more}
