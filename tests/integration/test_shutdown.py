"""`hubbub serve` as a process: it starts with one line, or fails with one, and leaves in good order."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.contracts.doors import EchoProbe, Peer, Serving, request
from tests.integration.support import Client, client
from tests.serving import Served

CONFIG = """
[server]
drain_time = {drain_time}
[auth]
anonymous = true
[channels.default]
subscribe = "anyone"
[api]
key = "k"
"""

#: Seconds: the goodbye's, and what a loaded machine adds.
A_FEW = 5.0


def mentioned(name: str) -> list[str]:
    """Processes with this in their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        if name.encode() in words:
            found.append(folder.name)
    return found


def send(server: Served, number: int) -> None:
    assert server._process is not None
    os.kill(server._process.pid, number)


async def exit_code(server: Served) -> int:
    assert server._process is not None
    return await asyncio.to_thread(server._process.wait, A_FEW)


async def some(stack: AsyncExitStack, server: Served, count: int) -> list[Client]:
    return [await stack.enter_async_context(client(server.websocket_url)) for _ in range(count)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_sends_everybody_away_with_3001(number: int, code: int, tmp_path: Path) -> None:
    """SIGTERM over the drain time, here none; Ctrl-C at once, whatever that is."""
    drain_time = 0 if number == signal.SIGTERM else 600
    with Served(CONFIG.format(drain_time=drain_time), tmp_path) as server:
        async with AsyncExitStack() as stack:
            clients = await some(stack, server, 30)
            for each in clients:
                await each.call("subscribe", channel="news")
            began = time.monotonic()
            send(server, number)
            goodbyes = await asyncio.gather(*(each.closed() for each in clients))
            assert set(goodbyes) == {(3001, "shutdown")}
        assert await exit_code(server) == code
        assert time.monotonic() - began < A_FEW
    assert "Traceback" not in server.output
    assert "draining" not in server.output
    assert not mentioned(str(tmp_path))


async def test_a_drain_says_how_far_it_is_and_ends_well(tmp_path: Path) -> None:
    with Served(CONFIG.format(drain_time=2.5), tmp_path) as server:
        async with AsyncExitStack() as stack:
            clients = await some(stack, server, 20)
            began = time.monotonic()
            send(server, signal.SIGTERM)
            assert {await each.closed() for each in clients} == {(3001, "shutdown")}
        assert await exit_code(server) == 0
        took = time.monotonic() - began
    lines = [line for line in server.output.splitlines() if line.startswith("draining")]
    assert 1 <= len(lines) <= took
    left = [int(line.split()[1]) for line in lines]
    assert lines == [f"draining: {count} of 20 connections left" for count in left]
    assert left == sorted(set(left), reverse=True)
    assert "Traceback" not in server.output


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_takes_no_time(second: int, tmp_path: Path) -> None:
    with Served(CONFIG.format(drain_time=600), tmp_path) as server:
        async with AsyncExitStack() as stack:
            clients = await some(stack, server, 200)
            send(server, signal.SIGTERM)
            assert await clients[0].closed() == (3001, "shutdown")  # it has begun
            assert clients[-1].socket.protocol.close_rcvd is None
            began = time.monotonic()
            send(server, second)
            assert {await each.closed() for each in clients} == {(3001, "shutdown")}
        assert await exit_code(server) == (0 if second == signal.SIGTERM else 130)
        assert time.monotonic() - began < A_FEW
    assert "Traceback" not in server.output


async def test_while_it_drains_open_connections_are_served_and_no_others(tmp_path: Path) -> None:
    with Served(CONFIG.format(drain_time=600), tmp_path) as server:
        async with AsyncExitStack() as stack:
            clients = await some(stack, server, 50)
            await clients[-1].call("subscribe", channel="news")
            door = Serving("websocket", EchoProbe)
            door.port = server.port
            waiting = await Peer.connect(door)
            assert await waiting.ask(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n") == 200
            await waiting.reader.readexactly(2)
            http_client = http.client.HTTPConnection("127.0.0.1", server.port)
            http_client.connect()
            send(server, signal.SIGTERM)
            assert await clients[0].closed() == (3001, "shutdown")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", server.port))
            assert call(http_client, "GET", "/health") == 200
            assert call(http_client, "GET", "/ready") == 503
            assert call(http_client, "POST", "/api/publish", b'{"channel": "news", "data": 1}') == 200
            assert (await clients[-1].push())["pub"]["data"] == 1
            assert await waiting.ask(request()) == 503
            waiting.leave()
            await clients[-1].call("unsubscribe", channel="news")
            send(server, signal.SIGTERM)
            assert await clients[-1].closed() == (3001, "shutdown")
        http_client.close()
        assert await exit_code(server) == 0
    assert "Traceback" not in server.output


def call(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> int:
    connection.request(method, path, body, {"X-API-Key": "k"})
    response = connection.getresponse()
    response.read()
    return response.status


async def test_peers_that_do_not_answer_do_not_keep_it(tmp_path: Path) -> None:
    with Served(CONFIG.format(drain_time=0.1), tmp_path) as server:
        door = Serving("websocket", EchoProbe)
        door.port = server.port
        silent = await Peer.open(door)  # never answers the close
        unborn = await Peer.connect(door)  # never says a word
        halfway = await Peer.connect(door)  # stops inside its request
        halfway.writer.write(b"GET /connection/websocket HTTP/1.1\r\nHost")
        async with client(server.websocket_url) as other:
            began = time.monotonic()
            stopping = asyncio.ensure_future(asyncio.to_thread(server.stop))
            assert await silent.closed() == (3001, "shutdown")
            assert await other.closed() == (3001, "shutdown")
        await stopping
        assert time.monotonic() - began < A_FEW
        for peer in (silent, unborn, halfway):
            assert await peer.ends() == b""
            peer.leave()
    assert "Traceback" not in server.output
    assert "killed" not in server.output
    assert not mentioned(str(tmp_path))


async def test_a_process_without_clients_leaves_without_waiting(tmp_path: Path) -> None:
    with Served(CONFIG.format(drain_time=600), tmp_path) as server:
        began = time.monotonic()
        await asyncio.to_thread(server.stop)
        assert time.monotonic() - began < A_FEW
    assert await exit_code(server) == 0


def serve(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hubbub", "serve", *options], capture_output=True, text=True, timeout=20, check=False
    )


def test_a_port_that_is_taken_is_one_line_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve("--dev", "--port", str(port))
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert f"port {port}" in line
    assert "--port" in line
    assert "listens" not in done.stdout


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_one_line(host: str) -> None:
    done = serve("--dev", "--port", "0", "--host", host)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert "--host" in line
