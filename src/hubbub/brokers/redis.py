"""The broker of many processes: streams and announcements in Redis or Valkey.

Answers for: B1 to B8 and S1 to S5 over a server that may be slow, gone, emptied or replaced at any time: each step is
one script, each call has a deadline, what may be repeated is, and an error says what became of the publish. Refuses to
know: sockets and reconnecting (`redis.pipeline`, `redis.subscription`), what a frame looks like (`envelope`), rules
and clients.

Keys, all under the application's name, all with a TTL, the channel in a hash tag for the day of Cluster:

    NAME:m:{CHANNEL}             meta of a stream: 30 days; unless published into, one minute, three while listened to
    NAME:l:{CHANNEL}             what is kept: the channel's TTL
    NAME:k:LENGTH:{CHANNEL}:KEY  what became of a publish with an idempotency key: 5 minutes (LENGTH is CHANNEL's)
    NAME:n:{CHANNEL}:NONCE       the same for one without: as long as it may be tried again
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import string
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, Final

from hubbub.brokers import envelope, scripts
from hubbub.brokers.base import BrokerEvents, Notice, Page, PublishFailed, StreamOptions, is_nodes_own
from hubbub.brokers.envelope import Announcement, Unreadable
from hubbub.brokers.globs import Matcher, any_matcher
from hubbub.clock import Clock
from hubbub.errors import BackendError
from hubbub.model import Position, Publication, Published
from hubbub.redis.pipeline import Pipeline, Script
from hubbub.redis.subscription import Ears
from hubbub.redis.topology import endpoint_of
from hubbub.redis.wire import RENEWING, ConnectionLost, RedisError, Word
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)

#: Seconds that every call has, its repetitions included.
DEADLINE: Final = 5.0
#: Seconds that an idempotency key is remembered (B3), and what we use in its place: longer than a call and a failover.
KEY_TTL, NONCE_TTL = 300, 15
#: Seconds that a head outlives the last use of it, at least, if something was published; see `exchange.META_TTL`.
META_TTL: Final = 30 * 86400
#: The same for a stream into which nothing was ever published: while nobody here listens, and while somebody does.
ASKED_TTL, LISTENED_TTL = 60, 180
#: Seconds between two reminders of those that are listened to. Three may fail.
REMIND_EVERY: Final = 45.0
#: Channels in one script: the server does nothing else meanwhile, for about half a millisecond.
BATCH: Final = 512

#: Seconds between two attempts. The pipeline itself waits for the connection: this is for a server that refuses.
_PAUSE: Final = 0.1
_LETTERS: Final = (string.ascii_letters.encode() * 5)[:256]


class RedisBroker:
    """Implements `Broker` on the Redis at `url`. All whose `name` and `prefix` are the same are one system.

    `name` begins every key, `prefix` every channel of PUBLISH and SUBSCRIBE: pub/sub knows no databases.
    """

    def __init__(self, url: str, *, name: str, prefix: str = "", clock: Clock) -> None:
        self._name = name
        self._prefix = prefix
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._commands = Pipeline(
            endpoint_of(url, client_name=f"{name}-commands"), clock=clock, deadline=DEADLINE, observer=self._count
        )
        self._ears = Ears(
            endpoint_of(url, client_name=f"{name}-ears"),
            clock=clock,
            on_message=self._hear,
            on_renewed=self._renewed,
            count=self._count,
            publish=self._probe,
        )
        self._events: BrokerEvents | None = None
        self._reminding: asyncio.Task[None] | None = None
        self._channels: set[str] = set()  # subscribed, or being so
        self._asked: set[str] = set()  # of these, streams that nothing was published into when last seen
        self._patterns: frozenset[str] = frozenset()  # of the last watch that succeeded
        self._watching: list[frozenset[str]] = []  # of those under way
        self._matches: Matcher | None = None
        # Names publishes and epochs. A number after random letters: randomness for each costs as much as all the rest.
        self._token = os.urandom(8).translate(_LETTERS).decode()
        self._nonces = 0
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
        """What happened to the connections, and what arrived and was refused."""
        return dict(self._counts)

    # --- publishing

    async def publish(self, channel: str, publication: Publication, options: StreamOptions) -> Published:
        """Keep (if so asked) and announce; tried again until DEADLINE where that cannot publish it twice.

        With `size` above 0 or a key it cannot. Without both, it is tried again only if it was certainly not sent.
        Raises PublishFailed.
        """
        if options.size > 0:
            return await self._publish_kept(channel, publication, options)
        message = envelope.live(publication)
        target = self._prefix + channel
        if not options.idempotency_key:
            await self._try_publish(lambda left: self._commands.call("PUBLISH", target, message, deadline=left))
            return Published()
        keys = [self._result_key(channel, options.idempotency_key)]
        arguments = (target, message, KEY_TTL * 1000)
        before = await self._try_publish(
            lambda left: self._commands.run(scripts.PUBLISH_LIVE, keys, arguments, deadline=left),
            once="key",
        )
        return Published() if before is None else _published(before, is_duplicate=True)

    async def _publish_kept(self, channel: str, publication: Publication, options: StreamOptions) -> Published:
        nonce = self._nonce()
        key = options.idempotency_key
        result = self._result_key(channel, key) if key else f"{self._name}:n:{{{channel}}}:{nonce}"
        arguments = (
            envelope.body(publication),
            options.size,
            int(options.ttl * 1000),
            self._prefix + channel,
            nonce,
            max(META_TTL, int(options.ttl) + ASKED_TTL),
            (KEY_TTL if key else NONCE_TTL) * 1000,
            f"{options.version:020}" if options.version else "",
            options.version_epoch,
        )
        keys = [self._meta(channel), self._list(channel), result]
        tries = 0

        def run(left: float) -> Awaitable[Any]:
            nonlocal tries
            tries += 1
            return self._commands.run(scripts.PUBLISH, keys, arguments, deadline=left)

        at, is_duplicate = await self._try_publish(run, once="key" if key else "nonce")
        # What one of our own attempts left there is no duplicate.
        return _published(at, is_duplicate=bool(is_duplicate) and (bool(key) or tries == 1))

    async def _try_publish(self, ask: Callable[[float], Awaitable[Any]], *, once: str = "") -> Any:
        """`once`: by what the server knows a repetition; nothing if it does not."""
        try:
            return await self._persist(ask, is_repeatable=bool(once))
        except BackendError as error:
            was_sent = isinstance(error, ConnectionLost) and error.was_sent
            raise PublishFailed(_outcome(error, was_sent, once), is_retry_safe=not was_sent or once == "key") from error

    async def notify(self, channel: str, notice: Notice) -> None:
        """Announce a notice."""
        message = envelope.notice(notice)
        await self._persist(
            lambda left: self._commands.call("PUBLISH", self._prefix + channel, message, deadline=left),
            is_repeatable=False,
        )

    # --- the source

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Where each of these streams stands."""
        asked = list(dict.fromkeys(channels))
        batches = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]
        pieces = await asyncio.gather(*map(self._heads, batches))
        return {channel: head for piece in pieces for channel, head in piece}

    async def _heads(self, channels: Sequence[str]) -> list[tuple[str, Position]]:
        keys = [self._meta(channel) for channel in channels]
        arguments: list[Word] = [self._nonce(), META_TTL, *map(self._asked_ttl, channels)]
        flat = await self._ask(scripts.HEADS, keys, arguments)
        heads = [Position(epoch.decode(), top) for epoch, top in zip(flat[::2], flat[1::2], strict=True)]
        for channel, head in zip(channels, heads, strict=True):
            self._seen(channel, head)
        return list(zip(channels, heads, strict=True))

    async def read(
        self, channel: str, after: int, limit: int, max_bytes: int = 1 << 20, *, reverse: bool = False
    ) -> Page:
        """A page and the head, of the same instant."""
        arguments = (
            *(after, max(limit, 0), max_bytes, int(reverse)),
            *(self._nonce(), self._asked_ttl(channel), META_TTL),
        )
        epoch, top, start, bodies = await self._ask(scripts.READ, [self._meta(channel), self._list(channel)], arguments)
        head = Position(epoch.decode(), top)
        self._seen(channel, head)
        step = -1 if reverse else 1
        offsets = range(start, start + step * len(bodies), step)
        return Page(self._readable(channel, bodies, offsets), head)

    def _readable(self, channel: str, bodies: Sequence[bytes], offsets: Iterable[int]) -> list[Publication]:
        """As publications. What a newer node wrote differently is, to this one, not kept: a page never goes over it."""
        page: list[Publication] = []
        for body, offset in zip(bodies, offsets, strict=True):
            try:
                page.append(envelope.of_body(body, offset))
            except Unreadable as error:
                self._refuse(channel, error)
                if page:
                    break
        if bodies and not page:
            raise BackendError(
                f"what is kept in {channel!r} cannot be read: it is of a newer version, upgrade this node"
            )
        return page

    async def remove_history(self, channel: str) -> None:
        """Let go of what is kept in `channel`."""
        await self._persist(lambda left: self._commands.call("DEL", self._list(channel), deadline=left))

    async def replace_epoch(self, channel: str, epoch: str) -> Position:
        """Give the stream another epoch if it still has this one."""
        keys = [self._meta(channel), self._list(channel)]
        found, top = await self._ask(scripts.REPLACE, keys, (epoch, self._nonce(), self._asked_ttl(channel), META_TTL))
        return Position(found.decode(), top)

    # --- listening

    async def subscribe(self, channel: str) -> None:
        """Hear what is announced in `channel`."""
        # Not taken back when it fails: another call may have succeeded, and what is not wanted is not sent.
        self._channels.add(channel)
        await self._ears.subscribe(self._prefix + channel)

    async def unsubscribe(self, channel: str) -> None:
        """Hear it no more."""
        self._channels.discard(channel)
        self._asked.discard(channel)
        await self._ears.unsubscribe(self._prefix + channel)

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
        channel = channel[len(self._prefix) :]
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

    def _renewed(self, channels: list[str]) -> None:
        if self._events is not None:
            self._events.on_renewed([channel[len(self._prefix) :] for channel in channels])

    def _refuse(self, channel: str, error: Unreadable) -> None:
        self._count(f"message_{error.reason}")
        self._sparing.warning(
            error.reason, self._clock.now(), "a message in channel %r is dropped: %s", channel, _WHY[error.reason]
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

    async def _ask(self, script: Script, keys: Sequence[str], arguments: Sequence[Word]) -> Any:
        return await self._persist(lambda left: self._commands.run(script, keys, arguments, deadline=left))

    async def _persist(self, ask: Callable[[float], Awaitable[Any]], *, is_repeatable: bool = True) -> Any:
        """Ask until there is an answer, or DEADLINE has passed, or asking again could do it twice.

        Raises BackendError; a ConnectionLost whose `was_sent` speaks for all attempts.
        """
        if self._events is None:
            raise BackendError("the Redis broker is not running")
        now = self._clock.now
        end = now() + DEADLINE
        was_sent = False
        while True:
            try:
                return await ask(max(end - now(), _PAUSE))
            except (ConnectionLost, RedisError) as error:
                if isinstance(error, ConnectionLost):
                    was_sent = was_sent or error.was_sent
                    is_final = was_sent and not is_repeatable
                else:
                    is_final = error.kind not in RENEWING
                if is_final or now() + _PAUSE >= end:
                    if was_sent:
                        raise ConnectionLost(str(error), was_sent=True) from error
                    raise
            await asyncio.sleep(_PAUSE)

    async def _probe(self, channel: bytes, data: bytes) -> None:
        await self._commands.call("PUBLISH", channel, data)

    def _count(self, event: str) -> None:
        self._counts[event] += 1

    # --- names

    def _meta(self, channel: str) -> str:
        return f"{self._name}:m:{{{channel}}}"

    def _list(self, channel: str) -> str:
        return f"{self._name}:l:{{{channel}}}"

    def _result_key(self, channel: str, key: str) -> str:
        # With the length, or a brace in a channel or key would make two of them one.
        return f"{self._name}:k:{len(channel)}:{{{channel}}}:{key}"

    def _nonce(self) -> str:
        self._nonces += 1
        return f"{self._token}{self._nonces}"


_WHY: Final = {
    "newer": "it is a frame of a newer version, upgrade this node",
    "broken": "it begins like a frame of ours and is none",
    "too_large": f"it is over {envelope.MAX_BYTES} bytes, publish a reference instead",
    "not_text": "it is neither JSON nor UTF-8 text, publish one of these",
}


def _published(at: bytes, *, is_duplicate: bool) -> Published:
    """What a script said: "epoch offset", or nothing for what has no offset."""
    epoch, _, offset = at.partition(b" ")
    return Published(Position(epoch.decode(), int(offset)) if at else None, None, is_duplicate)


def _outcome(error: BackendError, was_sent: bool, once: str) -> str:
    """What an application is to know of a publish that failed."""
    if not was_sent:
        return f"not published, publish again: {error}"
    if once == "key":
        return f"perhaps published, publish again with the same idempotency key: {error}"
    return f"perhaps published, and publishing again may do it twice (give an idempotency key): {error}"


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
