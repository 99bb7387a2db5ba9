"""The ASGI application: routes of the HTTP API, the WebSocket door, and whatever is mounted beside them.

Answers for: routing, and for starting and stopping with the server (lifespan). Refuses to know: what is behind the
routes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.routing import BaseRoute, Router, WebSocketRoute
from starlette.types import ASGIApp

__all__ = ["ASGIApp", "Lifespan", "application"]

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


def application(
    routes: Sequence[BaseRoute], door: ASGIApp, *, path: str, lifespan: Lifespan, fallback: ASGIApp | None = None
) -> ASGIApp:
    """One application. What no route knows goes to `fallback`, else it is 404."""
    websocket = WebSocketRoute(path, door, name="websocket")
    return Router([*routes, websocket], default=fallback, lifespan=lifespan, redirect_slashes=False)
