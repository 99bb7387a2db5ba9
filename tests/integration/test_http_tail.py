"""`/api/tail` over a real socket: channels, patterns, slow peers, dead peers, and the end of the server."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.contracts.doors import until
from tests.integration.support import client, port_of, running

from hubbub.core.node import Node
from hubbub.http import tail as tail_module
from hubbub.http.tail import MAX_NAMES, ROOM, Outlet
from hubbub.server import Server

KEY = "secret"

SETTINGS: dict[str, Any] = {
    "api": {"key": KEY},
    "auth": {"anonymous": True},
    "channels": {
        "default": {"subscribe": "anyone", "publish": "anyone"},
        "log": {"delivery": "recent", "history_size": 5},
        "long": {"delivery": "recent", "history_size": 100_000},
        "raw": {"delivery": "recent", "data": "binary"},
        "text": {"data": "text"},
    },
}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with running(**SETTINGS) as serving:
        yield serving


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.address, headers={"X-API-Key": KEY}, trust_env=False) as opened:
        yield opened


class Lines:
    """What a tail says, line by line."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def raw(self) -> str:
        return await anext(self._lines)

    async def next(self) -> dict[str, Any]:
        """The next line that says something."""
        while not (line := await self.raw()):
            pass
        found: dict[str, Any] = json.loads(line)
        return found

    async def take(self, count: int) -> list[dict[str, Any]]:
        return [await self.next() for _ in range(count)]


@asynccontextmanager
async def tail(http: httpx.AsyncClient, body: Any = None, **query: Any) -> AsyncIterator[tuple[Lines, dict[str, Any]]]:
    method = "GET" if body is None else "POST"
    async with http.stream(method, "/api/tail", params=query, json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        lines = Lines(response)
        yield lines, await lines.next()


async def publish(node: Node, channel: str, *data: object, **more: Any) -> None:
    for each in data:
        await node.publish(channel, each if isinstance(each, bytes) else json.dumps(each).encode(), **more)


async def test_channels_are_told_as_they_happen(server: Server, http: httpx.AsyncClient) -> None:
    node = server.hub.node
    await publish(node, "log:1", 0)
    async with tail(http, channel=["log:1", "news"]) as (lines, first):
        epoch = first["tail"]["channels"]["log:1"]["epoch"]
        assert first["tail"] == {
            "node": node.id,
            "channels": {"log:1": {"offset": 1, "epoch": epoch}, "news": {}},
            "patterns": [],
        }
        await publish(node, "log:1", {"text": "grüße\n"}, tags={"a": "b"})
        await publish(node, "log:1", 2, ephemeral=True)
        await publish(node, "elsewhere", 3)
        assert await lines.take(2) == [
            {"channel": "log:1", "data": {"text": "grüße\n"}, "offset": 2, "epoch": epoch, "tags": {"a": "b"}},
            {"channel": "log:1", "data": 2},
        ]
        async with client(server) as ann:
            await ann.call("publish", channel="news", data=4)
            assert await lines.next() == {"channel": "news", "data": 4, "info": {"user": "", "client": ann.id}}


async def test_bytes_and_text(server: Server, http: httpx.AsyncClient) -> None:
    async with tail(http, channel=["raw:1", "text:1"]) as (lines, _):
        await publish(server.hub.node, "raw:1", b"\x00\xff")
        raw = await lines.next()
        assert base64.b64decode(raw["b64data"]) == b"\x00\xff"
        assert "data" not in raw
        await publish(server.hub.node, "text:1", "héllo: \n".encode())
        assert (await lines.next())["data"] == "héllo: \n"


async def test_history_and_live_join_without_a_hole(server: Server, http: httpx.AsyncClient) -> None:
    node = server.hub.node
    await publish(node, "log:1", *range(1, 9))
    async with tail(http, channel=["log:1", "log:2", "news"], history=3) as (lines, _):
        await publish(node, "log:1", 9)
        assert [line["data"] for line in await lines.take(4)] == [6, 7, 8, 9]


async def test_since_a_position(server: Server, http: httpx.AsyncClient) -> None:
    node = server.hub.node
    await publish(node, "log:1", *range(1, 9))
    epoch = (await node.history("log:1")).head.epoch
    asked = {"channels": ["log:1", "log:2"], "since": {"log:1": {"offset": 6, "epoch": epoch}}}
    async with tail(http, asked) as (lines, _):
        assert [line["offset"] for line in await lines.take(2)] == [7, 8]


async def test_a_place_that_is_gone_is_told(server: Server, http: httpx.AsyncClient) -> None:
    node = server.hub.node
    await publish(node, "log:1", *range(1, 9))
    epoch = (await node.history("log:1")).head.epoch
    asked = {"channels": ["log:1", "log:2"], "since": {"log:1": {"offset": 1, "epoch": epoch}}}
    async with tail(http, asked) as (lines, first):
        assert set(first["tail"]["channels"]) == {"log:2"}
        assert await lines.next() == {"lost": True, "channel": "log:1"}
        await publish(node, "log:2", 1)
        assert (await lines.next())["channel"] == "log:2"


async def test_patterns_hear_what_nobody_else_listens_to_and_nothing_is_told_twice(
    server: Server, http: httpx.AsyncClient
) -> None:
    node = server.hub.node
    async with tail(http, channel=["log:1"], pattern=["log:*", "*", "n*"]) as (lines, first):
        assert first["tail"]["patterns"] == ["log:*", "*", "n*"]
        await publish(node, "log:1", 1)
        assert (await lines.next())["offset"] == 1
        await publish(node, "log:2", 2)
        await publish(node, "news", 3)
        told = await lines.take(2)
        assert [(line["channel"], line["data"], line.get("offset")) for line in told] == [
            ("log:2", 2, 1),
            ("news", 3, None),
        ]
        assert told[0]["epoch"]
        await publish(node, "log:1", 4)
        assert (await lines.next())["data"] == 4


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({}, 107),
        ({"channel": ""}, 107),
        ({"pattern": ""}, 107),
        ({"pattern": "x" * 300}, 107),
        ({"channel": "nowhere:1"}, 102),
        ({"channel": "log:1", "history": "-1"}, 107),
        ({"channel": "log:1", "history": "301"}, 107),
        ({"channel": "log:1", "history": "many"}, 107),
        ({"channels": "log:1"}, 107),
        ({"channel": [f"log:{n}" for n in range(MAX_NAMES + 1)]}, 107),
    ],
)
async def test_mistakes(server: Server, http: httpx.AsyncClient, query: dict[str, Any], code: int) -> None:
    answer = await http.get("/api/tail", params=query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, code)
    strict = await http.get("/api/tail", params=query, headers={"X-Centrifugo-Error-Mode": "transport"})
    assert strict.status_code == {107: 400, 102: 404}[code]
    assert not server.hub.node.readers
    assert server.hub.node.feeds.overhear is None


