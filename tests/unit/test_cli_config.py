"""`hubbub config`: what holds, and where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hubbub.cli import main
from hubbub.settings import origins
from hubbub.settings.loading import load

Output = pytest.CaptureFixture[str]

CONFIG = """
[server]
port = 9000
[api]
key = "secret-of-the-file"
[channels.room]
delivery = "recent"
history_ttl = 90
max_bytes = "1MiB"
[channels.news]
"""


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUBBUB_SERVER_HOST", "::1")
    Path("hubbub.toml").write_text(CONFIG)


def shown(output: Output, *arguments: str) -> str:
    """What it prints."""
    assert main(["config", *arguments]) == 0
    said = output.readouterr()
    assert not said.err
    return said.out


def rows(output: Output, *arguments: str) -> dict[str, Any]:
    """What it prints as JSON."""
    found: dict[str, Any] = json.loads(shown(output, "--json", *arguments))
    return found


def test_every_setting_with_its_origin(capsys: Output) -> None:
    found = rows(capsys)
    assert set(found) == set(origins(load(Path("hubbub.toml"))))
    assert found["server.port"] == {"value": 9000, "from": "hubbub.toml"}
    assert found["server.host"] == {"value": "::1", "from": "HUBBUB_SERVER_HOST"}
    assert found["server.workers"] == {"value": 1, "from": "default"}
    assert found["channels.room.delivery"] == {"value": "recent", "from": "hubbub.toml"}
    assert found["channels.news.delivery"] == {"value": "live", "from": "default"}
    assert found["api.key"] == {"value": "***", "from": "hubbub.toml"}
    assert found["auth.hmac_secret"] == {"value": "", "from": "default"}


def test_only_what_was_said(capsys: Output) -> None:
    said = {"server.host", "server.port", "api.key"}
    said |= {f"channels.room.{name}" for name in ("delivery", "history_ttl", "max_bytes")}
    assert set(rows(capsys, "--changed")) == said


def test_for_people_it_is_aligned_and_reads_like_the_file(capsys: Output) -> None:
    text = shown(capsys)
    lines = {line.split()[0]: line for line in text.splitlines() if line and not line.startswith("[")}
    assert lines["port"].split() == ["port", "9000", "hubbub.toml"]
    assert lines["ping_interval"].split() == ["ping_interval", '"25s"', "default"]
    assert len({line.rindex("default") for line in text.splitlines() if line.endswith("default")}) == 1
    assert '"90s"' in text
    assert '"1MiB"' in text
    assert "\x1b" not in text


def test_a_namespace_of_defaults_is_shown_as_well(capsys: Output) -> None:
    assert shown(capsys, "--changed").endswith("\n\n[channels.news]\n")


def test_what_dev_changes(capsys: Output) -> None:
    found = rows(capsys, "--dev", "--changed")
    assert found["auth.insecure"] == {"value": True, "from": "--dev"}


def test_another_file(capsys: Output) -> None:
    Path("other.toml").write_text("[server]\nport = 9001\n")
    assert rows(capsys, "--config", "other.toml")["server.port"] == {"value": 9001, "from": "other.toml"}


def test_an_application_has_its_own(capsys: Output) -> None:
    Path("its_application.py").write_text("from hubbub import Hubbub\nhub = Hubbub(server={'port': 9002})\n")
    assert rows(capsys, "its_application:hub")["server.port"] == {"value": 9002, "from": "argument"}


def test_colours_dim_the_defaults_and_nothing_else(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    lines = shown(capsys).splitlines()
    assert all(("\x1b[2m" in line) == line.endswith("default\x1b[0m") for line in lines)


def test_bad_settings_are_one_line(capsys: Output) -> None:
    Path("hubbub.toml").write_text("[server]\nprot = 1\n")
    assert main(["config"]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err == "hubbub: hubbub.toml: unknown setting server.prot; the nearest known one is server.port\n"
