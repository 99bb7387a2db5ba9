"""What each command of a client does: one short function each, and a table.

Answers for: the meaning of the commands, in terms of access, node and doorkeeper, and the shape of their results.
Refuses to know: bytes, order (`lanes`), and how failures reach the client: a function raises ReplyError to answer
with a code, and Disconnect to close.

A function returns its result to be answered, or None when it has answered by itself, because something has to happen
in the same breath: a subscription goes live right behind its answer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar, cast

from msgspec import UNSET, DecodeError, Raw, Struct, json

from hubbub.brokers.base import StreamOptions
from hubbub.channels import ChannelRules
from hubbub.core.hooks import Guard, Handshake
from hubbub.core.hub import GONE, Subscription
from hubbub.core.node import MAX_KEY, Node
from hubbub.core.registry import Registered
from hubbub.core.subscribing import Entry, Member
from hubbub.errors import (
    AlreadySubscribed,
    BadRequest,
    Disconnect,
    DisconnectCode,
    LimitExceeded,
    PermissionDenied,
    ProtocolError,
    UnrecoverablePosition,
)
from hubbub.model import ClientInfo, Credentials, Grant, Position, Published
from hubbub.payload import admit, from_json
from hubbub.protocol import messages as wire
from hubbub.protocol.codec import Codec, info_message
from hubbub.protocol.session import Session
from hubbub.rates import Rate
from hubbub.version import VERSION

T = TypeVar("T")


class Waiting(Protocol):
    """What a connection does while the application thinks, and how much it may ask for."""

    async def while_here(self, task: asyncio.Task[T]) -> T:
        """The task's result; it is cancelled where the connection ends before it."""
        ...

    def spend(self, channel: str, rate: Rate) -> None:
        """One publication more in `channel`. Raises TooManyRequests (111)."""
        ...


class Client(Member, Registered, Waiting, Protocol):
    """What commands need of the connection that sent them."""

    @property
    def is_ready(self) -> bool:
        """Whether it can take more than answers."""
        ...

    session: Session
    credentials: Credentials

    @property
    def request(self) -> tuple[Mapping[str, str], str]:
        """Headers by lower-case name, and the query, of the HTTP request that it came with."""
        ...

    def identify(self, credentials: Credentials) -> None:
        """Who it is."""
        ...

    def connected(self, credentials: Credentials) -> None:
        """It has connected."""
        ...

    def rearm(self) -> None:
        """An expiry has changed."""
        ...

    def reply(self, id: int, result: wire.Result) -> None:
        """Answer command `id`."""
        ...

    def leave(self, subscription: Subscription) -> None:
        """End one subscription silently."""
        ...


async def connect(node: Node, client: Client, id: int, request: wire.ConnectRequest) -> None:
    """Who is it? Then its server-side subscriptions, the answer, and live."""
    credentials = await _who(node, client, request)
    if len(credentials.subs) > node.limits.max_channels:
        raise Disconnect(DisconnectCode.CHANNEL_LIMIT)
    client.identify(credentials)
    entries = await _enter_server_side(node, client, credentials, request.subs)
    client.connected(credentials)
    ttl = node.access.ttl(credentials.expire_at, node.clock.time()) if credentials.can_refresh else None
    timing = client.session.timing
    client.reply(
        id,
        wire.ConnectResult(
            client=client.id,
            version=f"hubbub {VERSION}",
            expires=ttl is not None,
            ttl=ttl or 0,
            data=_payload(credentials.data),
            subs={name: _subscribe_result(node, client, entry) for name, entry in entries.items()},
            ping=max(1, round(timing.ping)),
            pong=True,
        ),
    )
    for entry in entries.values():
        _go_on(node, client, entry)


async def _who(node: Node, client: Client, request: wire.ConnectRequest) -> Credentials:
    """A token says it, where tokens are verified; else the application does, if it has a say; else it is anonymous."""
    if not (request.token and node.access.verifies):
        headers, query = client.request
        asked = node.handlers.authenticate(client, Handshake(request.token, _bytes(request.data), headers, query))
        if asked is not None:
            said = await client.while_here(node.tasks.spawn(asked, "authenticate", quiet=True))
            if client.is_closed:
                raise Disconnect(DisconnectCode.CONNECTION_CLOSED)
            if said is not None:
                return node.access.accept(said, node.clock.time())
    return node.access.connect(request.token, node.clock.time())


