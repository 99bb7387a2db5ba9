"""A client of a running hub without a socket: what it says and hears, in JSON, on the real event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from tests.fakes import FakeTransport

from hubbub import Hubbub
from hubbub.protocol.codec import JsonCodec


class Talk:
    """One connection. `pushes` holds what came unasked and was not taken yet."""

    def __init__(self, hub: Hubbub, *, headers: Mapping[str, str] | None = None, query: str = "") -> None:
        self.transport = FakeTransport(deliver=self._hear)
        self.transport.head = (headers or {}, query)
        self.connection = hub.connect(self.transport, JsonCodec())
        self.transport.endpoint = self.connection
        self.pushes: list[dict[str, Any]] = []
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._news = asyncio.Event()
        self._id = 0

    async def ask(self, kind: str, **body: Any) -> dict[str, Any]:
        """Send a command; the reply's content, or its error as {"error": ...}."""
        self._id += 1
        answer = self._replies[self._id] = asyncio.get_running_loop().create_future()
        self.connection.receive(json.dumps({"id": self._id, kind: body}).encode())
        async with asyncio.timeout(5):
            reply = await answer
        if "error" in reply:
            return {"error": reply["error"]}
        result: dict[str, Any] = reply[kind]
        return result

    async def push(self) -> dict[str, Any]:
        """The next thing that comes unasked."""
        async with asyncio.timeout(5):
            while not self.pushes:
                self._news.clear()
                await self._news.wait()
        return self.pushes.pop(0)

    async def goodbye(self) -> tuple[int, str]:
        """How it is sent away."""
        async with asyncio.timeout(5):
            while self.transport.goodbye is None:  # noqa: ASYNC110 - turns of the loop, and nobody tells
                await asyncio.sleep(0)
        return self.transport.goodbye

    def _hear(self, message: bytes) -> None:
        for line in message.splitlines():
            said = json.loads(line)
            if "id" in said:
                self._replies.pop(said["id"]).set_result(said)
            elif "push" in said:
                self.pushes.append(said["push"])
                self._news.set()


async def connected(hub: Hubbub, **connect: Any) -> Talk:
    """A client that is in."""
    talk = Talk(hub)
    reply = await talk.ask("connect", **connect)
    assert "error" not in reply, reply
    return talk
