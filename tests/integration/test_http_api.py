"""The HTTP API over a real socket: as `cent` calls it, and as nobody should."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import cent
import httpx
import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contracts.doors import until
from tests.integration.support import client, port_of, running

from hubbub import Hubbub
from hubbub.core.operations import OPERATIONS
from hubbub.server import Server

KEY = "secret"
SECRET = "a secret of at least thirty-two bytes"

SETTINGS: dict[str, Any] = {
    "api": {"key": KEY},
    "auth": {"hmac_secret": SECRET, "anonymous": True},
    "channels": {
        "default": {"subscribe": "anyone", "presence": True},
        "log": {"delivery": "recent", "subscribe": "anyone"},
        "raw": {"delivery": "recent", "data": "binary", "subscribe": "anyone"},
        "words": {"delivery": "recent", "data": "text"},
    },
}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with running(**SETTINGS) as serving:
        yield serving


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """The same application without sockets, which is quicker."""
    hub = Hubbub(**SETTINGS)
    async with hub, in_process(hub) as opened:
        yield opened


def in_process(hub: Hubbub, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(hub.asgi())
    return httpx.AsyncClient(transport=transport, base_url="http://hub", headers={"X-API-Key": KEY} | headers)


@pytest.fixture
async def wire(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.address, headers={"X-API-Key": KEY}, trust_env=False) as opened:
        yield opened


@pytest.fixture
async def api(server: Server) -> AsyncIterator[cent.AsyncClient]:
    async with cent.AsyncClient(f"{server.address}/api", KEY) as opened:
        yield opened


def token(user: str) -> str:
    return jwt.encode({"sub": user}, SECRET, "HS256")


async def call(http: httpx.AsyncClient, operation: str, **request: object) -> Any:
    answer = await http.post(f"/api/{operation}", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()


# as cent calls it -----------------------------------------------------------------------------------------------------


async def test_cent_publishes_and_reads_history(api: cent.AsyncClient) -> None:
    first = await api.publish(cent.PublishRequest(channel="log:1", data={"n": 1}, tags={"a": "b"}))
    second = await api.publish(cent.PublishRequest(channel="log:1", data={"n": 2}))
    assert (first.offset, second.offset) == (1, 2)
    assert first.epoch == second.epoch != ""
    page = await api.history(cent.HistoryRequest(channel="log:1", limit=10))
    assert [(item.offset, item.data, item.tags) for item in page.publications] == [
        (1, {"n": 1}, {"a": "b"}),
        (2, {"n": 2}, None),
    ]
    assert (page.offset, page.epoch) == (2, first.epoch)
    position = await api.history(cent.HistoryRequest(channel="log:1", limit=0))
    assert (position.publications, position.offset) == ([], 2)
    since = cent.StreamPosition(offset=1, epoch=str(first.epoch))
    page = await api.history(cent.HistoryRequest(channel="log:1", limit=-1, since=since))
    assert [item.offset for item in page.publications] == [2]
    page = await api.history(cent.HistoryRequest(channel="log:1", limit=1, reverse=True))
    assert [item.offset for item in page.publications] == [2]


async def test_the_same_idempotency_key_publishes_once(api: cent.AsyncClient) -> None:
    request = cent.PublishRequest(channel="log:1", data={"n": 1}, idempotency_key="once")
    first, second = await api.publish(request), await api.publish(request)
    assert (first.offset, first.epoch) == (second.offset, second.epoch)
    assert second.model_extra == {"duplicate": True}
    assert first.offset == 1
    assert (await api.history(cent.HistoryRequest(channel="log:1", limit=0))).offset == 1


async def test_cent_broadcasts_and_one_channel_that_fails_keeps_no_other_from_it(api: cent.AsyncClient) -> None:
    result = await api.broadcast(cent.BroadcastRequest(channels=["log:1", "nowhere:1", "log:2"], data={"n": 1}))
    assert [response.error and response.error.code for response in result.responses] == [None, 102, None]
    assert [response.result and response.result.offset for response in result.responses] == [1, None, 1]


async def test_cent_sees_who_is_there(server: Server, api: cent.AsyncClient) -> None:
    async with client(server, token=token("ann")) as ann, client(server, token=token("ann")) as again:
        await ann.call("subscribe", channel="news")
        await again.call("subscribe", channel="news")
        await again.call("subscribe", channel="log:1")
        present = (await api.presence(cent.PresenceRequest(channel="news"))).presence
        assert {info.client: info.user for info in present.values()} == {ann.id: "ann", again.id: "ann"}
        stats = await api.presence_stats(cent.PresenceStatsRequest(channel="news"))
        assert (stats.num_clients, stats.num_users) == (2, 1)
        found = (await api.channels(cent.ChannelsRequest(pattern=""))).channels
        assert {name: about.num_clients for name, about in found.items()} == {"news": 2, "log:1": 1}
        assert list((await api.channels(cent.ChannelsRequest(pattern="log:*"))).channels) == ["log:1"]
        assert (await api.channels(cent.ChannelsRequest(pattern="x*"))).channels == {}
        (node,) = (await api.info(cent.InfoRequest())).nodes
        assert (node.num_clients, node.num_users, node.num_channels, node.num_subs) == (2, 1, 2, 3)
        assert node.uid
        assert node.name


async def test_cent_disconnects_with_a_code_of_its_own(server: Server, api: cent.AsyncClient) -> None:
    async with client(server, token=token("ann")) as ann:
        goodbye = cent.Disconnect(code=4321, reason="go away")
        await api.disconnect(cent.DisconnectRequest(user="ann", disconnect=goodbye))
        assert await ann.closed() == (4321, "go away")
    await api.disconnect(cent.DisconnectRequest(user="nobody"))


async def test_disconnect_by_default_whitelist_and_client(server: Server, api: cent.AsyncClient) -> None:
    async with (
        client(server, token=token("ann")) as first,
        client(server, token=token("ann")) as second,
        client(server, token=token("ann")) as third,
    ):
        await api.disconnect(cent.DisconnectRequest(user="ann", client=first.id))
        assert await first.closed() == (3503, "force disconnect")
        await api.disconnect(cent.DisconnectRequest(user="ann", whitelist=[second.id]))
        assert (await third.closed())[0] == 3503
        await second.call("subscribe", channel="news")


async def test_cent_unsubscribes(server: Server, api: cent.AsyncClient) -> None:
    async with client(server, token=token("ann")) as ann:
        await ann.call("subscribe", channel="news")
        await ann.call("subscribe", channel="log:1")
        await api.unsubscribe(cent.UnsubscribeRequest(user="ann", channel="news"))
        push = await ann.push()
        assert (push["channel"], push["unsubscribe"]["code"]) == ("news", 2000)
        await api.unsubscribe(cent.UnsubscribeRequest(user="nobody", channel="news"))


async def test_cent_raises_our_errors(server: Server, api: cent.AsyncClient) -> None:
    with pytest.raises(cent.CentApiResponseError) as failed:
        await api.publish(cent.PublishRequest(channel="nowhere:1", data={}))
    assert failed.value.code == 102
    async with cent.AsyncClient(f"{server.address}/api", "wrong") as stranger:
        with pytest.raises(cent.CentUnauthorizedError):
            await stranger.info(cent.InfoRequest())


# publishing -----------------------------------------------------------------------------------------------------------


async def test_a_publication_reaches_a_subscriber(server: Server, wire: httpx.AsyncClient) -> None:
    async with client(server) as reader:
        await reader.call("subscribe", channel="log:1")
        await call(wire, "publish", channel="log:1", data={"text": "grüße\n"}, tags={"k": "v"})
        await call(wire, "publish", channel="log:1", b64data=base64.b64encode(b'{"n":2}').decode())
        await call(wire, "publish", channel="log:1", data=None, skip_history=True)
        first, second, third = [(await reader.push())["pub"] for _ in range(3)]
        assert (first["data"], first["tags"], first["offset"]) == ({"text": "grüße\n"}, {"k": "v"}, 1)
        assert second["data"] == {"n": 2}
        assert (third["data"], "offset" in third) == (None, False)


async def test_binary_channels_take_bytes(http: httpx.AsyncClient) -> None:
    data = base64.b64encode(b"\x00\xff").decode()
    assert (await call(http, "publish", channel="raw:1", b64data=data))["result"]["offset"] == 1
    assert len((await call(http, "history", channel="raw:1", limit=1))["result"]["publications"]) == 1


async def test_an_old_version_is_dropped(http: httpx.AsyncClient) -> None:
    for version, offset in ((2, 1), (1, 1), (2, 1), (3, 2)):
        answer = await call(http, "publish", channel="log:1", data={}, version=version)
        assert answer["result"]["offset"] == offset, version


@pytest.mark.parametrize(
    ("operation", "request_body", "code"),
    [
        ("publish", {"channel": "nowhere:1", "data": {}}, 102),
        ("publish", {"channel": "log:1"}, 107),
        ("publish", {"channel": "", "data": {}}, 107),
        ("publish", {"data": {}}, 107),
        ("publish", {"channel": "log:1", "data": {}, "tags": {"a": 1}}, 107),
        ("publish", {"channel": 5, "data": {}}, 107),
        ("publish", {"channel": "log:1", "b64data": "%"}, 107),
        ("publish", {"channel": "log:1", "b64data": base64.b64encode(b"no json").decode()}, 107),
        ("publish", {"channel": "log:1", "data": "x" * 70000}, 107),
        ("publish", [], 107),
        ("publish", None, 107),
        ("history", {"channel": "news"}, 108),
        ("history", {"channel": "log:1", "limit": 1, "since": {"offset": 7, "epoch": "other"}}, 112),
        ("presence", {"channel": "log:1"}, 108),
        ("presence_stats", {"channel": "log:1"}, 108),
        ("presence", {}, 107),
        ("disconnect", {}, 107),
        ("channels", {"pattern": 1}, 107),
        ("no_such_thing", {}, 104),
        ("Publish", {}, 104),
    ],
)
async def test_errors_are_http_200_with_a_code_and_a_text(
    http: httpx.AsyncClient, operation: str, request_body: object, code: int
) -> None:
    answer = await http.post(f"/api/{operation}", json=request_body)
    assert answer.status_code == 200
    assert answer.json()["error"]["code"] == code, answer.text
    assert answer.json()["error"]["message"]


# doors and keys -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"X-API-Key": KEY}, ""),
        ({"Authorization": f"apikey {KEY}"}, ""),
        ({"Authorization": f"ApiKey {KEY}"}, ""),
        ({}, f"?api_key={KEY}"),
    ],
)
async def test_the_key_may_come_in_three_ways(http: httpx.AsyncClient, headers: dict[str, str], query: str) -> None:
    del http.headers["X-API-Key"]
    answer = await http.post(f"/api/info{query}", headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, ""),
        ({"X-API-Key": "wrong"}, ""),
        ({"X-API-Key": ""}, ""),
        ({"X-API-Key": b"\xff\xfe"}, ""),
        ({"X-API-Key": "wrong"}, f"?api_key={KEY}"),
        ({"Authorization": f"Bearer {KEY}"}, ""),
        ({"Authorization": KEY}, ""),
        ({}, "?api_key="),
        ({}, "?api_key=%ff"),
    ],
)
async def test_without_the_key_it_is_401(http: httpx.AsyncClient, headers: dict[str, Any], query: str) -> None:
    del http.headers["X-API-Key"]
    answer = await http.post(f"/api/publish{query}", headers=headers, content=b"not even JSON")
    assert answer.status_code == 401
    assert "X-API-Key" in answer.text


async def test_a_key_may_be_in_any_script() -> None:
    hub = Hubbub(api={"key": "schlüssel"})
    async with hub, in_process(hub) as http:
        del http.headers["X-API-Key"]
        for options in ({"headers": {"X-API-Key": "schlüssel".encode()}}, {"params": {"api_key": "schlüssel"}}):
            answer = await http.post("/api/info", **options)
            assert answer.status_code == 200


async def test_a_closed_api_says_so() -> None:
    async with in_process(Hubbub()) as http:
        for key in ("", "guess"):
            answer = await http.post("/api/info", headers={"X-API-Key": key})
            assert answer.status_code == 401
            assert "api.key" in answer.text


async def test_what_is_not_json_is_400_and_what_is_too_long_413(server: Server, wire: httpx.AsyncClient) -> None:
    for body in (b"{", b"\xff", b'{"channel": "log:1", "data": }', b'{"data": ' + b"[" * 100_000):
        assert (await wire.post("/api/publish", content=body)).status_code == 400, body[:20]
    assert (await wire.post("/api/publish", content=b"x" * (2 << 20))).status_code == 413
    assert (await wire.post("/api/info", content=b"")).status_code == 200


async def test_paths_and_methods(http: httpx.AsyncClient) -> None:
    for path in ("/api", "/api/", "/api/publish/again", "/", "/nowhere"):
        assert (await http.post(path)).status_code == 404, path
    assert (await http.get("/api/publish")).status_code == 405
    for path in ("/health", "/ready"):
        answer = await http.get(path, headers={"X-API-Key": ""})
        assert (answer.status_code, answer.json()) == (200, {})


async def test_not_ready_before_the_node_runs() -> None:
    async with in_process(Hubbub()) as http:
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/ready")).status_code == 503


async def test_a_client_that_hangs_up_inside_its_body_is_no_error(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    raw = socket.create_connection(("127.0.0.1", port_of(server)))
    head = f"POST /api/publish HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 100\r\n\r\n"
    raw.sendall(head.encode() + b"{")
    await until(lambda: server.server_state.tasks)
    raw.close()
    await until(lambda: not server.server_state.tasks)
    assert not [record for record in caplog.records if record.exc_info]


texts = st.sampled_from(["log:1", "raw:1", "news", "nowhere:1", "*", "[", "a#1,2", "", "ann", "\ud83d"])
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), texts, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
fields = st.sampled_from(sorted({name for row in OPERATIONS.values() for name in row.request.__struct_fields__}))
requests = st.builds(
    lambda right, wild: {**wild, **right},
    st.fixed_dictionaries({}, optional={"channel": texts, "user": texts, "channels": st.lists(texts)}),
    st.dictionaries(fields, values, max_size=4),
)
bodies = st.one_of(st.binary(max_size=60), st.one_of(values, requests).map(lambda value: json.dumps(value).encode()))


def test_any_body_for_any_operation_is_never_our_fault(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hubbub(**SETTINGS)

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from([*OPERATIONS, "nothing"]), bodies)
    def anything(name: str, body: bytes) -> None:
        answer = runner.run(http.post(f"/api/{name}", content=body))
        assert answer.status_code in (200, 400)
        if answer.status_code == 200:
            said = answer.json()
            assert ("result" in said) != ("error" in said)
            assert said.get("error", {}).get("code") != 100
        assert not [record for record in caplog.records if record.exc_info]

    with asyncio.Runner() as runner:
        runner.run(hub.start())
        http = in_process(hub)
        try:
            anything()
        finally:
            runner.run(http.aclose())
            runner.run(hub.stop())


async def test_text_is_in_a_string_and_bytes_are_in_base64(wire: httpx.AsyncClient) -> None:
    for channel, data, kept in (("words:1", "hi", "hi"), ("raw:1", "AP8=", "AP8=")):
        await call(wire, "publish", channel=channel, data=data)
        history = await call(wire, "history", channel=channel, limit=1)
        assert history["result"]["publications"][0]["data"] == kept
    assert (await call(wire, "publish", channel="words:1", data=1))["error"]["code"] == 107
