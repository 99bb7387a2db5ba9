"""All feeds of a node: the sleeve of I/O around the pure ones.

Answers for: the broker's subscription of every channel with listeners, its feed's questions to the source (bounded,
many heads in one round trip), checks after silence and after renewed connections, polling the store while the broker is
away, and what is read back for those who return. Refuses to know: clients, whose turn it is to read back, and what
becomes of a break: it is told upward.

The source of a durable channel is the store, that of every other one the broker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from hubbub.brokers.base import Broker, HoldsStreams, Notice, Remote
from hubbub.clock import Timer, TimerWheel
from hubbub.core import eager
from hubbub.core.backlog import Backlog, within
from hubbub.core.feed import Broken, Feed, Question, Step
from hubbub.core.hub import Channel, Hub
from hubbub.core.ring import Ring, RingPool
from hubbub.core.tasks import Tasks
from hubbub.errors import BackendError, InternalError
from hubbub.model import Position, Publication
from hubbub.source import Known, Page, Source, Stored
from hubbub.sparing import SparingLog
from hubbub.stores.base import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Publications and bytes of one read.
READ_LIMIT, READ_BYTES = 1000, 1 << 20
#: Reads under way at once, and channels in one question for heads.
READS_AT_ONCE, HEADS_AT_ONCE = 64, 512
#: Seconds that a subscribe waits for the source; the SDKs give up after 5.
OPEN_TIMEOUT = 2.0
#: Seconds until a failed question is asked again.
RETRY = 1.0
#: Seconds between two looks at the store: at channels that heard nothing, and at all while the broker is away.
STORE_CHECK, POLL = 5.0, 1.0
#: Seconds that an announcement of another process may be late: two that commit at once announce in any order.
STORE_PATIENCE = 0.04
#: Times that a read back may find the ring moved on before the client is told to come again.
READ_BACK_TRIES = 4


class Tie:
    """What binds one channel to the broker: the subscription, and the questions under way."""

    __slots__ = (
        "backlog",
        "channel",
        "heard",
        "hearing",
        "is_deaf",
        "linger",
        "opening",
        "patience",
        "retry",
        "source",
        "trims",
    )

    def __init__(self, channel: Channel, source: Source) -> None:
        self.channel = channel
        self.source = source
        self.is_deaf = False  # the broker could not be asked to tell of it
        self.hearing: asyncio.Task[None] | None = None  # it is being asked again
        self.trims = 0  # times that the source has let go of what it kept: what was read before is out of date
        self.opening: asyncio.Future[None] | None = None
        self.linger: Timer | None = None
        self.patience: Timer | None = None
        self.retry: Timer | None = None
        self.backlog: Backlog | None = None  # made when somebody returns for whom the ring is too short
        self.heard = False


class Inquiry:
    """What one source is to be asked for many channels at once. Each has its own: one that stalls holds up no other."""

    __slots__ = ("doubted", "heads", "is_under_way")

    def __init__(self) -> None:
        self.heads: dict[str, None] = {}
        self.doubted: dict[str, None] = {}  # channels of which it is to be asked whether their source is the same
        self.is_under_way = False


class Feeds:
    """The feeds of one node. Implements BrokerEvents.

    `patience` is 0 where the source announces in its own order; `grace` is how long a channel without listeners is
    kept, so that a page reload costs nothing; `check` is the silence after which the head is compared. All in
    seconds.
    """

    def __init__(
        self,
        hub: Hub,
        broker: Broker,
        *,
        timers: TimerWheel,
        tasks: Tasks,
        on_broken: Callable[[Channel, Broken], None],
        store: Store | None = None,
        patience: float = 0.0,
        grace: float = 5.0,
        check: float = 40.0,
    ) -> None:
        self.hub = hub
        self.broker = broker
        self.counts: dict[str, int] = {}
        #: Told of every publication that is heard, whether anybody subscribed to its channel or not; never raises.
        self.overhear: Callable[[str, Publication, str], object] | None = None
        self._timers = timers
        self._tasks = tasks
        self._warnings = SparingLog(log)  # there may be ten thousand channels, and their source is away
        self._on_broken = on_broken
        self._patience = patience
        self._grace = grace
        self._check = check
        self._ties: dict[str, Tie] = {}
        self.rings = RingPool()
        self._reads = asyncio.Semaphore(READS_AT_ONCE)
        self._inquiries: dict[Source, Inquiry] = {broker: Inquiry()}
        if store is not None:
            self._inquiries[store] = Inquiry()
        self._silence: Timer | None = None
        self._local = broker if isinstance(broker, HoldsStreams) else None
        self._remote = broker if isinstance(broker, Remote) else None
        self._store = store
        self._polling: Timer | None = None
        self._polls = 0

    def start(self) -> None:
        """Begin to watch for silence. A broker in this process loses nothing, and is not asked."""
        if self._local is None:
            self._silence = self._timers.after(self._check, self._check_silent)
        if self._store is not None and (self._remote is not None or self._store.is_shared):
            self._polling = self._timers.after(POLL, self._poll)

    def stop(self) -> None:
        """Forget all channels: the broker does too, and who starts again begins anew."""
        for tie in self._ties.values():
            for timer in (tie.linger, tie.patience, tie.retry):
                if timer is not None:
                    timer.cancel()
            self._forget_ring(tie.channel)
        self._ties.clear()
        for inquiry in self._inquiries.values():
            inquiry.heads.clear()
            inquiry.doubted.clear()
            inquiry.is_under_way = False  # who asked is cancelled
        self.hub.channels.clear()
        for timer in (self._silence, self._polling):
            if timer is not None:
                timer.cancel()
        self._silence = self._polling = None

    # opening and closing --------------------------------------------------------------------------------------------

    async def open(self, channel: Channel) -> None:
        """Return once everything published in `channel` is heard here. Raises InternalError (100), which SDKs retry."""
        tie = self._ties.get(channel.name)
        if tie is None:
            tie = self._ties[channel.name] = Tie(channel, self._source_of(channel))
            try:
                _, rest = eager.begin(self._open(tie))
            except BackendError as error:
                raise self._unavailable("open_failed") from error
            if rest is not None:
                tie.opening = self._tasks.spawn(rest, f"open {channel.name}", quiet=True)
        assert tie.channel is channel, "a channel has one object while anybody has a place in it"
        if tie.linger is not None:
            tie.linger.cancel()
            tie.linger = None
        if tie.opening is not None:
            try:
                await within(tie.opening, OPEN_TIMEOUT)
            except (TimeoutError, BackendError) as error:
                raise self._unavailable("open_failed") from error

    def _source_of(self, channel: Channel) -> Source:
        return self._store if self._store is not None and channel.rules.is_durable else self.broker

    async def _open(self, tie: Tie) -> None:
        channel = tie.channel
        try:
            if channel.rules.has_memory:
                skips = channel.rules.delivery == "latest"
                channel.feed = Feed(self._local_of(tie) or Ring(self.rings), skips=skips, counts=self.counts)
            await self._listen(tie)
            if channel.feed is not None:
                heads = await tie.source.heads([channel.name])
                self._apply(tie, channel.feed.start(heads[channel.name]))
        except BaseException:  # whatever it is: nobody may listen to a channel of which nothing is heard
            if self._ties.get(channel.name) is tie:
                del self._ties[channel.name]
                if not channel.subscriptions:  # else some have a place in it, and the last one to leave ends it
                    self.hub.channels.pop(channel.name, None)
            self._unsubscribe(channel.name)
            raise
        finally:
            tie.opening = None

    def _local_of(self, tie: Tie) -> Stored | None:
        """Its stream, where that is in this process."""
        is_local = self._local is not None and tie.source is self.broker
        return self._local.stored(tie.channel.name) if self._local is not None and is_local else None

    async def _listen(self, tie: Tie) -> None:
        """Have the broker tell of it. A durable channel can do without: it is polled meanwhile. Raises BackendError."""
        if tie.source is not self.broker and self._remote is not None and not self._remote.is_connected:
            tie.is_deaf = True
            return
        try:
            await self.broker.subscribe(tie.channel.name)
            tie.is_deaf = False
        except BackendError:
            if tie.source is self.broker:
                raise
            tie.is_deaf = True

    def close(self, channel: Channel) -> None:
        """Nobody listens any more; end it after the grace, unless somebody comes back."""
        tie = self._ties.get(channel.name)
        if tie is None:  # a place was reserved in it, and refused before it was opened
            self.hub.channels.pop(channel.name, None)
        elif tie.linger is None:
            # Where nothing was ever published a page reload finds nothing either, and names are cheap to invent.
            grace = self._grace if channel.offset else 0.0
            tie.linger = self._timers.after(grace, lambda: self._end(tie))

    def _end(self, tie: Tie) -> None:
        channel = tie.channel
        tie.linger = None
        if channel.subscriptions or self._ties.get(channel.name) is not tie:
            return
        if tie.opening is not None:  # nobody waited for it to the end
            self.close(channel)
            return
        del self._ties[channel.name]
        self.hub.channels.pop(channel.name, None)
        self._forget_ring(channel)
        self._unsubscribe(channel.name)

    def _forget_ring(self, channel: Channel) -> None:
        """Give back what it takes of the node's budget."""
        if channel.feed is not None and isinstance(channel.feed.stored, Ring):
            channel.feed.stored.clear()

    def trim(self, channel: str) -> None:
        """The source has let go of what it kept: so do we, or some could recover what others cannot."""
        tie = self._ties.get(channel)
        if tie is not None:
            tie.trims += 1
            self._forget_ring(tie.channel)

    def _unsubscribe(self, channel: str) -> None:
        self._tasks.begin(self.broker.unsubscribe(channel), f"unsubscribe {channel}")

    # what the broker says -------------------------------------------------------------------------------------------

    def on_publication(self, channel: str, publication: Publication, epoch: str) -> None:
        """Announced: through the feed if it has an offset, else straight to the hub."""
        if self.overhear is not None:
            self.overhear(channel, publication, epoch)
        tie = self._ties.get(channel)
        if tie is None:
            return
        feed = tie.channel.feed
        if feed is None or not publication.offset:
            self.hub.broadcast(tie.channel, publication)
        elif feed.follows(publication, epoch):
            tie.heard = True
            self.hub.broadcast(tie.channel, publication, epoch if publication.offset == 1 else "")
        else:
            self._apply(tie, feed.announced(publication, epoch))

    def offer(self, channel: str, publication: Publication, epoch: str) -> None:
        """Committed here: to the feed at once. That others hear of it, `overhear` included, is the broker's affair."""
        tie = self._ties.get(channel)
        if tie is not None and tie.channel.feed is not None:
            self._apply(tie, tie.channel.feed.announced(publication, epoch))

    def on_notice(self, channel: str, notice: Notice) -> None:
        """Somebody came or left."""
        tie = self._ties.get(channel)
        if tie is not None:
            self.hub.notify(tie.channel, notice)

    def on_cut(self) -> None:
        """Whoever answers next may have lost what we have heard: nothing is believed until that is known."""
        for tie in self._ties.values():
            if tie.source is self.broker and tie.channel.feed is not None:
                tie.channel.feed.doubt()

    def on_renewed(self, channels: Iterable[str]) -> None:
        """Announcements may be missing, and the source may be another one: ask."""
        for name in channels:
            tie = self._ties.get(name)
            if tie is not None and tie.channel.feed is not None:
                self._ask(tie, "verify" if tie.channel.feed.in_doubt else "head")

    # what feeds want ------------------------------------------------------------------------------------------------

    def _apply(self, tie: Tie, step: Step) -> None:
        feed = tie.channel.feed
        assert feed is not None, "only feeds make steps"
        if step.broken is not None:
            self._count("broken")
            log.warning("channel %s is broken (%s): %s, now %s", tie.channel.name, *step.broken)
            if (stored := self._local_of(tie)) is not None:
                feed.stored = stored
            self._on_broken(tie.channel, step.broken)
        for publication in step.broadcast:
            tie.heard = True  # of a feed: what is repeated, or has no offset, says nothing about holes
            # The first of a stream carries the epoch: its subscribers may have come when there was none.
            epoch = feed.position.epoch if publication.offset == 1 and feed.position else ""
            self.hub.broadcast(tie.channel, publication, epoch)
        if step.ask is not None:
            self._plan(tie, step.ask, soon=step.soon)

    def _plan(self, tie: Tie, question: Question, *, soon: bool) -> None:
        patience = self._patience if tie.source is self.broker else STORE_PATIENCE
        if soon or not patience:
            self._ask(tie, question)
        elif tie.patience is None:
            tie.patience = self._timers.after(patience, lambda: self._patience_over(tie))

    def _patience_over(self, tie: Tie) -> None:
        tie.patience = None
        self._ask(tie, "read")

    def _ask(self, tie: Tie, question: Question) -> None:
        if question in ("head", "verify"):
            inquiry = self._inquiries[tie.source]
            wanted = inquiry.heads if question == "head" else inquiry.doubted
            wanted[tie.channel.name] = None
            if not inquiry.is_under_way:
                inquiry.is_under_way = True
                self._tasks.spawn(self._ask_heads(tie.source, inquiry), "heads")
            return
        feed = tie.channel.feed
        if tie.retry is None and feed is not None and (position := feed.ask(question)) is not None:
            work = self._read if question == "read" else self._replace
            self._tasks.spawn(work(tie, feed, position), f"{question} {tie.channel.name}")

    def _is_current(self, tie: Tie, feed: Feed) -> bool:
        """Whether what was asked of it still matters: it may have ended since, or begun anew."""
        return tie.channel.feed is feed and self._ties.get(tie.channel.name) is tie

    async def _read(self, tie: Tie, feed: Feed, position: Position) -> None:
        trims = tie.trims
        try:
            async with self._reads:
                page = await _answer(tie.source.read(tie.channel.name, position.offset, READ_LIMIT, READ_BYTES))
        except BackendError as error:
            feed.failed("read")
            self._failed(tie, "read", error)
            return
        if self._is_current(tie, feed):
            self._apply(tie, feed.read_done(page))
            if tie.trims != trims:
                self._forget_ring(tie.channel)

    async def _replace(self, tie: Tie, feed: Feed, position: Position) -> None:
        try:
            head = await _answer(tie.source.replace_epoch(tie.channel.name, position.epoch))
        except BackendError as error:
            feed.failed("replace")
            self._failed(tie, "replace", error)
            return
        if self._is_current(tie, feed):
            self._apply(tie, feed.replaced(head))

    async def _ask_heads(self, source: Source, inquiry: Inquiry) -> None:
        """Heads of all channels that want one, many a round trip, until none does; before them, whom to believe."""
        try:
            while inquiry.doubted or inquiry.heads:
                if inquiry.doubted:
                    await self._verify(source, _some(inquiry.doubted))
                else:
                    await self._ask_some_heads(source, _some(inquiry.heads))
        finally:
            inquiry.is_under_way = False

    def _those_of(self, source: Source, names: Sequence[str]) -> Iterable[tuple[str, Tie, Feed]]:
        """Channels that this source can be asked about now."""
        for name in names:
            tie = self._ties.get(name)
            feed = tie.channel.feed if tie is not None else None
            if tie is not None and feed is not None and tie.source is source and tie.retry is None:
                yield name, tie, feed

    async def _verify(self, source: Source, names: Sequence[str]) -> None:
        """Whether the source still holds what we have heard of these."""
        asked: dict[str, tuple[Tie, Feed]] = {}
        known: dict[str, Known] = {}
        for name, tie, feed in self._those_of(source, names):
            if (doubt := feed.in_doubt) is not None and feed.ask("verify") is not None:
                asked[name], known[name] = (tie, feed), doubt
        if not asked:
            return
        try:
            altered = await _answer(source.altered(known))
        except BackendError as error:
            for tie, feed in asked.values():
                feed.failed("verify")
                self._failed(tie, "verify", error)
            return
        for name, (tie, feed) in asked.items():
            if self._is_current(tie, feed):
                self._apply(tie, feed.verified(is_altered=name in altered))

    async def _ask_some_heads(self, source: Source, names: Sequence[str]) -> None:
        those = self._those_of(source, names)
        asked = {name: (tie, feed) for name, tie, feed in those if feed.ask("head") is not None}
        if not asked:
            return
        try:
            heads = await _answer(source.heads(list(asked)))
        except BackendError as error:
            for tie, feed in asked.values():
                feed.failed("head")
                self._failed(tie, "head", error)
            return
        for name, (tie, feed) in asked.items():
            if self._is_current(tie, feed):
                self._apply(tie, feed.head_seen(heads[name]))

    def _failed(self, tie: Tie, question: Question, error: BackendError) -> None:
        self._count(f"{question}_failed")
        said = "channel %s: the source cannot be asked (%s), again in %s s"
        kind = "the store" if tie.source is self._store else "the broker"
        self._warnings.warning(kind, self._timers.clock.now(), said, tie.channel.name, error, RETRY)
        if tie.retry is None:
            tie.retry = self._timers.after(RETRY, lambda: self._ask_again(tie))

    def _ask_again(self, tie: Tie) -> None:
        tie.retry = None
        if self._ties.get(tie.channel.name) is tie:
            self._ask(tie, "verify")
            self._ask(tie, "head")  # what failed, a read too, follows from it
            if tie.channel.feed is not None and tie.channel.feed.has_hole:
                self._ask(tie, "read")

    def _check_silent(self) -> None:
        """Compare the heads of channels that heard nothing since the last time: silence may be deafness."""
        for tie in self._ties.values():
            if not tie.heard and tie.channel.feed is not None:
                self._ask(tie, "verify")  # if it is in doubt, still
                self._ask(tie, "head")
            if tie.source is self.broker:
                tie.heard = False
        self._silence = self._timers.after(self._check, self._check_silent)

    def _poll(self) -> None:
        """Look at the store: at everything while the broker is away, else now and then at what is silent."""
        self._polling = self._timers.after(POLL, self._poll)
        self._polls += 1
        # A broker in this process does not hear what others write into the same database.
        is_away = self._remote is None or not self._remote.is_connected
        is_check = self._polls * POLL % STORE_CHECK == 0
        for tie in self._ties.values():
            if tie.source is self.broker:
                continue
            if tie.is_deaf and not is_away and tie.hearing is None:
                tie.hearing = self._tasks.spawn(self._hear_again(tie), f"hear {tie.channel.name}")
            if is_away or tie.is_deaf or (is_check and not tie.heard):
                self._ask(tie, "head")
            if is_check:
                tie.heard = False

    async def _hear_again(self, tie: Tie) -> None:
        try:
            if self._ties.get(tie.channel.name) is tie:
                await self._listen(tie)
        finally:
            tie.hearing = None
        now = self._ties.get(tie.channel.name)
        if now is tie and not tie.is_deaf:
            self._ask(tie, "head")
        elif now is None:  # it ended meanwhile
            self._unsubscribe(tie.channel.name)

    # for those who return -------------------------------------------------------------------------------------------

    async def since(self, channel: Channel, position: Position) -> Sequence[Publication] | None:
        """What a subscriber at `position` misses: contiguous, at least the next one, or none if it misses nothing.

        None if that cannot be known any more. When this returns, the caller acts on it without waiting in between.
        Raises InternalError (100) when the source cannot be asked.
        """
        feed = channel.feed
        page = None
        for _ in range(READ_BACK_TRIES):
            if feed is None or feed.position is None:
                return None
            if not feed.can_know(position):
                if page is not None and page.head.epoch == feed.position.epoch:
                    return None
                page = await self._read_back(channel, feed.position.offset)  # we may be the one that is late
                continue
            found = feed.since(position, page)
            if found is not None:
                return found
            page = await self._read_back(channel, position.offset)
            if page.head.epoch == feed.position.epoch and _is_trimmed(page, position, skips=feed.skips):
                return None
        raise InternalError("the channel moves faster than it can be read")

    async def _read_back(self, channel: Channel, offset: int) -> Page:
        """Read from `offset` on, together with everybody whom the same page serves."""
        tie = self._ties.get(channel.name)
        if tie is None or tie.channel is not channel:
            raise self._unavailable("read_back_failed")  # it ended while somebody still asked
        if tie.backlog is None:
            read = partial(self._read_for_many, tie)
            tie.backlog = Backlog(read, tasks=self._tasks, name=channel.name, nearby=READ_LIMIT // 2)
        try:
            return await tie.backlog.page(offset, OPEN_TIMEOUT)
        except (TimeoutError, BackendError) as error:
            raise self._unavailable("read_back_failed") from error

    async def _read_for_many(self, tie: Tie, offset: int) -> Page:
        """One page from `offset` on. Raises BackendError."""
        while True:
            feed, trims = tie.channel.feed, tie.trims
            noted = feed.position if feed is not None else None
            async with self._reads:
                page = await _answer(tie.source.read(tie.channel.name, offset, READ_LIMIT, READ_BYTES))
            self._count("read_back")
            if tie.trims == trims:  # else it was let go of meanwhile, and is neither remembered nor given to anybody
                break
        if feed is not None and noted is not None and self._is_current(tie, feed):
            self._apply(tie, feed.read_back(page, noted))
        return page

    def _unavailable(self, what: str) -> InternalError:
        self._count(what)
        return InternalError("the channel's source cannot be asked now")

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _some(names: dict[str, None]) -> list[str]:
    """Takes out as many as go into one question."""
    some = list(islice(names, HEADS_AT_ONCE))
    for name in some:
        del names[name]
    return some


async def _answer(question: Awaitable[T]) -> T:
    """What the source says. One that fails as it should not cannot be asked, either: BackendError, so that it is asked
    again. A question without an end would leave its channel deaf for good.
    """
    try:
        return await question
    except BackendError:
        raise
    except Exception as error:
        log.exception("a source failed as it should not")
        raise BackendError(f"the source failed: {error!r}") from error


def _is_trimmed(page: Page, position: Position, *, skips: bool) -> bool:
    """Whether the page shows that what follows `position` is gone."""
    if not page.publications:
        return page.head.offset > position.offset
    return not skips and page.publications[0].offset > position.offset + 1
