"""What a delivery and an idle connection cost at the fast door, by event loop, TLS and transport library.

    python benchmarks/doors.py [--connections 1000] [--rounds 200]

Answers for: one table. Each row is a server process of its own; this process holds the other ends. The server writes
one frame of 100 bytes to each connection a round, and reports its own CPU time for them and its memory. Refuses to
know: channels and fan-out (`benchmarks/run.py`): behind the door is nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import resource
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiofastnet
import httpx
import uvicorn
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration.certificates import Certificate, make_certificate

from hubbub.protocol.codec import Codec
from hubbub.protocol.frames import text_frame
from hubbub.transports.handshake import Gate
from hubbub.transports.upgrade import Http
from hubbub.transports.websocket import Socket, WebSocketDoor

#: With its header, a small chat message.
FRAME = text_frame(b"x" * 98)

#: About 700 bytes of headers, as a browser sends them.
REQUEST = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0.0.0\r\n"
    b"Cookie: " + b"c" * 400 + b"\r\n\r\n"
)

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Nobody:
    """The endpoint of a connection that is only written to."""

    def __init__(self, transport: Socket, codec: Codec) -> None:
        pass

    def receive(self, message: bytes) -> None:
        """Ignore it."""

    paused = resumed = closed = lambda self: None


# the server -----------------------------------------------------------------------------------------------------------


class Measured:
    """The door, and over HTTP what it costs."""

    def __init__(self) -> None:
        self.door = WebSocketDoor(
            Nobody, path="/connection/websocket", gate=Gate(), max_message=65536, write_budget=1 << 20
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """`/memory`, or `/<rounds>`."""
        name = scope["path"][1:]
        said = _memory() if name == "memory" else await self._write(int(name))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})

    async def _write(self, rounds: int) -> dict[str, float]:
        sockets = list(self.door.sockets)
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(rounds):
            for socket in sockets:
                socket.write([FRAME])
            await asyncio.sleep(0.002)
        while any(socket.unsent for socket in sockets):  # noqa: ASYNC110  # the kernel does not say
            await asyncio.sleep(0.002)
        after = resource.getrusage(resource.RUSAGE_SELF)
        each = 1e6 / (rounds * len(sockets))
        return {"user": (after.ru_utime - before.ru_utime) * each, "kernel": (after.ru_stime - before.ru_stime) * each}


def _memory() -> dict[str, int]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"bytes": pages * os.sysconf("SC_PAGE_SIZE")}


async def _serve(is_fast: bool, files: list[str]) -> None:
    if is_fast:
        aiofastnet.patch_loop()  # uvicorn's create_server is aiofastnet's from here on
    measured = Measured()
    tls: dict[str, Any] = {"ssl_certfile": files[0], "ssl_keyfile": files[1]} if files else {}
    config = uvicorn.Config(
        measured,
        port=0,
        ws=measured.door.upgrade,  # type: ignore[arg-type]  # as in hubbub.server
        http=Http,
        lifespan="off",
        log_config=None,
        backlog=4096,
        **tls,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


# the crowd ------------------------------------------------------------------------------------------------------------


class Reader(asyncio.Protocol):
    """The other end: asks for the upgrade and throws away what comes."""

    def __init__(self) -> None:
        self.is_open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(REQUEST)  # type: ignore[attr-defined]  # a full transport

    def data_received(self, data: bytes) -> None:
        if not self.is_open.done():
            self.is_open.set_result(data.startswith(b"HTTP/1.1 101"))


async def _crowd(port: int, tls: ssl.SSLContext | None, connections: int, rounds: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    scheme, verify = ("https", tls) if tls else ("http", True)
    async with httpx.AsyncClient(base_url=f"{scheme}://localhost:{port}", verify=verify, timeout=120) as http:

        async def connect() -> asyncio.BaseTransport:
            host = "localhost" if tls else None
            transport, reader = await loop.create_connection(Reader, "127.0.0.1", port, ssl=tls, server_hostname=host)
            assert await reader.is_open, "the door did not open"
            return transport

        held = [await connect() for _ in range(50)]  # first of its kind: imports, arenas
        empty = (await http.get("/memory")).json()["bytes"]
        for start in range(0, connections, 100):
            held += await asyncio.gather(*(connect() for _ in range(start, min(connections, start + 100))))
        full = (await http.get("/memory")).json()["bytes"]
        await http.get("/20")
        said: dict[str, float] = (await http.get(f"/{rounds}")).json()
        for transport in held:
            transport.close()
        return {**said, "kb": (full - empty) / connections / 1024}


def _measure(
    loop: str, is_fast: bool, certificate: Certificate | None, connections: int, rounds: int
) -> dict[str, float]:
    files = list(certificate[:2]) if certificate else []
    command = [sys.executable, __file__, "--serve", loop, "fast" if is_fast else "own", *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                trusted = certificate.trusted if certificate else None
                return runner.run(_crowd(port, trusted, connections, rounds))
        finally:
            server.kill()


def main() -> None:
    """Measure every combination and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        loop, library, *files = options.serve
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(_serve(library == "fast", files))
    print("| TLS | event loop | transports | user µs a delivery | kernel µs | both | KB an idle connection |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        for has_tls, loop, is_fast in itertools.product((False, True), LOOPS, (False, True)):
            got = _measure(loop, is_fast, certificate if has_tls else None, options.connections, options.rounds)
            print(
                f"| {'yes' if has_tls else 'no'} | {loop} | {'aiofastnet' if is_fast else 'its own'} "
                f"| {got['user']:.2f} | {got['kernel']:.2f} | {got['user'] + got['kernel']:.2f} | {got['kb']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
