"""An address for several processes, and a supervisor whose workers are short scripts that misbehave as told."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from tests.unit.supervisor_support import HERE, NOTED, Stage, lines, stop

from hubbub import listening, supervisor
from hubbub.errors import ConfigurationError
from hubbub.listening import Place
from hubbub.settings import Server
from hubbub.supervisor import VARIABLE, Beginning, Plan, Post, role

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux spreads connections over sockets")


@pytest.fixture
def place() -> Iterator[Place]:
    found = Place(HERE)
    yield found
    found.close()


def port_of(place: Place) -> int:
    return int(place.url.rpartition(":")[2])


def accepted(sockets: list[socket.socket]) -> int:
    """How many wait there, and wait no longer."""
    count = 0
    for each in sockets:
        each.setblocking(False)
        while True:
            try:
                each.accept()[0].close()
            except BlockingIOError:
                break
            count += 1
    return count


def connected(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


def closed(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


# -------------------------------------------------------------------------------------------------- the place


def test_a_place_is_taken_before_anybody_listens(place: Place) -> None:
    port = port_of(place)
    for server in (Server(port=port), Server(port=port, workers=2)):
        with pytest.raises(ConfigurationError, match=f"port {port} of 127.0.0.1 is taken"):
            Place(server)
        with pytest.raises(ConfigurationError, match=f"port {port} of 127.0.0.1 is taken"):
            listening.listen(server)


def test_a_place_is_free_when_it_and_all_its_shares_are_closed(place: Place) -> None:
    share = place.share()
    place.close()
    closed(share)
    closed(listening.listen(Server(port=port_of(place))))


@linux
def test_nobody_is_kept_waiting_by_a_share_whose_process_does_not_listen(place: Place) -> None:
    shares = [place.share() for _ in range(3)]
    with pytest.raises(ConnectionRefusedError):
        connected(port_of(place), 1)
    for share in shares[:2]:
        share[0].listen()
    clients = connected(port_of(place), 100)
    counts = [accepted(share) for share in shares[:2]]
    assert sum(counts) == 100
    assert min(counts) > 10, "the system spreads them"
    closed(clients)
    closed(shares[0])
    clients = connected(port_of(place), 20)
    assert accepted(shares[1]) == 20
    closed([*clients, *shares[1], *shares[2]])


def test_where_the_system_does_not_spread_all_listen_on_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "SPREADS", False)
    place = Place(HERE)
    first, second = place.share(), place.share()
    clients = connected(port_of(place), 3)
    closed(first)
    assert accepted(second) == 3
    closed([*clients, *second])
    place.close()
    with pytest.raises(ConnectionRefusedError):
        connected(port_of(place), 1)


def test_all_addresses_of_a_host_have_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.2", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: both)
    place = Place(HERE)
    share = place.share()
    assert [each.getsockname() for each in share] == [("127.0.0.1", port_of(place)), ("127.0.0.2", port_of(place))]
    closed(share)
    place.close()


def test_the_path_of_a_unix_socket_is_there_until_the_place_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    place = Place(Server(unix=str(path), workers=2))
    assert place.url == f"unix:{path}"
    with pytest.raises(ConfigurationError, match="is taken: a server listens there"):
        Place(Server(unix=str(path), workers=2))
    share = place.share()
    place.close()
    place.close()
    assert not path.exists()
    closed(share)
    with pytest.raises(ConfigurationError, match=r"server\.unix = .*too long"):
        Place(Server(unix=str(tmp_path / ("s" * 200)), workers=2))


# --------------------------------------------------------------------------------------------------- the role


def test_a_role_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert role() is None
    told: list[dict[str, str]] = []

    def execve(program: str, command: list[str], environment: dict[str, str]) -> NoReturn:
        told.append(environment)
        raise InterruptedError  # this process goes on

    monkeypatch.setattr(os, "execve", execve)
    beginning = Beginning.now()
    monkeypatch.setenv("CHANGED", "by an application")
    with pytest.raises(InterruptedError):
        beginning.again(Plan(Server(workers=3, unix="s", allowed_origins=("*",))))
    (environment,) = told
    assert "CHANGED" not in environment
    monkeypatch.setenv(VARIABLE, environment[VARIABLE])
    assert role() == Plan(Server(workers=3, unix="s", allowed_origins=("*",)))
    assert role() is None
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("text", ["", "4", '{"type": "boss"}', '{"type": "worker"}'])
def test_a_role_that_nobody_gave_is_a_mistake(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigurationError, match="unset it"):
        role()


# --------------------------------------------------------------------------------------------- the supervisor


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    return Stage(monkeypatch, tmp_path)


@pytest.mark.parametrize(("number", "order", "code"), [(signal.SIGTERM, "d", 0), (signal.SIGINT, "h", 130)])
def test_workers_are_told_to_leave_and_the_end_is_well(stage: Stage, number: int, order: str, code: int) -> None:
    script = NOTED + "listens(); note(order().decode())"
    assert stage.run(script, lambda: stop(number)) == code
    assert len(stage.urls) == 1
    assert lines(stage.script.with_name("worker.py.notes"), 2) == [order, order]


def test_a_second_signal_is_passed_on(stage: Stage) -> None:
    notes = stage.script.with_name("worker.py.notes")

    def twice() -> None:
        stop()
        lines(notes, 2)
        stop()

    assert stage.run(NOTED + "listens(); note(order()); note(order())", twice) == 0
    assert sorted(lines(notes, 4)) == ["b'd'", "b'd'", "b'h'", "b'h'"]


def test_workers_are_replaced_one_after_the_other(stage: Stage) -> None:
    notes = stage.script.with_name("worker.py.notes")

    def replace() -> None:
        stop(signal.SIGHUP)
        lines(notes, 6)  # two came; two more came, and two went
        stop()

    script = NOTED + 'note("comes", post["number"]); listens()\nif order() == b"s": note("goes", post["number"])'
    assert stage.run(script, replace) == 0
    first, second, *rest = lines(notes, 6)
    assert [first, second] == ["comes 1", "comes 2"]
    assert rest == ["comes 1", "goes 1", "comes 2", "goes 2"]


def test_whoever_dies_is_started_again(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    notes = stage.script.with_name("worker.py.notes")

    def wait() -> None:
        lines(notes, 5)
        stop()

    script = NOTED + (
        'note(post["number"]); listens()\n'
        'if post["number"] == 2 and open(sys.argv[0] + ".notes").read().count("2") < 4: os.kill(os.getpid(), 9)\n'
        "order()"
    )
    assert stage.run(script, wait) == 0
    assert lines(notes, 5) == ["1", "2", "2", "2", "2"]
    assert caplog.text.count("was ended by SIGKILL") == 3
    assert caplog.text.count("worker 2 is started again in 0.") == 3


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("sys.exit(1)", 1, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit(0)", 1, "worker 1 ended with exit code 0 before it listened"),
        ("os.kill(os.getpid(), 9)", 1, "worker 1 was ended by SIGKILL before it listened"),
        ("os.kill(os.getpid(), 40)", 1, "worker 1 was ended by signal 40 before it listened"),
    ],
)
def test_if_the_first_cannot_start_none_is_tried(
    stage: Stage, script: str, code: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    notes = stage.script.with_name("worker.py.notes")
    assert stage.run(f"{NOTED}note('here'); {script}") == code
    assert notes.read_text() == "here\n"
    assert [record.getMessage() for record in caplog.records] == ([said] if said else [])
    assert not stage.urls


def test_if_another_cannot_start_all_end(stage: Stage) -> None:
    assert stage.run('if post["number"] == 2: sys.exit(1)\nlistens(); order()') == 1
    assert not stage.urls


def test_a_program_that_is_gone_is_said(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "_command", lambda: [str(stage.script.with_name("nothing"))])
    assert stage.run("") == 1
    assert "worker 1 cannot be started: No such file or directory" in caplog.text


def test_whoever_does_not_end_is_killed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 0.1)
    with caplog.at_level(logging.ERROR):
        assert stage.run("listens()\nwhile True: time.sleep(60)", stop) == 0
    assert caplog.text.count("does not end: it is killed") >= 2


def test_the_end_does_not_wait_for_those_that_do_not_listen_yet(stage: Stage) -> None:
    notes = stage.script.with_name("worker.py.notes")

    def hang_up() -> None:
        lines(notes, 1)
        stop()

    thread = threading.Thread(target=hang_up)
    thread.start()
    assert stage.run(NOTED + 'note("here")\nwhile True: time.sleep(60)') == 0
    thread.join()
    assert not stage.urls


# -------------------------------------------------------------------------------------------------- its post


def test_a_worker_knows_its_post_and_what_it_starts_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    monkeypatch.setenv(VARIABLE, f'{{"type": "worker", "number": 2, "sockets": [], "line": {theirs.fileno()}}}')
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        assert role() == Post(2, (), theirs.fileno())
        assert not theirs.get_inheritable()
        assert VARIABLE not in os.environ
        stop(signal.SIGHUP)
        stop(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()


def test_a_supervisor_is_small() -> None:
    code = "import sys, hubbub.cli.serve, hubbub.supervisor; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"asyncio", "hubbub.app", "hubbub.core", "redis", "ssl", "starlette", "uvicorn"} & set(said.split())
