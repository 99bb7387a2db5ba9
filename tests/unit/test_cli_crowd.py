"""The tally of `hubbub bench` counts what it says it counts."""

from __future__ import annotations

import json
import time
from urllib.parse import urlsplit

import pytest

from hubbub.cli.crowd import Came, Client, Tally, Target

TARGET = Target(urlsplit("ws://127.0.0.1:1/connection/websocket"), "bench")


def push(tally: Tally, number: int, run: str = "") -> bytes:
    """A publication as it comes from a server."""
    data = {**tally.data(number, 1.0), **({"run": run} if run else {})}
    return json.dumps({"push": {"channel": "bench", "pub": {"data": data, "offset": number + 10}}}).encode()


def test_a_publication_is_recognised_by_its_bytes() -> None:
    tally = Tally()
    line = push(tally, 3)
    assert tally.read(line) == Came(3, 1.0, 13)
    assert tally.read(bytes(bytearray(line))) is tally.read(line)


def test_what_others_publish_is_not_counted() -> None:
    tally = Tally()
    assert tally.read(push(tally, 1, run="another")) is None
    assert tally.read(b'{"push":{"channel":"bench","pub":{"data":"hi"}}}') is None
    assert tally.read(b'{"push":{"channel":"bench","join":{}}}') is None


def test_what_comes_twice_is_a_duplicate_for_that_client_only() -> None:
    tally = Tally()
    ann, bob = Client(TARGET, tally), Client(TARGET, tally)
    for client, number in ((ann, 1), (ann, 2), (ann, 2), (ann, 1), (bob, 1), (bob, 2)):
        tally.count(client, Came(number, time.monotonic(), 0))
    assert (tally.delivered, tally.duplicates) == (4, 2)


def test_percentiles_of_latency() -> None:
    tally = Tally()
    assert tally.percentile(0.5) is None
    client, now = Client(TARGET, tally), time.monotonic()
    for number in range(1, 101):
        tally.count(client, Came(number, now - 1000 * number, 0))  # so late that the time of this test is nothing
    assert [tally.percentile(share) for share in (0.5, 0.9, 0.99, 1)] == [
        pytest.approx(1000 * each, abs=900) for each in (50, 90, 99, 100)
    ]
