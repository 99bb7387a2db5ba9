"""`hubbub serve`: settings alone, or an application's own hub.

Answers for: its options, which are stronger than what the application says, what is printed at the start, and whether
it takes one process or several. Refuses to know: serving.

The settings of an application are known when it is loaded. So whoever is started loads it, as if it were to serve
alone: what is wrong is found here, and said once. If the settings ask for several workers, the process becomes their
supervisor, which starts over as the same command and loads nothing; the workers are the same command once more.
"""

from __future__ import annotations

import argparse
import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hubbub.cli.application import hub_of
from hubbub.cli.arguments import add_config, port, positive, settings_of
from hubbub.errors import ConfigurationError
from hubbub.version import VERSION

if TYPE_CHECKING:
    from hubbub.app import Hubbub
    from hubbub.http.application import ASGIApp
    from hubbub.server import Server
    from hubbub.supervisor import Plan

EXAMPLE = """\
  hubbub serve --dev                 without an application, everything allowed
  hubbub serve main:hub --port 9000  the object `hub` of main.py
  hubbub serve main:hub --workers 4  the same in four processes, joined by Redis"""


#: Containers made, and not freed, between two looks of the collector; Python's own number is 700.
COLLECT_EVERY = 10_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    parser.add_argument("hub", nargs="?", metavar="module:hub", help="the Hubbub of an application, such as main:hub")
    add_config(parser)
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=port, help="port to listen on (8000; 0 for a free one)")
    parser.add_argument("--workers", type=positive, metavar="N", help="processes on that address, joined by Redis (1)")
    parser.add_argument("--dev", action="store_true", help="no tokens, everything allowed, pages of localhost welcome")
    parser.add_argument("--page", type=Path, metavar="FILE", help="an HTML page to show at /, for trying things")
    add_verbose(parser)


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """`-v`."""
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens")


def run(options: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from hubbub.supervisor import Beginning, Plan, Post, role

    told = role()
    beginning = Beginning.now()
    _log(options, f"worker {told.number}, " if isinstance(told, Post) else "")
    if isinstance(told, Plan):
        return _supervise(told)
    hub = _hub(options)
    fallback = _page(options.page)
    if isinstance(told, Post):
        from hubbub.worker import WorkerServer

        return _served(WorkerServer(hub, told, fallback=fallback))
    for note in hub.notes():
        print(note)
    if hub.settings.server.workers > 1:
        beginning.again(Plan(hub.settings.server))
    from hubbub.server import Server

    async def ready(server: Server) -> None:
        print(f"hubbub {VERSION} listens on {server.address}", flush=True)

    return _served(Server(hub, fallback=fallback, on_ready=ready))


def _page(path: Path | None) -> ASGIApp | None:
    if path is None:
        return None
    from hubbub.http.page import page

    return page(path)


def start(server: Server, options: argparse.Namespace) -> int:
    """Run a server until a signal comes; returns the exit code."""
    _log(options)
    return _served(server)


def _served(server: Server) -> int:
    _spare_the_collector()
    server.run()
    return 0 if server.started else 1


def _spare_the_collector() -> None:
    """What is loaded by now stays, and what a message needs is freed without the collector of circles: let it look less
    often, and not at the former. A full look at everything stops the process for some 30 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, 20, 20)


def _supervise(plan: Plan) -> int:
    from hubbub.supervisor import Supervisor

    def ready(url: str) -> None:
        print(f"hubbub {VERSION} listens on {url} with {plan.server.workers} workers", flush=True)

    return Supervisor(plan.server, on_ready=ready).run()


def _log(options: argparse.Namespace, who: str = "") -> None:
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format=f"%(levelname)s {who}%(name)s: %(message)s")


def _hub(options: argparse.Namespace) -> Hubbub:
    from hubbub.app import Hubbub

    said = {
        "server.host": options.host,
        "server.port": options.port,
        "server.workers": options.workers,
        "dev": options.dev or None,
    }
    given: dict[str, object] = {key: value for key, value in said.items() if value is not None}
    if options.host is not None or options.port is not None:
        given["server.unix"] = ""  # which would be stronger than both
    if options.hub is None:
        return Hubbub(settings=settings_of(options, given))
    if options.config is not None:
        raise ConfigurationError(f"--config: {options.hub} says itself where its settings are: Hubbub(config=…)")
    hub = hub_of(options.hub)
    if given:  # and nothing else: what is not said must not take away what the application says
        hub.override(given)
    return hub
