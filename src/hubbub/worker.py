"""One of several processes on one address: a server that its supervisor tells when to leave.

Answers for: the sockets it was given, saying that it listens, and obeying over its line, also when that ends. Refuses
to know: the other workers, and why it is told.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from types import FrameType
from typing import Any

from hubbub.app import Hubbub
from hubbub.http.application import ASGIApp
from hubbub.server import Server
from hubbub.supervisor import DRAIN, HURRY, READY, RELIEVED, Post

#: Seconds for whoever got through to us just before the successor had the address for itself, and has not yet said
#: what it wants: it is served, and not refused.
LATECOMERS = 2.0


class WorkerServer(Server):
    """A server with the sockets and the line of `post`."""

    def __init__(self, hub: Hubbub, post: Post, *, fallback: ASGIApp | None = None) -> None:
        super().__init__(hub, fallback=fallback)
        self.name = f"worker {post.number}"
        self._inherited = [socket.socket(fileno=descriptor) for descriptor in post.sockets]
        self._line = socket.socket(fileno=post.line)
        self._line.setblocking(False)
        self._starting: asyncio.Task[Any] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen until the supervisor says that it is over."""
        await super().serve(sockets or self._inherited)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains, however often it comes; Ctrl-C is for the supervisor, which hears it as well."""
        if sig == signal.SIGTERM:
            self.leave()

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say so over the line. Who is told to leave before that does not go on with it."""
        asyncio.get_running_loop().add_reader(self._line, self._obey)
        self._starting = asyncio.current_task()
        try:
            await super().startup(sockets)
        except asyncio.CancelledError:
            if not self.should_exit:
                raise
        finally:
            self._starting = None
        if self.started:
            try:
                self._line.send(READY)
            except OSError:
                pass  # nobody is there any more, as the line itself will tell

    def _obey(self) -> None:
        try:
            orders = self._line.recv(16)
        except BlockingIOError:
            return
        except OSError:
            orders = b""
        if not orders:  # the supervisor is gone, and with it whoever would keep us
            asyncio.get_running_loop().remove_reader(self._line)
        if self._starting is not None:  # it may wait for something that never comes
            self.should_exit = True
            self._starting.cancel()
        elif HURRY in orders:
            self.hurry()
        elif DRAIN in orders or not orders:
            self.leave()
        elif RELIEVED in orders:
            self.leave(LATECOMERS)
