"""FastAPI and hubbub on one port, the hub as a dependency.

    pip install hubbub fastapi "uvicorn[standard]"
    uvicorn examples.fastapi_app:app

Browsers connect to ws://localhost:8000/connection/websocket and subscribe to `news:…`; then

    curl localhost:8000/news/world -H "Content-Type: application/json" -d '{"title": "It rains"}'
"""

from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel

from hubbub import Hubbub, Publication

hub = Hubbub(auth={"anonymous": True}, channels={"news": {"delivery": "recent", "subscribe": "anyone"}})
app = FastAPI(lifespan=hub.lifespan)


def get_hub() -> Hubbub:
    """What tests replace: `app.dependency_overrides[get_hub]`."""
    return hub


Hub = Annotated[Hubbub, Depends(get_hub)]


class Headline(BaseModel):
    """Checked by FastAPI when it is posted, and by hubbub when it is published."""

    title: str


class Place(BaseModel):
    """Where a headline stands in its channel."""

    offset: int


@app.post("/news/{desk}")
async def tell(desk: str, headline: Headline, hub: Hub) -> Place:
    """Publish for everybody who listens."""
    published = await hub.publish(f"news:{desk}", headline)
    return Place(offset=published.position.offset if published.position is not None else 0)


@app.get("/news/{desk}")
async def latest(desk: str, hub: Hub) -> list[Headline]:
    """The newest ten."""
    kept = await hub.history(f"news:{desk}", type=Headline, limit=10, reverse=True)
    return [publication.data for publication in kept.publications]


@hub.on("news:*")
async def log(publication: Publication[Headline]) -> None:
    """Back-end code hears it, too."""
    print(f"{publication.channel}: {publication.data.title}", flush=True)


app.mount("/", hub.asgi())  # last: it answers whatever no route before it does
