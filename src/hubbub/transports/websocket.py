"""The fast door: WebSocket by picows, under uvicorn's HTTP on the same port.

Answers for: taking over the sockets of upgrade requests for our path, RFC 6455 where picows leaves it to us (reserved
bits, fragments, UTF-8, close codes), and writing ready-made frames straight to the event loop's transport. Refuses to
know: commands, channels, and every other path: those upgrades go to uvicorn's own WebSocket class.

uvicorn hands an upgrade over by calling `connection_made` and `data_received` of its `ws=` class with the request's
head. Ours replays the few lines that the handshake needs into picows' protocol object and then makes that the
transport's protocol, so that the socket never passes through ASGI again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

from picows import (
    WSAutoPingStrategy,
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
)
from picows.common import WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # the stubs leave it out
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

from hubbub.protocol.codec import Codec
from hubbub.protocol.frames import BINARY, TEXT, frame
from hubbub.transports.endpoint import Endpoint
from hubbub.transports.handshake import Codecs, Gate

log = logging.getLogger(__name__)

#: Seconds that a peer gets to answer our close frame (RFC 6455, 7.1.1), and to take what is queued before it.
CLOSE_TIMEOUT = 5.0

#: Bytes of a connection's first read buffer; it grows with what the client sends. picows takes 2048 as its least.
READ_BUFFER = 2048

#: Fragments of one message. More are an attack: each costs a call, whatever its size.
MAX_FRAGMENTS = 4096

#: WSFrame.msg_type makes an enum at each look; these are compared by identity.
_TEXT, _BINARY, _CONTINUATION = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION


class Frames:
    """The framing of this door: whole frames, ready for the socket."""

    def frame(self, payload: bytes, *, binary: bool) -> bytes:
        """One message in one frame."""
        return frame(payload, BINARY if binary else TEXT)


class _OnlyOurBugs:
    """What picows logs to. It makes a logger for each connection unless it is given something that is none; what it has to
    say of a peer, the peer learns from the close code, and we from the connection's own line. Exceptions are our bugs.
    """

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # the name is logging's
        """Nothing is."""
        return False

    def ignore(self, *args: object, **kwargs: object) -> None:
        """Say nothing."""

    def exception(self, message: str, *args: object) -> None:
        """A callback of ours raised; the peer gets 1011."""
        log.exception(message, *args)

    debug = info = warning = error = log = ignore


_PICOWS_LOG = _OnlyOurBugs()


class Socket(WSListener):
    """One connection. Implements Transport for the endpoint and listens to picows."""

    __slots__ = (
        "_door",
        "_endpoint",
        "_fragments",
        "_fragments_size",
        "_is_closing",
        "_message_type",
        "_raw",
        "_tcp",
        "_write",
        "_written",
        "codec",
    )

    def __init__(self, door: WebSocketDoor, codec: Codec) -> None:
        self._door = door
        self.codec = codec
        self._endpoint: Endpoint | None = None
        self._fragments: list[bytes] | None = None
        self._fragments_size = 0
        self._message_type = _TEXT
        self._is_closing = False
        self._written = 0

    # Transport ------------------------------------------------------------------------------------------------------

    @property
    def framing(self) -> Frames:
        """Ready-made frames."""
        return self._door.framing

    def write(self, buffers: list[bytes]) -> None:
        """Hand them to the event loop, which tries the socket once at the end of its turn."""
        if self._is_closing:
            return
        data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        self._written += len(data)
        self._write(data)

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and end when the peer has answered or had its time."""
        if self._is_closing:
            return
        self._is_closing = True
        self._raw.send_close(cast("WSCloseCode", code), reason.encode()[:123])
        self.resume_reading()  # or the answer would never be seen
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._tcp.abort)

    def pause_reading(self) -> None:
        """Leave what comes in the kernel."""
        if self._tcp.is_reading():
            self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._tcp.is_reading() and not self._tcp.is_closing():
            self._tcp.resume_reading()

    @property
    def unsent(self) -> int:
        """Bytes in the event loop's buffer."""
        size: int = self._tcp.get_write_buffer_size()
        return size

    @property
    def taken(self) -> int:
        """Bytes that the kernel has taken."""
        return self._written - self.unsent

    # picows ---------------------------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done."""
        try:
            self._begin(transport)
        except Exception:
            log.exception("a connection could not be opened")  # picows would keep it to itself
            raise

    def _begin(self, transport: WSTransport) -> None:
        self._raw = transport
        self._tcp = transport.underlying_transport
        self._write = self._tcp.write
        self._tcp.set_write_buffer_limits(high=self._door.write_budget, low=self._door.write_budget // 4)
        # Nobody asks for them again, and with a browser's headers they would be a tenth of what a connection costs.
        transport.request.headers.clear()
        transport.response.headers.clear()
        self._endpoint = self._door.open(self, self.codec)
        self._door.sockets[self] = None

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """One frame, of any kind and in any order."""
        if self._is_closing:
            if frame.msg_type is WSMsgType.CLOSE:
                transport.disconnect()
            return
        kind = frame.msg_type
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail(WSCloseCode.PROTOCOL_ERROR, "reserved bits without an extension")
        elif kind is _TEXT or kind is _BINARY:
            if self._fragments is not None:
                self._fail(WSCloseCode.PROTOCOL_ERROR, "a new message inside a fragmented one")
            elif frame.fin:
                self._message(kind, frame.get_payload_as_bytes())
            else:
                self._message_type = kind
                self._fragments = [frame.get_payload_as_bytes()]
                self._fragments_size = frame.payload_size
        elif kind is _CONTINUATION:
            self._continue(frame)
        elif kind is WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind is WSMsgType.CLOSE:
            self._peer_closes(frame)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The socket is gone."""
        self._is_closing = True
        self._door.sockets.pop(self, None)
        if self._endpoint is not None:
            self._endpoint.closed()
            self._endpoint = None

    def pause_writing(self) -> None:
        """The event loop's buffer is over the budget."""
        if self._endpoint is not None:
            self._endpoint.paused()

    def resume_writing(self) -> None:
        """It is below a quarter of it."""
        if self._endpoint is not None:
            self._endpoint.resumed()

    # RFC 6455 where picows leaves it to us --------------------------------------------------------------------------

    def _message(self, kind: WSMsgType, payload: bytes) -> None:
        if kind is _TEXT:
            try:
                payload.decode()
            except UnicodeDecodeError:
                self._fail(WSCloseCode.INVALID_TEXT, "text that is not UTF-8")
                return
        if self._endpoint is not None:
            self._endpoint.receive(payload)

    def _continue(self, frame: WSFrame) -> None:
        fragments = self._fragments
        if fragments is None:
            self._fail(WSCloseCode.PROTOCOL_ERROR, "a continuation of nothing")
            return
        self._fragments_size += frame.payload_size
        if self._fragments_size > self._door.max_message or len(fragments) >= MAX_FRAGMENTS:
            self._fail(WSCloseCode.MESSAGE_TOO_BIG, "message too big")
            return
        fragments.append(frame.get_payload_as_bytes())
        if frame.fin:
            self._fragments = None
            self._message(self._message_type, b"".join(fragments))

    def _peer_closes(self, frame: WSFrame) -> None:
        code = _number(frame.get_close_code())
        if code >= 5000:
            self._fail(WSCloseCode.PROTOCOL_ERROR, "close code out of range")
            return
        self._is_closing = True
        self._raw.send_close(cast("WSCloseCode", code or 1000))
        self._raw.disconnect()

    def _fail(self, code: WSCloseCode, reason: str) -> None:
        """Fail the WebSocket connection (7.1.7)."""
        if self._endpoint is not None:
            self._endpoint.closed()
        self.close(_number(code), reason)


class WebSocketDoor:
    """Opens connections for upgrade requests on `path`. Give `upgrade` to uvicorn as its `ws=` class.

    `max_message` bounds one incoming message, `write_budget` the unsent bytes of a connection before it falls behind.
    """

    def __init__(
        self,
        open: Callable[[Socket, Codec], Endpoint],
        *,
        path: str,
        gate: Gate,
        max_message: int,
        write_budget: int,
    ) -> None:
        self.open = open
        self.path = path
        self.gate = gate
        self.max_message = max_message
        self.write_budget = write_budget
        self.framing = Frames()
        self.codecs = Codecs()
        self.sockets: dict[Socket, None] = {}

    def upgrade(self, config: Any, server_state: Any, app_state: dict[str, Any]) -> asyncio.Protocol:
        """What uvicorn calls for each upgrade request."""
        return _Upgrade(self, lambda: _fallback(config, server_state, app_state))

    def protocol(self, listener_factory: Callable[[WSUpgradeRequest], object]) -> WSProtocol:
        """Picows' protocol object for one socket."""
        return WSProtocol(
            None,
            None,
            False,
            listener_factory,
            _PICOWS_LOG,
            True,  # disconnect on an exception of ours: with 1011, and a traceback in no client's face
            None,  # the handshake is whole already
            False,  # pings are the session's affair
            None,
            None,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,
            self.max_message,
            None,
            READ_BUFFER,
        )


def _fallback(config: Any, server_state: Any, app_state: dict[str, Any]) -> asyncio.Protocol | None:
    """Uvicorn's own WebSocket class, for applications beside us; None where its libraries are not installed."""
    if AutoWebSocketsProtocol is None:
        return None
    return AutoWebSocketsProtocol(config=config, server_state=server_state, app_state=app_state)


class _Upgrade(asyncio.Protocol):
    """Stands in while an upgrade is handed over, for one turn of the loop."""

    def __init__(self, door: WebSocketDoor, fallback: Callable[[], asyncio.Protocol | None]) -> None:
        self._door = door
        self._fallback = fallback
        self._transport: asyncio.Transport
        self._next: asyncio.Protocol | None = None
        self._picows: WSProtocol | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvicorn's sockets are full transports

    def data_received(self, data: bytes) -> None:
        if self._picows is not None:  # what came before the protocol was exchanged
            _feed(self._picows, data)
        elif self._next is not None:
            self._next.data_received(data)
        else:
            self._hand_over(data)

    def connection_lost(self, exc: Exception | None) -> None:
        for protocol in (self._picows, self._next):
            if protocol is not None:
                protocol.connection_lost(exc)

    def _hand_over(self, head: bytes) -> None:
        request_line, headers = _parse_head(head)
        url = urlsplit(request_line.split(" ")[1])
        if url.path != self._door.path:
            self._next = self._fallback()
            if self._next is None:
                self._refuse(HTTPStatus.NOT_FOUND, "no WebSocket here")
                return
            self._next.connection_made(self._transport)
            self._next.data_received(head)
            asyncio.get_running_loop().call_soon(self._transport.set_protocol, self._next)
            return
        problem = _problem(request_line, headers)
        if problem:
            self._refuse(HTTPStatus.BAD_REQUEST, problem)
        elif not self._door.gate.admits(headers, _peer(self._transport)):
            self._refuse(HTTPStatus.FORBIDDEN, "origin not allowed")
        else:
            self._accept(url.query, headers)

    def _accept(self, query: str, headers: dict[str, str]) -> None:
        subprotocols = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
        codec, subprotocol = self._door.codecs.negotiate(subprotocols, query)
        extra = {"Sec-WebSocket-Protocol": subprotocol} if subprotocol else {}

        def accept(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
            return WSUpgradeResponseWithListener(
                WSUpgradeResponse.create_101_response(extra), Socket(self._door, codec)
            )

        protocol = self._picows = self._door.protocol(accept)
        protocol.connection_made(_no_delay_if_tcp(self._transport))
        _feed(protocol, _REPLAY % headers["sec-websocket-key"].encode())
        asyncio.get_running_loop().call_soon(self._transport.set_protocol, protocol)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        body = why.encode() + b"\n"
        self._transport.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n%b" % (status, status.phrase.encode(), len(body), body)
        )
        self._transport.close()


#: All of a request that the handshake needs.
_REPLAY = (
    b"GET / HTTP/1.1\r\nHost: -\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """The head as uvicorn wrote it: well formed, names in lower case."""
    request_line, *lines = head.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in filter(None, lines):
        name, _, value = line.partition(": ")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return request_line, headers


def _problem(request_line: str, headers: dict[str, str]) -> str:
    """What RFC 6455, 4.2.1 misses in this request; empty if nothing."""
    if not request_line.startswith("GET "):
        return "a WebSocket is opened by GET"
    if headers.get("sec-websocket-version") != "13":
        return "only version 13 of the WebSocket protocol is spoken here"
    try:
        if len(base64.b64decode(headers.get("sec-websocket-key", ""), validate=True)) == 16:
            return ""
    except binascii.Error:
        pass
    return "Sec-WebSocket-Key is not 16 bytes in base64"


def _number(code: WSCloseCode) -> int:
    """A close code as the integer that it is: the stubs call it a plain enum, and application codes are none."""
    return int(cast("int", code))


def _peer(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    return name[0] if isinstance(name, tuple) else ""


def _feed(protocol: WSProtocol, data: bytes) -> None:
    """Bytes into a protocol that reads from its own buffer."""
    while data:
        room = protocol.get_buffer(-1)
        size = min(len(room), len(data))
        room[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]


class _NoTcpOptions:
    """A Unix socket as picows wants to see it: it sets TCP options, which a Unix socket refuses."""

    def __init__(self, sock: Any) -> None:
        self.fileno = sock.fileno

    def setsockopt(self, *args: object) -> None:
        """There is nothing to set."""

    def getsockopt(self, *args: object) -> int:
        """There is nothing to tell."""
        return 0


class _UnixTransport:
    """A transport over a Unix socket whose `socket` can be asked for TCP options."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the transport's, but for the socket."""
        value = self._transport.get_extra_info(name, default)
        return _NoTcpOptions(value) if name == "socket" else value


def _no_delay_if_tcp(transport: asyncio.Transport) -> Any:
    return transport if isinstance(transport.get_extra_info("peername"), tuple) else _UnixTransport(transport)
