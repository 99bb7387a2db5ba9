"""`hubbub serve --workers`: several processes on one address, which come and go, and what their clients see of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from tests.backends import RedisServer
from tests.integration.certificates import Certificate
from tests.integration.commands import Running, environment, refusal, running
from tests.integration.support import client
from tests.integration.workers_support import (
    CONFIG,
    CROWD,
    PATIENCE,
    WORKERS,
    Serving,
    crowd,
    have_ended,
    port_of,
    readers,
    serving,
    until,
)
from tests.serving import leashed, websocket_url
from tests.talking import talker

pytestmark = pytest.mark.timeout(300)

_TERMINAL = "import pty, sys; pty.spawn(sys.argv[1:])"


@pytest.fixture
def folder(tmp_path: Path, redis_server: RedisServer) -> Path:
    """A folder with settings for several workers on an empty Redis."""
    redis_server.flushall()
    (tmp_path / "hubbub.toml").write_text(CONFIG.format(url=redis_server.url, drain_time=0.5))
    return tmp_path


def told(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A command that ends by itself, beside all these processes."""
    command = leashed(sys.executable, "-m", "hubbub", *arguments)
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, timeout=PATIENCE)


# ------------------------------------------------------------------------------------------------ one address


async def test_workers_share_a_port_and_what_one_publishes_all_hear(folder: Path) -> None:
    with serving(folder, "--workers", str(WORKERS)) as server:
        assert server.count == WORKERS == len(server.workers())
        async with AsyncExitStack() as stack:
            clients = await crowd(stack, server)
            held = server.of({port_of(each) for each in clients})
            assert set(held) == server.workers()
            assert sum(map(len, held.values())) == CROWD
            await server.publish(1)
            for each in clients:
                assert (await each.push())["pub"]["data"] == 1


def test_the_settings_of_an_application_count_as_well(folder: Path, redis_server: RedisServer) -> None:
    (folder / "hubbub.toml").unlink()
    (folder / "page.html").write_text("<p>hello")
    (folder / "chat.py").write_text(
        "import os\n"
        "from hubbub import Hubbub\n"
        f"hub = Hubbub({redis_server.url!r}, server={{'workers': 3}})\n"
        "os.environ['CHANGED'] = 'by the application'\n"
        "with open('loaded', 'a') as loaded: loaded.write(f'{os.getpid()}\\n')\n"
        "os.chdir('/')\n"
    )
    with serving(folder, "chat:hub", "--dev", "--page", str(folder / "page.html")) as server:
        assert server.count == 3
        assert sum("auth.insecure = true (--dev)" in note for note in server.notes) == 1
        with urllib.request.urlopen(f"{server.url}/") as answer:
            assert answer.read() == b"<p>hello"
        supervisor = server.command.process.pid
        loaded = {int(line) for line in (folder / "loaded").read_text().split()}
        assert loaded == server.workers() | {supervisor}
        assert "CHANGED" not in psutil.Process(supervisor).environ()
        maps = Path(f"/proc/{supervisor}/maps").read_text()
        assert "uvloop" not in maps
        assert "picows" not in maps
        server.send(signal.SIGINT)
        assert server.command.process.wait(PATIENCE) == 130
    assert not server.command.errors


async def test_workers_behind_a_unix_socket(folder: Path) -> None:
    path = folder / "hubbub.sock"
    text = (folder / "hubbub.toml").read_text().replace("[server]", f'[server]\nworkers = 2\nunix = "{path}"')
    (folder / "hubbub.toml").write_text(text)
    with running(folder, "serve") as command:
        server = Serving(command)
        assert server.url == f"unix:{path}"
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client(str(path))) for _ in range(10)]
            for each in clients:
                await each.call("subscribe", channel="news")
            assert told(folder, "pub", "news", "1").returncode == 0
            for each in clients:
                assert (await each.push())["pub"]["data"] == 1
            said = refusal(told(folder, "serve"), 2)
            assert said == f"hubbub: server.unix = {str(path)!r} is taken: a server listens there"
            server.send(signal.SIGHUP)
            assert {await each.closed() for each in clients} == {(3001, "shutdown")}
            async with client(str(path)):
                pass
            server.send(signal.SIGTERM)
            assert await server.exit_code() == 0
    assert not path.exists()


