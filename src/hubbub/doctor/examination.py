"""What the settings name, looked at one after the other.

Answers for: which parts there are, each distinct server once. Refuses to know: what is looked at in each, and who
declared the channels.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from hubbub.channels import Namespaces
from hubbub.clock import SystemClock
from hubbub.doctor.configured import configured
from hubbub.doctor.findings import Part
from hubbub.doctor.machine import has_redis_packages, machine
from hubbub.doctor.store import stored, unused
from hubbub.settings import Settings

if TYPE_CHECKING:
    from hubbub.doctor.redis import Server


async def examine(
    settings: Settings, notes: Iterable[str], namespaces: Namespaces | None = None
) -> AsyncIterator[Part]:
    """Each part as soon as it is known. `notes` are those that the start of a server prints.

    `namespaces` are those that an application runs with, its classes included; without, they are those of the settings.
    """
    clock = SystemClock()
    uses_redis = not all(url.startswith("memory:") for url in _urls(settings))
    declared = Namespaces(settings.channels) if namespaces is None else namespaces
    yield Part("settings", configured(settings, notes, declared))
    yield Part("machine", machine(max_connections=settings.client.max_connections, uses_redis=uses_redis))
    if uses_redis and has_redis_packages():
        from hubbub.doctor.redis import examined

        for server in _servers(settings):
            yield Part(server.about, await examined(server, settings, clock, namespaces=declared))
    if (store := await stored(settings, clock)) is not None:
        use = unused(declared, is_whole=namespaces is not None)
        yield Part(store.about, [*use, *store.findings])


def _urls(settings: Settings) -> tuple[str, str]:
    return settings.broker.url, settings.presence.url or settings.broker.url


def _servers(settings: Settings) -> list[Server]:
    from hubbub.doctor.redis import Server

    broker, presence = _urls(settings)
    if broker == presence:
        return [Server(broker, ("broker", "presence"), "broker.url")]
    servers = [Server(broker, ("broker",), "broker.url"), Server(presence, ("presence",), "presence.url")]
    return [server for server in servers if not server.url.startswith("memory:")]
