"""What a Redis or Valkey says about itself, judged. Pure.

Answers for: findings from the texts of INFO and CONFIG GET: version, role, memory, output buffers, clients, what is
saved. Refuses to know: how they were asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hubbub.brokers.envelope import MAX_BYTES
from hubbub.doctor.findings import Finding, Level

Info = Mapping[str, str]

#: The oldest versions that hubbub is tested with.
OLDEST = {"Redis": (7, 0), "Valkey": (8, 0)}

#: Of maxmemory and maxclients, above which it is time to do something.
FULL = 0.8

_MIB = 1 << 20


class Buffers(NamedTuple):
    """client-output-buffer-limit of a class: bytes at once, and bytes for so many seconds. 0 is no limit."""

    hard: int
    soft: int
    seconds: int


#: The default of both.
DEFAULT_BUFFERS = Buffers(32 * _MIB, 8 * _MIB, 60)
_DEFAULT_LINE = "client-output-buffer-limit pubsub 32mb 8mb 60"


def parse_info(text: str) -> dict[str, str]:
    """The fields of all sections."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and line[0] != "#")


def from_info(info: Info) -> list[Finding]:
    """Everything that INFO tells."""
    return [version(info), role(info), *memory(info), *clients(info), saved(info)]


def _number(info: Info, field: str) -> int:
    """0 where there is none: servers that only resemble Redis leave out this and that."""
    text = info.get(field, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def product(info: Info) -> tuple[str, str]:
    """Its name and version. Valkey says `redis_version`, too: of the Redis that it stands in for."""
    for name, field in (("Valkey", "valkey_version"), ("Dragonfly", "dragonfly_version"), ("Redis", "redis_version")):
        if field in info:
            return name, info[field]
    return "", ""


def version(info: Info) -> Finding:
    """Whether hubbub knows this one."""
    name, text = product(info)
    oldest = OLDEST.get(name)
    wanted = "Redis 7.0 or Valkey 8, or later"
    if oldest is None:
        return Finding(
            "version", "warning", f"{name or 'a server'} {text}: hubbub is not tested with it", f"use {wanted}"
        )
    if tuple(map(int, re.findall(r"\d+", text)[:2])) < oldest:
        return Finding("version", "wrong", f"{name} {text} is too old", f"upgrade to {wanted}")
    return Finding("version", "ok", f"{name} {text}")


def role(info: Info) -> Finding:
    """Whether it takes writes, as one server."""
    if info.get("cluster_enabled") == "1":
        return Finding(
            *("role", "wrong", "it is a node of a cluster, which has only some of the keys"),
            "name a server without cluster-enabled; one with Sentinel for failover",
        )
    if info.get("role") == "slave":
        primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        return Finding(
            *("role", "wrong", f"it is a replica of {primary} and takes no writes"),
            f"name the primary ({primary}) in the URL, or its Sentinels: redis+sentinel://host,host/NAME",
        )
    if "role" not in info:
        return Finding("role", "note", "it does not say whether it is a primary")
    replicas = _number(info, "connected_slaves")
    return Finding("role", "ok", "primary, " + (f"{replicas} replicas" if replicas != 1 else "1 replica"))


def memory(info: Info) -> Iterator[Finding]:
    """What happens, and has happened, when it is full."""
    policy, limit = info.get("maxmemory_policy", ""), _number(info, "maxmemory")
    used = _number(info, "used_memory")
    room = f"{size(used)} of {size(limit)}" if limit else f"{size(used)}, no maxmemory"
    keeps = Finding("memory", "ok", f"{room}; maxmemory-policy {policy}")
    if not policy:
        yield unreadable("memory", "INFO has no maxmemory_policy", "maxmemory-policy, which should be noeviction")
    elif policy != "noeviction" and limit:
        yield Finding("memory", "wrong", f"{room}; {_evicts(policy)}", _NO_EVICTION)
    elif policy != "noeviction":
        yield Finding("memory", "note", f"{room}; once there is one, {_evicts(policy)}", _NO_EVICTION)
    elif limit and used > FULL * limit:
        yield Finding(
            *("memory", "warning", f"{room}: once it is full, publishes into channels with memory are refused"),
            "raise maxmemory, or keep less: history_size and history_ttl of [channels.*]",
        )
    else:
        yield keeps
    evicted = _number(info, "evicted_keys")
    if evicted:
        yield Finding(
            *("evictions", "warning", f"{evicted:,} keys were evicted since it was started"),
            f"if it is hubbub's alone: {_NO_EVICTION}; else give hubbub a server of its own",
        )


_NO_EVICTION = "redis.conf: maxmemory-policy noeviction (at once: CONFIG SET maxmemory-policy noeviction)"


def _evicts(policy: str) -> str:
    """What a policy takes. Each key of hubbub has a TTL, so volatile-… spares none of them."""
    if policy in ("allkeys-random", "volatile-random"):
        first = "any of them"
    elif policy == "volatile-ttl":
        first = "presence and idempotency keys first, which live shortest"
    else:
        first = "first of channels that are quiet"
    taken = f"what channels keep, their positions and who is there ({first})"
    return f"maxmemory-policy {policy} takes {taken} when it is full"


def clients(info: Info) -> Iterator[Finding]:
    """How many connections there are, and whether some were cut off."""
    connected, limit = _number(info, "connected_clients"), _number(info, "maxclients")
    if limit:
        is_full = connected > FULL * limit
        seen = f"{connected:,} of maxclients {limit:,}"
        fix = "redis.conf: a higher maxclients; each process of hubbub takes three connections"
        yield Finding("clients", "warning" if is_full else "ok", seen, fix if is_full else "")
    if evicted := _number(info, "evicted_clients"):
        yield Finding(
            *("clients", "warning", f"{evicted:,} clients were cut off since it was started, for maxmemory-clients"),
            "redis.conf: maxmemory-clients 0, or higher; a node that is cut off recovers, at a cost",
        )
    if slow := _number(info, "client_output_buffer_limit_disconnections"):
        yield Finding(
            *("buffers", "warning", f"{slow:,} clients were cut off since it was started: they read too slowly"),
            f"redis.conf: {_DEFAULT_LINE} or more; and look for nodes whose CPU is busy, and for large publications",
        )


def saved(info: Info) -> Finding:
    """What survives a restart of it. For information: clients are told what was lost."""
    if info.get("rdb_last_bgsave_status") == "err" or info.get("aof_last_write_status") == "err":
        return Finding(
            *("saving", "warning", "it could not save last time, and may refuse writes because of that"),
            "see its log: mostly a full disk, or a folder that it may not write to",
        )
    if info.get("aof_enabled") == "1":
        return Finding("saving", "note", "appendonly: a restart keeps what channels keep, but for the last second")
    return Finding(
        *("saving", "note", "no appendonly: a restart loses what channels keep since the last snapshot, or all of it"),
        "nothing if that is meant, for clients are told; else redis.conf: appendonly yes",
    )


def buffers(value: str, *, largest: int) -> Finding:
    """Judge CONFIG GET client-output-buffer-limit. `largest`: bytes of the largest payload that any channel takes."""
    words = value.split()
    if "pubsub" not in words:
        return unreadable("buffers", f"it says {value!r}", _DEFAULT_LINE)
    at = words.index("pubsub")
    found = Buffers(*map(int, words[at + 1 : at + 4]))
    seen = f"pubsub {size(found.hard)} {size(found.soft)} {found.seconds}"
    fix = f"redis.conf: {_DEFAULT_LINE} (at once: CONFIG SET client-output-buffer-limit 'pubsub 32mb 8mb 60')"
    lowest = min((each for each in (found.hard, found.soft) if each), default=0)
    level: Level
    if not found.hard and not found.soft:
        level, seen = "note", "pubsub has no limit: a node that hangs fills the server's memory"
    elif lowest <= min(largest, MAX_BYTES):
        level, seen = "wrong", f"{seen}: one large publication (up to {size(largest)}) cuts off every node at once"
    elif _is_less(found):
        level, seen = "warning", f"{seen}, less than the default: a burst cuts off nodes that are a little behind"
    else:
        level, fix = "ok", ""
    return Finding("buffers", level, seen, fix)


def _is_less(found: Buffers) -> bool:
    """Than the default."""
    hard, soft = found.hard or float("inf"), found.soft or float("inf")
    return hard < DEFAULT_BUFFERS.hard or soft < DEFAULT_BUFFERS.soft or found.seconds < DEFAULT_BUFFERS.seconds


def unreadable(subject: str, why: str, what: str) -> Finding:
    """Something that nobody can see from here, and where else to look."""
    return Finding(
        subject, "note", f"could not be read ({why})", f"ask your provider, or whoever runs it, about {what}"
    )


def size(count: int) -> str:
    """Bytes, as people write them."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", _MIB), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} bytes"
