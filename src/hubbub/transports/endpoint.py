"""What a door brings bytes to, and how it says goodbye.

Answers for: the one Protocol between doors and the hearth, so that a door can be tested, and run through Autobahn's
cases, with an echo behind it; what our log hears when there is none; and the limits that RFC 6455 sets to a goodbye.
Refuses to know: both sides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from hubbub.errors import DisconnectCode, HubbubError

log = logging.getLogger(__name__)

#: What a peer is told when the fault is ours: a code (RFC 6455, 7.4.1, and IANA's registry) and a reason.
INTERNAL_ERROR = (1011, "internal server error")

#: Why no connection can be opened now, "" if one can.
Refusal = Callable[[], str]

#: Bytes of a close frame's reason (RFC 6455, 5.5: 125 of payload, two of which are the code).
MAX_REASON = 123


class Endpoint(Protocol):
    """What a door brings bytes to: in production a `core.connection.Connection`."""

    def receive(self, message: bytes) -> None:
        """One message of the peer.

        Whether it came as text or as binary, the transport's `is_binary` tells while this runs. The client protocol
        does not ask: what bytes mean was agreed on in the handshake. An echo does.
        """
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


def nobody_is_refused() -> str:
    """Whoever comes may come."""
    return ""


def opened(open: Callable[[], Endpoint]) -> Endpoint | None:
    """A new connection's endpoint, or None, and our log says why. What is raised on purpose explains itself."""
    try:
        return open()
    except HubbubError as error:
        log.error("a connection could not be opened: %s", error)
    except Exception:
        log.exception("a connection could not be opened")
    return None


def is_close_code(code: int) -> bool:
    """Whether `code` may stand in a close frame (RFC 6455, 7.4, and IANA's registry)."""
    return 3000 <= code < 5000 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))


def goodbye(code: int, reason: str) -> tuple[int, str]:
    """What a close frame can carry of these: applications choose them, and the peer refuses a wrong frame unread."""
    fitting = reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")
    return (code if is_close_code(code) else int(DisconnectCode.CONNECTION_CLOSED)), fitting
