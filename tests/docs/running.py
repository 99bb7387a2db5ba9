"""Runs the blocks of one page, in order, in a folder of their own, and holds what they print against the page.

Answers for: Python with top-level await, commands, servers that go on, JavaScript in a browser's page, files, and an
error that names the place in the page. Refuses to know: which pages there are, and Markdown.

The ports of the pages are free ones here: 8000, 8001 for a second server, which leaves the first one running, and
6379 for a Redis of this page's own. `redis-cli` without a port means that.
"""

from __future__ import annotations

import ast
import asyncio
import io
import json
import os
import re
import signal
import socket
import sys
import types
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, chdir, redirect_stdout
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from playwright.async_api import Page
from tests.backends import RedisServer
from tests.docs.pages import Block
from tests.serving import ROOT, leashed

from hubbub import Hubbub
from hubbub.settings import load

#: Seconds. A loaded machine needs a few to import everything.
PATIENCE = 20.0

#: Seconds in which a block of Python has to print what it is to print.
SPEECH = 8.0

#: Seconds in which a block that has printed everything comes to its end, if it has one.
LAST_WORDS = 0.5

#: Commands that go on until they are told to end; any other that does ends in `&` on its page.
_SERVER = re.compile(r"(?:\w+=\S* )*(?:hubbub serve|uvicorn)\b")
_LISTENER = re.compile(r"(?:\w+=\S* )*hubbub sub\b")

Browse = Callable[[str], Awaitable[Page]]

_PORT = re.compile(r"\b(?:8000|8001|6379)\b")
_REDIS_CLI = re.compile(r"\bredis-cli (?!-)")


class Wrong(AssertionError):
    """A page says what is not so."""


class Running(NamedTuple):
    """A command in the background, what it has to print, and what it has printed so far."""

    place: str
    expected: str
    process: asyncio.subprocess.Process
    output: io.StringIO
    reader: asyncio.Task[None]
    is_server: bool


def _has_said(running: Running) -> bool:
    """Whether all that it has to print is there; more may be."""
    return bool(pattern(running.expected, whole=False).match(running.output.getvalue()))


