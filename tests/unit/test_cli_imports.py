"""What is loaded when, since that is what starting costs. Times differ from machine to machine; modules do not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: Each costs tens of milliseconds, or brings one that does.
HEAVY = {"asyncio", "cryptography", "jwt", "msgspec", "picows", "ssl", "starlette", "uvicorn", "uvloop"}


def loaded(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    code = f"import sys\n{statement}\nimport json; print(json.dumps(sorted(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(json.loads(said.splitlines()[-1]))


def helped(*arguments: str) -> str:
    """A statement that runs the command line until it leaves."""
    return f"import hubbub.cli\ntry: hubbub.cli.main({list(arguments)!r})\nexcept SystemExit: pass"


def test_importing_hubbub_loads_nothing_heavy() -> None:
    assert not HEAVY & loaded("import hubbub")


def test_the_hub_does_not_bring_a_server_or_signatures() -> None:
    both = loaded("from hubbub import Hubbub")
    assert "hubbub.app" in both
    assert not {"cryptography", "jwt", "picows", "starlette", "uvicorn"} & both


def test_help_loads_nothing_heavy_and_no_command() -> None:
    both = loaded(helped("--help"))
    assert not HEAVY & both
    ours = {"hubbub", "hubbub.errors", "hubbub.version", "hubbub.cli", "hubbub.cli.arguments", "hubbub.cli.program"}
    assert {name for name in both if name.partition(".")[0] == "hubbub"} == ours


@pytest.mark.parametrize("command", ["serve", "demo", "token", "config"])
def test_the_help_of_a_command_does_not_wait_for_what_it_does(command: str) -> None:
    assert not HEAVY & loaded(helped(command, "--help"))


def test_publishing_needs_no_server() -> None:
    both = loaded(helped("pub", "room", "hi", "--url", "unix:/nowhere/at/all"))
    assert not {"asyncio", "jwt", "picows", "starlette", "uvicorn", "uvloop"} & both


def test_the_collector_leaves_alone_what_a_server_has_loaded() -> None:
    """Said by a server that is none, from where it would run."""
    code = """
import gc
from hubbub.cli import serve

class Server:
    started = True
    def run(self):
        print(gc.get_freeze_count() > 1000, gc.get_threshold()[0] == serve.COLLECT_EVERY, gc.isenabled())

serve._served(Server())
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "True", "True"]
