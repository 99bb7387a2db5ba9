"""A Redis of our own for a benchmark, and the cheapest publisher into it.

Answers for: starting one on a free port without persistence, pausing it, its CPU time and its counts of commands; and a
blocking socket that publishes batches made beforehand. Refuses to know: what is measured. Where there is no program the
rows that need one are left out (`NoRedis`).
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.processes import cpu_of

#: Seconds for its first answer.
_PATIENCE = 20.0


class NoRedis(Exception):
    """There is neither redis-server nor valkey-server."""


class Redis:
    """A running server. It shares its cores with the load: what is measured has its own."""

    def __init__(self, program: str, folder: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._popen = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)
        self._socket = self._connect()

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        return cpu_of(self._popen.pid)

    def calls(self, command: str) -> int:
        """How often it has carried out a command so far, scripts' own calls included."""
        for line in self._say(b"INFO commandstats\r\n").splitlines():
            name, _, figures = line.partition(b":calls=")
            if name == f"cmdstat_{command}".encode():
                return int(figures.partition(b",")[0])
        return 0

    def pause(self) -> None:
        """From now on it answers nothing; connections stay open, and the kernel takes new ones."""
        self._popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on, with everything that it held."""
        self._popen.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it; nothing in it is worth waiting for."""
        self._socket.close()
        self._popen.kill()
        self._popen.wait()

    def _connect(self) -> socket.socket:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), _PATIENCE)
            except ConnectionRefusedError:
                if self._popen.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("redis-server did not start") from None
                time.sleep(0.01)

    def _say(self, command: bytes) -> bytes:
        """A command whose answer is one text."""
        self._socket.sendall(command)
        answer = b""
        while True:
            answer += self._socket.recv(65536)
            head, _, text = answer.partition(b"\r\n")
            if head and len(text) >= int(head[1:]) + 2:
                return text


class Publisher:
    """Publishes without a library: batches packed once, written at once, answered before the next."""

    def __init__(self, port: int, channel: str, payload: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        words = [b"PUBLISH", channel.encode(), payload]
        self._packed = b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)

    def publish(self, at_once: int) -> None:
        """So many in one write; return when Redis has all of them."""
        self._socket.sendall(self._packed * at_once)
        while at_once:
            at_once -= self._socket.recv(65536).count(b"\n")

    def close(self) -> None:
        """Leave."""
        self._socket.close()


@contextmanager
def redis() -> Iterator[Redis]:
    """A fresh server. Raises NoRedis."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise NoRedis("no redis-server on this machine (apt-get install redis-server)")
    with tempfile.TemporaryDirectory() as folder:
        server = Redis(program, folder)
        try:
            yield server
        finally:
            server.stop()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