async def _enter_server_side(
    node: Node, client: Client, credentials: Credentials, positions: Mapping[str, wire.SubscribeRequest]
) -> dict[str, Entry]:
    """All server-side subscriptions, each as far as its answer. They go live after the connect reply."""
    entries = {}
    try:
        for channel, personal in credentials.subs.items():
            asked = positions.get(channel, wire.SubscribeRequest())
            rules = node.namespaces.resolve(channel)
            subscription = node.doorkeeper.reserve(client, channel, rules, guard=node.handlers.guard(channel))
            subscription.is_server_side = True
            subscription.chan_info = personal.info
            client.subscriptions[channel] = subscription
            await node.doorkeeper.enter(client, subscription)
            _stop_if_gone(client, subscription)
            subscription.wants_notices = rules.join_leave == "always"
            entries[channel] = await node.doorkeeper.begin(subscription, _since(asked))
            _stop_if_gone(client, subscription)
    except BaseException:
        for subscription in list(client.subscriptions.values()):
            client.leave(subscription)
        raise
    return entries


async def subscribe(node: Node, client: Client, id: int, request: wire.SubscribeRequest) -> None:
    """Into a channel, with what was missed since the client's position, if it gives one."""
    channel = _channel(request.channel)
    if request.delta not in ("", "fossil"):
        raise ProtocolError(f"unknown delta {request.delta!r}")
    rules = node.namespaces.resolve(channel)
    if request.type != 0:
        raise PermissionDenied  # maps and shared polls: no namespace of ours is of that type
    if channel in client.subscriptions:
        raise _already(client.subscriptions[channel])
    if len(client.subscriptions) >= node.limits.max_channels:
        raise LimitExceeded(f"limit exceeded: client.max_channels = {node.limits.max_channels}")
    grant = node.access.subscribe(client, channel, request.token, node.clock.time())
    guard = node.handlers.guard(channel)
    subscription = node.doorkeeper.reserve(client, channel, rules, guard=guard)
    subscription.chan_info = grant.info
    client.subscriptions[channel] = subscription
    try:
        if guard is not None and "subscribe" in guard.asks:
            may = node.tasks.spawn(guard.subscribe(client), f"may subscribe to {channel}", quiet=True)
            await client.while_here(may)
            _stop_if_gone(client, subscription)
        await node.doorkeeper.enter(client, subscription)
        _stop_if_gone(client, subscription)
        entry = await node.doorkeeper.begin(subscription, _since(request))
        _stop_if_gone(client, subscription)
        if entry.recovered is False and request.flag & wire.REJECT_UNRECOVERED:
            raise UnrecoverablePosition
    except BaseException:
        client.leave(subscription)
        raise
    subscription.expire_at = 0.0 if node.access.insecure else grant.expire_at
    subscription.wants_notices = rules.join_leave == "always" or (
        rules.join_leave == "asked" and request.join_leave and rules.may_read(channel, client.user, subscribed=True)
    )
    client.reply(id, _subscribe_result(node, client, entry, grant))
    _go_on(node, client, entry)
    if subscription.expire_at:
        client.rearm()


def _already(subscription: Subscription) -> AlreadySubscribed:
    """For a server-side one it is what newcomers meet: they subscribe to what their token subscribes them to."""
    if subscription.is_server_side:
        return AlreadySubscribed("already subscribed: the server has done it; listen with client.on('publication')")
    return AlreadySubscribed()


def _go_on(node: Node, client: Client, entry: Entry) -> None:
    """Right behind the answer: live, or the rest of what was missed; and the others are told."""
    if client.is_ready and not node.pump.advance(entry.subscription):
        node.pump.run(cast("Any", client))
    node.doorkeeper.entered(client, entry.subscription)


def _subscribe_result(node: Node, client: Client, entry: Entry, grant: Grant | None = None) -> wire.SubscribeResult:
    codec: Codec = client.session.codec
    position = entry.position
    ttl = node.access.ttl(grant.expire_at, node.clock.time()) if grant is not None else None
    return wire.SubscribeResult(
        expires=ttl is not None,
        ttl=ttl or 0,
        recoverable=position is not None,
        positioned=position is not None,
        epoch=position.epoch if position is not None else "",
        offset=position.offset if position is not None else 0,
        publications=[Raw(codec.publication(publication)) for publication in entry.publications],
        recovered=entry.recovered is True,
        was_recovering=entry.recovered is not None,
        data=_payload(grant.data) if grant is not None else UNSET,
    )


async def unsubscribe(node: Node, client: Client, id: int, request: wire.UnsubscribeRequest) -> wire.UnsubscribeResult:
    """Out of a channel; no error if it was not in it."""
    subscription = client.subscriptions.get(_channel(request.channel))
    if subscription is not None and not subscription.is_server_side:
        client.leave(subscription)
    return wire.UnsubscribeResult()


