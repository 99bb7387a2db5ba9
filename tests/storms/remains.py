"""What a storm may not leave behind: keys in Redis, and tasks, files and clients in the nodes.

Answers for: which keys stay and which go by themselves, and what a node holds too much. Refuses to know: storms.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

#: Says a command to Redis.
Say = Callable[..., Awaitable[Any]]

#: What a node may hold more than before: connections of publishers move between nodes, and timers run.
SLACK = {"tasks": 8, "files": 8}

#: Keys that go by themselves, and within how many milliseconds: names of publishes, and idempotency keys.
PASSING = {"storm:n:": 15_000, "storm:k:": 300_000}

_TIMES = """
local flat = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  flat[#flat + 1] = key
  flat[#flat + 1] = redis.call('PTTL', key)
end
return flat
"""


async def lasting_keys(say: Say) -> set[str]:
    """The keys that stay. Names of publishes go by themselves, within 15 s; idempotency keys within 5 minutes."""
    return {key for key in await _times(say) if not key.startswith(tuple(PASSING))}


async def surplus_keys(say: Say, before: set[str]) -> list[str]:
    """What is wrong with the keys that are there, and were not `before`."""
    times = await _times(say)
    wrong = [f"key {key} has no TTL" for key, left in times.items() if left == -1]
    for prefix, most in PASSING.items():
        wrong += [f"key {key} lives for {left} ms" for key, left in times.items() if left > most and prefix in key]
    surplus = await lasting_keys(say) - before
    return wrong + [f"there are more keys than at the start: {sorted(surplus)}"] * bool(surplus)


def leak(before: dict[str, int], now: dict[str, int], clients: int) -> str:
    """What a node that has so many `clients` holds too much, or ""."""
    over = [name for name, slack in SLACK.items() if now[name] > before[name] + slack]
    if now["clients"] != clients:
        over.append("clients")
    return f"holds {now}, at the start {before}, and has {clients} clients" if over else ""


async def _times(say: Say) -> dict[str, int]:
    """All keys, and how many milliseconds each has left; -1: for ever."""
    flat = await say("EVAL", _TIMES, 0)
    return {_text(key): int(left) for key, left in zip(flat[::2], flat[1::2], strict=True)}


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)
