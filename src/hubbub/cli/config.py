"""`hubbub config`: the settings that hold here, and where each came from.

Answers for: showing all of them, those that nobody wrote dimmed, and secrets as ***. Refuses to know: what they mean,
and how they are found.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from hubbub.cli.arguments import add_config, settings_of
from hubbub.cli.terminal import Colours

if TYPE_CHECKING:
    from hubbub.settings import Settings

EXAMPLE = """\
  hubbub config --changed
  hubbub config --json | jq '."server.port"'"""

_DEFAULT = "default"

#: In a URL.
_PASSWORD = re.compile(r"(?<=:)[^/@:]+(?=@)")

#: Characters of the column of values. A longer value moves its own origin to the right, and no other.
_WIDTH = 28


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    parser.add_argument("hub", nargs="?", metavar="module:hub", help="those of an application, such as main:hub")
    add_config(parser)
    parser.add_argument("--dev", action="store_true", help="as `hubbub serve --dev` has them")
    parser.add_argument("--changed", action="store_true", help="only what is not a default")
    parser.add_argument("--json", action="store_true", help='an object: {"server.port": {"value": 8000, "from": …}}')


def run(options: argparse.Namespace) -> int:
    """Print them."""
    from hubbub.settings import origins

    settings = _settings(options)
    rows = [(key, _value(settings, key), where) for key, where in origins(settings).items()]
    if options.changed:
        rows = [row for row in rows if row[2] != _DEFAULT]
    if options.json:
        print(json.dumps({key: {"value": value, "from": where} for key, value, where in rows}, indent=2))
    else:
        _print(settings, rows)
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    if options.hub is not None:
        from hubbub.cli.application import hub_of

        hub = hub_of(options.hub)
        if options.dev:
            hub.override({"dev": True})
        return hub.settings
    return settings_of(options, {"dev": options.dev or None})


def _value(settings: Settings, key: str) -> Any:
    from hubbub.settings import SECRETS

    section, _, name = key.rpartition(".")
    namespace = section.removeprefix("channels.")
    holder = settings.channels[namespace] if namespace != section else getattr(settings, section)
    value = getattr(holder, name)
    if value and name in SECRETS:
        return "***"
    return _PASSWORD.sub("***", value) if isinstance(value, str) else value


def _print(settings: Settings, rows: list[tuple[str, Any, str]]) -> None:
    colours = Colours(sys.stdout)
    width = max((len(key.rpartition(".")[2]) for key, _, _ in rows), default=0)
    told = ""
    for key, value, where in rows:
        section, _, name = key.rpartition(".")
        if section != told:
            print(("\n" if told else "") + colours.strong(f"[{section}]"))
            told = section
        line = f"{name:{width}}  {_text(name, value):{_WIDTH}}  {where}"
        print(colours.dim(line) if where == _DEFAULT else line)
    for section in (f"channels.{name}" for name in settings.channels):
        if not any(key.startswith(f"{section}.") for key, _, _ in rows):
            print(("\n" if told else "") + colours.strong(f"[{section}]"))  # all of its rules are defaults
            told = section


def _text(name: str, value: Any) -> str:
    """As it would stand in hubbub.toml."""
    if name.endswith(("_bytes", "_budget")):
        return _size(value)
    if isinstance(value, float):
        return f'"{_duration(value)}"'
    if isinstance(value, tuple):
        value = list(value)
    return json.dumps(value, ensure_ascii=False)


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s" if seconds >= 1 or not seconds else f"{seconds * 1000:g}ms"


def _size(size: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % factor == 0:
            return f'"{size // factor}{unit}"'
    return str(size)
