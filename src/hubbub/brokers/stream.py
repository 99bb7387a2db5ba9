"""One stream of the memory broker: a ring of publications that knows what it weighs.

Answers for: giving offsets, keeping exactly the last ones (B2), reading them back (S4), and versions (B3). Refuses to
know: its channel's name, other streams, what time it is, and how much all of them may weigh.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence

from hubbub.model import Position, Publication

_NEVER = sys.maxsize
#: `Publication.size` as a function, for `map`.
_weight = operator.attrgetter("size")


class Stream:
    """One life of one channel's stream: what has this epoch. `Stored`: a feed may read it without waiting.

    A stream that is forgotten or evicted answers None to every `range` from then on, so that a feed that
    still holds it falls back to reading from the source, where it learns the new epoch.
    """

    __slots__ = (
        "bytes",
        "due",
        "epoch",
        "expires",
        "first",
        "items",
        "top",
        "touched",
        "version",
        "version_epoch",
    )

    def __init__(self, epoch: str, now: float) -> None:
        self.epoch = epoch
        self.top = 0  # offset of the newest publication ever
        self.first = 1  # the oldest offset that is kept; above `top` while nothing is
        # Contiguous, and the last one has the offset `top`. May reach a little further back than `first`:
        # trimming a list moves all of it, so it is done for an eighth at a time. A deque would cost 600 bytes
        # while empty.
        self.items: list[Publication] = []
        self.bytes = 0  # what the items weigh
        self.expires = 0.0  # when the publications do
        self.due = 0  # the tick in which the sweep looks after them; 0: none
        self.touched = now
        self.version = 0
        self.version_epoch = ""

    @property
    def head(self) -> Position:
        """Where the stream stands."""
        return Position(self.epoch, self.top)

    def append(self, publication: Publication, size: int, now: float, ttl: float) -> Publication:
        """Keep it as the newest of `size` until `ttl` seconds pass without another; returns what is kept."""
        if self.expires <= now:
            self.clear()
        self.top = top = self.top + 1
        self.expires = now + ttl
        items = self.items
        # What `publication.at(top)` does, without the call.
        kept = Publication(publication.data, top, publication.info, publication.tags, publication.binary)
        items.append(kept)
        self.bytes += kept.size
        if top - self.first >= size:
            self.first = top - size + 1
            if len(items) > size + (size >> 3):
                self.bytes -= sum(map(_weight, items[:-size]))
                del items[:-size]
        return kept

    def is_news(self, version: int, version_epoch: str) -> bool:
        """Whether this version is above the last one; if so, it is the last one now (B3).

        Under another epoch than the last one's it is in any case; without an epoch it is compared whatever that was.
        """
        if version <= self.version and version_epoch in ("", self.version_epoch):
            return False
        self.version = version
        self.version_epoch = version_epoch
        return True

    def range(self, after: int, upto: int) -> Sequence[Publication] | None:
        """Publications after + 1 to upto, all of them; None if they are not all kept (any more).

        Asks no clock: what expired is still in here until it is swept, like in any ring.
        """
        if after >= upto and self.first != _NEVER:
            return ()
        if after + 1 < self.first or upto > self.top:
            return None
        base = self.top - len(self.items)
        return self.items[after - base : upto - base]

    def page(self, after: int, limit: int, max_bytes: int) -> Sequence[Publication]:
        """Forward from `after` (S4)."""
        base = self.top - len(self.items)
        start = max(after, self.first - 1) - base
        return _fitting(self.items[start : start + max(limit, 0)], max_bytes)

    def page_back(self, before: int, limit: int, max_bytes: int) -> Sequence[Publication]:
        """Backward from below `before`, or from the head if it is 0."""
        base = self.top - len(self.items)
        stop = min(before - 1, self.top) if before > 0 else self.top
        start = max(self.first - 1, stop - max(limit, 0))
        if start >= stop:
            return ()
        return _fitting(self.items[start - base : stop - base][::-1], max_bytes)

    def clear(self) -> None:
        """Let go of the publications; the head stays."""
        self.items.clear()
        self.bytes = 0
        self.first = max(self.first, self.top + 1)  # a retired one stays retired

    def retire(self) -> None:
        """This life is over: nothing can be read of it any more."""
        self.items.clear()
        self.bytes = 0
        self.first = _NEVER


def _fitting(publications: list[Publication], max_bytes: int) -> list[Publication]:
    """As many of the first ones as fit, and at least one."""
    used = 0
    for count, publication in enumerate(publications):
        used += publication.size
        if used > max_bytes and count:
            return publications[:count]
    return publications
