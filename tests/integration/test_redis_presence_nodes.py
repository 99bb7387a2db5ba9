"""Presence of nodes that stop and nodes that die: who was there is gone, at once or soon, and nobody else is."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from typing import Literal

import pytest
from tests.backends import RedisServer
from tests.fakes import SECRET, Client, open_access
from tests.integration.redis_support import PATIENCE, until
from tests.serving import ROOT, leashed

from hubbub.auth import connection_token
from hubbub.brokers.redis import RedisBroker
from hubbub.channels import ChannelRules, Namespaces
from hubbub.clock import SystemClock
from hubbub.core.node import Node
from hubbub.model import PresenceStats
from hubbub.presence import redis as presence_module
from hubbub.presence.redis import RedisPresence

ROOM = "rooms:1"

#: Seconds that an entry lives here.
TTL = 4.0


def node_on(url: str) -> Node:
    namespaces = Namespaces({"rooms": ChannelRules(subscribe="anyone", presence=True)})
    return Node(
        namespaces,
        RedisBroker(url, name="app", clock=SystemClock()),
        presence=RedisPresence(url, name="app", clock=SystemClock()),
        access=open_access(namespaces),
    )


async def enter(node: Node, *users: str) -> None:
    """A connection of each, in the room. Like an SDK, it asks again when it is told that this may help."""
    clients = [Client(node) for _ in users]
    for client, user in zip(clients, users, strict=True):
        client.connect(connection_token(SECRET, user))
        client.subscribe(ROOM)

    def are_there() -> bool:
        missing = [client for client in clients if not client.is_subscribed.get(ROOM)]
        for client in missing:
            if not client.is_asking:
                client.subscribe(ROOM)
        return not missing

    await until(are_there)


@contextlib.asynccontextmanager
async def running(url: str) -> AsyncIterator[Node]:
    node = node_on(url)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


async def settled(node: Node, clients: int, users: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while await node.presence_stats(ROOM) != PresenceStats(clients, users):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.02)


async def _other(url: str) -> None:
    """Another process, with ann and carl."""
    presence_module.TTL = TTL  # type: ignore[misc]  # so that the test need not take a minute
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with running(url) as node:
        await enter(node, "ann", "carl")
        await over.wait()


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
async def test_a_node_that_ends_takes_its_own_along(
    backend: RedisServer, end: Literal["SIGTERM", "SIGKILL"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "TTL", TTL)
    async with running(backend.url) as node:
        await enter(node, "ann", "bob")
        await settled(node, 2, 2)
        here = set(await node.presence(ROOM))
        command = leashed(sys.executable, "-m", "tests.integration.test_redis_presence_nodes", backend.url)
        other = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
        await settled(node, 4, 3)  # ann is in both, and counted once
        await asyncio.sleep(TTL)  # all of them have been renewed
        assert await node.presence_stats(ROOM) == PresenceStats(4, 3)
        other.send_signal(signal.Signals[end])
        await other.wait()
        if end == "SIGKILL":
            while len(members := await node.presence(ROOM)) > 2:
                assert here <= set(members)  # nobody goes who is here
                await asyncio.sleep(0.05)
        assert set(await node.presence(ROOM)) == here
        assert await node.presence_stats(ROOM) == PresenceStats(2, 2)
        assert {info.user for info in (await node.presence(ROOM)).values()} == {"ann", "bob"}
    assert backend.command("KEYS", "app:p:*") == []


@pytest.mark.parametrize("trouble", ["it stalls", "it cuts"])
async def test_who_leaves_with_a_node_is_gone_though_the_server_makes_trouble(
    own_backend: RedisServer, trouble: str
) -> None:
    node = node_on(own_backend.url)
    await node.start()
    await enter(node, *(f"user{number}" for number in range(300)))
    await settled(node, 300, 300)
    if trouble == "it stalls":
        own_backend.pause()
        stopping = asyncio.create_task(node.stop())
        await until(lambda: not node.registry.all and not len(node.tasks))
        own_backend.resume()
        await stopping
    else:
        own_backend.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: node.info().metrics.get("presence_redis_reconnect", 0) == 1)
        await node.stop()  # what is to be said waits for the next connection
    assert own_backend.command("KEYS", "app:p:*") == []


async def test_a_stop_does_not_wait_for_a_server_that_is_gone(own_backend: RedisServer) -> None:
    node = node_on(own_backend.url)
    await node.start()
    await enter(node, "ann")
    await settled(node, 1, 1)
    own_backend.pause()
    async with asyncio.timeout(PATIENCE):
        await node.stop()
    own_backend.resume()
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_renewals_do_not_pile_up_while_the_server_is_away(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "TTL", 0.2)
    monkeypatch.setattr(presence_module, "DEADLINE", 0.1)
    async with running(own_backend.url) as node:
        await enter(node, *(f"user{number}" for number in range(20)))
        own_backend.kill()
        failed = "presence_failed"
        await until(lambda: node.observer.counts[failed] > 5)  # many times that a renewal is due
        renewing = [task for task in asyncio.all_tasks() if task.get_name() == "renew presence"]
        assert len(renewing) <= 1
        own_backend.start()
        store = node.presence_store
        assert isinstance(store, RedisPresence)
        await until(lambda: store._commands.is_connected)  # until then, who asks is told that it is away
        monkeypatch.setattr(presence_module, "TTL", 60.0)
        monkeypatch.setattr(presence_module, "DEADLINE", 5.0)
        await settled(node, 20, 20)  # all of them are said again, to a server that knew of nobody


async def test_what_the_connection_for_presence_does_is_in_the_figures(
    own_backend: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(own_backend.url) as node:
        own_backend.kill()
        await until(lambda: node.info().metrics.get("presence_redis_reconnect", 0) == 1)
        assert node.is_ready, "or a load balancer would take out all nodes at once"
        assert "lost the connection for presence" in caplog.text
        own_backend.start()


if __name__ == "__main__":
    asyncio.run(_other(sys.argv[1]))
