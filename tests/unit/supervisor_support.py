"""A supervisor whose workers are short scripts, processes of their own that misbehave as told.

Answers for: running it in the thread of the test, and waiting for what its workers have noted. Refuses to know: what is
tested.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hubbub import supervisor
from hubbub.settings import Server
from hubbub.supervisor import Supervisor

HERE = Server(port=0, workers=2, drain_time=0.0)

#: A worker as far as its supervisor can tell. `order` reads what it is told.
WORKER = """
import json, os, signal, socket, sys, time
post = json.loads(os.environ["HUBBUB_SERVE_AS"])
line = socket.socket(fileno=post["line"])
def listens():
    for each in post["sockets"]:
        socket.socket(fileno=each).listen()
    line.send(b"r")
def order():
    return line.recv(1)
"""


class Stage:
    """Runs a supervisor of scripts in this thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.script = folder / "worker.py"
        self.urls: list[str] = []
        monkeypatch.setattr(supervisor, "_command", lambda: [sys.executable, str(self.script)])
        monkeypatch.setattr(supervisor, "FIRST", 0.01)

    def run(self, script: str, then: Callable[[], None] | None = None, server: Server = HERE) -> int:
        """The exit code. `then` is done in a thread once all workers listen."""
        self.script.write_text(WORKER + script)
        threads: list[threading.Thread] = []

        def ready(url: str) -> None:
            self.urls.append(url)
            threads.append(threading.Thread(target=then))
            threads[0].start()

        try:
            return Supervisor(server, on_ready=ready).run()
        finally:
            for thread in threads:
                thread.join()


def stop(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def lines(path: Path, count: int) -> list[str]:
    """What scripts have written, once it is so much. The timeout of the test is its bound."""
    while not path.exists() or len(found := path.read_text().splitlines()) < count:
        threading.Event().wait(0.01)
    return found


NOTED = """
def note(*what):
    with open(sys.argv[0] + ".notes", "a") as notes: notes.write(" ".join(map(str, what)) + "\\n")
"""