async def test_it_is_protected_by_the_key(server: Server, http: httpx.AsyncClient) -> None:
    for headers in ({"X-API-Key": "wrong"}, {"X-API-Key": ""}):
        for method in ("GET", "POST", "HEAD"):
            assert (await http.request(method, "/api/tail?channel=news", headers=headers)).status_code == 401
    assert (await http.head("/api/tail?channel=news")).status_code == 200
    assert not server.hub.node.readers


async def test_a_peer_that_goes_leaves_nothing_behind(server: Server, http: httpx.AsyncClient) -> None:
    node = server.hub.node
    async with tail(http, channel=["log:1", "news"], pattern=["*"]):
        assert len(node.readers) == 3
    await until(lambda: not node.readers)
    assert node.feeds.overhear is None
    await until(lambda: not server.server_state.tasks)
    assert not node.hub.channels["log:1"].subscriptions


async def test_silence_is_broken_so_that_dead_peers_are_noticed(
    server: Server, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "HEARTBEAT", 0.01)
    async with tail(http, pattern=["*"]) as (lines, _):
        assert [await lines.raw() for _ in range(3)] == ["", "", ""]
        await publish(server.hub.node, "news", 1)
        assert (await lines.next())["data"] == 1


async def test_a_slow_peer_gets_all_of_a_channel_that_keeps_it(server: Server, http: httpx.AsyncClient) -> None:
    node = server.hub.node
    payload = "x" * 20_000
    count = 2000  # 40 MB: more than the sockets, the outlet and the reader's queue hold
    async with tail(http, channel=["long:1"]) as (lines, _):
        for number in range(count):
            await publish(node, "long:1", [number, payload])
            if not number % 100:
                await asyncio.sleep(0)  # the server writes what the peer does not read
        assert node.observer.counts["reader_fell_behind"]
        offsets = [(await lines.next())["offset"] for _ in range(count)]
        assert offsets == list(range(1, count + 1))


