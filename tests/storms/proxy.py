"""A way to a server of this machine that breaks as networks do.

Answers for: carrying TCP to one port, and on command: ending every connection, refusing new ones, swallowing what one
side or both say while the connection stays open (half-open), ending in the middle of an answer, and carrying late.
Refuses to know: what is carried.

What is swallowed is gone, as bytes are that a dead cable was given: when the proxy carries again, only new connections
are whole.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import Any, Literal, Self, cast

#: Who speaks: the clients to the server, the server to the clients, or everybody.
Side = Literal["clients", "server", "both"]


class Proxy:
    """A listening port that leads to another one. Use it as an async context manager."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.is_refusing = False
        self.delay = 0.0  # seconds by which everything comes late
        self._stalled: Side | None = None  # new connections, too
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None
        self._dialing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _End(self, None), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None, "entered"
        self._server.close()
        self.cut()
        await asyncio.gather(*self._dialing, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pairs)

    def cut(self) -> None:
        """End everything that is open, with RST."""
        for pair in list(self._pairs):
            pair.end()

    def refuse(self) -> None:
        """End everything, and whatever is opened from now on, until `mend`."""
        self.is_refusing = True
        self.cut()

    def stall(self, side: Side = "both", *, new: bool = False, server_sees: int = 0) -> None:
        """Swallow what `side` says on all connections that are open; with `new` also on those to come.

        `server_sees`: only on the connection that comes to the server from this port.
        """
        for pair in self._pairs:
            if not server_sees or pair.port_to_server == server_sees:
                pair.stalled = side
        if new:
            self._stalled = side

    def cut_in_answer(self, after: int) -> None:
        """On each open connection, carry so many more bytes of the server's, then end it."""
        for pair in self._pairs:
            pair.left = after

    def mend(self) -> None:
        """Carry again. What was stalled stays so until whoever holds it gives up: its bytes are gone."""
        for pair in self._pairs:
            pair.left = None
        self.is_refusing = False
        self.delay = 0.0
        self._stalled = None

    def _opened(self, near: _End) -> None:
        pair = _Pair(self, near)
        near.pair = pair
        if self.is_refusing:
            pair.end()
            return
        pair.stalled = self._stalled
        self._pairs.add(pair)
        task = asyncio.ensure_future(self._dial(pair))
        self._dialing.add(task)
        task.add_done_callback(self._dialing.discard)

    async def _dial(self, pair: _Pair) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _End(self, pair), "127.0.0.1", self.target)
        except OSError:
            pair.end()

    def _ended(self, pair: _Pair) -> None:
        self._pairs.discard(pair)


class _Pair:
    """One connection: the end of a client, and ours to the server."""

    def __init__(self, proxy: Proxy, near: _End) -> None:
        self.stalled: Side | None = None
        self.left: int | None = None  # bytes of the server's until the end
        self.near = near
        self.far: _End | None = None
        self._proxy = proxy
        self._late: dict[bool, deque[bytes]] = {False: deque(), True: deque()}  # of the clients, and of the server
        self._early: list[bytes] = []  # what the client said before there was a server
        self._is_over = False

    @property
    def port_to_server(self) -> int:
        """By which the server knows it."""
        return self.far.port if self.far is not None else 0

    def opened(self, far: _End) -> None:
        self.far = far
        if self._is_over:
            far.reset()
            return
        for data in self._early:
            far.write(data)
        self._early.clear()

    def said(self, end: _End, data: bytes) -> None:
        is_server = end is self.far
        if self.stalled in ("both", "server" if is_server else "clients"):
            return
        if is_server and self.left is not None:
            data = data[: self.left]
            self.left -= len(data)
        late = self._late[is_server]
        if self._proxy.delay or late:  # nothing overtakes what is late, also after the delay has ended
            late.append(data)
            asyncio.get_running_loop().call_later(self._proxy.delay, self._carry_late, is_server)
        else:
            self._carry(is_server, data)
        if is_server and self.left == 0:
            self.near.close()  # with what it has been given: the cut is in the middle of it
            self.end(near=False)

    def _carry_late(self, is_server: bool) -> None:
        """Timers may come in another order than they were set: which one this is does not matter."""
        self._carry(is_server, self._late[is_server].popleft())

    def _carry(self, is_server: bool, data: bytes) -> None:
        if is_server:
            self.near.write(data)
        elif self.far is not None:
            self.far.write(data)
        else:
            self._early.append(data)

    def hold(self, end: _End, is_full: bool) -> None:
        """One end takes no more for now, or again: the other one is not read meanwhile."""
        other = self.near if end is self.far else self.far
        if other is not None:
            other.pause(is_full)

    def end(self, *, near: bool = True) -> None:
        """Reset both ends. Idempotent."""
        self._is_over = True
        self._proxy._ended(self)
        if near:
            self.near.reset()
        if self.far is not None:
            self.far.reset()

    def closed(self, end: _End) -> None:
        """One end has gone: the other follows, with what it was given; a stalled peer hears nothing of it."""
        if self._is_over or (self.stalled is not None and end is self.far):
            return
        self._is_over = True
        self._proxy._ended(self)
        for each in (self.near, self.far):
            if each is not None:
                each.close()


class _End(asyncio.Protocol):
    """One socket. `pair` is None for what has just come to the listening port."""

    def __init__(self, proxy: Proxy, pair: _Pair | None) -> None:
        self.pair = pair
        self.port = 0
        self._proxy = proxy
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.port = transport.get_extra_info("sockname")[1]
        if self.pair is None:
            self._proxy._opened(self)
        else:
            self.pair.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.pair is not None:
            self.pair.said(self, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self.pair is not None:
            self.pair.closed(self)

    def pause_writing(self) -> None:
        if self.pair is not None:
            self.pair.hold(self, True)

    def resume_writing(self) -> None:
        if self.pair is not None:
            self.pair.hold(self, False)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self, is_full: bool) -> None:
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if is_full else self._transport.resume_reading)()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """With RST instead of FIN: as a cable that is cut, not as a peer that leaves."""
        if self._transport is not None:
            raw: Any = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
