"""`Hubbub`: the one object that an application holds. It builds the house from settings and opens its doors.

Answers for: putting the parts together, starting and stopping them, and the Python face of publish, subscribe,
history and presence. Refuses to know: listening sockets (`server`), and everything below by more than its
constructor.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from hubbub import payload
from hubbub.auth import TokenVerifier
from hubbub.brokers.base import StreamOptions
from hubbub.brokers.memory import MemoryBroker
from hubbub.channels import Namespaces, PersonalChannels
from hubbub.clock import Clock, SystemClock, TimerWheel
from hubbub.core.access import Access
from hubbub.core.connection import Connection, Transport
from hubbub.core.node import HISTORY_LIMIT, Limits, Node
from hubbub.core.reader import ChannelReader
from hubbub.errors import HubbubError
from hubbub.model import ClientInfo, Position, PresenceStats, Published
from hubbub.model import Publication as Kept
from hubbub.presence.memory import MemoryPresence
from hubbub.protocol.codec import Codec
from hubbub.protocol.session import Timing
from hubbub.settings import Settings, load

if TYPE_CHECKING:
    from hubbub.http.application import ASGIApp

#: Where clients connect, as every SDK's documentation has it.
WEBSOCKET_PATH = "/connection/websocket"

#: Bytes that a frame may hold besides twice the largest payload: room for the rest of a command, so that a payload
#: slightly too large gets its error and not a close.
ENVELOPE = 4096

#: Bytes of one subscribe command, with a long name and a long token.
SUBSCRIBE_BYTES = 2048


class Publication(msgspec.Struct, frozen=True):
    """A publication as Python code gets it. `data` is the decoded payload (bytes in binary channels).

    `position` is None for what is kept nowhere; `info` is the publishing client's, None for a server's publication.
    """

    channel: str
    data: Any
    position: Position | None = None
    info: ClientInfo | None = None
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)


class History(msgspec.Struct, frozen=True):
    """What a channel has kept, and where it stands."""

    publications: list[Publication]
    position: Position


class Subscription:
    """An `async for` over a channel, from `Hubbub.subscribe`. Use it as a context manager, so that it ends."""

    def __init__(self, node: Node, channel: str, *, since: Position | None, history: int) -> None:
        self.channel = channel
        self._reader = ChannelReader(node, channel)
        self._start = (since, history)
        self._epoch = ""
        self._is_open = False

    async def __aenter__(self) -> Self:
        self._is_open = True
        position = await self._reader.open(*self._start)
        self._epoch = position.epoch if position is not None else ""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Publication:
        if not self._is_open:
            raise HubbubError("this subscription is not open: use `async with hub.subscribe(...) as subscription`")
        publication = await self._reader.next()
        if publication is None:
            raise StopAsyncIteration
        return _decoded(self.channel, publication, self._epoch)


class Hubbub:
    """Real-time messaging in one object.

        hub = Hubbub()                                          # in memory
        hub = Hubbub(config="hubbub.toml")
        hub = Hubbub(channels={"room": {"delivery": "recent", "subscribe": "anyone"}})

    Settings come from keyword arguments (sections as dictionaries), then the environment, then the file; see
    `settings`. Start it with `async with hub`, with `hub.lifespan`, or by serving `hub.asgi()`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        config: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
        **sections: Mapping[str, object],
    ) -> None:
        self.settings = settings or load(Path(config) if config is not None else None, None, _overrides(url, sections))
        self.node = _build(self.settings, TimerWheel(clock or SystemClock()))
        self._starts = 0

    # lifetime -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin. Every start needs its stop; the last stop ends it."""
        if not self._starts:
            await self.node.start()
        self._starts += 1

    async def stop(self) -> None:
        """Send every client away with a code that it comes back from, and let go of everything."""
        self._starts = max(0, self._starts - 1)
        if not self._starts:
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
        """Publish `data` (anything that JSON can hold; bytes in binary channels) and return where it stands.

        With the same `idempotency_key` within five minutes it is published once. A `version` not above the last one is
        dropped. `ephemeral`: to whoever listens now, kept nowhere. Raises UnknownChannel, BadRequest, BackendError.
        """
        rules = self.node.namespaces.resolve(channel)
        if rules.data == "json":
            body = payload.encode(data)
        else:
            body = data.encode() if isinstance(data, str) else bytes(data)
        options = StreamOptions(idempotency_key=idempotency_key, version=version)
        return await self.node.publish(channel, body, options=options, tags=tags, rules=rules, ephemeral=ephemeral)

    def subscribe(self, channel: str, *, history: int = 0, since: Position | None = None) -> Subscription:
        """Listen to `channel`, after its last `history` publications or after the position `since`, without a hole.

        At most 300 of `history`, and not together with `since`. A reader that is slow is caught up from memory; one
        that lost its place for good gets PositionLost. It ends when the hub stops.
        """
        if history and since is not None:
            raise ValueError("give history or since: both say where to begin")
        if history > HISTORY_LIMIT:
            raise ValueError(f"history = {history}: at most {HISTORY_LIMIT}; read the rest with history()")
        self._require_start()
        return Subscription(self.node, channel, since=since, history=history)

    async def history(
        self, channel: str, *, limit: int = -1, since: Position | None = None, reverse: bool = False
    ) -> History:
        """What `channel` has kept: at most `limit` (below 0: up to 300), after `since`; with `reverse` newest first."""
        page = await self.node.history(channel, limit, since, reverse=reverse)
        return History([_decoded(channel, item, page.head.epoch) for item in page.publications], page.head)

    async def presence(self, channel: str) -> dict[str, ClientInfo]:
        """Who is in `channel`, by connection."""
        return await self.node.presence(channel)

    async def presence_stats(self, channel: str) -> PresenceStats:
        """How many are in `channel`."""
        return await self.node.presence_stats(channel)

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
        from hubbub.http.api import Api
        from hubbub.http.application import application
        from hubbub.transports.asgi import AsgiDoor
        from hubbub.transports.handshake import Gate

        server = self.settings.server
        door = AsgiDoor(
            self.connect,
            gate=Gate(server.allowed_origins, server.trusted_proxies),
            max_message=self.max_message,
            write_budget=self.settings.client.write_budget,
        )
        api = Api(self.node, self.settings.api.key, max_body=max(1 << 20, self.max_message))
        return application(api.routes, door, path=WEBSOCKET_PATH, lifespan=self.lifespan, fallback=fallback)