def test_workers_with_tls(folder: Path, certificate: Certificate) -> None:
    text = (folder / "hubbub.toml").read_text()
    tls = f'[server]\ntls_certificate = "{certificate.file}"\ntls_key = "{certificate.key}"'
    (folder / "hubbub.toml").write_text(text.replace("[server]", tls))
    with serving(folder, "--workers", "2") as server:
        assert server.url.startswith("https://")
        with urllib.request.urlopen(f"https://localhost:{server.port}/health", context=certificate.trusted) as answer:
            assert answer.status == 200


# ---------------------------------------------------------------------------------------------- one that dies


async def test_a_worker_that_is_killed_is_started_again_and_its_clients_miss_nothing(folder: Path) -> None:
    with serving(folder, "--workers", str(WORKERS)) as server:
        before = server.workers()
        async with readers(server, CROWD, patient=True) as there:
            for number in range(20):
                await server.publish(number)
            held = server.of({each.port for each in there})
            victim = next(iter(held))
            cut = [each for each in there if each.port in held[victim]]
            os.kill(victim, signal.SIGKILL)
            for number in range(20, 100):
                await server.publish(number)
            await until(lambda: all(len(each.data) >= 100 for each in there))
            assert all(each.data == list(range(100)) for each in there)
            assert [each.returns for each in there] == [int(each in cut) for each in there]
            await until(lambda: len(server.workers()) == WORKERS)
            assert server.workers() > before - {victim}
            (successor,) = server.workers() - before
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(PATIENCE):
                    while successor not in server.of({port_of(each) for each in await crowd(stack, server, 4)}):
                        pass
            said = await server.warned("SIGKILL")
            assert (
                said == f"WARNING hubbub.supervisor: worker {said.split()[3]} (process {victim}) was ended by SIGKILL"
            )


async def test_who_cannot_start_again_is_tried_again(folder: Path) -> None:
    settings = folder / "hubbub.toml"
    good = settings.read_text()
    with serving(folder, "--workers", "2") as server:
        before = server.workers()
        settings.write_text(good.replace("ping_interval", "ping_intervall"))
        victim = before.pop()
        os.kill(victim, signal.SIGKILL)
        for _ in range(2):
            await server.warned("unknown setting client.ping_intervall")
            await server.warned("ended with exit code 2")
        await server.publish(1)
        server.send(signal.SIGHUP)  # which is of no use now, and does no harm
        await server.warned("before it listened: no more are replaced")
        assert before < server.workers() or before == server.workers()
        settings.write_text(good)
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(PATIENCE):
                while len(server.of({port_of(each) for each in await crowd(stack, server, 4)})) < 2:
                    pass


# ------------------------------------------------------------------------------------------------- all leave


async def test_sigterm_drains_all_workers_and_ends_well(folder: Path) -> None:
    with serving(folder, "--workers", "2") as server:
        workers = server.workers()
        async with AsyncExitStack() as stack:
            clients = await crowd(stack, server)
            server.send(signal.SIGTERM)
            assert {await each.closed() for each in clients} == {(3001, "shutdown")}
        assert await server.exit_code() == 0
        assert not [worker for worker in workers if psutil.pid_exists(worker)]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
    assert not server.command.errors


async def test_a_signal_to_everybody_is_one_and_only_a_second_one_takes_no_time(folder: Path) -> None:
    """As service managers stop what they have started."""
    text = (folder / "hubbub.toml").read_text()
    (folder / "hubbub.toml").write_text(text.replace("drain_time = 0.5", "drain_time = 600"))
    with serving(folder, "--workers", "2") as server:
        async with AsyncExitStack() as stack:
            clients = await crowd(stack, server)
            for process in (*server.workers(), server.command.process.pid):
                os.kill(process, signal.SIGTERM)
            leaving = [asyncio.ensure_future(each.closed()) for each in clients]
            await asyncio.wait(leaving, return_when=asyncio.FIRST_COMPLETED)
            await until(lambda: not_listening(server.port))
            assert sum(not each.done() for each in leaving) > CROWD / 2
            server.send(signal.SIGTERM)
            assert set(await asyncio.gather(*leaving)) == {(3001, "shutdown")}
        assert await server.exit_code() == 0


