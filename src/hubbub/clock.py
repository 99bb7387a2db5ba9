"""Time as an argument, and one timer wheel for everything that waits.

Answers for: what `now` is (monotonic, for waiting) and what `time` is (Unix, for tokens), and for calling back when a
deadline has passed. Refuses to know: event loops and tasks. Whoever owns the wheel calls `advance`.

The wheel is hashed by deadline (Varghese and Lauck, 1987, scheme 6 with one round): arming, moving and cancelling cost
one dict operation each, which is what tens of thousands of connections with one deadline each need.
"""

from __future__ import annotations

import heapq
import logging
import time as _time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)


class Clock(Protocol):
    """Two readings of time, both in seconds."""

    def now(self) -> float:
        """Monotonic: never goes back, means nothing outside this process. For deadlines."""
        ...

    def time(self) -> float:
        """Unix time: what tokens carry. May jump; nothing waits on it."""
        ...


class SystemClock:
    """The machine's own clocks, without a Python function around them: every message asks."""

    now = staticmethod(_time.monotonic)
    time = staticmethod(_time.time)


class ManualClock:
    """Stands still until told to move. For tests and models."""

    def __init__(self, now: float = 1000.0, time: float = 1_700_000_000.0) -> None:
        self._now = now
        self._time = time

    def now(self) -> float:
        """Monotonic seconds."""
        return self._now

    def time(self) -> float:
        """Unix seconds."""
        return self._time

    def move(self, seconds: float) -> None:
        """Let `seconds` pass on both clocks."""
        self._now += seconds
        self._time += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as an administrator or NTP would; the monotonic one does not notice."""
        self._time += seconds


class Timer:
    """One deadline. `cancel` is idempotent, and cheap enough to be used on every message."""

    __slots__ = ("_bucket", "callback", "when")

    def __init__(self, when: float, callback: Callable[[], object], *, bucket: dict[Timer, None]) -> None:
        self.when = when
        self.callback: Callable[[], object] | None = callback
        self._bucket = bucket

    def cancel(self) -> None:
        """The callback will not be called any more."""
        self.callback = None
        self._bucket.pop(self, None)


class TimerWheel:
    """Deadlines in buckets of `resolution` seconds. A callback is never early, and late by one bucket at most."""

    #: 25 ms: finer than any wait of ours (the shortest is a feed's patience of 30 ms), coarse enough for 40 wake-ups
    #: a second.
    RESOLUTION = 0.025

    def __init__(self, clock: Clock, resolution: float = RESOLUTION) -> None:
        self.clock = clock
        self.resolution = resolution
        self.on_earlier: Callable[[], object] | None = None  # the driver: "the next deadline moved forward"
        self._buckets: dict[int, dict[Timer, None]] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def after(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call back when `seconds` have passed."""
        return self.at(self.clock.now() + seconds, callback)

    def at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call back when the monotonic clock has reached `when`."""
        tick = int(when / self.resolution) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heapq.heappush(self._order, tick)
        timer = Timer(when, callback, bucket=bucket)
        bucket[timer] = None
        if len(bucket) == 1 and self._order[0] == tick and self.on_earlier is not None:
            self.on_earlier()
        return timer

    def next_deadline(self) -> float | None:
        """When `advance` has something to do next, on the monotonic clock; None while nothing waits."""
        while self._order and not self._buckets[self._order[0]]:
            del self._buckets[heapq.heappop(self._order)]
        return self._order[0] * self.resolution if self._order else None

    def advance(self) -> int:
        """Run everything that is due; returns how many ran. One that raises is logged and harms no other."""
        ran = 0
        while (deadline := self.next_deadline()) is not None and deadline <= self.clock.now():
            bucket = self._buckets.pop(heapq.heappop(self._order))
            for timer in list(bucket):
                callback, timer.callback = timer.callback, None
                if callback is None:
                    continue
                ran += 1
                try:
                    callback()
                except Exception:
                    log.exception("a timer's callback failed: %r", callback)
        return ran
