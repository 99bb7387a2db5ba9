"""hubbub: real-time messaging for Python.

Channels that browsers, phones and back-end code publish to and subscribe to, and that never lose their place.

What stands here is loaded when it is first asked for: `hubbub --help` and a script that only wants an exception do not
wait for a server.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hubbub.version import VERSION as __version__

#: The settings that are read where one stands, if no other file is named: by `Hubbub()` and by the command line.
DEFAULT_CONFIG = "hubbub.toml"

if TYPE_CHECKING:
    from hubbub.app import History, Hubbub, Subscription
    from hubbub.core.reader import PositionLost
    from hubbub.errors import (
        BackendError,
        BadRequest,
        ConfigurationError,
        Disconnect,
        HubbubError,
        NotAvailable,
        PermissionDenied,
        PublishFailed,
        ReplyError,
        UnknownChannel,
    )
    from hubbub.handlers.caller import Connection, Credentials
    from hubbub.handlers.publication import Publication
    from hubbub.handlers.rooms import Ephemeral
    from hubbub.model import ClientInfo, Position, PresenceStats, Published
    from hubbub.outbox import Outgoing

_HOMES = {
    "hubbub.app": ("History", "Hubbub", "Subscription"),
    "hubbub.core.reader": ("PositionLost",),
    "hubbub.errors": (
        "BackendError",
        "BadRequest",
        "ConfigurationError",
        "Disconnect",
        "HubbubError",
        "NotAvailable",
        "PermissionDenied",
        "PublishFailed",
        "ReplyError",
        "UnknownChannel",
    ),
    "hubbub.handlers.caller": ("Connection", "Credentials"),
    "hubbub.handlers.publication": ("Publication",),
    "hubbub.handlers.rooms": ("Ephemeral",),
    "hubbub.model": ("ClientInfo", "Position", "PresenceStats", "Published"),
    "hubbub.outbox": ("Outgoing",),
}

__all__ = [
    "BackendError",
    "BadRequest",
    "ClientInfo",
    "ConfigurationError",
    "Connection",
    "Credentials",
    "Disconnect",
    "Ephemeral",
    "History",
    "Hubbub",
    "HubbubError",
    "NotAvailable",
    "Outgoing",
    "PermissionDenied",
    "Position",
    "PositionLost",
    "PresenceStats",
    "Publication",
    "PublishFailed",
    "Published",
    "ReplyError",
    "Subscription",
    "UnknownChannel",
    "__version__",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(home), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
