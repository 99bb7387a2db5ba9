"""Serving: one port for everything, HTTP by uvicorn and WebSockets by the fast door.

Answers for: the listening socket, TLS, signals, and leaving in good order. Refuses to know: what is served.

SIGTERM drains: the port is free for the next process at once, the clients are sent away over `server.drain_time`, the
requests under way end, and so does the process, with exit code 0. SIGINT (Ctrl-C) does all that without taking its
time, and so does a second signal of either kind.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from hubbub.app import WEBSOCKET_PATH, Hubbub
from hubbub.errors import ConfigurationError
from hubbub.http.application import ASGIApp
from hubbub.settings import Server as ServerSettings
from hubbub.transports.handshake import Gate
from hubbub.transports.upgrade import Http
from hubbub.transports.websocket import WebSocketDoor

log = logging.getLogger(__name__)

#: Connections that wait to be accepted: a crowd returns at once.
BACKLOG = 4096

#: Seconds that clients get to answer the goodbye, before their sockets are aborted.
GOODBYE = 2.0

#: Seconds that requests under way get to end, whoever serves them.
LAST_REQUESTS = 5.0


class Server(uvicorn.Server):
    """uvicorn with our WebSocket door. `on_ready` is awaited once it listens."""

    def __init__(
        self,
        hub: Hubbub,
        *,
        fallback: ASGIApp | None = None,
        on_ready: Callable[[Server], Awaitable[None]] | None = None,
    ) -> None:
        server, client = hub.settings.server, hub.settings.client
        self.hub = hub
        self.door = WebSocketDoor(
            hub.connect,
            path=WEBSOCKET_PATH,
            gate=Gate(server.allowed_origins, server.trusted_proxies),
            refusal=hub.node.refusal,
            max_message=hub.max_message,
            write_budget=client.write_budget,
        )
        self._on_ready = on_ready
        self._drain_time = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        tls: dict[str, Any] = (
            {"ssl_certfile": server.tls_certificate, "ssl_keyfile": server.tls_key} if server.tls_key else {}
        )
        super().__init__(
            uvicorn.Config(
                hub.asgi(fallback),
                ws=self.door.upgrade,  # type: ignore[arg-type]  # called like a class; a bound method does
                http=Http,
                loop="auto",  # uvloop where it is installed
                lifespan="on",
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                backlog=BACKLOG,
                timeout_graceful_shutdown=int(LAST_REQUESTS),
                uds=server.unix or None,
                **tls,
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen until a signal comes or `should_exit` is set. Raises ConfigurationError if the address is taken."""
        settings = self.hub.settings.server
        if sockets is None and not settings.unix:
            sockets = listen(settings)
        if settings.unix:
            make_way(settings.unix)
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came: to drain, or not to take any more time over it."""
        if self.should_exit:
            self._drain_time = 0.0
            self.force_exit = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._hurry)
        elif sig == signal.SIGTERM:
            self._drain_time = self.hub.settings.server.drain_time
        if sig == signal.SIGINT:
            # What uvicorn hears of it raises again at the end, so that we end as interrupted programs do. Of SIGTERM it
            # hears nothing: who was asked to stop, and did, has not failed.
            super().handle_exit(sig, frame)
        self.should_exit = True

    def _hurry(self) -> None:
        self.hub.node.tasks.begin(self.hub.node.drain(), "drain at once")

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            await self._on_ready(self)

    async def shutdown(self, sockets: Any = None) -> None:
        """Free the address, send the clients away, let requests under way end, and stop the node."""
        if self.hub.settings.server.unix:
            give_way(self.hub.settings.server.unix)
        for listener in [*self.servers, *(sockets or ())]:
            listener.close()
        await self.hub.node.drain(self._drain_time, _Progress())
        try:
            async with asyncio.timeout(GOODBYE):
                await self.door.is_empty.wait()
        except TimeoutError:
            pass
        for client in list(self.door.sockets):
            client.abort()
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn leaves this out, and the node would not stop
            await self.lifespan.shutdown()

    @property
    def address(self) -> str:
        """Where it listens, as a URL."""
        server = self.hub.settings.server
        if server.unix:
            return f"unix:{server.unix}"
        port = self.servers[0].sockets[0].getsockname()[1] if self.servers else server.port
        scheme = "https" if server.tls_key else "http"
        host = f"[{server.host}]" if ":" in server.host else server.host
        return f"{scheme}://{host}:{port}"


class _Progress:
    """One line a second about a drain that takes longer than that."""

    def __init__(self) -> None:
        self._next = time.monotonic() + 1

    def __call__(self, left: int, total: int) -> None:
        now = time.monotonic()
        if left and now >= self._next:
            self._next = now + 1
            sys.stderr.write(f"draining: {left} of {total} connections left\n")
            sys.stderr.flush()


def listen(server: ServerSettings) -> list[socket.socket]:
    """The listening sockets of a host that may have several addresses, all on one port."""
    try:
        found = socket.getaddrinfo(server.host or None, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigurationError(f"server.host (--host) = {server.host!r}: {error.strerror}") from None
    sockets: list[socket.socket] = []
    port = server.port
    for family, address in dict.fromkeys((family, address[:2]) for family, _, _, _, address in found):
        try:
            sockets.append(socket.create_server((address[0], port), family=family, backlog=BACKLOG))
        except OSError as error:
            for listening in sockets:
                listening.close()
            raise ConfigurationError(_why_not(error, str(address[0]), port)) from None
        port = sockets[0].getsockname()[1]
    return sockets


def make_way(path: str) -> None:
    """Remove the Unix socket of a server that is gone. uvicorn would also remove that of one that is not."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ConfigurationError(f"server.unix = {path!r} is a file, and no socket")
    except FileNotFoundError:
        if not Path(path).parent.is_dir():
            raise ConfigurationError(f"server.unix = {path!r}: there is no such folder") from None
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise ConfigurationError(f"server.unix = {path!r} is taken: a server listens there")
    os.unlink(path)


def give_way(path: str) -> None:
    """Remove our own Unix socket, as long as it is ours: the next process may take its place while we drain."""
    Path(path).unlink(missing_ok=True)


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken: choose another by --port (server.port), or 0 for a free one"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges: choose one from 1024 on by --port (server.port)"
    return f"cannot listen on {host}, port {port} (--host, --port): {error.strerror}"
