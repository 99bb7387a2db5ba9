"""`hubbub bench`: its figures add up, with a server of its own and through cuts, and each mistake is one line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.integration.commands import PATIENCE, environment, ran, refusal, running
from tests.serving import Cable, Served, leashed

CONFIG = """
[auth]
hmac_secret = "a secret of more than thirty-two bytes"
[channels.default]
delivery = "recent"
history_size = 10000
subscribe = "user"
publish = "subscriber"
[channels.quiet]
subscribe = "user"
"""

SMALL = ("--clients", "20", "--rate", "25", "--seconds", "2")


def figures(text: str | bytes) -> dict[str, Any]:
    """What `--json` prints."""
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A file with a token."""
    (tmp_path / "hubbub.toml").write_text(CONFIG)
    file = tmp_path / "token"
    file.write_bytes(ran(tmp_path, "token", "--user", "bench").stdout)
    return file


def test_a_server_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "hubbub.toml").write_text("this is [not TOML, and not asked for")
    done = ran(tmp_path, "bench", *SMALL, "--json", HUBBUB_SERVER_PORT="not asked for, either")
    found = figures(done.stdout)
    assert done.returncode == 0
    assert (found["clients"], found["published"], found["delivered"]) == (20, 50, 1000)
    assert (found["lost"], found["duplicates"], found["reconnects"]) == (0, 0, 0)
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert found["deliveries_per_s"] <= 500
    assert b" published, " in done.stderr


def test_for_people(tmp_path: Path) -> None:
    done = ran(tmp_path, "bench", "--clients", "1", "--rate", "10", "--seconds", "1")
    lines = [line.rsplit(maxsplit=1) for line in done.stdout.decode().splitlines()]
    assert ["publish to receive, p99, ms", "lost", "0"][1:] in lines
    assert [line[0] for line in lines if "," in line[0]]


async def test_clients_that_are_cut_off_come_back_and_have_lost_nothing(token: Path, tmp_path: Path) -> None:
    with Served(CONFIG, tmp_path) as server:
        async with Cable(server.port) as cable:
            url = f"ws://127.0.0.1:{cable.port}"
            command = ("bench", "--url", url, "--token-file", str(token), "--clients", "20", "--rate", "25")
            with running(tmp_path, *command, "--seconds", "4", "--json") as bench:
                await asyncio.to_thread(bench.warned, " published, ")
                cable.cut()
                cable.mend()
                found = figures(await asyncio.to_thread(bench.line))
    assert found["reconnects"] >= 20
    assert found["published"] + found["unanswered"] == 100
    assert found["unanswered"] < 50
    assert found["delivered"] >= 20 * found["published"]
    assert (found["lost"], found["duplicates"]) == (0, 0)


def test_who_may_not(token: Path, tmp_path: Path) -> None:
    with Served(CONFIG, tmp_path) as server:
        named = ("bench", "--url", server.websocket_url, "--clients", "2", "--seconds", "1")
        signed = (*named, "--token-file", str(token))
        for arguments, expected in (
            (named, "the server lets nobody connect without a token: give one by --token-file (3501"),
            ((*signed, "--channel", "chat:1"), "the server refuses to let the clients subscribe: "),
            (
                (*signed, "--channel", "quiet:1"),
                "the server refuses to let the clients publish: permission denied: publish = ",
            ),
        ):
            assert refusal(ran(tmp_path, *arguments), 1).startswith(f"hubbub: {expected}")
        elsewhere = ran(tmp_path, "bench", "--url", f"ws://127.0.0.1:{server.port}/elsewhere", "--clients", "2")
        assert refusal(elsewhere, 1).startswith("hubbub: there is no WebSocket at ws://127.0.0.1:")


def test_nobody_there(tmp_path: Path) -> None:
    said = refusal(ran(tmp_path, "bench", "--url", "ws://127.0.0.1:1"), 1)
    assert said.startswith("hubbub: no server answers at ws://127.0.0.1:1/connection/websocket (")


def test_more_clients_than_files_may_be_open(tmp_path: Path) -> None:
    command = leashed("sh", "-c", 'ulimit -n 200; exec "$@"', "sh", sys.executable, "-m", "hubbub", "bench")
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, timeout=PATIENCE)
    said = refusal(done, 2)
    assert said == "hubbub: 1064 files would be open, and 200 may be: --clients 136, or a higher `ulimit -Hn`"


def test_ctrl_c_takes_its_server_along(tmp_path: Path) -> None:
    with running(tmp_path, "bench", *SMALL[:4], "--seconds", "60") as bench:
        bench.warned(" published, ")
        assert bench.interrupt() == 130
        assert not [line for line in bench.errors if " published, " not in line and " connected" not in line]
