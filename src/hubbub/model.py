"""The nouns that travel between the rooms of the house, all frozen.

Answers for: what a publication, a position, a client's public identity, credentials and a grant are. Refuses to know:
how any of them is written on a wire, kept, or decided.

Payloads are `bytes` throughout. In channels with `data = "json"` or `"text"` they are one compact JSON value (the
gate in `payload` saw to it); publications of binary channels say so with `binary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec


class Position(NamedTuple):
    """A place in a channel's stream. `offset` counts publications from 1; 0 is "before the first".

    `epoch` names one life of the stream: offsets of different epochs cannot be compared.
    """

    epoch: str
    offset: int


class ClientInfo(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What others may see of a connection. The `info` fields are JSON or opaque bytes, empty if none."""

    user: str = ""
    client: str = ""
    conn_info: bytes = b""
    chan_info: bytes = b""


class Publication(msgspec.Struct, frozen=True, gc=False):
    """One piece of data published in a channel.

    `offset` is 0 for publications that are kept nowhere (`live` channels, ephemeral ones).
    """

    data: bytes
    offset: int = 0
    info: ClientInfo | None = None
    tags: dict[str, str] | None = None
    binary: bool = False

    def at(self, offset: int) -> Publication:
        """The same publication with the offset that its source gave it."""
        return Publication(self.data, offset, self.info, self.tags, self.binary)

    @property
    def payload_size(self) -> int:
        """Bytes that it takes in a frame, roughly."""
        size = len(self.data)
        if self.info is not None:
            size += len(self.info.conn_info) + len(self.info.chan_info)
        return size

    @property
    def size(self) -> int:
        """Bytes that keeping it costs, roughly: the payload, its info, and the objects around them."""
        size = 160 + len(self.data)
        if self.info is not None:
            size += 120 + len(self.info.conn_info) + len(self.info.chan_info)
        if self.tags:
            size += sum(120 + len(key) + len(value) for key, value in self.tags.items())
        return size


class Published(msgspec.Struct, frozen=True, gc=False):
    """What became of a publish: where it stands, and whether the source had seen it before.

    `nodes` is the number of nodes that took the announcement, None where the broker cannot tell.
    """

    position: Position | None = None
    nodes: int | None = None
    duplicate: bool = False


class PresenceStats(NamedTuple):
    """How many connections and how many different users; the anonymous user counts as one."""

    clients: int
    users: int


class PersonalSubscription(msgspec.Struct, frozen=True):
    """A server-side subscription that credentials bring along."""

    info: bytes = b""
    data: bytes = b""


class Credentials(msgspec.Struct, frozen=True):
    """Who a connection is, verified.

    `expire_at` is Unix time in seconds, 0 for never. `subs` are the channels it is subscribed to on connecting.
    `issued_at` is when its token was made, as the token says, in Unix time; 0 where nobody says so. `can_refresh`: a
    new token can prolong the connection; else it has to come again when it expires.
    """

    user: str = ""
    expire_at: float = 0
    info: bytes = b""
    data: bytes = b""
    subs: Mapping[str, PersonalSubscription] = msgspec.field(default_factory=dict)
    issued_at: float = 0
    can_refresh: bool = True


class Grant(msgspec.Struct, frozen=True):
    """A verified right to one subscription. `expire_at` and `issued_at` as in `Credentials`."""

    channel: str
    user: str = ""
    expire_at: float = 0
    info: bytes = b""
    data: bytes = b""
    client: str = ""
    issued_at: float = 0
