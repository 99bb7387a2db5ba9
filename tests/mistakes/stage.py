"""Making mistakes happen, and writing down what a person sees of them.

Answers for: running programs, commands and pages, each in a folder of its own; all exceptions, warnings, lines of the
log from WARNING on, and goodbyes that come of it. Refuses to know: what should be seen.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import datetime
import gc
import inspect
import json
import linecache
import logging
import math
import os
import shlex
import shutil
import socket
import sys
import time
import traceback
import types
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from tests.contracts.doors import until
from tests.integration.support import port_of, running
from tests.mistakes.mistake import InShell, Port
from tests.serving import ROOT, leashed

import hubbub
from hubbub import Hubbub
from hubbub.auth import mint

SECRET = "a secret of thirty-two characters or more"

#: What programs find imported.
NAMES: dict[str, Any] = {name: getattr(hubbub, name) for name in hubbub.__all__} | {
    "asyncio": asyncio,
    "dataclass": dataclasses.dataclass,
    "datetime": datetime,
    "math": math,
    "msgspec": msgspec,
    "SECRET": SECRET,
}


#: What pages find defined: tokens, as a back end would have made them.
def tokens() -> dict[str, str]:
    now = int(time.time())
    return {
        "token": mint(SECRET, {"sub": "ann", "exp": now + 3600}),
        "foreignToken": mint("another secret of thirty-two characters", {"sub": "ann"}),
        "oldToken": mint(SECRET, {"sub": "ann", "exp": now - 60}),
        "earlyToken": mint(SECRET, {"sub": "ann", "nbf": now + 60}),
        "millisecondsToken": mint(SECRET, {"sub": "ann", "exp": (now + 3600) * 1000}),
        "tokenForNews1": mint(SECRET, {"sub": "ann", "channel": "news:1"}),
        "tokenForNews2": mint(SECRET, {"sub": "ann", "channel": "news:2"}),
    }


class Log(logging.Handler):
    """Lines as `hubbub serve` prints them, without tracebacks: those are of the application's own errors."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        record = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None})
        self.lines.append(self.format(record))


@contextmanager
def logged() -> Iterator[list[str]]:
    """What hubbub's log holds from WARNING on."""
    log, ours = Log(), logging.getLogger("hubbub")
    ours.addHandler(log)
    try:
        yield log.lines
    finally:
        ours.removeHandler(log)


def lay(folder: Path, files: Mapping[str, str]) -> None:
    """Files into a folder."""
    for name, text in files.items():
        (folder / name).write_text(text)


async def program(code: str) -> dict[str, Any]:
    """Run `app.py`. Returns what it has defined."""
    file = Path.cwd() / "app.py"
    lay(file.parent, {file.name: code})
    linecache.checkcache()
    module = types.ModuleType("app")
    module.__file__ = str(file)
    module.__dict__.update(NAMES)
    sys.modules["app"] = module  # inspect finds the source of classes through it
    compiled = compile(code, module.__file__, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(compiled, module.__dict__)
    if inspect.iscoroutine(result):
        await result
    return module.__dict__


async def seen_of_program(code: str) -> list[str]:
    """What a program makes of itself."""
    with logged() as lines, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            await program(code)
        except Exception as error:
            lines.extend("".join(traceback.format_exception_only(error)).splitlines())
        finally:
            sys.modules.pop("app", None)
        gc.collect()  # what was never awaited says so when it is forgotten
    for each in warned:
        lines.append(f"{Path(each.filename).name}:{each.lineno}: {each.category.__name__}: {each.message}")
    return lines


@asynccontextmanager
async def port(kind: Port) -> AsyncIterator[int]:
    """A port of that kind."""
    if kind == "served":
        async with running(Hubbub(api={"key": "secret"}, server={"port": 0})) as server:
            yield port_of(server)
        return
    if kind in ("any", "low"):
        yield 80 if kind == "low" else 0
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.getsockname()[1]
        if kind == "free":
            listening.close()
        yield number


def without_privileges() -> list[str | Path]:
    """How a command is run that may not listen on low ports, whoever runs the tests."""
    border = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    setpriv = shutil.which("setpriv")
    if not border.exists() or int(border.read_text()) <= 80 or (os.geteuid() == 0 and setpriv is None):
        pytest.skip("here everybody may listen on every port")
    return [setpriv, "--bounding-set", "-net_bind_service"] if os.geteuid() == 0 and setpriv else []


async def seen_of_command(mistake: InShell) -> tuple[int | None, list[str]]:
    """The exit code of a command and what it printed on stderr; of one that goes on, None and its first line."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")}
    async with port(mistake.port) as number:
        program, *arguments = shlex.split(mistake.command.replace("PORT", str(number)))
        assert program == "hubbub"
        before = without_privileges() if mistake.port == "low" else []
        process = await asyncio.create_subprocess_exec(
            *leashed(*before, sys.executable, "-m", "hubbub", *arguments),
            env={**ours, **mistake.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None, "it was asked for"
        if mistake.exit is None:
            line = await process.stdout.readline()
            process.terminate()
            await process.communicate()
            return None, [line.decode().rstrip()]
        _, errors = await process.communicate()
        return process.returncode, errors.decode().splitlines()


async def seen_in_page(server: str, code: str, origin: str) -> tuple[str, list[str]]:
    """What a page prints first, and the server's log."""
    node = shutil.which("node")
    if node is None or not (ROOT / "web/node_modules/centrifuge").exists():
        if os.environ.get("CI") == "true":
            pytest.fail("node and web/node_modules are missing (python3 dev.py web)", pytrace=False)
        pytest.skip("node or web/node_modules is missing (python3 dev.py web)")
    with logged() as lines:
        defined = await program(server)
        async with served(defined) as port:
            url = f"ws://localhost:{port}/connection/websocket"
            about = {"root": str(ROOT), "url": url, "code": code, "origin": origin, "names": tokens()}
            process = await asyncio.create_subprocess_exec(
                *leashed(node, ROOT / "tests/mistakes/page.mjs", json.dumps(about)), stdout=asyncio.subprocess.PIPE
            )
            said, _ = await process.communicate()
    return said.decode().strip(), lines


@asynccontextmanager
async def served(defined: Mapping[str, Any]) -> AsyncIterator[int]:
    """Its `app` under uvicorn if it has one, else its `hub` by itself."""
    hub = defined["hub"]
    assert isinstance(hub, Hubbub)
    if "app" not in defined:
        hub.override({"server.port": 0})
        async with running(hub) as ours:
            yield port_of(ours)
        return
    server = uvicorn.Server(uvicorn.Config(defined["app"], port=0, log_config=None, lifespan="on"))
    serving = asyncio.ensure_future(server.serve())
    await until(lambda: server.started)
    try:
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await serving
