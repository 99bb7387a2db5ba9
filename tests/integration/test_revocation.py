"""A user's tokens are revoked, and the official client in Python comes back with another one, if it can."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.compat.sdk import Client, Logs, PythonDriver, Sdk
from tests.integration.support import port_of, running
from tests.serving import websocket_url

from hubbub import Hubbub
from hubbub.auth import mint

SECRET = "a secret of thirty-two characters or more"
SETTINGS: dict[str, Any] = {
    "server": {"port": 0},
    "auth": {"hmac_secret": SECRET},
    "channels": {"default": {"delivery": "recent", "subscribe": "user"}},
}


@pytest.fixture
def sdk() -> Sdk:
    logs = Logs()
    return Sdk("python-json", PythonDriver(logs), logs, False)


def token(user: str, *, issued: float) -> str:
    return mint(SECRET, {"sub": user, "iat": time.time() + issued})


async def test_who_can_have_another_token_comes_back_and_has_missed_nothing(sdk: Sdk) -> None:
    hub = Hubbub(**SETTINGS)
    async with running(hub) as server:
        void, still_void, fresh = (token("ann", issued=issued) for issued in (-60, -30, 60))
        client = await Client(sdk).open(websocket_url(port_of(server)), token=void, tokens=[still_void, fresh])
        await client.connect()
        subscription = await client.subscribe("news")
        await hub.publish("news", 1)
        assert await subscription.data(1) == [1]
        assert hub.node.control.revoke("ann", ttl=3600) == 1
        await hub.publish("news", 2)
        await client.back()
        assert await subscription.data(1) == [2]
        assert (await subscription.log.next("subscribed"))["recovered"]
        assert len(client.log.told("get_token")) == 2
        assert {error["code"] for error in client.log.told("error")} == {109}
        await client.disconnect()


async def test_who_cannot_stays_away(sdk: Sdk) -> None:
    hub = Hubbub(**SETTINGS)
    async with running(hub) as server:
        client = await Client(sdk).open(websocket_url(port_of(server)), token=token("ann", issued=-60))
        await client.connect()
        assert hub.node.control.revoke("ann", ttl=3600) == 1
        assert (await client.log.next("disconnected"))["code"] == 1, "unauthorized"
        assert await client.call("state") == "disconnected"
        assert hub.node.info().num_clients == 0
        await client.disconnect()
