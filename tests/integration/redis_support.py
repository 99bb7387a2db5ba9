"""What the tests of Redis connections share: a pipeline for a while, servers that lie, and a way to be cut.

Answers for: the other end of a connection, when it is no real server or must misbehave to the byte. Refuses to know:
what is tested. Real servers are in tests/backends.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.backends import Kind, RedisServer, free_port

from hubbub.clock import SystemClock
from hubbub.errors import BackendError
from hubbub.redis.pipeline import Pipeline
from hubbub.redis.topology import endpoint_of

#: Seconds for what must come, on any machine.
PATIENCE = 20.0


def made(url: str, **options: Any) -> Pipeline:
    return Pipeline(endpoint_of(url, client_name="hubbub-test"), clock=SystemClock(), **options)


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Pipeline]:
    pipeline = made(url, **options)
    await pipeline.start()
    try:
        yield pipeline
    finally:
        await pipeline.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.005)


async def outcome(call: Awaitable[Any]) -> Any:
    """What a call gave, its error included."""
    try:
        return await call
    except BackendError as error:
        return error


@asynccontextmanager
async def served(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """The address of a server that is this function; it ends when all its clients have."""
    serving: set[asyncio.Task[None]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "streams make one for each client"
        serving.add(task)
        try:
            await serve(reader, writer)
        except OSError:
            pass  # the client has ended it, as it may
        finally:
            writer.close()

    server = await asyncio.start_server(tracked, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*serving)


@asynccontextmanager
async def liar(answer: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """The address of a server that gives `answer` to whatever bytes come."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(answer(data))
            await writer.drain()

    async with served(serve) as url:
        yield url


def greeted(data: bytes) -> bytes:
    """As a server that answers greetings and nothing else."""
    return b"%0\r\n+PONG\r\n" if b"HELLO" in data else b""


@asynccontextmanager
async def shears(port: int) -> AsyncIterator[tuple[str, Callable[[int], None]]]:
    """A way to a server, and what cuts it once, that many bytes into what the server says from now on."""
    left: list[int] = []

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if left and len(data) > left[0]:
                writer.write(data[: left.pop()])
                break
            if left:
                left[0] -= len(data)
            writer.write(data)
            await writer.drain()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        returning = asyncio.ensure_future(back(far_reader, writer))
        returning.add_done_callback(lambda _: writer.close())
        try:
            while data := await reader.read(65536):
                far_writer.write(data)
        finally:
            far_writer.close()
            returning.cancel()
            await asyncio.wait([returning])

    async with served(carry) as url:
        yield url, left.append


@asynccontextmanager
async def guarded(kind: Kind) -> AsyncIterator[tuple[RedisServer, RedisServer, list[RedisServer]]]:
    """A primary, its replica, and two Sentinels that both must agree on a failover."""
    with RedisServer(kind) as primary, RedisServer(kind, replicaof=f"127.0.0.1 {primary.port}") as replica:
        config = (
            f"sentinel monitor house 127.0.0.1 {primary.port} 2\n"
            "sentinel down-after-milliseconds house 500\nsentinel failover-timeout house 3000\n"
        )
        with (
            RedisServer(kind, config=config, is_sentinel=True) as one,
            RedisServer(kind, config=config, is_sentinel=True) as two,
        ):
            for sentinel in (one, two):
                for what in ("REPLICAS", "SENTINELS"):
                    await until(lambda: bool(sentinel.command("SENTINEL", what, "house")))  # noqa: B023 - called at once
            await until(lambda: "REPLICA sync: Finished" in replica.output)
            yield primary, replica, [one, two]


def sentinel_url(sentinels: list[RedisServer]) -> str:
    """Where they are; one that is away is named first."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in [free_port(), *(sentinel.port for sentinel in sentinels)])
    return f"redis+sentinel://{hosts}/house"
