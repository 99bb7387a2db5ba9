"""The order of one connection's commands.

Answers for: which command may start now. Commands of one lane run one after the other in the order they came; lanes do
not wait for each other, except that everything waits for `connect`. At most `LIMIT` are under way or waiting. Refuses
to know: what a command does.

Why lanes: in one queue a batch of subscribes with slow permission checks would outlast the SDKs' 5 s timeout,
reconnect, and do it again for ever; without any order a publish could overtake the subscribe that permits it.
"""

from __future__ import annotations

from collections import deque

from hubbub.protocol.session import Request

#: Commands of one connection under way or waiting; beyond it no more is read until some are done.
LIMIT = 64

#: Subscribes of one connection under way at once: a permission check is somebody's database query.
SUBSCRIBES_AT_ONCE = 8

#: The barrier.
CONNECT = "connect"


def lane_of(request: Request) -> str:
    """Commands on one channel share a lane; RPCs share one; the rest have one of their kind."""
    channel = getattr(request.body, "channel", "")
    return f"#{channel}" if channel else request.kind


class Lanes:
    """Commands under way and waiting. Only made for a connection once one of its commands has to wait for something."""

    __slots__ = ("_busy", "_subscribing", "_waiting")

    def __init__(self) -> None:
        self._busy: dict[str, Request] = {}
        self._waiting: deque[Request] = deque()
        self._subscribing = 0

    def __len__(self) -> int:
        return len(self._busy) + len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether reading should stop."""
        return len(self) >= LIMIT

    def enter(self, request: Request) -> bool:
        """True if it may start now, and has taken its lane; else it waits, and `leave` will hand it out."""
        lane = lane_of(request)
        if not any(lane_of(waiting) == lane for waiting in self._waiting) and self._start(request):
            return True
        self._waiting.append(request)
        return False

    def leave(self, request: Request) -> list[Request]:
        """It is done. Returns what may start now, in order; each has taken its lane."""
        del self._busy[lane_of(request)]
        self._subscribing -= request.kind == "subscribe"
        started: list[Request] = []
        blocked: set[str] = set()
        still: deque[Request] = deque()
        for waiting in self._waiting:
            if lane_of(waiting) not in blocked and self._start(waiting):
                started.append(waiting)
            else:
                blocked.add(lane_of(waiting))
                still.append(waiting)
        self._waiting = still
        return started

    def _start(self, request: Request) -> bool:
        lane = lane_of(request)
        if CONNECT in self._busy or lane in self._busy:
            return False
        if request.kind == "subscribe":
            if self._subscribing >= SUBSCRIBES_AT_ONCE:
                return False
            self._subscribing += 1
        self._busy[lane] = request
        return True
