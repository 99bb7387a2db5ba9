"""The delivery model with durable channels in real databases: see `delivery_machine`.

SQLite with one node, PostgreSQL with two; in memory the other tests of the model have durable channels, too. Few
examples, since each step writes to a disk or speaks to a server; with HUBBUB_HYPOTHESIS=deep they are more.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tests.contracts.stores import PostgresStores, SqliteStores, StoreBackend
from tests.databases import VERSIONS, Servers, Version, postgres_servers, shared
from tests.property.delivery_machine import Delivery
from tests.property.delivery_unreliable import UnreliableDelivery

__all__ = ["postgres_servers"]

#: Of the examples of the profile.
SQLITE, POSTGRESQL = 10, 33


def run(machine: type[Delivery], stores: Callable[[], StoreBackend], count: int, share: int) -> None:
    profile = settings.default
    assert profile is not None, "tests/conftest.py loads one"
    fewer = settings(profile, max_examples=max(1, profile.max_examples // share))
    # Typed as a class; what makes a machine will do.
    run_state_machine_as_test(lambda: machine(None, stores(), count), settings=fewer)  # type: ignore[arg-type]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("machine", [Delivery, UnreliableDelivery])
def test_durable_channels_in_sqlite(machine: type[Delivery], tmp_path_factory: pytest.TempPathFactory) -> None:
    run(machine, lambda: SqliteStores(tmp_path_factory.mktemp("store")), 1, SQLITE)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("version", VERSIONS)
def test_durable_channels_in_postgresql(version: Version, postgres_servers: Servers) -> None:
    server = shared(postgres_servers, version)
    run(UnreliableDelivery, lambda: PostgresStores(server), 2, POSTGRESQL)
