"""A client of few words for any running server, that also hears a no: errors, and how it is sent away.

Answers for: the client protocol in JSON by hand, over a real WebSocket. Refuses to know: what is tested.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.serving import websocket_url
from websockets.asyncio.client import ClientConnection, connect


class Refused(Exception):
    """The answer was an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Talker:
    """A client. Replies and pushes come in their order; publications are told apart from other pushes by nobody."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._ids = itertools.count(1)
        self._heard: deque[dict[str, Any]] = deque()

    async def call(self, command: str, **request: object) -> Any:
        """Send a command and return its result. Raises Refused."""
        number = next(self._ids)
        await self.socket.send(json.dumps({"id": number, command: request}))
        while True:
            for reply in list(self._heard):
                if reply.get("id") == number:
                    self._heard.remove(reply)
                    if "error" in reply:
                        raise Refused(reply["error"]["code"], reply["error"]["message"])
                    return reply[command]
            await self._hear()

    async def push(self) -> Any:
        """The next push."""
        while True:
            for reply in list(self._heard):
                if "push" in reply:
                    self._heard.remove(reply)
                    return reply["push"]
            await self._hear()

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the server's goodbye."""
        await self.socket.wait_closed()
        received = self.socket.protocol.close_rcvd
        assert received is not None, "it was cut off without a goodbye"
        return received.code, received.reason

    async def _hear(self) -> None:
        for line in str(await self.socket.recv()).split("\n"):
            if line != "{}":
                self._heard.append(json.loads(line))


@asynccontextmanager
async def talker(url: str | int, *, origin: str | None = None) -> AsyncIterator[Talker]:
    """A client of a URL, or of a port of this machine, that has not yet said `connect`."""
    address = url if isinstance(url, str) else websocket_url(url)
    options: Any = {"compression": None, "origin": origin}
    async with connect(address, **options) as socket:
        yield Talker(socket)
