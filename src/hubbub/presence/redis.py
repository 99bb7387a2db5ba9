"""Presence in Redis or Valkey, for many nodes: an entry lives for a minute unless it is added again.

Answers for: P1 to P5 in scripts, one for each call, each at constant cost but for listing the members; entries whose
time is over go with whatever is asked next. Refuses to know: when somebody is added again, and connections to Redis.
Time is the server's: nodes' clocks may differ.

Keys, with the channel in a hash tag for the day of Cluster, all gone a TTL after the last call of `add`:

    NAME:p:{CHANNEL}:who     a hash: connection to its info
    NAME:p:{CHANNEL}:until   a sorted set: connection to the millisecond at which it is no more
    NAME:p:{CHANNEL}:users   a hash: user to the number of connections
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from hubbub.clock import Clock
from hubbub.errors import BackendError
from hubbub.model import ClientInfo, PresenceStats
from hubbub.redis.pipeline import Pipeline, Script
from hubbub.redis.topology import endpoint_of
from hubbub.redis.wire import RENEWING, ConnectionLost, DeadlinePassed, OutboxFull, RedisError, Word
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)

#: Seconds that an entry lives: what a node that died leaves behind.
TTL: Final = 60.0
#: Seconds that a call has.
DEADLINE: Final = 5.0
#: Seconds that the server may have been away while somebody asks who is there: as long as a subscription waits for it.
#: SDKs give up after five, and would not hear why. Who comes or goes is not hurried: that is to be kept if it can be.
PATIENCE: Final = 2.0
#: Seconds that a stop waits for those who are leaving.
LAST_WORDS: Final = 2.0

#: KEYS: who, until, users. An entry is its user's length, ':', the user, and what only Python reads: one length for
#: all would be read by nobody, and a field of its own would double the keys.
_COMMON: Final = """
local who, deadlines, users = KEYS[1], KEYS[2], KEYS[3]
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)

local function user_of(entry)
  local length = string.match(entry, '^(%d+):')
  return length and string.sub(entry, #length + 2, #length + 1 + length)
end

local function leave(client)
  local entry = redis.call('HGET', who, client)
  redis.call('ZREM', deadlines, client)
  if not entry then return end
  redis.call('HDEL', who, client)
  local user = user_of(entry)
  if user and redis.call('HINCRBY', users, user, -1) <= 0 then redis.call('HDEL', users, user) end
end

-- A server that is full may have evicted one of the three: then all are made anew by the next calls of `add`.
local count = redis.call('ZCARD', deadlines)
if count ~= redis.call('HLEN', who) or (count > 0) ~= (redis.call('HLEN', users) > 0) then
  redis.call('DEL', who, deadlines, users)
elseif count > 0 then
  for _, client in ipairs(redis.call('ZRANGE', deadlines, '-inf', now, 'BYSCORE')) do leave(client) end
end
"""

_ADD: Final = Script(
    _COMMON
    + """
local client, entry, ttl = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HGET', who, client) ~= entry then
  leave(client)
  redis.call('HSET', who, client, entry)
  redis.call('HINCRBY', users, user_of(entry), 1)
end
redis.call('ZADD', deadlines, now + ttl, client)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ttl) end
"""
)
_REMOVE: Final = Script(_COMMON + "leave(ARGV[1])")
_MEMBERS: Final = Script(_COMMON + "return redis.call('HGETALL', who)")
_STATS: Final = Script(_COMMON + "return {redis.call('HLEN', who), redis.call('HLEN', users)}")


class _Rest(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What follows the user in an entry, as MessagePack. New fields go to the end."""

    conn_info: bytes = b""
    chan_info: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Rest).decode


