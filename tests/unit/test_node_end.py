"""How a node lets go of its parts, also where one of them fails."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from hubbub.brokers.memory import MemoryBroker
from hubbub.channels import Namespaces
from hubbub.clock import SystemClock, TimerWheel
from hubbub.core.node import Node
from hubbub.errors import BackendError
from hubbub.presence.memory import MemoryPresence
from hubbub.stores.memory import MemoryStore

PARTS = ("everywhere", "mailbox", "tasks", "patterns", "feeds", "broker", "presence_store", "access")


class Carrier(MemoryBroker):
    """Without slots: its end can be watched."""


class Room(MemoryPresence):
    """Likewise."""


class Ended:
    """Knows which parts have ended; some of them raise when they do."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch, **failures: BaseException) -> None:
        self.parts: list[str] = []
        for name in PARTS:
            self._watch(getattr(node, name), name, monkeypatch, failures.get(name))

    def _watch(self, part: Any, name: str, monkeypatch: pytest.MonkeyPatch, failure: BaseException | None) -> None:
        stop = part.stop

        def ended() -> Any:
            self.parts.append(name)
            result = stop()
            if failure is None:
                return result
            return self._fail(result, failure)

        monkeypatch.setattr(part, "stop", ended)

    async def _fail(self, result: Any, failure: BaseException) -> None:
        if result is not None:
            await result
        raise failure


@pytest.fixture
def node() -> Node:
    timers = TimerWheel(SystemClock())
    presence, store = Room(), MemoryStore(clock=timers.clock)
    return Node(Namespaces({}), Carrier(timers), presence=presence, store=store, timers=timers)


async def test_a_part_that_fails_leaves_no_other_open(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await node.start()
    first = BackendError("the first")
    ended = Ended(node, monkeypatch, everywhere=first, broker=OSError("the second"))
    with pytest.raises(BackendError, match="the first") as raised:
        await node.stop()
    assert raised.value is first
    assert ended.parts == list(PARTS)
    (logged,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the second" in caplog.text
    assert logged.exc_info is not None
    await node.stop()  # it is stopped
    assert ended.parts == list(PARTS)


async def test_who_is_cancelled_while_it_ends_ends_it_all(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.start()
    ended = Ended(node, monkeypatch, mailbox=asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await node.stop()
    assert ended.parts == list(PARTS)


async def test_a_start_that_fails_says_why_though_an_end_fails_too(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise BackendError("no presence")

    monkeypatch.setattr(node.presence_store, "start", fail)
    ended = Ended(node, monkeypatch, mailbox=OSError("at its end"))
    with pytest.raises(BackendError, match="no presence"):
        await node.start()
    assert ended.parts == list(PARTS)
    assert "at its end" in caplog.text
