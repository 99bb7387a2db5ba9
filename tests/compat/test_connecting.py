"""Connecting: with tokens and without, refreshing, pings, being sent away and coming back."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.compat.sdk import Client, Sdk
from tests.compat.stage import Api, Open, Servers, new_client, subscription_token, token
from tests.serving import Cable, Door, Served

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_client_connects_and_leaves(insecure: Served, prepared: Open) -> None:
    client = await prepared(insecure.websocket_url)
    connected = await client.connect()
    assert len(connected["client"]) == 36
    assert await client.call("state") == "connected"
    assert (await client.log.next("connecting"))["code"] == 0
    await client.disconnect()
    assert (await client.log.next("disconnected"))["code"] == 0
    assert await client.call("state") == "disconnected"
    assert not client.log.told("error")


async def test_a_client_that_cannot_decide_connects_in_the_end(insecure: Served, prepared: Open) -> None:
    client = await prepared(insecure.websocket_url)
    for _ in range(5):
        await client.connect()
        await client.disconnect()
    await client.connect()
    await client.lives()


async def test_what_was_asked_before_connecting_is_answered_after(insecure: Served, prepared: Open) -> None:
    client = await prepared(insecure.websocket_url)
    _, code = await asyncio.gather(client.connect(), client.refused("rpc", method="no such method", data={}))
    assert code == 108


async def test_data_for_an_application_that_has_no_use_for_it_is_no_mistake(insecure: Served, connected: Open) -> None:
    client = await connected(insecure.websocket_url, data={"page": "/prices"})
    await client.lives()


async def test_a_message_that_nobody_wants_ends_the_connection(insecure: Served, connected: Open) -> None:
    client = await connected(insecure.websocket_url)
    if not client.sdk.is_javascript:
        pytest.skip("this SDK cannot send without an answer")
    await client.call("send", data={"hello": 1})
    assert (await client.log.next("disconnected"))["code"] == 3508


# tokens -------------------------------------------------------------------------------------------------------------


async def test_a_token_says_who_connects(secure: Served, connected: Open, api: Api, user: str) -> None:
    client = await connected(secure.websocket_url, user=user, info={"name": "Ann"})
    presence = (await client.presence(f"#{user}"))[client.id]
    assert presence == {"client": client.id, "user": user, "conn_info": {"name": "Ann"}, "chan_info": None}


@pytest.mark.parametrize("configuration", ["insecure", "secure"])
async def test_a_token_that_cannot_be_believed_ends_it(
    configuration: str, servers: Servers, door: Door, prepared: Open, user: str
) -> None:
    served = servers.get(door, configuration)
    for bad in ("not a token", token(user, secret="guessed"), subscription_token(user, "news")):
        client = await prepared(served.websocket_url, token=bad)
        await client.call("connect")
        disconnected = await client.log.next("disconnected")
        assert disconnected["code"] == 3500, bad
        assert disconnected["reason"] == "invalid token"


async def test_a_bad_token_from_get_token_ends_it(secure: Served, prepared: Open) -> None:
    client = await prepared(secure.websocket_url, tokens=["not a token"])
    await client.call("connect")
    assert (await client.log.next("disconnected"))["code"] == 3500


async def test_who_has_no_token_is_not_let_in(secure: Served, prepared: Open) -> None:
    client = await prepared(secure.websocket_url)
    await client.call("connect")
    assert (await client.log.next("disconnected"))["code"] == 3501


async def test_a_token_is_got_when_there_is_none(secure: Served, prepared: Open, user: str) -> None:
    client = await prepared(secure.websocket_url, tokens=[token(user)])
    await client.connect()
    assert (await client.presence(f"#{user}"))[client.id]["user"] == user


async def test_an_expired_token_is_replaced_by_a_new_one(secure: Served, prepared: Open, user: str) -> None:
    client = await prepared(secure.websocket_url, token=token(user, expires_in=-10), tokens=[token(user)])
    await client.connect()
    assert (await client.log.next("error"))["code"] == 109
    assert len(client.log.told("get_token")) == 1
    await client.lives()


async def test_an_expired_token_that_cannot_be_replaced_ends_it(secure: Served, prepared: Open, user: str) -> None:
    client = await prepared(secure.websocket_url, token=token(user, expires_in=-10))
    await client.call("connect")
    assert (await client.log.next("disconnected"))["code"] == 1  # unauthorized, says the SDK


async def test_live_connections_are_refreshed(brisk: Served, every_sdk: list[Sdk], opened: list[Client]) -> None:
    """The second refresh shows that the first one's answer arrived, and the third that nothing expired."""

    async def live(sdk: Sdk) -> None:
        user, now = f"refreshed-{sdk.name}-{brisk.door}", int(time.time())
        tokens = [token(user, exp=now + 3), token(user, exp=now + 5), token(user)]
        client = await new_client(sdk, opened, brisk.websocket_url, tokens=tokens)
        await client.connect()
        await client.log.take("get_token", 3)
        await client.lives()
        assert len(client.log.told("connected")) == 1
        assert not client.log.told("error")

    await asyncio.gather(*map(live, every_sdk))


async def test_a_refresh_for_another_user_ends_it(brisk: Served, prepared: Open, user: str) -> None:
    client = await prepared(brisk.websocket_url, tokens=[token(user, expires_in=2), token("somebody else")])
    await client.connect()
    assert (await client.log.next("disconnected"))["code"] == 3500


# staying and coming back --------------------------------------------------------------------------------------------


async def test_pings_keep_connections(brisk: Served, every_sdk: list[Sdk], opened: list[Client]) -> None:
    async def live(sdk: Sdk) -> None:
        async with Cable(brisk.port) as cable:
            client = await new_client(sdk, opened, cable.websocket_url, user="pinged")
            connecting = asyncio.ensure_future(client.connect())
            await cable.said_by_clients()  # the handshake
            await cable.said_by_clients()  # connect
            await connecting
            for _ in range(2):  # each says nothing but pongs from here on
                assert len(await cable.said_by_clients()) <= 16
            await client.lives()
            assert len(client.log.told("connected")) == 1

    await asyncio.gather(*map(live, every_sdk))


async def test_a_client_comes_back_when_its_connection_breaks(insecure: Served, prepared: Open) -> None:
    async with Cable(insecure.port) as cable:
        client = await prepared(cable.websocket_url)
        first = await client.connect()
        assert (await client.log.next("connecting"))["code"] == 0
        cable.cut()
        assert (await client.log.next("connecting"))["code"] == 1
        cable.mend()
        second = await client.back()
        assert first["client"] != second["client"]
        await client.lives()


async def test_a_server_that_stops_says_goodbye(
    servers_of_my_own: list[Served], every_sdk: list[Sdk], opened: list[Client], channel: str
) -> None:
    """Clients come back, and where the restart forgot what was there, they are told that they missed something."""
    old, new = servers_of_my_own
    async with Cable(old.port) as cable:

        async def live(sdk: Sdk) -> Client:
            client = await new_client(sdk, opened, cable.websocket_url)
            await client.connect()
            await client.log.next("connecting")
            await client.subscribe(channel)
            return client

        clients = await asyncio.gather(*map(live, every_sdk))
        cable.lead_to(new.port)
        await asyncio.to_thread(old.stop)
        for client in clients:
            goodbye = await client.log.next("connecting")
            if old.door == "websocket":  # under an ASGI server it is the server that closes, before it tells us
                assert (goodbye["code"], goodbye["reason"]) == (3001, "shutdown")
            await client.back()
            subscribed = await client.subscription(channel).log.next("subscribed")
            assert subscribed["was_recovering"]
            assert not subscribed["recovered"]
