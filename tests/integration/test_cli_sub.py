"""`hubbub sub`: against a real server, and against one that says what a real one says seldom."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.integration.commands import PATIENCE, Running, environment, ran, refusal, running
from tests.serving import Served, leashed

CONFIG = """
[api]
key = "the key"
[channels.default]
delivery = "recent"
[channels.live]
[channels.blob]
data = "binary"
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server with an API, and a folder with its settings."""
    with Served(CONFIG, tmp_path) as server:
        (tmp_path / "hubbub.toml").write_text(f'[server]\nport = {server.port}\n[api]\nkey = "the key"\n')
        yield server


def published(folder: Path, channel: str, *data: str, **options: str) -> None:
    """Publish, one after the other."""
    for each in data:
        arguments = [f"--{name}={value}" for name, value in options.items()]
        assert ran(folder, "pub", channel, each, *arguments).returncode == 0


@contextmanager
def listening(folder: Path, *arguments: str) -> Iterator[Running]:
    """`hubbub sub --json`, which has been heard from already: what is published from now on, it gets."""
    published(folder, "here", "1")
    with running(folder, "sub", "--json", "here", "--history", "1", *arguments) as sub:
        assert json.loads(sub.line())["channel"] == "here"  # the last channel's history is sent when all are heard
        yield sub


# a real server ----------------------------------------------------------------------------------------------


def test_history_and_live_for_people(served: Served, tmp_path: Path) -> None:
    published(tmp_path, "news", "1", '{"text": "gänse"}', tag="by=ann")
    with running(tmp_path, "sub", "news", "--history", "5") as sub:
        first, second = sub.line().split("  "), sub.line().split("  ")
        assert first[1:] == ["news", "1", "1", "by=ann"]
        assert second[1:] == ["news", "2", '{"text":"gänse"}', "by=ann"]
        published(tmp_path, "news", "3")
        assert sub.line().split("  ")[1:] == ["news", "3", "3"]


def test_channels_and_patterns_for_programs(served: Served, tmp_path: Path) -> None:
    with listening(tmp_path, "live:[ab]", "news") as sub:
        published(tmp_path, "live:c", "0")
        published(tmp_path, "live:a", "1")
        published(tmp_path, "news", "2")
        published(tmp_path, "live:b", '"3"')
        found = [json.loads(sub.line()) for _ in range(3)]
        assert [(each["channel"], each["data"]) for each in found] == [("live:a", 1), ("news", 2), ("live:b", "3")]
        assert found[1]["offset"] == 1
        assert found[1]["epoch"]
        assert "offset" not in found[0]


def test_names_with_stars_can_be_meant(served: Served, tmp_path: Path) -> None:
    with running(tmp_path, "sub", "a*", "--exact", "--history", "1", "--json") as sub:
        published(tmp_path, "ab", "0")
        published(tmp_path, "a*", "1")
        assert json.loads(sub.line())["data"] == 1


def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    settings = '[server]\nunix = "s.sock"\n[api]\nkey = "k"\n[channels.default]\ndelivery = "recent"\n'
    (tmp_path / "hubbub.toml").write_text(settings)
    with running(tmp_path, "serve") as first:
        while " listens on " not in first.line():
            pass
        published(tmp_path, "news", "1")
        with running(tmp_path, "sub", "news", "--history", "1", "--json") as sub:
            assert json.loads(sub.line())["data"] == 1
            first.interrupt()
            sub.warned("; trying until it is back")
            with running(tmp_path, "serve") as second:
                while " listens on " not in second.line():
                    pass
                published(tmp_path, "news", "2")
                sub.warned("connected again")
                sub.warned("news: some publications are missing here")  # what was in memory is gone
                assert json.loads(sub.line()) == {"lost": True, "channel": "news"}
                assert json.loads(sub.line())["data"] == 2


def test_ctrl_c_ends_it_without_a_word(served: Served, tmp_path: Path) -> None:
    with listening(tmp_path) as sub:
        assert sub.interrupt() == 130
        assert not sub.errors


def test_a_reader_that_has_enough_ends_it(served: Served, tmp_path: Path) -> None:
    published(tmp_path, "news", "1", "2")
    command = leashed(sys.executable, "-m", "hubbub", "sub", "news", "--history", "2", "--json")
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None, "it was asked for"
    assert json.loads(process.stdout.readline())["data"] == 1
    process.stdout.close()  # and nothing more is published: the next heartbeat tells it
    _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (141, "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["chat:1"], "hubbub: unknown channel: namespace 'chat' is not declared; add [channels.chat] (102)"),
        (["news", "--key", "wrong"], "refuses the API key of --key"),
        (["news", "--url", "http://127.0.0.1:1"], "hubbub: no hubbub answers at http://127.0.0.1:1: start one with"),
        ([str(number) for number in range(200)], "(107)"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], expected: str, served: Served, tmp_path: Path) -> None:
    assert expected in refusal(ran(tmp_path, "sub", *arguments), 1)


# one that says what a real one says seldom ------------------------------------------------------------------


class StandIn:
    """Answers each `POST /api/tail` with the next of its scripts, and then hangs up; after the last it is silent."""

    def __init__(self, *scripts: list[dict[str, Any]]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._scripts = list(scripts)
        self._is_over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self, folder: Path, *arguments: str) -> Iterator[Running]:
        """`hubbub sub` on it."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        try:
            with running(folder, "sub", "--url", self.url, "--key", "k", *arguments) as sub:
                yield sub
        finally:
            self._is_over.set()
            self._server.shutdown()
            self._server.server_close()

    def _handler(self) -> Callable[..., BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                stand_in.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                script = stand_in._scripts.pop(0) if stand_in._scripts else None
                self.send_response(200)
                self.send_header("Content-Type", "application/x-ndjson")
                self.end_headers()
                for line in script or [{"tail": {"channels": {}}}]:
                    self.wfile.write((json.dumps(line) if line else "").encode() + b"\n")
                self.wfile.flush()
                if script is None:
                    stand_in._is_over.wait()

            def log_message(self, format: str, *values: object) -> None:
                pass

        return Handler


def at(channel: str, offset: int, epoch: str = "e") -> dict[str, Any]:
    """A publication."""
    return {"channel": channel, "data": offset, "offset": offset, "epoch": epoch}


def head(**channels: int) -> dict[str, Any]:
    """The first line."""
    return {"tail": {"node": "n", "patterns": [], "channels": {name: place(at) for name, at in channels.items()}}}


def place(offset: int, epoch: str = "e") -> dict[str, Any]:
    """A position."""
    return {"offset": offset, "epoch": epoch}


def test_it_goes_on_after_the_last_publication_or_where_the_channel_stood(tmp_path: Path) -> None:
    stand_in = StandIn([head(a=7, b=3), at("a", 8), at("a", 9)], [head(a=9, b=3), at("b", 4)])
    with stand_in.serving(tmp_path, "a", "b", "--json") as sub:
        assert [json.loads(sub.line())["data"] for _ in range(3)] == [8, 9, 4]
        for _ in range(2):
            sub.warned("has ended the stream; trying until it is back")
            sub.warned("connected again")
    asked = [(each["since"], each["history"]) for each in stand_in.asked]
    assert [since for since, _ in asked] == [
        {},
        {"a": place(9), "b": place(3)},
        {"a": place(9), "b": place(4)},
    ]
    assert asked[0][1] == 0


def test_history_that_was_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    stand_in = StandIn([head(a=7, b=3), at("a", 6)], [head(a=7, b=3), at("a", 7), at("b", 3), {}])
    with stand_in.serving(tmp_path, "a", "b", "--history", "2", "--json") as sub:
        assert [json.loads(sub.line())["data"] for _ in range(3)] == [6, 7, 3]
        for _ in range(2):
            sub.warned("connected again")
    asked = [(each["since"], each["history"]) for each in stand_in.asked]
    assert asked == [({}, 2), ({"a": place(6)}, 300), ({"a": place(7), "b": place(3)}, 300)]


def test_a_lost_place_is_told_and_the_channel_asked_for_anew(tmp_path: Path) -> None:
    stand_in = StandIn([head(a=7), at("a", 8), {"lost": True, "channel": "a"}, at("b", 1)], [head(a=50), at("a", 50)])
    with stand_in.serving(tmp_path, "a", "b", "--json") as sub:
        found = [json.loads(sub.line()) for _ in range(3)]
        assert found == [at("a", 8), {"lost": True, "channel": "a"}, at("a", 50)]
        sub.warned("a: some publications are missing here")
    assert stand_in.asked[1]["since"] == {}


def test_what_was_dropped_is_told(tmp_path: Path) -> None:
    with StandIn([head(), {"dropped": 12}, {"channel": "x", "data": 1}]).serving(tmp_path, "*") as sub:
        assert sub.line().split("  ")[1:] == ["x", "-", "1"]
        sub.warned("hubbub: 12 publications were dropped: this reader is too slow for its patterns")


def test_a_hole_in_what_a_pattern_matches_is_told(tmp_path: Path) -> None:
    stand_in = StandIn([head(), at("x", 1), at("y", 1)], [head(), at("x", 2), at("y", 3), at("y", 4)])
    with stand_in.serving(tmp_path, "*", "--json") as sub:
        assert [json.loads(sub.line())["data"] for _ in range(5)] == [1, 1, 2, 3, 4]
        sub.warned("connected again")
        assert sub.err.get(timeout=PATIENCE) == "hubbub: y: what came between offset 1 and 3 was missed"


def test_a_terminal_is_not_told_what_to_do(tmp_path: Path) -> None:
    evil = {"channel": "x", "data": "\x1b[2J\x9b2J", "tags": {"a": "\x1b]0;"}, "info": {"user": "\x07"}}
    with StandIn([head(), evil]).serving(tmp_path, "x") as sub:
        line = sub.line()
    assert line.isprintable()
    assert line.split("  ")[1:] == ["x", "-", r'"\u001b[2J\u009b2J"', r"by \u0007", r"a=\u001b]0;"]


def test_bytes_are_shown_as_they_travel(tmp_path: Path) -> None:
    with StandIn([head(), {"channel": "x", "b64data": "/wA="}]).serving(tmp_path, "x") as sub:
        assert sub.line().split("  ")[3] == '{"b64data":"/wA="}'


def test_half_of_a_surrogate_pair_is_printed_as_an_escape(tmp_path: Path) -> None:
    with StandIn([head(), {"channel": "x", "data": "\ud83d"}]).serving(tmp_path, "x") as sub:
        assert sub.line().split("  ")[3] == r'"\ud83d"'


def test_a_server_that_sends_something_else(tmp_path: Path) -> None:
    stand_in = StandIn([head(), ["no", "object"]])  # type: ignore[list-item]  # that is the point
    with stand_in.serving(tmp_path, "x") as sub:
        assert "what the server sends is no line of JSON" in sub.warned("hubbub: ")
        assert sub.process.wait(PATIENCE) == 1


def test_colours_for_those_who_want_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with StandIn([head(), at("x", 1)]).serving(tmp_path, "x") as sub:
        assert "\x1b[36mx\x1b[0m" in sub.line()
