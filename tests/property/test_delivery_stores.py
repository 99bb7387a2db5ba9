"""The delivery model with durable channels in real databases: see `delivery_machine` and docs/design/delivery.md, 9.

SQLite with one node, PostgreSQL with one and with two; with brokers in memory, in Redis and Valkey, with one that is
down from first to last, and with none. Few examples of each, since each step writes to a disk or speaks to servers, and
other ones in each test; in memory, where the other tests of the model have durable channels, too, they are many. With
HUBBUB_HYPOTHESIS=deep they are more, and never the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.backends import RedisServer
from tests.contracts.stores import PostgresStores, SqliteStores, StoreBackend
from tests.databases import VERSIONS, Servers, Version, postgres_servers, shared
from tests.property.delivery_durable import DurableDelivery, LonelyDelivery
from tests.property.delivery_server import ServerDelivery, UnreliableServerDelivery
from tests.property.delivery_unreliable import DeafDelivery, UnreliableDelivery

__all__ = ["postgres_servers"]

#: What makes a machine, for a store and a number of nodes.
Make = Callable[[StoreBackend | None, int], DurableDelivery]

IN_MEMORY: dict[str, Make] = {
    "memory": lambda stores, count: DurableDelivery(None, stores, count),
    "unreliable": lambda stores, count: UnreliableDelivery(None, stores, count),
    "down": lambda stores, count: DeafDelivery(None, stores, count),
    "none": LonelyDelivery,
}

#: Of the examples of the profile.
MEMORY, SQLITE, POSTGRESQL = 5, 10, 50

NODES = (1, 2)


def run(make: Callable[[], DurableDelivery], share: int, name: str) -> None:
    """In the profile that repeats itself each test, by its name, has examples of its own."""
    profile = settings.default
    assert profile is not None, "tests/conftest.py loads one"
    fewer = settings(profile, max_examples=max(1, profile.max_examples // share))

    def machine() -> DurableDelivery:
        return make()

    if profile.derandomize:
        machine = seed(zlib.crc32(name.encode()))(machine)
    # Typed as a class; what makes a machine will do.
    run_state_machine_as_test(machine, settings=fewer)  # type: ignore[arg-type]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("broker", ["down", "none"])
def test_durable_channels_in_memory(broker: str) -> None:
    run(lambda: IN_MEMORY[broker](None, 2), MEMORY, broker)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("broker", IN_MEMORY)
def test_durable_channels_in_sqlite(broker: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    run(lambda: IN_MEMORY[broker](SqliteStores(tmp_path_factory.mktemp("store")), 1), SQLITE, broker)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", NODES)
@pytest.mark.parametrize("broker", IN_MEMORY)
@pytest.mark.parametrize("version", VERSIONS)
def test_durable_channels_in_postgresql(version: Version, broker: str, count: int, postgres_servers: Servers) -> None:
    server = shared(postgres_servers, version)
    run(lambda: IN_MEMORY[broker](PostgresStores(server), count), POSTGRESQL, f"{version} {broker} {count}")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", NODES)
@pytest.mark.parametrize("machine", [ServerDelivery, UnreliableServerDelivery])
@pytest.mark.parametrize("version", VERSIONS)
def test_durable_channels_in_postgresql_with_a_server_for_broker(
    version: Version, machine: type[ServerDelivery], count: int, backend: RedisServer, postgres_servers: Servers
) -> None:
    server = shared(postgres_servers, version)
    name = f"{version} {machine.__name__} {count} {backend.kind}"
    run(lambda: machine(backend, PostgresStores(server), count), POSTGRESQL, name)
