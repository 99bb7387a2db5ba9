"""What the commands have in common on the command line.

Answers for: mistakes in arguments, each one line that names the nearest right thing; the kinds of values that options
take; which settings hold where one stands. Refuses to know: what a command does.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hubbub import DEFAULT_CONFIG
from hubbub.errors import ConfigurationError, HubbubError

if TYPE_CHECKING:
    from hubbub.settings import Settings

#: A limit for what is said about something that somebody typed.
_SHOWN = 80


class Failure(HubbubError):
    """A command could not do what it was asked to: one line, exit code 1."""


class _Format(argparse.RawDescriptionHelpFormatter):
    """Room for the names of options, so that what they do stands beside them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and what was probably meant. Options are never abbreviated."""

    def __init__(self, program: str, *, description: str, epilog: str) -> None:
        super().__init__(
            prog=program,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=_Format,
        )

    def read(self, given: Sequence[str]) -> argparse.Namespace:
        """The options. Whoever typed what is not known is told the nearest."""
        options, rest = self.parse_known_intermixed_args(given)
        for word in rest:
            if word.startswith("-") and word != "-":
                name = word.partition("=")[0]
                self.error(f"there is no option {name[:_SHOWN]}; the nearest is {nearest(name, self._options())}")
            self.error(f"{shown(word)} is one argument too many; put quotes around what holds spaces")
        return options

    def error(self, message: str) -> NoReturn:
        """Say it and leave with 2."""
        print(f"{self.prog}: {message} (`{self.prog} --help` tells more)", file=sys.stderr)
        sys.exit(2)

    def _options(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]


def nearest(word: str, known: Sequence[str]) -> str:
    """Which of the known words was meant."""
    return difflib.get_close_matches(word, known, 1, 0)[0]


def shown(text: str) -> str:
    """Something that somebody typed, for an error message."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


# What options take ------------------------------------------------------------------------------------------


def port(text: str) -> int:
    """0 to 65535."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{shown(text)}: expected 0 to 65535; 0 takes a free one")
    return int(text)


def positive(text: str) -> int:
    """1 or more."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**9):
        raise argparse.ArgumentTypeError(f"{shown(text)}: expected 1 or more")
    return int(text)


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """Seconds, or a number with a unit, as in settings; more than 0."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd]?)", text.strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f'{shown(text)}: expected seconds, or such as "30s", "15m", "2h", "7d"')
    return seconds


# Settings ---------------------------------------------------------------------------------------------------


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config`."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings ({DEFAULT_CONFIG} if it is there)")


def settings_of(options: argparse.Namespace, overrides: Mapping[str, object] | None = None) -> Settings:
    """The settings that hold here, and `overrides` by dotted key. Raises ConfigurationError."""
    from hubbub.settings import load

    here = Path(DEFAULT_CONFIG)
    config = options.config or (here if here.exists() else None)
    return load(config, None, overrides)


def secret_of(path: str, option: str) -> str:
    """What stands in a file, or on stdin for "-"; for what should not be seen in a list of processes."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except OSError as error:
        raise ConfigurationError(f"{option} {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{option} {path}: is not text in UTF-8") from None
    if not text.strip():
        raise ConfigurationError(f"{option} {path}: is empty")
    return text.strip()
