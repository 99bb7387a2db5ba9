"""Serving: one port for everything, HTTP by uvicorn and WebSockets by the fast door.

Answers for: the listening socket, TLS, and leaving in good order. Refuses to know: what is served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import uvicorn

from hubbub.app import WEBSOCKET_PATH, Hubbub
from hubbub.transports.handshake import Gate
from hubbub.transports.websocket import WebSocketDoor

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = logging.getLogger(__name__)

#: Connections that wait to be accepted: a crowd returns at once.
BACKLOG = 4096

#: Seconds that clients get to answer the goodbye.
GOODBYE = 2.0


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
            max_message=hub.max_message,
            write_budget=client.write_budget,
        )
        self._on_ready = on_ready
        listen: dict[str, Any] = {"uds": server.unix} if server.unix else {"host": server.host, "port": server.port}
        tls: dict[str, Any] = (
            {"ssl_certfile": server.tls_certificate, "ssl_keyfile": server.tls_key} if server.tls_key else {}
        )
        super().__init__(
            uvicorn.Config(
                hub.asgi(fallback),
                ws=self.door.upgrade,  # type: ignore[arg-type]  # called like a class; a bound method does
                http="httptools",
                loop="uvloop",
                lifespan="on",
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                backlog=BACKLOG,
                **listen,
                **tls,
            )
        )

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            await self._on_ready(self)

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop the node first, so that every client hears why, and give them a moment to answer."""
        for listener in self.servers:
            listener.close()
        await self.hub.node.stop()
        deadline = asyncio.get_running_loop().time() + GOODBYE
        while self.door.sockets and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

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
