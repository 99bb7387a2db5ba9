"""Taking sockets over from uvicorn: from an upgrade request to the protocol that speaks WebSocket.

Answers for: what uvicorn's HTTP leaves of an upgrade request, what RFC 6455, 4.2.1 asks of it, and refusing it in
HTTP. Refuses to know: frames, codecs and origins (`Taker`), and every path but one: the others go to uvicorn's own
WebSocket class.

uvicorn hands an upgrade over by calling `connection_made` and `data_received` of its `ws=` class with the request's
head, and then `transport.set_protocol` with that object. So the protocol that shall have the socket for good can be
set one turn of the loop later, not before; what arrives in between passes through `Upgrade`.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

from hubbub.transports.handshake import headers_of


class Refused(Exception):
    """No WebSocket for this request, and why."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        self.status = status
        self.why = why
        super().__init__(why)


class Taker(Protocol):
    """Who takes sockets over."""

    @property
    def path(self) -> str:
        """Of the requests that it wants."""
        ...

    def take(self, transport: asyncio.Transport, query: str, headers: Mapping[str, str]) -> asyncio.BufferedProtocol:
        """Answer 101 and return what the socket is for from now on. `headers` by lower-case name. Raises Refused."""
        ...


#: Bytes of a request's head; nginx, as it comes, takes 32 KB.
MAX_HEAD = 65536

#: Seconds that a connection gets to send a whole head.
HEAD_TIMEOUT = 10.0


class Http(HttpToolsProtocol):
    """uvicorn's HTTP with limits to a request's head, of which uvicorn has none. Give it to uvicorn as `http=`.

    It also forgets what came in one segment with an upgrade request: a client that did not wait for its answer would
    be out of step for ever.
    """

    head_timeout = HEAD_TIMEOUT

    _segment = b""
    _head_size = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """The time for a head runs."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """There is nothing to wait for."""
        self._has_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Keep the segment until it is parsed, and refuse a head without end."""
        self._segment = data
        if self._deadline is not None:
            self._head_size += len(data)
        super().data_received(data)
        if self._deadline is not None and self._head_size > MAX_HEAD:
            self._give_up(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self._segment = b""

    def on_message_begin(self) -> None:
        """Another request on this connection, whose answer may cut it: see `http.tail`."""
        super().on_message_begin()
        self.scope["extensions"] = {"hubbub.abort": {"abort": self.transport.abort}}
        self._await_head()

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._has_head()
        super().on_headers_complete()

    def _await_head(self) -> None:
        if self._deadline is None:
            self._head_size = len(self._segment)
            self._deadline = self.loop.call_later(self.head_timeout, self._give_up, HTTPStatus.REQUEST_TIMEOUT)

    def _has_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self, status: HTTPStatus) -> None:
        self._has_head()
        if not self.transport.is_closing():
            self.transport.write(plain_answer(Refused(status, status.phrase.lower())))
            self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        """Called while the parser's exception is handled: it holds the place where HTTP ended."""
        stopped = sys.exception()
        earlier = cast("RequestResponseCycle | None", self.cycle)
        if earlier is not None and not earlier.response_complete:
            self.send_400_response("an earlier request on this connection is not answered yet")
            return
        super().handle_websocket_upgrade()
        rest = self._segment[stopped.args[0] :] if stopped is not None else b""
        if rest:
            cast("asyncio.Protocol", self.transport.get_protocol()).data_received(rest)
        self.parser = None  # type: ignore[assignment]  # it holds us, and we it: do not wait for the collector


class Upgrade(asyncio.Protocol):
    """Stands in while an upgrade is handed over, for one turn of the loop."""

    def __init__(self, taker: Taker, fallback: Callable[[], asyncio.Protocol | None]) -> None:
        self._taker = taker
        self._fallback = fallback
        self._transport: asyncio.Transport
        self._next: asyncio.Protocol | asyncio.BufferedProtocol | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._next is None:
            try:
                self._next = self._hand_over(data)
            except Refused as refused:
                self._is_refused = True
                self._transport.write(plain_answer(refused))
                self._transport.close()
            else:
                asyncio.get_running_loop().call_soon(self._leave, self._next)
        elif isinstance(self._next, asyncio.BufferedProtocol):
            feed(self._next, data)
        else:
            self._next.data_received(data)

    def eof_received(self) -> bool | None:
        return self._next.eof_received() if self._next is not None else False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next is not None:
            self._next.connection_lost(exc)

    def _leave(self, protocol: asyncio.Protocol | asyncio.BufferedProtocol) -> None:
        """The socket is not ours any more, unless it has gone in the meantime or somebody else has it already."""
        if not self._transport.is_closing() and self._transport.get_protocol() is self:
            self._transport.set_protocol(protocol)

    def _hand_over(self, head: bytes) -> asyncio.Protocol | asyncio.BufferedProtocol:
        request_line, headers = _parse_head(head)
        path, _, query = request_line.split(" ")[1].partition("?")
        if path != self._taker.path:
            other = self._fallback()
            if other is None:
                raise Refused(HTTPStatus.NOT_FOUND, "no WebSocket here")
            other.connection_made(self._transport)
            other.data_received(head)
            return other
        problem = _problem(request_line, headers)
        if problem:
            raise Refused(HTTPStatus.BAD_REQUEST, problem)
        return self._taker.take(self._transport, query, headers)


def plain_answer(refused: Refused) -> bytes:
    """A refusal in HTTP, after which the connection is closed."""
    body = refused.why.encode() + b"\n"
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n%b" % (refused.status, refused.status.phrase.encode(), len(body), body)
    )


def uvicorns_own(config: Any, server_state: Any, app_state: dict[str, Any]) -> asyncio.Protocol | None:
    """Uvicorn's own WebSocket class, for applications beside us; None where its libraries are not installed."""
    if AutoWebSocketsProtocol is None:
        return None
    return AutoWebSocketsProtocol(config=config, server_state=server_state, app_state=app_state)


def feed(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    """Bytes into a protocol that reads from its own buffer."""
    while data:
        room = cast("memoryview", protocol.get_buffer(-1))
        size = min(len(room), len(data))
        room[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """The head as uvicorn wrote it: well formed, one line for each header."""
    request_line, *lines = head.decode("latin-1").split("\r\n")
    parts = (line.partition(": ") for line in lines if line)
    return request_line, headers_of((name, value) for name, _, value in parts)


def _problem(request_line: str, headers: Mapping[str, str]) -> str:
    """What RFC 6455, 4.2.1 misses in this request; empty if nothing."""
    if not request_line.startswith("GET "):
        return "a WebSocket is opened by GET"
    if headers.get("sec-websocket-version") != "13":
        return "only version 13 of the WebSocket protocol is spoken here"
    try:
        if len(base64.b64decode(headers.get("sec-websocket-key", ""), validate=True)) == 16:
            return ""
    except ValueError:  # binascii.Error is one; a key that is not ASCII raises a plain one
        pass
    return "Sec-WebSocket-Key is not 16 bytes in base64"
