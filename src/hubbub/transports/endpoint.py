"""What a door brings bytes to.

Answers for: the one Protocol between doors and the hearth, so that a door can be tested, and run through Autobahn's
cases, with an echo behind it. Refuses to know: both sides.
"""

from __future__ import annotations

from typing import Protocol


class Endpoint(Protocol):
    """What a door brings bytes to: in production a `core.connection.Connection`."""

    def receive(self, message: bytes) -> None:
        """One message of the peer."""
        ...

    def paused(self) -> None:
        """More than the budget is unsent."""
        ...

    def resumed(self) -> None:
        """Less than a quarter of the budget is unsent."""
        ...

    def closed(self) -> None:
        """The peer is gone."""
        ...
