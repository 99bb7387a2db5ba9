"""What every `Store` must do: D1 to D8 of `hubbub.stores.base`, and S1 to S5 of `hubbub.source`."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contracts.stores import Committed, Open, StoreBackend, make_backend, open_store, store_backend
from tests.databases import postgres_servers

from hubbub.clock import ManualClock
from hubbub.errors import PublishFailed
from hubbub.model import ClientInfo, Position, Publication, Published
from hubbub.stores.base import Draft, Store
from hubbub.stores.writer import MAX_WAITING

__all__ = ["make_backend", "open_store", "postgres_servers", "store_backend"]


def position(published: Published) -> Position:
    assert published.position is not None
    return published.position


def draft(channel: str = "c", data: bytes = b"{}", key: str = "") -> Draft:
    return Draft(channel, Publication(data), key)


async def fill(store: Store, channel: str, count: int) -> None:
    await asyncio.gather(*(store.append(draft(channel, b"%d" % number)) for number in range(1, count + 1)))


async def offsets(store: Store, channel: str, after: int = 0, *, reverse: bool = False) -> list[int]:
    return [each.offset for each in (await store.read(channel, after, 10_000, reverse=reverse)).publications]


# --- S1 to S5


async def test_s1_offsets_are_contiguous_from_1_in_each_channel(open_store: Open) -> None:
    store, _ = await open_store()
    done = await asyncio.gather(*(store.append(draft(f"c{number % 3}")) for number in range(30)))
    for channel in range(3):
        assert [position(each).offset for each in done[channel::3]] == list(range(1, 11))
    assert len({position(each).epoch for each in done}) == 1


async def test_s2_asking_makes_an_epoch_that_stays(open_store: Open) -> None:
    store, _ = await open_store()
    head = (await store.heads(["c"]))["c"]
    assert head.offset == 0
    assert head.epoch
    assert (await store.read("c", 0, 10)).head == head
    assert position(await store.append(draft())) == Position(head.epoch, 1)


async def test_s2_heads_of_many_and_of_nothing(open_store: Open) -> None:
    store, _ = await open_store()
    await fill(store, "c7", 7)
    names = [f"c{number}" for number in range(1500)]
    heads = await store.heads(names)
    assert [name for name in names if heads[name].offset] == ["c7"]
    assert heads["c7"].offset == 7
    assert await store.heads([]) == {}


async def test_s4_pages_end_at_limit_bytes_and_head(open_store: Open) -> None:
    store, _ = await open_store()
    await fill(store, "c", 20)
    assert await offsets(store, "c", 5) == list(range(6, 21))
    assert [each.offset for each in (await store.read("c", 5, 3)).publications] == [6, 7, 8]
    assert (await store.read("c", 5, 0)).publications == []
    assert [each.offset for each in (await store.read("c", 10, 100, 5)).publications] == [11, 12]
    assert [each.offset for each in (await store.read("c", 10, 100, 1)).publications] == [11]
    assert await offsets(store, "c", 20) == []
    assert await offsets(store, "c", 3, reverse=True) == [2, 1]
    assert (await offsets(store, "c", 0, reverse=True))[:3] == [20, 19, 18]
    assert await offsets(store, "nobody's") == []


async def test_s5_epoch_is_replaced_once(open_store: Open) -> None:
    store, _ = await open_store()
    await fill(store, "c", 3)
    old = await store.heads(["c", "d"])
    heads = await asyncio.gather(*(store.replace_epoch("c", old["c"].epoch) for _ in range(5)))
    assert len(set(heads)) == 1
    assert heads[0].offset == 3
    assert heads[0].epoch != old["c"].epoch
    assert (await store.heads(["d"]))["d"] == old["d"]
    assert position(await store.append(draft())) == Position(heads[0].epoch, 4)
    assert await offsets(store, "c") == [1, 2, 3, 4]


# --- what is kept


@pytest.mark.parametrize(
    "publication",
    [
        Publication(b'{"text":"hi"}'),
        Publication('"ünï¢ode☃"'.encode(), 0, ClientInfo("ann", "c1", b'{"a":1}', b"[]")),
        Publication(b"1", 0, ClientInfo("", "c1"), {"a": "b", "ü": ""}),
        Publication(bytes(range(256)), 0, None, None, True),
        Publication(b"", 0, None, None, True),
        Publication(b'"\\ud83d"', 0, ClientInfo("x" * 255, "y", b"\x00\xff")),
    ],
)
async def test_what_is_written_is_read_as_it_was(open_store: Open, publication: Publication) -> None:
    store, events = await open_store()
    await store.append(Draft("c", publication))
    assert list((await store.read("c", 0, 1)).publications) == [publication.at(1)]
    assert events.told["c"][0][0] == publication.at(1)


@pytest.mark.parametrize(
    "channel", ["room:42", "with space", "ünï¢ode☃", "{tag}x", "$personal#user", "a" * 255, "'\"--"]
)
async def test_any_name_is_a_channel(open_store: Open, channel: str) -> None:
    store, _ = await open_store()
    assert position(await store.append(draft(channel))).offset == 1
    assert await offsets(store, channel) == [1]
    assert (await store.heads([channel]))[channel].offset == 1


# --- D1: it survives


async def test_d1_what_was_acknowledged_is_there_after_a_restart(open_store: Open, store_backend: object) -> None:
    store, _ = await open_store()
    await fill(store, "c", 10)
    head = (await store.heads(["c"]))["c"]
    store, events = await open_store()
    assert (await store.heads(["c"]))["c"] == head
    assert await offsets(store, "c") == list(range(1, 11))
    assert position(await store.append(draft())) == Position(head.epoch, 11)
    assert events.offsets("c") == [11]


# --- D2, D4


async def test_d2_order_is_that_of_the_calls_though_nobody_waits(open_store: Open) -> None:
    store, _ = await open_store()
    calls = [store.append(draft("c", b"%d" % number)) for number in range(1200)]
    await asyncio.gather(*calls)
    page = await store.read("c", 0, 2000)
    assert [int(each.data) for each in page.publications] == list(range(1200))


async def test_d4_is_told_in_order_before_the_publisher(open_store: Open) -> None:
    store, events = await open_store()
    done = await store.append(draft())
    assert events.offsets("c") == [1]
    assert events.told["c"][0][1] == position(done).epoch
    await fill(store, "c", 50)
    assert events.offsets("c") == list(range(1, 52))


# --- D3


async def test_d3_key_is_written_once(open_store: Open) -> None:
    store, events = await open_store()
    first = await store.append(draft(key="k"))
    again = await store.append(draft(data=b"2", key="k"))
    assert again == Published(first.position, None, True)
    assert position(await store.append(draft("d", key="k"))).offset == 1
    assert events.offsets("c") == [1]
    assert await offsets(store, "c") == [1]


async def test_d3_key_is_known_within_a_batch_and_after_a_restart(open_store: Open) -> None:
    store, _ = await open_store()
    done = await asyncio.gather(
        *(store.append(draft(key="k")) for _ in range(20)), *(store.append(draft()) for _ in range(2))
    )
    assert {position(each).offset for each in done[:20]} == {1}
    assert [each.duplicate for each in done[:20]] == [False, *[True] * 19]
    assert [position(each).offset for each in done[20:]] == [2, 3]
    store, _ = await open_store()
    assert (await store.append(draft(key="k"))).duplicate


# --- D5


async def test_d5_what_waits_is_bounded(open_store: Open) -> None:
    store, _ = await open_store()
    calls = [asyncio.ensure_future(store.append(draft())) for _ in range(MAX_WAITING + 10)]
    done = await asyncio.gather(*calls, return_exceptions=True)
    refused = [each for each in done if isinstance(each, PublishFailed)]
    assert len(refused) == 10
    assert all(each.is_retry_safe for each in refused)
    assert "later" in str(refused[0])
    assert len(await offsets(store, "c")) == MAX_WAITING
    assert store.counts()["store_overloaded"] == 10
    assert store.counts()["store_queue"] == 0


# --- D6


async def test_d6_one_that_cannot_be_written_harms_no_other(store_backend: object, open_store: Open) -> None:
    store, events = await open_store()
    poison = Publication(b"\xff\xfe")  # no text, which the gate would have refused
    drafts = [draft("c", b"%d" % number) for number in range(40)]
    drafts.insert(17, Draft("c", poison))
    done = await asyncio.gather(*(store.append(each) for each in drafts), return_exceptions=True)
    failed = [number for number, each in enumerate(done) if isinstance(each, BaseException)]
    if type(store).__name__ == "MemoryStore":  # takes anything
        assert failed == []
        return
    assert failed == [17]
    assert isinstance(done[17], PublishFailed)
    assert [int(each.data) for each in (await store.read("c", 0, 100)).publications] == list(range(40))
    assert events.offsets("c") == list(range(1, 41))


# --- D7


async def test_d7_a_cancelled_caller_cancels_nothing(open_store: Open) -> None:
    store, _ = await open_store()

    async def publish() -> None:
        await store.append(draft())

    tasks = [asyncio.create_task(publish()) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.append(draft())
    assert await offsets(store, "c") == list(range(1, 12))


async def test_d7_stop_writes_what_waits(open_store: Open) -> None:
    store, _ = await open_store()
    calls = [asyncio.ensure_future(store.append(draft())) for _ in range(1200)]
    await store.stop()
    assert [position(await each).offset for each in calls] == list(range(1, 1201))
    with pytest.raises(PublishFailed):
        await store.append(draft())
    store, _ = await open_store()
    assert len(await offsets(store, "c")) == 1200


# --- D8


async def test_d8_trimmed_is_gone_and_offsets_go_on(open_store: Open) -> None:
    store, _ = await open_store()
    await fill(store, "c", 10)
    await store.trim("c", 7)
    assert await offsets(store, "c") == [8, 9, 10]
    await store.trim("c", 99)
    assert await offsets(store, "c") == []
    assert position(await store.append(draft())).offset == 11
    assert (await store.heads(["c"]))["c"].offset == 11
    await store.trim("nobody's", 5)


async def test_d8_of_two_trims_at_once_each_returns_when_it_is_done(open_store: Open) -> None:
    store, _ = await open_store()
    for _ in range(2):
        await fill(store, "c", 6000)
        head = (await store.heads(["c"]))["c"].offset

        async def trim(upto: int = head) -> int:
            await store.trim("c", upto)
            return len(await offsets(store, "c"))

        assert sum(await asyncio.gather(trim(), trim(), trim())) == 0


async def test_d8_a_trim_beside_sweeps_leaves_nothing(store_backend: StoreBackend) -> None:
    clock = ManualClock()
    store = store_backend.store(clock)
    await store.start(Committed())
    await fill(store, "c", 3500)
    clock.move(100)
    await fill(store, "c", 3500)
    try:
        sweeps = [asyncio.create_task(store.sweep(lambda channel: 50.0)) for _ in range(2)]
        await store.trim("c", 7000)
        assert len(await offsets(store, "c")) == 0
        assert sum(await asyncio.gather(*sweeps)) <= 3500
    finally:
        await store.stop()


# --- D9


async def test_d9_sweep_lets_go_of_what_is_old(store_backend: StoreBackend) -> None:
    clock = ManualClock()
    store = store_backend.store(clock)
    await store.start(Committed())
    await fill(store, "a", 2500)
    await fill(store, "b", 3)
    clock.move(100)
    await fill(store, "a", 2)
    assert await store.sweep({"a": 50.0, "b": 0.0}.__getitem__) == 2500
    assert await offsets(store, "a") == [2501, 2502]
    assert await offsets(store, "b") == [1, 2, 3]
    assert await store.sweep(lambda channel: 200.0) == 0
    clock.move(1000)
    assert await store.sweep(lambda channel: 200.0) == 5
    assert position(await store.append(draft("a"))).offset == 2503
    await store.stop()


# --- a naive model


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.lists(st.tuples(st.sampled_from(["", "", "k1", "k2"]), st.integers(0, 9)), min_size=1, max_size=8),
            st.integers(0, 4),
        ),
        max_size=8,
    )
)
def test_any_history_is_that_of_a_list(
    store_backend: StoreBackend, steps: list[tuple[str, list[tuple[str, int]], int]]
) -> None:
    """Batches, keys and trims against a list for each channel."""
    life = secrets.token_hex(4)  # names of channels, instead of a new database for each example

    async def play() -> None:
        store = store_backend.store()
        await store.start(Committed())
        model: dict[str, dict[int, tuple[str, int]]] = {"a": {}, "b": {}}
        tops = {"a": 0, "b": 0}
        for channel, batch, trimmed in steps:
            done = await asyncio.gather(
                *(store.append(draft(channel + life, b"%d" % data, key)) for key, data in batch)
            )
            kept = model[channel]
            for (key, data), published in zip(batch, done, strict=True):
                before = [offset for offset, (other, _) in kept.items() if key and other == key]
                if before:
                    assert (position(published).offset, published.duplicate) == (before[0], True)
                else:
                    tops[channel] += 1
                    kept[tops[channel]] = (key, data)
                    assert (position(published).offset, published.duplicate) == (tops[channel], False)
            if trimmed:
                upto = tops[channel] - trimmed
                await store.trim(channel + life, upto)
                model[channel] = {offset: each for offset, each in kept.items() if offset > upto}
        for channel, kept in model.items():
            page = await store.read(channel + life, 0, 1000)
            assert [(each.offset, int(each.data)) for each in page.publications] == [
                (offset, data) for offset, (_, data) in sorted(kept.items())
            ]
            assert page.head.offset == tops[channel]
        await store.stop()

    asyncio.run(play())
