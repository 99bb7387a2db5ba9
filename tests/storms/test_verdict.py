"""tests/storms/verdict.py: what came of the rounds, in words and as a table."""

from __future__ import annotations

from tests.storms.verdict import Verdict, table


def test_a_table_has_a_line_for_each_fault_and_the_worst_of_its_rounds() -> None:
    rounds = [
        Verdict("killed", "redis", [], 1.0, 4.0, {"acknowledged": 900}, durable=200, losses={0: 5, 1: 20}),
        Verdict("killed", "valkey", ["lost"], 3.25, 0.5, {"acknowledged": 1100}, durable=100),
        Verdict("flushed", "redis", [], 0.5, 0.5, {"acknowledged": 7}),
        Verdict("full", "redis", skipped="no rights"),
    ]
    assert table(rounds).splitlines()[2:] == [
        "| flushed | 1 | 7 | 0 | 0 | 0.5 | 0.5 | 0 |",
        "| killed | 2 | 2,000 | 300 | 20 | 3.2 | 4.0 | 1 |",
        "| all | 3 | 2,007 | 300 | 20 | 3.2 | 4.0 | 1 |",
    ]


def test_a_verdict_says_what_the_store_lost_and_what_was_wrong() -> None:
    text = Verdict("failover", "redis", ["one is deaf"], durable=9, lost=4, losses={0: 3, 1: 2}).text
    assert text.startswith("WRONG  failover (redis)")
    assert "9 acknowledged in durable channels, of which the store lost 4;" in text
    assert "losses told 3x0, 2x1" in text
    assert text.endswith("\n    one is deaf")
    assert "skipped" in Verdict("full", "redis", skipped="no rights").text
