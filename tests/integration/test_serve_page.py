"""`hubbub serve --page`: one HTML file, and nothing else of its folder."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.integration.commands import Running, ran, refusal, running


def address(server: Running) -> str:
    """Where it listens, once it does."""
    while " listens on " not in (said := server.line()):
        pass
    return said.rpartition(" ")[2]


def fetch(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        return str(answer.read().decode())


def status(url: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url)
    refused.value.close()
    return refused.value.code


def test_the_page_is_read_anew_each_time_and_nothing_beside_it_is_shown(tmp_path: Path) -> None:
    page = tmp_path / "chat.html"
    page.write_text("<p>première")
    (tmp_path / "hubbub.toml").write_text('[auth]\nhmac_secret = "a secret of thirty-two bytes, yes"')
    with running(tmp_path, "serve", "--page", "chat.html", "--port", "0") as server:
        url = address(server)
        assert fetch(url) == "<p>première"
        page.write_text("<p>second")
        assert fetch(url) == "<p>second"
        assert status(f"{url}/hubbub.toml") == 404
        assert status(f"{url}/chat.html") == 404
        with urllib.request.urlopen(f"{url}/health") as answer:
            assert answer.status == 200
        page.unlink()
        assert status(url) == 404


def test_a_page_that_is_not_there_is_said_at_the_start(tmp_path: Path) -> None:
    said = refusal(ran(tmp_path, "serve", "--page", "chat.htm"), 2)
    assert said == "hubbub: --page: there is no file 'chat.htm'"
