"""`hubbub demo`: a page with a room, served beside the client endpoint on one port.

Answers for: the page, a token for whoever opens it, and a teller who writes a few lines while a page has cut its own
connection, so that there is something to miss. Refuses to know: how messages get anywhere; it uses hubbub as any
application would.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from hubbub.app import Hubbub
from hubbub.auth import connection_token
from hubbub.errors import ConfigurationError
from hubbub.server import Server

STATIC = Path(__file__).parent / "static"

#: The official client, copied there when the package is built.
CLIENT = STATIC / "centrifuge.js"

ROOM = "demo:room"

#: What the teller writes while somebody is away, and seconds between its lines.
LINES = (
    "You cannot see this yet: your connection is cut.",
    "The others go on talking.",
    "Every message has its offset, and the room remembers.",
    "When you come back, you say where you were …",
    "… and get exactly what you missed, in order.",
)
PACE = 0.8

#: Characters of a name.
NAME_LENGTH = 24


class Demo:
    """The room, its page and its teller."""

    def __init__(self, port: int) -> None:
        self._secret = secrets.token_hex(32)
        self._is_telling = False
        rules = {
            "delivery": "recent",
            "history_size": 200,
            "history_ttl": "1h",
            "presence": True,
            "join_leave": "always",
            "subscribe": "user",
            "publish": "subscriber",
            "max_bytes": 4096,
        }
        self.hub = Hubbub(server={"port": port}, auth={"hmac_secret": self._secret}, channels={"demo": rules})
        self.pages = Starlette(
            routes=[
                Route("/", self._page),
                Route("/token", self._token),
                Route("/tell", self._tell, methods=["POST"]),
                Mount("/static", StaticFiles(directory=STATIC)),
            ]
        )

    async def _page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def _token(self, request: Request) -> Response:
        """A token for whoever asks: everybody may come in under any name."""
        name = request.query_params.get("name", "").strip()[:NAME_LENGTH] or "guest"
        user = request.query_params.get("user", "")[:NAME_LENGTH] or secrets.token_hex(4)
        return JSONResponse({"token": connection_token(self._secret, user, info={"name": name}), "user": user})

    async def _tell(self, request: Request) -> Response:
        """Somebody has cut their connection: tell something that they miss."""
        if not self._is_telling:
            self._is_telling = True
            self.hub.node.tasks.spawn(self._tell_all(), "teller")
        return JSONResponse({"lines": len(LINES), "pace": PACE})

    async def _tell_all(self) -> None:
        try:
            for line in LINES:
                await asyncio.sleep(PACE)
                await self.hub.publish(ROOM, {"name": "teller", "text": line})
        finally:
            self._is_telling = False


def serve_demo(port: int, on_ready: Callable[[Server], Awaitable[None]]) -> Server:
    """The server of the demo, ready to run. Raises ConfigurationError when the page's client was not built."""
    if not CLIENT.exists():
        raise ConfigurationError(f"{CLIENT.name} is missing: build it with `python3 dev.py web`")
    demo = Demo(port)
    return Server(demo.hub, fallback=demo.pages, on_ready=on_ready)
