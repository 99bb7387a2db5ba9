"""One HTML page beside the client endpoint, for trying things: `hubbub serve --page`.

Answers for: the page at `/`, read anew at each request, so that editing it needs no restart. Refuses to know: other
files. A folder would hand out whatever else lies there; who serves more has a web server, or mounts the hub.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from hubbub.errors import ConfigurationError


def page(file: Path) -> ASGIApp:
    """An application with `file` at `/`, and 404 for all else. Raises ConfigurationError where there is no file."""
    if not file.is_file():
        raise ConfigurationError(f"--page: there is no file {str(file)!r}")

    def show(request: Request) -> Response:
        try:
            return HTMLResponse(file.read_bytes(), headers={"Cache-Control": "no-cache"})
        except OSError as error:
            return PlainTextResponse(f"{file.name}: {error.strerror}\n", 404)

    return Router([Route("/", show)])
