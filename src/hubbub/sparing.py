"""Warnings that come by the thousand and are told by the minute.

Answers for: one warning of a kind in a while, and a line of lower level for the others, so that nobody can fill a log
and the one line that helps is seen. Refuses to know: what is warned of, and what time it is.
"""

from __future__ import annotations

import logging

#: Seconds between two warnings of one kind.
WARN_EVERY = 60.0

#: Kinds that are remembered.
MAX_KINDS = 1000


class SparingLog:
    """A logger's warnings, sparingly."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._warned: dict[str, float] = {}

    def warning(self, kind: str, time: float, text: str, *values: object) -> None:
        """A warning at `time` (seconds), or a line of level INFO where one of this kind was given lately."""
        level = logging.INFO
        if abs(time - self._warned.get(kind, -WARN_EVERY)) >= WARN_EVERY:
            if len(self._warned) >= MAX_KINDS:
                self._warned.clear()
            self._warned[kind] = time
            level = logging.WARNING
        self._log.log(level, text, *values)
