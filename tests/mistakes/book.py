"""docs/mistakes.md, made of the mistakes that the tests make: `python -m tests.mistakes.book` writes it anew.

Answers for: all mistakes in their order, and the page that tells of them. Refuses to know: whether they are true.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.mistakes import handlers, pages, publishing, settings, starting
from tests.mistakes.mistake import InPage, InPython, InShell, Mistake
from tests.serving import ROOT

PAGE = ROOT / "docs/mistakes.md"

CHAPTERS = {
    "Settings": settings.MISTAKES,
    "Starting": starting.MISTAKES,
    "What an application registers": handlers.MISTAKES,
    "Publishing and listening in Python": publishing.MISTAKES,
    "Pages": pages.MISTAKES,
}

ALL = [mistake for mistakes in CHAPTERS.values() for mistake in mistakes]

INTRODUCTION = """\
# What went wrong?

Each of these mistakes is made by a test, and the line below it is the line that the test has seen: what differs from
time to time stands in capitals (PORT, SECONDS, FOLDER). Search this page for what you see; what to write instead is run
by the tests as well. The page is written by `python -m tests.mistakes.book`.

Python is as in `python -m asyncio`, with everything of `hubbub` imported, and JavaScript has the official client. Lines
of a server's log are those that it prints without being asked for more.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for chapter, mistakes in CHAPTERS.items():
        parts.append(f"## {chapter}\n")
        parts.extend("\n".join(_entry(mistake)) for mistake in mistakes)
    return "\n".join(parts)


def _entry(mistake: Mistake) -> Iterator[str]:
    yield f"### {mistake.title}\n"
    for name, text in mistake.files.items():
        yield _block(name.rpartition(".")[2].replace("py", "python"), f"# {name}\n{text}")
    if isinstance(mistake, InPython):
        yield _block("python", mistake.code)
        yield _block("text", mistake.sees)
        yield mistake.means + " Write:\n"
        for name, text in mistake.write_files.items():
            yield _block(name.rpartition(".")[2], f"# {name}\n{text}")
        yield _block("python", mistake.write)
    if isinstance(mistake, InShell):
        variables = "".join(f"{name}={value} " for name, value in mistake.environment.items())
        port = {"any": "8000", "taken": "8000", "free": "8000", "low": "80", "served": "8000"}[mistake.port]
        yield _block("sh", variables + mistake.command.replace("PORT", port))
        yield _block("text", mistake.sees)
        yield f"{mistake.means} Write: {mistake.write}.\n"
    if isinstance(mistake, InPage):
        yield from _page_and_server(mistake)


def _page_and_server(mistake: InPage) -> Iterator[str]:
    yield _block("python", mistake.server)
    where = f" // in a page of {mistake.origin}" if mistake.origin else ""
    yield _block("js", mistake.code + where)
    if mistake.page != mistake.sees:
        yield f"In the page `{mistake.page}`, and in the server's log:\n"
    yield _block("text", mistake.sees)
    yield mistake.means + " Write:\n"
    if mistake.write_server:
        yield _block("python", mistake.write_server)
    if mistake.write:
        yield _block("js", mistake.write)


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page())
