"""What can fail, and the code that says so on the wire.

Answers for: the one tree of exceptions, and the tables of error, disconnect and unsubscribe codes of the Centrifuge
client protocol. Refuses to know: how a code is encoded, and who decides to raise it.

    HubbubError
    ├── ConfigurationError      at start only; names the key and what was expected
    ├── ProtocolError           the peer broke the protocol: close 3501
    ├── ReplyError              answered with a code; the connection lives
    │     InternalError 100 · Unauthorized 101 · UnknownChannel 102 · PermissionDenied 103 · MethodNotFound 104
    │     AlreadySubscribed 105 · LimitExceeded 106 · BadRequest 107 · NotAvailable 108 · TokenExpired 109
    │     Expired 110 · TooManyRequests 111 · UnrecoverablePosition 112     (applications: 400 to 1999)
    ├── Disconnect              closes the connection with a code
    ├── TokenInvalid            a token whose signature, shape or subject is wrong
    └── BackendError            broker, presence or store failed; chained to the library's own error

The docstring of a ReplyError is its default message, so that documentation and wire cannot drift.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class HubbubError(Exception):
    """Everything that hubbub raises on purpose."""


class ConfigurationError(HubbubError):
    """A setting is wrong. The text names the key, what was found and what is expected."""


class ProtocolError(HubbubError):
    """The peer sent what the protocol forbids; the connection is closed with 3501 (bad request)."""


class TokenInvalid(HubbubError):
    """The token cannot be trusted: signature, algorithm, shape, user or channel is wrong."""


class BackendError(HubbubError):
    """A broker, presence or store failed; `__cause__` is the library's own error."""


class PublishFailed(BackendError):
    """A publish has no answer, or was refused. `is_retry_safe`: once more with the same options cannot do it twice.

    The text up to its first colon is for everybody: what became of it, and what to do. The rest is for operators.
    """

    def __init__(self, text: str, *, is_retry_safe: bool) -> None:
        self.is_retry_safe = is_retry_safe
        super().__init__(text)

    @property
    def outcome(self) -> str:
        """What anybody may be told."""
        return str(self).partition(":")[0]


class ReplyError(HubbubError):
    """Answered to the command that caused it. Applications may raise it with a code from 400 to 1999.

    `temporary` tells the SDKs that the same command may succeed later: they retry with backoff.
    """

    code: ClassVar[int] = 100
    temporary: ClassVar[bool] = False

    def __init__(self, message: str = "", *, code: int = 0, temporary: bool | None = None) -> None:
        # Never empty: centrifuge-python indexes the field, and Protobuf leaves empty ones out.
        self.message = message or (type(self).__doc__ or "").strip() or "error"
        self.wire_code = code or self.code
        self.is_temporary = self.temporary if temporary is None else temporary
        super().__init__(self.message)


class InternalError(ReplyError):
    """internal server error"""

    code = 100
    temporary = True


class Unauthorized(ReplyError):
    """unauthorized"""

    code = 101


class UnknownChannel(ReplyError):
    """unknown channel"""

    code = 102


class PermissionDenied(ReplyError):
    """permission denied"""

    code = 103


class MethodNotFound(ReplyError):
    """method not found"""

    code = 104


class AlreadySubscribed(ReplyError):
    """already subscribed"""

    code = 105


class LimitExceeded(ReplyError):
    """limit exceeded"""

    code = 106


class BadRequest(ReplyError):
    """bad request"""

    code = 107


class NotAvailable(ReplyError):
    """not available"""

    code = 108


class TokenExpired(ReplyError):
    """token expired"""

    code = 109


class Expired(ReplyError):
    """expired"""

    code = 110


class TooManyRequests(ReplyError):
    """too many requests"""

    code = 111
    temporary = True


class UnrecoverablePosition(ReplyError):
    """unrecoverable position"""

    code = 112


class DisconnectCode(IntEnum):
    """Codes of the closing frame. SDKs reconnect on all but 3500 to 3999 and 4500 to 4999.

    Applications use 4000 to 4499 (the client reconnects) and 4500 to 4999 (it stays away).
    """

    CONNECTION_CLOSED = 3000
    SHUTDOWN = 3001
    SERVER_ERROR = 3004
    CONNECTION_EXPIRED = 3005
    SUBSCRIPTION_EXPIRED = 3006
    SLOW = 3008
    WRITE_ERROR = 3009
    INSUFFICIENT_STATE = 3010
    FORCE_RECONNECT = 3011
    NO_PONG = 3012
    TOO_MANY_REQUESTS = 3013
    INVALID_TOKEN = 3500
    BAD_REQUEST = 3501
    STALE = 3502
    FORCE_DISCONNECT = 3503
    CONNECTION_LIMIT = 3504
    CHANNEL_LIMIT = 3505
    INAPPROPRIATE_PROTOCOL = 3506
    PERMISSION_DENIED = 3507
    NOT_AVAILABLE = 3508
    TOO_MANY_ERRORS = 3509

    @property
    def reason(self) -> str:
        """The text that goes with the code; never JSON, never over 123 bytes (RFC 6455, 5.5.1)."""
        return _REASONS.get(self, self.name.lower().replace("_", " "))


#: Only the reasons that the name of the code does not already spell.
_REASONS = {DisconnectCode.SERVER_ERROR: "internal server error"}


class Disconnect(HubbubError):
    """Raise it to close a connection. `detail` is for our log, never for the peer."""

    def __init__(self, code: int, reason: str = "", *, detail: str = "") -> None:
        self.code = int(code)
        self.reason = reason or _default_reason(self.code)
        self.detail = detail
        super().__init__(f"{self.code} {self.reason}" + (f": {detail}" if detail else ""))


def _default_reason(code: int) -> str:
    try:
        return DisconnectCode(code).reason
    except ValueError:
        return "disconnected"


class UnsubscribeCode(IntEnum):
    """Codes of the unsubscribe push. Below 2500 is for good; from 2500 on the SDKs subscribe again."""

    SERVER = 2000
    INSUFFICIENT_STATE = 2500
    EXPIRED = 2501
    STATE_INVALIDATED = 2502

    @property
    def reason(self) -> str:
        """The text that goes with the code."""
        return "server unsubscribe" if self is UnsubscribeCode.SERVER else self.name.lower().replace("_", " ")
