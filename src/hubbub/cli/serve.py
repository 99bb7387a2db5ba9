"""`hubbub serve`: settings alone, or an application's own hub.

Answers for: its options, which are stronger than what the application says, and what is printed at the start. Refuses
to know: serving.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hubbub.cli.application import hub_of
from hubbub.cli.arguments import add_config, port, settings_of
from hubbub.errors import ConfigurationError
from hubbub.version import VERSION

if TYPE_CHECKING:
    from hubbub.app import Hubbub
    from hubbub.server import Server

EXAMPLE = """\
  hubbub serve --dev                 without an application, everything allowed
  hubbub serve main:hub --port 9000  the object `hub` of main.py"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    parser.add_argument("hub", nargs="?", metavar="module:hub", help="the Hubbub of an application, such as main:hub")
    add_config(parser)
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=port, help="port to listen on (8000; 0 for a free one)")
    parser.add_argument("--dev", action="store_true", help="no tokens, everything allowed, pages of localhost welcome")
    parser.add_argument("--page", type=Path, metavar="FILE", help="an HTML page to show at /, for trying things")
    add_verbose(parser)


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """`-v`."""
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens")


def run(options: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from hubbub.http.page import page
    from hubbub.server import Server

    _log(options)  # before an application is imported: what it logs is wanted, too
    hub = _hub(options)
    fallback = page(options.page) if options.page is not None else None
    for note in hub.notes():
        print(note)

    async def ready(server: Server) -> None:
        print(f"hubbub {VERSION} listens on {server.address}", flush=True)

    return start(Server(hub, fallback=fallback, on_ready=ready), options)


def start(server: Server, options: argparse.Namespace) -> int:
    """Run a server until a signal comes; returns the exit code."""
    _log(options)
    server.run()
    return 0 if server.started else 1


def _log(options: argparse.Namespace) -> None:
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


def _hub(options: argparse.Namespace) -> Hubbub:
    from hubbub.app import Hubbub

    given = {"server.host": options.host, "server.port": options.port, "dev": options.dev or None}
    if options.host is not None or options.port is not None:
        given["server.unix"] = ""  # which would be stronger than both
    if options.hub is None:
        return Hubbub(settings=settings_of(options, given))
    if options.config is not None:
        raise ConfigurationError(f"--config: {options.hub} says itself where its settings are: Hubbub(config=…)")
    hub = hub_of(options.hub)
    if any(value is not None for value in given.values()):
        hub.override(given)
    return hub
