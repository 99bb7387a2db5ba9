"""Starlette and hubbub on one port, with routes beside the clients' endpoint.

    pip install hubbub "uvicorn[standard]"
    uvicorn examples.starlette_app:app

Open http://localhost:8000/ twice and watch the count; browsers subscribe to `visits:…` at /rt/connection/websocket.
"""

import dataclasses

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from hubbub import Hubbub

hub = Hubbub(auth={"anonymous": True}, channels={"visits": {"delivery": "latest", "subscribe": "anyone"}})


@dataclasses.dataclass
class Visits:
    """What is published in `visits:…`."""

    page: str
    count: int


async def visit(request: Request) -> Response:
    """Count a visit, and tell who listens."""
    page = request.path_params["page"] or "home"
    kept = await hub.history(f"visits:{page}", type=Visits)
    visits = Visits(page, 1 + sum(publication.data.count for publication in kept.publications))
    await hub.publish(f"visits:{page}", visits)
    return PlainTextResponse(f"{visits.page}: {visits.count}\n")


async def listeners(request: Request) -> Response:
    """How many listen, by channel."""
    return JSONResponse(await hub.channels("visits:*"))


app = Starlette(
    routes=[
        Route("/listeners", listeners),
        Mount("/rt", hub.asgi()),
        Route("/{page:path}", visit),
    ],
    lifespan=hub.lifespan,
)
