"""hubbub: real-time messaging for Python.

Channels that browsers, phones and back-end code publish to and subscribe to, and that never lose their place.
"""

from hubbub.app import History, Hubbub, Publication, Subscription
from hubbub.core.reader import PositionLost
from hubbub.errors import (
    BackendError,
    ConfigurationError,
    Disconnect,
    HubbubError,
    PermissionDenied,
    ReplyError,
)
from hubbub.model import ClientInfo, Position, PresenceStats, Published
from hubbub.version import VERSION as __version__

__all__ = [
    "BackendError",
    "ClientInfo",
    "ConfigurationError",
    "Disconnect",
    "History",
    "Hubbub",
    "HubbubError",
    "PermissionDenied",
    "Position",
    "PositionLost",
    "PresenceStats",
    "Publication",
    "Published",
    "ReplyError",
    "Subscription",
    "__version__",
]
