"""Whether one server can be reached, as all who have a connection to it tell.

Answers for: the log of lost connections, failed attempts and returns, each with server, attempt and cause; one alert
(an error in the log, and `redis_unreachable` counted) for each outage that lasts ALERT_AFTER, however many connections
notice it, and one line when it is over; and for how long it has lasted now. Refuses to know: connecting.

An outage begins when a first connection is lost, and ends when none is missing. A connection that was never made is no
outage: whoever starts is told by an exception.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from hubbub.clock import Clock
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)

#: Seconds that an outage lasts before somebody is to be woken: longer than a failover or a restart.
ALERT_AFTER = 30.0


class Outages:
    """Of one server. `part` is what a connection is for ("commands"); `server` is how to find it in the log.

    Counted: `redis_reconnect` (a connection was lost, and is made again), `redis_connect_failed` (an attempt at that
    failed), `redis_unreachable` (the alert).
    """

    def __init__(self, *, clock: Clock, count: Callable[[str], object] | None = None) -> None:
        self._clock = clock
        self._count = count or _nobody
        self._missing: dict[str, float] = {}  # parts, and since when
        self._since = 0.0
        self._trouble: tuple[str, object] = ("", "")  # server and cause of the last failure
        self._alarm: asyncio.TimerHandle | None = None
        self._is_alarmed = False
        self._warnings = SparingLog(log)

    @property
    def seconds(self) -> int:
        """For how long the server has been out of reach; 0 if it is not, and at least 1 if it is."""
        return max(1, math.ceil(self._clock.now() - self._since)) if self._missing else 0

    def lost(self, part: str, server: str, cause: object) -> None:
        """A connection has ended that was not meant to."""
        now = self._clock.now()
        if not self._missing:
            self._since = now
            self._alarm = asyncio.get_running_loop().call_later(ALERT_AFTER, self._alert)
        self._missing[part] = now
        self._trouble = server, cause
        self._tell("redis_reconnect")
        self._warnings.warning(
            f"lost {part}", now, "%s: lost the connection for %s: %s", server, part, _without(server, cause)
        )

    def failed(self, part: str, server: str, attempt: int, cause: object) -> None:
        """It could not be made again this time."""
        now = self._clock.now()
        self._trouble = server, cause
        self._tell("redis_connect_failed")
        self._warnings.warning(
            *(f"failed {part}", now, "%s: no connection for %s (attempt %d, after %.1f s): %s", server, part, attempt),
            *(now - self._missing.get(part, now), _without(server, cause)),
        )

    def back(self, part: str, server: str, attempt: int) -> None:
        """It is there again."""
        now = self._clock.now()
        down = now - self._missing.pop(part, now)
        self._warnings.warning(
            f"back {part}", now, "%s: connected for %s again (attempt %d, after %.1f s)", server, part, attempt, down
        )
        if not self._missing:
            self._end(server)

    def leave(self, part: str) -> None:
        """It is not wanted any more, there or not."""
        if self._missing.pop(part, None) is not None and not self._missing:
            self._end("")

    def _end(self, server: str) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        was_alarmed, self._is_alarmed = self._is_alarmed, False
        if was_alarmed and server:
            log.warning("%s: reachable again, after %.1f s", server, self._clock.now() - self._since)

    def _alert(self) -> None:
        self._is_alarmed = True
        self._tell("redis_unreachable")
        server, cause = self._trouble
        parts = " and ".join(sorted(self._missing))
        down = self._clock.now() - self._since
        log.error("%s: unreachable for %.1f s, for %s: %s", server, down, parts, _without(server, cause))

    def _tell(self, event: str) -> None:
        try:
            self._count(event)
        except Exception:
            log.exception("who counts %s failed", event)


def _without(server: str, cause: object) -> str:
    """The cause, which often begins with the name that stands in front of it already."""
    return str(cause).removeprefix(server).lstrip(": ")


def _nobody(event: str) -> None:
    """Counts nothing."""
