"""What came of a round of a storm, for readers.

Answers for: a line for each round, and a table of many. Refuses to know: what is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass
class Verdict:
    """One round."""

    fault: str
    kind: str
    wrong: list[str] = field(default_factory=list)
    seconds_to_calm: float = 0.0
    slowest_answer: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    durable: int = 0  # acknowledged publications in durable channels
    lost: int = 0  # of those the ones that the store has lost, with leave
    losses: dict[int, int] = field(default_factory=dict)
    reconnects: int = 0
    skipped: str = ""  # why it did not blow

    @property
    def text(self) -> str:
        """In one line, and one for each fault."""
        if self.skipped:
            return f"skipped  {self.fault} ({self.kind}): {self.skipped}"
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        losses = ", ".join(f"{count}x{losses}" for losses, count in sorted(self.losses.items()))
        lost = f", of which the store lost {self.lost}" * bool(self.lost)
        head = (
            f"{'WRONG' if self.wrong else 'right'}  {self.fault} ({self.kind}): "
            f"calm after {self.seconds_to_calm:.1f} s; {outcomes}; "
            f"{self.durable} acknowledged in durable channels{lost}; slowest answer {self.slowest_answer:.1f} s; "
            f"losses told {losses}; {self.reconnects} reconnects"
        )
        return "\n    ".join([head, *self.wrong])


def table(verdicts: Iterable[Verdict]) -> str:
    """In Markdown, a line for each fault; times are seconds, of its worst round."""
    by_fault: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if not verdict.skipped:
            by_fault.setdefault(verdict.fault, []).append(verdict)
    return "\n".join(_lines(by_fault)) + "\n"


def _lines(by_fault: dict[str, list[Verdict]]) -> Iterator[str]:
    yield "| fault | rounds | acknowledged | of them durable | losses told | calm after | slowest answer | wrong |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for fault, rounds in sorted(by_fault.items()):
        yield _line(fault, rounds)
    yield _line("all", [verdict for rounds in by_fault.values() for verdict in rounds])


def _line(name: str, rounds: list[Verdict]) -> str:
    acknowledged = sum(each.outcomes.get("acknowledged", 0) for each in rounds)
    durable = sum(each.durable for each in rounds)
    told = sum(losses * count for each in rounds for losses, count in each.losses.items())
    calm = max((each.seconds_to_calm for each in rounds), default=0.0)
    slowest = max((each.slowest_answer for each in rounds), default=0.0)
    wrong = sum(bool(each.wrong) for each in rounds)
    counts = f"{len(rounds)} | {acknowledged:,} | {durable:,} | {told:,}"
    return f"| {name} | {counts} | {calm:.1f} | {slowest:.1f} | {wrong} |"
