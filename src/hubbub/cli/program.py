"""`hubbub`: which command is meant, and how it ends.

Answers for: the table of commands, help, and exit codes: a mistake is one line (2: in arguments or settings, 1: it
could not be done), Ctrl-C is 130, a reader that has gone is 141. Refuses to know: what commands do. The module of a
command is loaded when it is asked for, so that help does not wait for a server.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

from hubbub.cli.arguments import Parser, nearest, shown
from hubbub.errors import ConfigurationError, HubbubError
from hubbub.version import VERSION


class Command(Protocol):
    """The module of a command."""

    #: Command lines that work as they stand.
    EXAMPLE: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add what it takes."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it; returns the exit code. Raises HubbubError with one line for whoever typed it."""


class Entry(NamedTuple):
    """A row of the table."""

    module: str
    help: str


COMMANDS = {
    "serve": Entry("hubbub.cli.serve", "serve clients and servers on one port"),
    "pub": Entry("hubbub.cli.pub", "publish into a channel of a running server"),
    "sub": Entry("hubbub.cli.sub", "print what is published in channels of a running server"),
    "token": Entry("hubbub.cli.token", "make a token for a client, or say what is in one"),
    "config": Entry("hubbub.cli.config", "show the settings that hold, and where each came from"),
    "doctor": Entry("hubbub.cli.doctor", "look at what the settings name, and say what to do about it"),
    "db": Entry("hubbub.cli.db", "bring the store up to date, or copy it while it is in use"),
    "bench": Entry("hubbub.cli.bench", "put a load on a server and say how it does"),
    "demo": Entry("hubbub.cli.demo", "a room in the browser: messages, history, who is here, cut and recover"),
}

_DESCRIPTION = "Real-time messaging for Python."
_EPILOG = """\
commands:
{commands}

`hubbub COMMAND --help` has the options of a command, with an example.

example:
  hubbub serve --dev"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal cannot show, or UTF-8 cannot hold, is printed as an escape instead of ending the program.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except ConfigurationError as error:
        code = _say(error, 2)
    except HubbubError as error:
        code = _say(error, 1)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = _unwritable(141)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        code = _say(HubbubError(f"the output cannot be written: {error.strerror}"), _unwritable(1))
    return code


def _unwritable(code: int) -> int:
    """Nobody takes what is printed. The interpreter flushes stdout once more when it ends: into nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(given: list[str]) -> int:
    if given[:1] == ["help"]:
        given = [*given[1:2], "--help"]
    name = given[0] if given else "--help"
    if name in COMMANDS:
        command = cast(Command, importlib.import_module(COMMANDS[name].module))
        summary = COMMANDS[name].help
        example = f"example:\n{command.EXAMPLE}"
        parser = Parser(f"hubbub {name}", description=summary[0].upper() + summary[1:] + ".", epilog=example)
        command.configure(parser)
        return command.run(parser.read(given[1:]))
    rows = "\n".join(f"  {name:8}{entry.help}" for name, entry in COMMANDS.items())
    parser = Parser("hubbub", description=_DESCRIPTION, epilog=_EPILOG.format(commands=rows))
    parser.usage = "hubbub COMMAND …"
    parser.add_argument("--version", action="version", version=f"hubbub {VERSION}")
    if not name.startswith("-"):
        parser.error(f"there is no command {shown(name)}; the nearest is `hubbub {nearest(name, list(COMMANDS))}`")
    parser.read([name])  # which leaves with help, the version, or a mistake
    return 0


def _say(error: HubbubError, code: int) -> int:
    print(f"hubbub: {error}", file=sys.stderr)
    return code
