"""The rest of what every `Broker` must do: B7 (removing history) and B8 (watching patterns) of `hubbub.brokers.base`.

As in `test_broker`, nothing here looks inside an implementation.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.contracts.broker import KEPT, LIVE, fill, kept

from hubbub.brokers.base import Notice, StreamOptions
from hubbub.model import ClientInfo, Publication

if TYPE_CHECKING:
    from tests.contracts.conftest import BrokerFactory, Settle, TimePasses


# --- B7


async def test_b7_removed_history_cannot_be_read_and_the_head_stays(broker_factory: BrokerFactory) -> None:
    one, two = await broker_factory(2)
    await fill(one.broker, "c", 5)
    await fill(one.broker, "d", 2)
    head = (await one.broker.heads(["c"]))["c"]
    await one.broker.remove_history("c")
    for reverse in (False, True):
        for after in (0, 3):
            publications, top = await two.broker.read("c", after, 10, reverse=reverse)
            assert list(publications) == []
            assert top == head
    assert head.offset == 5
    assert await kept(two.broker, "d") == [1, 2]
    await fill(two.broker, "c", 2)
    assert await kept(one.broker, "c") == [6, 7]
    assert (await one.broker.heads(["c"]))["c"] == head._replace(offset=7)


async def test_b7_removing_does_not_announce_and_listeners_go_on(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two = await broker_factory(2)
    await two.broker.subscribe("c")
    await fill(one.broker, "c", 2)
    await one.broker.remove_history("c")
    await one.broker.remove_history("c")
    await fill(one.broker, "c", 1)
    await settle()
    assert two.heard.offsets("c") == [1, 2, 3]
    assert len({epoch for _, epoch in two.heard.announced["c"]}) == 1


async def test_b7_versions_and_keys_outlive_it(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    versioned = StreamOptions(size=10, ttl=60, version=5)
    keyed = StreamOptions(size=10, ttl=60, idempotency_key="k")
    await node.broker.publish("c", Publication(b"x"), versioned)
    await node.broker.publish("c", Publication(b"x"), keyed)
    await node.broker.remove_history("c")
    assert (await node.broker.publish("c", Publication(b"x"), versioned)).duplicate is True
    assert (await node.broker.publish("c", Publication(b"x"), keyed)).duplicate is True
    assert await kept(node.broker, "c") == []


async def test_b7_nothing_to_remove_is_no_error_and_makes_no_epoch_twice(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    await node.broker.remove_history("c")
    asked = (await node.broker.heads(["d"]))["d"]
    await node.broker.remove_history("d")
    assert (await node.broker.heads(["d"]))["d"] == asked


async def test_b7_removing_twice_within_the_ttl_and_expiring_later(
    broker_factory: BrokerFactory, pass_time: TimePasses
) -> None:
    (node,) = await broker_factory(1)
    options = StreamOptions(size=10, ttl=4)
    await fill(node.broker, "c", 2, options)
    await node.broker.remove_history("c")
    await pass_time(3)
    await fill(node.broker, "c", 1, options)
    await pass_time(3)
    assert await kept(node.broker, "c") == [3]
    await pass_time(2)
    assert await kept(node.broker, "c") == []


# --- B8


@pytest.mark.parametrize("options", [LIVE, KEPT], ids=["live", "kept"])
async def test_b8_what_matches_is_heard_by_who_watches(
    broker_factory: BrokerFactory, settle: Settle, options: StreamOptions
) -> None:
    one, two, three = await broker_factory(3)
    await two.broker.watch(["orders.*", "r?om:[a-c]", "[!x]"])
    names = ["orders.1", "orders.", "orders.a:b", "room:a", "rxom:c", "y", "é"]
    others = ["orders", "Orders.1", "my.orders.1", "room:d", "room:ab", "x", "yy"]
    for name in names + others:
        await one.broker.publish(name, Publication(name.encode()), options)
    await settle()
    assert set(two.heard.announced) == set(names)
    for name in names:
        ((publication, epoch),) = two.heard.announced[name]
        assert publication == Publication(name.encode(), offset=1 if options is KEPT else 0)
        assert bool(epoch) is (options is KEPT)
    assert one.heard.announced == three.heard.announced == {}


@pytest.mark.parametrize("options", [LIVE, KEPT], ids=["live", "kept"])
@pytest.mark.parametrize("first", ["subscribe", "watch"])
async def test_b8_nothing_is_heard_twice(
    broker_factory: BrokerFactory, settle: Settle, first: str, options: StreamOptions
) -> None:
    one, two = await broker_factory(2)
    for node in (one, two):
        if first == "subscribe":
            await node.broker.subscribe("orders.1")
        await node.broker.watch(["orders.*", "*", "orders.1", "o*1"])
        await node.broker.subscribe("orders.1")
    for _ in range(3):
        await one.broker.publish("orders.1", Publication(b"x"), options)
    await two.broker.publish("other", Publication(b"x"), options)
    await settle()
    for node in (one, two):
        assert len(node.heard.announced["orders.1"]) == 3
        assert len(node.heard.announced["other"]) == 1


async def test_b8_leaving_a_channel_leaves_the_pattern_and_the_other_way_round(
    broker_factory: BrokerFactory, settle: Settle
) -> None:
    one, two = await broker_factory(2)
    await two.broker.subscribe("a.1")
    await two.broker.watch(["a.*"])
    await two.broker.unsubscribe("a.1")
    await fill(one.broker, "a.1", 1)
    await settle()
    assert two.heard.offsets("a.1") == [1]
    await two.broker.subscribe("a.1")
    await two.broker.watch([])
    await settle()
    await fill(one.broker, "a.1", 1)
    await fill(one.broker, "a.2", 1)
    await settle()
    assert two.heard.offsets("a.1") == [1, 2]
    assert two.heard.offsets("a.2") == []


async def test_b8_a_call_replaces_the_patterns_of_the_one_before(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two = await broker_factory(2)
    await two.broker.watch(["a.*", "b.*"])
    await two.broker.watch(["b.*", "c.*"])
    await settle()
    for channel in ("a.1", "b.1", "c.1"):
        await fill(one.broker, channel, 1)
    await settle()
    assert set(two.heard.announced) == {"b.1", "c.1"}
    await asyncio.gather(two.broker.watch([]), two.broker.watch(["a.*"]), two.broker.watch(["d.*"]))
    await settle()
    for channel in ("a.2", "b.2", "d.2"):
        await fill(one.broker, channel, 1)
    await settle()
    assert set(two.heard.announced) == {"b.1", "c.1", "d.2"}


async def test_b8_a_pattern_that_stays_misses_nothing_while_others_change(
    broker_factory: BrokerFactory, settle: Settle
) -> None:
    one, two = await broker_factory(2)
    await two.broker.watch(["a.*"])

    async def change() -> None:
        for number in range(20):
            await two.broker.watch(["a.*", f"b{number}.*"])
            await (two.broker.subscribe if number % 2 else two.broker.unsubscribe)("a.1")

    async def publish() -> None:
        for _ in range(100):
            await one.broker.publish("a.1", Publication(b"x"), KEPT)
            await asyncio.sleep(0)

    await asyncio.gather(publish(), change())
    await settle()
    assert two.heard.offsets("a.1") == list(range(1, 101))


async def test_b8_notices_are_not_watched(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two = await broker_factory(2)
    await two.broker.watch(["*"])
    await one.broker.notify("c", Notice("join", ClientInfo("ann", "c1")))
    await settle()
    assert two.heard.notices == {}
    await two.broker.subscribe("c")
    await one.broker.notify("c", Notice("leave", ClientInfo("ann", "c1")))
    await settle()
    assert [notice.kind for notice in two.heard.notices["c"]] == ["leave"]


async def test_b8_a_stopped_broker_watches_nothing(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two, three = await broker_factory(3)
    for node in (two, three):
        await node.broker.watch(["*"])
    await two.broker.stop()
    await fill(one.broker, "c", 1)
    await settle()
    assert two.heard.announced == {}
    assert three.heard.offsets("c") == [1]