def publish(
    node: Node, client: Client, id: int, request: wire.PublishRequest
) -> wire.PublishResult | Coroutine[Any, Any, wire.PublishResult] | asyncio.Future[Published]:
    """Into a channel, with the publisher's identity. No coroutine where there is nothing to wait for.

    A future is that of a commit: it has its place in the order already, and many may be under way.
    """
    channel = request.channel or _channel("")
    subscription = client.subscriptions.get(channel)
    if subscription is not None and subscription.may_publish:
        rules = subscription.channel.rules
        channel = subscription.channel.name  # the same string as in every table that is asked on the way
        guard = subscription.guard
    else:
        subscribed = subscription is not None and subscription.has_begun
        rules = node.access.publish(client, channel, subscribed)
        guard = node.handlers.guard(channel)
        if subscription is not None and subscribed:
            subscription.may_publish = True  # neither its user nor the rules change while it lasts
    if rules.rate:
        _spend(client, channel, rules)
    data = b"" if request.data is UNSET else bytes(request.data)
    is_json = client.session.codec.checks_json
    if is_json and rules.data != "json":
        data = from_json(data, rules.data)
    info = client.info_in(subscription)
    if guard is not None and "publish" in guard.asks:
        return _published(_guarded(node, client, guard, channel=channel, data=data, rules=rules, info=info))
    rest = node.begin_publish(channel, data, rules, info, is_json)
    if rest is None:
        return PUBLISHED
    return rest if isinstance(rest, asyncio.Future) else _published(rest)


PUBLISHED = wire.PublishResult()


def _spend(client: Client, channel: str, rules: ChannelRules) -> None:
    if rules.publish_rate is not None:
        client.spend(channel, rules.publish_rate)


async def _published(rest: Awaitable[Published]) -> wire.PublishResult:
    await rest
    return PUBLISHED


async def _guarded(
    node: Node,
    client: Client,
    guard: Guard,
    *,
    channel: str,
    data: bytes,
    rules: ChannelRules,
    info: ClientInfo,
    options: StreamOptions | None = None,
    ephemeral: bool = False,
) -> Published:
    """Publish what the application makes of it. The gate comes before it and after it."""
    admit(data, rules.data, rules.max_bytes)
    admitted = await node.tasks.spawn(guard.publish(client, data), f"may publish in {channel}", quiet=True)
    is_ephemeral = ephemeral or admitted.ephemeral
    return await node.publish(channel, admitted.data, options=options, info=info, rules=rules, ephemeral=is_ephemeral)


async def presence(node: Node, client: Client, id: int, request: wire.PresenceRequest) -> wire.PresenceResult:
    """Who is in a channel."""
    _require_read(node, client, request.channel)
    members = await node.presence(request.channel)
    return wire.PresenceResult({id: info_message(info) for id, info in members.items()})


async def presence_stats(
    node: Node, client: Client, id: int, request: wire.PresenceStatsRequest
) -> wire.PresenceStatsResult:
    """How many are in a channel."""
    _require_read(node, client, request.channel)
    stats = await node.presence_stats(request.channel)
    return wire.PresenceStatsResult(stats.clients, stats.users)


async def history(node: Node, client: Client, id: int, request: wire.HistoryRequest) -> wire.HistoryResult:
    """What a channel has kept."""
    _require_read(node, client, request.channel)
    since = Position(request.since.epoch, request.since.offset) if request.since is not None else None
    page = await node.history(request.channel, request.limit, since, reverse=request.reverse)
    publications = [Raw(client.session.codec.publication(publication)) for publication in page.publications]
    return wire.HistoryResult(publications, page.head.epoch, page.head.offset)


async def rpc(node: Node, client: Client, id: int, request: wire.RPCRequest) -> wire.RPCResult:
    """A method of the application, or our own `publish`, which can do what the command of that name cannot."""
    data = _bytes(request.data)
    if request.method == "publish":
        return await _publish_by_rpc(node, client, data)
    call = node.handlers.rpc(client, request.method, data)
    # In a task: the application's code may use what needs a current one, such as asyncio.timeout.
    return wire.RPCResult(_payload(await node.tasks.spawn(call, f"rpc {request.method}", quiet=True)))


class PublishByRPC(Struct, forbid_unknown_fields=True):
    """The request of the built-in RPC `publish`. `ephemeral`: to who listens now, without an offset, kept nowhere."""

    channel: str
    data: Raw
    ephemeral: bool = False
    idempotency_key: str = ""


class PublishedByRPC(Struct, omit_defaults=True):
    """Where the publication stands; nothing where it is not kept."""

    offset: int = 0
    epoch: str = ""


def _clients_key(client: Client, key: str) -> str:
    """A client's keys are its user's own: nobody can use up those of others, or of servers, by guessing them."""
    if len(key) > MAX_KEY:
        raise BadRequest(f"idempotency_key has at most {MAX_KEY} characters")
    owner = f"user {client.user}" if client.user else f"client {client.id}"
    return hashlib.sha256(f"{owner}\n{key}".encode("utf-8", "surrogatepass")).hexdigest() if key else ""


