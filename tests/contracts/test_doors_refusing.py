"""A door that may let nobody in says so in HTTP, where load balancers hear it and SDKs come again. Nobody slips by."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from tests.contracts.doors import (
    TEXT,
    EchoProbe,
    Peer,
    Probe,
    Serving,
    all_doors,
    frame,
    nothing_is_logged_as_our_error,
    request,
    served,
    until,
)

from hubbub.transports.asgi import AsgiDoor
from hubbub.transports.handshake import Gate

__all__ = ["nothing_is_logged_as_our_error"]  # a fixture, for each test here

LIMIT = 3


@all_doors
async def test_who_is_refused_gets_503_and_the_reason(door: str) -> None:
    reason = "too many connections"
    async with served(door, EchoProbe, refusal=lambda: reason) as serving:
        refused = await Peer.connect(serving)
        assert await refused.ask(request()) == 503
        assert reason.encode() in await refused.ends()
        assert not serving.probes
        reason = ""
        peer = await Peer.open(serving)
        peer.send(frame(TEXT, b"hi"))
        assert await peer.frame() == (TEXT, b"hi")


@all_doors
async def test_a_page_that_may_not_is_told_that_it_may_not(door: str) -> None:
    async with served(door, Probe, refusal=lambda: "too many connections") as serving:
        peer = await Peer.connect(serving)
        assert await peer.ask(request("Origin: https://evil.example")) == 403


@all_doors
async def test_of_a_crowd_that_comes_at_once_no_more_than_the_limit_gets_in(door: str) -> None:
    async with served(door, Probe, refusal=lambda: "full" if open_ones(serving) >= LIMIT else "") as serving:
        crowd = [await Peer.connect(serving) for _ in range(20)]
        answers = await asyncio.gather(*(peer.ask(request()) for peer in crowd))
        assert sorted(answers) == [101] * LIMIT + [503] * (20 - LIMIT)
        crowd[answers.index(101)].reset()
        await until(lambda: open_ones(serving) < LIMIT)
        await Peer.open(serving)


def open_ones(serving: Serving) -> int:
    return sum("closed" not in probe.heard for probe in serving.probes)


# what ASGI servers do differently -----------------------------------------------------------------------------------


class Opener:
    """Opens probes, and keeps them."""

    def __init__(self) -> None:
        self.probes: list[Probe] = []

    def __call__(self, *connection: Any) -> Probe:
        self.probes.append(Probe(*connection[:2]))
        return self.probes[-1]


def scope(**more: object) -> dict[str, Any]:
    return {"type": "websocket", "headers": [], "query_string": b"", "client": ("127.0.0.1", 1), **more}


async def connects() -> MutableMapping[str, Any]:
    return {"type": "websocket.connect"}


async def test_a_server_that_cannot_say_503_says_403() -> None:
    door = AsgiDoor(Opener(), gate=Gate(), refusal=lambda: "full", max_message=100, write_budget=100)
    sent: list[MutableMapping[str, Any]] = []

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    await door(scope(), connects, send)
    assert sent == [{"type": "websocket.close"}]


async def test_a_client_that_is_gone_before_its_answer_takes_no_place() -> None:
    opener = Opener()
    door = AsgiDoor(opener, gate=Gate(), max_message=100, write_budget=100)

    async def send(event: MutableMapping[str, Any]) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await door(scope(), connects, send)
    (probe,) = opener.probes
    assert probe.heard == ["closed"]
