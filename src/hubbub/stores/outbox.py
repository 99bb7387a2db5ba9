"""Publications that applications have committed with their own rows, on their way into the log.

Answers for: looking for them again and again while the server runs, judging each by the rules of its channel, what
becomes of one that cannot be published, and of one whose channel is not known here. Refuses to know: SQL, rules, and
who hears of what was moved: an `Outbox` moves rows, and tells of it as of everything that it has written.

Several servers look into one outbox, and each transaction there moves what is visible in it, oldest first, with all
others shut out: so each row is moved once, and those of one channel in their order. There is no cursor: transactions
commit in another order than they draw their numbers, and what is in the table is what is to be done
(docs/design/store.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from hubbub.clock import Clock
from hubbub.errors import BackendError, ReplyError
from hubbub.sparing import SparingLog
from hubbub.stores.base import Away, Draft, Unwritable

log = logging.getLogger(__name__)

#: Rows that are moved in one transaction, and their bytes.
BATCH, BATCH_BYTES = 500, 1 << 20

#: Seconds between two looks into an empty outbox, and after a failure.
IDLE, PAUSE = 0.25, 1.0

#: Seconds that a row waits for a server that knows its channel: while another version of the application is rolled
#: out, or beside a process that publishes only, not every one knows all channels.
PATIENCE = 300.0

#: Rows that are left to others at once; more are refused.
MAX_LEFT = 10_000


class Row(NamedTuple):
    """What somebody wants to be published: JSON texts as they came. `data` is None where it is out of all bounds."""

    id: int
    channel: str
    data: str | None
    key: str
    tags: str | None


class Strange(Exception):
    """This server knows no such durable channel; another one may."""


class Moved(NamedTuple):
    """What becomes of the rows that one transaction saw."""

    drafts: Sequence[Draft] = ()
    ids: Sequence[int] = ()  # the rows of the drafts
    refused: Sequence[tuple[int, str]] = ()  # rows, and why
    left: int = 0


#: A row as it goes into the log. Raises ReplyError for what never can, Strange for what is left to others.
Judge = Callable[[Row], Draft]


@runtime_checkable
class Outbox(Protocol):
    """A store that has one."""

    async def waits(self, besides: Collection[int]) -> bool:
        """Whether there are rows to be moved, `besides` these. Raises BackendError."""
        ...

    async def move(self, judge: Judge, limit: int, besides: Collection[int]) -> Moved:
        """Publish at most `limit` of the oldest rows, all in one transaction with their removal, or none.

        Rows `besides` are not looked at. Nothing happens while another server does the same. What `judge` refuses
        stays, with its reason. Raises Unwritable where one row is at fault, BackendErrors for everything else.
        """
        ...


def judged(rows: Sequence[Row], judge: Judge) -> Moved:
    """Ask about each."""
    drafts, ids, refused, left = [], [], [], 0
    for row in rows:
        try:
            drafts.append(judge(row))
        except ReplyError as error:
            refused.append((row.id, error.message))
        except Strange:
            left += 1
        except Exception as error:  # ours: it holds up nobody else's publications
            log.exception("row %d of hubbub_outbox cannot be looked at", row.id)
            refused.append((row.id, f"looking at it failed: {error!r}"))
        else:
            ids.append(row.id)
    return Moved(drafts, ids, refused, left)


class Mover:
    """Moves what is there while it runs. Everything on one event loop."""

    def __init__(
        self, outbox: Outbox, judge: Judge, *, clock: Clock, count: Callable[[str, int], object], idle: float = IDLE
    ) -> None:
        self._outbox = outbox
        self._judge = judge
        self._clock = clock
        self._count = count
        self._idle = idle
        self._limit = BATCH
        self._strangers = _Strangers(clock)
        self._sparing = SparingLog(log)
        self._is_over: asyncio.Event | None = None
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._is_over = asyncio.Event()
        self._work = asyncio.get_running_loop().create_task(self._run(self._is_over), name="move the outbox")

    async def stop(self) -> None:
        """Return once what is under way is done. Idempotent."""
        if self._is_over is not None and self._work is not None:
            self._is_over.set()
            await asyncio.wait([self._work])

    async def _run(self, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            try:
                pause = await self._look()
            except Away:  # who says so says it once for everybody
                pause = PAUSE
            except BackendError as error:
                self._sparing.warning("failed", self._clock.now(), "the outbox waits: %s", error)
                pause = PAUSE
            except Exception:  # ours: what is in the outbox must not wait for a restart because of it
                log.exception("moving the outbox failed")
                pause = PAUSE
            if pause:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await is_over.wait()

    async def _look(self) -> float:
        """One transaction, if there is something to do. Returns how long to wait before the next one."""
        left = self._strangers.current()
        if not await self._outbox.waits(left):
            return self._idle
        last = _Last(self._strangers.watch(self._judge))
        try:
            moved = await self._outbox.move(last, self._limit, left)
        except Unwritable as error:
            if self._limit > 1:
                self._limit //= 2  # until the culprit stands alone
                return 0.0
            moved = await self._outbox.move(last.refusing(f"it cannot be written: {error}"), 1, left)
        self._limit = min(self._limit * 2, BATCH)
        self._count("outbox_moved", len(moved.ids))
        self._count("outbox_refused", len(moved.refused))
        if moved.refused:
            id, reason = moved.refused[0]
            text = "%d rows of hubbub_outbox are refused, and stay there; row %d: %s"
            self._sparing.warning("refused", self._clock.now(), text, len(moved.refused), id, reason)
        return 0.0 if any(moved) else self._idle


class _Last:
    """A judge that remembers which row it admitted last: of one alone, the one that could not be written."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._id: int | None = None

    def __call__(self, row: Row) -> Draft:
        draft = self._judge(row)
        self._id = row.id
        return draft

    def refusing(self, reason: str) -> Judge:
        """Refuses that row, if it is still there: another server may have moved it meanwhile."""
        culprit = self._id

        def judge(row: Row) -> Draft:
            if row.id == culprit:
                raise ReplyError(reason)
            return self._judge(row)

        return judge


class _Strangers:
    """Rows that are left to a server that knows their channels, and until when."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[int, float] = {}

    def current(self) -> list[int]:
        """Those that are not to be looked at now. What others have moved is forgotten some time later."""
        now = self._clock.now()
        self._until = {row: until for row, until in self._until.items() if now < until + PATIENCE}
        return [row for row, until in self._until.items() if now < until]

    def watch(self, judge: Judge) -> Judge:
        """The same, but what nobody has moved in all that time is refused."""

        def patient(row: Row) -> Draft:
            try:
                return judge(row)
            except Strange as error:
                now = self._clock.now()
                if row.id not in self._until and len(self._until) < MAX_LEFT:
                    self._until[row.id] = now + PATIENCE
                if now < self._until.get(row.id, 0.0):  # also where a transaction is tried again
                    raise
                self._until.pop(row.id, None)
                raise ReplyError(f"no server knows it: {error}") from None

        return patient
