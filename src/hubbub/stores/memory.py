"""A store that forgets everything when its process ends: the executable model of what a store does.

Answers for: all that `base` says but for surviving. For tests, and for trying things without a file. Refuses to know:
transactions: a list cannot fail half-way.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar

from hubbub.clock import Clock
from hubbub.model import Position, Publication, Published
from hubbub.source import Known, Page, altered_by_reading
from hubbub.stores.base import Draft, StoreEvents, Written, epoch_of
from hubbub.stores.writer import Writer, places


class Log:
    """One channel: its publications from `first` on."""

    __slots__ = ("first", "items", "keys", "life", "times")

    def __init__(self) -> None:
        self.items: list[Publication] = []
        self.times: list[float] = []  # when each was written, Unix time
        self.first = 1
        self.life = 0
        self.keys: dict[str, int] = {}

    @property
    def top(self) -> int:
        """The last offset that was given."""
        return self.first + len(self.items) - 1


class Logs:
    """What several stores share that stand for one database."""

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.by_channel: dict[str, Log] = {}

    def head(self, channel: str) -> Position:
        """Where it stands."""
        log = self.by_channel.get(channel)
        return Position(self.epoch, 0) if log is None else Position(epoch_of(self.epoch, log.life), log.top)

    def log(self, channel: str) -> Log:
        """Its log, made if it is not there."""
        return self.by_channel.setdefault(channel, Log())


class MemoryStore:
    """A Store. Several on the same `logs` are several processes on one database."""

    is_shared: ClassVar[bool] = True

    def __init__(self, *, clock: Clock, logs: Logs | None = None) -> None:
        self.logs = logs or Logs()
        self._clock = clock
        self._writer: Writer | None = None

    async def start(self, events: StoreEvents) -> None:
        """Begin."""
        self._writer = Writer(self, on_committed=events.on_committed, clock=self._clock)

    async def stop(self) -> None:
        """Write what waits."""
        if self._writer is not None:
            await self._writer.stop()

    def append(self, draft: Draft) -> Awaitable[Published]:
        """Write one publication."""
        assert self._writer is not None, "start() comes first"
        return self._writer.append(draft)

    async def commit(self, drafts: Sequence[Draft], patience: float) -> Sequence[Written]:
        """All at once: nothing can come between. What a Table does."""
        logs = {draft.channel: self.logs.log(draft.channel) for draft in drafts}
        tops = {channel: self.logs.head(channel) for channel in logs}
        found = {
            (draft.channel, draft.key): offset
            for draft in drafts
            if (offset := logs[draft.channel].keys.get(draft.key))
        }
        written = places(drafts, tops, found)
        for draft, place in zip(drafts, written, strict=True):
            if not place.is_duplicate:
                log = logs[draft.channel]
                log.items.append(draft.publication.at(place.position.offset))
                log.times.append(self._clock.time())
                if draft.key:
                    log.keys[draft.key] = place.position.offset
        return written

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Where each of these channels stands."""
        return {channel: self.logs.head(channel) for channel in channels}

    async def read(
        self, channel: str, after: int, limit: int, max_bytes: int = 1 << 20, *, reverse: bool = False
    ) -> Page:
        """A page and the head."""
        log = self.logs.by_channel.get(channel) or Log()
        if reverse:
            wanted = log.items[: max(0, after - log.first)] if after else log.items
            wanted = wanted[::-1]
        else:
            wanted = log.items[max(0, after + 1 - log.first) :]
        return Page(within(wanted[:limit], max_bytes), self.logs.head(channel))

    async def trim(self, channel: str, upto: int) -> None:
        """Let go of what is kept up to there."""
        log = self.logs.log(channel)
        count = max(0, min(upto, log.top) - log.first + 1)
        del log.items[:count]
        del log.times[:count]
        log.first += count
        log.keys = {key: offset for key, offset in log.keys.items() if offset >= log.first}

    async def sweep(self, keeps: Callable[[str], float]) -> int:
        """Let go of what is old."""
        gone = 0
        for channel, log in list(self.logs.by_channel.items()):
            before = self._clock.time() - keep if (keep := keeps(channel)) else 0.0
            old = next((number for number, at in enumerate(log.times) if at >= before), len(log.times))
            await self.trim(channel, log.first - 1 + old)
            gone += old
        return gone

    async def altered(self, known: Mapping[str, Known]) -> set[str]:
        """Which of these are not what is held here."""
        return await altered_by_reading(self, known)

    async def replace_epoch(self, channel: str, epoch: str) -> Position:
        """Another epoch, if it still has this one."""
        if self.logs.head(channel).epoch == epoch:
            self.logs.log(channel).life += 1
        return self.logs.head(channel)

    def counts(self) -> dict[str, int]:
        """What was written, and what waits."""
        return self._writer.counts() if self._writer is not None else {}


def within(publications: Sequence[Publication], max_bytes: int) -> Sequence[Publication]:
    """As many of them as fit, but one in any case."""
    size = 0
    for number, publication in enumerate(publications):
        size += len(publication.data)
        if size > max_bytes and number:
            return publications[:number]
    return publications
