"""Durable channels of two servers on one PostgreSQL: with Redis between them, without it, and when it goes for good."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.backends import RedisServer
from tests.databases import Servers, postgres_servers, shared
from tests.serving import Served
from tests.talking import Talker, talker

__all__ = ["postgres_servers"]

CONFIG = """
[broker]
url = "{broker}"
[store]
url = "{store}"
[auth]
anonymous = true
[channels.chat]
delivery = "durable"
subscribe = "anyone"
publish = "anyone"
read = "anyone"
"""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer("redis") as server:
        yield server


class Pair:
    """Two servers."""

    def __init__(self, folder: Path, *, store: str, broker: str) -> None:
        self._stack = ExitStack()
        self.ports = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            served = self._stack.enter_context(Served(CONFIG.format(store=store, broker=broker), folder / name))
            self.ports.append(served.port)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


async def enter(person: Talker) -> dict[str, Any]:
    await person.call("connect")
    reply: dict[str, Any] = await person.call("subscribe", channel="chat:1")
    return reply


async def say(person: Talker, *numbers: int) -> None:
    for number in numbers:
        await person.call("publish", channel="chat:1", data=number)


async def hear(person: Talker, *numbers: int) -> None:
    """It hears exactly these next, with the offsets that they have."""
    async with asyncio.timeout(20):
        pushes = [(await person.push())["pub"] for _ in numbers]
    assert [(push["offset"], push["data"]) for push in pushes] == [(number, number) for number in numbers]


async def talk(pair: Pair) -> None:
    """Both write, both hear both."""
    async with talker(pair.ports[0]) as ann, talker(pair.ports[1]) as bob:
        assert (await enter(ann))["epoch"] == (await enter(bob))["epoch"]
        await say(ann, 1, 2)
        await hear(bob, 1, 2)
        await say(bob, 3, 4, 5)
        await hear(ann, 1, 2, 3, 4, 5)
        await hear(bob, 3, 4, 5)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["postgres15", "postgres18"])
async def test_two_servers_and_no_broker_at_all(tmp_path: Path, postgres_servers: Servers, kind: Any) -> None:
    store = shared(postgres_servers, kind).database()
    with await asyncio.to_thread(Pair, tmp_path, store=store, broker="memory://") as pair:
        await talk(pair)


@pytest.mark.timeout(120)
async def test_two_servers_and_redis(tmp_path: Path, postgres_servers: Servers, redis: RedisServer) -> None:
    store = shared(postgres_servers, "postgres15").database()
    with await asyncio.to_thread(Pair, tmp_path, store=store, broker=redis.url) as pair:
        await talk(pair)


@pytest.mark.timeout(120)
async def test_redis_stopped_for_good_is_a_slow_day(
    tmp_path: Path, postgres_servers: Servers, redis: RedisServer
) -> None:
    store = shared(postgres_servers, "postgres15").database()
    with await asyncio.to_thread(Pair, tmp_path, store=store, broker=redis.url) as pair:
        async with talker(pair.ports[0]) as ann, talker(pair.ports[1]) as bob:
            await enter(ann)
            position = await enter(bob)
            await say(ann, 1)
            await hear(bob, 1)
            await hear(ann, 1)
            await asyncio.to_thread(redis.stop)
            await say(ann, 2, 3)
            await hear(ann, 2, 3)
            await hear(bob, 2, 3)
            await say(bob, 4)
            await hear(ann, 4)
            await hear(bob, 4)
            # Who comes now, or returns, is served as well.
            async with talker(pair.ports[0]) as carl:
                await carl.call("connect")
                at = {"recover": True, "offset": 2, "epoch": position["epoch"]}
                reply = await carl.call("subscribe", channel="chat:1", **at)
                assert reply["recovered"] is True
                assert [each["data"] for each in reply["publications"]] == [3, 4]
                await say(bob, 5)
                await hear(carl, 5)
            await asyncio.to_thread(redis.start)  # and back: nothing is doubled
            await hear(ann, 5)
            await hear(bob, 5)
            await say(ann, 6)
            await hear(bob, 6)
            await hear(ann, 6)
