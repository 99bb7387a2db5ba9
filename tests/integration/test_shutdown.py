"""`hubbub serve` as a process: it starts with one line, or fails with one, and leaves in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.contracts.doors import EchoProbe, Peer, Serving
from tests.integration.support import client
from tests.serving import Served

CONFIG = """
[auth]
anonymous = true
[channels.default]
subscribe = "anyone"
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


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sends_everybody_away_with_3001(signal_number: int, tmp_path: Path) -> None:
    with Served(CONFIG, tmp_path) as server:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client(server.websocket_url)) for _ in range(30)]
            for each in clients:
                await each.call("subscribe", channel="news")
            assert server._process is not None
            os.kill(server._process.pid, signal_number)
            began = time.monotonic()
            goodbyes = await asyncio.gather(*(each.closed() for each in clients))
            assert set(goodbyes) == {(3001, "shutdown")}
        await asyncio.to_thread(server._process.wait, A_FEW)
        assert time.monotonic() - began < A_FEW
        assert server._process.returncode in (0, -signal_number, 130)
    assert "Traceback" not in server.output
    assert not mentioned(str(tmp_path))


async def test_peers_that_do_not_answer_do_not_keep_it(tmp_path: Path) -> None:
    with Served(CONFIG, tmp_path) as server:
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
    with Served(CONFIG, tmp_path) as server:
        began = time.monotonic()
        await asyncio.to_thread(server.stop)
        assert time.monotonic() - began < A_FEW


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
