"""What picows is given: a transport and a logger that are not quite what it takes them for, and a request.

Answers for: making picows' protocol for a socket whose upgrade request uvicorn has read, keeping picows from closing
sockets, and hearing its errors. Refuses to know: frames, and what follows from an error (`Breakable`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol, cast

from picows import WSAutoPingStrategy, WSListener, WSUpgradeRequest, WSUpgradeResponse
from picows.common import WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # the stubs leave it out

log = logging.getLogger(__name__)

#: Bytes of a connection's first read buffer; it grows with what the client sends. picows takes 2048 as its least.
READ_BUFFER = 2048

#: All of a request that picows' handshake needs.
REPLAY = (
    b"GET / HTTP/1.1\r\nHost: -\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)


class Breakable(Protocol):
    """Whom picows' errors concern."""

    def broken(self) -> None:
        """The stream makes no sense any more. Our close frame is sent, or picows sends it next."""
        ...


class Link:
    """What one picows protocol is given as its transport and as its logger.

    As a transport: the real one, but for TCP options, which picows sets and a Unix socket refuses, and for closing:
    after an error picows closes 10 ms later, unread bytes or not, and waits for ever for a peer that does not read.

    As a logger: picows tells of errors in no other way. Without the connection knowing, frames would follow the close
    frame. What it has to say of a peer, the peer learns from the code; exceptions are our bugs and go to our log. And a
    `logging.Logger` would be copied for each connection.
    """

    __slots__ = ("_is_tcp", "_transport", "socket")

    def __init__(self, transport: asyncio.Transport, socket: Breakable) -> None:
        self._transport = transport
        self._is_tcp = isinstance(transport.get_extra_info("peername"), tuple)
        self.socket: Breakable | None = socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the transport's, but for the socket."""
        value = self._transport.get_extra_info(name, default)
        return _NoTcpOptions(value) if name == "socket" and not self._is_tcp else value

    def close(self) -> None:
        """The socket decides; picows has nothing to close before there is one."""

    def isEnabledFor(self, level: int) -> bool:  # the name is logging's
        """Nothing is."""
        return False

    def info(self, *args: object, **kwargs: object) -> None:
        """Say nothing."""

    debug = warning = log = info

    def error(self, message: str, *args: object) -> None:
        """The peer broke the protocol; picows sends the close frame next."""
        if self.socket is not None:
            self.socket.broken()

    def exception(self, message: str, *args: object) -> None:
        """A callback of ours raised; picows sends 1011 next."""
        log.exception(message, *args)
        if self.socket is not None:
            self.socket.broken()


class _NoTcpOptions:
    """A Unix socket as picows wants to see it."""

    def __init__(self, sock: Any) -> None:
        self.fileno = sock.fileno

    def setsockopt(self, *args: object) -> None:
        """There is nothing to set."""

    def getsockopt(self, *args: object) -> int:
        """There is nothing to tell."""
        return 0


class _Void(asyncio.BufferedProtocol):
    """Reads what a peer sends whose stream makes no sense, so that it gets to read our close frame."""

    #: One for all: nobody looks.
    _room = bytearray(65536)

    def __init__(self, before: asyncio.BufferedProtocol) -> None:
        self._before = before

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)


def new_protocol(
    listener: WSListener, link: Link, *, subprotocol: str | None, max_message: int
) -> asyncio.BufferedProtocol:
    """Picows' protocol object for one socket. Feed it REPLAY with the peer's key, and it answers the handshake."""
    extra = {"Sec-WebSocket-Protocol": subprotocol} if subprotocol else {}

    def accept(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(extra), listener)

    protocol = WSProtocol(
        None,
        None,
        False,
        accept,
        link,
        True,  # disconnect on an exception of ours: with 1011, and a traceback in no client's face
        None,  # the handshake is whole already
        False,  # pings are the session's affair
        None,
        None,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        False,
        max_message,
        None,
        READ_BUFFER,
    )
    protocol.connection_made(cast("asyncio.Transport", link))
    return cast("asyncio.BufferedProtocol", protocol)


def read_into_the_void(tcp: asyncio.Transport) -> None:
    """End our side of the stream, and let the peer read it to its end before the socket is closed."""
    if tcp.is_closing():
        return
    tcp.set_protocol(_Void(cast("asyncio.BufferedProtocol", tcp.get_protocol())))
    if tcp.can_write_eof():
        if not tcp.is_reading():
            tcp.resume_reading()
        tcp.write_eof()
    else:
        tcp.close()  # TLS: its goodbye has both directions, and reads what is left
