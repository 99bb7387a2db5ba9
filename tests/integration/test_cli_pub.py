"""`hubbub pub` against a real server: what is published arrives as it was typed, and each mistake is one line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.certificates import make_certificate
from tests.integration.commands import PATIENCE, environment, ran, refusal, running
from tests.serving import Served, leashed

CONFIG = """
[server]
allowed_origins = []
[api]
key = "the key"
[channels.default]
delivery = "recent"
[channels.blob]
delivery = "recent"
data = "binary"
[channels.words]
delivery = "recent"
data = "text"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with an API."""
    with Served(CONFIG, tmp_path_factory.mktemp("server")) as served:
        yield served


@pytest.fixture
def folder(server: Served, tmp_path: Path) -> Path:
    """A folder whose settings are that server's."""
    (tmp_path / "hubbub.toml").write_text(f'[server]\nport = {server.port}\n[api]\nkey = "the key"\n')
    return tmp_path


def kept(server: Served, channel: str) -> list[dict[str, Any]]:
    """What the channel has kept."""
    body = json.dumps({"channel": channel, "limit": -1}).encode()
    request = urllib.request.Request(f"{server.api_url}/history", body, {"X-API-Key": "the key"})
    with urllib.request.urlopen(request) as answer:
        publications: list[dict[str, Any]] = json.load(answer)["result"]["publications"]
    return publications


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ('{"text": "hi"}', {"text": "hi"}),
        ("hi there", "hi there"),
        ("42", 42),
        ("-1.50", -1.5),
        ("NaN", "NaN"),
        ("{half", "{half"),
        ("„gänse“ 🦆", "„gänse“ 🦆"),
        ("12345678901234567890123", 12345678901234567890123),
    ],
)
def test_json_as_it_stands_and_all_else_as_text(typed: str, expected: object, server: Served, folder: Path) -> None:
    done = ran(folder, "pub", "plain", typed)
    assert done.returncode == 0, done.stderr
    last = kept(server, "plain")[-1]
    assert last["data"] == expected
    assert done.stdout.decode() == f"published to plain, offset {last['offset']}\n"


def test_text_that_could_be_json(server: Served, folder: Path) -> None:
    assert ran(folder, "pub", "plain", "42", "--text").returncode == 0
    assert kept(server, "plain")[-1]["data"] == "42"


def test_channels_of_text_and_of_bytes(server: Served, folder: Path) -> None:
    assert ran(folder, "pub", "words:1", "hi", "--raw").returncode == 0
    assert kept(server, "words:1")[-1]["data"] == "hi"
    assert ran(folder, "pub", "blob:1", "-", "--raw", given=b"\xff\x00\n").returncode == 0
    assert kept(server, "blob:1")[-1]["data"] == "/wAK"


def test_stdin_whole_and_by_lines(server: Served, folder: Path) -> None:
    assert ran(folder, "pub", "whole", "-", given=b'{"a":\n1}\n').returncode == 0
    assert [each["data"] for each in kept(server, "whole")] == [{"a": 1}]
    done = ran(folder, "pub", "lines", "-", "--lines", given=b'one\n\n{"two": 2}\r\n3')
    assert [each["data"] for each in kept(server, "lines")] == ["one", {"two": 2}, 3]
    assert not done.stdout
    assert done.stderr == b"published 3\n"


def test_for_programs_it_prints_an_object_a_publication(server: Served, folder: Path) -> None:
    done = ran(folder, "pub", "objects", "-", "--lines", "--json", given=b"1\n2\n")
    assert [json.loads(line)["offset"] for line in done.stdout.splitlines()] == [1, 2]
    assert json.loads(done.stdout.splitlines()[0])["epoch"]


def test_tags_keys_and_what_is_not_kept(server: Served, folder: Path) -> None:
    twice = [ran(folder, "pub", "once", "1", "--tag", "a=b=c", "--idempotency-key", "k") for _ in range(2)]
    assert [each.returncode for each in twice] == [0, 0]
    assert [(each["data"], each["tags"]) for each in kept(server, "once")] == [(1, {"a": "b=c"})]
    assert ran(folder, "pub", "once", "2", "--ephemeral").stdout == b"published to once, kept nowhere\n"
    assert len(kept(server, "once")) == 1


def test_url_and_key_by_option_or_variable(server: Served, tmp_path: Path) -> None:
    assert ran(tmp_path, "pub", "plain", "1", "--url", server.http_url + "/", "--key", "the key").returncode == 0
    port = str(server.port)
    assert ran(tmp_path, "pub", "plain", "1", HUBBUB_API_KEY="the key", HUBBUB_SERVER_PORT=port).returncode == 0


