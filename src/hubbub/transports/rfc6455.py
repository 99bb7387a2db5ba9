"""One connection of the fast door, as RFC 6455 has it where picows leaves it to us.

Answers for: reserved bits, fragments, UTF-8, close codes, an end that the peer hears, and writing ready-made frames
straight to the event loop's transport. Refuses to know: commands, channels, and how the socket came (`websocket`).

How a connection ends, in all cases within `close_timeout`, after which the socket is aborted:

- We close: our close frame, then what the peer still sends is ignored until its close frame comes.
- The peer closes: its code is sent back, and the socket closed when that is written.
- The peer breaks the protocol: our close frame with the reason, the end of our stream, and then we read into the void
  until the peer closes. Closing at once with bytes of it unread would be a reset, which takes the close frame away
  from a peer that has not read it yet: a client whose message was too big would not learn it, and send it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol, cast

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport
from picows.picows import WSCloseHandshake

from hubbub.protocol.codec import Codec
from hubbub.protocol.frames import binary_frame, text_frame
from hubbub.transports.endpoint import INTERNAL_ERROR, Endpoint, goodbye, is_close_code, opened
from hubbub.transports.fragments import Fragments, is_utf8
from hubbub.transports.link import Link, read_into_the_void

log = logging.getLogger(__name__)

#: Messages that are read before the first of them is handled; see `WebSocketDoor.deliver`.
INBOX_LIMIT = 256

#: WSFrame.msg_type makes an enum at each look (0.2 µs); these are compared by identity.
_TEXT, _BINARY, _CONTINUATION = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION
_PING, _CLOSE = WSMsgType.PING, WSMsgType.CLOSE


class Frames:
    """The framing of this door: whole frames, ready for the socket."""

    def framer(self, *, binary: bool) -> Callable[[bytes], bytes]:
        """One message in one frame."""
        return binary_frame if binary else text_frame

    def join(self, framed: list[bytes]) -> bytes:
        """Frames behind each other."""
        return b"".join(framed)


class Door(Protocol):
    """What sockets have of their door: its limits, its endpoints, and the inbox that they share."""

    open: Callable[[Socket, Codec], Endpoint]
    framing: Frames
    max_message: int
    write_budget: int
    close_timeout: float
    inbox: list[tuple[Socket, bytes]]

    def enter(self, socket: Socket) -> None:
        """A connection has begun."""

    def leave(self, socket: Socket) -> None:
        """Its socket is gone."""

    def wake(self) -> None:
        """Something is in the inbox: deliver when everything that the event loop found readable has been read."""

    def deliver(self) -> None:
        """Hand over what was read, in its order."""


class Socket(WSListener):
    """One connection. Implements Transport for the endpoint and listens to picows."""

    __slots__ = (
        "_deadline",
        "_door",
        "_fragments",
        "_is_closing",
        "_raw",
        "_tcp",
        "_write",
        "_written",
        "codec",
        "endpoint",
        "head",
        "is_binary",
    )

    def __init__(
        self, door: Door, codec: Codec, *, tcp: asyncio.Transport, head: tuple[Mapping[str, str], str] = ({}, "")
    ) -> None:
        self._door = door
        self.codec = codec
        self.head = head
        self.is_binary = False
        self._tcp = tcp
        self._write = tcp.write
        self._written = 0
        self._raw: WSTransport
        self.endpoint: Endpoint | None = None
        self._fragments: Fragments | None = None
        self._is_closing = False
        self._deadline: asyncio.TimerHandle | None = None

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
        self._end()
        code, reason = goodbye(code, reason)
        self._raw.send_close(cast("WSCloseCode", code), reason)
        self.resume_reading()  # or the answer would never be seen

    def pause_reading(self) -> None:
        """Leave what comes in the kernel; what has been read already may still come."""
        if self._tcp.is_reading():
            self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._tcp.is_reading() and not self._tcp.is_closing():
            self._tcp.resume_reading()

    @property
    def unsent(self) -> int:
        """Bytes in the event loop's buffer."""
        return self._tcp.get_write_buffer_size()

    @property
    def taken(self) -> int:
        """Bytes that the kernel has taken."""
        return self._written - self.unsent

    def abort(self) -> None:
        """End at once, whatever the peer was still to hear."""
        self._tcp.abort()

    # picows ---------------------------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done."""
        self._raw = transport
        self._tcp.set_write_buffer_limits(high=self._door.write_budget, low=self._door.write_budget // 4)
        # Nobody asks for them again, and with a browser's headers they would be a tenth of what a connection costs.
        transport.request.headers.clear()
        transport.response.headers.clear()
        self._door.enter(self)
        self.endpoint = opened(lambda: self._door.open(self, self.codec))
        if self.endpoint is None:
            self.close(*INTERNAL_ERROR)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """One frame, of any kind and in any order; most are whole messages."""
        kind = frame.msg_type
        if (
            self._is_closing
            or self._fragments is not None
            or not frame.fin
            or frame.rsv1
            or frame.rsv2
            or frame.rsv3
            or (kind is not _TEXT and kind is not _BINARY)
        ):
            self._door.deliver()
            self._other(kind, frame)
            return
        message = frame.get_payload_as_bytes()
        if (kind is _BINARY) is not self.is_binary:
            self._door.deliver()  # what came before is of the other kind
            self.is_binary = not self.is_binary
        if kind is _TEXT and not message.isascii() and not is_utf8(message):
            self._fail(WSCloseCode.INVALID_TEXT, "text that is not UTF-8")
            return
        inbox = self._door.inbox
        inbox.append((self, message))
        waiting = len(inbox)
        if waiting == 1:
            self._door.wake()
        elif waiting >= INBOX_LIMIT:
            self._door.deliver()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The socket is gone."""
        self._door.deliver()
        self._is_closing = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._door.leave(self)
        cast("Link", transport.underlying_transport).socket = None  # that would be a circle
        self._gone()

    def pause_writing(self) -> None:
        """The event loop's buffer is over the budget."""
        if self.endpoint is not None and not self._is_closing:
            self.endpoint.paused()

    def resume_writing(self) -> None:
        """It is below a quarter of it."""
        if self.endpoint is not None and not self._is_closing:
            self.endpoint.resumed()

    # RFC 6455 where picows leaves it to us --------------------------------------------------------------------------

    def failed(self) -> None:
        """A message could not be handled. That is our bug, and ends this connection alone."""
        log.exception("a message could not be handled")
        self.close(*INTERNAL_ERROR)
        self._gone()

    def _other(self, kind: WSMsgType, frame: WSFrame) -> None:
        if self._is_closing:
            if kind is _CLOSE:
                self._tcp.close()
        elif frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail(WSCloseCode.PROTOCOL_ERROR, "reserved bits without an extension")
        elif kind is _TEXT or kind is _BINARY:
            if self._fragments is not None:
                self._fail(WSCloseCode.PROTOCOL_ERROR, "a new message inside a fragmented one")
                return
            self._fragments = Fragments(frame.get_payload_as_bytes(), is_binary=kind is _BINARY)
        elif kind is _CONTINUATION:
            self._continue(frame)
        elif kind is _PING:
            self._raw.send_pong(frame.get_payload_as_bytes())
        elif kind is _CLOSE:
            self._peer_closes(frame)

    def _continue(self, frame: WSFrame) -> None:
        fragments = self._fragments
        if fragments is None:
            self._fail(WSCloseCode.PROTOCOL_ERROR, "a continuation of nothing")
        elif not fragments.add(frame.get_payload_as_bytes(), limit=self._door.max_message):
            self._fail(WSCloseCode.MESSAGE_TOO_BIG, "message too big")
        elif frame.fin:
            self._fragments = None
            message = fragments.joined()
            if fragments.is_binary or is_utf8(message):
                self.is_binary = fragments.is_binary
                self._door.inbox.append((self, message))
                self._door.deliver()
            else:
                self._fail(WSCloseCode.INVALID_TEXT, "text that is not UTF-8")

    def _peer_closes(self, frame: WSFrame) -> None:
        """Send its code back. picows has looked at the reason, and at most codes."""
        payload = frame.get_payload_as_bytes()
        code = int.from_bytes(payload[:2], "big")
        if payload and not is_close_code(code):
            self._fail(WSCloseCode.PROTOCOL_ERROR, "close code out of range")
            return
        self._end()
        self._raw.send_close(cast("WSCloseCode", code or 1000))
        self._tcp.close()

    # ends -----------------------------------------------------------------------------------------------------------

    def _fail(self, code: WSCloseCode, reason: str) -> None:
        """Fail the WebSocket connection (7.1.7). What came before still counts."""
        self._door.deliver()
        self._raw.send_close(code, reason)
        self.broken()

    def broken(self) -> None:
        """The stream makes no sense any more. Our close frame is sent, or picows sends it next."""
        self._door.deliver()
        handshake = cast("WSCloseHandshake | None", self._raw.close_handshake)
        if handshake is not None and handshake.recv is not None and not self._is_closing:
            # What follows a close frame in its segment is parsed before we see the close frame, and counts for nothing.
            code = int(cast("int", handshake.recv.code))  # the stubs call it a plain enum
            self._raw.send_close(cast("WSCloseCode", code if is_close_code(code) else 1000))
        self._end()
        self._gone()
        asyncio.get_running_loop().call_soon(read_into_the_void, self._tcp)

    def _end(self) -> None:
        """Nothing more is written but the close frame, and the peer's time runs."""
        self._is_closing = True
        if self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._door.close_timeout, self._tcp.abort)

    def _gone(self) -> None:
        if self.endpoint is not None:
            endpoint, self.endpoint = self.endpoint, None
            endpoint.closed()
