"""What official clients make of being refused: they try again where that helps, and stay away where it does not."""

from __future__ import annotations

import asyncio

import pytest
from tests.compat.sdk import Client, Sdk
from tests.compat.stage import Open, Servers, new_client
from tests.serving import Door, Served

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def limited(servers: Servers, door: Door) -> Served:
    return servers.get(door, "limited")


@pytest.fixture
def narrow(servers: Servers) -> Served:
    """Behind the fast door alone. Plain uvicorn says 503 as well, and logs an error of its own about each."""
    return servers.get("websocket", "narrow")


async def test_subscribes_beyond_the_rate_are_tried_again(
    limited: Served, every_sdk: list[Sdk], opened: list[Client], channel: str
) -> None:
    """111 is temporary: all of them get in, and the connection lives."""

    async def story(sdk: Sdk) -> None:
        client = await new_client(sdk, opened, limited.websocket_url)
        await client.connect()
        subscriptions = [client.subscription(f"{channel}-{number}") for number in range(30)]
        await asyncio.gather(*(subscription.subscribe() for subscription in subscriptions))
        for subscription in subscriptions:
            await subscription.log.next("subscribed")
        codes = [error["code"] for subscription in subscriptions for error in subscription.log.told("error")]
        assert codes, "nothing was refused, so nothing was shown"
        assert set(codes) == {111}
        assert not client.log.told("disconnected")
        assert len(client.log.told("connecting")) == 1

    await asyncio.gather(*(story(sdk) for sdk in every_sdk))


async def test_publications_beyond_the_rate_are_refused_and_the_connection_lives(
    limited: Served, connected: Open, channel: str
) -> None:
    client = await connected(limited.websocket_url)
    for number in range(3):
        await client.publish(f"slow:{channel}", number)
    assert await client.refused("publish", channel=f"slow:{channel}", data=3) == 111
    await client.publish(channel, 4)
    await client.lives()


async def test_one_connection_more_than_a_user_may_have_stays_away(
    limited: Served, connected: Open, prepared: Open, user: str
) -> None:
    first = await connected(limited.websocket_url, user=user)
    second = await prepared(limited.websocket_url, user=user)
    await second.call("connect")
    assert (await second.log.next("disconnected"))["code"] == 3504
    await first.lives()
    assert await second.call("state") == "disconnected"


async def test_a_full_server_is_tried_again_until_there_is_room(
    narrow: Served, connected: Open, prepared: Open
) -> None:
    first = await connected(narrow.websocket_url)
    second = await prepared(narrow.websocket_url)
    await second.call("connect")
    await second.log.take("error", 2)  # it was refused, and came again
    assert not second.log.told("disconnected")
    await first.disconnect()
    await second.back()
    await second.lives()
