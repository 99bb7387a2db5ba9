"""The idempotency keys of the memory broker.

Answers for: what became of the publish that brought a key, for five minutes (B3), in a bounded number. Refuses to
know: streams, and what time it is.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Final

from hubbub.model import Position, Published

log = logging.getLogger(__name__)

#: Seconds that an idempotency key is remembered (B3).
KEY_TTL: Final = 300.0
#: 3,300 keys a second, 300 MB. Above this the oldest key is forgotten before its time.
MAX_KEYS: Final = 1_000_000


class Keys:
    """Idempotency keys and what became of the publish that brought each; bounded in number and time."""

    __slots__ = ("_entries", "evicted", "max_keys")

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self.max_keys = max_keys
        self.evicted = 0
        # All live equally long, so that the order of insertion is the order of expiry.
        # Flat and without a `Published`, which would be half as large again.
        self._entries: OrderedDict[tuple[str, str], tuple[float, str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, channel: str, key: str, now: float) -> Published | None:
        """What the first publish with this key in this channel returned, as a duplicate."""
        entry = self._entries.get((channel, key))
        if entry is None or entry[0] <= now:
            return None
        _, epoch, offset = entry
        return Published(Position(epoch, offset) if epoch else None, 0, True)

    def remember(self, channel: str, key: str, now: float, published: Published) -> None:
        """It was published now; the oldest key makes room."""
        entries = self._entries
        entries.pop((channel, key), None)
        epoch, offset = published.position or ("", 0)
        entries[channel, key] = now + KEY_TTL, epoch, offset
        if len(entries) > self.max_keys:
            entries.popitem(last=False)
            if self.evicted % 10_000 == 0:
                log.warning("over %d idempotency keys in %d s: the oldest are forgotten", self.max_keys, KEY_TTL)
            self.evicted += 1

    def next_deadline(self) -> float | None:
        """When the oldest key expires."""
        return next(iter(self._entries.values()))[0] if self._entries else None

    def sweep(self, now: float, budget: int) -> int:
        """Free what expired, at most `budget` of it; returns what is left of that."""
        while budget > 0 and (deadline := self.next_deadline()) is not None and deadline <= now:
            self._entries.popitem(last=False)
            budget -= 1
        return budget
