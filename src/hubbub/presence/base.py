"""Who is in a channel, over all nodes. The docstrings here are the specification.

Answers for: the Protocol with its guarantees. Refuses to know: subscriptions, permissions, and when somebody comes or
goes. Whoever calls serialises the calls for one connection and channel.
"""

from __future__ import annotations

from typing import Protocol

from hubbub.model import ClientInfo, PresenceStats


class Presence(Protocol):
    """Who is in a channel.

    - P1. Once `add` has returned, `members` and `stats` of any node count the connection, until `remove`, or until
      `ttl` seconds passed since the last `add`, whichever comes first.
    - P2. `add` for somebody who is there renews it and replaces the info; nobody is counted twice.
    - P3. `remove` of somebody who is not there is no error.
    - P4. `stats` counts connections, and different users among them; the anonymous user counts as one.
    - P5. A channel that nobody is in costs nothing.
    """

    #: Seconds after which an entry expires unless it is added again; None: entries live as long as this process.
    ttl: float | None

    async def start(self) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """End, and let go of everything. Idempotent."""
        ...

    async def add(self, channel: str, info: ClientInfo) -> None:
        """The connection `info.client` is in `channel`. Raises BackendError."""
        ...

    async def remove(self, channel: str, client: str) -> None:
        """It is not any more. Raises BackendError."""
        ...

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Everybody who is in `channel`, by connection. Raises BackendError."""
        ...

    async def stats(self, channel: str) -> PresenceStats:
        """How many are in `channel`. Raises BackendError."""
        ...
