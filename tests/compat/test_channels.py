"""Channels: subscribing, publishing, presence and history, with rights and without, as every SDK does it."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from tests.compat.sdk import PATIENCE, Client
from tests.compat.stage import Api, Open, subscription_token
from tests.serving import Served

pytestmark = pytest.mark.asyncio(loop_scope="session")


VALUES: list[Any] = [
    {"text": 'line\nbreak, \r\n, \u2028, "quotes", \\, \t, ünïcödé, 日本語, 🎉'},
    {"nested": [{"deep": [[[{}]]]}, [], {}, None, True, False]},
    {"numbers": [0, -1, 1.5, 1e100, 2**53 - 1]},
    ["a", "list"],
    "a string",
    7,
    False,
]


async def test_subscribing_and_leaving(insecure: Served, connected: Open, channel: str) -> None:
    client = await connected(insecure.websocket_url)
    subscription = client.subscription(channel)
    await subscription.subscribe()
    subscribed = await subscription.log.next("subscribed")
    assert subscribed["recoverable"]
    assert subscribed["positioned"]
    assert subscribed["offset"] == 0
    assert subscribed["epoch"]
    assert not subscribed["was_recovering"]
    assert not subscribed["recovered"]
    await subscription.unsubscribe()
    assert (await subscription.log.next("unsubscribed"))["code"] == 0
    await client.lives()


async def test_connecting_and_subscribing_in_one_breath(insecure: Served, prepared: Open, channel: str) -> None:
    client = await prepared(insecure.websocket_url)
    subscription = client.subscription(channel)
    await subscription.subscribe(connect=True)
    await subscription.log.next("subscribed")
    await client.back()
    await client.lives()


async def test_many_subscriptions_at_once(insecure: Served, connected: Open, channel: str) -> None:
    client = await connected(insecure.websocket_url)
    subscriptions = [client.subscription(f"{channel}-{number}") for number in range(20)]
    await asyncio.gather(*(subscription.subscribe() for subscription in subscriptions))
    for number, subscription in enumerate(subscriptions):
        await subscription.log.next("subscribed")
        await client.publish(subscription.channel, number)
        assert await subscription.data(1) == [number]


async def test_who_changes_their_mind_faster_than_answers_come_ends_subscribed(
    insecure: Served, connected: Open, channel: str
) -> None:
    client = await connected(insecure.websocket_url)
    subscription = await client.subscribe(channel)
    await client.call("flap", channel=channel, times=10)
    await subscription.log.next("subscribed")
    assert await client.presence_stats(channel) == {"clients": 1, "users": 1}
    await client.publish(channel, "still here")
    assert await subscription.data(1) == ["still here"]
    await client.lives()


async def test_a_channel_of_no_namespace_is_unknown(insecure: Served, connected: Open) -> None:
    client = await connected(insecure.websocket_url)
    subscription = client.subscription("nowhere:room")
    await subscription.subscribe()
    assert (await subscription.log.next("unsubscribed"))["code"] == 102
    await everything_refused(client, "nowhere:room", 102)


async def test_a_server_side_channel_cannot_be_subscribed_to_twice(secure: Served, connected: Open, user: str) -> None:
    client = await connected(secure.websocket_url, user=user)
    subscription = client.subscription(f"#{user}")
    await subscription.subscribe()
    assert (await subscription.log.next("unsubscribed"))["code"] == 105


# rights -------------------------------------------------------------------------------------------------------------


async def test_without_rights_everything_is_refused(secure: Served, connected: Open, channel: str, user: str) -> None:
    client = await connected(secure.websocket_url, user=user)
    for name in (channel, f"recovery:{channel}", f"#not-{user}"):
        subscription = client.subscription(name)
        await subscription.subscribe()
        assert (await subscription.log.next("unsubscribed"))["code"] == 103
        await everything_refused(client, name, 103)
    await client.lives()


async def everything_refused(client: Client, channel: str, code: int) -> None:
    assert await client.refused("publish", channel=channel, data={}) == code
    assert await client.refused("history", channel=channel, limit=1, since=None, reverse=False) == code
    assert await client.refused("presence", channel=channel) == code
    assert await client.refused("presence_stats", channel=channel) == code


async def test_rights_begin_and_end_with_the_subscription(
    secure: Served, connected: Open, channel: str, user: str
) -> None:
    client = await connected(secure.websocket_url, user=user)
    subscription = await client.subscribe(channel, token=subscription_token(user, channel))
    await client.publish(channel, {"n": 1})
    assert len((await client.history(channel, limit=-1))["publications"]) == 1
    assert await client.presence_stats(channel) == {"clients": 1, "users": 1}
    await subscription.unsubscribe()
    await everything_refused(client, channel, 103)


async def test_what_a_namespace_does_not_offer_is_not_available(
    insecure: Served, connected: Open, channel: str
) -> None:
    client = await connected(insecure.websocket_url)
    fast = f"fast:{channel}"
    await client.subscribe(fast)
    assert await client.refused("history", channel=fast, limit=1, since=None, reverse=False) == 108
    assert await client.refused("presence", channel=fast) == 108
    assert await client.refused("presence_stats", channel=fast) == 108


# publishing ---------------------------------------------------------------------------------------------------------


async def test_a_publication_reaches_everybody_with_its_publisher(
    secure: Served, connected: Open, channel: str, user: str
) -> None:
    ann = await connected(secure.websocket_url, user=user, info={"name": "Ann"})
    bob = await connected(secure.websocket_url, user=f"{user}-bob")
    heard = [
        await client.subscribe(channel, token=subscription_token(name, channel, info={"seat": seat}))
        for client, name, seat in ((ann, user, 1), (bob, f"{user}-bob", 2))
    ]
    await ann.publish(channel, {"hello": "world"})
    for subscription in heard:
        publication = await subscription.log.next("publication")
        assert publication == {
            "channel": channel,
            "data": {"hello": "world"},
            "offset": 1,
            "info": {"client": ann.id, "user": user, "conn_info": {"name": "Ann"}, "chan_info": {"seat": 1}},
            "tags": {},
        }


async def test_payloads_arrive_as_they_were_sent(insecure: Served, connected: Open, channel: str) -> None:
    client = await connected(insecure.websocket_url)
    subscription = await client.subscribe(channel)
    for value in VALUES:
        await client.publish(channel, value)
    assert await subscription.data(len(VALUES)) == VALUES
    history = await client.history(channel, limit=-1)
    assert [publication["data"] for publication in history["publications"]] == VALUES


async def test_payloads_up_to_the_limit_and_beyond(insecure: Served, connected: Open, channel: str) -> None:
    client = await connected(insecure.websocket_url)
    subscription = await client.subscribe(channel)
    fits = "x" * (65536 - 2)
    await client.publish(channel, fits)
    assert await client.refused("publish", channel=channel, data=fits + "x") == 107
    assert await subscription.data(1) == [fits]
    await client.lives()


async def test_publications_of_a_batch_keep_their_order(insecure: Served, connected: Open, channel: str) -> None:
    client = await connected(insecure.websocket_url)
    subscription = await client.subscribe(channel)
    await client.call("batch", channel=channel, data=list(range(100)))
    assert await subscription.data(100) == list(range(100))


async def test_a_live_channel_has_no_past(insecure: Served, connected: Open, channel: str) -> None:
    fast = f"fast:{channel}"
    client = await connected(insecure.websocket_url)
    subscription = client.subscription(fast)
    await subscription.subscribe()
    subscribed = await subscription.log.next("subscribed")
    assert not subscribed["recoverable"]
    assert not subscribed["positioned"]
    await client.publish(fast, {"n": 1})
    assert (await subscription.log.next("publication"))["offset"] == 0


async def test_bytes_go_through_unchanged(insecure: Served, prepared: Open, channel: str, api: Api) -> None:
    client = await prepared(insecure.websocket_url, payload="base64")
    if not client.sdk.protobuf:
        pytest.skip("JSON cannot carry bytes")
    await client.connect()
    everything = base64.b64encode(bytes(range(256)) * 4).decode()
    subscription = await client.subscribe(f"bytes:{channel}")
    await client.publish(f"bytes:{channel}", everything)
    assert await subscription.data(1) == [everything]
    history = await client.history(f"bytes:{channel}", limit=1)
    assert history["publications"][0]["data"] == everything
    # In a channel of JSON they have no place: they would break the frames of everybody else.
    assert await client.refused("publish", channel=channel, data=everything) == 107


# presence -----------------------------------------------------------------------------------------------------------


async def test_presence_tells_who_is_here(secure: Served, connected: Open, channel: str, user: str) -> None:
    clients = [await connected(secure.websocket_url, user=user, info={"device": number}) for number in range(2)]
    clients.append(await connected(secure.websocket_url, user=f"{user}-bob"))
    for client, name in zip(clients, (user, user, f"{user}-bob"), strict=True):
        await client.subscribe(channel, token=subscription_token(name, channel))
    first, second, _ = clients
    assert await first.presence_stats(channel) == {"clients": 3, "users": 2}
    presence = await first.presence(channel)
    assert set(presence) == {client.id for client in clients}
    assert presence[second.id] == {"client": second.id, "user": user, "conn_info": {"device": 1}, "chan_info": None}


async def test_presence_of_one_who_left_or_vanished_ends(insecure: Served, connected: Open, channel: str) -> None:
    watcher, leaver, quitter = [await connected(insecure.websocket_url) for _ in range(3)]
    subscription = await leaver.subscribe(channel)
    await quitter.subscribe(channel)
    assert await watcher.presence_stats(channel) == {"clients": 2, "users": 1}
    await subscription.unsubscribe()
    await leaver.lives()  # answered, so the unsubscribe before it was handled
    assert set(await watcher.presence(channel)) == {quitter.id}
    await quitter.disconnect()
    async with asyncio.timeout(PATIENCE):
        while await watcher.presence(channel):  # nothing tells when a server has noticed
            pass


async def test_nobody_is_nobody(insecure: Served, connected: Open, channel: str) -> None:
    """SDKs read these without a default: what is empty has to be there nevertheless."""
    client = await connected(insecure.websocket_url)
    assert await client.presence(channel) == {}
    assert await client.presence_stats(channel) == {"clients": 0, "users": 0}


async def test_who_has_no_name_is_somebody_all_the_same(insecure: Served, connected: Open, channel: str) -> None:
    client = await connected(insecure.websocket_url)
    subscription = await client.subscribe(channel)
    await client.publish(channel, 1)
    anonymous = {"client": client.id, "user": "", "conn_info": None, "chan_info": None}
    assert (await subscription.log.next("publication"))["info"] == anonymous
    assert await client.presence(channel) == {client.id: anonymous}
    assert (await client.history(channel, limit=1))["publications"][0]["info"] == anonymous


async def test_joins_and_leaves_are_told(secure: Served, connected: Open, channel: str, user: str) -> None:
    watcher = await connected(secure.websocket_url, user=user)
    watching = await watcher.subscribe(channel, token=subscription_token(user, channel))
    assert (await watching.log.next("join"))["info"]["client"] == watcher.id  # its own
    other = f"{user}-bob"
    for ending in ("unsubscribe", "disconnect"):
        bob = await connected(secure.websocket_url, user=other, info={"name": "Bob"})
        await bob.subscribe(channel, token=subscription_token(other, channel, info=[1]))
        info = {"client": bob.id, "user": other, "conn_info": {"name": "Bob"}, "chan_info": [1]}
        assert await watching.log.next("join") == {"channel": channel, "info": info}
        await (bob.subscription(channel).unsubscribe() if ending == "unsubscribe" else bob.disconnect())
        assert await watching.log.next("leave") == {"channel": channel, "info": info}


async def test_joins_are_told_to_those_who_asked(secure: Served, connected: Open, channel: str, user: str) -> None:
    asked = f"asked:{channel}"
    curious, incurious = [await connected(secure.websocket_url, user=user) for _ in range(2)]
    watching = await curious.subscribe(asked, join_leave=True)
    assert (await watching.log.next("join"))["info"]["client"] == curious.id
    ignoring = await incurious.subscribe(asked)
    assert (await watching.log.next("join"))["info"]["client"] == incurious.id
    await watching.unsubscribe()
    await curious.lives()
    await incurious.lives()  # whatever was on its way to it has arrived
    assert not ignoring.log.told("join")
    assert not ignoring.log.told("leave")


# history ------------------------------------------------------------------------------------------------------------


def offsets(page: Any) -> list[int]:
    return [publication["offset"] for publication in page["publications"]]


async def test_history_in_pages(insecure: Served, connected: Open, channel: str) -> None:
    client = await connected(insecure.websocket_url)
    empty = await client.history(channel, limit=-1)
    assert (empty["publications"], empty["offset"]) == ([], 0)
    await client.call("batch", channel=channel, data=list(range(1, 11)))

    position = await client.history(channel)
    assert (position["publications"], position["offset"], position["epoch"]) == ([], 10, empty["epoch"])

    async def read(limit: int, offset: int | None = None, *, reverse: bool = False) -> list[int]:
        since = None if offset is None else {"offset": offset, "epoch": empty["epoch"]}
        return offsets(await client.history(channel, limit=limit, since=since, reverse=reverse))

    assert await read(-1) == list(range(1, 11))
    assert await read(3) == [1, 2, 3]
    assert await read(3, 3) == [4, 5, 6]
    assert await read(100, 8) == [9, 10]
    assert await read(3, 10) == []
    assert await read(3, reverse=True) == [10, 9, 8]
    assert await read(3, 8, reverse=True) == [7, 6, 5]
    assert await read(-1, reverse=True) == list(range(10, 0, -1))
    assert await read(0, 5) == []


async def test_history_of_another_epoch_is_refused(insecure: Served, connected: Open, channel: str) -> None:
    client = await connected(insecure.websocket_url)
    await client.publish(channel, 1)
    wrong = {"offset": 0, "epoch": "of another life"}
    assert await client.refused("history", channel=channel, limit=1, since=wrong, reverse=False) == 112
    before_everything = {"offset": 0, "epoch": ""}
    assert await client.refused("history", channel=channel, limit=1, since=before_everything, reverse=True) == 107


async def test_history_keeps_no_more_than_its_size(insecure: Served, connected: Open, channel: str) -> None:
    small = f"smallhistory:{channel}"
    client = await connected(insecure.websocket_url)
    await client.subscribe(small)
    await client.call("batch", channel=small, data=list(range(1, 6)))
    page = await client.history(small, limit=-1)
    assert (offsets(page), page["offset"]) == ([4, 5], 5)
