"""`[server] unix`: as behind a proxy on the same machine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import uvloop
from tests.contracts.doors import TEXT, EchoProbe, Peer, frame, served
from tests.integration.support import client, running

from hubbub.errors import ConfigurationError

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


async def test_clients_and_the_http_api_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "hubbub.sock")
    async with running(server={"unix": path}, api={"key": "k"}) as server:
        assert server.address == f"unix:{path}"
        transport = httpx.AsyncHTTPTransport(uds=path)
        async with client(server) as reader, httpx.AsyncClient(transport=transport, base_url="http://hub") as http:
            await reader.call("subscribe", channel="news")
            await http.post("/api/publish", json={"channel": "news", "data": 1}, headers={"X-API-Key": "k"})
            assert (await reader.push())["pub"]["data"] == 1
            server.should_exit = True
            assert await reader.closed() == (3001, "shutdown")
    assert not os.path.exists(path)  # noqa: ASYNC240  # it takes no time


@pytest.mark.parametrize("loop", LOOPS)
def test_the_door_on_a_unix_socket(loop: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with served("websocket", EchoProbe, unix=str(tmp_path / "s")) as serving:
            peer = await Peer.open(serving, "Origin: https://a.example", "X-Forwarded-Host: a.example")
            peer.send(frame(TEXT, b"hi"))
            assert await peer.frame() == (TEXT, b"hi")
            peer.send(frame(0x3))
            assert (await peer.closed())[0] == 1002
            assert await peer.ends() == b""
            await (await serving.probe()).hears("closed")

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(story(), 10))


async def test_the_socket_of_a_server_that_is_gone_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)
    async with running(server={"unix": path}) as server, client(server):
        pass


async def test_the_next_server_has_the_path_while_the_first_one_drains(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(server={"unix": str(path), "drain_time": 600}))
        clients = [await stack.enter_async_context(client(first)) for _ in range(20)]
        os.kill(os.getpid(), signal.SIGTERM)
        assert await clients[0].closed() == (3001, "shutdown")
        assert not path.exists()
        async with running(server={"unix": str(path)}) as second:
            async with client(second):
                pass
            await first.hub.node.drain()
            assert {await each.closed() for each in clients} == {(3001, "shutdown")}
            await first.door.is_empty.wait()
            async with client(second):
                pass


async def test_the_socket_of_a_server_that_runs_is_not_stolen(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with running(server={"unix": path}) as first:
        with pytest.raises(ConfigurationError, match=r"server\.unix = .* is taken"):
            async with running(server={"unix": path}):
                pass
        async with client(first):
            pass


async def test_a_path_that_cannot_be_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    for path in (file, tmp_path / "no" / "such" / "folder"):
        with pytest.raises(ConfigurationError, match=r"server\.unix"):
            async with running(server={"unix": str(path)}):
                pass
    assert file.read_text() == "precious"
