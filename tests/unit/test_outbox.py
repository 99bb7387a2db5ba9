"""The row that an application inserts, and the mover without a database."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hubbub import BadRequest, ConfigurationError, Hubbub, UnknownChannel, sync
from hubbub.clock import ManualClock
from hubbub.errors import BackendError
from hubbub.model import Publication
from hubbub.stores import outbox
from hubbub.stores.base import Draft, Unwritable
from hubbub.stores.outbox import MAX_LEFT, PATIENCE, Judge, Moved, Mover, Row, Strange, judged

STORE = "postgresql://localhost/app"
CHANNELS: dict[str, Any] = {
    "chat": {"delivery": "durable", "max_bytes": 100},
    "bytes": {"delivery": "durable", "data": "binary"},
    "texts": {"delivery": "durable", "data": "text"},
    "news": {"delivery": "recent"},
}


@pytest.fixture(params=[Hubbub, sync.Hubbub])
def hub(request: pytest.FixtureRequest) -> Any:
    """Not started: it needs no database."""
    return request.param("memory://", store=STORE, channels=CHANNELS)


# the row --------------------------------------------------------------------------------------------------------------


def test_each_driver_gets_its_own_statement(hub: Any) -> None:
    outgoing = hub.outbox("chat:1", {"text": "hi"}, tags={"a": "é"}, idempotency_key="k")
    values = {"channel": "chat:1", "data": '{"text":"hi"}', "key": "k", "tags": '{"a":"é"}'}
    sql, *given = outgoing.asyncpg
    assert given == list(values.values())
    assert [f"${number}" in sql for number in range(1, 6)] == [True] * 4 + [False]
    assert outgoing.psycopg[1] == outgoing.sqlalchemy[1] == values
    assert all(f"%({name})s" in outgoing.psycopg[0] for name in values)
    assert all(f":{name}" in outgoing.sqlalchemy[0] for name in values)


def test_what_was_not_given_is_null(hub: Any) -> None:
    assert hub.outbox("chat:1", None).psycopg[1] == {"channel": "chat:1", "data": "null", "key": None, "tags": None}


def test_text_and_bytes_travel_as_json(hub: Any) -> None:
    assert hub.outbox("texts:1", 'a"b').data == '"a\\"b"'
    assert hub.outbox("bytes:1", b"\0\xff").data == '"AP8="'


@pytest.mark.parametrize(
    ("channel", "data", "options", "error", "text"),
    [
        ("nobody:1", 1, {}, UnknownChannel, "add \\[channels.nobody\\]"),
        ("chat 1", 1, {}, BadRequest, "white space"),
        ("news:1", 1, {}, BadRequest, "not durable"),
        ("chat:1", "x" * 100, {}, BadRequest, "max_bytes of 100"),
        ("chat:1", float("nan"), {}, BadRequest, "NaN"),
        ("texts:1", 5, {}, BadRequest, "give str"),
        ("chat:1", 1, {"tags": {"a": 1}}, BadRequest, "text to text"),
        ("chat:1", 1, {"idempotency_key": "k" * 257}, BadRequest, "256"),
    ],
)
def test_the_gate_is_passed_before_the_row_is_written(
    hub: Any, channel: str, data: object, options: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        hub.outbox(channel, data, **options)


@pytest.mark.parametrize("store", ["sqlite:///app.db", "memory://"])
def test_other_stores_have_no_outbox(store: str) -> None:
    hub = Hubbub("memory://", store=store, channels=CHANNELS)
    with pytest.raises(ConfigurationError, match="publish after your own commit"):
        hub.outbox("chat:1", 1)


# the mover ------------------------------------------------------------------------------------------------------------


class Table:
    """An outbox in memory. `poison` are rows that the log does not take."""

    def __init__(self, *channels: str, poison: Collection[int] = ()) -> None:
        self.rows = [Row(number, channel, "1", "", None) for number, channel in enumerate(channels)]
        self.poison = set(poison)
        self.published: list[int] = []
        self.refused: dict[int, str] = {}
        self.looks = asyncio.Semaphore(0)
        self.failures: list[Exception] = []

    async def waits(self, besides: Collection[int]) -> bool:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop()
        has_some = any(row.id not in besides for row in self.rows)
        if not has_some:
            self.looks.release()
        return has_some

    async def move(self, judge: Judge, limit: int, besides: Collection[int]) -> Moved:
        seen = [row for row in self.rows if row.id not in besides][:limit]
        moved = judged(seen, judge)
        if self.poison.intersection(moved.ids):
            raise Unwritable("too strange")
        self.published += moved.ids
        self.refused |= dict(moved.refused)
        gone = {*moved.ids, *(row for row, _ in moved.refused)}
        self.rows = [row for row in self.rows if row.id not in gone]
        return moved

    async def idle(self) -> None:
        """Return once everything that can be done now is done."""
        for _ in range(2):  # the first look may have begun before
            self.looks = asyncio.Semaphore(0)
            await self.looks.acquire()


def judge(row: Row) -> Draft:
    if row.channel == "strange":
        raise Strange("unknown channel")
    if row.channel == "bad":
        raise BadRequest("it is bad")
    if row.channel == "worse":
        raise RuntimeError("nobody foresaw it")
    return Draft(row.channel, Publication(b"1"))


def ignore(name: str, times: int) -> None:
    """Nobody counts."""


@asynccontextmanager
async def moving(table: Table, clock: ManualClock, count: Callable[[str, int], object] = ignore) -> AsyncIterator[None]:
    mover = Mover(table, judge, clock=clock, count=count, idle=0.001)
    mover.start()
    try:
        await table.idle()
        yield
    finally:
        await mover.stop()


async def test_what_is_refused_holds_up_nobody_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    table, counts = Table("good", "bad", "good", "worse", "good"), Counter[str]()

    def count(name: str, times: int) -> None:
        counts[name] += times

    async with moving(table, ManualClock(), count):
        assert table.published == [0, 2, 4]
        assert table.refused == {1: "it is bad", 3: "looking at it failed: RuntimeError('nobody foresaw it')"}
        assert counts == {"outbox_moved": 3, "outbox_refused": 2}
    assert "2 rows of hubbub_outbox are refused, and stay there; row 1: it is bad" in caplog.text


@pytest.mark.parametrize("poison", [{0}, {999}, {3, 4, 500}, set(range(20))])
async def test_the_culprits_are_found_and_the_others_stay_in_order(poison: set[int]) -> None:
    table = Table(*["good"] * 1000, poison=poison)
    async with moving(table, ManualClock()):
        assert table.published == [number for number in range(1000) if number not in poison]
        assert table.refused == dict.fromkeys(poison, "it cannot be written: too strange")


async def test_a_stranger_is_left_to_others_for_a_while() -> None:
    clock, table = ManualClock(), Table("strange", "good", "strange")
    async with moving(table, clock):
        assert (table.published, table.refused) == ([1], {})
        clock.move(PATIENCE - 1)
        table.rows.append(Row(7, "strange", "1", "", None))
        await table.idle()
        assert table.refused == {}
        table.rows = table.rows[1:]  # another server knew the first
        clock.move(1)
        await table.idle()
        assert table.refused == {2: "no server knows it: unknown channel"}
        clock.move(PATIENCE)
        await table.idle()
        assert set(table.refused) == {2, 7}
        assert table.rows == []


async def test_strangers_beyond_all_bounds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_LEFT", 10)
    assert MAX_LEFT == 10_000
    table = Table(*["strange"] * 15, "good")
    async with moving(table, ManualClock()):
        assert len(table.rows) == 10
        assert table.published == [15]


async def test_a_failure_is_no_end(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(outbox, "PAUSE", 0.001)
    caplog.set_level(logging.WARNING)
    table = Table("good")
    table.failures = [RuntimeError("ours"), BackendError("the database is away")]
    async with moving(table, ManualClock()):
        assert table.published == [0]
    assert "the outbox waits: the database is away" in caplog.text
    assert "moving the outbox failed" in caplog.text


async def test_stopping_waits_for_what_is_under_way_and_may_come_twice() -> None:
    table = Table()
    mover = Mover(table, judge, clock=ManualClock(), count=ignore)
    await mover.stop()
    mover.start()
    await mover.stop()
    await mover.stop()
    mover.start()  # as a hub that is started again
    await table.looks.acquire()
    await mover.stop()
