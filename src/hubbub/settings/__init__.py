"""Settings: the only reader of the environment and of TOML."""

from hubbub.settings.document import line_of
from hubbub.settings.loading import load, notes, origins
from hubbub.settings.sections import (
    LOCAL_ORIGINS,
    SECRETS,
    Api,
    Auth,
    Broker,
    Client,
    Section,
    Server,
    Settings,
)

__all__ = [
    "load",
    "origins",
    "notes",
    "line_of",
    "Settings",
    "Section",
    "Server",
    "Broker",
    "Auth",
    "Api",
    "Client",
    "LOCAL_ORIGINS",
    "SECRETS",
]
