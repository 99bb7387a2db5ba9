"""The protocol state of one client: what it may send now, and what is due when.

Answers for: the rules that hold whatever the commands mean (connect first and once, ids, one pong per ping) and for the
deadlines of a connection: stale, ping, pong. Refuses to know: sockets, which clock tells the time, channels and users.

Promise: any exception other than ProtocolError from `receive`, and other than Disconnect from `due`, is our bug.

    NEW --connect--> CONNECTING --accepted--> CONNECTED
                          |
                          +------refused----> REFUSED     (waits for the stale deadline; anything it sends is 3501)
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

import msgspec

from hubbub.errors import Disconnect, DisconnectCode, ProtocolError
from hubbub.protocol.codec import Codec
from hubbub.protocol.messages import REQUEST_FIELDS, Command, Message


class Timing(msgspec.Struct, frozen=True):
    """Seconds: `ping` between pings, `pong` until an answer is missed, `stale` until who does not connect is closed."""

    ping: float = 25.0
    pong: float = 8.0
    stale: float = 10.0


class State(Enum):
    """How far a client has come."""

    NEW = auto()
    CONNECTING = auto()
    CONNECTED = auto()
    REFUSED = auto()


_CONNECTED = State.CONNECTED


class Request(msgspec.Struct, frozen=True, gc=False):
    """A command that passed the rules: `kind` is its field name in the protocol."""

    id: int
    kind: str
    body: Message


class Session:
    """One client's protocol state. `deadline` is when `due` wants to be called next, on the caller's clock."""

    __slots__ = ("_awaits_pong", "codec", "deadline", "state", "timing")

    def __init__(self, codec: Codec, timing: Timing, *, now: float) -> None:
        self.codec = codec
        self.timing = timing
        self.state = State.NEW
        self.deadline = now + timing.stale
        self._awaits_pong = False

    def receive(self, message: bytes, now: Callable[[], float]) -> list[Request]:
        """The requests of one transport message. Raises ProtocolError for bytes or an order that is forbidden.

        `now` is asked for a pong alone.
        """
        requests = []
        for command in self.codec.decode(message):
            id, publish = command.id, command.publish
            if (
                publish is not None
                and id
                and self.state is _CONNECTED
                and command.connect is None
                and command.subscribe is None
                and command.unsubscribe is None
            ):
                requests.append(Request(id, "publish", publish))  # nearly always
            elif (request := self._request(command, now)) is not None:
                requests.append(request)
        return requests

    def accepted(self, now: float, spread: float) -> None:
        """The connect command was granted. `spread` in [0, 1) staggers the first ping over half an interval."""
        self.state = State.CONNECTED
        self.deadline = now + self.timing.ping * (0.5 + 0.5 * spread)

    def refused(self) -> None:
        """The connect command was answered with an error; the stale deadline goes on."""
        self.state = State.REFUSED

    def due(self, now: float, *, unsent: bool) -> bytes | None:
        """The deadline has passed: the ping to send, if any. Raises Disconnect when the client's time is up.

        While there is unsent data no ping is sent and no pong is missed: it would wait in the same queue, and a slow
        link would be taken for a dead client.
        """
        if now < self.deadline:
            return None
        if self.state is not State.CONNECTED:
            raise Disconnect(DisconnectCode.STALE)
        if unsent:
            self.deadline = now + self.timing.pong
            return None
        if self._awaits_pong:
            raise Disconnect(DisconnectCode.NO_PONG)
        self._awaits_pong = True
        self.deadline = now + self.timing.pong
        return self.codec.ping

    def _request(self, command: Command, now: Callable[[], float]) -> Request | None:
        """What a command asks for; None for a pong."""
        kind, body = _request_of(command)
        if body is None:
            self._pong(command, now())
            return None
        if self.state is not _CONNECTED or kind == "connect":
            self._admit_unconnected(kind)
        if not command.id and kind != "send":
            raise ProtocolError(f"{kind} without an id")
        return Request(command.id, kind, body)

    def _admit_unconnected(self, kind: str) -> None:
        """Whether `kind` may come before the client is connected; `connect` may come nowhere else."""
        if self.state is State.NEW:
            if kind != "connect":
                raise ProtocolError(f"{kind} before connect")
            self.state = State.CONNECTING
        elif kind == "connect":
            raise ProtocolError("connect for the second time")
        elif self.state is State.REFUSED:
            raise ProtocolError(f"{kind} after connect was refused")

    def _pong(self, command: Command, now: float) -> None:
        if command.id or command.ping is not None:
            raise ProtocolError("a command without a request")
        if not self._awaits_pong:
            raise ProtocolError("a pong without a ping")
        self._awaits_pong = False
        self.deadline = max(now, self.deadline + self.timing.ping - self.timing.pong)  # one interval after the ping


def _request_of(command: Command) -> tuple[str, Message | None]:
    """The first request in the protocol's order."""
    for kind in REQUEST_FIELDS:
        body = getattr(command, kind)
        if body is not None:
            return kind, body
    return "", None
