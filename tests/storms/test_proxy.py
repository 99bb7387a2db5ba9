"""tests/storms/proxy.py: it breaks as it says, and not otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.storms.proxy import Proxy


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each line twice."""
    try:
        while line := await reader.readline():
            writer.write(line + line)
            await writer.drain()
    except ConnectionError:
        pass  # as it may be cut
    finally:
        writer.close()


@asynccontextmanager
async def proxied() -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, limit=1 << 22)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


class Talk:
    """One connection through it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def says(self, words: str) -> str:
        self.writer.write(words.encode() + b"\n")
        return (await self.reader.readexactly(2 * len(words) + 2)).decode()


@asynccontextmanager
async def talk(proxy: Proxy) -> AsyncIterator[Talk]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Talk(reader, writer)
    finally:
        writer.close()


async def _is_silent(reader: asyncio.StreamReader) -> bool:
    """Whether nothing comes, not even an end."""
    try:
        await asyncio.wait_for(reader.read(1), 0.2)
    except TimeoutError:
        return True
    return False


async def test_it_carries() -> None:
    async with proxied() as proxy, talk(proxy) as one, talk(proxy) as two:
        assert await one.says("a") == "a\na\n"
        assert await two.says("x" * 1_000_000) == f"{'x' * 1_000_000}\n" * 2
        assert proxy.connections == 2


async def test_what_is_cut_ends_and_the_next_one_is_whole() -> None:
    async with proxied() as proxy, talk(proxy) as one:
        await one.says("a")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await one.reader.read(1)
        async with talk(proxy) as two:
            assert await two.says("b") == "b\nb\n"


async def test_who_is_refused_is_reset_until_it_is_mended() -> None:
    async with proxied() as proxy:
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            async with talk(proxy) as one:
                await one.reader.read(1)
        proxy.mend()
        async with talk(proxy) as two:
            assert await two.says("a") == "a\na\n"


@pytest.mark.parametrize("side", ["server", "clients", "both"])
async def test_a_stalled_connection_stays_open_and_says_nothing(side: str) -> None:
    async with proxied() as proxy, talk(proxy) as one:
        await one.says("a")
        proxy.stall(side)  # type: ignore[arg-type]  # one of them
        one.writer.write(b"b\n")
        assert await _is_silent(one.reader)
        async with talk(proxy) as two:
            assert await two.says("c") == "c\nc\n", "it was opened later"
        proxy.mend()
        assert await _is_silent(one.reader), "what was swallowed does not come later"


async def test_new_connections_may_stall_too() -> None:
    async with proxied() as proxy:
        proxy.stall(new=True)
        async with talk(proxy) as one:
            one.writer.write(b"a\n")
            assert await _is_silent(one.reader)


async def test_an_answer_is_cut_in_its_middle() -> None:
    async with proxied() as proxy, talk(proxy) as one:
        await one.says("a")
        proxy.cut_in_answer(5)
        one.writer.write(b"hello\n")
        assert await one.reader.read() == b"hello"


async def test_what_is_delayed_comes_in_order() -> None:
    async with proxied() as proxy, talk(proxy) as one:
        proxy.delay = 0.05
        one.writer.write(b"a\n")
        await asyncio.sleep(0.01)  # it is on its way
        proxy.mend()
        one.writer.write(b"b\n")
        assert await one.reader.readexactly(8) == b"a\na\nb\nb\n"
