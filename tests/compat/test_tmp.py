from __future__ import annotations
import asyncio
import pytest
from tests.compat.test_recovery import publish
from tests.compat.stage import Api, Open
from tests.serving import Served
pytestmark = pytest.mark.asyncio(loop_scope="session")

@pytest.mark.parametrize("n", range(60))
async def test_x(n, insecure: Served, connected: Open, channel: str, api: Api) -> None:
    server, channel = api(insecure), f"recovery:{channel}"
    client = await connected(insecure.websocket_url)
    subscription = await client.subscribe(channel)
    await subscription.unsubscribe()
    await publish(server, channel, range(10))
    await subscription.subscribe()
    await subscription.log.next("subscribed")
    await subscription.data(10)
    await client.lives()
    pubs = [(e, c.get("data"), c.get("offset")) for e, c in subscription.log.all]
    h = await client.history(channel, limit=-1)
    assert [p for e, p, o in pubs if e == "publication"] == list(range(10)), (pubs, h)
