"""Both doors, in this process, and a client that can break every rule of RFC 6455.

Answers for: a served door with endpoints that tests can look into, and frames byte by byte. Refuses to know: what the
doors promise (`test_doors`).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp

from hubbub.http.application import application
from hubbub.protocol.codec import Codec
from hubbub.transports.asgi import AsgiDoor, AsgiTransport
from hubbub.transports.endpoint import Refusal, nobody_is_refused
from hubbub.transports.handshake import Gate
from hubbub.transports.upgrade import Http
from hubbub.transports.websocket import Socket, WebSocketDoor

PATH = "/connection/websocket"

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

Transport = Socket | AsgiTransport


class Probe:
    """An endpoint that keeps what it was told; with `is_echo` it sends messages back."""

    is_echo = False
    raises = False

    def __init__(self, transport: Transport, codec: Codec) -> None:
        self.transport = transport
        self.codec = codec
        self.messages: list[tuple[bytes, bool]] = []
        self.heard: list[str] = []
        self.unsent_when_resumed = 0
        self._news = asyncio.Event()

    def receive(self, message: bytes) -> None:
        if self.raises:
            raise RuntimeError("an endpoint with a bug")
        self.messages.append((message, self.transport.is_binary))
        self._news.set()
        if self.is_echo:
            self.send(message, binary=self.transport.is_binary)

    def paused(self) -> None:
        self._note("paused")

    def resumed(self) -> None:
        self.unsent_when_resumed = self.transport.unsent
        self._note("resumed")

    def closed(self) -> None:
        self._note("closed")

    def send(self, message: bytes, *, binary: bool = False) -> None:
        """Write one message."""
        frame: Any = self.transport.framing.framer(binary=binary)(message)
        self.transport.write([frame])

    async def hears(self, what: str) -> None:
        """Return once it was told `what`."""
        await self.until(lambda: what in self.heard)

    async def gets(self, count: int) -> list[tuple[bytes, bool]]:
        """The messages, once there are `count`."""
        await self.until(lambda: len(self.messages) >= count)
        return self.messages

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def until_drained(self) -> None:
        """Return once everything is written."""
        await until(lambda: not self.transport.unsent)

    def _note(self, what: str) -> None:
        self.heard.append(what)
        self._news.set()


class EchoProbe(Probe):
    is_echo = True


class Serving:
    """A door that is being served."""

    def __init__(self, kind: str, probe: type[Probe]) -> None:
        self.kind = kind
        self.port = 0
        self.unix = ""
        self.probes: list[Probe] = []
        self.peers: list[Peer] = []
        self._probe = probe
        self._news = asyncio.Event()
        self.door: WebSocketDoor | None = None

    def open(self, transport: Transport, codec: Codec) -> Probe:
        probe = self._probe(transport, codec)
        self.probes.append(probe)
        self._news.set()
        return probe

    async def probe(self, index: int = 0) -> Probe:
        """The endpoint of a connection, once it is there."""
        while len(self.probes) <= index:
            self._news.clear()
            await self._news.wait()
        return self.probes[index]


@asynccontextmanager
async def served(
    kind: str,
    probe: type[Probe] = Probe,
    *,
    gate: Gate | None = None,
    refusal: Refusal = nobody_is_refused,
    max_message: int = 65536,
    write_budget: int = 1 << 18,
    close_timeout: float = 5.0,
    fallback: ASGIApp | None = None,
    unix: str = "",
    tls: tuple[str, str] | None = None,
) -> AsyncIterator[Serving]:
    """The door `kind` (websocket, asgi) on a free port of this machine."""
    serving = Serving(kind, probe)
    limits: dict[str, Any] = {
        "gate": gate or Gate(),
        "refusal": refusal,
        "max_message": max_message,
        "write_budget": write_budget,
        "close_timeout": close_timeout,
    }
    app = application([], AsgiDoor(serving.open, **limits), path=PATH, lifespan=_no_lifespan, fallback=fallback)
    listen: dict[str, Any] = {"uds": unix} if unix else {"port": 0}
    if tls is not None:
        listen |= {"ssl_certfile": tls[0], "ssl_keyfile": tls[1]}
    if kind == "websocket":
        serving.door = WebSocketDoor(serving.open, path=PATH, **limits)
        listen |= {"ws": serving.door.upgrade, "http": Http}
    listen |= {"ws_ping_interval": None, "proxy_headers": False}  # whom to believe is the gate's affair
    config = uvicorn.Config(app, lifespan="off", log_config=None, **listen)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    serving.port = 0 if unix else server.servers[0].sockets[0].getsockname()[1]
    serving.unix = unix
    try:
        yield serving
    finally:
        for peer in serving.peers:
            peer.leave()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        if serving.door is not None:
            for client in list(serving.door.sockets):
                client.abort()
            await serving.door.is_empty.wait()
        for listener in server.servers:
            listener.close()
        while server.server_state.tasks:
            await asyncio.gather(*server.server_state.tasks, return_exceptions=True)


@asynccontextmanager
async def _no_lifespan(app: object) -> AsyncIterator[None]:
    yield


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """One frame of a client, however wrong."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    flag = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([flag | len(payload)])
    elif len(payload) < 65536:
        head += bytes([flag | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([flag | 127]) + struct.pack("!Q", len(payload))
    if not mask:
        return head + payload
    key = os.urandom(4)
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + key + masked.to_bytes(len(payload), "big")


def closing(code: int, reason: bytes = b"") -> bytes:
    """A client's close frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


def request(
    *headers: str, path: str = PATH, method: str = "GET", version: str = "13", key: str = "AAAAAAAAAAAAAAAAAAAAAA=="
) -> bytes:
    """An upgrade request."""
    lines = [
        f"{method} {path} HTTP/1.1",
        *([] if any(line.lower().startswith("host:") for line in headers) else ["Host: example.com"]),
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Version: {version}",
        f"Sec-WebSocket-Key: {key}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Peer:
    """A client on a plain socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    @classmethod
    async def connect(cls, serving: Serving, *, tls: ssl.SSLContext | None = None, receive_buffer: int = 0) -> Self:
        """A socket to the door, and nothing said yet."""
        if serving.unix:
            peer = cls(*await asyncio.open_unix_connection(serving.unix))
            serving.peers.append(peer)
            return peer
        raw = socket.socket()
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", serving.port))
        name = "localhost" if tls else None
        peer = cls(*await asyncio.open_connection(sock=raw, ssl=tls, server_hostname=name, limit=4096))
        serving.peers.append(peer)
        return peer

    @classmethod
    async def open(cls, serving: Serving, *headers: str, path: str = PATH, **how: Any) -> Self:
        """A WebSocket. Fails if the answer is not 101."""
        peer = await cls.connect(serving, **how)
        await peer.ask(request(*headers, path=path))
        assert peer.status == 101, peer.status
        return peer

    async def ask(self, data: bytes) -> int:
        """Send a request and read the head of the answer; returns the status."""
        self.writer.write(data)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *lines = head.split("\r\n")
        self.status = int(status_line.split(" ")[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        return self.status

    def send(self, *frames: bytes) -> None:
        """In one segment."""
        self.writer.write(b"".join(frames))

    async def frame(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload. Fails if a server may not send it so. Raises IncompleteReadError."""
        first, second = await self.reader.readexactly(2)
        assert first & 0x70 == 0, "no extension was agreed on"
        assert second < 0x80, "servers do not mask"
        length = second
        if length == 126:
            (length,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0xF, await self.reader.readexactly(length)

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the close frame that comes next."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def ends(self) -> bytes:
        """What comes until the end of the stream, whichever way that comes."""
        rest = b""
        try:
            while data := await self.reader.read(65536):
                rest += data
        except ConnectionError:
            pass
        return rest

    def reset(self) -> None:
        """Vanish: RST, no goodbye."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def leave(self) -> None:
        """Close the socket, and no goodbye either."""
        self.writer.transport.abort()


async def conversation(peer: Peer) -> list[tuple[int, bytes]]:
    """All frames until the server ends the stream; fails if it ends inside one."""
    frames: list[tuple[int, bytes]] = []
    try:
        while True:
            frames.append(await peer.frame())
    except asyncio.IncompleteReadError as end:
        if end.partial:
            raise
    except ConnectionError:
        pass
    return frames


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until it holds."""
    while not condition():  # noqa: ASYNC110  # there is nothing to wait on
        await asyncio.sleep(0)


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`data` cut at these places."""
    places = [0, *sorted(cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


# the doors as tests see them ------------------------------------------------------------------------------------------

FAST = {
    "websocket-uvloop": ("websocket", uvloop.new_event_loop),
    "websocket-asyncio": ("websocket", asyncio.new_event_loop),
}
DOORS = {**FAST, "asgi": ("asgi", uvloop.new_event_loop)}

#: Seconds for one story.
PATIENCE = 10.0

Story = Callable[..., Coroutine[Any, Any, None]]


def on_doors(doors: dict[str, Any]) -> Callable[[Story], Callable[..., None]]:
    """Make a test of a story, for each of these doors, on the event loop that it is listed with."""

    def make(story: Story) -> Callable[..., None]:
        @pytest.mark.parametrize("door", doors)
        @functools.wraps(story)
        def test(door: str, **fixtures: Any) -> None:
            kind, loop_factory = doors[door]
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(asyncio.wait_for(story(kind, **fixtures), PATIENCE))

        result: Callable[..., None] = test
        return result

    return make


all_doors, fast_door = on_doors(DOORS), on_doors(FAST)


@pytest.fixture(autouse=True)
def nothing_is_logged_as_our_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a peer does, it is no error of ours. A test that means one clears the log."""
    yield
    ours = [
        record
        for record in caplog.records
        if record.levelno >= logging.ERROR and record.name.startswith(("hubbub", "asyncio"))
    ]
    assert not ours, "\n".join(record.getMessage() for record in ours)
