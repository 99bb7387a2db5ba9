"""Orders between nodes on real servers while a node is cut off, and what nodes know of each other: not missed, not done
twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.backends import RedisServer
from tests.fakes import SECRET, Client, open_access
from tests.integration.redis_support import until
from tests.serving import Cable

from hubbub.auth import connection_token
from hubbub.brokers.redis import RedisBroker
from hubbub.channels import ChannelRules, Namespaces
from hubbub.clock import SystemClock
from hubbub.core.node import Node
from hubbub.presence.memory import MemoryPresence


@asynccontextmanager
async def running(port: int) -> AsyncIterator[Node]:
    namespaces = Namespaces({"news": ChannelRules(subscribe="anyone", delivery="recent")})
    broker = RedisBroker(f"redis://127.0.0.1:{port}", name="app", prefix="orders:", clock=SystemClock())
    node = Node(namespaces, broker, presence=MemoryPresence(), access=open_access(namespaces))
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


async def came(node: Node, user: str) -> Client:
    client = Client(node)
    client.connect(connection_token(SECRET, user))
    client.subscribe("news:1")
    await until(lambda: client.is_subscribed.get("news:1", False))
    return client


@pytest.mark.timeout(90)
async def test_orders_given_while_a_node_is_cut_off_are_carried_out_after_it_once(backend: RedisServer) -> None:
    async with Cable(backend.port) as cable, running(backend.port) as near, running(cable.port) as far:
        kicked, moved, last = [await came(far, user) for user in ("kicked", "moved", "last")]
        for _ in range(2):
            before = far.observer.counts["disconnect_3503"]
            cable.cut()
            await near.everywhere.disconnect("kicked")
            await near.everywhere.unsubscribe("moved", "news:1")
            await near.everywhere.subscribe("moved", "news:2")
            assert kicked.closed_with == 0
            assert moved.is_subscribed == {"news:1": True}
            cable.mend()
            await until(lambda: kicked.closed_with == 3503)  # noqa: B023 - called at once
            await until(lambda: moved.is_subscribed == {"news:1": False, "news:2": True})  # noqa: B023 - called at once
            assert far.observer.counts["disconnect_3503"] == before + 1

            # Who comes back is not sent away by the same order again: the next one is behind it.
            kicked, moved = await came(far, "kicked"), await came(far, "moved")
            await near.everywhere.disconnect("last")
            await until(lambda: last.closed_with == 3503)  # noqa: B023 - called at once
            assert kicked.closed_with == 0
            assert moved.is_subscribed == {"news:1": True}
            last = await came(far, "last")
        assert far.observer.counts["orders_lost"] == 0


@pytest.mark.timeout(90)
async def test_who_was_cut_off_gives_its_orders_to_the_others(backend: RedisServer) -> None:
    async with Cable(backend.port) as cable, running(backend.port) as near, running(cable.port) as far:
        client = await came(near, "ann")
        cable.cut()
        order = asyncio.create_task(far.everywhere.disconnect("ann"))
        await asyncio.sleep(0.1)
        cable.mend()
        await order
        await until(lambda: client.closed_with == 3503)
        assert near.observer.counts["disconnect_3503"] == 1


async def test_orders_that_the_server_has_forgotten_are_told_and_the_next_one_is_heard(
    own_backend: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(own_backend.port) as near, running(own_backend.port) as far:
        client = await came(far, "ann")
        await near.everywhere.disconnect("somebody")
        own_backend.flushall()
        await near.everywhere.disconnect("somebody")  # of a new epoch: what was in the old one, nobody can know
        await until(lambda: far.observer.counts["orders_lost"] == 1 and near.observer.counts["orders_lost"] == 1)
        await until(lambda: far.everywhere._intercom.is_ready and near.everywhere._intercom.is_ready)
        assert "orders of other nodes are lost" in caplog.text
        assert client.closed_with in (0, 3010)
        client = await came(far, "ann")
        await until(lambda: not far.everywhere._intercom.behind)
        await near.everywhere.disconnect("ann")
        await until(lambda: client.closed_with == 3503)