async def _publish_by_rpc(node: Node, client: Client, data: bytes) -> wire.RPCResult:
    """With the rights of the publish command."""
    try:
        request = json.decode(data, type=PublishByRPC)
    except DecodeError as error:
        raise BadRequest(f"RPC publish takes {{channel, data, ephemeral, idempotency_key}}: {error}") from None
    channel, body = _channel(request.channel), bytes(request.data)
    subscription = client.subscriptions.get(channel)
    # In another lane than the subscribe that permits it, which may not be decided yet.
    rules = node.access.publish(client, channel, subscribed=subscription is not None and subscription.has_begun)
    _spend(client, channel, rules)
    body = from_json(body, rules.data)
    guard, info = node.handlers.guard(channel), client.info_in(subscription)
    options = StreamOptions(idempotency_key=_clients_key(client, request.idempotency_key))
    if guard is not None and "publish" in guard.asks:
        done = await _guarded(
            node,
            client,
            guard,
            channel=channel,
            data=body,
            rules=rules,
            info=info,
            options=options,
            ephemeral=request.ephemeral,
        )
    else:
        done = await node.publish(channel, body, options=options, info=info, rules=rules, ephemeral=request.ephemeral)
    position = done.position
    result = PublishedByRPC(position.offset, position.epoch) if position is not None else PublishedByRPC()
    return wire.RPCResult(Raw(json.encode(result)))


async def send(node: Node, client: Client, id: int, request: wire.SendRequest) -> None:
    """Data for the application, without an answer."""
    await node.tasks.spawn(node.handlers.send(client, _bytes(request.data)), "send", quiet=True)


async def refresh(node: Node, client: Client, id: int, request: wire.RefreshRequest) -> wire.RefreshResult:
    """The connection lives on with a new token."""
    if not request.token:
        raise ProtocolError("refresh without a token")
    credentials = node.access.refresh(client, request.token, node.clock.time())
    if set(credentials.subs) != set(client.credentials.subs):
        raise Disconnect(DisconnectCode.INSUFFICIENT_STATE, detail="the new token has other server-side channels")
    client.identify(credentials)
    client.rearm()
    ttl = node.access.ttl(credentials.expire_at, node.clock.time())
    return wire.RefreshResult(client.id, f"hubbub {VERSION}", ttl is not None, ttl or 0)


async def sub_refresh(node: Node, client: Client, id: int, request: wire.SubRefreshRequest) -> wire.SubRefreshResult:
    """The subscription lives on with a new token."""
    subscription = client.subscriptions.get(_channel(request.channel))
    if subscription is None:
        raise PermissionDenied
    if not request.token:
        raise ProtocolError("sub_refresh without a token")
    grant = node.access.sub_refresh(client, request.channel, request.token, node.clock.time())
    subscription.expire_at = 0.0 if node.access.insecure else grant.expire_at
    client.rearm()
    ttl = node.access.ttl(grant.expire_at, node.clock.time())
    return wire.SubRefreshResult(ttl is not None, ttl or 0)


Answer = wire.Result | None
Command = Callable[[Node, Any, int, Any], Answer | Coroutine[Any, Any, Answer] | asyncio.Future[Published]]

#: Every kind of request that a session lets through.
COMMANDS: dict[str, Command] = {
    command.__name__: command
    for command in (
        connect,
        subscribe,
        unsubscribe,
        publish,
        presence,
        presence_stats,
        history,
        rpc,
        send,
        refresh,
        sub_refresh,
    )
}


def _channel(name: str) -> str:
    if not name:
        raise ProtocolError("a command without its channel")
    return name


def _since(request: wire.SubscribeRequest) -> Position | None:
    return Position(request.epoch, request.offset) if request.recover else None


def _require_read(node: Node, client: Client, channel: str) -> None:
    subscription = client.subscriptions.get(_channel(channel))
    node.access.read(client, channel, subscribed=subscription is not None and subscription.has_begun)


def _stop_if_gone(client: Client, subscription: Subscription) -> None:
    """The client may have gone while something was awaited: then undo what was done for it since."""
    if client.is_closed:
        client.leave(subscription)
        raise Disconnect(DisconnectCode.CONNECTION_CLOSED)
    if subscription.behind == GONE:
        raise PermissionDenied  # a server ended it before it had begun


def _payload(data: bytes) -> wire.Payload:
    return Raw(data) if data else UNSET


def _bytes(data: wire.Payload) -> bytes:
    return b"" if data is UNSET else bytes(data)
