"""What the operations of the server API take and give, as upstream's clients write and read them.

Answers for: the fields of requests and results, and nothing else; from them comes the OpenAPI description, too. Refuses
to know: what operations do.

Fields that upstream has and that mean nothing here are accepted all the same, and say so.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from hubbub.channels import MAX_CHANNEL_LENGTH
from hubbub.protocol.messages import ClientInfoMessage, StreamPosition, UInt64

#: One name; what else it must be is for `channels` to say.
Channel = Annotated[str, Meta(min_length=1, max_length=MAX_CHANNEL_LENGTH)]


class Empty(Struct):
    """Nothing: no parameters, or no result but success."""


class Error(Struct):
    """Why an operation failed: 100 internal, 102 unknown channel, 104 no such method, 107 bad request, 108 not
    available, 112 unrecoverable position; 400 to 1999 are the application's own.
    """

    code: int
    message: str


# publishing -----------------------------------------------------------------------------------------------------------


class Publish(Struct, kw_only=True):
    """Publish one payload: `data` as JSON, or `b64data` as bytes in base64. `delta` has no effect here."""

    channel: Channel
    data: Raw | UnsetType = UNSET
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    delta: bool = False
    version: UInt64 = 0
    version_epoch: str = ""


class PublishResult(Struct, omit_defaults=True):
    """Where the publication stands; both absent where nothing is remembered. `duplicate`: it was there already."""

    offset: UInt64 = 0
    epoch: str = ""
    duplicate: bool = False


class Broadcast(Struct, kw_only=True):
    """Publish one payload in many channels. `delta` has no effect here."""

    channels: list[str]
    data: Raw | UnsetType = UNSET
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    delta: bool = False
    version: UInt64 = 0
    version_epoch: str = ""


class PublishResponse(Struct, omit_defaults=True):
    """What became of it in one channel: one of the two."""

    result: PublishResult | None = None
    error: Error | None = None


class BroadcastResult(Struct):
    """One response for each channel, in their order."""

    responses: list[PublishResponse]


# reading --------------------------------------------------------------------------------------------------------------


class History(Struct, kw_only=True):
    """Read a channel's history. `limit` 0 asks for the position alone, below 0 for all that one answer holds (300).

    Forward: after `since`, oldest first; reverse: before it, newest first.
    """

    channel: Channel
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class KeptPublication(Struct):
    """A publication as it is kept. `data` is base64 in binary channels; `info` is the publishing client's."""

    data: Any
    offset: UInt64 = 0
    info: ClientInfoMessage | None = None
    tags: dict[str, str] | None = None


#: One that is encoded already, described as what it is.
EncodedPublication = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/KeptPublication"})]


class HistoryResult(Struct):
    """A page, and where the stream stands."""

    publications: list[EncodedPublication]
    epoch: str
    offset: UInt64


class InChannel(Struct):
    """About one channel."""

    channel: Channel


class PresenceResult(Struct):
    """Who is there, by connection."""

    presence: dict[str, ClientInfoMessage]


class PresenceStatsResult(Struct):
    """How many connections, and how many users."""

    num_clients: int
    num_users: int


class Channels(Struct):
    """`pattern` is a glob (`*`, `?`, `[abc]`), empty for all."""

    pattern: str = ""


class ChannelResult(Struct):
    """One channel: its number of subscriptions."""

    num_clients: int


class ChannelsResult(Struct):
    """Channels with listeners, by name."""

    channels: dict[str, ChannelResult]


class Metrics(Struct):
    """Counters since the start; `interval` is in seconds."""

    interval: float
    items: dict[str, int]


class NodeResult(Struct):
    """One node. `uptime` is in seconds."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_subs: int
    num_channels: int
    uptime: int
    metrics: Metrics


class InfoResult(Struct):
    """All nodes."""

    nodes: list[NodeResult]


# clients --------------------------------------------------------------------------------------------------------------


class Disconnection(Struct):
    """What a closed client is told; code 0 is 3503 (force disconnect), others are 3000 to 4999."""

    code: int = 0
    reason: str = ""


class Disconnect(Struct, kw_only=True):
    """Close the connections of `user` but those in `whitelist`; with `client`, that one."""

    user: str
    client: str = ""
    session: str = ""
    whitelist: list[str] = field(default_factory=list)
    disconnect: Disconnection | None = None


class BoolValue(Struct):
    """A bool that may be absent."""

    value: bool = False


class Override(Struct, omit_defaults=True):
    """Accepted and without effect: the channel's rules decide."""

    presence: BoolValue | None = None
    join_leave: BoolValue | None = None
    force_push_join_leave: BoolValue | None = None
    force_positioning: BoolValue | None = None
    force_recovery: BoolValue | None = None


class Subscribe(Struct, kw_only=True):
    """Subscribe the connections of `user` (with `client`: that one) to `channel`.

    `info` is what others see of them there, `data` goes to the clients; either as JSON, or as JSON in base64.
    """

    user: str
    channel: Channel
    info: Raw | UnsetType = UNSET
    b64info: str = ""
    client: str = ""
    session: str = ""
    data: Raw | UnsetType = UNSET
    b64data: str = ""
    recover_since: StreamPosition | None = None
    override: Override | None = None


class Unsubscribe(Struct, kw_only=True):
    """End the user's subscriptions to `channel`, or to all channels if it is empty."""

    user: str
    channel: str = ""
    client: str = ""
    session: str = ""


class Refresh(Struct, kw_only=True):
    """Give the user's connections another end: `expire_at` in Unix seconds, 0 for none; `expired` ends them now.

    `info` replaces what others see of them.
    """

    user: str
    client: str = ""
    session: str = ""
    expired: bool = False
    expire_at: UInt64 = 0
    info: Raw | UnsetType = UNSET


# the application, and many at once ------------------------------------------------------------------------------------


class RPC(Struct):
    """Call a method of the application."""

    method: str
    params: Raw | UnsetType = UNSET


class RPCResult(Struct):
    """What it returned."""

    data: Raw | UnsetType = UNSET


class Batch(Struct):
    """Operations in one request, each `{"publish": {…}}`. `parallel`: at once, and not one after the other."""

    commands: list[dict[str, Raw]]
    parallel: bool = False


class BatchResult(Struct):
    """One reply for each command, in their order: `{"publish": {…}}`, or `{"error": {…}}`."""

    replies: list[dict[str, Any]]
