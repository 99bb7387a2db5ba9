"""A wrong expectation fails, and says what was expected and what came instead."""

from __future__ import annotations

import asyncio

import pytest
from tests.rooms import hub

from hubbub.testing import ExpectationFailed, TestHub
from hubbub.testing.dialects import CodecName

CODECS: list[CodecName] = ["json", "protobuf"]


# wrong expectations fail, and say so ----------------------------------------------------------------------------------


def told(error: pytest.ExceptionInfo[ExpectationFailed]) -> list[str]:
    return str(error.value).splitlines()


async def test_a_publication_that_does_not_come_fails_and_shows_what_came() -> None:
    async with TestHub(hub, patience=0.01) as server:
        bob = await server.connect(user="bob")
        await bob.subscribe("room:1")
        await bob.subscribe("news:1")
        await hub.publish("room:1", {"text": "elsewhere"})
        with pytest.raises(ExpectationFailed) as failed:
            await bob.next("news:1")
        assert told(failed) == [
            "bob expected a publication in news:1, but none came",
            "bob has received, in this order:",
            "  subscribed to inbox:bob",
            "  subscribed to room:1",
            "  subscribed to news:1",
            "  publication in room:1: {'text': 'elsewhere'} (offset 1)",
        ]


async def test_a_publication_that_should_not_come_fails() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob")
        await bob.subscribe("room:1")
        await hub.publish("room:1", {"text": "hi"})
        await bob.expect_nothing("news:1")
        with pytest.raises(ExpectationFailed) as failed:
            await bob.expect_nothing("room:1")
        assert told(failed)[0] == "bob expected nothing in room:1, but in room:1 there came {'text': 'hi'}"
        with pytest.raises(ExpectationFailed, match="bob expected nothing in any channel"):
            await bob.expect_nothing()


async def test_the_reason_why_nothing_can_come_is_named() -> None:
    async with TestHub(hub, patience=0.01) as server:
        bob = await server.connect(user="bob")
        with pytest.raises(ExpectationFailed, match="it is not subscribed to that"):
            await bob.next("news:1")
        await bob.subscribe("news:1")
        bob.stop_reading()
        with pytest.raises(ExpectationFailed, match="it has stopped reading"):
            await bob.next("news:1")
        with pytest.raises(ExpectationFailed, match=r"to call 'rooms\.nothing', but it has stopped reading"):
            await bob.rpc("rooms.nothing")
        await bob.start_reading()
        await hub.unsubscribe("bob", "news:1")
        with pytest.raises(ExpectationFailed, match="the server has unsubscribed it with code 2000"):
            await bob.next("news:1")
        assert bob.unsubscribed == {"news:1": 2000}
        with pytest.raises(ExpectationFailed, match=r"to come back, but it is connected: drop\(\) comes first"):
            await bob.reconnect()
        await hub.disconnect("bob")
        with pytest.raises(ExpectationFailed, match="its connection was closed with 3503 force disconnect"):
            await bob.next("news:1")
        with pytest.raises(ExpectationFailed, match="to drop its connection, but it is not connected"):
            await bob.drop()


async def test_a_close_ends_the_wait() -> None:
    async with TestHub(hub, patience=60) as server:
        bob = await server.connect(user="bob")
        await bob.subscribe("news:1")
        waiting = asyncio.ensure_future(bob.next("news:1"))
        await server.settle()
        await bob.close()
        with pytest.raises(ExpectationFailed, match="closed with 1000"):
            await waiting


async def test_what_comes_later_in_real_time_is_waited_for() -> None:
    async with TestHub(hub, patience=20) as server:
        bob = await server.connect(user="bob")
        await bob.subscribe("news:1")
        waiting = asyncio.ensure_future(bob.next("news:1"))
        await server.settle()
        assert not waiting.done()
        await hub.publish("news:1", "late")
        assert (await waiting).data == "late"
