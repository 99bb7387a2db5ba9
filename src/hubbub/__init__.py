"""hubbub: real-time messaging for Python.

Channels that browsers, phones and back-end code publish to and subscribe to, and that never lose their place.
"""

from hubbub.app import History, Hubbub, Publication, Subscription
from hubbub.core.reader import PositionLost
from hubbub.errors import (
    BackendError,
    BadRequest,
    ConfigurationError,
    Disconnect,
    HubbubError,
    NotAvailable,
    PermissionDenied,
    ReplyError,
    UnknownChannel,
)
from hubbub.model import ClientInfo, Position, PresenceStats, Published
from hubbub.version import VERSION as __version__

__all__ = [
    "BackendError",
    "BadRequest",
    "ClientInfo",
    "ConfigurationError",
    "Disconnect",
    "History",
    "Hubbub",
    "HubbubError",
    "NotAvailable",
    "PermissionDenied",
    "Position",
    "PositionLost",
    "PresenceStats",
    "Publication",
    "Published",
    "ReplyError",
    "Subscription",
    "UnknownChannel",
    "__version__",
]
