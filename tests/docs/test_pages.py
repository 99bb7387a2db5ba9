"""Every block of code in README.md and docs/ runs, and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.pages import ELSEWHERE, GENERATED, ROOT, Block, blocks, pages
from tests.docs.running import Browse, Stage

#: How many blocks nobody runs. Each has its reason in front of it.
EXCEPTIONS = 6

#: Pages of HTML are opened in a browser by tests of their own.
HTML = {"README.md": "test_chat.py", "docs/start.md": "test_chat.py"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_blocks() -> list[Path]:
    return [page for page in pages() if any(block.language for block in blocks(page))]


@pytest.mark.parametrize("page", with_blocks(), ids=name)
async def test_the_blocks_run(page: Path, tmp_path: Path, browse: Browse) -> None:
    async with Stage(tmp_path, browse) as stage:
        for block in blocks(page):
            if block.why_not:
                continue
            try:
                await stage.run(block)
            except Exception as error:
                error.add_note(f"in the block that begins at {block.place}")
                raise


def everything() -> list[Block]:
    return [block for page in pages() for block in blocks(page)]


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    exceptions = [block for block in everything() if block.why_not]
    assert len(exceptions) <= EXCEPTIONS, [block.place for block in exceptions]
    assert all(len(block.why_not.split()) >= 4 for block in exceptions)


def test_pages_of_html_have_a_test() -> None:
    assert {name(block.page) for block in everything() if block.language == "html"} <= set(HTML)


def test_relative_links_lead_somewhere() -> None:
    link = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
    links = [(page, target) for page in [*pages(), *GENERATED, *ELSEWHERE] for target in link.findall(page.read_text())]
    assert [(name(page), target) for page, target in links if not (page.parent / target).exists()] == []


def test_tasks_that_pages_name_are_there() -> None:
    known = set(re.findall(r"^def (\w+)\(", (ROOT / "dev.py").read_text(), re.MULTILINE))
    named = {task for page in pages() for task in re.findall(r"python3 dev\.py (\w+)", page.read_text())}
    assert named <= known
    assert {"demo", "test"} <= named


def test_pages_that_are_run_elsewhere_are() -> None:
    for page, test in ELSEWHERE.items():
        assert page.name in (ROOT / test).read_text()
