"""The server API through `cent`, the official client for back ends, sync and async, and what clients see of it."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from typing import Any

import cent
import pytest
import pytest_asyncio
import requests
from cent.exceptions import CentApiResponseError, CentUnauthorizedError
from tests.compat.stage import API_KEY, Api, Open, subscription_token
from tests.serving import Served

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Cent:
    """Either client of `cent`, asked the same way: `await cent.ask(request)`."""

    def __init__(self, client: cent.Client | cent.AsyncClient) -> None:
        self._client = client

    async def ask(self, request: Any) -> Any:
        name = request.api_method
        method = getattr(self._client, name)
        if isinstance(self._client, cent.AsyncClient):
            return await method(request)
        return await asyncio.to_thread(method, request)

    async def refused(self, request: Any) -> int:
        with pytest.raises(CentApiResponseError) as refusal:
            await self.ask(request)
        assert refusal.value.message
        return refusal.value.code


@pytest_asyncio.fixture(params=["sync", "async"], loop_scope="session")
async def server(insecure: Served, api: Api, request: pytest.FixtureRequest) -> AsyncIterator[Cent]:
    if request.param == "async":
        yield Cent(api(insecure))
        return
    with requests.Session() as session:
        session.trust_env = False  # no proxy between us and this machine
        yield Cent(cent.Client(insecure.api_url, API_KEY, session=session))


# what cent itself can see -------------------------------------------------------------------------------------------


async def test_publishing_returns_the_position(server: Cent, channel: str) -> None:
    results = [await server.ask(cent.PublishRequest(channel=channel, data={"n": n})) for n in range(3)]
    assert [result.offset for result in results] == [1, 2, 3]
    assert len({result.epoch for result in results}) == 1
    assert results[0].epoch


async def test_publishing_where_nothing_is_kept(server: Cent, channel: str) -> None:
    result = await server.ask(cent.PublishRequest(channel=f"fast:{channel}", data=1))
    assert (result.offset, result.epoch) == (0, "")


async def test_broadcasting_answers_for_each_channel(server: Cent, channel: str) -> None:
    channels = [f"{channel}-a", "nowhere:b", f"{channel}-c"]
    good, bad, good_too = (await server.ask(cent.BroadcastRequest(channels=channels, data=[1]))).responses
    assert good.result.offset == good_too.result.offset == 1
    assert bad.error.code == 102


async def test_an_idempotency_key_makes_it_happen_once(server: Cent, channel: str) -> None:
    request = cent.PublishRequest(channel=channel, data="once", idempotency_key=str(uuid.uuid4()))
    first, second = await server.ask(request), await server.ask(request)
    assert (first.offset, first.epoch) == (second.offset, second.epoch)
    assert first.offset == 1
    history = await server.ask(cent.HistoryRequest(channel=channel, limit=10))
    assert [publication.data for publication in history.publications] == ["once"]


async def test_history_in_pages(server: Cent, channel: str) -> None:
    for number in range(1, 6):
        await server.ask(cent.PublishRequest(channel=channel, data=number, tags={"n": str(number)}))
    position = await server.ask(cent.HistoryRequest(channel=channel))
    assert (position.publications, position.offset) == ([], 5)

    async def read(limit: int, offset: int | None = None, *, reverse: bool = False) -> list[int]:
        since = None if offset is None else cent.StreamPosition(offset=offset, epoch=position.epoch)
        request = cent.HistoryRequest(channel=channel, limit=limit, since=since, reverse=reverse)
        return [publication.data for publication in (await server.ask(request)).publications]

    assert await read(2) == [1, 2]
    assert await read(2, 2) == [3, 4]
    assert await read(-1) == [1, 2, 3, 4, 5]
    assert await read(2, reverse=True) == [5, 4]
    assert await read(2, 4, reverse=True) == [3, 2]
    newest = (await server.ask(cent.HistoryRequest(channel=channel, limit=1, reverse=True))).publications[0]
    assert (newest.offset, newest.tags, newest.info) == (5, {"n": "5"}, None)
    wrong = cent.StreamPosition(offset=1, epoch="of another life")
    assert await server.refused(cent.HistoryRequest(channel=channel, limit=1, since=wrong)) == 112


async def test_mistakes_have_their_codes(server: Cent, channel: str) -> None:
    assert await server.refused(cent.PublishRequest(channel="nowhere:room", data=1)) == 102
    assert await server.refused(cent.PublishRequest(channel="", data=1)) == 107
    assert await server.refused(cent.HistoryRequest(channel=f"fast:{channel}", limit=1)) == 108
    assert await server.refused(cent.PresenceRequest(channel=f"fast:{channel}")) == 108
    assert await server.refused(cent.PresenceStatsRequest(channel=f"fast:{channel}")) == 108
    assert await server.refused(cent.PublishRequest(channel=channel, data=1, b64data="!")) == 107


async def test_a_wrong_key_is_unauthorized(insecure: Served) -> None:
    client = cent.AsyncClient(insecure.api_url, "guessed")
    try:
        with pytest.raises(CentUnauthorizedError):
            await client.info(cent.InfoRequest())
    finally:
        await client.close()


async def test_bytes_reach_everybody_as_their_protocol_carries_them(
    insecure: Served, api: Api, prepared: Open, channel: str
) -> None:
    """As they are in Protobuf, in base64 in JSON."""
    client = await prepared(insecure.websocket_url)
    if client.sdk.protobuf:
        client = await prepared(insecure.websocket_url, payload="base64")
    await client.connect()
    subscription = await client.subscribe(f"bytes:{channel}")
    everything = base64.b64encode(bytes(range(256))).decode()
    await api(insecure).publish(cent.PublishRequest(channel=subscription.channel, data=None, b64data=everything))
    assert await subscription.data(1) == [everything]


async def test_bytes_that_are_json_may_come_in_base64(server: Cent, channel: str) -> None:
    data = base64.b64encode(b'{"from": "bytes"}').decode()
    await server.ask(cent.PublishRequest(channel=channel, data=None, b64data=data))
    history = await server.ask(cent.HistoryRequest(channel=channel, limit=1))
    assert history.publications[0].data == {"from": "bytes"}


async def test_the_node_tells_about_itself(server: Cent) -> None:
    (node,) = (await server.ask(cent.InfoRequest())).nodes
    assert node.uid
    assert node.name
    assert node.version
    assert node.uptime >= 0
    assert node.num_clients >= 0


async def test_orders_for_users_who_are_not_there_succeed(server: Cent, user: str) -> None:
    await server.ask(cent.DisconnectRequest(user=user))
    await server.ask(cent.UnsubscribeRequest(user=user, channel="anywhere"))
    await server.ask(cent.SubscribeRequest(user=user, channel="anywhere"))
    await server.ask(cent.RefreshRequest(user=user, expired=True))
    assert (await server.ask(cent.PresenceRequest(channel=user))).presence == {}
    stats = await server.ask(cent.PresenceStatsRequest(channel=user))
    assert (stats.num_clients, stats.num_users) == (0, 0)


async def test_removed_history_leaves_the_position(server: Cent, channel: str) -> None:
    for number in range(3):
        await server.ask(cent.PublishRequest(channel=channel, data=number))
    await server.ask(cent.HistoryRemoveRequest(channel=channel))
    history = await server.ask(cent.HistoryRequest(channel=channel, limit=10))
    assert (history.publications, history.offset) == ([], 3)
    assert (await server.ask(cent.PublishRequest(channel=channel, data="next"))).offset == 4
    assert await server.refused(cent.HistoryRemoveRequest(channel=f"fast:{channel}")) == 108


@pytest.mark.parametrize("parallel", [False, True])
async def test_a_batch_is_answered_in_its_order(server: Cent, channel: str, parallel: bool) -> None:
    requests = [
        cent.PublishRequest(channel=channel, data=1),
        cent.BroadcastRequest(channels=[f"{channel}-a", "nowhere:b"], data=2),
        cent.ChannelsRequest(pattern="nothing*"),
        cent.SubscribeRequest(user="nobody", channel=channel),
        cent.InfoRequest(),
    ]
    result = await server.ask(cent.BatchRequest(requests=requests, parallel=parallel))
    published, broadcast, channels, subscribed, info = result.replies
    assert published.offset == 1
    assert [response.error and response.error.code for response in broadcast.responses] == [None, 102]
    assert channels.channels == {}
    assert isinstance(subscribed, cent.SubscribeResult)
    assert info.nodes[0].uid


async def test_every_field_of_subscribe_and_refresh_is_taken(server: Cent, channel: str, user: str) -> None:
    yes = cent.BoolValue(value=True)
    override = cent.ChannelOptionsOverride(presence=yes, force_recovery=yes)
    await server.ask(
        cent.SubscribeRequest(
            user=user,
            channel=channel,
            info={"seat": 7},
            b64info=base64.b64encode(b"{}").decode(),
            client="c",
            session="s",
            data=[1],
            b64data=base64.b64encode(b"1").decode(),
            recover_since=cent.StreamPosition(offset=1, epoch="e"),
            override=override,
        )
    )
    await server.ask(cent.RefreshRequest(user=user, client="c", session="s", expired=True, expire_at=1))
    assert await server.refused(cent.SubscribeRequest(user=user, channel="nowhere:room")) == 102


# what clients see of it ---------------------------------------------------------------------------------------------


async def test_publications_of_servers_reach_clients(insecure: Served, api: Api, connected: Open, channel: str) -> None:
    client = await connected(insecure.websocket_url)
    subscription = await client.subscribe(channel)
    await api(insecure).publish(cent.PublishRequest(channel=channel, data={"n": [1]}, tags={"a": "b"}))
    publication = await subscription.log.next("publication")
    expected = {"channel": channel, "data": {"n": [1]}, "offset": 1, "info": None, "tags": {"a": "b"}}
    assert publication == expected
    await api(insecure).publish(cent.PublishRequest(channel=channel, data="passing", skip_history=True))
    assert (await subscription.log.next("publication"))["offset"] == 0
    assert (await client.history(channel))["offset"] == 1
    await api(insecure).publish(cent.PublishRequest(channel=channel, data="kept"))
    assert (await subscription.log.next("publication"))["offset"] == 2


@pytest.mark.parametrize("namespace", ["", "fast:"])
async def test_one_key_is_one_publication_to_clients(
    namespace: str, insecure: Served, api: Api, connected: Open, channel: str
) -> None:
    client = await connected(insecure.websocket_url)
    subscription = await client.subscribe(namespace + channel)
    key = str(uuid.uuid4())
    for data in ("first", "again"):
        request = cent.PublishRequest(channel=subscription.channel, data=data, idempotency_key=key)
        await api(insecure).publish(request)
    await api(insecure).publish(cent.PublishRequest(channel=subscription.channel, data="second"))
    assert await subscription.data(2) == ["first", "second"]


async def test_servers_see_who_is_where(secure: Served, api: Api, connected: Open, channel: str, user: str) -> None:
    server = api(secure)
    client = await connected(secure.websocket_url, user=user, info={"name": "Ann"})
    await client.subscribe(channel, token=subscription_token(user, channel, info=2))
    presence = (await server.presence(cent.PresenceRequest(channel=channel))).presence
    (info,) = presence.values()
    assert set(presence) == {client.id}
    assert (info.client, info.user, info.conn_info, info.chan_info) == (client.id, user, {"name": "Ann"}, 2)
    stats = await server.presence_stats(cent.PresenceStatsRequest(channel=channel))
    assert (stats.num_clients, stats.num_users) == (1, 1)
    channels = (await server.channels(cent.ChannelsRequest(pattern=f"{channel[:-3]}*"))).channels
    assert {name: about.num_clients for name, about in channels.items()} == {channel: 1}
    everything = (await server.channels(cent.ChannelsRequest())).channels
    assert {channel, f"#{user}"} <= set(everything)
    (node,) = (await server.info(cent.InfoRequest())).nodes
    assert node.num_clients >= 1
    assert node.num_channels >= 2


async def test_servers_unsubscribe(secure: Served, api: Api, connected: Open, channel: str, user: str) -> None:
    client = await connected(secure.websocket_url, user=user)
    subscription = await client.subscribe(channel, token=subscription_token(user, channel))
    await api(secure).unsubscribe(cent.UnsubscribeRequest(user=user, channel=channel))
    unsubscribed = await subscription.log.next("unsubscribed")
    assert (unsubscribed["code"], unsubscribed["reason"]) == (2000, "server unsubscribe")
    assert (await api(secure).presence(cent.PresenceRequest(channel=channel))).presence == {}
    await subscription.subscribe()
    await subscription.log.next("subscribed")


async def test_servers_disconnect(secure: Served, api: Api, connected: Open, user: str) -> None:
    client = await connected(secure.websocket_url, user=user)
    await api(secure).disconnect(cent.DisconnectRequest(user=user))
    disconnected = await client.log.next("disconnected")
    assert (disconnected["code"], disconnected["reason"]) == (3503, "force disconnect")


async def test_servers_disconnect_with_words_of_their_own(secure: Served, api: Api, connected: Open, user: str) -> None:
    client = await connected(secure.websocket_url, user=user)
    goodbye = cent.Disconnect(code=4700, reason="your subscription has ended — adieu")
    await api(secure).disconnect(cent.DisconnectRequest(user=user, disconnect=goodbye))
    disconnected = await client.log.next("disconnected")
    assert (disconnected["code"], disconnected["reason"]) == (4700, goodbye.reason)


async def test_servers_may_want_clients_to_come_back(secure: Served, api: Api, connected: Open, user: str) -> None:
    client = await connected(secure.websocket_url, user=user)
    assert (await client.log.next("connecting"))["code"] == 0
    goodbye = cent.Disconnect(code=4200, reason="please come again")
    await api(secure).disconnect(cent.DisconnectRequest(user=user, disconnect=goodbye))
    connecting = await client.log.next("connecting")
    assert (connecting["code"], connecting["reason"]) == (4200, "please come again")
    await client.back()
    await client.lives()


async def test_servers_choose_among_connections(secure: Served, api: Api, connected: Open, user: str) -> None:
    first, second, third = [await connected(secure.websocket_url, user=user) for _ in range(3)]
    await api(secure).disconnect(cent.DisconnectRequest(user=user, client=first.id))
    assert (await first.log.next("disconnected"))["code"] == 3503
    await api(secure).disconnect(cent.DisconnectRequest(user=user, whitelist=[second.id]))
    assert (await third.log.next("disconnected"))["code"] == 3503
    await second.lives()


async def test_servers_subscribe_who_is_connected(
    secure: Served, api: Api, connected: Open, channel: str, user: str
) -> None:
    """The Python SDK does not tell its user of subscriptions that come later; presence does."""
    server = api(secure)
    client = await connected(secure.websocket_url, user=user)
    await server.subscribe(cent.SubscribeRequest(user=user, channel=channel, info={"seat": 7}, data={"why": "you"}))
    presence = (await server.presence(cent.PresenceRequest(channel=channel))).presence
    assert {client: info.chan_info for client, info in presence.items()} == {client.id: {"seat": 7}}
    await server.publish(cent.PublishRequest(channel=channel, data=1))
    await client.lives()
    await server.unsubscribe(cent.UnsubscribeRequest(user=user, channel=channel))
    assert (await server.presence(cent.PresenceRequest(channel=channel))).presence == {}
    await client.lives()


async def test_servers_end_a_connection_as_expired_and_it_comes_back_with_another_token(
    secure: Served, api: Api, connected: Open, user: str
) -> None:
    client = await connected(secure.websocket_url, user=user)
    assert (await client.log.next("connecting"))["code"] == 0
    await api(secure).refresh(cent.RefreshRequest(user=user, expired=True))
    assert (await client.log.next("connecting"))["code"] == 3005
    await client.back()
    await client.lives()


async def test_servers_give_a_connection_another_end(secure: Served, api: Api, connected: Open, user: str) -> None:
    client = await connected(secure.websocket_url, user=user)
    await api(secure).refresh(cent.RefreshRequest(user=user, expire_at=4_000_000_000))
    await client.lives()
