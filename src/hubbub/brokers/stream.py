"""One stream of the memory broker, and the shelf on which many of them stand and which bears only so much.

Answers for: giving offsets, keeping exactly the last publications (B2), reading them back (S4), versions (B3), and the
bound on the bytes that all streams keep. Refuses to know: channels, listeners, and what time it is.
"""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from hubbub.model import ClientInfo, Position, Publication

log = logging.getLogger(__name__)

#: What all publications of a shelf may weigh (`Publication.size`).
MAX_BYTES: Final = 256 << 20

#: Seconds between two lines in the log that say that there is no room.
_QUIET = 60.0
#: What a publication without tags weighs besides its data, and what it weighs more if it has an info. Most have no
#: tags, and are spared the call.
_BARE = Publication(b"").size
_WITH_INFO = Publication(b"", info=ClientInfo()).size - _BARE
_NEVER = sys.maxsize


class Shelf:
    """What many streams keep, and what that weighs.

    Above `max_bytes`, the stream least recently published into is emptied; its head stays, so that who returns to
    it learns that something is missing. Never the one that is published into: a single one may weigh more.
    """

    __slots__ = ("_quiet_until", "bytes", "bytes_evicted", "kept", "max_bytes", "publications_evicted")

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.bytes_evicted = 0
        self.publications_evicted = 0
        self.kept: OrderedDict[Stream, None] = OrderedDict()  # least recently published into first (see `touch`)
        self._quiet_until = 0.0

    def touch(self, stream: Stream) -> None:
        """It is the one most recently published into. Who publishes says so, as exactly as it likes."""
        if stream in self.kept:
            self.kept.move_to_end(stream)

    def lighten(self, now: float, spared: Stream) -> None:
        """Empty streams, but not this one, until the rest is light enough."""
        while self.bytes > self.max_bytes and len(self.kept) > 1:
            stream = next(iter(self.kept))
            if stream is spared:
                self.kept.move_to_end(stream)
                continue
            before = self.bytes
            self.publications_evicted += len(stream.items)
            stream.clear()
            self.bytes_evicted += before - self.bytes
            if now >= self._quiet_until:
                self._quiet_until = now + _QUIET
                log.warning("over %d bytes of history: what was published into least recently goes", self.max_bytes)


class Stream:
    """One life of one channel's stream: what has this epoch. `Stored`: a feed may read it without waiting.

    A stream that is forgotten or evicted answers None to every `range` from then on, so that a feed that
    still holds it falls back to reading from the source, where it learns the new epoch.
    """

    __slots__ = (
        "_shelf",
        "_weights",
        "due",
        "epoch",
        "expires",
        "first",
        "items",
        "published",
        "top",
        "touched",
        "version",
        "version_epoch",
    )

    def __init__(self, epoch: str, now: float, *, shelf: Shelf | None = None) -> None:
        self.epoch = epoch
        self.top = 0  # offset of the newest publication ever
        self.first = 1  # the oldest offset that is kept; above `top` while nothing is
        # Contiguous, and the last one has the offset `top`. May reach a little further back than `first`:
        # trimming a list moves all of it, so it is done for an eighth at a time. A deque would cost 600 bytes
        # while empty.
        self.items: list[Publication] = []
        # What each item weighs. Kept, because asking them again when they go would cost more than all the rest.
        self._weights: list[int] = []
        self._shelf = shelf or Shelf()
        self.expires = 0.0  # when the publications do
        self.due = 0  # the tick in which the sweep looks after them; 0: none
        self.touched = now  # when it was last used
        self.published = 0.0  # when it was last published into, to within a second
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
        data, info, tags = publication.data, publication.info, publication.tags
        # What `publication.at(top)` does, without the call.
        kept = Publication(data, top, info, tags, publication.binary)
        weight = kept.size if tags is not None else _BARE + len(data)
        if info is not None and tags is None:
            weight += _WITH_INFO + len(info.conn_info) + len(info.chan_info)
        shelf, items, weights = self._shelf, self.items, self._weights
        if not weights:
            shelf.kept[self] = None
        items.append(kept)
        weights.append(weight)
        if top - self.first >= size:
            self.first = top - size + 1
            gone = len(items) - size
            if gone > size >> 3:
                weight -= weights[0] if gone == 1 else sum(weights[:gone])
                del items[:gone], weights[:gone]
        shelf.bytes += weight
        if shelf.bytes > shelf.max_bytes:
            shelf.lighten(now, self)
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

    def under(self, epoch: str) -> Stream:
        """The same stream in another life."""
        heir = Stream(epoch, self.touched, shelf=self._shelf)
        heir.top, heir.first, heir.expires, heir.published = self.top, self.first, self.expires, self.published
        heir.version, heir.version_epoch = self.version, self.version_epoch
        heir.items, heir._weights = self.items.copy(), self._weights.copy()
        if heir._weights:
            self._shelf.bytes += sum(heir._weights)
            self._shelf.kept[heir] = None
        return heir

    def clear(self) -> None:
        """Let go of the publications; the head stays."""
        if self._weights:
            self._shelf.bytes -= sum(self._weights)
            self._shelf.kept.pop(self, None)
            self._weights.clear()
        self.items.clear()
        self.first = max(self.first, self.top + 1)  # a retired one stays retired

    def retire(self) -> None:
        """This life is over: nothing can be read of it any more."""
        self.clear()
        self.first = _NEVER


def _fitting(publications: list[Publication], max_bytes: int) -> list[Publication]:
    """As many of the first ones as fit, and at least one."""
    used = 0
    for count, publication in enumerate(publications):
        used += publication.size
        if used > max_bytes and count:
            return publications[:count]
    return publications
