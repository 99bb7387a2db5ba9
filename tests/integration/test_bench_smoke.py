"""The benchmarks run, and what they deliver is complete. What they measure is no test's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.backends import need_program
from tests.databases import need_programs

ROOT = Path(__file__).resolve().parents[2]

WITH_REDIS = ("publish", "receive", "nodes", "outage")


def smoke(*only: str, path: str = "") -> list[dict[str, Any]]:
    """The rows of a tiny run, all of which have to be complete."""
    command = [sys.executable, str(ROOT / "benchmarks/run.py"), "--smoke", "--json"]
    for name in only:
        command += ["--only", name]
    environment = os.environ | {"PATH": os.pathsep.join([path, os.environ["PATH"]])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["mode"] == "smoke"
    rows: list[dict[str, Any]] = report["rows"]
    for row in rows:
        assert row["complete"], row
        assert row["ours"] >= 0
        assert row["unit"]
        if row["unit"].startswith("µs") and row["floor"]:
            assert row["ratio"] == pytest.approx(row["ours"] / row["floor"])
    return rows


@pytest.mark.timeout(300)
def test_every_benchmark_of_one_node_runs_and_everything_that_is_due_arrives() -> None:
    rows = smoke("fanout", "one-to-one", "echo", "latency", "memory", "return", "slow")
    assert len(rows) == 3 + 2 + 2 + 4 + 1 + 2 + 2
    against = [row for row in rows if row["unit"] == "µs of CPU a delivery"]
    assert len(against) == 7
    assert ["bare picows" in row["name"] for row in against] == [not row["target"] for row in against]
    assert [row["details"]["publications_a_flush"] for row in against[:3]] == [1, 16, 64]
    returned = next(row for row in rows if "return at once" in row["name"])
    assert returned["details"]["recovered"] == 30
    assert returned["details"]["reads"] <= 1


@pytest.mark.timeout(300)
def test_every_benchmark_with_redis_runs_and_everything_that_is_due_arrives() -> None:
    program = Path(need_program("redis"))
    rows = smoke(*WITH_REDIS, path=str(program.parent))
    assert len(rows) == (3 + 3 + 1 + 1) + (4 + 2) + 3 + 2
    across = [row for row in rows if row["unit"] == "µs of CPU a delivery"]
    assert [row["details"]["publications_a_flush"] for row in across[:2]] == [1, 1]
    assert all("1.15" in row["target"] for row in across)
    returned = next(row for row in rows if "as Redis does" in row["name"])
    assert returned["details"]["reads"] <= 2


@pytest.mark.timeout(300)
def test_the_benchmark_of_stores_runs_and_everything_that_was_acknowledged_is_there() -> None:
    need_programs("postgres15")
    rows = smoke("store")
    assert len(rows) == 2 * (5 * 3 + 3) + 1
    promised = [row for row in rows if row["target"]]
    assert ["100 senders in one channel" in row["name"] for row in promised] == [True, True]
    assert all(row["floor"] for row in rows if row["name"].startswith("acknowledged"))


@pytest.mark.timeout(120)
def test_without_redis_its_rows_are_left_out_with_a_word_why() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/run.py"), "--smoke", "--only", "publish"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=os.environ | {"PATH": "/nowhere"})
    assert done.returncode == 0, done.stderr
    assert "publish is left out: no redis-server" in done.stderr
