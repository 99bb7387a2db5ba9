"""Commands as processes of their own, as a shell starts them.

Answers for: starting `hubbub …` in a folder and with no settings but those of the test, reading what it prints while it
runs, and leaving nothing behind. Refuses to know: what is tested.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.serving import ROOT, leashed

#: Seconds. A loaded machine needs a few to import everything.
PATIENCE = 20.0


def environment(**more: str) -> dict[str, str]:
    """This process's, without its settings, and with the package where the test started."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")}
    return {**kept, "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1", **more}


def ran(folder: Path, *arguments: str, given: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A command that ends by itself."""
    return subprocess.run(
        leashed(sys.executable, "-m", "hubbub", *arguments),
        cwd=folder,
        env=environment(**variables),
        input=given,
        capture_output=True,
        timeout=PATIENCE,
    )


def refusal(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    """The one line of a command that could not."""
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert said.count("\n") == 1, said
    assert not done.stdout
    return said.rstrip()


class Running:
    """A command that runs until it is told to end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.out: queue.Queue[str] = queue.Queue()
        self.err: queue.Queue[str] = queue.Queue()
        self.errors: list[str] = []
        assert process.stdout is not None, "it was asked for"
        assert process.stderr is not None, "it was asked for"
        for stream, lines in ((process.stdout, self.out), (process.stderr, self.err)):
            threading.Thread(target=self._read, args=(stream, lines), daemon=True).start()

    def line(self) -> str:
        """The next line that it prints."""
        return self.out.get(timeout=PATIENCE)

    def warned(self, text: str) -> str:
        """The next line on stderr with this text."""
        while True:
            line = self.err.get(timeout=PATIENCE)
            if text in line:
                return line

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)

    def _read(self, stream: IO[str], lines: queue.Queue[str]) -> None:
        with stream:
            for line in stream:
                if lines is self.err:
                    self.errors.append(line)
                lines.put(line.rstrip("\n"))


@contextmanager
def running(folder: Path, *arguments: str, **variables: str) -> Iterator[Running]:
    """A command for as long as this lasts."""
    process = subprocess.Popen(
        leashed(sys.executable, "-m", "hubbub", *arguments),
        cwd=folder,
        env=environment(**variables),
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
