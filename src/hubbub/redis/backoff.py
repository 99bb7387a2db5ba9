"""How long to wait before the next attempt.

Answers for: delays that double up to a cap, each drawn at random, so that many nodes whose server was away do not come
back at one moment. Refuses to know: what is attempted, and the clock.

Full jitter: each delay is drawn evenly between nothing and the doubled bound. The bound, not the delay, doubles.
"""

from __future__ import annotations

import random

#: Seconds: the bound of the first delay, and of all late ones.
FIRST = 0.05
CAP = 5.0


class Backoff:
    """The delays of one series of attempts. `attempt` counts them."""

    __slots__ = ("_cap", "_draw", "_first", "attempt")

    def __init__(self, *, first: float = FIRST, cap: float = CAP, seed: int | None = None) -> None:
        self.attempt = 0
        self._first = first
        self._cap = cap
        self._draw = random.Random(seed)

    def next(self) -> float:
        """Seconds to wait before the next attempt, which is counted with this."""
        bound = min(self._cap, self._first * 2.0 ** min(self.attempt, 32))
        self.attempt += 1
        return self._draw.uniform(0.0, bound)

    def reset(self) -> None:
        """Begin anew: what was attempted has worked for a while."""
        self.attempt = 0
