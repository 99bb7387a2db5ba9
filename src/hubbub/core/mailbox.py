"""Durable channels: written first, announced second.

Answers for: a publication's way from the store to this node's own feed and to the others, in the order of the commits;
and the gate that those pass which applications have put into the store's outbox.
Refuses to know: how the store writes, who listens, and whether announcements arrive: a feed finds out by itself.

The own feed gets each commit directly, so what is written here is heard here whatever becomes of the broker. While the
broker is away announcements are dropped and counted, never queued: the other nodes read the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from hubbub.brokers.base import Announcement, Broker, Remote, StreamOptions
from hubbub.channels import Namespaces
from hubbub.clock import Clock
from hubbub.core.feeds import Feeds
from hubbub.core.hooks import Counters
from hubbub.core.tasks import Tasks
from hubbub.errors import BackendError, BadRequest, ConfigurationError, ReplyError, UnknownChannel
from hubbub.model import Publication, Published
from hubbub.payload import from_json
from hubbub.stores.base import Draft, Store
from hubbub.stores.outbox import Mover, Outbox, Row, Strange

log = logging.getLogger(__name__)

#: Announcements that wait for the broker to take them; what is beyond them is dropped, and read from the store.
MAX_WAITING = 1000
#: Announcements that are given to the broker at once: it puts them on its connection in this order.
AT_ONCE = 100

#: Seconds between two looks for what is old.
SWEEP_EVERY = 60.0

#: Seconds that the last commits have to be announced at the end; the others read them from the store in any case.
LAST_WORDS = 1.0

NO_STORE = "durable channels need a store: store.url = 'sqlite:///app.db' (HUBBUB_STORE_URL)"


#: The gate: what becomes of a channel, a payload, rules, `options` and `tags`. Raises BadRequest.
Admit = Callable[..., tuple[Publication, StreamOptions]]


class Mailbox:
    """The store of one node, None where it has none. Implements StoreEvents."""

    def __init__(
        self,
        store: Store | None,
        feeds: Feeds,
        *,
        broker: Broker,
        namespaces: Namespaces,
        tasks: Tasks,
        observer: Counters,
        clock: Clock,
        admitted: Admit,
    ) -> None:
        self.store = store
        self._admitted = admitted
        self._namespaces = namespaces
        self._feeds = feeds
        self._broker = broker
        self._remote = broker if isinstance(broker, Remote) else None
        self._tasks = tasks
        self._observer = observer
        self._waiting: deque[tuple[str, Announcement]] = deque()
        self._telling: asyncio.Task[None] | None = None
        self._mover: Mover | None = None
        if store is not None and isinstance(store, Outbox):
            self._mover = Mover(store, self._judge, clock=clock, count=observer.count)

    async def start(self) -> None:
        """Open the store. Raises BackendError, ConfigurationError."""
        if self.store is not None:
            await self.store.start(self)
            self._tasks.spawn(self._sweep_for_ever(self.store), "let go of what is old")
        if self._mover is not None:
            self._mover.start()

    async def stop(self) -> None:
        """Write what waits, and close. Idempotent."""
        try:
            if self._mover is not None:
                await self._mover.stop()
        finally:  # also where somebody has lost patience: what waits is to be written
            if self.store is not None:
                await self.store.stop()
        if self._telling is not None:
            await asyncio.wait([self._telling], timeout=LAST_WORDS)
        self._telling = None
        self._waiting.clear()

    async def _sweep_for_ever(self, store: Store) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            try:
                gone = await store.sweep(self._keeps)
            except BackendError as error:
                log.warning("what is old stays for now: %s", error)
            except Exception:
                log.exception("what is old stays for now")
            else:
                self._observer.count("store_swept", gone)

    def _keeps(self, channel: str) -> float:
        """Seconds that its publications are kept; one without rules by now is left alone."""
        try:
            return self._namespaces.resolve(channel).retention
        except ReplyError:
            return 0.0

    def _judge(self, row: Row) -> Draft:
        """A row of the outbox, through the same gate as everything."""
        try:
            rules = self._namespaces.resolve(row.channel)
        except UnknownChannel as error:
            raise Strange(error.message) from None
        if not rules.is_durable:
            raise Strange(f"channel {row.channel!r} is not durable: its delivery is {rules.delivery!r}")
        if row.data is None:
            raise BadRequest(f"payload is over the channel's max_bytes of {rules.max_bytes}")
        data = from_json(row.data.encode(), rules.data)
        options = StreamOptions(idempotency_key=row.key)
        publication, options = self._admitted(row.channel, data, rules, options=options, tags=_tags(row.tags))
        return Draft(row.channel, publication, options.idempotency_key)

    def append(self, channel: str, publication: Publication, options: StreamOptions) -> Awaitable[Published]:
        """Write it. Returns what is there once it is committed; the order is that of the calls, awaited or not.

        Raises BadRequest (107) for what only streams in a broker have, PublishFailed.
        """
        if self.store is None:
            raise ConfigurationError(NO_STORE)
        if options.version:
            raise BadRequest("a durable channel keeps everything: it takes no version")
        return self.store.append(Draft(channel, publication, options.idempotency_key))

    def on_committed(self, channel: str, publication: Publication, epoch: str) -> None:
        """Here at once, and elsewhere soon."""
        if self._remote is None:
            self._tasks.begin(self._broker.notify(channel, Announcement(publication, epoch)), "announce")
            return
        self._feeds.offer(channel, publication, epoch)
        if not self._remote.is_connected or len(self._waiting) >= MAX_WAITING:
            self._observer.count("announcement_dropped")
            return
        self._waiting.append((channel, Announcement(publication, epoch)))
        if self._telling is None:
            self._telling = self._tasks.spawn(self._tell(), "announce what is committed")

    async def _tell(self) -> None:
        try:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                results = await asyncio.gather(*(self._broker.notify(*each) for each in some), return_exceptions=True)
                for result in results:
                    if isinstance(result, BackendError):
                        self._observer.count("announcement_dropped")
                    elif isinstance(result, Exception):
                        log.error("a commit cannot be announced", exc_info=result)
        finally:
            self._telling = None


def _tags(text: str | None) -> dict[str, str]:
    try:
        return _decode_tags(text or "{}")
    except msgspec.DecodeError:
        raise BadRequest("tags are an object of text by text") from None


_decode_tags = msgspec.json.Decoder(dict[str, str]).decode
