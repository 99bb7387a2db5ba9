"""docs/commands.md: its examples do what is printed there, and it names every command and option.

Figures, times and spaces may differ; `…` stands for anything; `^C` is Ctrl-C, after what stands above it was printed.
"""

from __future__ import annotations

import argparse
import importlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.commands import PATIENCE, environment, running
from tests.serving import ROOT, leashed

from hubbub.cli.program import COMMANDS

PAGE = (ROOT / "docs/commands.md").read_text()

#: What is no word of an example: `hubbub` is this interpreter's.
_SHELL = f'hubbub() {{ "{sys.executable}" -m hubbub "$@"; }}\n'


def blocks(kind: str) -> list[str]:
    """The code blocks of one kind."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def examples() -> list[tuple[str, str]]:
    """Command lines and what they print."""
    parts = [part for block in blocks("console") for part in block.split("$ ")[1:]]
    return [(line, said) for line, _, said in (part.partition("\n") for part in parts)]


def expected(said: str) -> re.Pattern[str]:
    """A pattern for what was printed."""
    words = [re.escape(part) for part in _plain(said).split("…")]
    return re.compile(".*".join(words))


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[0-9][0-9.,:]*", "0", text).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of the page with its server running, and that server's port."""
    path = tmp_path_factory.mktemp("commands")
    (path / "hubbub.toml").write_text(blocks("toml")[0])
    with running(path, "serve", "--port", "0") as server:
        while " listens on " not in (line := server.line()):
            pass
        yield path, line.rpartition(":")[2]


@pytest.mark.timeout(120)
def test_the_examples_do_what_is_printed(folder: tuple[Path, str]) -> None:
    path, port = folder
    assert len(examples()) > 10
    for line, said in examples():
        # `serve` takes a free port, the others go to the one that runs; `config` and `doctor` show neither.
        variables = {"serve": {"HUBBUB_SERVER_PORT": "0"}, "config": {}, "doctor": {}}
        words = line.split("hubbub ")[1].split()
        found = shell(path, line, said, variables.get(words[0], {"HUBBUB_SERVER_PORT": port}))
        assert expected(said.removesuffix("^C\n")).fullmatch(_plain(found)), (line, found)


def shell(path: Path, line: str, said: str, variables: dict[str, str]) -> str:
    """What a command line prints."""
    is_endless = said.endswith("^C\n")
    command = line.replace("hubbub", f"exec {sys.executable} -m hubbub", 1) if is_endless else _SHELL + line
    process = subprocess.Popen(
        leashed("bash", "-c", command),
        cwd=path,
        env={**environment(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None, "it was asked for"
    if not is_endless:
        return process.communicate(timeout=PATIENCE)[0]
    found = "".join(process.stdout.readline() for _ in said.splitlines()[:-1])
    process.send_signal(signal.SIGINT)
    return found + process.communicate(timeout=PATIENCE)[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_is_there_and_no_other(name: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(COMMANDS[name].module).configure(parser)
    known = {option for action in parser._actions for option in action.option_strings}
    part = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    rows = "".join(line for line in part.splitlines() if line.startswith("| "))
    written = set(re.findall(r"`(--?[a-z][a-z-]*)", rows.replace("`hubbub serve --dev`", "")))
    assert written - {"--decode"} == known - {"--decode"}
    assert "hubbub " + name in part


def test_no_command_is_left_out() -> None:
    assert re.findall(r"^## (\w+)$", PAGE, re.MULTILINE) == list(COMMANDS)
