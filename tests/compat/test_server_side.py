"""Subscriptions that the server makes: personal channels, and channels named by the connection token."""

from __future__ import annotations

import asyncio

import cent
import pytest
from tests.compat.sdk import Client
from tests.compat.stage import Api, Open, token
from tests.serving import Cable, Served

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_each_user_is_subscribed_to_their_own_channel(
    secure: Served, connected: Open, user: str, api: Api
) -> None:
    client = await connected(secure.websocket_url, user=user)
    subscribed = await client.log.next("subscribed")
    assert subscribed["channel"] == f"#{user}"
    assert subscribed["recoverable"]
    assert subscribed["positioned"]
    assert subscribed["epoch"]
    assert not subscribed["was_recovering"]
    join = await client.log.next("join")
    assert (join["channel"], join["info"]["client"]) == (f"#{user}", client.id)
    await api(secure).publish(cent.PublishRequest(channel=f"#{user}", data={"for": user}, tags={"kind": "mail"}))
    publication = await client.log.next("publication")
    assert publication["channel"] == f"#{user}"
    assert publication["data"] == {"for": user}
    assert publication["offset"] == 1
    assert publication["tags"] == {"kind": "mail"}
    assert publication["info"] is None


async def test_a_user_may_publish_to_themselves(secure: Served, connected: Open, user: str) -> None:
    phone, laptop = [await connected(secure.websocket_url, user=user) for _ in range(2)]
    await phone.publish(f"#{user}", {"read": 7})
    for client in (phone, laptop):
        publication = await client.log.next("publication")
        assert publication["data"] == {"read": 7}
        assert publication["info"]["client"] == phone.id


async def test_the_token_names_channels(secure: Served, prepared: Open, channel: str, user: str, api: Api) -> None:
    channels, subs = [f"{channel}-a"], {f"{channel}-b": {"info": {"seat": 7}}}
    client = await prepared(secure.websocket_url, token=token(user, channels=channels, subs=subs))
    await client.connect()
    subscribed = {context["channel"] for context in await client.log.take("subscribed", 3)}
    assert subscribed == {f"#{user}", *channels, *subs}
    assert (await client.presence(f"{channel}-b"))[client.id]["chan_info"] == {"seat": 7}
    await api(secure).broadcast(cent.BroadcastRequest(channels=sorted(subscribed), data=1))
    publications = await client.log.take("publication", 3)
    assert {publication["channel"] for publication in publications} == subscribed


async def test_what_was_missed_is_recovered(secure: Served, prepared: Open, user: str, api: Api) -> None:
    server, channel = api(secure), f"#{user}"
    async with Cable(secure.port) as cable:
        client = await prepared(cable.websocket_url, user=user)
        await client.connect()
        await client.log.next("subscribed")
        await server.publish(cent.PublishRequest(channel=channel, data="before"))
        assert (await client.log.next("publication"))["data"] == "before"
        cable.cut()
        assert (await client.log.next("subscribing"))["channel"] == channel
        for number in range(5):
            await server.publish(cent.PublishRequest(channel=channel, data=number))
        cable.mend()
        recovery = await client.log.next("subscribed")
        assert (recovery["was_recovering"], recovery["recovered"]) == (True, True)
        await server.publish(cent.PublishRequest(channel=channel, data="after"))
        publications = await client.log.take("publication", 6)
        assert [publication["data"] for publication in publications] == [*range(5), "after"]


async def test_who_missed_too_much_is_told(secure: Served, prepared: Open, user: str, api: Api) -> None:
    server, channel = api(secure), f"#{user}"
    async with Cable(secure.port) as cable:
        client = await prepared(cable.websocket_url, user=user)
        await client.connect()
        await client.log.next("subscribed")
        cable.cut()
        await client.log.next("subscribing")
        for number in range(101):  # one more than the default keeps
            await server.publish(cent.PublishRequest(channel=channel, data=number))
        cable.mend()
        recovery = await client.log.next("subscribed")
        assert (recovery["was_recovering"], recovery["recovered"]) == (True, False)
        assert recovery["offset"] == 101
        await server.publish(cent.PublishRequest(channel=channel, data="after"))
        assert (await client.log.next("publication"))["data"] == "after"


async def test_a_server_can_end_it(secure: Served, connected: Open, user: str, api: Api) -> None:
    client = await connected(secure.websocket_url, user=user)
    await client.log.next("subscribed")
    await api(secure).unsubscribe(cent.UnsubscribeRequest(user=user, channel=f"#{user}"))
    assert (await client.log.next("unsubscribed"))["channel"] == f"#{user}"
    await client.lives()


async def test_presence_and_leaves_of_other_devices(secure: Served, connected: Open, user: str) -> None:
    phone, laptop = [await connected(secure.websocket_url, user=user) for _ in range(2)]
    joins = await phone.log.take("join", 2)
    assert [join["info"]["client"] for join in joins] == [phone.id, laptop.id]
    assert await phone.presence_stats(f"#{user}") == {"clients": 2, "users": 1}
    await laptop.disconnect()
    assert (await phone.log.next("leave"))["info"]["client"] == laptop.id


async def test_a_channel_that_the_next_token_does_not_name_is_over(
    secure: Served, prepared: Open, channel: str, user: str
) -> None:
    client: Client = await prepared(secure.websocket_url, token=token(user, channels=[channel]))
    await client.connect()
    await client.log.take("subscribed", 2)
    await client.disconnect()
    await client.call("set_token", token=token(user))
    await asyncio.gather(client.connect(), client.log.next("subscribed"))
    assert (await client.log.next("unsubscribed"))["channel"] == channel
