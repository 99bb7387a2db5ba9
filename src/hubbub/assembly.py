"""Builds the house from settings.

Answers for: which part gets which setting. Refuses to know: who asked for it, and when it starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hubbub.auth import TokenVerifier
from hubbub.brokers.base import Broker
from hubbub.brokers.memory import MemoryBroker
from hubbub.channels import Namespaces, PersonalChannels
from hubbub.clock import Clock, TimerWheel
from hubbub.core.access import Access
from hubbub.core.hooks import Handlers
from hubbub.core.node import Limits, Node
from hubbub.errors import ConfigurationError
from hubbub.presence.base import Presence
from hubbub.presence.memory import MemoryPresence
from hubbub.protocol.session import Timing
from hubbub.rates import parse_rate
from hubbub.settings import Settings
from hubbub.stores.base import Store
from hubbub.stores.memory import MemoryStore


def node_of(settings: Settings, timers: TimerWheel, handlers: Handlers) -> Node:
    """A node, not started."""
    namespaces = Namespaces(settings.channels)
    auth, client = settings.auth, settings.client
    return Node(
        namespaces,
        _broker(settings, timers),
        presence=_presence(settings, timers),
        store=store_of(settings, timers.clock),
        timers=timers,
        access=Access(
            namespaces,
            TokenVerifier(
                auth.hmac_secret,
                public_key=auth.public_key,
                jwks_url=auth.jwks_url,
                issuer=auth.issuer,
                audience=auth.audience,
            ),
            personal=PersonalChannels(auth.personal_channel),
            anonymous=auth.anonymous,
            insecure=auth.insecure,
        ),
        handlers=handlers,
        limits=Limits(
            timing=Timing(client.ping_interval, client.pong_timeout, client.stale_timeout),
            stall_timeout=client.stall_timeout,
            expired_grace=client.expired_grace,
            max_channels=client.max_channels,
            write_budget=client.write_budget,
            max_connections=client.max_connections,
            max_connections_per_user=client.max_connections_per_user,
            command_rate=parse_rate(client.command_rate),
        ),
    )


def _broker(settings: Settings, timers: TimerWheel) -> Broker:
    broker = settings.broker
    if broker.url.startswith("memory:"):
        return MemoryBroker(timers)
    with _needs("hiredis redis", "redis"):
        from hubbub.brokers.redis import RedisBroker
    return RedisBroker(broker.url, name=broker.name, prefix=broker.prefix, clock=timers.clock)


def _presence(settings: Settings, timers: TimerWheel) -> Presence:
    url = settings.presence.url or settings.broker.url
    if url.startswith("memory:"):
        return MemoryPresence()
    with _needs("hiredis redis", "redis"):
        from hubbub.presence.redis import RedisPresence
    return RedisPresence(url, name=settings.broker.name, clock=timers.clock)


def store_of(settings: Settings, clock: Clock) -> Store | None:
    """The store, not started; None where none is set."""
    store = settings.store
    if not store.url:
        return None
    if store.url.startswith("memory:"):
        return MemoryStore(clock=clock)
    if not store.url.startswith("sqlite:"):
        with _needs("asyncpg", "postgresql"):
            from hubbub.stores.postgresql import PostgresStore
        return PostgresStore(store.url, clock=clock, is_relaxed=store.durability == "relaxed")
    from hubbub.stores.sqlite import SqliteStore  # who has no such store need not load SQLite

    path = Path(store.url.removeprefix("sqlite:///"))
    return SqliteStore(path, clock=clock, is_relaxed=store.durability == "relaxed")


@contextmanager
def _needs(packages: str, extra: str) -> Iterator[None]:
    """What is only there with an extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in packages.split():
            raise
        raise ConfigurationError(f"{extra} needs the package {error.name}: pip install 'hubbub[{extra}]'") from None


#: Sections of which nearly always the URL alone is said.
_URLS = frozenset({"broker", "store", "presence"})


def overrides(url: str | None, sections: Mapping[str, Any]) -> dict[str, object]:
    """Keyword arguments as dotted keys; a table without keys is one that ends with its dot: `channels.chat.`."""
    found: dict[str, object] = {} if url is None else {"broker.url": url}
    for section, values in sections.items():
        if not isinstance(values, Mapping):
            found[f"{section}.url" if section in _URLS and isinstance(values, str) else section] = values
            continue
        if not values:
            found[f"{section}."] = values
        for name, value in values.items():
            if isinstance(value, Mapping):
                keys = {f"{section}.{name}.{key}": inner for key, inner in value.items()}
                found |= keys or {f"{section}.{name}.": value}
            else:
                found[f"{section}.{name}"] = value
    return found
