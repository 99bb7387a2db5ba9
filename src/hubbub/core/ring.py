"""The ring: the last publications that a feed has broadcast, so that returning clients cost no read.

Answers for: contiguous publications of one channel within a budget of bytes, and one budget for all rings of a node,
least recently used first. Refuses to know: epochs and positions; its owner clears it when they change.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice

from hubbub.model import Publication


class RingPool:
    """The budget that all rings of a node share, in bytes."""

    def __init__(self, budget: int = 64 << 20) -> None:
        self.budget = budget
        self.used = 0
        self.evicted = 0
        self._rings: OrderedDict[Ring, None] = OrderedDict()

    def touched(self, ring: Ring, grown: int) -> None:
        """`ring` was used and grew by `grown` bytes (or shrank). Over the budget, the longest unused are emptied."""
        self.used += grown
        self._rings[ring] = None
        self._rings.move_to_end(ring)
        while self.used > self.budget and len(self._rings) > 1:
            oldest = next(iter(self._rings))
            self.evicted += 1
            oldest.clear()

    def forget(self, ring: Ring, freed: int) -> None:
        """`ring` is empty."""
        self.used -= freed
        self._rings.pop(ring, None)


class Ring:
    """The last publications of one channel, contiguous, at most `budget` bytes of them."""

    __slots__ = ("__weakref__", "_budget", "_bytes", "_items", "_pool")

    def __init__(self, pool: RingPool, budget: int = 1 << 20) -> None:
        self._pool = pool
        self._budget = budget
        self._bytes = 0
        self._items: deque[Publication] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def append(self, publication: Publication) -> None:
        """The next publication. One that does not follow the last starts the ring anew."""
        items = self._items
        if items and items[-1].offset + 1 != publication.offset:
            self.clear()
        items.append(publication)
        grown = publication.size
        while self._bytes + grown > self._budget and len(items) > 1:
            grown -= items.popleft().size
        self._bytes += grown
        self._pool.touched(self, grown)

    def extend_back(self, publications: Sequence[Publication]) -> None:
        """Put older ones in front, as many of the newest as fit; ignored where they do not join."""
        items = self._items
        grown = 0
        for publication in reversed(publications):
            if items and publication.offset >= items[0].offset:
                continue
            if items and publication.offset + 1 != items[0].offset:
                break
            if self._bytes + grown + publication.size > self._budget:
                break
            items.appendleft(publication)
            grown += publication.size
        self._bytes += grown
        self._pool.touched(self, grown)

    def range(self, after: int, upto: int) -> Sequence[Publication] | None:
        """Publications after + 1 to upto, all of them; None if they are not all here."""
        if after >= upto:
            return ()
        items = self._items
        if not items or items[0].offset > after + 1 or items[-1].offset < upto:
            return None
        first = items[0].offset
        return list(islice(items, after + 1 - first, upto + 1 - first))

    def clear(self) -> None:
        """Keep nothing."""
        self._items.clear()
        self._pool.forget(self, self._bytes)
        self._bytes = 0
