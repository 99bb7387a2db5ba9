"""Each mistake of a newcomer leads to the one line that is promised, and what is said to be right leads to none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.mistakes import stage
from tests.mistakes.book import ALL, PAGE, page
from tests.mistakes.mistake import InPage, InPython, InShell, Mistake


def of(kind: type[Mistake]) -> pytest.MarkDecorator:
    chosen = [mistake for mistake in ALL if isinstance(mistake, kind)]
    return pytest.mark.parametrize("mistake", chosen, ids=[mistake.title.replace("`", "") for mistake in chosen])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and nothing of this machine's settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HUBBUB_")]:
        monkeypatch.delenv(name)


def one_line(mistake: Mistake, seen: list[str]) -> None:
    assert len(seen) == 1, seen
    assert mistake.is_seen_in(seen[0]), f"promised: {mistake.sees}\nseen:     {seen[0]}"


@of(InPython)
async def test_in_python(mistake: InPython, tmp_path: Path) -> None:
    stage.lay(tmp_path, mistake.files)
    one_line(mistake, await stage.seen_of_program(mistake.code))
    stage.lay(tmp_path, mistake.write_files)
    assert await stage.seen_of_program(mistake.write) == []


@of(InShell)
async def test_in_a_shell(mistake: InShell, tmp_path: Path) -> None:
    stage.lay(tmp_path, mistake.files)
    code, seen = await stage.seen_of_command(mistake)
    one_line(mistake, seen)
    assert code == mistake.exit


@of(InPage)
async def test_in_a_page(mistake: InPage) -> None:
    said, log = await stage.seen_in_page(mistake.server, mistake.code, mistake.origin)
    assert said == mistake.page
    # Where the page itself is told what to do, there is no need to look into the log.
    if mistake.sees == mistake.page:
        assert log == []
    else:
        one_line(mistake, log)
    right = await stage.seen_in_page(
        mistake.write_server or mistake.server, mistake.write or mistake.code, mistake.origin
    )
    assert right == ("ok", [])


def test_there_are_forty_of_them_at_least_and_each_is_another() -> None:
    assert len(ALL) >= 40
    assert len({(type(mistake), mistake.title) for mistake in ALL}) == len(ALL)
    assert all(mistake.sees and mistake.means for mistake in ALL)
    assert all("\n" not in mistake.sees for mistake in ALL)
    assert all(mistake.write or mistake.write_server for mistake in ALL if isinstance(mistake, InPage))


def test_a_line_is_promised_exactly() -> None:
    mistake = Mistake(title="", sees="port PORT of 127.0.0.1 is taken", means="")
    assert mistake.is_seen_in("port 8000 of 127.0.0.1 is taken")
    assert not mistake.is_seen_in("port 8000 of 127x0.0.1 is taken")
    assert not mistake.is_seen_in("port eight of 127.0.0.1 is taken")
    assert not mistake.is_seen_in("port 8000 of 127.0.0.1 is taken, and more")


def test_the_page_in_the_documentation_tells_of_these() -> None:
    assert PAGE.read_text() == page(), "docs/mistakes.md is old: python -m tests.mistakes.book"