class RedisPresence:
    """Implements `Presence` on the Redis at `url`; it may be another one than the broker's."""

    def __init__(self, url: str, *, name: str, clock: Clock) -> None:
        self.ttl: float | None = TTL
        self._name = name
        self._clock = clock
        self._counts: Counter[str] = Counter()
        endpoint = endpoint_of(url, client_name=f"{name}-presence")
        self._commands = Pipeline(endpoint, clock=clock, deadline=DEADLINE, part="presence", observer=self._count)
        self._leaving: set[asyncio.Task[Any]] = set()
        self._sparing = SparingLog(log)

    async def start(self) -> None:
        """Connect. Raises BackendError when the server cannot be reached."""
        await self._commands.start()

    async def stop(self) -> None:
        """Disconnect, after those who are leaving have left, or LAST_WORDS. Whoever is left is there until the TTL."""
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=LAST_WORDS)
        for leaving in list(self._leaving):
            leaving.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self._commands.stop()

    def counts(self) -> dict[str, int]:
        """What happened to the connection, and what was found and could not be read."""
        return {f"presence_{event}": count for event, count in self._counts.items()}

    async def add(self, channel: str, info: ClientInfo) -> None:
        """The connection `info.client` is in `channel`."""
        await self._ask(_ADD, channel, info.client, _entry(info), int(TTL * 1000))

    async def remove(self, channel: str, client: str) -> None:
        """It is not any more, although the caller is cancelled: a node that stops ends all its tasks before this."""
        try:
            await self._ask(_REMOVE, channel, client)
        except asyncio.CancelledError:
            leaving = asyncio.create_task(self._ask(_REMOVE, channel, client), name=f"leave presence of {channel}")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._left)
            raise

    def _left(self, leaving: asyncio.Task[Any]) -> None:
        self._leaving.discard(leaving)
        if not leaving.cancelled() and (error := leaving.exception()) is not None:
            self._count("leave_failed")
            log.info("who left is present until the TTL is over: %s", error)

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Everybody who is in `channel`, by connection. Fails at once when the server is away for PATIENCE already."""
        flat: Sequence[bytes] = await self._ask(_MEMBERS, channel, patience=PATIENCE)
        members = {}
        for client, entry in zip(map(bytes.decode, flat[::2]), flat[1::2], strict=True):
            try:
                members[client] = _info(client, entry)
            except ValueError:
                self._count("unreadable")
                self._sparing.warning(
                    *("unreadable", self._clock.now(), "an entry in the presence of %r is none of ours", channel)
                )
        return members

    async def stats(self, channel: str) -> PresenceStats:
        """How many are in `channel`. Fails as `members` does."""
        clients, users = await self._ask(_STATS, channel, patience=PATIENCE)
        return PresenceStats(clients, users)

    async def _ask(self, script: Script, channel: str, *arguments: Word, patience: float | None = None) -> Any:
        """All of this may be done twice. Once more is enough: presence is asked, or said, again anyway."""
        base = f"{self._name}:p:{{{channel}}}"
        keys = [f"{base}:who", f"{base}:until", f"{base}:users"]
        end = self._clock.now() + DEADLINE
        try:
            return await self._commands.run(script, keys, arguments, patience=patience)
        except BackendError as error:
            left = end - self._clock.now()
            is_passing = isinstance(error, ConnectionLost) or (isinstance(error, RedisError) and error.kind in RENEWING)
            if not is_passing or isinstance(error, OutboxFull | DeadlinePassed) or left <= 0:
                raise
        return await self._commands.run(script, keys, arguments, deadline=left, patience=patience)

    def _count(self, event: str) -> None:
        self._counts[event] += 1


def _entry(info: ClientInfo) -> bytes:
    user = info.user.encode()
    return b"%d:%b%b" % (len(user), user, _encode(_Rest(info.conn_info, info.chan_info)))


def _info(client: str, entry: bytes) -> ClientInfo:
    """Raises ValueError for what is no entry."""
    length, _, rest = entry.partition(b":")
    end = int(length)
    fields = _decode(rest[end:])
    return ClientInfo(rest[:end].decode(), client, fields.conn_info, fields.chan_info)
