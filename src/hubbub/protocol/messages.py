"""The messages of the protocol as structs, one for one with its definition (client.proto, v0.21).

Answers for: the names, types and defaults of what travels, for both codecs. Refuses to know: bytes, and what a message
leads to. Zero values are not sent; a missing field is its zero value.

In JSON upstream writes the zeros of client info, presence and history results all the same, and SDKs read those fields
without a default; so do we.

Payload fields are `msgspec.Raw`: JSON that is embedded as it stands, or the opaque bytes of Protobuf. UNSET is "not
sent", which for JSON is something else than `null`. Field numbers live in `protobuf`. Map and shared-poll
subscriptions, channel compaction and dictionaries are left out: their fields are ignored when they come.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

#: The protocol's integers. Anything outside is a broken peer, and fails to decode.
UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
#: 63 bits are what msgspec can bound and databases can keep; no stream ever gets there.
UInt64 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Int64 = int

Payload = Raw | UnsetType

#: Commands of one transport message. SDKs send one for each subscription at once, so a few hundred; more is an attack.
MAX_COMMANDS = 1000

#: `flag` of a subscribe request: answer error 112 instead of subscribing when the position is not recoverable.
REJECT_UNRECOVERED = 2


class Message(Struct, omit_defaults=True, gc=False):
    """What all messages have in common: zero values stay off the wire.

    No message refers to itself, so the collector of circles need not look at them: they come and go by the thousand.
    """


# Requests ---------------------------------------------------------------------------------------------------------


class SubscribeRequest(Message):
    """Subscribe to a channel; in `ConnectRequest.subs`, where to recover a server-side subscription from."""

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: UInt64 = 0
    data: Payload = UNSET
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    flag: Int64 = 0
    type: Int32 = 0


class ConnectRequest(Message):
    """The first command of a connection."""

    token: str = ""
    data: Payload = UNSET
    subs: dict[str, SubscribeRequest] = field(default_factory=dict)
    name: str = ""
    version: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class UnsubscribeRequest(Message):
    """Leave a channel."""

    channel: str = ""


class PublishRequest(Message):
    """Publish into a channel."""

    channel: str = ""
    data: Payload = UNSET


class PresenceRequest(Message):
    """Who is in a channel?"""

    channel: str = ""


class PresenceStatsRequest(Message):
    """How many are in a channel?"""

    channel: str = ""


class StreamPosition(Message):
    """A place in a stream."""

    offset: UInt64 = 0
    epoch: str = ""


class HistoryRequest(Message):
    """Publications kept in a channel. `limit` 0 asks for the position alone, below 0 for all."""

    channel: str = ""
    limit: Int32 = 0
    since: StreamPosition | None = None
    reverse: bool = False


class PingRequest(Message):
    """A leftover of the protocol that no SDK sends; answered with 3501, as upstream does."""


class SendRequest(Message):
    """Data for the application, without a reply."""

    data: Payload = UNSET


class RPCRequest(Message):
    """A call of the application's method."""

    method: str = ""
    data: Payload = UNSET


class RefreshRequest(Message):
    """A new connection token."""

    token: str = ""


class SubRefreshRequest(Message):
    """A new subscription token."""

    channel: str = ""
    token: str = ""


class Command(Message):
    """What a client sends: an id and one request. All empty is a pong."""

    id: UInt32 = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    publish: PublishRequest | None = None
    presence: PresenceRequest | None = None
    presence_stats: PresenceStatsRequest | None = None
    history: HistoryRequest | None = None
    ping: PingRequest | None = None
    send: SendRequest | None = None
    rpc: RPCRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


#: The order in which the protocol looks for the request when a command holds several.
REQUEST_FIELDS = (
    "connect",
    "subscribe",
    "unsubscribe",
    "publish",
    "presence",
    "presence_stats",
    "history",
    "rpc",
    "send",
    "refresh",
    "sub_refresh",
)

# Results ----------------------------------------------------------------------------------------------------------


