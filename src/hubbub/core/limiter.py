"""How fast one client may be: token buckets for its commands, and for what it publishes in each channel.

Answers for: whether one more is within a rate, when a client is so far beyond it that it has to go, and how many
buckets are kept. Refuses to know: clocks (time comes in), commands, and how a refusal reaches the client.
"""

from __future__ import annotations

from enum import Enum, auto

from hubbub.rates import Rate

#: A client that goes on at this many times its rate does not listen to being refused.
FLOOD = 10

#: Channels of one connection whose rates are remembered at once. A bucket that is full again is worth nothing, so only
#: who publishes in so many channels within the time of one rate ever meets this.
MAX_BUCKETS = 256

#: Of a token. What a clock says is rounded, and who waits exactly as long as the rate asks has waited long enough.
_ROUNDING = 1e-6


class Bucket:
    """Holds `rate.count` tokens, which come back evenly over `rate.seconds`. Full at first.

    So in any span of time no more is taken than `count`, and what came back in that span. A clock that jumps back
    neither gives tokens nor takes any; one that jumps forward fills the bucket, and no more than that.
    """

    __slots__ = ("_at", "_level", "_rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._level = float(rate.count)
        self._at = now

    def take(self, now: float) -> bool:
        """One token, if there is one."""
        rate = self._rate
        elapsed = now - self._at
        if elapsed:
            self._at = now
            if elapsed > 0:
                self._level = min(float(rate.count), self._level + elapsed / rate.seconds * rate.count)
        if self._level < 1 - _ROUNDING:
            return False
        self._level -= 1
        return True

    @property
    def full_at(self) -> float:
        """When it is as good as a new one, if nothing is taken until then."""
        return self._at + (self._rate.count - self._level) / self._rate.count * self._rate.seconds


class Verdict(Enum):
    """What becomes of a command."""

    ADMITTED = auto()
    REFUSED = auto()
    FLOOD = auto()


class CommandLimit:
    """The commands of one connection: refused above the rate, and a flood from `FLOOD` times the rate on."""

    __slots__ = ("_admitted", "_rate", "_refused")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._admitted = Bucket(rate, now)
        self._refused: Bucket | None = None  # most clients never need one

    def verdict(self, now: float) -> Verdict:
        """One more command."""
        if self._admitted.take(now):
            return Verdict.ADMITTED
        if self._refused is None:
            self._refused = Bucket(Rate(self._rate.count * (FLOOD - 1), self._rate.seconds), now)
        return Verdict.REFUSED if self._refused.take(now) else Verdict.FLOOD


class PublishLimits:
    """The channels that one connection publishes in, each with a rate of its own."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, channel: str, rate: Rate, now: float) -> bool:
        """One more publication in `channel`. False also while too many other channels are remembered.

        The other way, to forget a bucket that is not full, would let who changes channels publish without limit.
        """
        bucket = self._buckets.get(channel)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._forget(now)
                if len(self._buckets) >= MAX_BUCKETS:
                    return False
            bucket = self._buckets[channel] = Bucket(rate, now)
        return bucket.take(now)

    def _forget(self, now: float) -> None:
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if bucket.full_at > now}
