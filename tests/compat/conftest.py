"""Servers, SDKs and clients for the compatibility suite.

A server is started when the first test wants it, and serves all that follow; so each test has channels and users of its
own. At the end no server may have complained: what a client does is never an error of the server.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import cent
import pytest
import pytest_asyncio
from tests.compat.sdk import Client, Sdk
from tests.compat.stage import API_KEY, INSECURE, SDKS, Api, Drivers, Open, Servers, new_client
from tests.serving import DOORS, Door, Served


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        servers = Servers(stack, tmp_path_factory.mktemp)
        yield servers
    if servers.complaints:  # no AssertionError, which an expected failure that comes last would swallow
        raise RuntimeError("\n".join(servers.complaints))


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    found: Door = request.param
    return found


@pytest.fixture
def insecure(servers: Servers, door: Door) -> Served:
    return servers.get(door, "insecure")


@pytest.fixture
def secure(servers: Servers, door: Door) -> Served:
    return servers.get(door, "secure")


@pytest.fixture
def brisk(servers: Servers, door: Door) -> Served:
    return servers.get(door, "brisk")


@pytest.fixture
def servers_of_my_own(door: Door, tmp_path: Path) -> Iterator[list[Served]]:
    """Two that the test may stop."""
    with ExitStack() as stack:
        yield [stack.enter_context(Served(INSECURE, _folder(tmp_path / name), door)) for name in ("old", "new")]


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


# SDKs ---------------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def drivers() -> AsyncIterator[Drivers]:
    async with AsyncExitStack() as stack:
        yield Drivers(stack)


@pytest_asyncio.fixture(params=SDKS, loop_scope="session")
async def sdk(drivers: Drivers, request: pytest.FixtureRequest) -> Sdk:
    return await drivers.sdk(request.param)


@pytest_asyncio.fixture(loop_scope="session")
async def every_sdk(drivers: Drivers) -> list[Sdk]:
    """For what takes seconds whoever does it: all at once."""
    return [await drivers.sdk(name) for name in SDKS]


# what tests hold ----------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def opened() -> AsyncIterator[list[Client]]:
    """All clients of the test; they leave at its end."""
    clients: list[Client] = []
    yield clients
    await asyncio.gather(*(client.disconnect() for client in clients))


@pytest.fixture
def prepared(sdk: Sdk, opened: list[Client]) -> Open:
    """Make a client that does not connect yet: `await prepared(url, user="42")`."""

    async def prepare(url: str, **options: Any) -> Client:
        return await new_client(sdk, opened, url, **options)

    return prepare


@pytest.fixture
def connected(prepared: Open) -> Open:
    """Make a client and wait until it is connected: `await connected(url, user="42")`."""

    async def connect(url: str, **options: Any) -> Client:
        client = await prepared(url, **options)
        await client.connect()
        return client

    return connect


@pytest.fixture
def channel() -> str:
    """A name that no other test has."""
    return f"channel-{uuid.uuid4()}"


@pytest.fixture
def user() -> str:
    """A user that no other test has."""
    return f"user-{uuid.uuid4()}"


@pytest_asyncio.fixture(loop_scope="session")
async def api() -> AsyncIterator[Api]:
    """The server API of a server, through the official client."""
    clients: list[cent.AsyncClient] = []

    def open_api(served: Served) -> cent.AsyncClient:
        client = cent.AsyncClient(served.api_url, API_KEY)
        clients.append(client)
        return client

    yield open_api
    for client in clients:
        await client.close()
