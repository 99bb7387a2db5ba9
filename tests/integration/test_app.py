"""The Python face: publish, subscribe, history, presence, lifetime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.fakes import FakeTransport

from hubbub import (
    BackendError,
    ConfigurationError,
    Hubbub,
    HubbubError,
    Position,
    PositionLost,
    Publication,
    ReplyError,
)
from hubbub.core.hooks import Caller, NoHandlers
from hubbub.core.reader import QUEUE_LIMIT
from hubbub.protocol.codec import JsonCodec

CHANNELS = {
    "default": {"delivery": "live"},
    "recent": {"delivery": "recent"},
    "long": {"delivery": "recent", "history_size": 10_000},
    "short": {"delivery": "recent", "history_size": 2},
    "latest": {"delivery": "latest"},
    "words": {"data": "text"},
    "bytes": {"data": "binary", "delivery": "recent"},
}


@pytest.fixture
async def hub() -> AsyncIterator[Hubbub]:
    async with Hubbub(auth={"anonymous": True}, channels=CHANNELS) as hub:
        yield hub


async def take(stream: AsyncIterator[Publication[Any]], count: int) -> list[object]:
    """The data of the next `count` publications."""
    async with asyncio.timeout(5):
        return [(await anext(stream)).data for _ in range(count)]


async def test_published_says_where_it_stands(hub: Hubbub) -> None:
    first = await hub.publish("recent:a", {"n": 1})
    second = await hub.publish("recent:a", {"n": 2})
    assert first.position is not None
    assert second.position == Position(first.position.epoch, 2)
    assert (await hub.publish("live", 1)).position is None


async def test_history_and_live_join_without_a_hole(hub: Hubbub) -> None:
    for n in range(10):
        await hub.publish("recent:a", n)
    async with hub.subscribe("recent:a", history=3) as stream:
        await hub.publish("recent:a", 10)
        assert await take(stream, 4) == [7, 8, 9, 10]


async def test_history_of_more_than_there_is_begins_at_the_oldest(hub: Hubbub) -> None:
    for n in range(5):
        await hub.publish("short:a", n)
    async with hub.subscribe("short:a", history=50) as stream:
        assert await take(stream, 2) == [3, 4]


async def test_since_brings_what_was_missed_and_then_live(hub: Hubbub) -> None:
    seen = (await hub.publish("recent:a", 1)).position
    await hub.publish("recent:a", 2)
    async with hub.subscribe("recent:a", since=seen) as stream:
        await hub.publish("recent:a", 3)
        assert await take(stream, 2) == [2, 3]


async def test_since_a_place_that_is_gone_says_so(hub: Hubbub) -> None:
    seen = (await hub.publish("short:a", 0)).position
    for n in range(5):
        await hub.publish("short:a", n)
    with pytest.raises(PositionLost, match="short:a"):
        async with hub.subscribe("short:a", since=seen):
            pass


async def test_a_slow_reader_is_caught_up_from_history(hub: Hubbub) -> None:
    count = 3 * QUEUE_LIMIT
    async with hub.subscribe("long:a") as stream:
        for n in range(count):
            await hub.publish("long:a", n)
            if n % 100 == 0:
                await asyncio.sleep(0)  # the reader's queue fills, and nobody reads
        assert await take(stream, count) == list(range(count))


async def test_a_slow_reader_that_lost_its_place_is_told(hub: Hubbub) -> None:
    async with hub.subscribe("short:a") as stream:
        for n in range(3 * QUEUE_LIMIT):
            await hub.publish("short:a", n)
            if n % 100 == 0:
                await asyncio.sleep(0)
        with pytest.raises(PositionLost):
            await take(stream, 3 * QUEUE_LIMIT)


async def test_latest_begins_with_the_newest(hub: Hubbub) -> None:
    for n in range(3):
        await hub.publish("latest:a", n)
    async with hub.subscribe("latest:a") as stream:
        assert await take(stream, 1) == [2]


async def test_ephemeral_publications_have_no_place(hub: Hubbub) -> None:
    async with hub.subscribe("recent:a") as stream:
        await hub.publish("recent:a", "typing", ephemeral=True)
        publication = await anext(stream)
        assert (publication.data, publication.position) == ("typing", None)
    assert (await hub.history("recent:a")).publications == []


async def test_history_reads_both_ways(hub: Hubbub) -> None:
    for n in range(1, 6):
        await hub.publish("recent:a", n)
    page = await hub.history("recent:a", limit=2)
    assert [item.data for item in page.publications] == [1, 2]
    assert page.position.offset == 5
    page = await hub.history("recent:a", limit=2, reverse=True)
    assert [item.data for item in page.publications] == [5, 4]


async def test_the_same_key_publishes_once(hub: Hubbub) -> None:
    first = await hub.publish("recent:a", 1, idempotency_key="k")
    again = await hub.publish("recent:a", 1, idempotency_key="k")
    assert again.position == first.position
    assert again.duplicate


async def test_text_and_bytes_come_out_as_they_went_in(hub: Hubbub) -> None:
    async with hub.subscribe("words:a") as words, hub.subscribe("bytes:a") as raw:
        await hub.publish("words:a", "grüße\n")
        await hub.publish("bytes:a", b"\x00\xff")
        assert await take(words, 1) == ["grüße\n"]
        assert await take(raw, 1) == [b"\x00\xff"]


@pytest.mark.parametrize(
    ("channel", "data", "text"),
    [
        ("nowhere:a", 1, "unknown channel"),
        ("", 1, "empty"),
        ("x" * 256, 1, "256 characters"),
        ("a b", 1, "white space"),
        ("recent:a", "x" * 70_000, "max_bytes of 65536"),
        ("recent:a", object(), "cannot be written as JSON"),
        ("recent:a", float("nan"), "cannot be written as JSON"),
    ],
)
async def test_what_cannot_be_published_is_refused_with_a_reason(
    hub: Hubbub, channel: str, data: object, text: str
) -> None:
    with pytest.raises(ReplyError, match=text):
        await hub.publish(channel, data)


async def test_a_stream_has_to_be_opened(hub: Hubbub) -> None:
    with pytest.raises(Exception, match="async with"):
        await anext(hub.subscribe("recent:a"))


async def test_two_hubs_do_not_notice_each_other(hub: Hubbub) -> None:
    async with Hubbub(channels=CHANNELS) as other, other.subscribe("recent:a") as stream:
        await hub.publish("recent:a", "here")
        await other.publish("recent:a", "there")
        assert await take(stream, 1) == ["there"]


async def test_listeners_are_counted_and_forgotten(hub: Hubbub) -> None:
    async with hub.subscribe("recent:a"), hub.subscribe("recent:a"):
        assert hub.node.channels("rec*") == {"recent:a": 2}
    assert hub.node.channels() == {}


def test_settings_may_be_keyword_arguments_and_mistakes_are_named() -> None:
    with pytest.raises(ConfigurationError, match="delivery"):
        Hubbub(channels={"a1": {"delivrey": "recent"}})


async def test_a_hub_that_is_not_started_says_so() -> None:
    with pytest.raises(HubbubError, match="not started"):
        Hubbub(channels=CHANNELS).subscribe("recent:a")


async def test_a_hub_may_be_started_again_at_once(hub: Hubbub) -> None:
    again = Hubbub(channels=CHANNELS)
    for data in ("first", "second"):
        async with again, again.subscribe("recent:a") as stream:
            await again.publish("recent:a", data)
            assert await take(stream, 1) == [data]


async def test_a_stream_ends_with_its_hub() -> None:
    hub = Hubbub(channels=CHANNELS)
    await hub.start()
    async with hub.subscribe("recent:a") as stream:
        await hub.publish("recent:a", 1)
        await asyncio.sleep(0)
        await hub.stop()
        async with asyncio.timeout(5):
            assert [publication.data async for publication in stream] == [1]


@pytest.mark.parametrize("tags", [{"a": "\ud83d"}, {"a": 1}, {str(n): "" for n in range(65)}, {"a": "x" * 5000}])
async def test_tags_pass_a_gate(hub: Hubbub, tags: dict[str, str]) -> None:
    with pytest.raises(ReplyError, match="tags"):
        await hub.publish("recent:a", 1, tags=tags)


async def test_history_and_since_are_two_beginnings(hub: Hubbub) -> None:
    with pytest.raises(ValueError, match="history or since"):
        hub.subscribe("recent:a", history=1, since=Position("e", 1))
    with pytest.raises(ValueError, match="at most 300"):
        hub.subscribe("recent:a", history=301)


class Slow(NoHandlers):
    """An application whose handler uses what needs a current task."""

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        return data

    async def send(self, caller: Caller, data: bytes) -> None:
        """Nothing to do."""


async def test_handlers_have_a_task_of_their_own(hub: Hubbub) -> None:
    hub.node.handlers = Slow()
    transport = FakeTransport()
    connection = hub.connect(transport, JsonCodec())
    sent: asyncio.Queue[bytes] = asyncio.Queue()

    def write(buffers: list[bytes]) -> None:
        for buffer in buffers:
            sent.put_nowait(buffer)

    transport.write = write  # type: ignore[method-assign]  # only what is said matters
    connection.receive(b'{"id":1,"connect":{}}\n{"id":2,"rpc":{"method":"echo","data":{"n":1}}}')
    async with asyncio.timeout(5):
        assert b'"connect"' in await sent.get()
        assert await sent.get() == b'{"id":2,"rpc":{"data":{"n":1}}}'


async def test_a_start_that_failed_can_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hubbub(channels=CHANNELS)

    async def down() -> None:
        raise BackendError("it is down")

    with monkeypatch.context() as patch:
        patch.setattr(type(hub.node.presence_store), "start", lambda self: down())
        with pytest.raises(BackendError, match="it is down"):
            await hub.start()
    async with hub:
        assert (await hub.publish("recent:a", 1)).position
