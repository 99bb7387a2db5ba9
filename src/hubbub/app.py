"""`Hubbub`: the one object that an application holds. It builds the house from settings and opens its doors.

Answers for: starting and stopping, and the Python face: publish, subscribe, history and presence, channel classes,
handlers, RPCs, tokens, and what servers do to clients. Refuses to know: listening sockets (`server`), what handlers
look like (`handlers`), how the house is built (`assembly`), and what is below by more than its methods.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, TypeVar, Unpack, overload

import msgspec

from hubbub import DEFAULT_CONFIG, payload
from hubbub.assembly import node_of, overrides
from hubbub.auth import mint
from hubbub.brokers.base import StreamOptions
from hubbub.captures import ChannelPattern
from hubbub.channels import DEFAULT, ChannelRules, Delivery, JoinLeave, MayPublish, MayRead, MaySubscribe
from hubbub.clock import Clock, SystemClock, TimerWheel
from hubbub.core.connection import Connection, Transport
from hubbub.core.node import HISTORY_LIMIT, Node
from hubbub.core.reader import ChannelReader
from hubbub.errors import BadRequest, ConfigurationError, HubbubError
from hubbub.handlers.application import Application
from hubbub.handlers.consumers import Consumer, Consumers
from hubbub.handlers.publication import Publication, decoded
from hubbub.handlers.rooms import Room
from hubbub.handlers.signatures import require_name, where
from hubbub.handlers.typed import Reader
from hubbub.model import ClientInfo, Position, PresenceStats, Published
from hubbub.outbox import Outgoing, outgoing
from hubbub.payload import DataFormat
from hubbub.protocol.codec import Codec
from hubbub.settings import Settings, line_of, load, notes

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # every type checker brings it; unions are no `type[T]`

    from hubbub.http.application import ASGIApp

T = TypeVar("T")
C = TypeVar("C", bound=type)
H = TypeVar("H", bound=Callable[..., Awaitable[Any]])

#: Where clients connect, as every SDK's documentation has it.
WEBSOCKET_PATH = "/connection/websocket"

#: Bytes that a frame may hold besides twice the largest payload: room for the rest of a command, so that a payload
#: slightly too large gets its error and not a close.
ENVELOPE = 4096

#: Bytes of one subscribe command, with a long name and a long token.
SUBSCRIBE_BYTES = 2048

#: Publications of one application in one turn of the loop.
BREATH = 64

#: Seconds that a token is good for if nobody says otherwise. SDKs fetch the next one in time.
TOKEN_TTL = 3600.0


class ChannelOptions(TypedDict, total=False):
    """What `hub.channel` takes: the rules of `ChannelRules`, durations and sizes also as text ("5m", "64KiB")."""

    delivery: Delivery
    history_size: int
    history_ttl: float | str
    retention: float | str
    presence: bool
    join_leave: JoinLeave
    subscribe: MaySubscribe
    publish: MayPublish
    read: MayRead
    data: DataFormat
    max_bytes: int | str
    rate: str


class History(msgspec.Struct, Generic[T], frozen=True):
    """What a channel has kept, and where it stands."""

    publications: list[Publication[T]]
    position: Position


class Subscription(Generic[T]):
    """An `async for` over a channel, from `Hubbub.subscribe`. Use it as a context manager, so that it ends."""

    def __init__(
        self, open_reader: Callable[[], ChannelReader], channel: str, *, since: Position | None, history: int, type: Any
    ) -> None:
        self.channel = channel
        self._open_reader = open_reader
        self._payloads = Reader(type)
        self._start = (since, history)
        self._epoch = ""
        self._reader: ChannelReader | None = None

    async def __aenter__(self) -> Self:
        self._reader = self._open_reader()
        position = await self._reader.open(*self._start)
        self._epoch = position.epoch if position is not None else ""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Publication[T]:
        if self._reader is None:
            raise HubbubError("this subscription is not open: use `async with hub.subscribe(...) as subscription`")
        publication = await self._reader.next()
        if publication is None:
            raise StopAsyncIteration
        return decoded(self.channel, publication, self._epoch, self._payloads)


class Hubbub:
    """Real-time messaging in one object.

        hub = Hubbub()                                          # in memory, with hubbub.toml where there is one
        hub = Hubbub(config="hubbub.toml")                      # or another file; it has to be there
        hub = Hubbub(channels={"room": {"delivery": "recent", "subscribe": "anyone"}})

    Settings come from keyword arguments (sections as dictionaries), then the environment, then the file; see
    `settings`. The file is `config`, else the `hubbub.toml` of the working directory where there is one; with ready
    `settings=`, none of these is read. Start it with `async with hub`, with `hub.lifespan`, or by serving `hub.asgi()`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        config: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
        **sections: Mapping[str, object] | str,
    ) -> None:
        if config is None and settings is None and Path(DEFAULT_CONFIG).exists():
            config = DEFAULT_CONFIG
        self.settings = settings or load(Path(config) if config is not None else None, None, overrides(url, sections))
        self._said = (config, overrides(url, sections)) if settings is None else None
        self._clock = clock
        self._declared: list[tuple[ChannelPattern, ChannelRules]] = []
        self._application = Application(lambda: self.node.observer, timeout=self.settings.client.handler_timeout)
        self._consumers = Consumers(lambda: self.node)
        self._starts = 0
        self._changing = asyncio.Lock()  # starts and stops wait for each other
        self._published = 0
        self._build()

    def override(self, settings: Mapping[str, object]) -> None:
        """Stronger settings than all that were given so far, by dotted key (`server.port`). Before the start only.

        Raises ConfigurationError for what is wrong, HubbubError after the start.
        """
        if self._starts:
            raise HubbubError("the hub is started: settings are given before")
        if self._said is None:
            raise HubbubError("this hub was made of ready settings: change those")
        config, said = self._said
        said = {**said, **settings}
        self.settings = load(Path(config) if config is not None else None, None, said)
        self._said = (config, said)
        self._build()

    def _build(self) -> None:
        self._application.timeout = self.settings.client.handler_timeout
        self.node = node_of(self.settings, TimerWheel(self._clock or SystemClock()), self._application)
        for pattern, rules in self._declared:
            self.node.namespaces.declare(pattern, rules)

    def notes(self) -> list[str]:
        """What whoever starts a server of this hub should know: who may not connect, and what is closed."""
        return notes(self.settings, authenticates=self._application.authenticates, declares=bool(self._declared))

    @contextmanager
    def rehearsal(self, clock: Clock, settings: Mapping[str, object]) -> Iterator[None]:
        """Inside, it is a hub on `clock` in a new house in memory, with everything that is registered so far, stronger
        `settings` by dotted key, and new instances of the channel classes. Afterwards it is as it was.

        For `hubbub.testing`. Raises HubbubError where the hub is started, ConfigurationError.
        """
        if self._starts:
            raise HubbubError("the hub is started: let the test start it")
        before = dict(self.__dict__)
        try:
            self._clock = clock
            self._declared = list(self._declared)
            self._application = self._application.renewed()
            self._consumers = self._consumers.renewed()
            if settings:
                self.override(settings)
            else:
                self._build()
            yield
        finally:
            self.__dict__ = before  # whatever happened inside

    @property
    def at_work(self) -> list[str]:
        """The application's handlers that run at this moment, by where they stand."""
        return [*self._application.at_work.values(), *self._consumers.at_work.values()]

    # lifetime -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; when it returns, all back-end handlers hear. Every start needs its stop; the last stop ends it.

        Raises BackendError, and UnknownChannel for a handler of a channel that no rules know.
        """
        async with self._changing:
            if not self._starts:
                await self.node.start()
                try:
                    await self._consumers.start()
                except BaseException:
                    await self.node.stop()
                    raise
            self._starts += 1

    async def stop(self) -> None:
        """Let back-end handlers finish, send every client away with a code that it comes back from, and end."""
        async with self._changing:
            self._starts = max(0, self._starts - 1)
            if not self._starts:
                await self._consumers.stop()
                await self.node.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """For `FastAPI(lifespan=hub.lifespan)` and every other framework with lifespans."""
        async with self:
            yield

    # what the application says --------------------------------------------------------------------------------------

    def on(self, topic: str) -> Callable[[H], H]:
        """A back-end handler of a channel, or of all that match a glob (`*`, `?`, `[abc]`), in every process that runs
        this code.

            @hub.on("orders.*")
            async def show(publication: Publication[Order]): ...      # or: async def show(order: Order)

        A payload that does not fit the annotation is refused at publish. Raises ConfigurationError.
        """
        require_name(topic, "hub.on")

        def register(function: H) -> H:
            self._consumers.add(Consumer(topic, function))
            return function

        return register

    def channel(self, pattern: str, **options: Unpack[ChannelOptions]) -> Callable[[C], C]:
        """All that clients may do in the channels of `pattern`, in one class.

            @hub.channel("room:{room_id}", delivery="recent", presence=True)
            class Room:
                async def subscribe(self, connection: Connection, room_id: int) -> None: ...      # or raise
                async def publish(self, connection: Connection, room_id: int, data: Note) -> Note | None: ...
                async def join(self, connection: Connection, room_id: int) -> None: ...
                async def leave(self, connection: Connection, room_id: int) -> None: ...

        Each method may be left out, and so may each capture among its parameters. `publish` returns None to publish
        the data as it came, a value to publish that instead, an `Ephemeral`, or raises.

        `options` are the rules of these channels. Without `subscribe=` and `publish=`, a method of that name decides
        (`publish` for subscribers only); both together have to agree. Raises ConfigurationError.
        """
        require_name(pattern, "hub.channel")

        def register(of: C) -> C:
            where_from = where(of)
            parsed = ChannelPattern(pattern)
            rules = self._rules_of(parsed, of, options)
            self._refuse_second_rules(parsed, where_from)
            self._application.add_room(Room(parsed, of, format=rules.data, ask=self._application.ask))
            self.node.namespaces.declare(parsed, rules)
            self._declared.append((parsed, rules))
            return of

        return register

    def rpc(self, method: str) -> Callable[[H], H]:
        """What clients call by name.

            @hub.rpc("rooms.rename")
            async def rename(connection: Connection, request: Rename) -> Room: ...

        Raises ConfigurationError.
        """
        require_name(method, "hub.rpc")

        def register(function: H) -> H:
            self._application.add_rpc(method, function)
            return function

        return register

    def authenticate(self, function: H) -> H:
        """Who is it, where no token says so? `async def who(connection: Connection) -> Credentials | None`.

        It is asked where a client brings no token, and with every token where no key is set to verify tokens with.
        """
        self._application.set_authenticate(function)
        return function

    def _rules_of(self, pattern: ChannelPattern, of: type, options: ChannelOptions) -> ChannelRules:
        said: dict[str, object] = {**options}
        if "subscribe" not in said:
            if not hasattr(of, "subscribe"):
                raise ConfigurationError(
                    f"{where(of)} does not say who may subscribe to {pattern.text!r}: give it"
                    " `async def subscribe(self, connection, ...)`,"
                    " or hub.channel(..., subscribe='anyone' | 'user' | 'owner' | 'token' | 'nobody')"
                )
            said["subscribe"] = "anyone"
        if "publish" not in said and hasattr(of, "publish"):
            said["publish"] = "subscriber"
        namespace = pattern.namespace or DEFAULT
        try:
            keys = {f"channels.{namespace}.{key}": value for key, value in said.items()}
            keys["store.url"] = self.settings.store.url  # without one, nothing can be durable
            return load(None, {}, keys).channels[namespace]
        except ConfigurationError as error:
            raise ConfigurationError(f"{where(of)}: {str(error).removeprefix('argument: ')}") from None

    def _refuse_second_rules(self, pattern: ChannelPattern, place: str) -> None:
        """Rules of one namespace stand in one place."""
        if pattern.namespace not in self.settings.channels:
            return
        section = f"channels.{pattern.namespace}"
        sources = self.settings.sources.items()
        origin = next((origin for key, origin in sources if key.startswith(f"{section}.")), "the settings")
        line = line_of(Path(origin), section) if Path(origin).is_file() else None
        other = f"{origin}, line {line}" if line else origin
        raise ConfigurationError(f"{pattern.text!r} has its rules in [{section}] of {other}, and in {place}: keep one")

    # what it does ---------------------------------------------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        tags: dict[str, str] | None = None,
        idempotency_key: str = "",
        version: int = 0,
        ephemeral: bool = False,
    ) -> Published:
        """Publish `data` (anything that JSON can hold; text or bytes in channels of those) and return where it stands.

        With the same `idempotency_key` within five minutes it is published once. A `version` not above the last one is
        dropped. `ephemeral`: to whoever listens now, kept nowhere. Raises UnknownChannel, BadRequest, BackendError.
        """
        self._require_start()
        rules = self.node.namespaces.resolve(channel)
        body = payload.body(data, rules.data)
        options = StreamOptions(idempotency_key=idempotency_key, version=version)
        done = await self.node.publish(channel, body, options=options, tags=tags, rules=rules, ephemeral=ephemeral)
        await self._breathe()
        return done

    async def _breathe(self) -> None:
        """In memory a publish waits for nothing, and who only publishes would let nobody else run."""
        self._published += 1
        if not self._published % BREATH:
            await asyncio.sleep(0)

    async def publish_many(self, publications: Iterable[tuple[str, Any]]) -> list[Published]:
        """Publish pairs of channel and data, in their order, and return where each stands.

        All are looked at before the first is published: BadRequest and UnknownChannel name the first that is wrong, and
        nothing was published then. Raises BackendError; those before it are published.
        """
        self._require_start()
        bodies: list[tuple[str, bytes, ChannelRules]] = []
        for number, (channel, data) in enumerate(publications):
            try:
                rules = self.node.namespaces.resolve(channel)
                body = payload.body(data, rules.data)
                self.node.admit(channel, body, rules)
                bodies.append((channel, body, rules))
            except BadRequest as error:
                raise BadRequest(f"publication {number} ({channel}): {error.message}") from None
        done = []
        for channel, body, rules in bodies:
            done.append(await self.node.publish(channel, body, rules=rules))
            await self._breathe()
        return done

    def outbox(
        self, channel: str, data: Any, *, tags: dict[str, str] | None = None, idempotency_key: str = ""
    ) -> Outgoing:
        """`data` as a row to insert in a transaction of your own: it is published once that has committed, or never.

            @hub.rpc("orders.pay")
            async def pay(caller: Connection, order: int) -> None:
                async with pool.acquire() as connection, connection.transaction():
                    await connection.execute("UPDATE orders SET state = 'paid' WHERE id = $1", order)
                    await connection.execute(*hub.outbox(f"orders:{order}", {"state": "paid"}).asyncpg)

        In durable channels, with the store in the same PostgreSQL database; `Outgoing` has it for other drivers. Needs
        no start. Raises UnknownChannel, BadRequest, ConfigurationError.
        """
        return outgoing(self.node, self.settings.store.url, channel, data, tags=tags, key=idempotency_key)

    @overload
    def subscribe(self, channel: str, *, history: int = 0, since: Position | None = None) -> Subscription[Any]: ...
    @overload
    def subscribe(
        self, channel: str, *, type: TypeForm[T], history: int = 0, since: Position | None = None
    ) -> Subscription[T]: ...
    def subscribe(
        self, channel: str, *, type: Any = Any, history: int = 0, since: Position | None = None
    ) -> Subscription[Any]:
        """Listen to `channel`, after its last `history` publications or after the position `since`, without a hole.

        `type` is what payloads are read as. At most 300 of `history`, and not together with `since`. A reader that is
        slow is caught up from memory; one that lost its place for good gets PositionLost. It ends when the hub stops.
        """
        if history and since is not None:
            raise ValueError("give history or since: both say where to begin")
        if history > HISTORY_LIMIT:
            raise ValueError(f"history = {history}: at most {HISTORY_LIMIT}; read the rest with history()")
        self._require_start()
        return Subscription(lambda: ChannelReader(self.node, channel), channel, since=since, history=history, type=type)

    @overload
    async def history(
        self, channel: str, *, limit: int = -1, since: Position | None = None, reverse: bool = False
    ) -> History[Any]: ...
    @overload
    async def history(
        self, channel: str, *, type: TypeForm[T], limit: int = -1, since: Position | None = None, reverse: bool = False
    ) -> History[T]: ...
    async def history(
        self, channel: str, *, type: Any = Any, limit: int = -1, since: Position | None = None, reverse: bool = False
    ) -> History[Any]:
        """What `channel` has kept: at most `limit` (below 0: up to 300), after `since`; with `reverse` newest first.

        `type` is what payloads are read as; BadRequest names the field of one that does not fit.
        """
        self._require_start()
        page = await self.node.history(channel, limit, since, reverse=reverse)
        reader = Reader(type)
        return History([decoded(channel, item, page.head.epoch, reader) for item in page.publications], page.head)

    async def presence(self, channel: str) -> dict[str, ClientInfo]:
        """Who is in `channel`, by connection."""
        return await self.node.presence(channel)

    async def presence_stats(self, channel: str) -> PresenceStats:
        """How many are in `channel`."""
        return await self.node.presence_stats(channel)

    async def channels(self, pattern: str = "") -> dict[str, int]:
        """Channels that somebody listens to, and how many; `pattern` is a glob, empty for all."""
        return await self.node.everywhere.channels(pattern)

    async def subscribers(self, channel: str) -> int:
        """How many subscriptions `channel` has on all nodes, back-end code's included."""
        exactly = re.sub(r"[*?[]", r"[\g<0>]", channel)
        return (await self.node.everywhere.channels(exactly)).get(channel, 0)

    # what servers do to clients -------------------------------------------------------------------------------------

    def token(
        self,
        user: str,
        *,
        channel: str = "",
        ttl: float | None = TOKEN_TTL,
        info: object = None,
        channels: Sequence[str] = (),
    ) -> str:
        """A token for `user` to connect with, and to be subscribed to `channels` at once; with `channel`, one to
        subscribe to that. `ttl` in seconds, None: for ever. `info` is what others see of the user.

        Raises ConfigurationError where there is no secret to sign with.
        """
        given: tuple[object, object] = (user, channels)  # not everybody runs a type checker
        if not isinstance(given[0], str) or isinstance(given[1], str):
            raise TypeError("user is text, and channels are a list of names: hub.token(str(user), channels=[name])")
        if ttl is not None and ttl <= 0:
            raise ValueError(f"ttl = {ttl}: expected more than 0 seconds; None is for ever")
        secret = self.settings.auth.signing_secret
        if not secret:
            raise ConfigurationError("auth.hmac_secret is empty: set it to sign tokens with")
        now = int(self.node.clock.time())
        return mint(
            secret,
            {
                "sub": user,
                "channel": channel or None,
                "iat": now,
                "exp": None if ttl is None else now + int(ttl),
                "info": info,
                "channels": list(channels) or None,
                **self.settings.auth.own_claims,
            },
        )

    async def disconnect(
        self, user: str, *, client: str = "", code: int = 0, reason: str = "", whitelist: Collection[str] = ()
    ) -> int:
        """Close the connections of `user` (with `client`: that one), but those in `whitelist`. Returns how many.

        `code` from 4000 to 4499 lets clients come back, 4500 to 4999 does not; without one they stay away (3503).
        """
        return await self.node.everywhere.disconnect(user, client, code=code, reason=reason, whitelist=whitelist)

    async def unsubscribe(self, user: str, channel: str = "", *, client: str = "") -> int:
        """End the user's subscriptions to `channel` (all channels if empty), and tell the clients. Returns how many."""
        return await self.node.everywhere.unsubscribe(user, channel, client)

    async def revoke(self, user: str, *, ttl: float = TOKEN_TTL) -> int:
        """Close the connections of `user`, and refuse the tokens that were issued to it until now. Returns how many.

        `ttl` in seconds is how long they are remembered: the longest that such a token can still be good.
        """
        return await self.node.everywhere.revoke(user, ttl=ttl)

    # doors ----------------------------------------------------------------------------------------------------------

    def connect(self, transport: Transport, codec: Codec) -> Connection:
        """A new client behind `transport`; doors call this. Raises HubbubError before the start."""
        self._require_start()
        return Connection(self.node, transport, codec=codec)

    @property
    def max_message(self) -> int:
        """Bytes of one incoming message: a payload that is too large for any channel, or all subscribes of a returning
        client with their tokens, which SDKs send at once.
        """
        subscribes = self.settings.client.max_channels * SUBSCRIBE_BYTES
        return max(65536, 2 * self.node.namespaces.max_bytes + ENVELOPE, subscribes)

    def _require_start(self) -> None:
        if not self.node.is_running:
            raise HubbubError("the hub is not started: use `async with hub`, or FastAPI(lifespan=hub.lifespan)")

    def asgi(self, fallback: ASGIApp | None = None) -> ASGIApp:
        """An ASGI application with the client endpoint, the HTTP API and the health pages; mount it or serve it."""
        doors: ASGIApp | None = None
        behind: Node | None = None

        async def application(scope: Any, receive: Any, send: Any) -> None:
            nonlocal doors, behind
            if doors is None or behind is not self.node:  # only now: channels are declared after this was mounted
                doors, behind = self._doors(fallback), self.node
            await doors(scope, receive, send)

        return application

    def _doors(self, fallback: ASGIApp | None) -> ASGIApp:
        from hubbub.http.api import Api
        from hubbub.http.application import application
        from hubbub.transports.asgi import AsgiDoor
        from hubbub.transports.handshake import Gate

        server = self.settings.server
        door = AsgiDoor(
            self.connect,
            refusal=self.node.refusal,
            gate=Gate(server.allowed_origins, server.trusted_proxies),
            max_message=self.max_message,
            write_budget=self.settings.client.write_budget,
        )
        api = Api(self.node, self.settings.api.key, max_body=max(1 << 20, self.max_message))
        return application(api.routes, door, path=WEBSOCKET_PATH, lifespan=self.lifespan, fallback=fallback)
