"""Subscription tokens: good, bad, expired, somebody else's, and refreshed while everything goes on."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.compat.sdk import Client, Sdk
from tests.compat.stage import Open, new_client, subscription_token, token
from tests.serving import Served

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_token_opens_its_channel(secure: Served, connected: Open, channel: str, user: str) -> None:
    client = await connected(secure.websocket_url, user=user)
    await client.subscribe(channel, token=subscription_token(user, channel, info={"role": "host"}))
    assert (await client.presence(channel))[client.id]["chan_info"] == {"role": "host"}


async def test_a_token_is_got_when_there_is_none(secure: Served, connected: Open, channel: str, user: str) -> None:
    client = await connected(secure.websocket_url, user=user)
    subscription = await client.subscribe(channel, tokens=[subscription_token(user, channel)])
    assert len(subscription.log.told("get_token")) == 1


async def test_a_token_that_cannot_be_believed_opens_nothing(
    secure: Served, connected: Open, channel: str, user: str
) -> None:
    client = await connected(secure.websocket_url, user=user)
    bad = ("not a token", subscription_token(user, channel, secret="guessed"), token(user))
    for number, text in enumerate(bad):
        subscription = client.subscription(f"{channel}-{number}")
        await subscription.subscribe(tokens=[text])
        assert (await subscription.log.next("unsubscribed"))["code"] == 103, text
    await client.lives()


async def test_an_expired_token_is_replaced(secure: Served, connected: Open, channel: str, user: str) -> None:
    client = await connected(secure.websocket_url, user=user)
    expired = subscription_token(user, channel, expires_in=-10)
    subscription = await client.subscribe(channel, token=expired, tokens=[subscription_token(user, channel)])
    assert (await subscription.log.next("error"))["code"] == 109
    await client.lives()


async def test_an_expired_token_that_cannot_be_replaced_ends_it(
    secure: Served, connected: Open, channel: str, user: str
) -> None:
    client = await connected(secure.websocket_url, user=user)
    subscription = client.subscription(channel)
    await subscription.subscribe(token=subscription_token(user, channel, expires_in=-10))
    # One SDK gives up, the other tries without a token and hears that this is not allowed.
    expected = 103 if client.sdk.is_javascript else 1
    assert (await subscription.log.next("unsubscribed"))["code"] == expected
    await client.lives()


@pytest.mark.parametrize("wrong", ["channel", "user"])
async def test_a_token_for_something_else_ends_the_connection(
    wrong: str, secure: Served, connected: Open, channel: str, user: str
) -> None:
    client = await connected(secure.websocket_url, user=user)
    other = subscription_token(user, "other") if wrong == "channel" else subscription_token("other", channel)
    await client.subscription(channel).subscribe(token=other)
    assert (await client.log.next("disconnected"))["code"] == 3500


async def test_live_subscriptions_are_refreshed(brisk: Served, every_sdk: list[Sdk], opened: list[Client]) -> None:
    """The second refresh shows that the first one's answer arrived, and the third that nothing expired."""

    async def live(sdk: Sdk) -> None:
        user, now = f"refreshed-{sdk.name}", int(time.time())
        channel = f"{user}-{brisk.door}"
        client = await new_client(sdk, opened, brisk.websocket_url, user=user)
        await client.connect()
        tokens = [subscription_token(user, channel, exp=now + 3), subscription_token(user, channel, exp=now + 5)]
        subscription = await client.subscribe(channel, tokens=[*tokens, subscription_token(user, channel)])
        await subscription.log.take("get_token", 3)
        await client.publish(channel, "still here")
        assert await subscription.data(1) == ["still here"]
        assert len(subscription.log.told("subscribed")) == 1
        assert not subscription.log.told("error")

    await asyncio.gather(*map(live, every_sdk))


async def test_what_expires_is_ended(brisk: Served, every_sdk: list[Sdk], opened: list[Client]) -> None:
    """centrifuge-python lets it come to that; centrifuge-js ends a subscription that it has no new token for."""

    async def live(sdk: Sdk) -> None:
        user = f"expiring-{sdk.name}"
        channel = f"{user}-{brisk.door}"
        client = await new_client(sdk, opened, brisk.websocket_url, user=user)
        await client.connect()
        subscription = await client.subscribe(channel, token=subscription_token(user, channel, expires_in=2))
        assert (await subscription.log.next("unsubscribed"))["code"] == 1
        if not sdk.is_javascript:
            codes = [context["code"] for context in subscription.log.told("subscribing")]
            assert codes == [0, 2501]
        await client.lives()

    await asyncio.gather(*map(live, every_sdk))
