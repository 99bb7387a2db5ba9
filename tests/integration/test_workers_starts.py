"""`hubbub serve --workers` with a start that hangs: what its clients see of it, and how it ends."""

from __future__ import annotations

import asyncio
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.backends import RedisServer
from tests.integration.commands import Running, environment
from tests.integration.support import client
from tests.integration.workers_support import CONFIG, PATIENCE, Serving, have_ended, readers, until
from tests.serving import leashed, websocket_url

pytestmark = pytest.mark.timeout(300)

#: `hubbub` whose supervisor may be told that it has waited for long enough, and that it has not.
_IMPATIENT = """
import signal
from hubbub import supervisor
from hubbub.cli import main
def wait(seconds):
    return lambda number, frame: setattr(supervisor, "START", seconds)
signal.signal(signal.SIGUSR1, wait(0.1))
signal.signal(signal.SIGUSR2, wait(1e6))
raise SystemExit(main())
"""

#: An application that asks a database before it does anything else, and has no patience of its own, or too much.
_ASKING = """
import socket
with socket.create_connection(("127.0.0.1", {port})) as database:
    database.recv(1)
from hubbub import Hubbub
hub = Hubbub()
"""

#: An application that begins with something that never comes, once there is a file "hang".
_WAITING = """
import asyncio, os
from hubbub import Hubbub
hub = Hubbub()
async def wait():
    open(f"hangs.{os.getpid()}", "w").close()
    await asyncio.Event().wait()
if os.path.exists("hang"):
    hub.start = wait
"""


class Database:
    """It accepts, and answers at once or, silent, never."""

    def __init__(self) -> None:
        self.asked: queue.Queue[None] = queue.Queue()  # and not answered
        self.answers = True
        self._asking: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                asking, _ = self._listening.accept()
            except OSError:
                return
            if self.answers:
                asking.send(b"1")
                asking.close()
            else:
                self._asking.append(asking)
                self.asked.put(None)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for asking in self._asking:
            asking.close()


@pytest.fixture
def folder(tmp_path: Path, redis_server: RedisServer) -> Path:
    """A folder with settings for several workers on an empty Redis."""
    redis_server.flushall()
    (tmp_path / "hubbub.toml").write_text(CONFIG.format(url=redis_server.url, drain_time=0.5))
    return tmp_path


@pytest.fixture
def database(folder: Path) -> Iterator[Database]:
    """What the application `asking:hub` asks."""
    found = Database()
    (folder / "asking.py").write_text(_ASKING.format(port=found.port))
    yield found
    found.close()


@contextmanager
def impatient(folder: Path, *arguments: str) -> Iterator[Running]:
    """`hubbub serve` with two workers, and the two signals of _IMPATIENT."""
    process = subprocess.Popen(
        leashed(sys.executable, "-c", _IMPATIENT, "serve", "--port", "0", "--workers", "2", *arguments),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Running(process)
    finally:
        process.kill()
        process.wait()


async def test_a_replacement_that_hangs_costs_nobody_anything(folder: Path, database: Database) -> None:
    with impatient(folder, "asking:hub") as command:
        server = Serving(command)
        before = server.workers()
        async with readers(server, 8) as there:
            database.answers = False
            server.send(signal.SIGHUP)
            await asyncio.to_thread(database.asked.get, timeout=PATIENCE)
            assert len(server.workers()) == 3
            server.send(signal.SIGUSR1)
            assert await server.warned("hubbub.supervisor") == (
                "ERROR hubbub.supervisor: the next worker 1 did not listen within 0.1 seconds and was killed "
                "(does an import wait, or a database?): no more are replaced until the next SIGHUP"
            )
            assert server.workers() == before
            server.send(signal.SIGUSR2)
            await server.publish(1)
            await until(lambda: all(each.data == [1] for each in there))
            assert not any(each.returns for each in there)
            database.answers = True
            server.send(signal.SIGHUP)
            await until(lambda: not before & server.workers() and len(server.workers()) == 2)
            await server.publish(2)
            await until(lambda: all(each.data == [1, 2] for each in there))
        server.send(signal.SIGTERM)
        assert await server.exit_code() == 0
    assert sum("hubbub.supervisor" in line for line in command.errors) == 1


async def test_the_next_sighup_replaces_who_hangs_as_well(folder: Path, database: Database) -> None:
    with impatient(folder, "asking:hub") as command:
        server = Serving(command)
        before = server.workers()
        database.answers = False
        server.send(signal.SIGHUP)
        await asyncio.to_thread(database.asked.get, timeout=PATIENCE)
        (hanging,) = server.workers() - before
        database.answers = True
        server.send(signal.SIGHUP)
        await until(lambda: not (before | {hanging}) & server.workers() and len(server.workers()) == 2)
        async with client(websocket_url(server.port)):
            pass
    assert not command.errors


async def test_sigterm_ends_all_while_a_replacement_hangs(folder: Path, database: Database) -> None:
    with impatient(folder, "asking:hub") as command:
        server = Serving(command)
        database.answers = False
        server.send(signal.SIGHUP)
        await asyncio.to_thread(database.asked.get, timeout=PATIENCE)
        everybody = server.workers()
        assert len(everybody) == 3
        server.send(signal.SIGTERM)
        assert await server.exit_code() == 0
        assert have_ended(everybody)
    assert not command.errors


def test_a_first_start_that_hangs_is_one_line(folder: Path) -> None:
    (folder / "waiting.py").write_text(_WAITING)
    (folder / "hang").touch()
    with impatient(folder, "waiting:hub") as command:
        hanging = awaited(folder, command)
        command.process.send_signal(signal.SIGUSR1)
        assert command.process.wait(PATIENCE) == 1
        assert have_ended({hanging})
        assert command.err.get(timeout=PATIENCE) == (
            "ERROR hubbub.supervisor: worker 1 did not listen within 0.1 seconds and was killed "
            "(does an import wait, or a database?)"
        )
    assert len(command.errors) == 1
    assert command.out.empty()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_who_hangs_when_all_end_ends_as_well(folder: Path, number: int) -> None:
    """With SIGKILL nobody is left to see to that."""
    (folder / "waiting.py").write_text(_WAITING)
    with impatient(folder, "waiting:hub") as command:
        server = Serving(command)
        (folder / "hang").touch()
        server.send(signal.SIGHUP)
        await asyncio.to_thread(awaited, folder, command)
        everybody = server.workers()
        assert len(everybody) == 3
        server.send(number)
        assert await server.exit_code() == (0 if number == signal.SIGTERM else -number)
        await until(lambda: have_ended(everybody))
    assert not command.errors


def awaited(folder: Path, command: Running) -> int:
    """The process that hangs in `_WAITING`, as soon as it does; its first bound is the timeout of the test."""
    while not (found := list(folder.glob("hangs.*"))):
        assert command.process.poll() is None, command.errors
        threading.Event().wait(0.02)
    return int(found[0].suffix[1:])