async def test_a_slow_peer_is_told_how_much_of_its_patterns_was_dropped(
    server: Server, http: httpx.AsyncClient
) -> None:
    node = server.hub.node
    payload = "x" * 60_000
    count = 500  # 30 MB
    async with tail(http, pattern=["n*"]) as (lines, _):
        for number in range(count):
            await publish(node, "news", [number, payload])
            await asyncio.sleep(0)
        await publish(node, "elsewhere", "end")
        heard: list[int] = []
        dropped = 0
        while heard[-1:] != [count - 1] and len(heard) + dropped < count:
            line = await lines.next()
            if "dropped" in line:
                dropped += line["dropped"]
            else:
                heard.append(line["data"][0])
        assert dropped
        assert heard == sorted(set(heard))


async def test_a_server_that_stops_says_so_and_does_not_wait() -> None:
    async with (
        running(**SETTINGS, server={"drain_time": 0}) as server,
        httpx.AsyncClient(base_url=server.address, headers={"X-API-Key": KEY}, trust_env=False) as http,
        tail(http, channel=["log:1", "news"], pattern=["*"]) as (both, _),
        tail(http, pattern=["*"]) as (patterns, _),
    ):
        await publish(server.hub.node, "log:1", 1)
        server.should_exit = True
        for lines in (both, patterns):
            assert [line.get("data", line.get("end")) for line in await lines.take(2)] == [1, "shutdown"]
            with pytest.raises(StopAsyncIteration):
                await lines.raw()


@pytest.mark.parametrize("asked", ["pattern=*", "channel=long:1", "channel=long:1&pattern=*"])
async def test_a_peer_that_does_not_read_does_not_keep_a_server_that_stops(
    asked: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tail_module, "LAST_WRITES", 0.05)
    async with running(**SETTINGS, server={"drain_time": 0}) as server:
        node = server.hub.node
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server), limit=4096)  # nobody reads
        writer.write(f"GET /api/tail?{asked} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n\r\n".encode())
        await until(lambda: node.readers)
        for number in range(600):  # 36 MB
            await publish(node, "long:1", [number, "x" * 60_000])
            await asyncio.sleep(0)
    assert not node.readers
    assert not server.server_state.tasks
    assert not server.server_state.connections
    writer.transport.abort()
    # uvicorn's own limit would be an error there, with a traceback.
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_peer_that_reads_slowly_gets_the_end_of_a_server_that_stops() -> None:
    async with (
        running(**SETTINGS, server={"drain_time": 0}) as server,
        httpx.AsyncClient(base_url=server.address, headers={"X-API-Key": KEY}, trust_env=False) as http,
        tail(http, channel=["long:1"]) as (lines, _),
    ):
        for number in range(200):  # 4 MB: more than the outlet holds
            await publish(server.hub.node, "long:1", [number, "x" * 20_000])
        server.should_exit = True
        await until(lambda: not server.hub.node.is_ready)
        assert [(await lines.next())["data"][0] for _ in range(200)] == list(range(200))
        assert await lines.next() == {"end": "shutdown"}


async def test_a_request_that_is_cut_off_at_once_leaves_nothing_behind(server: Server) -> None:
    node = server.hub.node
    for _ in range(10):
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(f"GET /api/tail?channel=log:1&pattern=* HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n\r\n".encode())
        await writer.drain()
        writer.transport.abort()
    await until(lambda: not server.server_state.tasks and not node.readers)
    assert node.feeds.overhear is None


# the outlet -----------------------------------------------------------------------------------------------------------


async def test_what_is_offered_beyond_the_room_is_counted_in_its_place() -> None:
    outlet = Outlet()
    big = b"x" * (ROOM // 2)
    for _ in range(5):
        outlet.offer(lambda: big)
    assert [await outlet.take(), await outlet.take()] == [big, big]
    outlet.offer(lambda: b"next\n")
    outlet.offer(lambda: b"more\n")
    assert await outlet.take() == b'{"dropped":3}\nnext\nmore\n'


async def test_a_drop_is_told_though_nothing_follows() -> None:
    outlet = Outlet()
    for _ in range(2):
        outlet.offer(lambda: b"x" * ROOM)
    await outlet.take()
    assert await outlet.take() == b'{"dropped":1}\n'


async def test_who_puts_waits_for_room_and_the_end_frees_it() -> None:
    outlet = Outlet()
    await outlet.put(b"x" * ROOM)
    waiting = [asyncio.ensure_future(outlet.put(b"%d" % n)) for n in range(2)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    await outlet.take()
    await asyncio.gather(*waiting)
    assert await outlet.take() == b"01"
    await outlet.put(b"x" * ROOM)
    late = asyncio.ensure_future(outlet.put(b"never"))
    await asyncio.sleep(0)
    outlet.end(b"bye\n")
    await late
    assert [await outlet.take() for _ in range(3)] == [b"x" * ROOM, b"bye\n", None]
