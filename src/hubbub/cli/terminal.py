"""What depends on who reads the output.

Answers for: colours only where somebody looks and has not refused them (NO_COLOR), and whether the reader of a pipe is
still there. Refuses to know: what is printed.
"""

from __future__ import annotations

import os
import select
import sys
from typing import TextIO

_RESET = "\x1b[0m"


class Colours:
    """Colours for one stream, or none."""

    def __init__(self, stream: TextIO) -> None:
        wanted = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._is_on = bool(os.environ.get("FORCE_COLOR")) or wanted

    def dim(self, text: str) -> str:
        """What matters less."""
        return self._in("2", text)

    def strong(self, text: str) -> str:
        """What matters more."""
        return self._in("1", text)

    def channel(self, text: str) -> str:
        """A channel's name."""
        return self._in("36", text)

    def warning(self, text: str) -> str:
        """What should not have happened."""
        return self._in("33", text)

    def wrong(self, text: str) -> str:
        """What has to be mended."""
        return self._in("31", text)

    def _in(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}{_RESET}" if self._is_on else text


def require_reader() -> None:
    """Raise BrokenPipeError if whoever read stdout has gone, which one would else learn from the next line only."""
    if hasattr(select, "poll"):
        watch = select.poll()
        watch.register(sys.stdout.fileno(), 0)
        if any(event & (select.POLLERR | select.POLLNVAL) for _, event in watch.poll(0)):
            raise BrokenPipeError
