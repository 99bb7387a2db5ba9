"""The town square: programs that know nothing of hubbub say things in Redis channels, and hear what is said there."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis.asyncio
from tests.backends import RedisServer
from tests.compat.sdk import Client, Sdk, Subscription
from tests.compat.stage import Drivers, missing
from tests.integration.redis_support import PATIENCE, until
from tests.integration.support import port_of, running

from hubbub import Hubbub, Position, Publication
from hubbub.brokers import envelope
from hubbub.brokers.base import Announcement
from hubbub.server import Server

#: What strangers say, and what our side makes of it. The first has a line break.
SAID: list[tuple[str, Any]] = [
    ('{"text": "hi",\r\n "of": [1, 2.5, null, true]}', {"text": "hi", "of": [1, 2.5, None, True]}),
    ("42", 42),
    ('"already a string"', "already a string"),
    ("plain words", "plain words"),
    ('{"broken": ', '{"broken": '),
    ('two\nlines, "quotes", \\, ünïcödé, 日本語, 🎉', 'two\nlines, "quotes", \\, ünïcödé, 日本語, 🎉'),
]

#: What is no text at all: neither UTF-8 nor ours, whose frames begin with another byte.
NOISE = b"\xff\xfe\x00\x01"

CHANNELS: dict[str, Any] = {
    "default": {"subscribe": "anyone"},
    "orders": {"subscribe": "anyone", "delivery": "recent"},
    "latest": {"subscribe": "anyone", "delivery": "latest"},
}


class Square:
    """A served hub on a Redis, what its handlers hear, and clients of an official SDK."""

    def __init__(self, server: RedisServer, serving: Server, hub: Hubbub, sdk: Sdk) -> None:
        self.redis = server
        self.hub = hub
        self.serving = serving
        self._sdk = sdk

    async def client(self) -> Client:
        """One more client, connected."""
        client = await Client(self._sdk).open(f"ws://127.0.0.1:{port_of(self.serving)}/connection/websocket")
        await client.connect()
        return client

    async def listener(self, channel: str) -> Subscription:
        """One more client, that listens."""
        return await (await self.client()).subscribe(channel)

    def counted(self, event: str) -> int:
        """How often it happened on this node."""
        return int(self.hub.node.info().metrics.get(event, 0))


@asynccontextmanager
async def open_square(
    server: RedisServer, configure: Callable[[Hubbub], None], sdk: str = "python-json"
) -> AsyncIterator[Square]:
    here = {"port": 0, "allowed_origins": ["http://127.0.0.1:*"]}
    hub = Hubbub(server.url, server=here, auth={"anonymous": True}, channels=CHANNELS)
    configure(hub)
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(running(hub))
        yield Square(server, serving, hub, await Drivers(stack).sdk(sdk))


# programs that say something -----------------------------------------------------------------------------------------

Say = Callable[[RedisServer, str, str], Awaitable[None]]

#: RESP by hand, in the fewest words that Node needs for it.
NODE = """
const [port, channel, text] = process.argv.slice(1);
const words = ["PUBLISH", channel, text].map((word) => `$${Buffer.byteLength(word)}\\r\\n${word}\\r\\n`);
const socket = require("net").connect(port, "127.0.0.1", () => socket.write(`*3\\r\\n${words.join("")}`));
socket.on("data", () => socket.end());
"""


async def by_redis_py(server: RedisServer, channel: str, text: str) -> None:
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.publish(channel, text)


async def by_redis_cli(server: RedisServer, channel: str, text: str) -> None:
    program = shutil.which("redis-cli") or missing("redis-cli")
    await _run(program, "-p", str(server.port), "PUBLISH", channel, text)


async def by_node(server: RedisServer, channel: str, text: str) -> None:
    program = shutil.which("node") or missing("node")
    await _run(program, "-e", NODE, str(server.port), channel, text)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


# what reaches us -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("say", [by_redis_py, by_redis_cli, by_node], ids=lambda say: say.__name__)
async def test_what_anybody_publishes_reaches_browsers_and_handlers(backend: RedisServer, say: Say) -> None:
    handled: list[Any] = []

    def configure(hub: Hubbub) -> None:
        @hub.on("notifications")
        async def heard(publication: Publication[Any]) -> None:
            handled.append((publication.data, publication.position, publication.info))

    async with open_square(backend, configure, "browser-json") as square:
        browser = await square.listener("notifications")
        for text, _ in SAID:
            await say(backend, "notifications", text)
        expected = [meant for _, meant in SAID]
        assert await browser.data(len(SAID)) == expected
        await until(lambda: len(handled) == len(SAID))
        assert handled == [(meant, None, None) for meant in expected]


async def test_what_is_no_text_is_refused_and_counted_and_logged(
    backend: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[Any] = []

    def configure(hub: Hubbub) -> None:
        @hub.on("noti*")
        async def heard(publication: Publication[Any]) -> None:
            handled.append(publication.data)

    async with open_square(backend, configure) as square:
        listener = await square.listener("notifications")
        with caplog.at_level(logging.WARNING):
            for message in (NOISE, b"x" * (envelope.MAX_BYTES + 1), b"\xc1\x01?", b"\xc1\x09", b"after it"):
                backend.command("PUBLISH", "notifications", message)
            assert await listener.data(1) == ["after it"]
        await until(lambda: bool(handled))
        assert handled == ["after it"]
        assert [square.counted(f"message_{why}") for why in ("not_text", "too_large", "newer")] == [1, 1, 2]
        assert "a message in channel 'notifications' is dropped" in caplog.text
        assert "�" not in caplog.text


async def test_strangers_have_no_place_in_a_channel_that_remembers(backend: RedisServer) -> None:
    """They are heard where they spoke, between two offsets, and leave no trace: no hole, no signal, no history."""
    handled: list[Any] = []

    def configure(hub: Hubbub) -> None:
        @hub.on("orders:1")
        async def heard(publication: Publication[Any]) -> None:
            handled.append((publication.data, publication.position and publication.position.offset))

    async with open_square(backend, configure) as square:
        listener = await square.listener("orders:1")
        await square.hub.publish("orders:1", "first")
        backend.command("PUBLISH", "orders:1", "a stranger")
        await square.hub.publish("orders:1", "second")
        came = await listener.log.take("publication", 3)
        assert [(one["data"], one["offset"] or None) for one in came] == [
            ("first", 1),
            ("a stranger", None),
            ("second", 2),
        ]
        await until(lambda: len(handled) == 3)
        assert handled == [("first", 1), ("a stranger", None), ("second", 2)]

        await listener.client.disconnect()
        backend.command("PUBLISH", "orders:1", "unheard")
        await square.hub.publish("orders:1", "third")
        await listener.client.connect()
        assert (await listener.log.next("subscribed"))["recovered"]
        assert await listener.data(1) == ["third"], "nothing else is recovered"
        page = await square.hub.history("orders:1")
        assert [one.data for one in page.publications] == ["first", "second", "third"]
        assert listener.log.told("unsubscribed") == []


async def test_whoever_comes_to_a_noticeboard_sees_the_newest_of_ours(backend: RedisServer) -> None:
    async with open_square(backend, lambda hub: None) as square:
        await square.hub.publish("latest:1", "ours")
        early = await square.listener("latest:1")
        backend.command("PUBLISH", "latest:1", "a stranger")
        assert await early.data(2) == ["ours", "a stranger"]
        late = await square.listener("latest:1")
        assert await late.data(1) == ["ours"]


# what others hear ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def eavesdropping(server: RedisServer, *channels: str) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """redis-py, subscribed: the bytes of the next message."""
    async with redis.asyncio.Redis.from_url(server.url) as client, client.pubsub() as ears:
        await ears.subscribe(*channels)
        for _ in channels:
            assert (await ears.get_message(timeout=PATIENCE))["type"] == "subscribe"

        async def next() -> bytes:
            message = await ears.get_message(ignore_subscribe_messages=True, timeout=PATIENCE)
            assert message is not None, "nothing came"
            data: bytes = message["data"]
            return data

        yield next


async def test_others_read_our_live_publications_bare(backend: RedisServer) -> None:
    async with (
        open_square(backend, lambda hub: None) as square,
        eavesdropping(backend, "notifications", "orders:1") as overhear,
    ):
        payloads: list[Any] = [{"text": "ünïcödé"}, "words", 7, None, [], {}]
        for data in payloads:
            await square.hub.publish("notifications", data)
            message = await overhear()
            assert message == json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        published = await square.hub.publish("orders:1", {"total": 3})
        framed = await overhear()
        said = envelope.read(framed)
        assert framed.startswith(b"\xc1"), "no text begins so: who cannot read frames can tell"
        assert framed.endswith(b'{"total":3}')
        assert isinstance(said, Announcement)
        assert Position(said.epoch, said.publication.offset) == published.position


async def test_a_prefix_keeps_applications_apart_and_strangers_out(backend: RedisServer) -> None:
    handled: list[Any] = []
    hub = Hubbub(broker={"url": backend.url, "prefix": "shop."}, channels=CHANNELS)

    @hub.on("notifications")
    async def heard(publication: Publication[Any]) -> None:
        handled.append(publication.data)

    async with hub:
        backend.command("PUBLISH", "notifications", "to nobody")
        backend.command("PUBLISH", "shop.notifications", "to us")
        await until(lambda: bool(handled))
    assert handled == ["to us"]


# patterns ------------------------------------------------------------------------------------------------------------


async def test_a_channel_of_two_patterns_and_a_listener_is_heard_once_by_each(backend: RedisServer) -> None:
    heard: dict[str, list[Any]] = {"name": [], "one": [], "two": [], "none": []}

    def configure(hub: Hubbub) -> None:
        def write_into(log: list[Any]) -> Callable[[Publication[Any]], Awaitable[None]]:
            async def hear(publication: Publication[Any]) -> None:
                log.append(publication.data)

            return hear

        for handler, pattern in (("name", "orders:1"), ("one", "orders:*"), ("two", "*:[0-9]"), ("none", "*:?[0-9]")):
            hub.on(pattern)(write_into(heard[handler]))

    async with open_square(backend, configure) as square:
        listener = await square.listener("orders:1")
        for number in range(10):
            backend.command("PUBLISH", "orders:1", f"stranger {number}")
            backend.command("PUBLISH", "orders:1", f"stranger {number}")  # the same again is another one
            await square.hub.publish("orders:1", number)
        expected = [word for number in range(10) for word in [f"stranger {number}"] * 2 + [number]]
        assert await listener.data(30) == expected
        backend.command("PUBLISH", "orders:12", "the end")
        await until(lambda: heard["none"] == ["the end"])
        await until(lambda: heard["one"][-1:] == ["the end"])
        assert heard == {"name": expected, "one": [*expected, "the end"], "two": expected, "none": ["the end"]}
        assert len(listener.log.told("publication")) == 30


async def test_patterns_are_few_on_the_server_and_fine_in_the_process(backend: RedisServer) -> None:
    """There `[a-c]` is one byte and here it is one character: it is told coarsely, and looked at closely here."""
    heard: dict[str, list[str]] = {pattern: [] for pattern in ("s:[0-9]", "s:[a-z]", "s:[!a-z]", "s:?", "s:é?")}
    hub = Hubbub(backend.url)

    def hear(pattern: str) -> None:
        @hub.on(pattern)
        async def heard_there(publication: Publication[Any]) -> None:
            heard[pattern].append(publication.channel)

    for pattern in heard:
        hear(pattern)
    async with hub:
        assert backend.command("PUBSUB", "NUMPAT") == 2
        for channel in ("s:1", "s:a", "s:é", "s:éa", "s:aa", "t:1"):
            backend.command("PUBLISH", channel, "x")
        await until(lambda: "s:éa" in heard["s:é?"])
    assert heard == {
        "s:[0-9]": ["s:1"],
        "s:[a-z]": ["s:a"],
        "s:[!a-z]": ["s:1", "s:é"],
        "s:?": ["s:1", "s:a", "s:é"],
        "s:é?": ["s:éa"],
    }
