"""`hubbub bench`: a load on a server, its own or one that runs, and what came of it.

Answers for: the pace of publishing, files that may be open, a server of its own in a child process, a line a second
of progress, and the figures. Refuses to know: the client protocol (`crowd`).

Clients and publisher share one event loop of this process with one clock. A publication's latency counts from when it
was due, so that a load that this process cannot generate shows as latency and is not left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from hubbub.cli.arguments import Failure, positive, secret_of, shown
from hubbub.cli.crowd import Client, Tally, Target, enter_all
from hubbub.errors import ConfigurationError

EXAMPLE = """\
  hubbub bench
  hubbub bench --url ws://127.0.0.1:8000 --clients 200 --rate 50 --seconds 5"""

#: What the server of its own runs with.
_SETTINGS = """\
[auth]
anonymous = true

[channels.default]
delivery = "recent"
subscribe = "anyone"
publish = "subscriber"
"""

#: Where clients connect if the URL says no path.
_PATH = "/connection/websocket"

#: Files that a process has open besides its clients.
_OTHER_FILES = 64

#: Seconds without a single delivery after the last publication, until what has not come counts as lost.
_SILENCE = 3.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    parser.add_argument("--url", type=_url, help="the server, ws://… or wss://… (one of its own, in a child process)")
    parser.add_argument("--clients", type=positive, metavar="N", default=1000, help="subscribers of one channel (1000)")
    parser.add_argument("--rate", type=positive, metavar="N", default=100, help="publications a second (100)")
    parser.add_argument("--seconds", type=positive, metavar="N", default=10, help="how long (10)")
    parser.add_argument("--channel", default="bench", help="which they subscribe to and publish in (bench)")
    parser.add_argument("--token-file", metavar="FILE", help="holds a token to connect with; - for stdin")
    parser.add_argument("--json", action="store_true", help="the figures as an object; times in milliseconds")


def run(options: argparse.Namespace) -> int:
    """Measure; 1 if something was lost or came twice."""
    token = secret_of(options.token_file, "--token-file") if options.token_file is not None else ""
    _allow_files(options.clients + _OTHER_FILES)
    with asyncio.Runner(loop_factory=_loops()) as runner:
        figures = runner.run(_measured(options, token))
    print(json.dumps(figures) if options.json else _table(figures))
    return 1 if figures["lost"] or figures["duplicates"] else 0


def _url(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        if parts.scheme in ("ws", "wss") and parts.hostname and (parts.port or 1) > 0:
            return parts if parts.path.strip("/") else parts._replace(path=_PATH)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{shown(text)}: expected such as ws://127.0.0.1:8000 or wss://example.com")


def _loops() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return None
    return uvloop.new_event_loop


def _allow_files(wanted: int) -> None:
    """Raise this process's limit of open files, which a child inherits. Raises ConfigurationError."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        fits = hard - _OTHER_FILES
        text = f"{wanted} files would be open, and {hard} may be: --clients {fits}, or a higher `ulimit -Hn`"
        raise ConfigurationError(text)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# Measuring --------------------------------------------------------------------------------------------------


async def _measured(options: argparse.Namespace, token: str) -> dict[str, Any]:
    async with _server(options) as url:
        tally = Tally()
        target = Target(url, options.channel, token)
        clients = [Client(target, tally) for _ in range(options.clients)]
        try:
            started = time.monotonic()
            pace = _Pace()
            await enter_all(clients, lambda count: pace.tell(lambda: f"{count:,} of {options.clients:,} connected"))
            entry = time.monotonic() - started
            seconds = await _load(options, clients, tally)
        finally:
            for client in clients:
                await client.leave()
        return _figures(tally, clients, entry=entry, seconds=seconds)


async def _load(options: argparse.Namespace, clients: list[Client], tally: Tally) -> float:
    """Publish at the pace that was asked for, and wait for what is under way; returns how long it took."""
    pace, wanted, sent = _Pace(), options.rate * options.seconds, 0
    start = time.monotonic()
    while sent < wanted:
        due = start + sent / options.rate
        pace.tell(lambda: _progress(tally, start))
        if tally.gone:
            raise Failure(tally.gone[0])
        wait = due - time.monotonic()
        if wait > 0 or not clients[0].is_in:  # the publisher may be on its way back
            await asyncio.sleep(max(wait, 0.001))
            continue
        sent += 1
        clients[0].publish(sent, due)
        if not sent % 64:
            await asyncio.sleep(0)  # late, and still: what comes has to be read
    before, last = -1, time.monotonic()
    while (tally.unanswered or tally.lost(len(clients))) and time.monotonic() - last < _SILENCE and not tally.gone:
        if tally.delivered != before:
            before, last = tally.delivered, time.monotonic()
        pace.tell(lambda: _progress(tally, start))
        await asyncio.sleep(0.01)
    if tally.gone:
        raise Failure(tally.gone[0])
    return max(last - start, float(options.seconds))


def _progress(tally: Tally, start: float) -> str:
    p50, p99 = (_milliseconds(tally.percentile(share)) for share in (0.5, 0.99))
    rate = tally.delivered / max(time.monotonic() - start, 0.001)
    return f"{tally.published:,} published, {tally.delivered:,} delivered, {rate:,.0f}/s, p50 {p50} ms, p99 {p99} ms"


def _figures(tally: Tally, clients: list[Client], *, entry: float, seconds: float) -> dict[str, Any]:
    return {
        "clients": len(clients),
        "connected_in_s": round(entry, 2),
        "seconds": round(seconds, 2),
        "published": tally.published,
        "delivered": tally.delivered,
        "deliveries_per_s": round(tally.delivered / seconds) if seconds > 0 else 0,
        **{f"p{share * 100:.0f}_ms": _milliseconds(tally.percentile(share)) for share in (0.5, 0.9, 0.99)},
        "unanswered": len(tally.unanswered),
        "lost": tally.lost(len(clients)),
        "duplicates": tally.duplicates,
        "reconnects": tally.reconnects,
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _table(figures: dict[str, Any]) -> str:
    names = {"connected_in_s": "connected in, s", "deliveries_per_s": "deliveries/s"}
    names |= {f"p{share}_ms": f"publish to receive, p{share}, ms" for share in (50, 90, 99)}
    return "\n".join(f"{names.get(name, name):28}{_number(value):>12}" for name, value in figures.items())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"


class _Pace:
    """A line a second on stderr."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._next = self._start + 1

    def tell(self, how_far: Callable[[], str]) -> None:
        """Say how far it is, if a second has passed."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 1
            print(f"{now - self._start:4.0f} s  {how_far()}", file=sys.stderr, flush=True)


# A server of its own ----------------------------------------------------------------------------------------


@asynccontextmanager
async def _server(options: argparse.Namespace) -> AsyncIterator[SplitResult]:
    """Where the server is: the one that was named, or one for as long as this lasts."""
    if options.url is not None:
        yield options.url
        return
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "bench.toml")
        config.write_text(_SETTINGS)  # noqa: ASYNC240  # nothing else runs yet
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")}
        command = (sys.executable, "-m", "hubbub", "serve", "--config", str(config), "--port", "0")
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stdin=pipe)
        try:
            yield urlsplit(await _address(process))
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None, "a pipe was asked for"
    async for line in process.stdout:
        _, listens, url = line.decode().strip().partition(" listens on http")
        if listens:
            return f"ws{url}{_PATH}"
    raise Failure("the server of this benchmark did not start")
