"""Group commit: what arrives while one transaction is written goes into the next one together.

Answers for: the order of drafts, how many share a transaction, bounds on what waits (D5), finding the one draft that
spoils a batch (D6), telling each caller once, and writing what waits before the end (D7). Refuses to know: databases:
a `Table` writes a batch or none of it.

There is no artificial delay: a lonely draft is written at once, and a crowd makes its own batches
(docs/design/store.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hubbub.clock import Clock
from hubbub.errors import PublishFailed
from hubbub.model import Position, Publication, Published
from hubbub.sparing import SparingLog
from hubbub.stores.base import IN_DOUBT, Draft, Table, Unwritable, Written

log = logging.getLogger(__name__)

#: What waits: drafts, and their bytes.
MAX_WAITING, MAX_WAITING_BYTES = 10_000, 64 << 20

#: What shares one transaction.
BATCH, BATCH_BYTES = 500, 1 << 20


#: Seconds that a store which does not write is waited for.
PATIENCE = 5.0

#: Seconds: of those that came while it failed, only so many share a batch, which is tried for as long at least. So each
#: of them is waited for, and none has to wait for more than PATIENCE, one such batch before its own, and its own.
STEP = 1.0


class _Waiting(NamedTuple):
    draft: Draft
    done: asyncio.Future[Published]
    since: float  # when it came, on the monotonic clock


class Writer:
    """One writer. Everything on the event loop in which it was started."""

    def __init__(
        self,
        table: Table,
        *,
        on_committed: Callable[[str, Publication, str], object],
        clock: Clock,
        max_waiting: int = MAX_WAITING,
        max_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._table = table
        self._on_committed = on_committed
        self._clock = clock
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0
        self._loop = asyncio.get_running_loop()
        self._is_stopping = False
        self._is_failing = False  # the last batch was not written, and not because of what was in it
        self._work: asyncio.Task[None] | None = None
        self._counts: Counter[str] = Counter()
        self._commit_seconds = 0.0  # of the last transaction
        self._sparing = SparingLog(log)

    def append(self, draft: Draft) -> asyncio.Future[Published]:
        """Take one in, in the order of the calls."""
        done: asyncio.Future[Published] = self._loop.create_future()
        if self._is_stopping:
            done.set_exception(PublishFailed("not published, publish again: the store is stopping", is_retry_safe=True))
        elif len(self._queue) >= self._max_waiting or self._bytes + draft.size > self._max_bytes:
            self._refuse(done)
        else:
            self._queue.append(_Waiting(draft, done, self._clock.now()))
            self._bytes += draft.size
            if self._work is None:
                self._work = self._loop.create_task(self._write_all(), name="write the log")
        return done

    async def stop(self) -> None:
        """Take nothing more, and return once everything that waits is written or refused. Idempotent."""
        self._is_stopping = True
        if self._work is not None:
            await asyncio.wait([self._work])

    def counts(self) -> dict[str, int]:
        """Counted from the start on, and how it is now: what waits, and for how long (milliseconds)."""
        oldest = self._clock.now() - self._queue[0].since if self._queue else 0.0
        return {
            **self._counts,
            "store_queue": len(self._queue),
            "store_queue_bytes": self._bytes,
            "store_oldest_ms": round(oldest * 1000),
            "store_commit_ms": round(self._commit_seconds * 1000),
        }

    def _refuse(self, done: asyncio.Future[Published]) -> None:
        self._counts["store_overloaded"] += 1
        text = f"the store is overloaded, {len(self._queue)} publications wait ({self._bytes >> 20} MiB)"
        self._sparing.warning("overloaded", self._clock.now(), "%s", text)
        text = f"not published, publish again later: {text}"
        done.set_exception(PublishFailed(text, is_retry_safe=True))

    async def _write_all(self) -> None:
        try:
            while self._queue:
                await self._write(self._next_batch())
                if self._is_failing:
                    self._give_up()
        finally:
            self._work = None

    def _give_up(self) -> None:
        """Refuse what has waited long enough: its publishers shall not wait for each batch before."""
        old: list[_Waiting] = []
        while self._queue and self._clock.now() - self._queue[0].since >= PATIENCE + STEP:
            old.append(self._queue.popleft())
        self._bytes -= sum(waiting.draft.size for waiting in old)
        self._counts["store_failed"] += len(old)
        _fail(old, PublishFailed("not published, publish again: the store cannot be written", is_retry_safe=True))

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        until = self._queue[0].since + STEP if self._is_failing else float("inf")
        while (
            self._queue
            and len(batch) < BATCH
            and (not batch or size + self._queue[0].draft.size <= BATCH_BYTES)
            and self._queue[0].since <= until
        ):
            size += self._queue[0].draft.size
            batch.append(self._queue.popleft())
        self._bytes -= size
        return batch

    def _patience(self, batch: Sequence[_Waiting]) -> float:
        """Seconds for a batch: behind one that failed, what its oldest has not waited yet."""
        return max(STEP, batch[0].since + PATIENCE - self._clock.now()) if self._is_failing else PATIENCE

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        """One transaction; two halves of it where one draft spoils it, until that one stands alone."""
        started, patience = self._clock.now(), self._patience(batch)
        self._is_failing = False
        try:
            written = await self._table.commit([waiting.draft for waiting in batch], patience)
        except Unwritable as error:
            if len(batch) > 1:
                half = len(batch) // 2
                await self._write(batch[:half])
                await self._write(batch[half:])
            else:
                self._counts["store_unwritable"] += 1
                log.error("a publication in %r cannot be written: %s", batch[0].draft.channel, error)
                _fail(batch, PublishFailed(f"not published, and it never will be: {error}", is_retry_safe=True))
        except PublishFailed as error:
            self._is_failing = True
            self._counts["store_failed"] += len(batch)
            self._sparing.warning("failed", self._clock.now(), "%d publications are not written: %s", len(batch), error)
            _fail(batch, error)
        except Exception as error:  # ours, not the database's: nobody may wait for ever because of it
            self._counts["store_failed"] += len(batch)
            log.exception("writing %d publications failed", len(batch))
            _fail(batch, PublishFailed(f"{IN_DOUBT}: {error!r}", is_retry_safe=False))
        else:
            self._commit_seconds = self._clock.now() - started
            self._counts["store_commits"] += 1
            self._counts["store_written"] += len(batch)
            for waiting, place in zip(batch, written, strict=True):
                self._tell(waiting, place)

    def _tell(self, waiting: _Waiting, place: Written) -> None:
        """First the feed, then the publisher (D4)."""
        channel, publication, _ = waiting.draft
        epoch, offset = place.position
        if not place.is_duplicate:
            try:
                self._on_committed(channel, publication.at(offset), epoch)
            except Exception:
                log.exception("offset %d of channel %r is written, and could not be told", offset, channel)
        if not waiting.done.done():  # who was cancelled is not told (D7)
            waiting.done.set_result(place.published)


def _fail(batch: Sequence[_Waiting], error: PublishFailed) -> None:
    for waiting in batch:
        if not waiting.done.done():
            is_retry_safe = error.is_retry_safe or bool(waiting.draft.key)
            waiting.done.set_exception(PublishFailed(str(error), is_retry_safe=is_retry_safe))


def places(drafts: Sequence[Draft], tops: dict[str, Position], found: dict[tuple[str, str], int]) -> list[Written]:
    """The places of `drafts`, after each channel's position in `tops`, which is moved along.

    `found` are the offsets of keys that are in the log; what repeats a key within the batch is a duplicate, too.
    """
    result = []
    for draft in drafts:
        epoch, top = tops[draft.channel]
        offset = found.get((draft.channel, draft.key)) if draft.key else None
        if offset is not None:
            result.append(Written(Position(epoch, offset), True))
            continue
        position = tops[draft.channel] = Position(epoch, top + 1)
        if draft.key:
            found[draft.channel, draft.key] = top + 1
        result.append(Written(position))
    return result
