"""Examples as a person runs them: a command in a process of its own, in the folder of this repository.

Answers for: starting a command, knowing when it serves and where, what it has printed, and leaving nothing behind.
Refuses to know: which examples there are.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.serving import ROOT, START_TIMEOUT, leashed
from tests.talking import Talker, talker

#: Where clients connect.
PATH = "/connection/websocket"

#: What servers say when they serve: ours, and uvicorn.
_SERVES = re.compile(r"(?:listens|running) on http://\S+?:(\d+)")

#: The commands of the docstrings, as this environment has them.
_PROGRAMS = {name: (sys.executable, "-m", name) for name in ("hubbub", "uvicorn")} | {"python": (sys.executable,)}


class Running:
    """A process, and what it has printed so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.port = 0
        self._news = asyncio.Condition()

    @property
    def http(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def printed(self, line: str) -> None:
        """Wait for a line. Raises TimeoutError with all that it printed."""
        await self.until(lambda: line in self.lines, f"no line {line!r}")

    async def until(self, holds: Any, what: str) -> None:
        """Wait for something to hold of what it printed."""
        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(holds), START_TIMEOUT)
            except TimeoutError:
                raise TimeoutError(f"{what} in:\n" + "\n".join(self.lines)) from None

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Take what it prints until it ends."""
        async for line in stream:
            async with self._news:
                self.lines.append(line.decode().rstrip())
                if found := _SERVES.search(self.lines[-1]):
                    self.port = int(found[1])
                self._news.notify_all()
        async with self._news:
            self.lines.append("(it has ended)")
            self._news.notify_all()


async def started(command: str, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    """A command of a docstring as a process; nothing of this machine's settings is in its environment."""
    program, *rest = shlex.split(command)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")}
    return await asyncio.create_subprocess_exec(
        *leashed(*_PROGRAMS[program], *rest),
        cwd=ROOT,
        env={**ours, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@asynccontextmanager
async def serving(command: str, **environment: str) -> AsyncIterator[Running]:
    """A server on a free port, which is sent SIGTERM at the end and leaves with 0."""
    process = await started(command + " --port 0", environment)
    assert process.stdout is not None, "it was asked for"
    running = Running()
    reading = asyncio.ensure_future(running.read(process.stdout))
    try:
        await running.until(lambda: running.port or "(it has ended)" in running.lines, "it does not serve")
        assert running.port, "\n".join(running.lines)
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        code = await process.wait()
        await reading
    assert code in (0, -signal.SIGTERM), "\n".join(running.lines)
    assert not [line for line in running.lines if re.search("Traceback|ERROR|WARNING", line)], running.lines


@asynccontextmanager
async def page(running: Running, path: str = PATH, **connecting: object) -> AsyncIterator[tuple[Talker, Any]]:
    """A connected client, and what its connect was answered with."""
    async with talker(f"ws://127.0.0.1:{running.port}{path}") as client:
        yield client, await client.call("connect", **connecting)
