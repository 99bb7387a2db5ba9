"""One library in a process of its own, which publishes or listens as it is told: `contenders.py KIND URL`.

Answers for: the same work done by each library in the way that its documentation shows. Refuses to know: what is
measured; whoever started it looks at its CPU time from outside.

It prints its port. Orders come on the first connection, a JSON object a line: `{"publish": 1000, "tasks": 128}`, or for
listeners `{"heard": 5000}`, all so far. Each is answered with a number when it is done: how many it has published or
heard in its life. The end of that connection ends it. Each kind has the channel of its own name. All run on the
event loop of the standard library.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import redis
import redis.asyncio

from hubbub.brokers.base import Notice, StreamOptions
from hubbub.brokers.redis import RedisBroker
from hubbub.clock import SystemClock
from hubbub.model import Publication
from hubbub.redis.pipeline import Pipeline
from hubbub.redis.subscription import Ears
from hubbub.redis.topology import endpoint_of

#: 200 bytes of JSON.
DATA = json.dumps({"text": "the quick brown fox jumps over the lazy dog", "n": 1234567890, "pad": "x" * 118}).encode()

#: Publications in one explicit pipeline of redis-py.
BATCH = 100

Order = dict[str, int]
Worker = Callable[[Order], Awaitable[int]]
Contender = Callable[[str, str], AbstractAsyncContextManager[Worker]]


class Nothing:
    """BrokerEvents for who only publishes."""

    def on_publication(self, channel: str, publication: Publication, epoch: str) -> None:
        """Count nothing."""

    def on_notice(self, channel: str, notice: Notice) -> None:
        """As before."""

    def on_cut(self) -> None:
        """As before."""

    def on_renewed(self, channels: Iterable[str]) -> None:
        """As before."""


# publishers -----------------------------------------------------------------------------------------------------------


def publishing(call: Callable[[], Awaitable[object]], each: int = 1) -> Worker:
    """Calls shared by so many tasks; `each` is what one call publishes."""

    total = 0

    async def some(count: int) -> None:
        for _ in range(count):
            await call()

    async def work(order: Order) -> int:
        nonlocal total
        tasks = order["tasks"]
        count = order["publish"] // each // tasks
        if tasks == 1:
            await some(count)
        else:
            await asyncio.gather(*(some(count) for _ in range(tasks)))
        total += count * tasks * each
        return total

    return work


def publishing_blockingly(call: Callable[[], object]) -> Worker:
    """The same for a library that blocks, in a thread as a web server has them."""

    total = 0

    def some(count: int) -> None:
        for _ in range(count):
            call()

    async def work(order: Order) -> int:
        nonlocal total
        await asyncio.to_thread(some, order["publish"])
        total += order["publish"]
        return total

    return work


@asynccontextmanager
async def our_pipeline(url: str, channel: str) -> AsyncIterator[Worker]:
    """PUBLISH over the connection that everything of ours goes over."""
    commands = Pipeline(endpoint_of(url, client_name="bench"), clock=SystemClock())
    await commands.start()
    yield publishing(lambda: commands.call("PUBLISH", channel, DATA))
    await commands.stop()


def our_broker(options: StreamOptions) -> Contender:
    """What a node does for a publish that has passed its checks."""

    @asynccontextmanager
    async def broker(url: str, channel: str) -> AsyncIterator[Worker]:
        ours = RedisBroker(url, name="bench", clock=SystemClock())
        await ours.start(Nothing())
        yield publishing(lambda: ours.publish(channel, Publication(DATA), options))
        await ours.stop()

    return broker


@asynccontextmanager
async def redis_py(url: str, channel: str) -> AsyncIterator[Worker]:
    """Single calls, from its pool."""
    async with redis.asyncio.Redis.from_url(url, max_connections=200) as client:
        yield publishing(lambda: client.publish(channel, DATA))


@asynccontextmanager
async def redis_py_pipeline(url: str, channel: str) -> AsyncIterator[Worker]:
    """Batches made by hand."""
    async with redis.asyncio.Redis.from_url(url) as client:

        async def batch() -> None:
            async with client.pipeline(transaction=False) as pipeline:
                for _ in range(BATCH):
                    pipeline.publish(channel, DATA)
                await pipeline.execute()

        yield publishing(batch, BATCH)


@asynccontextmanager
async def our_sync(url: str, channel: str) -> AsyncIterator[Worker]:
    """The same view with ours: checks, envelope and pool included."""
    sync = importlib.import_module("hubbub.sync")
    with sync.Hubbub(url) as hub:
        data = json.loads(DATA)
        yield publishing_blockingly(lambda: hub.publish(channel, data))


@asynccontextmanager
async def redis_py_blocking(url: str, channel: str) -> AsyncIterator[Worker]:
    """What a view of Django does."""
    with redis.Redis.from_url(url) as client:
        yield publishing_blockingly(lambda: client.publish(channel, DATA))


# listeners ------------------------------------------------------------------------------------------------------------


class Heard:
    """How much has come, and who waits for how much."""

    def __init__(self) -> None:
        self.total = 0
        self._goal = 0
        self._reached = asyncio.Event()

    def one(self) -> None:
        """One more."""
        self.total += 1
        if self.total == self._goal:
            self._reached.set()

    async def work(self, order: Order) -> int:
        """Return when all have come: how many they are."""
        self._goal = order["heard"]
        self._reached.clear()
        if self.total < self._goal:
            await self._reached.wait()
        return self.total


@asynccontextmanager
async def our_ears(url: str, channel: str) -> AsyncIterator[Worker]:
    """The subscription connection with a callback."""
    heard = Heard()
    ears = Ears(
        endpoint_of(url, client_name="bench"),
        clock=SystemClock(),
        on_message=lambda where, data: heard.one(),
        on_renewed=lambda channels: None,
    )
    await ears.start()
    await ears.subscribe(channel)
    yield heard.work
    await ears.stop()


class Counting(Nothing):
    """BrokerEvents that count publications."""

    def __init__(self, heard: Heard) -> None:
        self._one = heard.one

    def on_publication(self, channel: str, publication: Publication, epoch: str) -> None:
        """One more."""
        self._one()


@asynccontextmanager
async def our_broker_hears(url: str, channel: str) -> AsyncIterator[Worker]:
    """The same with the gate that each message passes: its frame, or whether it is JSON."""
    heard = Heard()
    broker = RedisBroker(url, name="bench", clock=SystemClock())
    await broker.start(Counting(heard))
    await broker.subscribe(channel)
    yield heard.work
    await broker.stop()


@asynccontextmanager
async def redis_py_listens(url: str, channel: str) -> AsyncIterator[Worker]:
    """`async for message in pubsub.listen()`."""
    heard = Heard()
    async with redis.asyncio.Redis.from_url(url) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(channel)

        async def listen() -> None:
            async for message in pubsub.listen():
                if message["type"] == "message":
                    heard.one()

        listening = asyncio.create_task(listen())
        yield heard.work
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


KINDS: dict[str, Contender] = {
    "pipeline": our_pipeline,
    "live": our_broker(StreamOptions()),
    "recent": our_broker(StreamOptions(size=100, ttl=300)),
    "sync": our_sync,
    "redis-py": redis_py,
    "redis-py-pipeline": redis_py_pipeline,
    "redis-py-blocking": redis_py_blocking,
    "ears": our_ears,
    "broker-hears": our_broker_hears,
    "redis-py-listens": redis_py_listens,
}


async def main(kind: str, url: str) -> None:
    """Take orders from the first who connects."""
    ended = asyncio.Event()
    async with KINDS[kind](url, kind) as worker:

        async def obey(orders: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
            try:
                while line := await orders.readline():
                    order: dict[str, Any] = json.loads(line)
                    answers.write(b"%d\n" % await worker(order))
            finally:
                answers.close()
                ended.set()

        async with await asyncio.start_server(obey, "127.0.0.1", 0) as control:
            print(f"{kind} listens on http://127.0.0.1:{control.sockets[0].getsockname()[1]}", flush=True)
            await ended.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
