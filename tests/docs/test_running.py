"""The runner of blocks finds what is wrong: pages cannot be right by accident."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.docs import running
from tests.docs.pages import ROOT, Block, blocks
from tests.docs.running import Stage, Wrong

from hubbub.errors import ConfigurationError


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(running, "SPEECH", 0.2)
    monkeypatch.setattr(running, "LAST_WORDS", 0.2)
    async with Stage(tmp_path) as stage:
        yield stage


def block(language: str, text: str, expected: str | None = None) -> Block:
    return Block(ROOT / "README.md", 7, language, text, expected=expected)


@pytest.mark.parametrize(
    "wrong",
    [
        block("python", "print(1)\n", "2\n"),
        block("python", "print(1)\n", "1\n2\n"),
        block("python", "print(1)\nprint(2)\n", "1\n"),
        block("sh", "false\n"),
        block("console", "$ echo 1\n2\n"),
        block("console", "$ echo 1\n$ echo 2\n2\n"),
        block("console", "echo 1\n"),
        block("console", "$ hubbub --version\nhubbub 0\n"),
        block("cobol", "STOP RUN.\n"),
    ],
    ids=lambda wrong: f"{wrong.language}-{wrong.text.splitlines()[0]}",
)
async def test_what_is_wrong_is_found(stage: Stage, wrong: Block) -> None:
    with pytest.raises(Wrong):
        await stage.run(wrong)


async def test_an_error_names_the_line_of_the_page(stage: Stage) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        await stage.run(block("python", "one = 1\none / 0\n"))
    last = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == (str(ROOT / "README.md"), 8)


async def test_settings_are_judged(stage: Stage) -> None:
    with pytest.raises(ConfigurationError, match="prot"):
        await stage.run(block("toml", "[server]\nprot = 1\n"))


async def test_what_is_right_is_right(stage: Stage) -> None:
    await stage.run(block("python", "import asyncio\nvalue = 1\n"))
    await stage.run(block("python", "await asyncio.sleep(0)\nprint(value, object())\n", "1 <object object at …>\n"))
    await stage.run(block("python", "print(2)\nawait asyncio.Event().wait()\n", "2\n"))
    await stage.run(block("console", "$ echo 1; echo 2; echo 3\n…\n3\n$ echo 8000 \\\n  4\n8000 4\n"))


def test_outputs_and_reasons_belong_to_their_blocks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nprint(1)\n```\n\n```text\n1\n```\n\n<!-- not run: only an example -->\n```sh\nrm -r x\n```\n"
        "Words.\n\n```text\na drawing\n```\n\n```python\n# chat.py\n```\n"
    )
    first, second, third, fourth = blocks(page)
    assert (first.language, first.line, first.expected) == ("python", 2, "1\n")
    assert (second.language, second.why_not) == ("sh", "only an example")
    assert (third.language, third.why_not) == ("text", "")
    assert fourth.file == "chat.py"
