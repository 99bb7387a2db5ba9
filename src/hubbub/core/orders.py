"""What nodes tell each other: orders that all of them carry out, and signs of life.

Answers for: the shape of each, and bytes of it. Refuses to know: how they travel (`intercom`), and how they are carried
out.

They are JSON, one object each, so that a person can read them. A node of another version may send what we do not know:
that is `Unreadable`, and no reason to stop listening.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from hubbub.errors import HubbubError
from hubbub.model import Position


class Unreadable(HubbubError):
    """It is no order that we know."""


class Order(Struct, frozen=True, kw_only=True, tag_field="order", tag=str.lower):
    """What all have in common: `sender` is the id of the node that it comes from."""

    sender: str


class Disconnect(Order, frozen=True, kw_only=True):
    """Close connections, as `Control.disconnect`."""

    user: str
    client: str = ""
    code: int = 0
    reason: str = ""
    whitelist: list[str] = msgspec.field(default_factory=list)


class Unsubscribe(Order, frozen=True, kw_only=True):
    """End subscriptions, as `Control.unsubscribe`."""

    user: str
    channel: str = ""
    client: str = ""


class Subscribe(Order, frozen=True, kw_only=True):
    """Subscribe connections, as `Control.subscribe`."""

    user: str
    channel: str
    client: str = ""
    info: bytes = b""
    data: bytes = b""
    since: Position | None = None


class Refresh(Order, frozen=True, kw_only=True):
    """Give connections another end, as `Control.refresh`."""

    user: str
    client: str = ""
    expire_at: float = 0.0
    expired: bool = False
    info: bytes = b""


class Revoke(Order, frozen=True, kw_only=True):
    """Refuse the tokens that a user was given until `before` (Unix time), for `ttl` seconds."""

    user: str
    before: float
    ttl: float


class Trim(Order, frozen=True, kw_only=True):
    """The history of a channel was removed: what is remembered of it goes, too."""

    channel: str


class Alive(Order, frozen=True, kw_only=True):
    """A node lives, and how it is. `asks`: it has just come, and wants to know who else is here."""

    about: dict[str, Any]
    asks: bool = False


class Gone(Order, frozen=True, kw_only=True):
    """A node has stopped."""


class Survey(Order, frozen=True, kw_only=True):
    """Which channels that match `pattern` have listeners? Everybody answers `number` with a `Tally`."""

    number: int
    pattern: str


class Tally(Order, frozen=True, kw_only=True):
    """The answer to survey `number` of node `to`, in pages: the first is 0, and after the last come no `more`."""

    to: str
    number: int
    channels: dict[str, int]
    page: int = 0
    more: bool = False


AnyOrder = Disconnect | Unsubscribe | Subscribe | Refresh | Revoke | Trim | Alive | Gone | Survey | Tally

_decoder = msgspec.json.Decoder(AnyOrder)

encode = msgspec.json.encode


def decode(data: bytes) -> AnyOrder:
    """An order. Raises Unreadable."""
    try:
        order: AnyOrder = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from None
    return order
