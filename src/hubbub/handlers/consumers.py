"""Back-end handlers: `@hub.on("orders.*")`.

Answers for: a listener and a task for each handler, so that one that is slow or raises harms no other; for being heard
from the start of the hub to its stop; and for refusing, at publish, what a handler could not read. Refuses to know: who
publishes.

A handler of a name listens like any subscriber: what it misses while it is slow it is given later, where the channel
has memory. A handler of a pattern hears what is published while it listens, and what is too fast for it is dropped,
counted and logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, get_args, get_origin

from hubbub import model
from hubbub.brokers.globs import matcher
from hubbub.channels import MAX_KNOWN
from hubbub.core.node import HISTORY_LIMIT, Node
from hubbub.core.patterns import Listener
from hubbub.core.reader import ChannelReader, PositionLost
from hubbub.errors import BackendError, ConfigurationError, InternalError, ReplyError
from hubbub.handlers.application import is_cancelled
from hubbub.handlers.publication import Publication, decoded
from hubbub.handlers.signatures import signature_of
from hubbub.handlers.typed import ANYTHING, Reader

log = logging.getLogger(__name__)

#: Publications that wait for the handler of a pattern; beyond it the newest is dropped.
QUEUE_LIMIT = 1000

#: Seconds until a handler whose channel cannot be heard tries again.
RETRY = 1.0

#: Publications that a handler is given in one turn of the loop.
BREATH = 256

#: Seconds that handlers get to finish what they have when the hub stops.
LAST_WORDS = 5.0

Heard = tuple[str, model.Publication, str]


class Consumer:
    """One handler and what it listens to. `where` says where it stands."""

    def __init__(self, topic: str, function: Callable[..., Awaitable[Any]]) -> None:
        """Raises ConfigurationError for what could never be called."""
        signature = signature_of(function)
        if not topic:
            raise ConfigurationError(f"{signature.where} listens to no channel: give a name or a pattern")
        if len(signature.parameters) != 1:
            names = ", ".join(signature.parameters)
            raise ConfigurationError(f"{signature.where} takes ({names}); a handler takes (publication)")
        (annotation,) = signature.parameters.values()
        origin = get_origin(annotation) or annotation
        self.wants_publication = origin is Publication or annotation in ANYTHING
        arguments = get_args(annotation) if origin is Publication else ()
        asked = (arguments[0] if arguments else Any) if self.wants_publication else annotation
        self.reader = Reader(asked)
        self.topic = topic
        self.where = signature.where
        self._function = function
        self.is_pattern = any(sign in topic for sign in "*?[")
        self.matches: Callable[[str], object] = matcher(topic) if self.is_pattern else topic.__eq__

    async def call(self, channel: str, kept: model.Publication, epoch: str) -> None:
        """Give it one publication. Raises what it raises, and BadRequest for what it cannot read."""
        publication: Publication[Any] = decoded(channel, kept, epoch, self.reader)
        await self._function(publication if self.wants_publication else publication.data)


class Consumers:
    """All handlers of one hub."""

    def __init__(self, node: Callable[[], Node]) -> None:
        self._node = node
        self._all: list[Consumer] = []
        self._running: dict[Consumer, asyncio.Task[None]] = {}
        self._sources: dict[Consumer, Source] = {}
        self._readers: dict[str, list[Reader]] = {}
        self._is_stopping = False
        self.at_work: dict[object, str] = {}  # what runs at this moment, by where it stands

    def renewed(self) -> Consumers:
        """The same handlers, not started."""
        fresh = Consumers(self._node)
        fresh._all = list(self._all)
        return fresh

    def add(self, consumer: Consumer) -> None:
        """Listens from the start on, or at once where the hub runs."""
        if self._node().is_running:
            self._require_rules(consumer)
        self._all.append(consumer)
        self._readers.clear()
        if self._node().is_running:
            self._watch()
            self._run(consumer, asyncio.Event())

    async def start(self) -> None:
        """Return once all of them hear, or have failed to for the first time. Raises UnknownChannel, BadRequest."""
        for consumer in self._all:
            self._require_rules(consumer)
        self._watch()
        self._is_stopping = False
        hearing = []
        for consumer in self._all:
            hears = asyncio.Event()
            self._run(consumer, hears)
            hearing.append(hears)
        for hears in hearing:
            await hears.wait()

    async def stop(self) -> None:
        """Listen no more, and let them finish what they have, for a while."""
        self._is_stopping = True
        for source in list(self._sources.values()):
            source.close()
        running = [task for task in self._running.values() if task is not asyncio.current_task()]
        if running:
            await asyncio.wait(running, timeout=LAST_WORDS)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._running.clear()

    def check(self, channel: str, data: bytes) -> None:
        """Whether all handlers of `channel` can read this JSON payload. Raises BadRequest (107)."""
        readers = self._readers.get(channel)
        if readers is None:
            if len(self._readers) >= MAX_KNOWN:
                self._readers.clear()
            typed = [each for each in self._all if not each.reader.is_anything and each.matches(channel)]
            readers = self._readers[channel] = [each.reader for each in typed]
        for reader in readers:
            reader.json(data)

    def _require_rules(self, consumer: Consumer) -> None:
        if consumer.is_pattern:
            return
        try:
            self._node().namespaces.resolve(consumer.topic)
        except ReplyError as error:
            raise type(error)(f"{consumer.where}: {error.message}") from None

    def _watch(self) -> None:
        """Have publications checked, where a handler wants more than anything."""
        if any(not each.reader.is_anything for each in self._all):
            self._node().check = self.check

    def _run(self, consumer: Consumer, hears: asyncio.Event) -> None:
        self._running[consumer] = asyncio.get_running_loop().create_task(
            self._serve(consumer, hears), name=f"handler {consumer.where}"
        )

    async def _serve(self, consumer: Consumer, hears: asyncio.Event) -> None:
        """Give it all that it hears until the hub stops, whatever happens to its channel."""
        node, was_lost = self._node(), False
        try:
            while node.is_running and not self._is_stopping:
                try:
                    await self._listen(consumer, hears, was_lost=was_lost)
                except PositionLost as error:
                    was_lost = True
                    node.observer.count("consumer_lost_its_place")
                    log.error("%s missed publications: %s; it goes on with what is kept", consumer.where, error)
                except BackendError as error:
                    hears.set()
                    node.observer.count("consumer_deaf")
                    text = "%s cannot listen to %s: %s; again in %g s"
                    log.error(text, consumer.where, consumer.topic, error, RETRY)
                    await asyncio.sleep(RETRY)
                except Exception:  # our bug: it must neither end the handler nor be silent
                    hears.set()
                    node.observer.count("consumer_deaf")
                    log.exception("%s cannot listen to %s; again in %g s", consumer.where, consumer.topic, RETRY)
                    await asyncio.sleep(RETRY)
        finally:
            hears.set()

    async def _listen(self, consumer: Consumer, hears: asyncio.Event, *, was_lost: bool) -> None:
        """Until the source is closed. Raises PositionLost and BackendError."""
        node = self._node()
        source: Source = PatternSource(node, consumer) if consumer.is_pattern else NameSource(node, consumer.topic)
        self._sources[consumer] = source
        try:
            await source.listen(was_lost=was_lost)
            hears.set()
            given = 0
            while (heard := await source.next()) is not None:
                await self._give(consumer, *heard)
                given += 1
                if not given % BREATH:
                    await asyncio.sleep(0)  # it may never wait for anything, nor may what it does
        finally:
            source.close()
            del self._sources[consumer]

    async def _give(self, consumer: Consumer, channel: str, publication: model.Publication, epoch: str) -> None:
        mark = object()
        self.at_work[mark] = consumer.where
        try:
            await consumer.call(channel, publication, epoch)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            self._node().observer.count("consumer_failed")
            log.exception("%s failed on %s, offset %d", consumer.where, channel, publication.offset)
        finally:
            del self.at_work[mark]


class Source(Protocol):
    """What one handler is given."""

    async def listen(self, *, was_lost: bool) -> None:
        """Hear from here on; who lost its place, from the oldest that is kept. Raises BackendError."""
        ...

    async def next(self) -> Heard | None:
        """The next one, whenever it comes; None once it is closed and all is taken. Raises PositionLost."""
        ...

    def close(self) -> None:
        """Hear no more. Idempotent."""
        ...


class NameSource:
    """One channel, as any subscriber has it."""

    def __init__(self, node: Node, channel: str) -> None:
        self._reader = ChannelReader(node, channel)
        self._channel = channel
        self._epoch = ""

    async def listen(self, *, was_lost: bool) -> None:
        """Hear from here on, or from the oldest that is kept. Raises BackendError."""
        try:
            position = await self._reader.open(None, HISTORY_LIMIT if was_lost else 0)
        except InternalError as error:
            raise BackendError(str(error)) from error
        self._epoch = position.epoch if position is not None else ""

    async def next(self) -> Heard | None:
        """The next one."""
        publication = await self._reader.next()
        if publication is None:
            return None
        return self._channel, publication, self._epoch if publication.offset else ""

    def close(self) -> None:
        """Hear no more."""
        self._reader.close()


class PatternSource:
    """What a pattern heard and its handler has not taken."""

    def __init__(self, node: Node, consumer: Consumer) -> None:
        self._node = node
        self._consumer = consumer
        self._waiting: deque[Heard] = deque()
        self._news = asyncio.Event()
        self._listener: Listener | None = None
        self._is_full = False

    async def listen(self, *, was_lost: bool) -> None:
        """Hear from here on: patterns keep nothing."""
        self._listener = await self._node.patterns.listen(self._consumer.topic, self._take)
        self._node.readers[self] = None

    def close(self) -> None:
        """Hear no more. What waits can still be taken."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._node.readers.pop(self, None)
            listener.close()
        self._news.set()

    async def next(self) -> Heard | None:
        """The next one, whenever it comes; None once it is closed and all is taken."""
        while not self._waiting:
            if self._listener is None:
                return None
            self._news.clear()
            await self._news.wait()
        self._is_full = False
        return self._waiting.popleft()

    def _take(self, channel: str, publication: model.Publication, epoch: str) -> None:
        if len(self._waiting) < QUEUE_LIMIT:
            self._waiting.append((channel, publication, epoch))
            self._news.set()
            return
        self._node.observer.count("consumer_dropped")
        if not self._is_full:
            self._is_full = True
            log.warning("%s is too slow for %s: publications are dropped", self._consumer.where, self._consumer.topic)
