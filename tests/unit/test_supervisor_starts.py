"""Starts that hang or fail, while a supervisor replaces its workers, ends, or has only just begun."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import threading
from pathlib import Path

import pytest
from tests.unit.supervisor_support import NOTED, Stage, lines, stop

from hubbub import supervisor
from hubbub.redis.backoff import Backoff

#: With a file beside it, a script does what the file says and comes no further.
HELD = (
    NOTED
    + """
try:
    held = open(sys.argv[0] + ".held").read()
except FileNotFoundError:
    held = ""
if held == "deaf": signal.signal(signal.SIGTERM, signal.SIG_IGN)
note(held or "comes", post["number"], os.getpid())
if held == "dies": sys.exit(3)
while held: time.sleep(60)
listens()
if order() == b"s": note("goes", post["number"])
"""
)


class Held:
    """What is written for scripts, and what they have noted."""

    def __init__(self, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
        self._how = stage.script.with_name("worker.py.held")
        self._notes = stage.script.with_name("worker.py.notes")
        self._caplog = caplog

    def hold(self, how: str) -> None:
        self._how.write_text(how)

    def release(self) -> None:
        self._how.unlink()

    def noted(self, word: str, count: int) -> list[list[str]]:
        """What followed the word, once it was noted so often. The timeout of the test is its bound."""
        while True:
            found = [line.split() for line in lines(self._notes, 1)]
            if len(rest := [line[1:] for line in found if line[0] == word]) >= count:
                return rest
            threading.Event().wait(0.01)

    def said(self, text: str, count: int = 1) -> None:
        """Returns once it was logged so often."""
        while self._caplog.text.count(text) < count:
            threading.Event().wait(0.01)

    def errors(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records if record.levelno >= logging.ERROR]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    return Stage(monkeypatch, tmp_path)


@pytest.fixture
def held(stage: Stage, caplog: pytest.LogCaptureFixture) -> Held:
    caplog.set_level(logging.INFO)
    return Held(stage, caplog)


def has_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


LATE = "did not listen within 0.1 seconds and was killed (does an import wait, or a database?)"


def test_if_the_first_hangs_at_its_start_none_is_tried(
    stage: Stage, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "START", 0.1)
    held.hold("deaf")
    assert stage.run(HELD) == 1
    assert held.errors() == [f"worker 1 {LATE}"]
    assert not stage.urls


def test_if_another_hangs_at_its_start_all_end(stage: Stage, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient() -> None:
        held.noted("hangs", 1)
        monkeypatch.setattr(supervisor, "START", 0.1)
        stop(signal.SIGCHLD)  # look at the clock

    thread = threading.Thread(target=impatient)
    thread.start()
    script = NOTED + 'if post["number"] == 2:\n    note("hangs")\n    time.sleep(600)\nlistens(); note(order())'
    assert stage.run(script) == 1
    thread.join()
    assert held.errors() == [f"worker 2 {LATE}"]
    assert held.noted("b'h'", 1)
    assert not stage.urls


def test_a_replacement_that_hangs_is_killed_and_the_old_ones_stay(
    stage: Stage, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace() -> None:
        held.hold("deaf")
        stop(signal.SIGHUP)
        ((number, process),) = held.noted("deaf", 1)
        assert number == "1"
        with monkeypatch.context() as impatient:
            impatient.setattr(supervisor, "START", 0.1)
            stop(signal.SIGCHLD)
            held.said(LATE)
        held.said("no more are replaced")
        assert has_gone(int(process))
        held.release()
        stop(signal.SIGHUP)
        held.noted("goes", 2)
        stop()

    assert stage.run(HELD, replace) == 0
    assert held.errors() == [f"the next worker 1 {LATE}: no more are replaced until the next SIGHUP"]
    assert [number for number, _ in held.noted("comes", 4)] == ["1", "2", "1", "2"]
    assert held.noted("goes", 2) == [["1"], ["2"]]


def test_who_hangs_on_an_empty_seat_is_killed_and_tried_again(
    stage: Stage, held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cut() -> None:
        held.hold("deaf")
        os.kill(int(held.noted("comes", 2)[1][1]), signal.SIGKILL)
        held.noted("deaf", 1)
        with monkeypatch.context() as impatient:
            impatient.setattr(supervisor, "START", 0.1)
            held.release()
            stop(signal.SIGCHLD)
            held.said(LATE)
        held.said("worker 2 is started again in", 2)
        held.said("worker 2 listens")
        stop()

    assert stage.run(HELD, cut) == 0
    assert not held.errors()
    process = held.noted("deaf", 1)[0][1]
    assert f"worker 2 (process {process}) {LATE}" in caplog.text


@pytest.mark.parametrize("how", ["hangs", "deaf"])
def test_another_sighup_does_not_wait_for_who_hangs(
    stage: Stage, held: Held, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it began with may be old by now, whatever it waits for."""
    monkeypatch.setattr(supervisor, "PROMPT", 0.1 if how == "deaf" else 1e6)

    def replace() -> None:
        held.hold(how)
        stop(signal.SIGHUP)
        ((_, process),) = held.noted(how, 1)
        held.release()
        stop(signal.SIGHUP)
        held.noted("goes", 2)
        assert has_gone(int(process))
        stop()

    assert stage.run(HELD, replace) == 0
    assert [number for number, _ in held.noted("comes", 4)] == ["1", "2", "1", "2"]
    (process,) = (process for _, process in held.noted(how, 1))
    killed = f"worker 1 (process {process}) does not end: it is killed"
    assert held.errors() == ([killed] if how == "deaf" else [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_does_not_wait_for_a_replacement_that_hangs(
    stage: Stage, held: Held, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PROMPT", 0.1)
    monkeypatch.setattr(supervisor, "GRACE", 1e6)

    def end() -> None:
        held.hold("deaf")
        stop(signal.SIGHUP)
        held.noted("deaf", 1)
        stop(number)

    assert stage.run(HELD, end) == (0 if number == signal.SIGTERM else 130)
    assert has_gone(int(held.noted("deaf", 1)[0][1]))


def test_a_replacement_that_dies_is_not_tried_again_before_the_next_sighup(stage: Stage, held: Held) -> None:
    def replace() -> None:
        held.hold("dies")
        for count in (1, 2, 3):
            stop(signal.SIGHUP)
            held.said("no more are replaced", count)
        stop()

    assert stage.run(HELD, replace) == 0
    assert len(held.noted("dies", 3)) == 3
    why = "ended with exit code 3 before it listened"
    assert held.errors() == [f"the next worker 1 {why}: no more are replaced until the next SIGHUP"] * 3


def test_who_dies_at_once_again_and_again_waits_for_longer_and_longer(
    stage: Stage, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    class Growing(Backoff):
        def next(self) -> float:
            super().next()
            return 0.01 if self.attempt < 4 else 1e6

    looks = 0

    class Counted(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            nonlocal looks
            looks += 1
            pauses.append(timeout or 0.0)
            return super().select(timeout)

    monkeypatch.setattr(supervisor, "Backoff", Growing)
    monkeypatch.setattr(selectors, "DefaultSelector", Counted)

    def cut() -> None:
        held.hold("dies")
        os.kill(int(held.noted("comes", 2)[1][1]), signal.SIGKILL)
        held.said("worker 2 is started again in 1000000.0 seconds")
        while max(pauses) < 9e5:
            threading.Event().wait(0.01)
        stop()

    assert stage.run(HELD, cut) == 0
    assert len(held.noted("dies", 3)) == 3
    assert looks < 100, "it sleeps until there is something to do"


def test_who_is_killed_while_it_drains_is_missed_and_the_others_are_replaced(
    stage: Stage, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    def replace() -> None:
        stop(signal.SIGHUP)
        for count in (1, 2):
            os.kill(int(held.noted("drains", count)[-1][0]), signal.SIGKILL)
        held.said("has been replaced", 2)
        stop()

    script = NOTED + (
        'note("comes", post["number"], os.getpid()); listens()\n'
        'if order() == b"s":\n    note("drains", os.getpid())\n    while True: time.sleep(60)'
    )
    assert stage.run(script, replace) == 0
    for number, process in held.noted("comes", 4)[:2]:
        assert f"worker {number} (process {process}) was ended by SIGKILL while it drained" in caplog.text
    assert not held.errors()
