"""What holds for all tests: how much Hypothesis tries, and the fixtures of Redis and Valkey.

Hypothesis tries little and always the same by default; `HUBBUB_HYPOTHESIS=deep` searches for minutes.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from tests.backends import backend, own_backend, redis_server, redis_url, valkey_server

__all__ = ["backend", "own_backend", "redis_server", "redis_url", "valkey_server"]

settings.register_profile(
    "ci",
    max_examples=100,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "deep",
    max_examples=2000,
    stateful_step_count=80,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HUBBUB_HYPOTHESIS", "ci"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Storms first: they take longest, mostly waiting, and nothing is to wait for them at the end."""
    items.sort(key=lambda item: "storms" not in item.path.parts)
