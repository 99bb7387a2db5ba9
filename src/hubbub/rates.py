"""Rates: how often something may happen.

Answers for: what "20/s" means, and what is wrong with a text that means nothing. Refuses to know: who counts, and what
happens to those that are too fast.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from hubbub.errors import ConfigurationError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_RATE = re.compile(r"\s*([1-9][0-9]{0,8})\s*/\s*([smh])\s*", re.ASCII)


class Rate(msgspec.Struct, frozen=True):
    """At most `count` times in `seconds`."""

    count: int
    seconds: float


@lru_cache(maxsize=1024)  # rules are asked for theirs at every publication
def parse_rate(text: str) -> Rate | None:
    """The rate that a text such as "20/s", "100/m" or "5000/h" names; None for "": no limit.

    Raises ConfigurationError for anything else; its text says what is expected, and the caller knows of which setting.
    """
    if not text:
        return None
    match = _RATE.fullmatch(text)
    if match is None:
        raise ConfigurationError('expected a rate such as "20/s", "100/m" or "5000/h", or "" for no limit')
    return Rate(int(match[1]), _SECONDS[match[2]])
