"""The fast door: WebSocket by picows, under uvicorn's HTTP on the same port.

Answers for: who gets in, the inbox that all sockets of the door share, and who is still there when it closes. Refuses
to know: what a socket says (`rfc6455`), what picows is told (`link`), and how the socket came from uvicorn (`upgrade`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from hubbub.protocol.codec import Codec
from hubbub.transports.endpoint import Endpoint, Refusal, nobody_is_refused
from hubbub.transports.handshake import Codecs, Gate
from hubbub.transports.link import REPLAY, Link, new_protocol
from hubbub.transports.rfc6455 import Frames, Socket
from hubbub.transports.upgrade import Refused, Upgrade, feed, uvicorns_own

__all__ = ["WebSocketDoor", "Socket", "Frames"]

#: Seconds that a peer gets to answer our close frame (RFC 6455, 7.1.1), and to take what is queued before it.
CLOSE_TIMEOUT = 5.0


class WebSocketDoor:
    """Opens connections for upgrade requests on `path`. Give `upgrade` to uvicorn as its `ws=` class, and
    `upgrade.Http` as its `http=` class.

    `refusal` is asked for each request, and right before its connection is opened: why none can be, "" if one can.
    `max_message` bounds one incoming message, `write_budget` the unsent bytes of a connection before it falls behind.
    """

    def __init__(
        self,
        open: Callable[[Socket, Codec], Endpoint],
        *,
        path: str,
        gate: Gate,
        refusal: Refusal = nobody_is_refused,
        max_message: int,
        write_budget: int,
        close_timeout: float = CLOSE_TIMEOUT,
    ) -> None:
        self.open = open
        self.path = path
        self.gate = gate
        self.refusal = refusal
        self.max_message = max_message
        self.write_budget = write_budget
        self.close_timeout = close_timeout
        self.framing = Frames()
        self.inbox: list[tuple[Socket, bytes]] = []
        self.codecs = Codecs()
        self.sockets: dict[Socket, None] = {}
        self.is_empty = asyncio.Event()
        self.is_empty.set()

    def enter(self, socket: Socket) -> None:
        """A connection has begun."""
        self.sockets[socket] = None
        self.is_empty.clear()

    def leave(self, socket: Socket) -> None:
        """Its socket is gone."""
        self.sockets.pop(socket, None)
        if not self.sockets:
            self.is_empty.set()

    def wake(self) -> None:
        """Something is in the inbox: deliver when everything that the event loop found readable has been read."""
        asyncio.get_running_loop().call_soon(self.deliver)

    def deliver(self) -> None:
        """Hand over what was read, in its order.

        First all sockets are read, then all messages are handled, then all answers are written: under load, going round
        the kernel, the frame parser and the interpreter for each message makes each push the others' code out of the
        processor's cache (docs/design/doors.md).
        """
        inbox, self.inbox = self.inbox, []
        for socket, message in inbox:
            endpoint = socket.endpoint
            if endpoint is not None:
                try:
                    endpoint.receive(message)
                except Exception:
                    socket.failed()

    def upgrade(self, config: Any, server_state: Any, app_state: dict[str, Any]) -> asyncio.Protocol:
        """What uvicorn calls for each upgrade request."""
        return Upgrade(self, lambda: uvicorns_own(config, server_state, app_state))

    def take(self, transport: asyncio.Transport, query: str, headers: Mapping[str, str]) -> asyncio.BufferedProtocol:
        """Begin a connection on this socket."""
        if not self.gate.admits(headers, _peer(transport)):
            raise Refused(HTTPStatus.FORBIDDEN, "origin not allowed")
        refusal = self.refusal()
        if refusal:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, refusal)
        asked = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
        codec, subprotocol = self.codecs.negotiate(asked, query)
        socket = Socket(self, codec, tcp=transport, head=(headers, query))
        protocol = new_protocol(socket, Link(transport, socket), subprotocol=subprotocol, max_message=self.max_message)
        feed(protocol, REPLAY % headers["sec-websocket-key"].encode())
        return protocol


def _peer(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    return name[0] if isinstance(name, tuple) else ""