class Stage:
    """One page's folder, namespace, port and servers. Use it as an async context manager."""

    def __init__(self, folder: Path, browse: Browse | None = None) -> None:
        """`browse` opens a URL of ours in a browser's page, with the official client loaded; JavaScript needs it."""
        self.folder = folder
        self.port, self.second_port = _free_port(), _free_port()
        self._redis: RedisServer | None = None  # ends after all who use it
        self._browse = browse
        self._module = types.ModuleType(f"page_{self.port}")
        self._background: list[Running] = []
        self._stack = AsyncExitStack()
        self._page: Page | None = None
        self._console: list[str] = []
        self._hub: Hubbub | None = None

    async def __aenter__(self) -> Self:
        sys.modules[self._module.__name__] = self._module  # dataclasses look there
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del sys.modules[self._module.__name__]
        try:
            if error is None:
                await self._hear_out()
        finally:
            await self._stack.aclose()
            while self._background:
                await _end(self._background.pop())
            if self._redis is not None:
                self._redis.close()

    async def run(self, block: Block) -> None:
        """Run one block. Raises Wrong, or whatever the block raises."""
        block = block._replace(text=self.local(block.text), expected=block.expected and self.local(block.expected))
        if block.file:
            self._file(block)
            return
        languages: dict[str, Callable[[Block], Awaitable[None]]] = {
            "python": self._python,
            "js": self._javascript,
            "sh": self._shell,
            "console": self._dialogue,
        }
        if block.language in languages:
            await languages[block.language](block)
        elif block.language == "toml":
            (self.folder / "settings.toml").write_text(block.text)
            load(self.folder / "settings.toml", {})
        elif block.language == "json":
            json.loads(block.text)
        elif block.language not in ("text", ""):
            raise Wrong(f"{block.place}: nobody knows how to run {block.language!r}")

    def _file(self, block: Block) -> None:
        """It lies there, and is what its name says."""
        file = self.folder / block.file
        file.write_text(block.text)
        if file.suffix == ".py":
            compile(block.text, block.place, "exec")
        elif file.suffix == ".toml":
            load(file, {})

    def local(self, text: str) -> str:
        """The page's text with our ports."""
        return _PORT.sub(lambda found: str(self._port(found[0])), _REDIS_CLI.sub("redis-cli -p 6379 ", text))

    def _port(self, of_page: str) -> int:
        """Ours in its place."""
        if of_page != "6379":
            return self.port if of_page == "8000" else self.second_port
        if self._redis is None:  # started where it is first spoken of
            self._redis = RedisServer("redis").start()
        return self._redis.port

    # Python ---------------------------------------------------------------------------------------------------------

    async def _python(self, block: Block) -> None:
        shifted = "\n" * (block.line - 1) + block.text  # so that a traceback has the lines of the page
        code = compile(shifted, str(block.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        await self._start_hub(block)
        output = io.StringIO()
        namespace = vars(self._module)
        with redirect_stdout(output), chdir(self.folder):
            found = eval(code, namespace)
            if found is not None:
                await self._finish(found, block.expected, output)
        if block.expected is not None:
            compare(block.place, block.expected, output.getvalue())

    async def _start_hub(self, block: Block) -> None:
        """Pages show what is awaited inside of an application, whose hub is running."""
        hub = getattr(self._module, "hub", None)
        if not isinstance(hub, Hubbub) or hub is self._hub or "await " not in block.text:
            return
        if "async with hub:" not in block.text:
            self._hub = await self._stack.enter_async_context(hub)

    async def _finish(self, work: Any, expected: str | None, output: io.StringIO) -> None:
        """To its end; or, if it goes on, until it has printed what the page says. Handlers may print after its end."""
        task = asyncio.ensure_future(work)
        if expected is None:
            await asyncio.wait({task}, timeout=PATIENCE)
        else:
            said = pattern(expected, whole=True)
            await _until(lambda: _failed(task) or bool(said.match(output.getvalue())), SPEECH)
            await asyncio.wait({task}, timeout=LAST_WORDS)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.result()
        elif expected is None:
            raise Wrong("this goes on for ever: say what it prints in a text block behind it")

    # commands -------------------------------------------------------------------------------------------------------

    async def _shell(self, block: Block) -> None:
        for command in _commands(block.text):
            await self._command(block.place, command, None)

    async def _dialogue(self, block: Block) -> None:
        for command, expected in _turns(block):
            await self._command(block.place, command, expected)

    async def _command(self, place: str, command: str, expected: str | None) -> None:
        is_server = bool(_SERVER.match(command))
        is_second = is_server and f"--port {self.second_port}" in command
        if is_server and not is_second:
            await self._clear()
        process = await asyncio.create_subprocess_exec(
            *leashed("/bin/sh", "-c", _becoming(command)),
            cwd=self.folder,
            env=self._environment(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = io.StringIO()
        reader = asyncio.ensure_future(_read(process, output))
        running = Running(f"{place}: {command}", expected or "", process, output, reader, is_server)
        if is_server or command.endswith("&") or _LISTENER.match(command):
            self._background.append(running)
            if is_server:
                await self._listening(running, self.second_port if is_second else self.port)
            return
        await asyncio.wait_for(process.wait(), PATIENCE)
        await reader
        if expected is not None:
            compare(running.place, expected, output.getvalue())
        elif process.returncode:
            raise Wrong(f"{running.place}: ended with {process.returncode}:\n{output.getvalue()}")

    async def _listening(self, running: Running, port: int) -> None:
        """It has said so, and it does, before anything else is done."""
        ended = running.reader.done
        await _until(lambda: ended() or (_has_said(running) and _listens(port)), PATIENCE)
        if ended() or not _has_said(running):
            raise Wrong(f"{running.place}: printed\n{running.output.getvalue()}\nthe page says\n{running.expected}")

    def _environment(self, command: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        ours = {"PATH": programs, "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1", "COLUMNS": "100"}
        ours["PYTEST_ADDOPTS"] = "-p no:schemathesis -p no:hypothesispytest"  # ours, not the reader's, and slow
        if not command.startswith("hubbub config"):  # which would show it
            ours |= {"HUBBUB_SERVER_PORT": str(self.port), "UVICORN_PORT": str(self.port)}
        return {**kept, **ours}

    async def _clear(self) -> None:
        """The port is free for the next server, once all that runs has said what it had to."""
        await self._hear_out()
        while self._background:
            await _end(self._background.pop())

    async def _hear_out(self) -> None:
        """What runs in the background has said all that the page says."""
        for running in self._background:
            await _until(partial(_has_said, running), PATIENCE)
            if not _has_said(running):
                raise Wrong(f"{running.place}: printed\n{running.output.getvalue()}\nthe page says\n{running.expected}")

    # JavaScript -----------------------------------------------------------------------------------------------------

    async def _javascript(self, block: Block) -> None:
        if self._page is None:
            assert self._browse is not None, "a page with JavaScript needs a browser"
            is_served = any(running.is_server for running in self._background)
            self._page = await self._browse(f"http://localhost:{self.port}/health" if is_served else "about:blank")
            self._page.on("console", lambda message: self._console.append(message.text))
            self._page.on("pageerror", lambda error: self._console.append(f"error: {error}"))
        self._console.clear()
        await self._page.add_script_tag(content=block.text)
        if block.expected is not None:
            said = pattern(block.expected, whole=True)
            await _until(lambda: bool(said.match("".join(f"{line}\n" for line in self._console))), SPEECH)
            compare(block.place, block.expected, "".join(f"{line}\n" for line in self._console))
        await self._page.evaluate("1")  # a round trip: errors of the script have been told
        errors = [line for line in self._console if line.startswith(("error: ", "Uncaught"))]
        if errors:
            raise Wrong(f"{block.place}: {errors}")


# ---------------------------------------------------------------------------------------------------- what was printed


def compare(place: str, expected: str, printed: str) -> None:
    """Raises Wrong where they differ."""
    if not pattern(expected, whole=True).match(f"{printed.rstrip()}\n"):
        raise Wrong(f"{place}: printed\n{printed}\nthe page says\n{expected}")


def pattern(expected: str, *, whole: bool) -> re.Pattern[str]:
    """`…` is anything; alone on a line, any number of lines. Space at the ends of lines and of the text is nothing."""
    rows = []
    for line in expected.strip().splitlines():
        if line.strip() == "…":
            rows.append(r"(?:.*\n)*?")
        else:
            rows.append(re.escape(line.rstrip()).replace("…", ".*") + r" *\n")
    text = "".join(rows)
    return re.compile(rf"\s*{text}\s*\Z" if whole else rf"\s*{text}")


def _commands(text: str) -> list[str]:
    whole = text.replace("\\\n", " ")
    return [line.partition("  # ")[0].strip() for line in whole.splitlines() if line.strip() and line[0] != "#"]


def _turns(block: Block) -> list[tuple[str, str]]:
    """Commands and what each prints."""
    found: list[tuple[str, str]] = []
    for line in block.text.replace("\\\n", " ").splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].partition("  # ")[0].strip(), ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line)
        else:
            raise Wrong(f"{block.place}: a console begins with `$ `")
    return found


# ------------------------------------------------------------------------------------------------------------ processes


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _becoming(command: str) -> str:
    """Have the shell become the command, so that what we end is that, and not a shell around it."""
    command = command.removesuffix("&").strip()
    return command if re.search(r"[|;]|&&", command) else f"exec env {command}"


def _failed(task: asyncio.Future[Any]) -> bool:
    return task.done() and task.exception() is not None


async def _read(process: asyncio.subprocess.Process, output: io.StringIO) -> None:
    assert process.stdout is not None, "it was asked for"
    async for line in process.stdout:
        output.write(line.decode())


async def _end(running: Running) -> None:
    if running.process.returncode is None:
        running.process.send_signal(signal.SIGINT)  # as Ctrl-C: servers take no time over it
    await asyncio.wait_for(running.process.wait(), PATIENCE)
    await running.reader


async def _until(condition: Callable[[], bool], patience: float) -> None:
    """Return when it is so, or when patience is over: whoever waits says what is missing."""
    deadline = asyncio.get_running_loop().time() + patience
    while not condition() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - others' processes
        await asyncio.sleep(0.01)
