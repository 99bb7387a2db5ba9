"""Who lets clients into the house, and sees them out.

Answers for: whether there is room for one more connection, refusing all of them once the node is leaving, and sending
away those who are here, spread over a time. Refuses to know: sockets, how a refusal is worded on a wire, users, and
what else a node has to stop.

Spread, because whoever is sent away comes back, here or elsewhere: all at once is a storm of handshakes and recoveries
on the servers that are left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from hubbub.clock import TimerWheel
from hubbub.core.hub import Hub
from hubbub.core.registry import Registry
from hubbub.errors import DisconnectCode

log = logging.getLogger(__name__)

#: Seconds between two looks at who has to go: fine enough to spread a crowd, and a drain that is cut short by another
#: one ends within the longer of the two.
SHORTEST, LONGEST = 0.025, 0.1

#: Is told how many connections are left, and how many there were when it began.
Tell = Callable[[int, int], None]


class Porter:
    """The porter of one node. `max_connections` 0: as many as come."""

    def __init__(self, registry: Registry, hub: Hub, *, timers: TimerWheel, max_connections: int) -> None:
        self._registry = registry
        self._hub = hub
        self._timers = timers
        self._max = max_connections
        self._was_full = False
        self.is_leaving = False
        self.refused = 0

    def refusal(self) -> str:
        """Why no client may come now, "" if one may. Doors ask before they answer a handshake, and for each one.

        Between an empty answer and the new connection nothing may wait, or the limit will not hold.
        """
        if self.is_leaving:
            return "the server is stopping"
        if self._max and len(self._registry.all) >= self._max:
            self.refused += 1
            if not self._was_full:
                self._was_full = True
                log.warning("client.max_connections = %d: clients are refused until others leave", self._max)
            return "too many connections"
        self._was_full = False
        return ""

    async def see_out(self, seconds: float, tell: Tell | None = None) -> None:
        """Let nobody in, and send everybody away with 3001 over `seconds`, evenly; 0: all of them at once.

        Who leaves alone meanwhile counts, too. A second call with fewer seconds cuts the first one short.
        """
        self.is_leaving = True
        here = self._registry.all
        began, total = self._timers.clock.now(), len(here)
        while True:
            passed = (self._timers.clock.now() - began) / seconds if seconds > 0 else 1.0
            self._send_away(int(total * max(0.0, 1.0 - passed)))
            if tell is not None:
                tell(len(here), total)
            if not here:
                return
            await self._pause(min(LONGEST, max(SHORTEST, seconds / total)))

    def _send_away(self, left: int) -> None:
        """Until so many are left; who came first goes first. Each gets what was published before it goes."""
        here = self._registry.all
        if len(here) > left:
            self._hub.close_batches()
        while len(here) > left:
            next(iter(here.values())).close(DisconnectCode.SHUTDOWN)

    async def _pause(self, seconds: float) -> None:
        """By the node's own clock."""
        over = asyncio.Event()
        timer = self._timers.after(seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()
