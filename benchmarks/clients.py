"""The load: many WebSocket clients in one thread, each far cheaper than what it asks of the server.

Answers for: raw non-blocking sockets on one epoll, the opening handshake with a browser's headers, the few commands of
the client protocol that are measured, and counting what arrives without parsing it. Refuses to know: what is measured.

All clients read into one shared buffer, and a frame is looked at where it lies there. Commands are masked with zeros,
which is a valid mask and leaves the bytes as they are.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

#: One for all: a client is read to its end before the next one is.
BUFFER = bytearray(4 << 20)
_VIEW = memoryview(BUFFER)

#: Bytes of one read. Larger ones only grow what is left over of a frame.
_READ = 256 << 10

TEXT, CLOSE = 0x81, 0x88

#: About 1 KB of headers, as a browser behind a login sends them.
REQUEST = (
    b"GET /connection/websocket HTTP/1.1\r\n"
    b"Host: 127.0.0.1\r\n"
    b"Connection: Upgrade\r\n"
    b"Pragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0.0.0 "
    b"Safari/537.36\r\n"
    b"Upgrade: websocket\r\n"
    b"Origin: https://app.example.com\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: en-GB,en;q=0.9,de;q=0.8,fr;q=0.7\r\n"
    b"Cookie: session=" + b"eyJ1c2VyIjoiNDIiLCJleHAiOjE3NTk5OTk5OTl9" * 8 + b"; _ga=GA1.1.1234567890.1712345678; "
    b"_ga_ABCDEF1234=GS1.1.1712345678.9.1.1712345999.0.0.0; csrftoken=8f14e45fceea167a5a36dedd4bea2543; theme=dark\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    b"\r\n"
)


def command_frame(*commands: dict[str, Any] | bytes) -> bytes:
    """Commands in one frame of a client."""
    lines = [line if isinstance(line, bytes) else json.dumps(line, separators=(",", ":")).encode() for line in commands]
    payload = b"\n".join(lines)
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", TEXT, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", TEXT, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", TEXT, 0x80 | 127, size)
    return head + bytes(4) + payload


def hello(channel: str = "", **subscribe: Any) -> bytes:
    """Connect, and subscribe to a channel if one is given, in one frame, as the SDKs do."""
    commands: list[dict[str, Any]] = [{"id": 1, "connect": {"name": "js"}}]
    if channel:
        commands.append({"id": 2, "subscribe": {"channel": channel, **subscribe}})
    return command_frame(*commands)


PONG = command_frame({})


class Client:
    """One connection. `messages` counts what came since it was opened, replies included.

    `on_lines` gets the messages of each frame; without it they are only counted. `greeting` is sent once the handshake
    is done, None for a peer that is no WebSocket: its bytes are counted, and `on_bytes` is called. `goal` is for
    whoever measures.
    """

    __slots__ = (
        "_left",
        "_recv",
        "bytes",
        "close_code",
        "goal",
        "greeting",
        "is_connected",
        "is_open",
        "messages",
        "on_bytes",
        "on_lines",
        "reads",
        "send",
        "sock",
    )

    def __init__(self, greeting: bytes | None, on_lines: Callable[[Client, list[bytes]], None] | None = None) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.greeting = greeting
        self.on_lines = on_lines
        self.on_bytes: Callable[[], None] | None = None
        self.is_connected = False
        self.is_open = False  # and greeted
        self.close_code = 0
        self.messages = 0
        self.reads = 0
        self.bytes = 0
        self.goal = 0
        self.send = self.sock.send
        self._recv = self.sock.recv_into
        self._left = b""  # of a frame, or of the handshake

    def readable(self) -> None:
        """Read once, and look at what came."""
        kept = len(self._left)
        try:
            size = self._recv(_VIEW[kept : kept + _READ])
        except BlockingIOError:
            return
        except ConnectionError:
            size = 0
        if not size:
            self.close_code = self.close_code or 1006
            return
        self.bytes += size
        self.reads += 1
        if self.greeting is not None:
            if kept:
                BUFFER[:kept] = self._left
                size += kept
            at = self._frames(0 if self.is_open else self._handshake(size), size)
            self._left = bytes(_VIEW[at:size]) if at < size else b""
        elif self.on_bytes is not None:
            self.on_bytes()

    def _frames(self, at: int, size: int) -> int:
        """Look at the whole frames from `at` on; returns where the rest begins."""
        while size - at > 1:
            length = BUFFER[at + 1]
            start = at + 2
            if length == 126:
                start = at + 4
                length = BUFFER[at + 2] << 8 | BUFFER[at + 3]
            elif length == 127:
                start = at + 10
                length = int.from_bytes(BUFFER[at + 2 : start], "big")
            end = start + length
            if end > size:
                break
            if BUFFER[at] != TEXT or length == 2:
                self._control(at, start, end)
            else:
                self.messages += 1 + BUFFER.count(10, start, end)
                if self.on_lines is not None:
                    self.on_lines(self, bytes(_VIEW[start:end]).split(b"\n"))
            at = end
        return at

    def close(self) -> None:
        """Gone, without a goodbye."""
        self.sock.close()

    def _handshake(self, size: int) -> int:
        """Where the frames begin. A head comes in one piece over loopback."""
        end = BUFFER.find(b"\r\n\r\n", 0, size)
        if end < 0 or not BUFFER.startswith(b"HTTP/1.1 101 "):
            raise RuntimeError(f"refused: {bytes(_VIEW[:size])!r}")
        self.is_open = True
        assert self.greeting is not None
        self.send(self.greeting)
        return end + 4

    def _control(self, at: int, start: int, end: int) -> None:
        if BUFFER[at] == CLOSE:
            self.close_code = int.from_bytes(BUFFER[start : start + 2], "big") if end - start > 1 else 1005
        elif BUFFER[at] == TEXT:  # {}: the server's ping
            self.send(PONG)


class Crowd:
    """Clients on one epoll, closed at the end of a `with`. Waiting times out, and says for what."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.clients: dict[int, Client] = {}

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *error: object) -> None:
        for client in self.clients.values():
            client.close()
        self.clients.clear()
        self.epoll.close()

    def open(self, port: int, clients: Sequence[Client], *, at_once: int = 200) -> None:
        """Connect them, so many at a time, until each has the answers to its greeting."""
        waiting = list(reversed(clients))
        wanted = {client: 0 if client.greeting is None else client.greeting.count(b'"id":') for client in clients}
        opening: set[Client] = set()
        deadline = time.monotonic() + 120
        while waiting or opening:
            while waiting and len(opening) < at_once:
                client = waiting.pop()
                self._connect(client, port)
                opening.add(client)
            for fd, event in self.epoll.poll(1.0):
                client = self.clients[fd]
                if event & select.EPOLLOUT:
                    self._connected(client)
                else:
                    client.readable()
                if client.close_code:
                    raise RuntimeError(f"a client was closed with {client.close_code} while it connected")
                if client in opening and client.is_connected and client.messages >= wanted[client]:
                    opening.discard(client)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(waiting) + len(opening)} of {len(clients)} clients did not get in")

    def add(self, port: int, client: Client) -> Client:
        """One more."""
        self.open(port, [client])
        return client

    def drop(self, clients: Sequence[Client]) -> None:
        """Close them."""
        for client in clients:
            del self.clients[client.sock.fileno()]
            client.close()

    def poll(self, seconds: float) -> None:
        """Read what has come, after waiting for it at most so long."""
        clients = self.clients
        for fd, _ in self.epoll.poll(seconds):
            clients[fd].readable()

    def until(self, done: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Read until it is done."""
        deadline = time.monotonic() + seconds
        while not done():
            self.poll(1.0)
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {seconds:.0f} s: {what}")

    def during(self, seconds: float) -> None:
        """Read for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.poll(left)

    def stop_reading(self, client: Client) -> None:
        """Leave what comes for it in the kernel."""
        self.epoll.modify(client.sock, 0)

    def read_again(self, client: Client) -> None:
        """As before."""
        self.epoll.modify(client.sock, select.EPOLLIN)

    def _connect(self, client: Client, port: int) -> None:
        error = client.sock.connect_ex(("127.0.0.1", port))
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, "connect")
        self.clients[client.sock.fileno()] = client
        self.epoll.register(client.sock, select.EPOLLOUT)

    def _connected(self, client: Client) -> None:
        error = client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "connect")
        self.epoll.modify(client.sock, select.EPOLLIN)
        client.is_connected = True
        if client.greeting is not None:
            client.send(REQUEST)


class Progress:
    """A line a second for phases that take long."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._next = time.monotonic() + 1
        self._started = self._next - 1

    def tell(self, how_far: Callable[[], str]) -> None:
        """Say how far it is, if a second has passed."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 1
            say(f"{self._what}: {now - self._started:.0f} s, {how_far()}")


def say(words: str) -> None:
    """A line of progress, apart from the results."""
    print(f"  {words}", file=sys.stderr, flush=True)
