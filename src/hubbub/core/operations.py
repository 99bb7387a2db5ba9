"""What servers may ask of a node: one table that the HTTP API (and whatever else speaks it) is made from.

Answers for: the name, the request, the result and the meaning of each operation, as `cent` and its siblings call
them. Refuses to know: HTTP, keys, and how requests are decoded.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from hubbub.brokers.base import StreamOptions
from hubbub.core.node import Node
from hubbub.errors import BackendError, BadRequest, InternalError, ReplyError
from hubbub.model import Position, Published
from hubbub.protocol.codec import JsonCodec, info_message
from hubbub.protocol.messages import ClientInfoMessage, StreamPosition
from hubbub.version import VERSION

_codec = JsonCodec()

log = logging.getLogger(__name__)


class Empty(Struct):
    """No result but success."""


class Disconnection(Struct):
    """What a closed client is told; codes as in `errors.DisconnectCode`."""

    code: int = 0
    reason: str = ""


class Publish(Struct, kw_only=True):
    """Publish one payload: `data` as JSON, or `b64data` as bytes in base64."""

    channel: str
    data: Raw | UnsetType = UNSET
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    version: int = 0
    version_epoch: str = ""


class Broadcast(Struct, kw_only=True):
    """Publish one payload in many channels."""

    channels: list[str]
    data: Raw | UnsetType = UNSET
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    version: int = 0
    version_epoch: str = ""


class PublishResult(Struct, omit_defaults=True):
    """Where the publication stands; both absent where nothing is remembered."""

    offset: int = 0
    epoch: str = ""


class BroadcastResult(Struct):
    """One response for each channel, in their order: `{"result": …}` or `{"error": …}`."""

    responses: list[dict[str, Any]]


class History(Struct, kw_only=True):
    """Read a channel's history. `limit` 0 asks for the position alone, below 0 for all."""

    channel: str
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class HistoryResult(Struct):
    """A page and the head."""

    publications: list[Raw]
    epoch: str
    offset: int


class InChannel(Struct):
    """Ask about one channel."""

    channel: str


class PresenceResult(Struct):
    """Who is there, by connection."""

    presence: dict[str, ClientInfoMessage]


class PresenceStatsResult(Struct):
    """How many are there."""

    num_clients: int
    num_users: int


class Channels(Struct):
    """List channels with listeners; `pattern` is a glob, empty for all."""

    pattern: str = ""


class ChannelsResult(Struct):
    """Channels, each with its number of subscriptions."""

    channels: dict[str, dict[str, int]]


class InfoResult(Struct):
    """All nodes."""

    nodes: list[dict[str, Any]]


class Disconnect(Struct, kw_only=True):
    """Close the connections of a user; with `client`, that one."""

    user: str
    client: str = ""
    session: str = ""
    whitelist: list[str] = field(default_factory=list)
    disconnect: Disconnection | None = None


class Unsubscribe(Struct, kw_only=True):
    """End a user's subscriptions to a channel, or to all if it is empty."""

    user: str
    channel: str = ""
    client: str = ""
    session: str = ""


async def publish(node: Node, request: Publish) -> PublishResult:
    """Into one channel."""
    return _published(await _publish(node, request.channel, request))


async def broadcast(node: Node, request: Broadcast) -> BroadcastResult:
    """Into many channels; one that fails does not keep the others from it."""
    responses: list[dict[str, Any]] = []
    for channel in request.channels:
        try:
            responses.append({"result": _published(await _publish(node, channel, request))})
        except ReplyError as error:
            responses.append({"error": error_body(error)})
        except BackendError:
            log.exception("broadcast into %s failed", channel)
            responses.append({"error": error_body(InternalError())})
    return BroadcastResult(responses)


async def history(node: Node, request: History) -> HistoryResult:
    """Read what is kept."""
    since = Position(request.since.epoch, request.since.offset) if request.since is not None else None
    page = await node.history(request.channel, request.limit, since, reverse=request.reverse)
    publications = [Raw(_codec.publication(publication)) for publication in page.publications]
    return HistoryResult(publications, page.head.epoch, page.head.offset)


async def presence(node: Node, request: InChannel) -> PresenceResult:
    """Who is in a channel."""
    members = await node.presence(request.channel)
    return PresenceResult({client: info_message(info) for client, info in members.items()})


async def presence_stats(node: Node, request: InChannel) -> PresenceStatsResult:
    """How many are in a channel."""
    stats = await node.presence_stats(request.channel)
    return PresenceStatsResult(stats.clients, stats.users)


async def channels(node: Node, request: Channels) -> ChannelsResult:
    """Which channels have listeners."""
    return ChannelsResult({name: {"num_clients": count} for name, count in node.channels(request.pattern).items()})


async def info(node: Node, request: Empty) -> InfoResult:
    """How the nodes are."""
    about = msgspec.to_builtins(node.info(VERSION))
    about["metrics"] = {"interval": about["uptime"], "items": about["metrics"]}
    return InfoResult([about])


async def disconnect(node: Node, request: Disconnect) -> Empty:
    """Close connections of a user; success also where there are none."""
    goodbye = request.disconnect or Disconnection()
    if goodbye.code and not 3000 <= goodbye.code <= 4999:
        raise BadRequest(f"disconnect.code = {goodbye.code}: expected 3000 to 4999")
    node.disconnect(request.user, request.client, code=goodbye.code, reason=goodbye.reason, whitelist=request.whitelist)
    return Empty()


async def unsubscribe(node: Node, request: Unsubscribe) -> Empty:
    """End subscriptions of a user; success also where there are none."""
    node.unsubscribe(request.user, request.channel, request.client)
    return Empty()


class Operation(Struct, frozen=True):
    """One row of the table."""

    name: str
    request: type[Struct]
    run: Callable[[Node, Any], Awaitable[Struct]]


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("publish", Publish, publish),
        Operation("broadcast", Broadcast, broadcast),
        Operation("history", History, history),
        Operation("presence", InChannel, presence),
        Operation("presence_stats", InChannel, presence_stats),
        Operation("channels", Channels, channels),
        Operation("info", Empty, info),
        Operation("disconnect", Disconnect, disconnect),
        Operation("unsubscribe", Unsubscribe, unsubscribe),
    )
}


def error_body(error: ReplyError) -> dict[str, Any]:
    """An error as servers get it."""
    return {"code": error.wire_code, "message": error.message}


async def _publish(node: Node, channel: str, request: Publish | Broadcast) -> Published:
    options = StreamOptions(
        idempotency_key=request.idempotency_key, version=request.version, version_epoch=request.version_epoch
    )
    return await node.publish(
        channel, _data(request), options=options, tags=request.tags, ephemeral=request.skip_history
    )


def _data(request: Publish | Broadcast) -> bytes:
    if request.b64data:
        try:
            return base64.b64decode(request.b64data, validate=True)
        except binascii.Error as error:
            raise BadRequest(f"b64data is not base64: {error}") from None
    if request.data is UNSET:
        raise BadRequest("data is missing: give data (JSON) or b64data (bytes in base64)")
    return bytes(request.data)


def _published(published: Published) -> PublishResult:
    position = published.position
    return PublishResult(position.offset, position.epoch) if position is not None else PublishResult()
