"""The pytest plugin of `hubbub.testing`, as pytest finds it, in test runs of somebody's application."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

APPLICATION = """
from hubbub import Hubbub

hub = Hubbub(channels={"news": {"delivery": "recent", "subscribe": "user"}})
"""

CONFTEST = """
import pytest

import myapp


@pytest.fixture
def hubbub_hub():
    return myapp.hub


@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

TESTS = """
import pytest

from myapp import hub


@pytest.mark.{mark}
async def test_news(hubbub_server):
    async with hubbub_server as server:
        bob = await server.connect(user="bob")
        await bob.subscribe("news:1")
        await hub.publish("news:1", "extra")
        assert (await bob.next("news:1")).data == "extra"


@pytest.mark.{mark}
@pytest.mark.hubbub(patience=0.01, client={{"max_channels": 1}})
async def test_settings(hubbub_server):
    async with hubbub_server as server:
        assert hub.settings.client.max_channels == 1
        assert server.patience == 0.01


@pytest.mark.{mark}
@pytest.mark.hubbub(patience=0.01)
async def test_fails(hubbub_server):
    async with hubbub_server as server:
        bob = await server.connect(user="bob")
        await bob.subscribe("news:1")
        await bob.next("news:1")
"""


ASYNCIO = ["-p", "asyncio", "-o", "asyncio_default_fixture_loop_scope=function"]


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """A folder with an application, in which hubbub is installed as pyproject.toml says."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        (entry,) = tomllib.load(file)["project"]["entry-points"]["pytest11"].items()
    installed = tmp_path / "installed" / "an_installation-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: an-installation\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{entry[0]} = {entry[1]}\n")
    (tmp_path / "myapp.py").write_text(APPLICATION)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")
    return tmp_path


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest there, with our plugin and those in `options`: all that are installed here would take seconds."""
    places = (folder / "installed", folder, ROOT / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-W", "error", "--disable-plugin-autoload", "-p", "hubbub", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("asyncio", [*ASYNCIO, "-o", "asyncio_mode=strict"]),
        ("asyncio", [*ASYNCIO, "-o", "asyncio_mode=auto"]),
        ("anyio", ["-p", "anyio"]),
    ],
    ids=["asyncio-strict", "asyncio-auto", "anyio"],
)
def test_the_fixture_works_with(application: Path, mark: str, options: list[str]) -> None:
    (application / "conftest.py").write_text(CONFTEST)
    (application / "test_myapp.py").write_text(TESTS.format(mark=mark))
    done = run(application, *options)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "bob expected a publication in news:1, but none came" in done.stdout
    assert "hubbub/testing" not in done.stdout  # the traceback ends in the test


def test_a_run_without_a_hub_is_told_what_to_define(application: Path) -> None:
    (application / "test_myapp.py").write_text("def test_it(hubbub_server):\n    pass\n")
    done = run(application)
    assert "define a fixture hubbub_hub in conftest.py that returns it" in done.stdout, done.stdout + done.stderr


def test_settings_without_a_name_are_refused(application: Path) -> None:
    (application / "conftest.py").write_text(CONFTEST)
    (application / "test_myapp.py").write_text(
        "import pytest\n\n\n@pytest.mark.hubbub(5)\ndef test_it(hubbub_server):\n    pass\n"
    )
    done = run(application)
    assert "@pytest.mark.hubbub takes settings by name" in done.stdout, done.stdout + done.stderr


def test_a_run_that_asks_for_nothing_imports_nothing(application: Path) -> None:
    (application / "test_other.py").write_text(
        "import sys\n\n\ndef test_it():\n"
        "    assert 'hubbub.testing.plugin' in sys.modules\n"
        "    ours = [name for name in sys.modules if name.startswith('hubbub.')]\n"
        "    assert sorted(ours) == ['hubbub.testing', 'hubbub.testing.plugin', 'hubbub.version']\n"
    )
    done = run(application)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
