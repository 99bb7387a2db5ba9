"""The processes under test: how they are started, pinned, watched and stopped.

Answers for: one server, floor or contender on a core of its own, its CPU time and memory as the kernel counts them, and
the few questions to the server's HTTP API. Refuses to know: what is measured, and clients.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

#: Cores of the machine: the first for what is measured, the last for whoever loads it.
CORES = sorted(os.sched_getaffinity(0))

API_KEY = "bench"

#: What every server under test has in common. Rules as in production: every right is looked up. Pings are the
#: affair of another clock than ours, and would only add noise.
CONFIG = f"""
[server]
allowed_origins = ["*"]

[auth]
anonymous = true

[api]
key = "{API_KEY}"

[broker]
url = "{{broker}}"

[client]
ping_interval = "30m"
{{client}}

[channels.default]
delivery = "live"
subscribe = "anyone"
publish = "anyone"

[channels.recent]
delivery = "recent"
history_size = 10000
subscribe = "anyone"
publish = "anyone"
"""


class Memory(NamedTuple):
    """Bytes of a process: resident, proportional, private, and the highest resident so far."""

    rss: int
    pss: int
    uss: int
    peak: int


def cpu_of(pid: int) -> float:
    """Seconds of CPU time so far, user and system, of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


class Process:
    """Something under test, alone on its core; with `is_load` it stays where the load is."""

    def __init__(self, command: list[str], *, is_load: bool = False) -> None:
        self._popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment())
        self._watched = psutil.Process(self._popen.pid)
        if not is_load:
            self._watched.cpu_affinity([CORES[0]])
        self.port = self._listening()

    @property
    def pid(self) -> int:
        """For profilers."""
        return self._popen.pid

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        return cpu_of(self.pid)

    def memory(self) -> Memory:
        """How much it holds now."""
        full = self._watched.memory_full_info()
        status = Path(f"/proc/{self.pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        return Memory(full.rss, full.pss, full.uss, peak)

    def stop(self) -> None:
        """End it, kindly at first."""
        self._popen.terminate()
        try:
            self._popen.wait(20)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        assert self._popen.stdout is not None
        self._popen.stdout.close()

    def _listening(self) -> int:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            if " listens on " in line:
                return int(line.rpartition(":")[2])
        raise RuntimeError(f"it ended before it listened: exit code {self._popen.wait()}")


class Server(Process):
    """`hubbub serve`, asked over its HTTP API."""

    def ask(self, operation: str, **request: Any) -> dict[str, Any]:
        """One operation; raises RuntimeError if it is refused."""
        url = f"http://127.0.0.1:{self.port}/api/{operation}"
        headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(request).encode(), headers)) as response:
            answer: dict[str, Any] = json.load(response)
        if "error" in answer:
            raise RuntimeError(f"{operation}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def info(self) -> dict[str, Any]:
        """What the node says about itself."""
        node: dict[str, Any] = self.ask("info")["nodes"][0]
        return node

    def metrics(self) -> dict[str, int]:
        """Its counters."""
        metrics: dict[str, int] = self.info()["metrics"]["items"]
        return metrics

    def wait_for_clients(self, count: int, seconds: float = 60.0) -> None:
        """Until it has exactly that many connections."""
        deadline = time.monotonic() + seconds
        while (have := self.info()["num_clients"]) != count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server has {have} clients, not {count}, after {seconds:.0f} s")
            time.sleep(0.05)


class Contender(Process):
    """One library that publishes or listens, see `contenders`."""

    def __init__(self, kind: str, url: str) -> None:
        super().__init__([sys.executable, str(Path(__file__).with_name("contenders.py")), kind, url])
        self._control = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self._answers = self._control.makefile("rb")

    def obey(self, **order: int) -> int:
        """Give an order, and return when it is done: all that it has published or heard. Raises RuntimeError."""
        self._control.sendall(json.dumps(order).encode() + b"\n")
        answer = self._answers.readline()
        if not answer:
            raise RuntimeError(f"it ended over {order}")
        return int(answer)

    def stop(self) -> None:
        """Let it end by itself."""
        self._answers.close()
        self._control.close()
        super().stop()


@contextmanager
def server(client: str = "", *, broker: str = "memory://", is_load: bool = False) -> Iterator[Server]:
    """A fresh server; `client` is added to its [client] settings."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "hubbub.toml"
        config.write_text(CONFIG.format(client=client, broker=broker))
        command = [sys.executable, "-m", "hubbub", "serve", "--config", str(config), "--port", "0"]
        process = Server(command, is_load=is_load)
        try:
            yield process
        finally:
            process.stop()


@contextmanager
def contender(kind: str, url: str) -> Iterator[Contender]:
    """A fresh one."""
    process = Contender(kind, url)
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def floor() -> Iterator[Process]:
    """A fresh floor."""
    process = Process([sys.executable, str(Path(__file__).with_name("floor.py"))])
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def bare() -> Iterator[Process]:
    """A fresh server of the WebSocket library alone."""
    process = Process([sys.executable, str(Path(__file__).with_name("bare.py"))])
    try:
        yield process
    finally:
        process.stop()


def _environment() -> dict[str, str]:
    """Ours, without what would configure the server behind our back."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")}
