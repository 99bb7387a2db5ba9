"""The benchmarks run, and what they deliver is complete. What they measure is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(120)
def test_every_benchmark_runs_and_everything_that_is_due_arrives() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/run.py"), "--smoke", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["mode"] == "smoke"
    rows: list[dict[str, Any]] = report["rows"]
    assert len(rows) == 3 + 1 + 1 + 4 + 1 + 2 + 2
    for row in rows:
        assert row["complete"], row
        assert row["ours"] >= 0
        assert row["unit"]
    against = [row for row in rows if row["unit"] == "µs of CPU a delivery"]
    assert len(against) == 5
    for row in against:
        assert row["ratio"] == pytest.approx(row["ours"] / row["floor"])
        assert row["target"]
    assert [row["details"]["publications_a_flush"] for row in against[:3]] == [1, 16, 64]
    returned = next(row for row in rows if "return at once" in row["name"])
    assert returned["details"]["recovered"] == 30
    assert returned["details"]["reads"] <= 1
