"""The command line: `hubbub serve` and `hubbub demo`.

Answers for: arguments, what is printed, and exit codes. A mistake is one line that names the fix. Refuses to know: how
anything is done.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hubbub.errors import ConfigurationError
from hubbub.version import VERSION

if TYPE_CHECKING:
    from hubbub.server import Server

#: What `hubbub serve` reads when it is there and no other file is named.
DEFAULT_CONFIG = Path("hubbub.toml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        code: int = options.run(options)
    except ConfigurationError as error:
        print(f"hubbub: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hubbub", description="Real-time messaging for Python.")
    parser.add_argument("--version", action="version", version=f"hubbub {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve clients and servers on one port")
    serve.add_argument("--config", type=Path, help="settings (hubbub.toml if it is there)")
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (8000; 0 for a free one)")
    serve.add_argument("--dev", action="store_true", help="no tokens, everything allowed, pages of localhost welcome")
    serve.set_defaults(run=_serve)

    demo = commands.add_parser("demo", help="a room in the browser: messages, history, who is here, cut and recover")
    demo.add_argument("--port", type=int, default=8000, help="port to listen on (8000; 0 for a free one)")
    demo.set_defaults(run=_demo)

    for command in (serve, demo):
        command.add_argument("-v", "--verbose", action="store_true", help="log what happens")
    return parser


def _serve(options: argparse.Namespace) -> int:
    # Imported here, so that `hubbub --help` does not wait for a server to be loaded.
    from hubbub.app import Hubbub
    from hubbub.server import Server
    from hubbub.settings import load, notes

    config = options.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    overrides = {"server.host": options.host, "server.port": options.port, "dev": options.dev or None}
    settings = load(config, None, overrides)
    for note in notes(settings):
        print(note)

    async def ready(server: Server) -> None:
        print(f"hubbub {VERSION} listens on {server.address}", flush=True)

    return _run(Server(Hubbub(settings=settings), on_ready=ready))


def _demo(options: argparse.Namespace) -> int:
    from hubbub.demo.room import serve_demo

    async def ready(server: Server) -> None:
        print(f"hubbub {VERSION} demo: open {server.address} in two tabs", flush=True)

    return _run(serve_demo(options.port, ready))


def _run(server: Server) -> int:
    server.run()
    return 0 if server.started else 1
