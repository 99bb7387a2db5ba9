"""Tests of applications: their own hub, in memory and on a clock that stands still, and clients of it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubbub.testing.client import Client, Returned
    from hubbub.testing.expecting import ExpectationFailed
    from hubbub.testing.hearing import Subscribed
    from hubbub.testing.hub import TestHub

# Loaded when first asked for: pytest imports the plugin beside this, in test runs that have nothing to do with hubbub.
_HOMES = {
    "Client": "hubbub.testing.client",
    "ExpectationFailed": "hubbub.testing.expecting",
    "Returned": "hubbub.testing.client",
    "Subscribed": "hubbub.testing.hearing",
    "TestHub": "hubbub.testing.hub",
}

__all__ = ["Client", "ExpectationFailed", "Returned", "Subscribed", "TestHub"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value
