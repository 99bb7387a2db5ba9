"""An application, as somebody would write one, for the tests of `hubbub.testing`: its hub is a global of this module.

Answers for: a class that decides, publishes and remembers; RPCs that answer, refuse and hang; a handler that waits for
the world outside. Refuses to know: that it is tested.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from hubbub import Connection, Ephemeral, Hubbub, PermissionDenied, Publication, ReplyError

SECRET = "a secret of thirty-two characters or more"


@dataclass
class Note:
    text: str


hub = Hubbub(
    auth={"hmac_secret": SECRET, "personal_channel": "inbox:{user}"},
    channels={
        "news": {"delivery": "recent", "subscribe": "anyone", "publish": "subscriber"},
        "score": {"delivery": "latest", "subscribe": "anyone", "publish": "anyone"},
        "inbox": {"delivery": "recent"},
        "blob": {"data": "binary", "delivery": "recent", "subscribe": "anyone", "publish": "anyone"},
        "words": {"data": "text", "subscribe": "anyone", "publish": "anyone"},
        "secret": {"subscribe": "nobody"},
        "audit": {},
    },
)


@hub.channel("room:{name}", delivery="recent", presence=True, join_leave="asked")
class Room:
    def __init__(self) -> None:
        self.visits = 0

    async def subscribe(self, connection: Connection, name: str) -> None:
        if name == "closed":
            raise PermissionDenied(f"{connection.user} may not enter")
        self.visits += 1
        if name == "counted":
            await hub.publish("audit", {"visits": self.visits})

    async def publish(self, connection: Connection, name: str, data: Note) -> Note | Ephemeral[Note] | None:
        if data.text == "typing":
            return Ephemeral(data)
        return Note(data.text.upper()) if name == "loud" else None

    async def join(self, connection: Connection, name: str) -> None:
        if name == "greeted":
            await hub.publish("room:greeted", {"text": f"{connection.user} is here"})


@hub.rpc("rooms.rename")
async def rename(connection: Connection, request: dict[str, str]) -> dict[str, str]:
    return {"by": connection.user, "name": request["name"]}


@hub.rpc("rooms.nothing")
async def nothing(connection: Connection) -> None:
    pass


@hub.rpc("rooms.refuse")
async def refuse(connection: Connection) -> None:
    raise ReplyError("the room is full", code=1200)


@hub.rpc("hang")
async def hang(connection: Connection) -> None:
    await asyncio.Event().wait()


@hub.on("room:*")
async def write_down(publication: Publication[Any]) -> None:
    await asyncio.to_thread(lambda: None)  # like a query: it waits for something outside the loop
    await hub.publish("audit", {"of": publication.channel, "text": publication.data["text"]})
