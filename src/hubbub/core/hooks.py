"""What the application is asked, and what observers are told.

Answers for: the small Protocols through which the hearth speaks upward, with defaults that ask nobody and count.
Refuses to know: how the application registered its handlers, what types its payloads have, and where counters end up.

A handler may answer or refuse; an observer is told what happened, cannot answer, and must not fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple, Protocol

from hubbub.errors import Disconnect, DisconnectCode, NotAvailable
from hubbub.model import Credentials


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

    @property
    def credentials(self) -> Credentials:
        """Who it is, verified."""
        ...


class Handshake(NamedTuple):
    """What a client shows when it connects: `headers` of its HTTP request by lower-case name; `data` may be empty."""

    token: str
    data: bytes
    headers: Mapping[str, str]
    query: str


class Admitted(NamedTuple):
    """What becomes of a client's publication: its payload, not yet through the gate, and whether it is kept nowhere."""

    data: bytes
    ephemeral: bool = False


class Guard(Protocol):
    """The application's word on one channel. Each method may raise ReplyError or Disconnect."""

    asks: frozenset[str]
    """Which of "subscribe", "publish", "join" and "leave" have anything to say; the others need not be called."""

    async def subscribe(self, caller: Caller) -> None:
        """May it subscribe? Return, or raise PermissionDenied."""
        ...

    async def publish(self, caller: Caller, data: bytes) -> Admitted:
        """May it publish this, and as what?"""
        ...

    async def joined(self, caller: Caller) -> None:
        """It is in the channel now. What this raises is logged."""
        ...

    async def left(self, caller: Caller) -> None:
        """It is in the channel no more. Called once for each `joined`, and after it."""
        ...


class Handlers(Protocol):
    """What the application is asked. Each may raise ReplyError or Disconnect."""

    def authenticate(self, caller: Caller, handshake: Handshake) -> Coroutine[Any, Any, Credentials | None] | None:
        """Who is it, where no token says so? In the end None: nobody that the application knows. None at once: it has
        no opinion on anybody.
        """
        ...

    def guard(self, channel: str) -> Guard | None:
        """Who speaks for `channel`; None where the rules alone decide. Cheap: asked for every publication."""
        ...

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        """A client calls `method`; the result's payload."""
        ...

    async def send(self, caller: Caller, data: bytes) -> None:
        """A client sent data without wanting an answer."""
        ...


class NoHandlers:
    """An application that has nothing to say."""

    def authenticate(self, caller: Caller, handshake: Handshake) -> None:
        """No opinion."""

    def guard(self, channel: str) -> None:
        """The rules alone."""

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
