"""Results: one row each, as a table for people and as JSON for programs.

Answers for: the shape of a result, the median over repeats with its noise, whether a target was met, and where results
are kept. Refuses to know: how anything is measured.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: Where `--save` writes.
RESULTS = Path(__file__).with_name("results.md")


@dataclass
class Row:
    """One measurement. `ours` and `floor` are in `unit`; `ok` is None where nothing is promised.

    `noise` is the half range of `ours` over the repeats, in parts of it. `complete` says that everything that was due
    arrived: without that no number counts. `ratio` is that of `ours` to `floor` unless it is given. `details` is for
    whoever wants to know more.
    """

    name: str
    unit: str
    ours: float
    floor: float | None = None
    target: str = ""
    ok: bool | None = None
    complete: bool = True
    noise: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.ratio is None and self.floor:
            self.ratio = self.ours / self.floor


def against_floor(
    name: str,
    pairs: Sequence[tuple[float, float]],
    limit: float | None,
    *,
    complete: bool,
    per: str = "delivery",
    **details: Any,
) -> Row:
    """A row of microseconds from `(ours, floor)` of several repeats; ours is to be at most `limit` times the floor.

    Without a limit nothing is promised.
    """
    ours = [mine for mine, _ in pairs]
    floors = [floor for _, floor in pairs]
    ratio = statistics.median(mine / floor for mine, floor in pairs)
    return Row(
        name,
        f"µs of CPU a {per}",
        statistics.median(ours),
        statistics.median(floors),
        "" if limit is None else f"<= {limit:g} x the floor",
        None if limit is None else ratio <= limit and complete,
        complete,
        (max(ours) - min(ours)) / 2 / statistics.median(ours),
        {"ours": [round(x, 2) for x in ours], "floors": [round(x, 2) for x in floors], **details},
        ratio,
    )


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of the sorted `values` do not exceed."""
    return values[min(len(values) - 1, int(len(values) * part))] if values else 0.0


def machine() -> str:
    """Where this ran."""
    model = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return f"{model}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}, load {load:.1f}"


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| row | unit | floor | ours | ratio | noise | target | ok |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    for row in rows:
        floor = _number(row.floor) if row.floor else ""
        ratio = f"{row.ratio:.2f}" if row.ratio else ""
        noise = f"±{row.noise:.0%}" if row.noise else ""
        verdict = "incomplete" if not row.complete else {True: "yes", False: "**no**", None: ""}[row.ok]
        cells = [row.name, row.unit, floor, _number(row.ours), ratio, noise, row.target, verdict]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], mode: str) -> str:
    """Everything that is known."""
    document = {
        "mode": mode,
        "machine": machine(),
        "time": int(time.time()),
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def save(rows: Sequence[Row], mode: str, clock: Callable[[], float] = time.time) -> None:
    """Put this run above the earlier ones."""
    heading = "# Results\n\nThe newest run first; `README.md` says what the rows mean.\n"
    earlier = RESULTS.read_text().removeprefix(heading) if RESULTS.exists() else ""
    day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(clock()))
    RESULTS.write_text(f"{heading}\n## {day} UTC, {mode}\n\n{machine()}\n\n{table(rows)}\n{earlier}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
