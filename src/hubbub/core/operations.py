"""What servers may ask of a node: one table that the HTTP API (and whatever else speaks it) is made from.

Answers for: the name, the request, the result and the meaning of each operation, as `cent` and its siblings call
them. Refuses to know: HTTP, keys, and who is asked when it is another node's client.

A function raises ReplyError to answer with a code. Its docstring is its summary in the OpenAPI description.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from hubbub import payload
from hubbub.brokers.base import StreamOptions
from hubbub.core import shapes
from hubbub.core.node import Node
from hubbub.core.shapes import Empty, InChannel
from hubbub.errors import (
    BackendError,
    BadRequest,
    Disconnect,
    MethodNotFound,
    PermissionDenied,
    ReplyError,
)
from hubbub.model import Credentials, Position, Published
from hubbub.protocol.codec import JsonCodec, info_message
from hubbub.protocol.messages import StreamPosition

_codec = JsonCodec()

log = logging.getLogger(__name__)

#: Commands of a batch, or channels of a broadcast, after which others get their turn; and commands at once.
TURN = 64


class Server:
    """Who calls an RPC method through the server API: nobody's connection. Implements Caller."""

    id = ""
    user = ""
    credentials = Credentials()


SERVER = Server()


class Operation(Struct, frozen=True):
    """One row of the table. `is_bare`: its result is the whole answer, as upstream's clients want it."""

    name: str
    request: type[Struct]
    result: type[Struct]
    run: Callable[[Node, Any], Awaitable[Struct]]
    is_bare: bool = False

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return (self.run.__doc__ or "").partition("\n")[0]


async def publish(node: Node, request: shapes.Publish) -> shapes.PublishResult:
    """Publish into one channel."""
    return _published(await _publish(node, request.channel, request))


async def broadcast(node: Node, request: shapes.Broadcast) -> shapes.BroadcastResult:
    """Publish into many channels; one that fails does not keep the others from it."""
    responses = []
    for number, channel in enumerate(request.channels, 1):
        try:
            response = shapes.PublishResponse(_published(await _publish(node, channel, request)))
        except (ReplyError, BackendError) as error:
            response = shapes.PublishResponse(error=_error(node, error, f"broadcast into {channel}"))
        responses.append(response)
        if number % TURN == 0:
            await asyncio.sleep(0)
    return shapes.BroadcastResult(responses)


async def history(node: Node, request: shapes.History) -> shapes.HistoryResult:
    """Read what a channel has kept."""
    page = await node.history(request.channel, request.limit, _position(request.since), reverse=request.reverse)
    publications = [Raw(_codec.publication(publication)) for publication in page.publications]
    return shapes.HistoryResult(publications, page.head.epoch, page.head.offset)


async def history_remove(node: Node, request: InChannel) -> Empty:
    """Let go of what a channel has kept; who returns from before is told that it cannot recover."""
    await node.remove_history(request.channel)
    return Empty()


async def presence(node: Node, request: InChannel) -> shapes.PresenceResult:
    """Tell who is in a channel."""
    members = await node.presence(request.channel)
    return shapes.PresenceResult({client: info_message(info) for client, info in members.items()})


async def presence_stats(node: Node, request: InChannel) -> shapes.PresenceStatsResult:
    """Tell how many are in a channel."""
    stats = await node.presence_stats(request.channel)
    return shapes.PresenceStatsResult(stats.clients, stats.users)


async def channels(node: Node, request: shapes.Channels) -> shapes.ChannelsResult:
    """List the channels that have listeners."""
    found = await node.everywhere.channels(request.pattern)
    return shapes.ChannelsResult({name: shapes.ChannelResult(count) for name, count in found.items()})


async def info(node: Node, request: Empty) -> shapes.InfoResult:
    """Tell how the nodes are."""
    return shapes.InfoResult([_node(about) for about in node.everywhere.nodes()])


def _node(about: dict[str, Any]) -> shapes.NodeResult:
    metrics = shapes.Metrics(about["uptime"], about["metrics"])
    return shapes.NodeResult(**{**about, "metrics": metrics})


async def disconnect(node: Node, request: shapes.Disconnect) -> Empty:
    """Close connections of a user; success also where there are none."""
    goodbye = request.disconnect or shapes.Disconnection()
    if not request.session:  # no connection of ours has one
        await node.everywhere.disconnect(
            request.user, request.client, code=goodbye.code, reason=goodbye.reason, whitelist=request.whitelist
        )
    return Empty()


async def subscribe(node: Node, request: shapes.Subscribe) -> Empty:
    """Subscribe the connections of a user to a channel; success also where there are none."""
    info, data = _json("info", request.info, request.b64info), _json("data", request.data, request.b64data)
    if not request.session:
        since = _position(request.recover_since)
        await node.everywhere.subscribe(
            request.user, request.channel, request.client, info=info, data=data, since=since
        )
    return Empty()


async def unsubscribe(node: Node, request: shapes.Unsubscribe) -> Empty:
    """End subscriptions of a user; success also where there are none."""
    if not request.session:
        await node.everywhere.unsubscribe(request.user, request.channel, request.client)
    return Empty()


