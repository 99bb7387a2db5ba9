"""The pages of the documentation, as blocks of code that can be run.

Answers for: finding the pages, their fences, what is said about a block in front of it, and which text is the output of
which block. Refuses to know: how anything is run.

A block whose first line is a comment that is a file's name (`# chat.py`, `<!-- chat.html -->`) is that file. A block
that nobody can run has `<!-- not run: why -->` in front of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

#: What is written by a program and held against it elsewhere: signatures are not for running.
GENERATED = {ROOT / "docs/reference.md"}

#: Pages with a test of their own, which runs them.
ELSEWHERE = {
    ROOT / "docs/commands.md": "tests/integration/test_cli_docs.py",
    ROOT / "docs/mistakes.md": "tests/mistakes/test_mistakes.py",
}

_FENCE = re.compile(r"( *)```(\w*)\s*")
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
_FILE = re.compile(r"(?:#|//|<!--) ([\w.-]+\.(?:py|toml|html|js|json|css|sh))(?: -->)?")


class Block(NamedTuple):
    """A fence. `line` is that of its first line of code; `expected` is what it prints, where the page says so."""

    page: Path
    line: int
    language: str
    text: str
    why_not: str = ""
    expected: str | None = None

    @property
    def place(self) -> str:
        """As editors read it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The file that it is; empty if it is none."""
        match = _FILE.fullmatch(self.text.partition("\n")[0].strip())
        return match[1] if match else ""


def pages() -> list[Path]:
    """Everything that people read."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if page not in {*GENERATED, *ELSEWHERE}]


def blocks(page: Path) -> list[Block]:
    """All blocks of a page in their order, with the outputs that follow them taken in."""
    found: list[Block] = []
    for block, is_adjacent in _fences(page):
        if block.language == "text" and is_adjacent and found and found[-1].language in ("python", "js"):
            found[-1] = found[-1]._replace(expected=block.text)
        else:
            found.append(block)
    return found


def _fences(page: Path) -> list[tuple[Block, bool]]:
    """Each with whether only white space is between it and the one before."""
    found: list[tuple[Block, bool]] = []
    lines = page.read_text().splitlines()
    number, words = 0, ""  # what stands between the last fence and here
    while number < len(lines):
        opening = _FENCE.fullmatch(lines[number])
        number += 1
        if opening is None:
            words += lines[number - 1].strip() + "\n"
            continue
        end = next(at for at in range(number, len(lines)) if lines[at].strip() == "```")
        text = "".join(line[len(opening[1]) :] + "\n" for line in lines[number:end])
        said = _NOT_RUN.fullmatch(words.strip().rpartition("\n")[2])
        block = Block(page, number + 1, opening[2], text, said[1] if said else "")
        found.append((block, bool(found) and not words.strip()))
        number, words = end + 1, ""
    return found
