"""`hubbub demo`.

Answers for: its options. Refuses to know: what the demo is.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hubbub.cli.arguments import port
from hubbub.cli.serve import add_verbose, start
from hubbub.version import VERSION

if TYPE_CHECKING:
    from hubbub.server import Server

EXAMPLE = """\
  hubbub demo
  hubbub demo --broker redis://localhost --port 8001   one of several servers that are one"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    parser.add_argument("--port", type=port, default=8000, help="port to listen on (8000; 0 for a free one)")
    parser.add_argument("--broker", default="", metavar="URL", help="a Redis that several of these share (redis://…)")
    parser.add_argument("--store", default="", metavar="URL", help="keep what is said for ever (sqlite:///demo.db)")
    add_verbose(parser)


def run(options: argparse.Namespace) -> int:
    """Serve it until a signal comes."""
    from hubbub.demo.room import serve_demo

    async def ready(server: Server) -> None:
        where = "one tab, and another server's address in a second" if options.broker else "two tabs"
        print(f"hubbub {VERSION} demo: open {server.address} in {where}", flush=True)

    return start(serve_demo(options.port, ready, broker=options.broker, store=options.store), options)