async def refresh(node: Node, request: shapes.Refresh) -> Empty:
    """Move the end of a user's connections, or end them as expired; success also where there are none."""
    info = _json("info", request.info, "")
    if not request.session:
        expire_at = float(request.expire_at)
        await node.everywhere.refresh(
            request.user, request.client, expire_at=expire_at, expired=request.expired, info=info
        )
    return Empty()


async def rpc(node: Node, request: shapes.RPC) -> shapes.RPCResult:
    """Call an RPC method of the application, as nobody's connection."""
    call = node.handlers.rpc(SERVER, request.method, _json("params", request.params, ""))
    try:
        # In a task: the application's code may use what needs a current one, such as asyncio.timeout.
        data = await node.tasks.spawn(call, f"rpc {request.method}", quiet=True)
    except Disconnect as error:
        raise PermissionDenied(f"the method would disconnect a client: {error.code} {error.reason}") from None
    return shapes.RPCResult(Raw(data) if data else UNSET)


async def batch(node: Node, request: shapes.Batch) -> shapes.BatchResult:
    """Do many operations; one that fails does not keep the others from it."""
    if request.parallel:
        room = asyncio.Semaphore(TURN)

        async def in_turn(command: dict[str, Raw]) -> dict[str, Any]:
            async with room:
                return await _command(node, command)

        return shapes.BatchResult(list(await asyncio.gather(*map(in_turn, request.commands))))
    replies = []
    for number, command in enumerate(request.commands, 1):
        replies.append(await _command(node, command))
        if number % TURN == 0:
            await asyncio.sleep(0)
    return shapes.BatchResult(replies)


#: By name. A batch holds any of them but itself.
OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("publish", shapes.Publish, shapes.PublishResult, publish),
        Operation("broadcast", shapes.Broadcast, shapes.BroadcastResult, broadcast),
        Operation("history", shapes.History, shapes.HistoryResult, history),
        Operation("history_remove", InChannel, Empty, history_remove),
        Operation("presence", InChannel, shapes.PresenceResult, presence),
        Operation("presence_stats", InChannel, shapes.PresenceStatsResult, presence_stats),
        Operation("channels", shapes.Channels, shapes.ChannelsResult, channels),
        Operation("info", Empty, shapes.InfoResult, info),
        Operation("disconnect", shapes.Disconnect, Empty, disconnect),
        Operation("subscribe", shapes.Subscribe, Empty, subscribe),
        Operation("unsubscribe", shapes.Unsubscribe, Empty, unsubscribe),
        Operation("refresh", shapes.Refresh, Empty, refresh),
        Operation("rpc", shapes.RPC, shapes.RPCResult, rpc),
        Operation("batch", shapes.Batch, shapes.BatchResult, batch, is_bare=True),
    )
}


def error_body(error: ReplyError) -> dict[str, Any]:
    """An error as servers get it."""
    return {"code": error.wire_code, "message": error.message}


async def _command(node: Node, command: dict[str, Raw]) -> dict[str, Any]:
    """One command of a batch and its reply."""
    name = next(iter(command), "")
    try:
        if len(command) != 1:
            raise BadRequest('a command of a batch is one operation: {"publish": {…}}')
        operation = OPERATIONS.get(name)
        if operation is None or operation.run is batch:
            raise MethodNotFound(f"a batch has no {name!r}")
        try:
            request = msgspec.json.decode(command[name], type=operation.request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"{name}: {error}") from None
        return {name: await operation.run(node, request)}
    except Exception as error:
        return {"error": _error(node, error, f"{name} in a batch")}


def _error(node: Node, error: Exception, what: str) -> shapes.Error:
    """A failure as servers get it."""
    answer = node.failures.answer(error, what)
    return shapes.Error(answer.wire_code, answer.message)


async def _publish(node: Node, channel: str, request: shapes.Publish | shapes.Broadcast) -> Published:
    options = StreamOptions(
        idempotency_key=request.idempotency_key, version=request.version, version_epoch=request.version_epoch
    )
    rules = node.namespaces.resolve(channel)
    data = _data(request, rules.data)
    return await node.publish(
        channel, data, options=options, tags=request.tags, rules=rules, ephemeral=request.skip_history
    )


def _published(published: Published) -> shapes.PublishResult:
    offset, epoch = (position.offset, position.epoch) if (position := published.position) is not None else (0, "")
    return shapes.PublishResult(offset, epoch, published.duplicate)


def _position(since: StreamPosition | None) -> Position | None:
    return Position(since.epoch, since.offset) if since is not None else None


def _data(request: shapes.Publish | shapes.Broadcast, format: payload.DataFormat) -> bytes:
    if request.b64data:
        return _from_base64("b64data", request.b64data)
    if request.data is UNSET:
        raise BadRequest("data is missing: give data (JSON) or b64data (bytes in base64)")
    return payload.from_json(bytes(request.data), format)


def _json(name: str, plain: Raw | UnsetType, encoded: str) -> bytes:
    """JSON that will stand in frames unparsed, "" if it was not given."""
    try:
        if encoded:
            return payload.json_value(_from_base64(f"b64{name}", encoded))
        return b"" if plain is UNSET else payload.json_value(bytes(plain))
    except BadRequest as error:
        raise BadRequest(f"{name}: {error.message}") from None


def _from_base64(name: str, encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"{name} is not base64: {error}") from None
