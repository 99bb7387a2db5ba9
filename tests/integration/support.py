"""A served hub in this process, and a client of few words.

Answers for: `hubbub.server.Server` on a free port with settings from the test, and the client protocol in JSON by
hand. Refuses to know: what is tested.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp
from websockets.asyncio.client import ClientConnection, connect, unix_connect

from hubbub import Hubbub
from hubbub.server import Server

PATH = "/connection/websocket"

OPEN: dict[str, Any] = {"auth": {"anonymous": True}, "channels": {"default": {"subscribe": "anyone"}}}


@asynccontextmanager
async def running(
    hub: Hubbub | None = None,
    *,
    fallback: ASGIApp | None = None,
    server: Mapping[str, object] | None = None,
    **more: Any,
) -> AsyncIterator[Server]:
    """A server in this event loop, stopped at the end as by a signal."""
    here = {"port": 0, **(server or {})}
    serving = Server(hub or Hubbub(server=here, **{**OPEN, **more}), fallback=fallback)
    is_ready = asyncio.Event()
    serving._on_ready = lambda server: _set(is_ready)
    task = asyncio.ensure_future(serving.serve())
    ready = asyncio.ensure_future(is_ready.wait())
    await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    try:
        if task.done():
            await task
        yield serving
    finally:
        serving.should_exit = True
        await task


async def _set(event: asyncio.Event) -> None:
    event.set()


def port_of(server: Server) -> int:
    """The port it listens on."""
    return int(server.address.rpartition(":")[2])


class Client:
    """A connected client. Replies and pushes come in their order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.id = ""
        self.pushes: list[dict[str, Any]] = []
        self._ids = itertools.count(1)

    async def call(self, command: str, **request: object) -> Any:
        """Send a command and return its result. Fails on an error."""
        number = next(self._ids)
        await self.socket.send(json.dumps({"id": number, command: request}))
        while True:
            for reply in await self._read():
                if reply.get("id") == number:
                    assert "error" not in reply, reply
                    return reply[command]
                if reply:
                    self.pushes.append(reply["push"])

    async def push(self) -> dict[str, Any]:
        """The next push."""
        while not self.pushes:
            self.pushes += [reply["push"] for reply in await self._read() if reply]
        return self.pushes.pop(0)

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the server's goodbye."""
        await self.socket.wait_closed()
        received = self.socket.protocol.close_rcvd
        assert received is not None, "it was cut off without a goodbye"
        return received.code, received.reason

    async def _read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in str(await self.socket.recv()).split("\n") if line]


@asynccontextmanager
async def client(
    server: Server | str, *, tls: ssl.SSLContext | None = None, token: str = "", origin: str | None = None
) -> AsyncIterator[Client]:
    """Connected to a server in this process, or to an address (ws://…, or the path of a Unix socket)."""
    address = server if isinstance(server, str) else _websocket_address(server)
    options: dict[str, Any] = {"compression": None, "origin": origin, "ssl": tls}
    if address.startswith("/"):
        opening = unix_connect(address, f"ws://localhost{PATH}", compression=None)
    else:
        opening = connect(address, **options)
    async with opening as socket:
        connected = Client(socket)
        connected.id = (await connected.call("connect", **({"token": token} if token else {})))["client"]
        yield connected


def _websocket_address(server: Server) -> str:
    if server.address.startswith("unix:"):
        return server.address.removeprefix("unix:")
    return server.address.replace("http", "ws", 1).replace("127.0.0.1", "localhost") + PATH
