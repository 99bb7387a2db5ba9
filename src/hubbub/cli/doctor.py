"""`hubbub doctor`: is what the settings name as hubbub needs it?

Answers for: how findings are shown, to people and to programs, and the exit code: 1 if something is wrong. Refuses to
know: what is looked at.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from hubbub.cli.arguments import add_config, settings_of
from hubbub.cli.terminal import Colours
from hubbub.errors import ConfigurationError

if TYPE_CHECKING:
    from hubbub.doctor.findings import Finding, Part

EXAMPLE = """\
  hubbub doctor
  HUBBUB_BROKER_URL=redis://10.0.0.5 hubbub doctor main:hub
  hubbub doctor --json | jq -r '.findings[] | select(.level == "wrong") | .fix'"""

#: Characters of the columns of levels and subjects.
_LEVEL, _SUBJECT = 9, 13

#: Where nobody looks, lines are not broken.
_ENDLESS = 1 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    parser.add_argument("hub", nargs="?", metavar="module:hub", help="the Hubbub of an application, such as main:hub")
    add_config(parser)
    parser.add_argument("--json", action="store_true", help='an object: {"findings": […], "wrong": 0, "warnings": 2}')


def run(options: argparse.Namespace) -> int:
    """Look at everything; 1 if something is wrong."""
    import asyncio  # slow to load: help does not wait for it

    from hubbub.doctor.findings import count

    if not logging.getLogger().handlers:
        logging.getLogger("hubbub").addHandler(logging.NullHandler())  # what goes wrong is among the findings
    parts = asyncio.run(_examined(_wanted(options), is_silent=options.json))
    wrong, warnings = count(parts, "wrong"), count(parts, "warning")
    if options.json:
        print(_json(parts, wrong, warnings))
    else:
        print(f"\n{_counted(wrong, 'thing is', 'things are') if wrong else 'Nothing is'} wrong", end="")
        print(f", {_counted(warnings, 'is', 'are')} doubtful." if warnings else ".")
    return 1 if wrong else 0


def _wanted(options: argparse.Namespace) -> AsyncIterator[Part]:
    """The examination that is asked for. Raises ConfigurationError."""
    from hubbub.doctor.examination import examine
    from hubbub.settings import notes

    if options.hub is None:
        settings = settings_of(options)
        return examine(settings, notes(settings))
    if options.config is not None:
        raise ConfigurationError(f"--config: {options.hub} says itself where its settings are: Hubbub(config=…)")
    from hubbub.cli.application import hub_of

    hub = hub_of(options.hub)
    return examine(hub.settings, hub.notes(), hub.node.namespaces)


async def _examined(examination: AsyncIterator[Part], *, is_silent: bool) -> list[Part]:
    """All parts; each is shown as soon as it is known."""
    parts: list[Part] = []
    async for part in examination:
        if not is_silent:
            _print(part, is_first=not parts)
        parts.append(part)
    return parts


def _json(parts: list[Part], wrong: int, warnings: int) -> str:
    findings = [
        {"about": part.about, "subject": each.subject, "level": each.level, "seen": each.seen, "fix": each.fix}
        for part in parts
        for each in part.findings
    ]
    return json.dumps({"findings": findings, "wrong": wrong, "warnings": warnings}, indent=2, ensure_ascii=False)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _print(part: Part, *, is_first: bool) -> None:
    colours = Colours(sys.stdout)
    print(("" if is_first else "\n") + colours.strong(part.about))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _ENDLESS
    for finding in part.findings:
        _print_finding(finding, colours, width)
    sys.stdout.flush()


def _print_finding(finding: Finding, colours: Colours, width: int) -> None:
    shades: dict[str, Callable[[str], str]] = {
        "ok": colours.dim,
        "note": str,
        "warning": colours.warning,
        "wrong": colours.wrong,
    }
    margin = 2 + _LEVEL + _SUBJECT
    wrapper = textwrap.TextWrapper(max(width - margin, 40), break_long_words=False, break_on_hyphens=False)
    lines = wrapper.wrap(finding.seen)
    if finding.fix.startswith("ACL "):  # a command, to be copied as it is
        lines.append(f"→ {finding.fix}")
    elif finding.fix:
        wrapper.subsequent_indent = "  "
        lines += wrapper.wrap(f"→ {finding.fix}")
    head = f"  {finding.level:{_LEVEL}}{finding.subject:{_SUBJECT}}"
    for number, line in enumerate(lines):
        text = f"{head if not number else ' ' * margin}{line}"
        print(shades[finding.level](text) if not number or finding.level == "ok" else text)
