"""Serving: one port for everything, HTTP by uvicorn and WebSockets by the fast door.

Answers for: TLS, signals, and leaving in good order. Refuses to know: what is served, and who else serves it.

SIGTERM drains: the port is free for the next process at once, the clients are sent away over `server.drain_time`, the
requests under way end, and so does the process, with exit code 0. SIGINT (Ctrl-C) does all that without taking its
time, and so does a second signal of either kind.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import uvicorn

from hubbub.app import WEBSOCKET_PATH, Hubbub
from hubbub.http.application import ASGIApp
from hubbub.listening import BACKLOG, give_way, listen, make_way, url_of
from hubbub.transports.handshake import Gate
from hubbub.transports.upgrade import Http
from hubbub.transports.websocket import WebSocketDoor

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
        self.name = ""  # of one among several
        self._on_ready = on_ready
        self._path = ""  # of a Unix socket that is ours to remove
        self._drain_time = 0.0
        self._latecomers = 0.0
        self._is_hurried = asyncio.Event()
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
        """Listen until a signal comes or `should_exit` is set, on sockets that are bound, if they are given.

        Raises ConfigurationError if the address is taken, BackendError if broker or presence cannot be reached.
        """
        settings = self.hub.settings.server
        if sockets is None and settings.unix:
            make_way(settings.unix)
            self._path = settings.unix
        elif sockets is None:
            sockets = listen(settings)
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came: to drain, or not to take any more time over it."""
        if self.should_exit and self._loop is not None:
            self._loop.call_soon_threadsafe(self.hurry)
        elif sig == signal.SIGTERM:
            self.leave()
        if sig == signal.SIGINT:
            # What uvicorn hears of it raises again at the end, so that we end as interrupted programs do. Of SIGTERM it
            # hears nothing: who was asked to stop, and did, has not failed.
            super().handle_exit(sig, frame)
        self.should_exit = True

    def leave(self, latecomers: float = 0.0) -> None:
        """Drain, as at SIGTERM; asked again it does nothing more. Any thread, and any signal's handler, may ask.

        `latecomers` are seconds in which, before that, whoever is connected already may still begin.
        """
        if not self.should_exit:
            self._drain_time = self.hub.settings.server.drain_time
            self._latecomers = latecomers
            self.should_exit = True

    def hurry(self) -> None:
        """End, and take no time over it, also where it drains already. From the loop's own thread only."""
        self._drain_time = 0.0
        if self.should_exit:
            self.force_exit = True
            self._is_hurried.set()
            self.hub.node.tasks.begin(self.hub.node.drain(), "drain at once")
        self.should_exit = True

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say so."""
        # Before uvicorn, to which whatever goes wrong here would be a fault in the application, traceback and all.
        await self.hub.start()
        try:
            await super().startup(sockets)
        except BaseException:
            await self.hub.stop()
            raise
        if self.started and self._on_ready is not None:
            await self._on_ready(self)

    async def shutdown(self, sockets: Any = None) -> None:
        """Free the address, send the clients away, let requests under way end, and stop the node."""
        if self._path:
            give_way(self._path)
        for listener in [*self.servers, *(sockets or ())]:
            listener.close()
        try:
            async with asyncio.timeout(self._latecomers):
                await self._is_hurried.wait()
        except TimeoutError:
            pass
        await self.hub.node.drain(self._drain_time, _Progress(self.name))
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
        await self.hub.stop()

    @property
    def address(self) -> str:
        """Where it listens, as a URL."""
        server = self.hub.settings.server
        return url_of(server, self.servers[0].sockets[0].getsockname()[1] if self.servers else server.port)


class _Progress:
    """One line a second about a drain that takes longer than that."""

    def __init__(self, name: str) -> None:
        self._said = f"draining {name}" if name else "draining"
        self._next = time.monotonic() + 1

    def __call__(self, left: int, total: int) -> None:
        now = time.monotonic()
        if left and now >= self._next:
            self._next = now + 1
            try:
                print(f"{self._said}: {left} of {total} connections left", file=sys.stderr, flush=True)  # noqa: T201
            except OSError:
                pass  # a terminal that was closed, or a pipe: whoever is drained has nothing to do with that
