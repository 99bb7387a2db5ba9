"""Presence in one process. The executable model of `base`.

Answers for: P1 to P5 with every operation but listing the members at constant cost, however large the
channel. Refuses to know: time. An entry lives until it is removed, or until the `MemoryPresence` that added
it stops.
"""

from __future__ import annotations

from hubbub.model import ClientInfo, PresenceStats


class _Room:
    """Who is in one channel, and how many connections each user has there, so that users need no counting."""

    __slots__ = ("entries", "users")

    def __init__(self) -> None:
        self.entries: dict[str, tuple[ClientInfo, MemoryPresence]] = {}
        self.users: dict[str, int] = {}

    def put(self, info: ClientInfo, owner: MemoryPresence) -> None:
        self.take(info.client)
        self.entries[info.client] = info, owner
        self.users[info.user] = self.users.get(info.user, 0) + 1

    def take(self, client: str) -> None:
        entry = self.entries.pop(client, None)
        if entry is None:
            return
        user = entry[0].user
        self.users[user] -= 1
        if not self.users[user]:
            del self.users[user]


class Registry:
    """What several `MemoryPresence`s share, as several nodes in one process do.

    A channel is in it while somebody is in the channel (P5).
    """

    __slots__ = ("_rooms",)

    def __init__(self) -> None:
        self._rooms: dict[str, _Room] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def put(self, channel: str, info: ClientInfo, owner: MemoryPresence) -> None:
        """Count the connection, once."""
        room = self._rooms.get(channel)
        if room is None:
            room = self._rooms[channel] = _Room()
        room.put(info, owner)

    def take(self, channel: str, client: str) -> None:
        """Count it no more."""
        room = self._rooms.get(channel)
        if room is None:
            return
        room.take(client)
        if not room.entries:
            del self._rooms[channel]

    def members(self, channel: str) -> dict[str, ClientInfo]:
        """Everybody in the channel; the caller's own copy."""
        room = self._rooms.get(channel)
        return {client: entry[0] for client, entry in room.entries.items()} if room else {}

    def stats(self, channel: str) -> PresenceStats:
        """How many are in the channel."""
        room = self._rooms.get(channel)
        return PresenceStats(len(room.entries), len(room.users)) if room else PresenceStats(0, 0)

    def take_all(self, owner: MemoryPresence) -> None:
        """Remove everybody whom `owner` added. Looks at all: it is done once in a node's life."""
        gone = [
            (channel, client)
            for channel, room in self._rooms.items()
            for client, entry in room.entries.items()
            if entry[1] is owner
        ]
        for channel, client in gone:
            self.take(channel, client)


class MemoryPresence:
    """Implements `Presence` in this process, in a registry of its own unless it is given one to share."""

    __slots__ = ("registry", "ttl")

    def __init__(self, registry: Registry | None = None) -> None:
        self.ttl: float | None = None
        self.registry = registry if registry is not None else Registry()

    async def start(self) -> None:
        """Nothing to begin."""

    async def stop(self) -> None:
        """Those whom this node added are gone with it."""
        self.registry.take_all(self)

    async def add(self, channel: str, info: ClientInfo) -> None:
        """The connection `info.client` is in `channel`."""
        self.registry.put(channel, info, self)

    async def remove(self, channel: str, client: str) -> None:
        """It is not any more."""
        self.registry.take(channel, client)

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Everybody who is in `channel`, by connection."""
        return self.registry.members(channel)

    async def stats(self, channel: str) -> PresenceStats:
        """How many are in `channel`."""
        return self.registry.stats(channel)
