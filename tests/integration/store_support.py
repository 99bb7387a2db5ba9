"""A store in a real PostgreSQL, written and read by tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.contracts.stores import Committed
from tests.databases import PostgresServer, Servers, shared

from hubbub.clock import SystemClock
from hubbub.model import Position, Publication
from hubbub.stores.base import Draft
from hubbub.stores.postgresql import PostgresStore


@pytest.fixture
def server(postgres_servers: Servers) -> PostgresServer:
    """One that tests share."""
    return shared(postgres_servers, "postgres15")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[PostgresStore, Committed]]:
    store, events = PostgresStore(url, clock=SystemClock()), Committed()
    await store.start(events)
    try:
        yield store, events
    finally:
        await store.stop()


async def append(store: PostgresStore, data: object = 0, *, channel: str = "room", key: str = "") -> Position:
    published = await store.append(Draft(channel, Publication(json.dumps(data).encode()), key))
    assert published.position is not None
    return published.position


async def read(store: PostgresStore, channel: str = "room") -> list[Any]:
    """All that it holds; that there is no hole is checked here."""
    found: list[Any] = []
    while publications := (await store.read(channel, len(found), 1000)).publications:
        for publication in publications:
            assert publication.offset == len(found) + 1
            found.append(json.loads(publication.data))
    assert (await store.heads([channel]))[channel].offset == len(found)
    return found
