"""Recovery: after a cut a client has exactly what it missed, in order and once; or it knows that it has not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import cent
import pytest
from tests.compat.sdk import Client, Sdk
from tests.compat.stage import Api, Open, new_client
from tests.serving import Cable, Served

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def publish(api: cent.AsyncClient, channel: str, values: Iterable[object]) -> None:
    for value in values:
        await api.publish(cent.PublishRequest(channel=channel, data=value))


async def cut_off(cable: Cable, client: Client) -> None:
    """Cut, and wait until the client knows."""
    cable.cut()
    while (await client.log.next("connecting"))["code"] == 0:
        pass


async def leave(clients: Iterable[Client]) -> None:
    """Before the cable goes. centrifuge-python leaves a task behind that is never done where it is told to disconnect
    while it opens a connection.
    """
    await asyncio.gather(*(client.disconnect() for client in clients))


@pytest.mark.parametrize("missed", [0, 1, 50])
async def test_what_was_missed_is_recovered(
    missed: int, insecure: Served, prepared: Open, channel: str, api: Api
) -> None:
    server, channel = api(insecure), f"recovery:{channel}"
    async with Cable(insecure.port) as cable:
        client = await prepared(cable.websocket_url)
        await client.connect()
        subscription = await client.subscribe(channel)
        await publish(server, channel, ["before"])
        assert await subscription.data(1) == ["before"]
        await cut_off(cable, client)
        await publish(server, channel, range(missed))
        cable.mend()
        recovery = await subscription.log.next("subscribed")
        assert recovery["was_recovering"]
        assert recovery["recovered"]
        assert recovery["recoverable"]
        await publish(server, channel, ["after"])
        assert await subscription.data(missed + 1) == [*range(missed), "after"]
        offsets = [publication["offset"] for publication in subscription.log.told("publication")]
        assert offsets == list(range(1, missed + 3))


async def test_who_missed_too_much_is_told(insecure: Served, prepared: Open, channel: str, api: Api) -> None:
    server, channel = api(insecure), f"smallhistory:{channel}"
    async with Cable(insecure.port) as cable:
        client = await prepared(cable.websocket_url)
        await client.connect()
        subscription = await client.subscribe(channel)
        await publish(server, channel, ["before"])
        assert await subscription.data(1) == ["before"]
        await cut_off(cable, client)
        await publish(server, channel, range(3))
        cable.mend()
        recovery = await subscription.log.next("subscribed")
        assert recovery["was_recovering"]
        assert not recovery["recovered"]
        assert recovery["offset"] == 4
        await publish(server, channel, ["after"])
        assert await subscription.data(1) == ["after"]  # and nothing of what was kept: a part would pass for the whole


async def test_as_much_as_is_kept_can_be_recovered(insecure: Served, prepared: Open, channel: str, api: Api) -> None:
    server, channel = api(insecure), f"smallhistory:{channel}"
    async with Cable(insecure.port) as cable:
        client = await prepared(cable.websocket_url)
        await client.connect()
        subscription = await client.subscribe(channel)
        await cut_off(cable, client)
        await publish(server, channel, range(2))
        cable.mend()
        assert (await subscription.log.next("subscribed"))["recovered"]
        assert await subscription.data(2) == [0, 1]


async def test_a_live_channel_is_not_recovered(insecure: Served, prepared: Open, channel: str, api: Api) -> None:
    server, channel = api(insecure), f"fast:{channel}"
    async with Cable(insecure.port) as cable:
        client = await prepared(cable.websocket_url)
        await client.connect()
        subscription = await client.subscribe(channel)
        await cut_off(cable, client)
        await publish(server, channel, ["missed"])
        cable.mend()
        recovery = await subscription.log.next("subscribed")
        assert not recovery["was_recovering"]
        assert not recovery["recovered"]
        await publish(server, channel, ["after"])
        assert await subscription.data(1) == ["after"]


@pytest.mark.parametrize("leave", ["disconnect", "unsubscribe"])
async def test_who_left_and_returns_recovers(
    leave: str, insecure: Served, connected: Open, channel: str, api: Api
) -> None:
    server, channel = api(insecure), f"recovery:{channel}"
    client = await connected(insecure.websocket_url)
    subscription = await client.subscribe(channel)
    if leave == "disconnect":
        await client.disconnect()
    else:
        await subscription.unsubscribe()
        await client.lives()  # the server has heard it: what is still on its way, centrifuge-js would deliver
    await publish(server, channel, range(10))
    await (client.connect() if leave == "disconnect" else subscription.subscribe())
    recovery = await subscription.log.next("subscribed")
    assert (recovery["was_recovering"], recovery["recovered"]) == (True, True)
    publications = await subscription.log.take("publication", 10)
    assert [(publication["offset"], publication["data"]) for publication in publications] == [
        (number + 1, number) for number in range(10)
    ]


async def test_a_subscription_begins_where_the_application_says(
    insecure: Served, connected: Open, channel: str, api: Api
) -> None:
    server, channel = api(insecure), f"recovery:{channel}"
    await publish(server, channel, range(1, 6))
    client = await connected(insecure.websocket_url)
    if not client.sdk.is_javascript:
        pytest.skip("this SDK has no `since`")
    position = await client.history(channel)
    since = {"offset": 3, "epoch": position["epoch"]}
    subscription = await client.subscribe(channel, since=since)
    assert await subscription.data(2) == [4, 5]
    stranger = await connected(insecure.websocket_url)
    lost = stranger.subscription(channel)
    await lost.subscribe(since=since | {"epoch": "of another life"})
    subscribed = await lost.log.next("subscribed")
    assert (subscribed["was_recovering"], subscribed["recovered"]) == (True, False)


async def test_bursts_that_arrive_in_one_piece_are_told_in_order(
    insecure: Served, every_sdk: list[Sdk], opened: list[Client], channel: str, api: Api
) -> None:
    """As on a slow link, or at a client that was busy. Each burst leaves the server at once, in as many frames as there
    are publications: centrifuge-js in Node takes frames that it reads together apart side by side.
    """
    server, bursts, size = api(insecure), 8, 5
    async with Cable(insecure.port) as cable:
        clients = [await new_client(sdk, opened, cable.websocket_url) for sdk in every_sdk]
        for client in clients:
            await client.connect()
            await client.subscribe(channel)
        cable.hold()
        for start in range(0, bursts * size, size):
            requests = [cent.PublishRequest(channel=channel, data=start + number) for number in range(size)]
            await server.batch(cent.BatchRequest(requests=requests))
        cable.release()
        for client in clients:
            subscription = client.subscription(channel)
            assert await subscription.data(bursts * size) == list(range(bursts * size)), client.name
        await leave(clients)


async def test_cuts_in_the_middle_of_everything_lose_nothing(
    insecure: Served, every_sdk: list[Sdk], opened: list[Client], channel: str, api: Api
) -> None:
    """A publisher that never pauses, connections that are cut wherever they happen to be."""
    server, channel, total = api(insecure), f"recovery:{channel}", 96  # all of it is kept, whoever comes back how late
    async with Cable(insecure.port) as cable:

        async def live(sdk: Sdk) -> Client:
            client = await new_client(sdk, opened, cable.websocket_url)
            await client.connect()
            await client.subscribe(channel)
            return client

        clients = await asyncio.gather(*map(live, every_sdk))
        for start in range(0, total, 12):
            await publish(server, channel, range(start, start + 9))
            cable.cut()
            await publish(server, channel, range(start + 9, start + 12))
            cable.mend()
        for client in clients:
            subscription = client.subscription(channel)
            assert await subscription.data(total) == list(range(total)), client.name
            assert all(context["recovered"] for context in subscription.log.told("subscribed")[1:])
        await leave(clients)