@pytest.mark.parametrize("unix", ["server.sock", ""])
def test_in_the_folder_of_a_server_nothing_has_to_be_said(unix: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = f'unix = "{unix}"' if unix else f'host = "0.0.0.0"\nport = {port}'
    (tmp_path / "hubbub.toml").write_text(f'[server]\n{where}\n[api]\nkey = "k"\n')
    with running(tmp_path, "serve") as served:
        while " listens on " not in served.line():
            pass
        assert ran(tmp_path, "pub", "news", "1").stdout == b"published to news, kept nowhere\n"


def test_tls_is_checked(tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    settings = f'tls_certificate = "{files.file}"\ntls_key = "{files.key}"\n[api]\nkey = "k"\n'
    (tmp_path / "hubbub.toml").write_text(f"[server]\nport = 0\n{settings}")
    with running(tmp_path, "serve") as served:
        while " listens on " not in (said := served.line()):
            pass
        url = said.rpartition(" ")[2]
        believed = ran(tmp_path, "pub", "news", "1", "--url", url, SSL_CERT_FILE=files.file)
        assert believed.returncode == 0, believed.stderr
        said = refusal(ran(tmp_path, "pub", "news", "1", "--url", url), 1)
        assert said.startswith(f"hubbub: {url}: its certificate is not believed: self")
        plain = url.replace("https:", "http:")
        assert refusal(ran(tmp_path, "pub", "news", "1", "--url", plain), 1).endswith("; perhaps https://…")


# mistakes ---------------------------------------------------------------------------------------------------


def test_nobody_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    said = refusal(ran(tmp_path, "pub", "a", "1", "--url", url, "--key", "k"), 1)
    assert said == f"hubbub: no hubbub answers at {url}: start one with `hubbub serve`, or name it by --url"
    said = refusal(ran(tmp_path, "pub", "a", "1", "--url", "unix:/no/such.sock", "--key", "k"), 1)
    assert said.startswith("hubbub: no hubbub answers at unix:/no/such.sock: ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a", "1", "--key", "wrong"], "{url} refuses the API key of --key: it is not that server's api.key"),
        (["chat:1", "1"], "'chat:1': unknown channel: namespace 'chat' is not declared; add [channels.chat] (102"),
        (["a" * 300, "1"], "'" + "a" * 80 + "…': "),
        (["a", "1", "--url", "{url}/elsewhere"], "{url}/elsewhere answers, and is no hubbub: there is no /api/publish"),
        (["a", "x" * 70_000], "'a': "),
    ],
)
def test_what_the_server_refuses(arguments: list[str], expected: str, server: Served, folder: Path) -> None:
    given = [each.format(url=server.http_url) for each in arguments]
    said = refusal(ran(folder, "pub", *given), 1)
    assert said.startswith("hubbub: " + expected.format(url=server.http_url)), said
    assert len(said) < 400


def test_no_key_and_a_wrong_one_of_the_settings(server: Served, tmp_path: Path) -> None:
    said = refusal(ran(tmp_path, "pub", "a", "1", "--url", server.http_url), 1)
    assert said.startswith(f"hubbub: {server.http_url} refuses a request without an API key: give it by --key")
    said = refusal(ran(tmp_path, "pub", "a", "1", "--url", server.http_url, HUBBUB_API_KEY="no"), 1)
    assert said.startswith(f"hubbub: {server.http_url} refuses the API key of HUBBUB_API_KEY: ")


def test_an_api_that_is_closed(tmp_path: Path) -> None:
    with Served("", tmp_path) as closed:
        said = refusal(ran(tmp_path, "pub", "a", "1", "--url", closed.http_url, "--key", "k"), 1)
        assert said == f"hubbub: the HTTP API of {closed.http_url} is closed: start that server with api.key set"


def test_what_is_no_text(server: Served, folder: Path) -> None:
    said = refusal(ran(folder, "pub", "plain", "-", given=b"ab\xff"), 1)
    assert said == "hubbub: byte 3 of the data is not UTF-8: send bytes by --raw"
    done = ran(folder, "pub", "partly", "-", "--lines", given=b"1\n\xff\n3\n")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "published 1",
        "hubbub: line 2: byte 1 of the data is not UTF-8: send bytes by --raw",
    ]
    assert [each["data"] for each in kept(server, "partly")] == [1]


def test_output_into_a_pipe_that_is_closed(server: Served, folder: Path) -> None:
    command = [sys.executable, "-m", "hubbub", "pub", "many", "-", "--lines", "--json"]
    process = subprocess.Popen(
        leashed(*command),
        cwd=folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None, "it was asked for"
    process.stdout.close()
    _, said = process.communicate(b"1\n" * 100, timeout=PATIENCE)
    assert (process.returncode, said) == (141, b"")