def not_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_ctrl_c_of_a_terminal_ends_all_at_once_and_quietly(folder: Path) -> None:
    text = (folder / "hubbub.toml").read_text()
    (folder / "hubbub.toml").write_text(text.replace("drain_time = 0.5", "drain_time = 600"))
    with serving(folder, "--workers", "2") as server:
        async with AsyncExitStack() as stack:
            clients = await crowd(stack, server, 8)
            for process in (*server.workers(), server.command.process.pid):
                os.kill(process, signal.SIGINT)
            assert {await each.closed() for each in clients} == {(3001, "shutdown")}
        assert await server.exit_code() == 130
    assert not server.command.errors


async def test_a_terminal_that_is_closed_ends_all(folder: Path) -> None:
    with on_a_terminal(folder, "serve", "--port", "0", "--workers", "2") as terminal:
        server = Serving(terminal)
        everybody = server.workers()  # and the supervisor, whose parent is the terminal here
        assert len(everybody) == 3
        async with client(websocket_url(server.port)) as somebody:
            server.send(signal.SIGKILL)
            assert await somebody.closed() == (3001, "shutdown")
        await until(lambda: have_ended(everybody))


@contextmanager
def on_a_terminal(folder: Path, *arguments: str) -> Iterator[Running]:
    """A command on a terminal that closes with the process."""
    process = subprocess.Popen(
        leashed(sys.executable, "-c", _TERMINAL, sys.executable, "-m", "hubbub", *arguments),
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


async def test_workers_do_not_outlive_their_supervisor(folder: Path) -> None:
    with serving(folder, "--workers", "2") as server:
        workers = server.workers()
        async with AsyncExitStack() as stack:
            clients = await crowd(stack, server, 8)
            server.send(signal.SIGKILL)
            assert {await each.closed() for each in clients} == {(3001, "shutdown")}
        await until(lambda: have_ended(workers))
        assert not_listening(server.port)


# -------------------------------------------------------------------------------------- one after the other


async def test_a_rolling_restart_refuses_nobody_and_loses_nothing(folder: Path) -> None:
    with serving(folder, "--workers", "3", "-v") as server:
        before = server.workers()
        most = 0
        visitors = 0

        async def visit() -> None:
            """Come, be served, go: any refusal, reset or status but 101 is raised here."""
            nonlocal visitors
            while True:
                async with talker(server.port) as talking:
                    await talking.call("connect")
                    visitors += 1
                    await asyncio.sleep(0.01)

        async with readers(server, 12) as there, asyncio.TaskGroup() as group:
            visiting = [group.create_task(visit()) for _ in range(4)]
            server.send(signal.SIGHUP)
            number = 0
            async with asyncio.timeout(2 * PATIENCE):
                while before & server.workers() or len(server.workers()) > 3:
                    most = max(most, len(server.workers()))
                    await server.publish(number)
                    number += 1
            for task in visiting:
                task.cancel()
            await until(lambda: all(len(each.data) >= number for each in there))
            assert all(each.data == list(range(number)) for each in there)
            assert all(each.returns for each in there)
        assert most == 4  # never two at a time
        assert visitors > 50
        for place in (1, 2, 3):
            await server.warned(f"worker {place} has been replaced")


# --------------------------------------------------------------------------------------------- never begun


def test_a_taken_port_is_one_line(folder: Path) -> None:
    with serving(folder, "--workers", "2") as server:
        said = refusal(told(folder, "serve", "--workers", "2", "--port", str(server.port)), 2)
        assert said.startswith(f"hubbub: port {server.port} of 127.0.0.1 is taken: choose another by --port")


def test_a_mistake_in_the_settings_is_one_line(folder: Path) -> None:
    with (folder / "hubbub.toml").open("a") as settings:
        settings.write("[server.nonsense]\n")
    assert refusal(told(folder, "serve", "--workers", "4", "--port", "0"), 2).startswith("hubbub: hubbub.toml: ")


@pytest.mark.parametrize("workers", ["1", "4"])
def test_a_redis_that_is_not_there_is_one_line(workers: str, tmp_path: Path) -> None:
    (tmp_path / "hubbub.toml").write_text(CONFIG.format(url="redis://127.0.0.1:1", drain_time=0))
    done = told(tmp_path, "serve", "--workers", workers, "--port", "0")
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("hubbub: redis://127.0.0.1:1/0 cannot be reached")


def test_what_workers_have_in_memory_they_do_not_share(tmp_path: Path) -> None:
    said = refusal(told(tmp_path, "serve", "--workers", "2", "--dev"), 2)
    assert said.startswith("hubbub: argument: server.workers = 2: more than one needs a shared broker, such as ")
