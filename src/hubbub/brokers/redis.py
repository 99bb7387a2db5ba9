"""The broker of many processes: streams and announcements in Redis or Valkey.

Answers for: B1 to B8 and S1 to S5 over a server that may be slow, gone, emptied or replaced at any time: each step is
one script, each call has a deadline, what may be repeated is, and an error says what became of the publish. Refuses to
know: sockets and reconnecting (`redis.pipeline`, `redis.subscription`), the words of a question and its keys (`calls`),
what a frame looks like (`envelope`), rules and clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, Final

from hubbub.brokers import calls, envelope
from hubbub.brokers.base import Announcement, BrokerEvents, Notice, StreamOptions, is_nodes_own
from hubbub.brokers.calls import ASKED_TTL, DEADLINE, LISTENED_TTL, PAUSE, Call, Calls
from hubbub.brokers.envelope import Unreadable
from hubbub.brokers.globs import Matcher, any_matcher
from hubbub.clock import Clock
from hubbub.errors import BackendError
from hubbub.model import Position, Publication, Published
from hubbub.redis.outages import Outages
from hubbub.redis.pipeline import Pipeline
from hubbub.redis.subscription import Ears
from hubbub.redis.topology import endpoint_of
from hubbub.redis.wire import ConnectionLost, RedisError
from hubbub.source import Known, Page
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)

#: Seconds between two reminders of those that are listened to. Three may fail.
REMIND_EVERY: Final = 45.0
#: Channels in one script: the server does nothing else meanwhile, for about half a millisecond.
BATCH: Final = 512


class RedisBroker:
    """Implements `Broker` on the Redis at `url`. All whose `name` and `prefix` are the same are one system.

    `name` begins every key, `prefix` every channel of PUBLISH and SUBSCRIBE: pub/sub knows no databases.
    """

    def __init__(self, url: str, *, name: str, prefix: str = "", clock: Clock) -> None:
        self._calls = Calls(name, prefix)
        self._prefix = prefix
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._outages = Outages(clock=clock, count=self._count)
        self._commands = Pipeline(
            endpoint_of(url, client_name=f"{name}-commands"),
            clock=clock,
            deadline=DEADLINE,
            observer=self._count,
            outages=self._outages,
        )
        self._ears = Ears(
            endpoint_of(url, client_name=f"{name}-ears"),
            clock=clock,
            on_message=self._hear,
            on_cut=self._cut,
            on_renewed=self._renewed,
            count=self._count,
            publish=self._probe,
            outages=self._outages,
        )
        self._events: BrokerEvents | None = None
        self._reminding: asyncio.Task[None] | None = None
        self._channels: set[str] = set()  # subscribed, or being so
        self._asked: set[str] = set()  # of these, streams that nothing was published into when last seen
        self._patterns: frozenset[str] = frozenset()  # of the last watch that succeeded
        self._watching: list[frozenset[str]] = []  # of those under way
        self._matches: Matcher | None = None
        self._sparing = SparingLog(log)

    # --- life

    async def start(self, events: BrokerEvents) -> None:
        """Connect. Raises BackendError when the server cannot be reached."""
        assert self._events is None, "a broker is started once"
        await self._commands.start()
        try:
            self._events = events
            await self._ears.start()
        except BaseException:
            self._events = None
            await self._commands.stop()
            raise
        self._reminding = asyncio.create_task(self._remind_for_ever(), name="remind the broker of streams")

    async def stop(self) -> None:
        """Disconnect. The streams stay."""
        self._events = None
        if self._reminding is not None:
            self._reminding.cancel()
            await asyncio.gather(self._reminding, return_exceptions=True)
            self._reminding = None
        await self._ears.stop()
        await self._commands.stop()
        self._channels.clear()
        self._asked.clear()

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._events is not None

    def counts(self) -> dict[str, int]:
        """What happened to the connections, and what arrived and was refused.

        `redis_down_seconds` is no count: for how long the server has been out of reach, 0 if it is not.
        """
        return {**self._counts, "redis_down_seconds": self._outages.seconds}

    # --- publishing

    async def publish(self, channel: str, publication: Publication, options: StreamOptions) -> Published:
        """Keep (if so asked) and announce; tried again until DEADLINE where that cannot publish it twice.

        With `size` above 0 or a key it cannot. Without both, it is tried again only if it was certainly not sent.
        Raises PublishFailed.
        """
        call = self._calls.publish(channel, publication, options)
        began, is_first = self._clock.now(), True
        try:
            try:  # as `_ask` does; see `_attempt` for why it is not called
                reply = await self._attempt(call, DEADLINE)
            except (ConnectionLost, RedisError) as error:
                is_first = False
                reply = await self._persist(call, began, error)
        except BackendError as error:
            raise calls.publish_failed(error, call.once) from error
        return calls.published(call, reply, is_first=is_first)

    async def notify(self, channel: str, said: Notice | Announcement) -> None:
        """Announce a notice, or what has its offset from elsewhere."""
        await self._ask(self._calls.notify(channel, said))

    @property
    def is_connected(self) -> bool:
        """Whether announcements arrive."""
        return self._ears.is_connected

    # --- the source

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Where each of these streams stands."""
        asked = list(dict.fromkeys(channels))
        batches = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]
        pieces = await asyncio.gather(*map(self._heads, batches))
        return {channel: head for piece in pieces for channel, head in piece}

    async def _heads(self, channels: Sequence[str]) -> list[tuple[str, Position]]:
        heads = calls.heads(await self._ask(self._calls.heads(channels, map(self._asked_ttl, channels))))
        for channel, head in zip(channels, heads, strict=True):
            self._seen(channel, head)
        return list(zip(channels, heads, strict=True))

    async def read(
        self, channel: str, after: int, limit: int, max_bytes: int = 1 << 20, *, reverse: bool = False
    ) -> Page:
        """A page and the head, of the same instant."""
        ttl = self._asked_ttl(channel)
        reply = await self._ask(self._calls.read(channel, after, limit, max_bytes, reverse=reverse, ttl=ttl))
        page = calls.page(channel, reply, reverse=reverse, refuse=self._refuse)
        self._seen(channel, page.head)
        return page

    async def remove_history(self, channel: str) -> None:
        """Let go of what is kept in `channel`."""
        await self._ask(self._calls.remove_history(channel))

    async def altered(self, known: Mapping[str, Known]) -> set[str]:
        """Which of these are not what is held here."""
        channels = list(known)
        found: set[str] = set()
        for start in range(0, len(channels), BATCH):
            some = {channel: known[channel] for channel in channels[start : start + BATCH]}
            flags = await self._ask(self._calls.altered(some))
            found.update(channel for channel, flag in zip(some, flags, strict=True) if flag)
        return found

    async def replace_epoch(self, channel: str, epoch: str) -> Position:
        """Give the stream another epoch if it still has this one."""
        found, top = await self._ask(self._calls.replace_epoch(channel, epoch, self._asked_ttl(channel)))
        return Position(found.decode(), top)

    # --- listening

    async def subscribe(self, channel: str) -> None:
        """Hear what is announced in `channel`."""
        # Not taken back when it fails: another call may have succeeded, and what is not wanted is not sent.
        self._channels.add(channel)
        await self._ears.subscribe(self._calls.target(channel))

    async def unsubscribe(self, channel: str) -> None:
        """Hear it no more."""
        self._channels.discard(channel)
        self._asked.discard(channel)
        await self._ears.unsubscribe(self._calls.target(channel))

    async def watch(self, patterns: Collection[str]) -> None:
        """Hear what is published wherever one of these globs matches."""
        wanted = frozenset(patterns)
        self._watching.append(wanted)
        self._match()
        try:
            await self._ears.watch({_literally(self._prefix) + _coarse(pattern) for pattern in wanted})
            self._patterns = wanted
        finally:
            self._watching.remove(wanted)
            self._match()

    def _match(self) -> None:
        """The server's globs are others than ours: it matches coarsely, we match finely."""
        patterns = self._patterns.union(*self._watching)
        self._matches = any_matcher(sorted(patterns)) if patterns else None

    def _hear(self, channel: str, message: bytes) -> None:
        events = self._events
        if events is None:
            return
        channel = self._calls.channel(channel)
        is_subscribed = channel in self._channels
        if not is_subscribed and (self._matches is None or is_nodes_own(channel) or not self._matches(channel)):
            return
        try:
            what = envelope.read(message)
        except Unreadable as error:
            self._refuse(channel, error)
            return
        if type(what) is Announcement:
            events.on_publication(channel, what.publication, what.epoch)
        elif is_subscribed and type(what) is Notice:
            events.on_notice(channel, what)

    def _cut(self) -> None:
        if self._events is not None:
            self._events.on_cut()

    def _renewed(self, channels: list[str]) -> None:
        if self._events is not None:
            self._events.on_renewed([*map(self._calls.channel, channels)])

    def _refuse(self, channel: str, error: Unreadable) -> None:
        self._count(f"message_{error.reason}")
        self._sparing.warning(
            error.reason, self._clock.now(), "a message in channel %r is dropped: %s", channel, calls.WHY[error.reason]
        )

    # --- streams that only wait

    async def remind(self) -> None:
        """Keep the streams that are listened to though nothing was ever published there (S2). Raises BackendError."""
        await self.heads(list(self._asked))

    async def _remind_for_ever(self) -> None:
        while True:
            await asyncio.sleep(REMIND_EVERY)
            with contextlib.suppress(BackendError):  # the pipeline has said what is wrong
                await self.remind()

    def _asked_ttl(self, channel: str) -> int:
        return LISTENED_TTL if channel in self._channels else ASKED_TTL

    def _seen(self, channel: str, head: Position) -> None:
        if head.offset == 0 and channel in self._channels:
            self._asked.add(channel)
        else:
            self._asked.discard(channel)

    # --- asking

    async def _ask(self, call: Call) -> Any:
        """The reply. Raises BackendError."""
        began = self._clock.now()
        try:
            return await self._attempt(call, DEADLINE)
        except (ConnectionLost, RedisError) as error:
            return await self._persist(call, began, error)

    def _attempt(self, call: Call, left: float) -> Awaitable[Any]:
        """Ask once, for at most `left` seconds. No coroutine: each on the way is paid for by every publish."""
        if self._events is None:
            raise BackendError("the Redis broker is not running")
        if call.script is None:
            return self._commands.call(*call.words, deadline=left)
        return self._commands.run(call.script, call.keys, call.words, deadline=left)

    async def _persist(self, call: Call, began: float, error: ConnectionLost | RedisError) -> Any:
        """The first attempt ended with `error`: ask until there is an answer, or DEADLINE has passed since `began`, or
        asking again could do it twice. Raises BackendError; a ConnectionLost whose `was_sent` speaks for all attempts.
        """
        now, end = self._clock.now, began + DEADLINE
        was_sent = False
        while True:
            was_sent = calls.go_on(
                error, was_sent=was_sent, is_repeatable=call.is_repeatable, is_late=now() + PAUSE >= end
            )
            await asyncio.sleep(PAUSE)
            try:
                return await self._attempt(call, max(end - now(), PAUSE))
            except (ConnectionLost, RedisError) as again:
                error = again

    async def _probe(self, channel: bytes, data: bytes) -> None:
        await self._commands.call("PUBLISH", channel, data)

    def _count(self, event: str) -> None:
        self._counts[event] += 1


def _literally(text: str) -> str:
    """As a pattern of Redis that matches nothing else."""
    return re.sub(r"([\\*?\[\]^])", r"\\\1", text)


def _coarse(pattern: str) -> str:
    """A pattern of Redis that matches whatever this glob does, and some more.

    There `?` and a set are one byte and not one character, `[^a]` is what is `[!a]` here, and `\\` quotes.
    """
    pieces = re.findall(r"\*|\?|\[!?\]?[^\]]*\]|[^*?\[]+|\[", pattern)
    text = "".join(
        piece if piece == "*" else "?*" if piece == "?" or (len(piece) > 2 and piece[0] == "[") else _literally(piece)
        for piece in pieces
    )
    return re.sub(r"[*?]{2,}", lambda run: "?" * run[0].count("?") + "*", text)
