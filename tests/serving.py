"""Real servers for tests, as processes of their own, and a cable to them that can be cut.

Answers for: starting hubbub behind one of its two doors, knowing when it listens, keeping what it printed, and leaving
nothing behind, even if pytest is killed. Refuses to know: what is tested.

The doors: `websocket` is what `hubbub serve` opens; `asgi` is the same settings as an ASGI application under plain
uvicorn with uvicorn's own WebSockets (this file run as a script).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

ROOT = Path(__file__).parents[1]

Door = Literal["websocket", "asgi"]
DOORS: tuple[Door, ...] = get_args(Door)

#: Seconds. A loaded machine needs a few to import everything; a server that needs more is broken.
START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0

LISTENS = " listens on "

#: Runs argv[2:] so that it dies with the process argv[1]. Not a preexec_fn: those warn where threads run, and ours do.
_LEASH = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit("whoever wanted this has gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def leashed(*command: str | Path) -> list[str]:
    """The command, made to die with this process."""
    return [sys.executable, "-c", _LEASH, str(os.getpid()), *map(str, command)]


class Served:
    """A running server. Use it as a context manager, or `start` and `stop` it.

    `config` is written into `folder` as TOML; the server listens on a free port, whatever the configuration says, or
    behind the fast door on the `port` that is given.
    """

    def __init__(self, config: str, folder: Path, door: Door = "websocket", *, port: int = 0) -> None:
        self.door = door
        self._wanted = str(port)
        self.port = 0
        self._file = folder / f"{door}.toml"
        self._file.write_text(config)
        self._lines: list[str] = []
        self._settled = threading.Event()  # it listens, or it has ended
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> Self:
        """Return once it listens. Raises RuntimeError with what it printed if it does not."""
        command = {
            "websocket": (sys.executable, "-m", "hubbub", "serve", "--config", self._file, "--port", self._wanted),
            "asgi": (sys.executable, "-m", "tests.serving", self._file),
        }[self.door]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")}
        self._process = subprocess.Popen(
            leashed(*command),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self._settled.wait(START_TIMEOUT)
        if not self.port:
            self.stop()
            raise RuntimeError(f"the server behind the {self.door} door does not listen; it said:\n{self.output}")
        return self

    def stop(self) -> None:
        """End it, kindly first. Idempotent."""
        if self._process is None or self._reader is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._lines.append(f"(killed: it had not stopped within {STOP_TIMEOUT:g} seconds)\n")
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def output(self) -> str:
        """What it has printed so far, errors included."""
        return "".join(self._lines)

    @property
    def websocket_url(self) -> str:
        """Where clients connect."""
        return websocket_url(self.port)

    @property
    def http_url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """The HTTP API, as `cent` wants it."""
        return f"{self.http_url}/api"

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None, "it was asked for"
        with process.stdout as lines:
            for line in lines:
                self._lines.append(line)
                if LISTENS in line and not self.port:
                    self.port = int(line.rpartition(":")[2])
                    self._settled.set()
        self._settled.set()


def websocket_url(port: int) -> str:
    """Where clients connect that reach a server through `port`."""
    return f"ws://127.0.0.1:{port}/connection/websocket"


class Cable:
    """A TCP proxy to a port of this machine: what it carries can be cut, and the ends kept apart.

    Use it as an async context manager. While it is cut, whoever connects is reset at once.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._is_whole = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard: asyncio.Queue[bytes] = asyncio.Queue()
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None, "entered"
        self.cut()
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def websocket_url(self) -> str:
        """Where clients connect that are to be cut off."""
        return websocket_url(self.port)

    def cut(self) -> None:
        """Reset both sides of everything, and whoever connects from now on."""
        self._is_whole = False
        self._flows.set()
        for writer in list(self._writers):
            _reset(writer)

    def mend(self) -> None:
        """Carry again."""
        self._is_whole = True

    def hold(self) -> None:
        """Keep what is said to clients, and lose nothing of it."""
        self._flows.clear()

    def release(self) -> None:
        """Give them what was kept: the first piece, and all that came behind it in another one."""
        self._flows.set()

    def lead_to(self, port: int) -> None:
        """Carry to another port whoever connects from now on."""
        self._target = port

    async def said_by_clients(self) -> bytes:
        """The next bytes that came from a client, as they came."""
        return await self._heard.get()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._is_whole:
            _reset(writer)
            return
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        ends = (writer, far_writer)
        self._writers.add(far_writer)
        if writer.transport.is_closing():  # cut meanwhile
            _reset(far_writer)
        for copy in (_copy_heard(reader, far_writer, self._heard), _copy(far_reader, writer, self._flows)):
            task = asyncio.ensure_future(copy)
            self._tasks.add(task)
            task.add_done_callback(self._done(ends))

    def _done(self, ends: tuple[asyncio.StreamWriter, ...]) -> Callable[[asyncio.Task[None]], None]:
        def forget(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            for writer in ends:
                self._writers.discard(writer)
                writer.close()

        return forget


async def _copy_heard(source: asyncio.StreamReader, sink: asyncio.StreamWriter, heard: asyncio.Queue[bytes]) -> None:
    try:
        while data := await source.read(65536):
            heard.put_nowait(data)
            sink.write(data)
            await sink.drain()
    except OSError:
        pass  # as below


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, flows: asyncio.Event) -> None:
    try:
        while data := await source.read(65536):
            await flows.wait()
            sink.write(data)
            await sink.drain()
    except OSError:
        pass  # the other end is gone, and what follows closes this one


def _reset(writer: asyncio.StreamWriter) -> None:
    """End it with RST instead of FIN: as a cable that is cut, not as a peer that leaves."""
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _serve_asgi(config: str) -> None:
    """The asgi door: what somebody has who mounts hubbub in an application of their own."""
    import uvicorn

    from hubbub import Hubbub

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                port = self.servers[0].sockets[0].getsockname()[1]
                print(f"uvicorn{LISTENS}http://127.0.0.1:{port}", flush=True)  # noqa: T201

    hub = Hubbub(config=config)
    Announcing(uvicorn.Config(hub.asgi(), host="127.0.0.1", port=0, log_level="warning", access_log=False)).run()


if __name__ == "__main__":
    _serve_asgi(sys.argv[1])
