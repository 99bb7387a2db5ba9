"""A commit without an answer: looked up, written once, and answered with what is true now."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
from tests.databases import PostgresServer, postgres_servers
from tests.integration.store_support import append, opened, read, server

from hubbub.errors import PublishFailed
from hubbub.model import Position
from hubbub.stores.postgresql_connecting import Database

__all__ = ["postgres_servers", "server"]


@pytest.mark.parametrize("happens", ["before", "after"])
async def test_a_commit_without_an_answer_is_looked_up(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, happens: str
) -> None:
    commit = asyncpg.transaction.Transaction.commit
    failures = 0

    async def flaky(transaction: Any) -> None:
        nonlocal failures
        if failures < 3:
            failures += 1
            if happens == "after":
                await commit(transaction)
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        await commit(transaction)

    async with opened(server.database()) as (store, events):
        monkeypatch.setattr(asyncpg.transaction.Transaction, "commit", flaky)
        positions = await asyncio.gather(*(append(store, number) for number in range(20)))
        assert [position.offset for position in positions] == list(range(1, 21))
        assert failures == (1 if happens == "after" else 3)
        assert await read(store) == list(range(20))
        assert events.offsets("room") == list(range(1, 21))


@contextmanager
def losing(monkeypatch: pytest.MonkeyPatch, *failures: Exception) -> Iterator[None]:
    """The answer to the next commit, which takes place; then the next connections fail like this."""
    commit, connect = asyncpg.transaction.Transaction.commit, Database.connect
    lost, left = iter([True]), iter(failures)

    async def losing_commit(transaction: Any) -> None:
        await commit(transaction)
        if next(lost, False):
            raise ConnectionResetError("cut")

    async def failing(database: Database) -> Any:
        for error in left:
            raise error
        return await connect(database)

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.transaction.Transaction, "commit", losing_commit)
        patch.setattr(Database, "connect", failing)
        yield


def wrong_certificate() -> Exception:
    """OSError and ValueError at once, as of a standby whose certificate names another host."""
    return ssl.SSLCertVerificationError(1, "certificate verify failed: IP address mismatch")


@pytest.mark.parametrize("error", [wrong_certificate(), ValueError("of connecting")])
async def test_what_is_wrong_with_a_connection_is_not_blamed_on_what_is_written(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with opened(server.database()) as (store, events):
        await append(store)
        with losing(monkeypatch, error):
            positions = await asyncio.gather(*(append(store, number) for number in range(1, 5)))
        assert [position.offset for position in positions] == [2, 3, 4, 5]
        assert await read(store) == list(range(5))
        assert events.offsets("room") == [1, 2, 3, 4, 5]


async def test_a_doubt_stays_one_while_the_certificate_is_wrong(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubbub.stores.writer.PATIENCE", 0.5)
    async with opened(server.database()) as (store, _):
        await append(store)
        with losing(monkeypatch, *(wrong_certificate() for _ in range(1000))), pytest.raises(PublishFailed) as refusal:
            await append(store, 1)
        assert "perhaps published" in str(refusal.value)
        assert not refusal.value.is_retry_safe
        assert await read(store) == [0, 1]


async def test_what_was_in_doubt_when_a_standby_was_promoted_has_the_epoch_of_now(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.database()
    async with opened(url) as (store, events):
        old = await append(store)
        first = await append(store, key="k")
        server.query("UPDATE hubbub_meta SET database = '0/0'", url.rpartition("/")[2])
        with losing(monkeypatch):
            position, again = await asyncio.gather(append(store, 1), append(store, key="k"))
        head = (await store.heads(["room"]))["room"]
        assert position == head
        assert again == Position(head.epoch, first.offset)
        assert head.epoch != old.epoch
        assert events.told["room"][-1][1] == head.epoch
