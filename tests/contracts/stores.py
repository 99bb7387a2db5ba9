"""The stores that the contract suite runs against.

A new implementation adds one `StoreBackend` and its name to `STORES`; no test changes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest
from tests.databases import VERSIONS, PostgresServer, Servers, shared

from hubbub.clock import Clock, SystemClock
from hubbub.model import Publication
from hubbub.stores.base import Store
from hubbub.stores.memory import Logs, MemoryStore
from hubbub.stores.postgresql import PostgresStore
from hubbub.stores.sqlite import SqliteStore

STORES = ("memory", "sqlite", *VERSIONS)


class Committed:
    """StoreEvents that write everything down."""

    def __init__(self) -> None:
        self.told: defaultdict[str, list[tuple[Publication, str]]] = defaultdict(list)

    def on_committed(self, channel: str, publication: Publication, epoch: str) -> None:
        self.told[channel].append((publication, epoch))

    def offsets(self, channel: str) -> list[int]:
        return [publication.offset for publication, _ in self.told[channel]]


class StoreBackend(Protocol):
    """One database, opened once at a time or by several processes."""

    def store(self, clock: Clock | None = None) -> Store:
        """Another store on it, not started."""
        ...


class MemoryStores:
    """Stores on the same logs."""

    def __init__(self) -> None:
        self.logs = Logs()

    def store(self, clock: Clock | None = None) -> Store:
        return MemoryStore(clock=clock or SystemClock(), logs=self.logs)


class SqliteStores:
    """Stores in the same file, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.db"

    def store(self, clock: Clock | None = None) -> Store:
        return SqliteStore(self.path, clock=clock or SystemClock())


class PostgresStores:
    """Stores in a database of their own."""

    def __init__(self, server: PostgresServer) -> None:
        self.url = server.database()

    def store(self, clock: Clock | None = None) -> Store:
        return PostgresStore(self.url, clock=clock or SystemClock())


#: A started store, and what it told. Called again, it is stopped and opened anew.
Open = Callable[[], Awaitable[tuple[Store, Committed]]]


@pytest.fixture(params=STORES)
def make_backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_servers: Servers
) -> Callable[[], StoreBackend]:
    """What makes an empty one."""
    kind = request.param
    if kind == "memory":
        return MemoryStores
    if kind == "sqlite":
        return lambda: SqliteStores(tmp_path_factory.mktemp("store"))
    return lambda: PostgresStores(shared(postgres_servers, kind))


@pytest.fixture
def store_backend(make_backend: Callable[[], StoreBackend]) -> StoreBackend:
    return make_backend()


@pytest.fixture
async def open_store(store_backend: StoreBackend) -> AsyncIterator[Open]:
    running: list[Store] = []

    async def open() -> tuple[Store, Committed]:
        while running:
            await running.pop().stop()
        store, events = store_backend.store(), Committed()
        await store.start(events)
        running.append(store)
        return store, events

    yield open
    for store in running:
        await store.stop()
