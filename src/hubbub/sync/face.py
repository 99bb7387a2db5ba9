"""`hubbub.sync.Hubbub`: hubbub without an event loop of yours.

Answers for: publish and history straight over a bounded pool of Redis connections, so that threads, greenlets and
forked workers need nothing that runs; and for what only a node can do (handlers, durable channels, who is there,
sending users away) on a hub in a background thread, started when it is first needed. Refuses to know: rules and gate
(`core.node`), what is said to Redis (`brokers.calls`), and how the thread lives (`background`).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from hubbub import app, payload
from hubbub.brokers.base import StreamOptions
from hubbub.clock import SystemClock
from hubbub.core.node import HISTORY_BYTES, Node, history_asked, history_found
from hubbub.errors import BackendError, BadRequest, ConfigurationError
from hubbub.handlers.publication import decoded
from hubbub.handlers.signatures import require_name, where
from hubbub.handlers.typed import Reader
from hubbub.model import ClientInfo, Position, PresenceStats, Published
from hubbub.outbox import Outgoing, outgoing
from hubbub.settings import Settings
from hubbub.sparing import SparingLog
from hubbub.sync.background import Background
from hubbub.sync.workers import Workers

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from hubbub.brokers.blocking import BlockingRedis

log = logging.getLogger(__name__)

T = TypeVar("T")
H = TypeVar("H", bound=Callable[[Any], object])

#: Seconds that a call of publish or history has, its repetitions included, if nobody says otherwise; and the most: what
#: names a publish that is tried again is remembered a little longer.
DEADLINE, MAX_DEADLINE = 5.0, 10.0

#: Seconds that other nodes get to answer the greeting of a new one.
ACQUAINTANCE = 1.0


class Hubbub:
    """Real-time messaging from code that blocks: views of Flask and Django, Celery tasks, scripts.

        hub = Hubbub("redis://localhost", channels={"orders": {"delivery": "recent"}})
        hub.publish("orders:42", {"state": "paid"})

    Settings as for `hubbub.Hubbub`: keyword arguments, then the environment, then the file. One object serves all
    threads of a process, and its forked children, each of which connects for itself. `publish`, `publish_many` and
    `history` need no start: they go to Redis over at most `pool_max` connections, of which `pool_min` stay open when
    nobody needs them, and have `deadline` seconds each (at most 10). All else, and all about durable channels, is done
    by a hub in a background thread, which begins with the first call that needs it.

    With "memory://" the thread alone is the whole system, which is for tests and scripts: it has to be said, since
    other processes hear nothing of it. Raises ConfigurationError.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        config: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
        pool_min: int = 1,
        pool_max: int = 10,
        deadline: float = DEADLINE,
        **sections: Mapping[str, object] | str,
    ) -> None:
        if not 0 <= pool_min <= pool_max or pool_max < 1:
            raise ConfigurationError(
                f"pool_min = {pool_min}, pool_max = {pool_max}: expected 0 <= pool_min <= pool_max, and one at least"
            )
        if not 0 < deadline <= MAX_DEADLINE:
            raise ConfigurationError(f"deadline = {deadline}: expected above 0, and at most {MAX_DEADLINE:g} seconds")
        # Never started: it knows rules and signs tokens, and refuses handlers that could never be called.
        self._model = app.Hubbub(url, config=config, settings=settings, clock=None, **sections)
        self.settings = self._model.settings
        self._is_shared = not self.settings.broker.url.startswith("memory:")
        if not self._is_shared and settings is None and "broker.url" not in self.settings.sources:
            raise ConfigurationError(
                "broker.url is not set, and in memory no other process would hear of what is published here: give"
                " Hubbub('redis://…'), [broker] url or HUBBUB_BROKER_URL; for tests, Hubbub('memory://')"
            )
        self._pool = (pool_min, pool_max, deadline)
        self._handlers: list[tuple[str, Callable[[Any], object]]] = []
        self._processes: dict[int, _Process] = {}
        self._sparing = SparingLog(log)

    # lifetime -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Have the handlers hear; when it returns, they do. In a process that has forked, each child starts its own.

        Without handlers it starts nothing. Raises BackendError, and UnknownChannel for a handler of a channel that no
        rules know.
        """
        here = self._here()
        was_handling, here.is_handling = here.is_handling, True
        if not self._handlers:
            return
        if not was_handling:
            here.background.stop()  # one that was begun to be asked something has no handlers
        try:
            here.background.start()
        except BaseException:
            here.is_handling = False
            raise

    def stop(self) -> None:
        """Hear no more: let each handler finish what it has for up to 5 seconds, and close all connections.

        Idempotent. What is published afterwards connects anew. From inside a handler it returns at once.
        """
        here = self._here()
        here.is_handling = False
        here.background.stop()
        if here.redis is not None:
            here.redis.pool.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def on(self, topic: str) -> Callable[[H], H]:
        """A handler of a channel, or of all that match a glob (`*`, `?`, `[abc]`), between `start` and `stop`.

            @hub.on("orders.*")
            def show(publication: Publication[Order]): ...      # or: def show(order: Order)

        It runs in a thread of its own, on one publication at a time, in order. What it raises is logged, and the next
        one comes. A payload that does not fit the annotation is refused at publish. Registered after the start, it
        hears a moment later. Raises ConfigurationError.
        """
        require_name(topic, "hub.on")

        def register(function: H) -> H:
            if inspect.iscoroutinefunction(function):
                raise ConfigurationError(
                    f"{where(function)} is async, and this is the blocking face: write `def {function.__name__}`,"
                    " or use hubbub.Hubbub"
                )
            self._model.on(topic)(Workers().asynchronous(function))  # which refuses what could never be called
            self._handlers.append((topic, function))
            here = self._here()
            if here.is_handling and not here.background.start():  # a start takes all that are registered
                here.background.add(topic, function)
            return function

        return register

    # what it does ---------------------------------------------------------------------------------------------------

    def publish(
        self,
        channel: str,
        data: Any,
        *,
        tags: dict[str, str] | None = None,
        idempotency_key: str = "",
        version: int = 0,
        ephemeral: bool = False,
    ) -> Published:
        """Publish `data` (anything that JSON can hold; text or bytes in channels of those), and return where it stands.

        It returns when Redis has accepted it, and tries again until `deadline` where that cannot publish it twice: in
        channels with memory, and with an `idempotency_key` (which is remembered for five minutes) in all. A `version`
        not above the last one is dropped. `ephemeral`: to whoever listens now, kept nowhere.

        Raises UnknownChannel, BadRequest, and a BackendError with `is_retry_safe`: whether to publish once more cannot
        do it twice.
        """
        self._look_around()
        here = self._here()
        node = self._node(here)
        rules = node.namespaces.resolve(channel)
        if here.redis is None or (rules.is_durable and not ephemeral):
            return here.background.call(
                lambda hub: hub.publish(
                    channel, data, tags=tags, idempotency_key=idempotency_key, version=version, ephemeral=ephemeral
                )
            )
        options = StreamOptions(idempotency_key=idempotency_key, version=version)
        body = payload.body(data, rules.data)
        return here.redis.publish(
            channel, *node.admitted(channel, body, rules, options=options, tags=tags, ephemeral=ephemeral)
        )

    def publish_many(self, publications: Iterable[tuple[str, Any]]) -> list[Published]:
        """Publish pairs of channel and data, in their order, and return where each stands.

        All are looked at before the first is published: BadRequest and UnknownChannel name the first that is wrong, and
        nothing was published then. Raises BackendError; those before it are published, and those after it are not.

        Redis gets them in batches of at most 64 publications and 256 KiB. Each is one step of the server and has
        `deadline` seconds; asked for again after a cut, it is done once. The PublishFailed says how many are published
        and, where no answer came, how many perhaps. With its `is_retry_safe`, nothing of the list is published, and
        all of it can be published again.
        """
        self._look_around()
        here = self._here()
        node = self._node(here)
        listed, admitted = list(publications), []
        is_direct = here.redis is not None
        for number, (channel, data) in enumerate(listed):
            try:
                rules = node.namespaces.resolve(channel)
                is_direct = is_direct and not rules.is_durable
                admitted.append((channel, *node.admitted(channel, payload.body(data, rules.data), rules)))
            except BadRequest as error:
                raise BadRequest(f"publication {number} ({channel}): {error.message}") from None
        if here.redis is None or not is_direct:
            return here.background.call(lambda hub: hub.publish_many(listed))
        return here.redis.publish_many(admitted)

    def outbox(
        self, channel: str, data: Any, *, tags: dict[str, str] | None = None, idempotency_key: str = ""
    ) -> Outgoing:
        """`data` as a row to insert in a transaction of your own, as `hubbub.Hubbub.outbox`. In Django:

            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(*hub.outbox("orders:42", {"state": "paid"}).psycopg)

        It asks nobody, and begins no thread. Raises UnknownChannel, BadRequest, ConfigurationError.
        """
        return outgoing(self._model.node, self.settings.store.url, channel, data, tags=tags, key=idempotency_key)

    @overload
    def history(
        self, channel: str, *, limit: int = -1, since: Position | None = None, reverse: bool = False
    ) -> app.History[Any]: ...
    @overload
    def history(
        self, channel: str, *, type: TypeForm[T], limit: int = -1, since: Position | None = None, reverse: bool = False
    ) -> app.History[T]: ...
    def history(
        self, channel: str, *, type: Any = Any, limit: int = -1, since: Position | None = None, reverse: bool = False
    ) -> app.History[Any]:
        """What `channel` has kept: at most `limit` (below 0: up to 300), after `since`; with `reverse` newest first.

        `type` is what payloads are read as; BadRequest names the field of one that does not fit. Raises NotAvailable
        where nothing is kept, BackendError.
        """
        self._look_around()
        here = self._here()
        rules = self._node(here).namespaces.resolve(channel)
        if here.redis is None or rules.is_durable:
            return here.background.call(
                lambda hub: hub.history(channel, type=type, limit=limit, since=since, reverse=reverse)
            )
        after, count = history_asked(rules, limit, since, reverse=reverse)
        page = history_found(here.redis.read(channel, after, count, HISTORY_BYTES, reverse=reverse), since)
        reader = Reader(type)
        return app.History([decoded(channel, item, page.head.epoch, reader) for item in page.publications], page.head)

    def token(
        self,
        user: str,
        *,
        channel: str = "",
        ttl: float | None = app.TOKEN_TTL,
        info: object = None,
        channels: Sequence[str] = (),
    ) -> str:
        """A token for `user`, as `hubbub.Hubbub.token`. Raises ConfigurationError where no secret is set."""
        return self._model.token(user, channel=channel, ttl=ttl, info=info, channels=channels)

    # what a node is asked -------------------------------------------------------------------------------------------

    def channels(self, pattern: str = "") -> dict[str, int]:
        """Channels that somebody listens to on any node, and how many; `pattern` is a glob, empty for all."""
        return self._ask(lambda hub: hub.channels(pattern))

    def subscribers(self, channel: str) -> int:
        """How many subscriptions `channel` has on all nodes, back-end code's included."""
        return self._ask(lambda hub: hub.subscribers(channel))

    def presence(self, channel: str) -> dict[str, ClientInfo]:
        """Who is in `channel`, by connection."""
        return self._ask(lambda hub: hub.presence(channel))

    def presence_stats(self, channel: str) -> PresenceStats:
        """How many are in `channel`."""
        return self._ask(lambda hub: hub.presence_stats(channel))

    def disconnect(
        self, user: str, *, client: str = "", code: int = 0, reason: str = "", whitelist: Collection[str] = ()
    ) -> None:
        """Close the connections of `user` on all nodes, as `hubbub.Hubbub.disconnect`. Raises BackendError."""
        self._ask(lambda hub: hub.disconnect(user, client=client, code=code, reason=reason, whitelist=whitelist))

    def unsubscribe(self, user: str, channel: str = "", *, client: str = "") -> None:
        """End the user's subscriptions to `channel` (all if empty) on all nodes, and tell the clients."""
        self._ask(lambda hub: hub.unsubscribe(user, channel, client=client))

    def revoke(self, user: str, *, ttl: float = app.TOKEN_TTL) -> None:
        """Close the connections of `user`, and for `ttl` seconds refuse the tokens that were issued to it until now."""
        self._ask(lambda hub: hub.revoke(user, ttl=ttl))

    # how it does it -------------------------------------------------------------------------------------------------

    def _ask(self, work: Callable[[app.Hubbub], Coroutine[Any, Any, T]]) -> T:
        self._look_around()
        return self._here().background.call(work)

    def _here(self) -> _Process:
        """What this process has. A forked child begins anew: of its parent's threads and locks it has only ruins."""
        pid = os.getpid()
        here = self._processes.get(pid)
        if here is None:
            here = self._processes.setdefault(pid, _Process(self._redis(), self._make))  # one, whoever comes first
            for other in [each for each in list(self._processes) if each != pid]:
                parent = self._processes.pop(other, None)
                if parent is not None and parent.redis is not None:
                    parent.redis.pool.forsake()
        return here

    def _redis(self) -> BlockingRedis | None:
        if not self._is_shared:
            return None
        from hubbub.brokers.blocking import BlockingRedis
        from hubbub.redis.pool import Pool
        from hubbub.redis.topology import endpoint_of

        broker, clock = self.settings.broker, SystemClock()
        smallest, largest, deadline = self._pool
        address = endpoint_of(broker.url, client_name=f"{broker.name}-sync")
        pool = Pool(address, clock=clock, smallest=smallest, largest=largest)
        return BlockingRedis(pool, name=broker.name, prefix=broker.prefix, clock=clock, deadline=deadline)

    def _make(self, workers: Workers, *, is_handling: bool) -> app.Hubbub:
        """The hub of the background thread."""
        hub = app.Hubbub(settings=self.settings)
        if is_handling:
            for topic, function in self._handlers:
                hub.on(topic)(workers.asynchronous(function))
        return hub

    def _node(self, here: _Process) -> Node:
        """Whose gate it is: a hub with handlers refuses what they could not read."""
        return (here.background.hub or self._model).node

    def _look_around(self) -> None:
        if asyncio._get_running_loop() is not None:
            self._sparing.warning(
                "loop",
                time.monotonic(),
                "hubbub.sync blocks, and was called inside an event loop, which stands still meanwhile: use"
                " hubbub.Hubbub there",
            )


class _Process:
    """What one process has of a hub."""

    def __init__(self, redis: BlockingRedis | None, make: Callable[..., app.Hubbub]) -> None:
        self.redis = redis
        self.is_handling = False
        self.background = Background(lambda workers: make(workers, is_handling=self.is_handling), self._meet)

    async def _meet(self, hub: app.Hubbub) -> None:
        """Wait until the other nodes have said that they are there, for a moment: who is asked for must be known."""
        if self.redis is None:
            return
        try:
            async with asyncio.timeout(ACQUAINTANCE):
                expected = await asyncio.to_thread(self.redis.nodes)
                while len(hub.node.everywhere.nodes()) < expected:  # noqa: ASYNC110  # they tell nobody that they have
                    await asyncio.sleep(0.01)
        except (TimeoutError, BackendError) as error:
            log.info("not all other nodes are known yet: %s", error)
