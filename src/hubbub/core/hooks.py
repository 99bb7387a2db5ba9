"""What the application is asked, and what observers are told.

Answers for: the two small Protocols through which the hearth speaks upward, with defaults that ask nobody and count.
Refuses to know: how the application registered its handlers, and where counters end up.

A handler may answer or refuse; an observer is told what happened, cannot answer, and must not fail.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from hubbub.errors import Disconnect, DisconnectCode, NotAvailable


class Caller(Protocol):
    """What a handler may know of the connection that asks."""

    @property
    def id(self) -> str:
        """The connection's id."""
        ...

    @property
    def user(self) -> str:
        """The verified user, "" for anonymous."""
        ...


class Handlers(Protocol):
    """What the application is asked. Each may raise ReplyError or Disconnect."""

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        """A client calls `method`; the result's payload."""
        ...

    async def send(self, caller: Caller, data: bytes) -> None:
        """A client sent data without wanting an answer."""
        ...


class NoHandlers:
    """An application that offers nothing to call."""

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        """Not available (108)."""
        raise NotAvailable

    async def send(self, caller: Caller, data: bytes) -> None:
        """Not available (3508)."""
        raise Disconnect(DisconnectCode.NOT_AVAILABLE, detail="a send command, and no handler for it")


class Observer(Protocol):
    """Is told what happened."""

    def count(self, event: str, times: int = 1) -> None:
        """`event` happened. Names are lower case with underscores, in the singular."""
        ...


class Counters:
    """Counts in memory; `/api/info` shows them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, event: str, times: int = 1) -> None:
        """Add to the count of `event`."""
        self.counts[event] += times
