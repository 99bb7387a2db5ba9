"""The ASGI application: routes of the HTTP API, the WebSocket door, and whatever is mounted beside them.

Answers for: routing, and for starting and stopping with the server (lifespan). Refuses to know: what is behind the
routes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Router, WebSocketRoute
from starlette.types import ASGIApp as ASGIApp
from starlette.types import Receive, Scope, Send

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


def application(
    routes: Sequence[BaseRoute], door: ASGIApp, *, path: str, lifespan: Lifespan, fallback: ASGIApp | None = None
) -> ASGIApp:
    """One application. What no route knows goes to `fallback`, else it is 404."""
    websocket = WebSocketRoute(path, door, name="websocket")
    return Router([*routes, websocket], default=fallback or _nothing, lifespan=lifespan, redirect_slashes=False)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """404 for everything: also for WebSockets, which Starlette answers with 403, as if a permission were missing."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    await PlainTextResponse("not found\n", 404)(scope, receive, send)
