"""One running server: what can be done on it, by clients, servers and Python alike.

Answers for: publish, history, presence, channels and info, behind the one gate; and for holding the parts of the hearth
together from start to stop. Refuses to know: the wire, transports, HTTP, and permissions of clients (`commands` asks
before it calls here).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import msgspec

from hubbub.brokers.base import Broker, HoldsStreams, StreamOptions, is_nodes_own
from hubbub.brokers.globs import matcher
from hubbub.channels import ChannelRules, Namespaces
from hubbub.clock import SystemClock, TimerWheel
from hubbub.core.access import Access
from hubbub.core.control import Control
from hubbub.core.everywhere import Everywhere
from hubbub.core.failures import Failures
from hubbub.core.feed import Broken
from hubbub.core.feeds import Feeds
from hubbub.core.hooks import Counters, Handlers, NoHandlers
from hubbub.core.hub import ENTERING, LOST, Channel, Hub, Subscription
from hubbub.core.intercom import Intercom
from hubbub.core.mailbox import NO_STORE, Mailbox
from hubbub.core.patterns import Patterns
from hubbub.core.porter import Porter, Tell
from hubbub.core.pump import Pump, Reader
from hubbub.core.registry import Registry
from hubbub.core.subscribing import Doorkeeper
from hubbub.core.tasks import Tasks
from hubbub.core.variants import Variants
from hubbub.errors import BadRequest, ConfigurationError, NotAvailable, UnrecoverablePosition
from hubbub.model import ClientInfo, Position, PresenceStats, Publication, Published
from hubbub.payload import admit, admit_tags
from hubbub.presence.base import Presence
from hubbub.protocol.session import Timing
from hubbub.rates import Rate
from hubbub.source import Page, Source
from hubbub.sparing import SparingLog
from hubbub.stores.base import Store
from hubbub.version import VERSION

log = logging.getLogger(__name__)

#: Publications in one answer about history, as upstream.
HISTORY_LIMIT = 300
#: Bytes of payload in one answer about history.
HISTORY_BYTES = 512 << 10
#: Characters of what a publisher names its publications by; they are kept for minutes.
MAX_KEY = 256
#: Subscriptions that are told of a break at once; more are told in steps, so that a large channel does not return as
#: one.
BREAK_CROWD, BREAK_STEP = 500, 0.1
#: Part of its time to live after which an entry of presence is renewed: one renewal may be lost.
PRESENCE_RENEWAL = 0.45
#: What who asks for what is not there is told, with what would make it be there.
NOTHING_KEPT = "not available: this channel keeps nothing, its delivery is 'live'; 'recent' keeps the last publications"
NOBODY_COUNTED = "not available: nobody is counted in this channel; presence = true in its rules does"

#: Nobody runs the hub, and what would begin it where an application is mounted, which is where it is forgotten.
NOT_STARTED = "the hub is not started: FastAPI(lifespan=hub.lifespan)"


class Limits(msgspec.Struct, frozen=True):
    """What connections may cost. Seconds, and bytes for `write_budget`; 0 connections or no rate: no limit."""

    timing: Timing = Timing()
    stall_timeout: float = 30.0
    expired_grace: float = 25.0
    max_channels: int = 128
    write_budget: int = 1 << 20
    max_connections: int = 0  # of the node
    max_connections_per_user: int = 0
    command_rate: Rate | None = None


class Closing(Protocol):
    """Something that ends with the node."""

    def close(self) -> None:
        """End. Idempotent."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A part that counts what it had to give up."""

    def counts(self) -> dict[str, int]:
        """By name."""
        ...


