"""`hubbub serve module:hub`: somebody's application, found, started, and its mistakes shown as its own."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest
from tests.integration.commands import ran, refusal, running

from hubbub import ConfigurationError, Hubbub
from hubbub.settings import load

APPLICATION = """
from hubbub import Hubbub
import neighbour

hub = Hubbub(server={"port": 1}, channels={"room": {"subscribe": "anyone"}})
none = None
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an application in it."""
    (tmp_path / "chat.py").write_text(APPLICATION)
    (tmp_path / "neighbour.py").write_text("")
    return tmp_path


def test_it_serves_the_hub_of_a_module_of_this_folder(folder: Path) -> None:
    with running(folder, "serve", "chat:hub", "--port", "0", "--dev") as server:
        said = server.line()
        assert "auth.insecure = true (--dev)" in said
        while " listens on " not in said:
            said = server.line()
        url = said.rpartition(" ")[2]
        with urllib.request.urlopen(f"{url}/health") as answer:
            assert answer.status == 200
        server.interrupt()
        assert not server.errors


def test_the_hub_of_a_module_has_the_settings_of_its_folder(folder: Path) -> None:
    (folder / "chat.py").write_text("from hubbub import Hubbub\n\nhub = Hubbub()\n")
    (folder / "hubbub.toml").write_text('[auth]\nhmac_secret = "a secret of thirty-two bytes, yes"\n[api]\nkey = "k"\n')
    with running(folder, "serve", "chat:hub", "--port", "0") as server:
        said = server.line()
        assert " listens on http" in said  # and nothing before it: clients may connect, and the API is open
        url = said.rpartition(" ")[2].strip()
        done = ran(folder, "pub", "news", "hello", "--url", url)  # with the key of the file, as the server
        assert done.returncode == 0, done.stderr.decode()


def test_a_hub_reads_the_file_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Hubbub().settings.server.port == 8000
    Path("hubbub.toml").write_text('[server]\nport = 9000\nhost = "file"\ndrain_time = 7\n')
    monkeypatch.setenv("HUBBUB_SERVER_HOST", "environment")
    hub = Hubbub(server={"drain_time": 3})
    found = hub.settings.server
    assert (found.port, found.host, found.drain_time) == (9000, "environment", 3)
    assert hub.settings.sources["server.port"] == "hubbub.toml"
    hub.override({"server.drain_time": 4})
    assert (hub.settings.server.port, hub.settings.server.drain_time) == (9000, 4)
    Path("other.toml").write_text("[server]\nport = 9001\n")
    assert Hubbub(config="other.toml").settings.server.port == 9001
    assert Hubbub(settings=load(None, {})).settings.server.port == 8000
    Path("hubbub.toml").write_text("[server]\nprot = 9000\n")
    with pytest.raises(ConfigurationError, match=r"^hubbub\.toml: unknown setting server\.prot"):
        Hubbub()


def test_what_the_command_line_does_not_say_an_application_still_does(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text('from hubbub import Hubbub\n\nhub = Hubbub(server={"unix": "mine.sock"})\n')
    with running(tmp_path, "serve", "chat:hub", "--dev") as server:
        while " listens on " not in (said := server.line()):
            pass
    assert said.endswith(" listens on unix:mine.sock")


def test_the_command_line_is_stronger_than_a_unix_socket(tmp_path: Path) -> None:
    (tmp_path / "hubbub.toml").write_text('[server]\nunix = "server.sock"\n')
    with running(tmp_path, "serve", "--port", "0") as server:
        while " listens on " not in (said := server.line()):
            pass
    assert "http://127.0.0.1:" in said


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("chatt:hub", "hubbub: there is no module 'chatt' in "),
        ("chat.rooms:hub", "hubbub: there is no module 'chat.rooms' in "),
        ("chat:hubb", "hubbub: 'chat:hubb': the module chat has no 'hubb'; the nearest is hub"),
        ("chat:none", "hubbub: 'chat:none' is a NoneType; expected a Hubbub"),
        ("chat:Hubbub", "hubbub: 'chat:Hubbub' is a type; expected a Hubbub"),
        ("chat", "hubbub: 'chat': expected a module and a hub, such as chat:hub"),
        ("chat:", "hubbub: 'chat:': expected a module and a hub, such as main:hub"),
        ("chat.py", "hubbub: 'chat.py' is a file; name the module and the hub, such as chat:hub"),
        ("./chat.py:hub", "hubbub: './chat.py:hub' is a file; name the module and the hub, such as chat:hub"),
    ],
)
def test_mistakes_in_its_name(target: str, expected: str, folder: Path) -> None:
    assert refusal(ran(folder, "serve", target), 2).startswith(expected)


def test_settings_of_its_own_are_not_mixed_with_a_file(folder: Path) -> None:
    said = refusal(ran(folder, "serve", "chat:hub", "--config", "other.toml"), 2)
    assert said == "hubbub: --config: chat:hub says itself where its settings are: Hubbub(config=…)"


@pytest.mark.parametrize(
    ("fault", "said", "line"),
    [
        ("1 / 0", "ZeroDivisionError", '  File "{folder}/neighbour.py", line 1'),
        (
            "import nowhere_at_all",
            "no module 'nowhere_at_all'; is it installed?",
            '  File "{folder}/neighbour.py", line 1',
        ),
        ("def f(:", "SyntaxError", '  File "{folder}/neighbour.py", line 1'),
        ("raise SystemExit(3)", "SystemExit", '  File "{folder}/neighbour.py", line 1'),
    ],
)
def test_an_application_that_raises_is_shown_where_it_does(fault: str, said: str, line: str, folder: Path) -> None:
    (folder / "neighbour.py").write_text(fault)
    done = ran(folder, "serve", "chat:hub")
    *traceback, last = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert last.startswith("hubbub: the module chat cannot be imported: ")
    assert said in last
    assert any(each.startswith(line.format(folder=folder)) for each in traceback), traceback
    assert not any("/hubbub/cli/" in each or "importlib" in each for each in traceback), traceback


def test_a_wrong_setting_in_an_application_is_one_line_that_says_where(folder: Path) -> None:
    (folder / "chat.py").write_text("from hubbub import Hubbub\n\nhub = Hubbub(server={'prot': 1})\n")
    said = refusal(ran(folder, "serve", "chat:hub"), 2)
    assert (
        said == "hubbub: chat.py, line 3: argument: unknown setting server.prot; the nearest known one is server.port"
    )


def test_a_taken_port_names_the_option(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for target in ((), ("chat:hub",)):
            done = ran(folder, "serve", *target, "--port", str(port))
            assert done.returncode == 2
            assert done.stderr.decode().startswith(
                f"hubbub: port {port} of 127.0.0.1 is taken: choose another by --port"
            )
            assert done.stderr.count(b"\n") == 1
