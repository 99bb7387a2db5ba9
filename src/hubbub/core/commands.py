"""What each command of a client does: one short function each, and a table.

Answers for: the meaning of the commands, in terms of access, node and doorkeeper, and the shape of their results.
Refuses to know: bytes, order (`lanes`), and how failures reach the client: a function raises ReplyError to answer
with a code, and Disconnect to close.

A function returns its result to be answered, or None when it has answered by itself, because something has to happen
in the same breath: a subscription goes live right behind its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, cast

from msgspec import UNSET, Raw

from hubbub.core.hub import GONE, Subscription
from hubbub.core.node import Node
from hubbub.core.registry import Registered
from hubbub.core.subscribing import Entry, Member
from hubbub.errors import (
    AlreadySubscribed,
    Disconnect,
    DisconnectCode,
    LimitExceeded,
    PermissionDenied,
    ProtocolError,
    UnrecoverablePosition,
)
from hubbub.model import Credentials, Grant, Position, Published
from hubbub.protocol import messages as wire
from hubbub.protocol.codec import Codec, info_message
from hubbub.protocol.session import Session
from hubbub.version import VERSION


class Client(Member, Registered, Protocol):
    """What commands need of the connection that sent them."""

    @property
    def is_ready(self) -> bool:
        """Whether it can take more than answers."""
        ...

    session: Session
    credentials: Credentials

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
    credentials = node.access.connect(request.token, node.clock.time())
    if len(credentials.subs) > node.limits.max_channels:
        raise Disconnect(DisconnectCode.CHANNEL_LIMIT)
    client.identify(credentials)
    entries = await _enter_server_side(node, client, credentials, request.subs)
    client.connected(credentials)
    ttl = node.access.ttl(credentials.expire_at, node.clock.time())
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


async def _enter_server_side(
    node: Node, client: Client, credentials: Credentials, positions: Mapping[str, wire.SubscribeRequest]
) -> dict[str, Entry]:
    """All server-side subscriptions, each as far as its answer. They go live after the connect reply."""
    entries = {}
    try:
        for channel, personal in credentials.subs.items():
            asked = positions.get(channel, wire.SubscribeRequest())
            rules = node.namespaces.resolve(channel)
            subscription = node.doorkeeper.reserve(client, channel, rules)
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
        raise AlreadySubscribed
    if len(client.subscriptions) >= node.limits.max_channels:
        raise LimitExceeded
    grant = node.access.subscribe(client, channel, request.token, node.clock.time())
    subscription = node.doorkeeper.reserve(client, channel, rules)
    subscription.chan_info = grant.info
    client.subscriptions[channel] = subscription
    try:
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
) -> wire.PublishResult | Coroutine[Any, Any, wire.PublishResult]:
    """Into a channel, with the publisher's identity. No coroutine where there is nothing to wait for."""
    channel = request.channel or _channel("")
    subscription = client.subscriptions.get(channel)
    if subscription is not None and subscription.may_publish:
        rules = subscription.channel.rules
        channel = subscription.channel.name  # the same string as in every table that is asked on the way
    else:
        rules = node.access.publish(client, channel, subscribed=subscription is not None)
        if subscription is not None:
            subscription.may_publish = True  # neither its user nor the rules change while it lasts
    is_json = client.session.codec.checks_json
    rest = node.begin_publish(channel, _bytes(request.data), rules, client.info_in(subscription), is_json=is_json)
    return PUBLISHED if rest is None else _published(rest)


PUBLISHED = wire.PublishResult()


async def _published(rest: Coroutine[Any, Any, Published]) -> wire.PublishResult:
    await rest
    return PUBLISHED


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
    """A method of the application."""
    call = node.handlers.rpc(client, request.method, _bytes(request.data))
    # In a task: the application's code may use what needs a current one, such as asyncio.timeout.
    return wire.RPCResult(_payload(await node.tasks.spawn(call, f"rpc {request.method}", quiet=True)))


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
Command = Callable[[Node, Any, int, Any], Answer | Coroutine[Any, Any, Answer]]

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
    node.access.read(client, _channel(channel), subscribed=channel in client.subscriptions)


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