class NodeInfo(msgspec.Struct):
    """What a node says about itself. `uptime` is in seconds."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_subs: int
    num_channels: int
    uptime: int
    metrics: dict[str, int]


class Node:
    """One node. `start` before use; everything on one event loop. Two nodes in one process do not notice each other."""

    def __init__(
        self,
        namespaces: Namespaces,
        broker: Broker,
        *,
        presence: Presence,
        store: Store | None = None,
        timers: TimerWheel | None = None,
        access: Access | None = None,
        handlers: Handlers | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.namespaces = namespaces
        self.broker = broker
        self.presence_store = presence
        self.timers = timers if timers is not None else TimerWheel(SystemClock())  # an empty wheel is falsy
        self.clock = self.timers.clock
        self.now = self.clock.now
        self.access = access or Access(namespaces)
        self.handlers = handlers or NoHandlers()
        self.limits = limits or Limits()
        self.observer = Counters()
        self.failures = Failures(self.observer, now=self.now)
        self.tasks = Tasks()
        self.variants = Variants()
        self.registry = Registry(self.limits.max_connections_per_user)
        self.readers: dict[Closing, None] = {}  # back-end code that listens, to be told of the end
        self.hub = Hub(self._schedule)
        self.porter = Porter(self.registry, self.hub, timers=self.timers, max_connections=self.limits.max_connections)
        self._warnings = SparingLog(log)
        self.feeds = Feeds(self.hub, broker, timers=self.timers, tasks=self.tasks, on_broken=self._broken, store=store)
        self.mailbox = self._mailbox(store)
        self.patterns = Patterns(self.feeds, broker, tasks=self.tasks)
        self.pump = Pump(self.hub, self.feeds, tasks=self.tasks, schedule=self._schedule, later=self.timers.after)
        self.doorkeeper = Doorkeeper(
            self.hub, self.feeds, broker=broker, presence=presence, tasks=self.tasks, observer=self.observer
        )
        self.control = Control(
            self.registry,
            self.doorkeeper,
            pump=self.pump,
            access=self.access,
            namespaces=namespaces,
            clock=self.clock,
            max_channels=self.limits.max_channels,
            guard_of=lambda channel: self.handlers.guard(channel),
        )
        self.everywhere = Everywhere(self.control, self._intercom(), local=self, timers=self.timers, tasks=self.tasks)
        #: Says, by raising BadRequest, that a JSON payload is not what back-end handlers of the channel can read.
        self.check: Callable[[str, bytes], None] | None = None
        self._here = broker if isinstance(broker, HoldsStreams) else None
        self.is_running = False
        self._started = self.clock.now()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None

    def _intercom(self) -> Intercom:
        return Intercom(
            self.id,
            lambda order: self.everywhere.obey(order),
            broker=self.broker,
            hub=self.hub,
            pump=self.pump,
            doorkeeper=self.doorkeeper,
            tasks=self.tasks,
            observer=self.observer,
            later=self.timers.after,
            now=self.now,
        )

    def _mailbox(self, store: Store | None) -> Mailbox:
        return Mailbox(
            store,
            self.feeds,
            broker=self.broker,
            namespaces=self.namespaces,
            tasks=self.tasks,
            observer=self.observer,
            clock=self.clock,
            admitted=self.admitted,
        )

    async def start(self) -> None:
        """Begin. Raises BackendError when broker or presence cannot be reached."""
        self._loop = asyncio.get_running_loop()
        self._started = self.clock.now()
        self.timers.on_earlier = self._set_alarm
        if self.mailbox.store is None and (durable := self.namespaces.durable):
            raise ConfigurationError(f"{durable}: {NO_STORE}")
        await self.broker.start(self.feeds)
        try:
            await self._begin()
        except BaseException:
            failure = await self._end(*self._parts())  # or it could not be started again
            if failure is not None:
                log.error("a part of the node did not end well", exc_info=failure)
            raise
        self.is_running = True
        self.porter.is_leaving = False
        self._set_alarm()

    async def _begin(self) -> None:
        await self.mailbox.start()
        await self.presence_store.start()
        await self.access.start()
        self.feeds.start()
        if self.presence_store.ttl is not None:
            self.timers.after(self.presence_store.ttl * PRESENCE_RENEWAL, self._renew_presence)
        await self.everywhere.start()

    def refusal(self) -> str:
        """Why no client may come now, "" if one may: the porter's reason, or that nobody started this."""
        if not self.is_running and not self.porter.is_leaving:
            self._warnings.warning("not started", self.now(), "a connection was refused: %s", NOT_STARTED)
            return NOT_STARTED
        return self.porter.refusal()

    @property
    def is_ready(self) -> bool:
        """Whether it should get traffic: it runs, and does not drain.

        A broker that is out of reach is no reason: it is so for all nodes at once, and without any node nobody would
        be served at all. What is known here goes on, and who is here misses nothing of a short outage.
        """
        return self.is_running and not self.porter.is_leaving

    async def drain(self, seconds: float = 0.0, tell: Tell | None = None) -> None:
        """Take no new clients, and send those that are here away over `seconds`: 3001, which SDKs come back from.

        Each gets first what was published before it goes. At the end whoever listens from Python is told of the end,
        too; everything else goes on until `stop`. `tell` is called with the connections that are left, and how many
        there were, some times a second. A second call with fewer seconds cuts the first one short.
        """
        await self.porter.see_out(seconds, tell)
        for reader in list(self.readers):
            reader.close()

    async def stop(self) -> None:
        """Close every connection that is left with 3001, and let go of everything. Idempotent.

        What a part raises at its end is raised once all have ended, that of the first one; the others' are logged.
        """
        if not self.is_running:
            return
        self.is_running = False
        failure = await self._end(self.drain, self.doorkeeper.stop, *self._parts())
        if failure is not None:
            raise failure

    def _parts(self) -> tuple[Callable[[], Awaitable[None] | None], ...]:
        """How each ends, in this order."""
        return (
            *(self.everywhere.stop, self.mailbox.stop, self.tasks.stop, self.patterns.stop, self.feeds.stop),
            *(self.broker.stop, self.presence_store.stop, self.access.stop, self._silence),
        )

    async def _end(self, *parts: Callable[[], Awaitable[None] | None]) -> BaseException | None:
        """End each, whatever becomes of the others. Returns how the first has failed; who is cancelled goes on here."""
        failure: BaseException | None = None
        for part in parts:
            try:
                ending = part()
                if ending is not None:
                    await ending
            except (Exception, asyncio.CancelledError) as error:
                if failure is None:
                    failure = error
                else:
                    log.error("a part of the node did not end well", exc_info=error)
        return failure

    def _silence(self) -> None:
        self.timers.on_earlier = None
        if self._wake is not None:
            self._wake.cancel()

    # what can be done -----------------------------------------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        data: bytes,
        *,
        options: StreamOptions | None = None,
        info: ClientInfo | None = None,
        tags: dict[str, str] | None = None,
        rules: ChannelRules | None = None,
        ephemeral: bool = False,
    ) -> Published:
        """Publish in `channel`: through the gate, into the source, and from there to everybody.

        `options` carries what the publisher may ask for (idempotency key, version); how much is kept is the rules'
        affair. `ephemeral`: no offset, not kept. Raises UnknownChannel (102), BadRequest (107), BackendError.
        """
        rules = rules or self.namespaces.resolve(channel)
        admitted = self.admitted(channel, data, rules, options=options, info=info, tags=tags, ephemeral=ephemeral)
        if rules.is_durable and not ephemeral:
            return await self.mailbox.append(channel, *admitted)
        return await self.broker.publish(channel, *admitted)

    def admitted(
        self,
        channel: str,
        data: bytes,
        rules: ChannelRules,
        *,
        options: StreamOptions | None = None,
        info: ClientInfo | None = None,
        tags: dict[str, str] | None = None,
        ephemeral: bool = False,
    ) -> tuple[Publication, StreamOptions]:
        """What `publish` gives to the source. Waits for nothing, and any thread may ask. Raises BadRequest (107)."""
        if tags:
            admit_tags(tags)
        if options is not None and max(len(options.idempotency_key), len(options.version_epoch)) > MAX_KEY:
            raise BadRequest(f"idempotency_key and version_epoch have at most {MAX_KEY} characters")
        publication = Publication(self.admit(channel, data, rules), 0, info, tags or None, rules.data == "binary")
        return publication, _stream_options(rules, options, ephemeral=ephemeral)

    def admit(self, channel: str, data: bytes, rules: ChannelRules) -> bytes:
        """The payload as it is kept and sent. Raises BadRequest (107): the gate's, or a handler cannot read it."""
        admitted = admit(data, rules.data, rules.max_bytes)
        if self.check is not None and rules.data != "binary":
            self.check(channel, admitted)
        return admitted

    def begin_publish(
        self, channel: str, data: bytes, rules: ChannelRules, info: ClientInfo, is_json: bool
    ) -> Awaitable[Published] | None:
        """`publish` for a client: what is left to wait for, None where the broker is done at once. The hottest path.

        What comes from the store is in order already: nothing need wait for it but its own answer.

        `is_json`: its codec has read the payload as JSON already.
        """
        format, delivery = rules.data, rules.delivery
        admitted = admit(data, format, rules.max_bytes, is_json)
        if self.check is not None and format != "binary":
            self.check(channel, admitted)
        publication = Publication(admitted, 0, info, None, format == "binary")
        here = self._here
        if delivery == "live" and here is not None:
            here.announce_now(channel, publication, "")
            return None
        options = _stream_options(rules, None, ephemeral=False)
        if delivery == "durable":
            return self.mailbox.append(channel, publication, options)
        if here is None:
            return self.broker.publish(channel, publication, options)
        here.publish_now(channel, publication, options)
        return None

    async def history(
        self, channel: str, limit: int = 0, since: Position | None = None, *, reverse: bool = False
    ) -> Page:
        """Publications that are kept, and the head. `limit` 0: the head alone; below 0: as many as one answer holds.

        Forward: after `since`, oldest first; reverse: before it, newest first. Raises NotAvailable (108) where
        nothing is kept, UnrecoverablePosition (112) for another epoch, BadRequest (107) for reverse from offset 0.
        """
        after, count = history_asked(self.namespaces.resolve(channel), limit, since, reverse=reverse)
        page = await self._source_of(channel).read(channel, after, count, HISTORY_BYTES, reverse=reverse)
        return history_found(page, since)

    async def remove_history(self, channel: str) -> None:
        """Let go of what is kept in `channel`. Who returns from before it is told that it cannot recover.

        Raises NotAvailable (108) where nothing is kept, BackendError.
        """
        if not self.namespaces.resolve(channel).has_memory:
            raise NotAvailable(NOTHING_KEPT)
        if self.mailbox.store is not None and self.namespaces.resolve(channel).is_durable:
            heads = await self.mailbox.store.heads([channel])
            await self.mailbox.store.trim(channel, heads[channel].offset)
        else:
            await self.broker.remove_history(channel)
        await self.everywhere.trim(channel)

    def _source_of(self, channel: str) -> Source:
        is_durable = self.namespaces.resolve(channel).is_durable
        return self.mailbox.store if is_durable and self.mailbox.store is not None else self.broker

    async def presence(self, channel: str) -> dict[str, ClientInfo]:
        """Who is in `channel`, by connection. Raises NotAvailable (108) where presence is off."""
        if not self.namespaces.resolve(channel).presence:
            raise NotAvailable(NOBODY_COUNTED)
        return await self.presence_store.members(channel)

    async def presence_stats(self, channel: str) -> PresenceStats:
        """How many are in `channel`. Raises NotAvailable (108) where presence is off."""
        if not self.namespaces.resolve(channel).presence:
            raise NotAvailable(NOBODY_COUNTED)
        return await self.presence_store.stats(channel)

    def channels(self, pattern: str = "") -> dict[str, int]:
        """Channels with listeners, and how many; `pattern` is a glob (`*`, `?`, `[abc]`), empty for all."""
        matches: Callable[[str], object] = matcher(pattern) if pattern else bool
        return {
            channel.name: len(channel.subscriptions)
            for channel in self.hub.channels.values()
            if channel.subscriptions and not is_nodes_own(channel.name) and matches(channel.name)
        }

    def about(self) -> dict[str, Any]:
        """What this node says about itself, as `NodeInfo`."""
        about: dict[str, Any] = msgspec.to_builtins(self.info())
        return about

    def trim(self, channel: str) -> None:
        """The history of `channel` was removed: forget what is remembered of it here."""
        self.feeds.trim(channel)

    def info(self) -> NodeInfo:
        """What this node says about itself."""
        counts = dict(self.observer.counts) | self.feeds.counts
        counts |= {
            "delivered": self.hub.delivered,
            "skipped": self.hub.skipped,
            "notices_dropped": self.hub.notices_dropped,
            "rings_evicted": self.feeds.rings.evicted,
        }
        for part in (self.broker, self.mailbox.store, self.presence_store):
            if isinstance(part, Counted):
                counts |= part.counts()
        return NodeInfo(
            uid=self.id,
            name=f"hubbub_{self.id[:8]}",
            version=VERSION,
            num_clients=len(self.registry.all),
            num_users=self.registry.users,
            num_subs=sum(self.channels().values()),
            num_channels=len(self.channels()),
            uptime=int(self.clock.now() - self._started),
            metrics=counts,
        )

    # how it runs ----------------------------------------------------------------------------------------------------

    def _schedule(self, callback: Callable[[], None]) -> None:
        """Call back at the end of this loop turn."""
        assert self._loop is not None, "start() comes first"
        self._loop.call_soon(callback)

    def _set_alarm(self) -> None:
        """Sleep until the wheel's next deadline. One alarm per node, whatever waits."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        deadline = self.timers.next_deadline()
        if deadline is not None and self._loop is not None:
            self._wake = self._loop.call_later(max(0.0, deadline - self.clock.now()), self._ring)

    def _ring(self) -> None:
        self._wake = None
        self.timers.advance()
        if self.is_running and self._wake is None:
            self._set_alarm()

    def _broken(self, channel: Channel, broken: Broken) -> None:
        """Nobody gets anything of the new sequence before being told that the old one is over."""
        # Who is only entering was promised nothing yet, and will find the feed as it is now.
        subscriptions = [each for each in channel.subscriptions.values() if each.behind != ENTERING]
        self.observer.count("subscription_broken", len(subscriptions))
        for subscription in subscriptions:
            self.hub.fall_behind(subscription)
            subscription.behind = LOST
        for start in range(0, len(subscriptions), BREAK_CROWD):
            crowd = subscriptions[start : start + BREAK_CROWD]
            delay = start / BREAK_CROWD * BREAK_STEP
            if delay:
                self.timers.after(delay, partial(_tell_lost, crowd))
            else:
                _tell_lost(crowd)

    def _renew_presence(self) -> None:
        """Say again who is here, before the entries expire."""
        assert self.presence_store.ttl is not None, "only armed where entries expire"
        self.timers.after(self.presence_store.ttl * PRESENCE_RENEWAL, self._renew_presence)
        if self._renewing is None or self._renewing.done():  # else presence is out of reach: one that waits is enough
            self._renewing = self.tasks.spawn(self.doorkeeper.renew(self.hub.channels.values()), "renew presence")


def _tell_lost(subscriptions: Iterable[Subscription]) -> None:
    for subscription in subscriptions:
        if subscription.behind == LOST:  # else it left meanwhile
            reader: Reader = subscription.subscriber  # type: ignore[assignment]  # what is in a channel can read
            reader.lost(subscription)


def history_asked(rules: ChannelRules, limit: int, since: Position | None, *, reverse: bool) -> tuple[int, int]:
    """After which offset to read, and how many. Raises NotAvailable (108), BadRequest (107)."""
    if not rules.has_memory:
        raise NotAvailable(NOTHING_KEPT)
    if reverse and since is not None and since.offset == 0:
        raise BadRequest("reverse history before offset 0: there is nothing before the beginning")
    return since.offset if since is not None else 0, HISTORY_LIMIT if limit < 0 else min(limit, HISTORY_LIMIT)


def history_found(page: Page, since: Position | None) -> Page:
    """The page, if it is of the epoch that was asked for. Raises UnrecoverablePosition (112)."""
    if since is not None and since.epoch not in ("", page.head.epoch):
        raise UnrecoverablePosition
    return page


def _stream_options(rules: ChannelRules, asked: StreamOptions | None, *, ephemeral: bool) -> StreamOptions:
    """How much is kept is the rules' affair; the rest is the publisher's."""
    if ephemeral or not rules.has_memory:
        key = asked.idempotency_key if asked is not None else ""
        return StreamOptions(idempotency_key=key) if key else EPHEMERAL
    if asked is None:
        return StreamOptions(rules.kept, rules.history_ttl)
    return StreamOptions(rules.kept, rules.history_ttl, asked.idempotency_key, asked.version, asked.version_epoch)


#: Announced, and kept nowhere.
EPHEMERAL = StreamOptions()