class ClientInfoMessage(Message, omit_defaults=False):
    """A connection's public identity."""

    user: str = ""
    client: str = ""
    conn_info: Payload = UNSET
    chan_info: Payload = UNSET


class SubscribeResult(Message):
    """Subscribed. `publications` are encoded already, each by the codec's `publication`."""

    expires: bool = False
    ttl: UInt32 = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Raw] = field(default_factory=list)
    recovered: bool = False
    offset: UInt64 = 0
    positioned: bool = False
    data: Payload = UNSET
    was_recovering: bool = False


class ConnectResult(Message):
    """Connected. `ping` is in seconds, `ttl` too."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: UInt32 = 0
    data: Payload = UNSET
    subs: dict[str, SubscribeResult] = field(default_factory=dict)
    ping: UInt32 = 0
    pong: bool = False
    session: str = ""
    node: str = ""


class UnsubscribeResult(Message):
    """Left."""


class PublishResult(Message):
    """Published."""


class PresenceResult(Message, omit_defaults=False):
    """Who is there, by connection."""

    presence: dict[str, ClientInfoMessage] = field(default_factory=dict)


class PresenceStatsResult(Message, omit_defaults=False):
    """How many are there."""

    num_clients: UInt32 = 0
    num_users: UInt32 = 0


class HistoryResult(Message, omit_defaults=False):
    """A page of history and the head of the stream. `publications` are encoded already."""

    publications: list[Raw] = field(default_factory=list)
    epoch: str = ""
    offset: UInt64 = 0


class RPCResult(Message):
    """What the application's method returned."""

    data: Payload = UNSET


class RefreshResult(Message):
    """The connection lives on; `ttl` in seconds."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: UInt32 = 0


class SubRefreshResult(Message):
    """The subscription lives on; `ttl` in seconds."""

    expires: bool = False
    ttl: UInt32 = 0


Result = (
    ConnectResult
    | SubscribeResult
    | UnsubscribeResult
    | PublishResult
    | PresenceResult
    | PresenceStatsResult
    | HistoryResult
    | RPCResult
    | RefreshResult
    | SubRefreshResult
)

#: The field of the reply that carries each result. A reply must carry its field even when it is empty.
RESULT_FIELDS: dict[type[Message], str] = {
    ConnectResult: "connect",
    SubscribeResult: "subscribe",
    UnsubscribeResult: "unsubscribe",
    PublishResult: "publish",
    PresenceResult: "presence",
    PresenceStatsResult: "presence_stats",
    HistoryResult: "history",
    RPCResult: "rpc",
    RefreshResult: "refresh",
    SubRefreshResult: "sub_refresh",
}

# Pushes -----------------------------------------------------------------------------------------------------------


class JoinPush(Message):
    """Somebody came."""

    info: ClientInfoMessage


class LeavePush(Message):
    """Somebody left."""

    info: ClientInfoMessage


class UnsubscribePush(Struct):
    """The server ended a subscription. Both fields are always sent: centrifuge-python indexes them."""

    code: UInt32
    reason: str


class SubscribePush(Message):
    """The server added a subscription."""

    recoverable: bool = False
    epoch: str = ""
    offset: UInt64 = 0
    positioned: bool = False
    data: Payload = UNSET


class MessagePush(Message):
    """Data for this client outside any channel."""

    data: Payload = UNSET


class RefreshPush(Message):
    """The server gave the connection another end: in `ttl` seconds, or none if it does not expire."""

    expires: bool = False
    ttl: UInt32 = 0


class DisconnectPush(Struct):
    """The last message before a close, where the transport has no close codes. All fields are always sent."""

    code: UInt32
    reason: str
    reconnect: bool


Push = JoinPush | LeavePush | UnsubscribePush | SubscribePush | MessagePush | RefreshPush | DisconnectPush

#: The field of the push that carries each kind.
PUSH_FIELDS: dict[type[Struct], str] = {
    JoinPush: "join",
    LeavePush: "leave",
    UnsubscribePush: "unsubscribe",
    SubscribePush: "subscribe",
    MessagePush: "message",
    RefreshPush: "refresh",
    DisconnectPush: "disconnect",
}
