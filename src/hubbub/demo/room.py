"""`hubbub demo`: a page with rooms, served beside the client endpoint on one port.

Answers for: the page, a token for whoever opens it, what may be said where, and voices that talk while somebody has cut
their own connection, so that there is something to miss. Refuses to know: how messages get anywhere; it uses hubbub as
any application would.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from hubbub.app import ChannelOptions, Hubbub
from hubbub.auth import connection_token
from hubbub.errors import BadRequest, ConfigurationError, PermissionDenied
from hubbub.handlers.caller import Connection
from hubbub.handlers.rooms import Ephemeral
from hubbub.server import Server
from hubbub.settings import load

STATIC = Path(__file__).parent / "static"

#: The official client, copied there when the package is built.
CLIENT = STATIC / "centrifuge.js"

ROOMS = ("lobby", "kitchen", "music", "workshop")

#: Whoever does not say a name gets the next of these.
NAMES = ("Wren", "Otter", "Lark", "Badger", "Heron", "Vole", "Finch", "Marten", "Swift", "Hare")

#: Whose the keys are in a Redis that other applications may use as well.
NAME = "hubbub-demo"

#: Characters of a name, and of a message.
NAME_LENGTH = 24
TEXT_LENGTH = 4000

#: What the teller says while somebody is away, and seconds before each line.
LINES = (
    "Somebody here has just been cut off. They cannot see this.",
    "The room goes on without them, and it remembers.",
    "Every message has a number. They know theirs, the room knows its own.",
    "When they are back, they say where they stopped …",
    "… and get what they missed: all of it, once, in order.",
)
LINE_PACE = 0.8

#: How much a crowd says, and seconds before each of it.
CROWD = tuple(f"{number} of 100" for number in range(1, 101))
CROWD_PACE = 0.05


class Said(msgspec.Struct):
    """What a page publishes: a text, or else whether somebody is typing. By `key` a page knows its own again."""

    text: str = ""
    key: str = ""
    typing: bool = False


class Room:
    """`demo:{room}`: what is said is kept, so that whoever returns gets what they missed."""

    async def subscribe(self, connection: Connection, room: str) -> None:
        """There are no other rooms."""
        _require(room)

    async def publish(self, connection: Connection, room: str, data: Said) -> object:
        """A message gets its time. That somebody is typing is worth knowing now, and worth nothing later."""
        if not data.text:
            return Ephemeral({"typing": data.typing})
        if len(data.text) > TEXT_LENGTH:
            raise BadRequest(f"{len(data.text)} characters are over the limit of {TEXT_LENGTH}")
        return {"text": data.text, "key": data.key[:NAME_LENGTH], "at": _now()}


class Here:
    """`here:{room}`: who looks at a room. Nothing is said in it."""

    async def subscribe(self, connection: Connection, room: str) -> None:
        """There are no other rooms."""
        _require(room)


class Call(msgspec.Struct):
    """In which room the server shall talk."""

    room: str


class Demo:
    """The rooms, their page and their voices."""

    def __init__(self, port: int, *, broker: str = "", store: str = "") -> None:
        # With a store the pages come back after the server has ended, and their tokens have to be good then, too. Here
        # everybody gets in under any name, so there is nothing to be kept from anybody.
        self._secret = hashlib.sha256(f"hubbub demo {store}".encode()).hexdigest() if store else secrets.token_hex(32)
        self._names = itertools.cycle(NAMES[port % len(NAMES) :] + NAMES[: port % len(NAMES)])  # others on another port
        self._talking: set[tuple[str, str]] = set()
        # Ready settings: what a hubbub.toml in somebody's folder says is not meant for the demo.
        own: dict[str, object] = {"server.port": port, "auth.hmac_secret": self._secret}
        if broker:
            own |= {"broker.url": broker, "broker.name": NAME}
        if store:
            own["store.url"] = store
        self.hub = Hubbub(settings=load(None, None, own))
        #: What people know this server by, where there may be more than one.
        self.server = ""
        kept: ChannelOptions = {"delivery": "recent", "history_size": 1000, "history_ttl": "1h", "max_bytes": 16_384}
        if store:
            kept = {"delivery": "durable", "max_bytes": 16_384}
        self.hub.channel("demo:{room}", **kept)(Room)
        self.hub.channel("here:{room}", presence=True, join_leave="always")(Here)
        self.hub.rpc("tell")(self._tell)
        self.hub.rpc("crowd")(self._crowd)
        self.pages = Starlette(
            routes=[
                Route("/", self._page),
                Route("/token", self._token),
                Mount("/static", StaticFiles(directory=STATIC)),
            ]
        )

    async def _page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def _token(self, request: Request) -> Response:
        """A token for whoever asks: everybody may come in under any name. It says on which server they are, too."""
        name = request.query_params.get("name", "").strip()[:NAME_LENGTH] or next(self._names)
        user = request.query_params.get("user", "")[:NAME_LENGTH] or secrets.token_hex(4)
        token = connection_token(self._secret, user, info={"name": name, "server": self.server})
        return JSONResponse({"token": token, "name": name, "user": user, "server": self.server})

    async def _tell(self, connection: Connection, request: Call) -> None:
        """Somebody is about to cut their connection: say something that they miss."""
        self._begin(request.room, "Teller", LINES, LINE_PACE)

    async def _crowd(self, connection: Connection, request: Call) -> None:
        """Somebody wants to see many messages."""
        self._begin(request.room, "Crowd", CROWD, CROWD_PACE)

    def _begin(self, room: str, voice: str, lines: Sequence[str], pace: float) -> None:
        _require(room)
        if (voice, room) not in self._talking:
            self._talking.add((voice, room))
            self.hub.node.tasks.spawn(self._talk(room, voice, lines, pace), voice)

    async def _talk(self, room: str, voice: str, lines: Sequence[str], pace: float) -> None:
        try:
            for line in lines:
                await asyncio.sleep(pace)
                said = {"name": voice, "server": self.server, "text": line, "at": _now()}
                await self.hub.publish(f"demo:{room}", said)
        finally:
            self._talking.discard((voice, room))


def _require(room: str) -> None:
    if room not in ROOMS:
        raise PermissionDenied(f"there is no room {room!r}; there are {', '.join(ROOMS)}")


def _now() -> int:
    """Milliseconds since 1970, as JavaScript counts."""
    return round(time.time() * 1000)


def serve_demo(
    port: int, on_ready: Callable[[Server], Awaitable[None]], *, broker: str = "", store: str = ""
) -> Server:
    """The server of the demo, ready to run: one of several that share the Redis at `broker`, or the only one.

    What is said is kept in `store`, if there is one. Raises ConfigurationError when the page's client was not built, or
    for what is no URL.
    """
    if not CLIENT.exists():
        raise ConfigurationError(
            f"{CLIENT.name} is missing: in a checkout `python3 dev.py web` makes it; install from there again"
        )
    demo = Demo(port, broker=broker, store=store)

    async def ready(server: Server) -> None:
        if broker:
            demo.server = f":{server.address.rpartition(':')[2]}"
        await on_ready(server)

    return Server(demo.hub, fallback=demo.pages, on_ready=ready)
