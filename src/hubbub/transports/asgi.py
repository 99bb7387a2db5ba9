"""The reference door: the client protocol over any ASGI server's WebSocket.

Answers for: one connection's messages to and from `receive` and `send`, with a bounded queue of bytes between
fan-out, which never waits, and `send`, which does. Refuses to know: RFC 6455 (the server's affair), commands and
channels.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from hubbub.protocol.codec import Codec
from hubbub.transports.endpoint import INTERNAL_ERROR, Endpoint, Refusal, goodbye, nobody_is_refused, opened
from hubbub.transports.handshake import Codecs, Gate, headers_of

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: Seconds that a peer gets to take what is queued before our goodbye, and the goodbye.
CLOSE_TIMEOUT = 5.0

#: RFC 6455, 7.4.1: a message too big to process. SDKs do not come back after it.
MESSAGE_TOO_BIG = 1009


class TextOrBytes:
    """The framing of ASGI: the server makes the frames, and wants text for text."""

    def framer(self, *, binary: bool) -> Callable[[bytes], str | bytes]:
        """One message."""
        return bytes if binary else bytes.decode

    def join(self, framed: list[str | bytes]) -> tuple[str | bytes, ...]:
        """Messages that go out one by one."""
        return tuple(framed)


class AsgiTransport:
    """One connection's way out. Implements Transport."""

    def __init__(
        self,
        framing: TextOrBytes,
        *,
        write_budget: int,
        close_timeout: float,
        head: tuple[Mapping[str, str], str] = ({}, ""),
    ) -> None:
        self.framing = framing
        self.head = head
        self.endpoint: Endpoint | None = None
        self.is_binary = False
        self.unsent = 0
        self.taken = 0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._budget = write_budget
        self._queue: deque[str | bytes] = deque()
        self._goodbye: tuple[int, str] | None = None
        self._has_work = asyncio.Event()
        self._is_paused = False
        self._close_timeout = close_timeout
        self._writing: asyncio.Timeout | None = None

    def write(self, buffers: list[Any]) -> None:
        """Queue them for the writer."""
        if self._goodbye is not None:
            return
        for buffer in buffers:
            messages = buffer if isinstance(buffer, tuple) else (buffer,)
            self._queue.extend(messages)
            self.unsent += sum(map(_size, messages))
        self._has_work.set()
        if self.unsent > self._budget and not self._is_paused and self.endpoint is not None:
            self._is_paused = True
            self.endpoint.paused()

    def close(self, code: int, reason: str) -> None:
        """Close after what is queued."""
        if self._goodbye is None:
            self._goodbye = goodbye(code, reason)
            self._has_work.set()
            if self._writing is not None:
                self._writing.reschedule(asyncio.get_running_loop().time() + self._close_timeout)

    def pause_reading(self) -> None:
        """The reader waits."""
        self.may_read.clear()

    def resume_reading(self) -> None:
        """The reader goes on."""
        self.may_read.set()

    async def write_all(self, send: Send) -> None:
        """Send what is queued as it comes, until the goodbye. Raises TimeoutError if the peer does not take that."""
        async with asyncio.timeout(None) as self._writing:
            await self._write_all(send)

    async def _write_all(self, send: Send) -> None:
        if self._goodbye is not None and self._writing is not None:  # it came before we began
            self._writing.reschedule(asyncio.get_running_loop().time() + self._close_timeout)
        while True:
            while self._queue:
                buffer = self._queue.popleft()
                await send({"type": "websocket.send", "text" if isinstance(buffer, str) else "bytes": buffer})
                self._took(_size(buffer))
            if self._goodbye is not None:
                code, reason = self._goodbye
                await send({"type": "websocket.close", "code": code, "reason": reason})
                return
            self._has_work.clear()
            await self._has_work.wait()

    def _took(self, size: int) -> None:
        self.unsent -= size
        self.taken += size
        if self._is_paused and self.unsent < self._budget // 4 and self.endpoint is not None:
            self._is_paused = False
            self.endpoint.resumed()


class AsgiDoor:
    """Opens connections for the WebSocket requests of one ASGI application. `refusal` as at the fast door."""

    def __init__(
        self,
        open: Callable[[AsgiTransport, Codec], Endpoint],
        *,
        gate: Gate,
        refusal: Refusal = nobody_is_refused,
        max_message: int,
        write_budget: int,
        close_timeout: float = CLOSE_TIMEOUT,
    ) -> None:
        self._open = open
        self._gate = gate
        self._refusal = refusal
        self._max_message = max_message
        self._write_budget = write_budget
        self._close_timeout = close_timeout
        self._codecs = Codecs()
        self._framing = TextOrBytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One WebSocket, from its request to its end."""
        await receive()  # websocket.connect
        headers = headers_of((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        peer = (scope.get("client") or ("", 0))[0]
        if not self._gate.admits(headers, peer):
            await send({"type": "websocket.close", "code": 1008, "reason": "origin not allowed"})  # HTTP 403
            return
        refusal = self._refusal()
        if refusal:
            await _refuse(scope, send, refusal)
            return
        query = scope["query_string"].decode("latin-1")
        codec, subprotocol = self._codecs.negotiate(scope.get("subprotocols", ()), query)
        transport = AsgiTransport(
            self._framing, write_budget=self._write_budget, close_timeout=self._close_timeout, head=(headers, query)
        )
        # Before the handshake is answered, which waits: others would be let in meanwhile, past the limit.
        endpoint = transport.endpoint = opened(lambda: self._open(transport, codec))
        try:
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
        except BaseException:
            if endpoint is not None:
                endpoint.closed()
            raise
        if endpoint is None:
            code, reason = INTERNAL_ERROR
            await send({"type": "websocket.close", "code": code, "reason": reason})
            return
        await self._run(transport, endpoint, receive, send)

    async def _run(self, transport: AsgiTransport, endpoint: Endpoint, receive: Receive, send: Send) -> None:
        reader = asyncio.ensure_future(self._read_all(transport, endpoint, receive))
        writer = asyncio.ensure_future(transport.write_all(send))
        try:
            # Whoever ends first ends it: the reader when the peer is gone, the writer after the goodbye.
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            endpoint.closed()
            for task in (reader, writer):
                task.cancel()
            # A peer that vanished makes `send` fail in ways that each server has its own exception for.
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read_all(self, transport: AsgiTransport, endpoint: Endpoint, receive: Receive) -> None:
        while True:
            await transport.may_read.wait()
            event = await receive()
            if event["type"] != "websocket.receive":
                return
            text = event.get("text")
            transport.is_binary = text is None
            message = text.encode() if text is not None else event["bytes"]
            if len(message) > self._max_message:
                transport.close(MESSAGE_TOO_BIG, "message too big")
                break
            try:
                endpoint.receive(message)
            except Exception:
                log.exception("a message could not be handled")
                transport.close(*INTERNAL_ERROR)
                break
        endpoint.closed()
        await asyncio.Event().wait()  # the writer says goodbye and ends us


async def _refuse(scope: Scope, send: Send, why: str) -> None:
    """503; 403 where the server below cannot answer a handshake with anything else. SDKs try again after both."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    body = why.encode() + b"\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


def _size(buffer: str | bytes) -> int:
    """Bytes on the wire: what the budget is in. Text counts as what it will be there; most of ours is ASCII."""
    return len(buffer) if isinstance(buffer, bytes) or buffer.isascii() else len(buffer.encode())
