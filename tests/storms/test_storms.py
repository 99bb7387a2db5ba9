"""Storms: each fault blows once over two nodes and a crowd on Redis, and once on Valkey, beside a PostgreSQL.

What must hold afterwards stands in `tests/storms/__main__.py`. They all blow at the same time, in a process of its own,
because most of a storm is waiting; each test waits for the verdict on its fault.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.backends import KINDS, Kind, need_program, program_of
from tests.databases import VERSIONS, need_programs, programs_of
from tests.serving import ROOT, leashed
from tests.storms.faults import FAULTS

#: Seconds for all of them together, on a machine that has much else to do.
BOUND = 600


class Weather:
    """The process in which the storms of one run blow, and what it has said so far."""

    def __init__(self, chosen: dict[Kind, list[str]]) -> None:
        self._verdicts: dict[tuple[str, str], dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._open = len(chosen)
        self._chosen = chosen
        self._processes: list[subprocess.Popen[str]] = []
        self._errors = ""

    def start(self) -> None:
        for kind, faults in self._chosen.items():
            command = leashed(sys.executable, "-m", "tests.storms", "--json", "--kind", kind, "--faults", *faults)
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self._processes.append(process)
            for read in (self._read_verdicts, self._read_errors):
                threading.Thread(target=read, args=(process,), daemon=True).start()

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def verdict(self, kind: Kind, fault: str) -> list[str]:
        """What was wrong. Fails the test if the storms ended without one, skips it if the fault could not blow here."""
        with self._changed:
            self._changed.wait_for(lambda: (kind, fault) in self._verdicts or not self._open, BOUND)
            if (found := self._verdicts.get((kind, fault))) is None:
                pytest.fail(f"there is no verdict; the storms said:\n{self._errors}")
            if found["skipped"]:
                pytest.skip(found["skipped"])
            wrong: list[str] = found["wrong"]
            return wrong

    def _read_verdicts(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None, "it was asked for"
        with process.stdout as lines:
            for line in lines:
                verdict = json.loads(line)
                with self._changed:
                    self._verdicts[verdict["kind"], verdict["fault"]] = verdict
                    self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _read_errors(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None, "it was asked for"
        with process.stderr as lines:
            for line in lines:
                self._errors += line


@pytest.fixture(scope="module")
def weather(request: pytest.FixtureRequest) -> Iterator[Weather]:
    """Only those storms blow whose tests were chosen."""
    chosen: dict[Kind, list[str]] = {}
    for item in request.session.items:
        if item.path == request.path:
            parameters = item.callspec.params  # type: ignore[attr-defined]  # all tests of this file have them
            if program_of(parameters["kind"]):
                chosen.setdefault(parameters["kind"], []).append(parameters["fault"])
    storms = Weather(chosen)
    storms.start()
    yield storms
    storms.stop()


@pytest.mark.timeout(BOUND)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_everybody_recovers(weather: Weather, kind: Kind, fault: str) -> None:
    need_program(kind)
    if not any(map(programs_of, VERSIONS)):
        need_programs("postgres18")
    wrong = weather.verdict(kind, fault)
    assert not wrong, "\n".join(wrong)
