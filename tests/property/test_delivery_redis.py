"""The delivery model over Redis and Valkey: see `delivery_machine` and `delivery_server`.

A tenth of the examples that memory gets, since each step speaks to a server: about ten seconds for each test. With
HUBBUB_HYPOTHESIS=deep they search for many minutes, with other examples in every run.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tests.backends import RedisServer
from tests.property.delivery_server import ServerDelivery, UnreliableServerDelivery

#: Of the examples of the profile.
SHARE = 10


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("machine", [ServerDelivery, UnreliableServerDelivery])
def test_every_subscriber_has_everything_or_is_told(machine: type[ServerDelivery], backend: RedisServer) -> None:
    profile = settings.default
    assert profile is not None, "tests/conftest.py loads one"
    fewer = settings(profile, max_examples=max(1, profile.max_examples // SHARE))
    # Typed as a class; what makes a machine will do.
    run_state_machine_as_test(lambda: machine(backend), settings=fewer)  # type: ignore[arg-type]