def _build(settings: Settings, timers: TimerWheel) -> Node:
    namespaces = Namespaces(settings.channels)
    auth, client = settings.auth, settings.client
    return Node(
        namespaces,
        MemoryBroker(timers),
        presence=MemoryPresence(),
        timers=timers,
        access=Access(
            namespaces,
            TokenVerifier(auth.hmac_secret),
            personal=PersonalChannels(auth.personal_channel),
            anonymous=auth.anonymous,
            insecure=auth.insecure,
        ),
        limits=Limits(
            timing=Timing(client.ping_interval, client.pong_timeout, client.stale_timeout),
            stall_timeout=client.stall_timeout,
            expired_grace=client.expired_grace,
            max_channels=client.max_channels,
            write_budget=client.write_budget,
        ),
    )


def _overrides(url: str | None, sections: Mapping[str, Any]) -> dict[str, object]:
    """Keyword arguments as dotted keys."""
    found: dict[str, object] = {} if url is None else {"broker.url": url}
    for section, values in sections.items():
        if not isinstance(values, Mapping):
            found[section] = values
            continue
        for name, value in values.items():
            if isinstance(value, Mapping):
                found |= {f"{section}.{name}.{key}": inner for key, inner in value.items()}
            else:
                found[f"{section}.{name}"] = value
    return found


def _decoded(channel: str, kept: Kept, epoch: str) -> Publication:
    position = Position(epoch, kept.offset) if kept.offset else None
    data = kept.data if kept.binary else payload.decode(kept.data)
    return Publication(channel, data, position, kept.info, kept.tags or {})
