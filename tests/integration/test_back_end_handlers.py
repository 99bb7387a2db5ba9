"""`@hub.on`: names and patterns, types, isolation, slowness, and the ends of it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import msgspec
import pytest

from hubbub import BadRequest, ConfigurationError, Hubbub, Publication, UnknownChannel
from hubbub.brokers.memory import Exchange
from hubbub.handlers import consumers

CHANNELS = {"default": {"delivery": "live"}, "orders": {"delivery": "recent"}, "bytes": {"data": "binary"}}


@dataclasses.dataclass
class Order:
    amount: int


class Item(msgspec.Struct):
    name: str


class Box:
    """What a handler got."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.news = asyncio.Event()

    def put(self, item: Any) -> None:
        self.got.append(item)
        self.news.set()

    async def until(self, count: int) -> list[Any]:
        async with asyncio.timeout(5):
            while len(self.got) < count:
                self.news.clear()
                await self.news.wait()
        return self.got


async def test_names_and_patterns_each_get_everything_once() -> None:
    hub, name, pattern, both = Hubbub(channels=CHANNELS), Box(), Box(), Box()

    @hub.on("orders:1")
    async def one(publication: Publication[Any]) -> None:
        name.put((publication.data, publication.position and publication.position.offset))

    @hub.on("orders:*")
    async def many(publication: Publication[Any]) -> None:
        pattern.put((publication.channel, publication.data, publication.position and publication.position.offset))

    @hub.on("orders:1")
    @hub.on("orders:2")
    async def two(order) -> None:  # type: ignore[no-untyped-def]  # what most people write first
        both.put((order.channel, order.data))

    async with hub:
        await hub.publish("orders:1", 1)
        await hub.publish("orders:2", 2)
        await hub.publish("orders:1", 3, ephemeral=True)
    assert name.got == [(1, 1), (3, None)]
    assert pattern.got == [("orders:1", 1, 1), ("orders:2", 2, 1), ("orders:1", 3, None)]
    assert sorted(both.got) == [("orders:1", 1), ("orders:1", 3), ("orders:2", 2)]


async def test_payloads_come_as_annotated_and_are_refused_at_publish_if_they_cannot() -> None:
    hub, orders, items, raw = Hubbub(channels=CHANNELS), Box(), Box(), Box()

    @hub.on("orders:*")
    async def order(order: Order) -> None:
        orders.put(order)

    @hub.on("items")
    async def item(publication: Publication[Item]) -> None:
        items.put(publication.data)

    @hub.on("bytes:1")
    async def binary(data: bytes) -> None:
        raw.put(data)

    async with hub:
        await hub.publish("orders:1", Order(5))
        await hub.publish("items", {"name": "cup"})
        await hub.publish("bytes:1", b"\x00\xff")
        with pytest.raises(BadRequest, match=r"payload does not fit Order: amount: Expected `int`, got `str`$"):
            await hub.publish("orders:1", {"amount": "5"})
        with pytest.raises(BadRequest, match=r"payload does not fit Item: Object missing required field `name`$"):
            await hub.publish("items", {})
        await hub.publish("other", {"amount": "5"})
    assert (orders.got, items.got, raw.got) == ([Order(5)], [Item("cup")], [b"\x00\xff"])


async def test_pydantic_models_where_pydantic_is_installed() -> None:
    pydantic = pytest.importorskip("pydantic")
    model: Any = pydantic.create_model("Visit", page=(str, ...), seconds=(int, 0))
    hub, box = Hubbub(), Box()

    async def visited(visit: Any) -> None:
        box.put(visit)

    visited.__annotations__["visit"] = model
    hub.on("visits")(visited)
    async with hub:
        await hub.publish("visits", model(page="/"))
        await hub.publish("visits", {"page": "/x", "seconds": 3})
        with pytest.raises(BadRequest, match=r"payload does not fit Visit: page: Field required$"):
            await hub.publish("visits", {"seconds": 3})
    assert box.got == [model(page="/"), model(page="/x", seconds=3)]


async def test_a_handler_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    hub, box = Hubbub(channels=CHANNELS), Box()

    @hub.on("orders:1")
    async def bad(publication: Publication[Any]) -> None:
        box.put(("bad", publication.data))
        raise ZeroDivisionError

    @hub.on("orders:1")
    async def good(publication: Publication[Any]) -> None:
        box.put(("good", publication.data))

    async with hub:
        with caplog.at_level(logging.ERROR):
            await hub.publish_many([("orders:1", 1), ("orders:1", 2)])
            got = await box.until(4)
    assert sorted(got) == [("bad", 1), ("bad", 2), ("good", 1), ("good", 2)]
    assert [message.split(" (")[0] for message in caplog.messages] == [f"{bad.__qualname__.split('>.')[1]}"] * 2
    assert caplog.messages[1].endswith(" failed on orders:1, offset 2")
    assert hub.node.observer.counts["consumer_failed"] == 2
    caplog.clear()


async def test_a_slow_handler_delays_only_itself_and_misses_nothing_that_is_kept() -> None:
    hub, slow, fast, gate = (
        Hubbub(channels={"log": {"delivery": "recent", "history_size": 5000}}),
        Box(),
        Box(),
        asyncio.Event(),
    )

    @hub.on("log:1")
    async def crawls(publication: Publication[int]) -> None:
        await gate.wait()
        slow.put(publication.data)

    @hub.on("log:1")
    async def runs(publication: Publication[int]) -> None:
        fast.put(publication.data)

    async with hub:
        for number in range(3000):
            await hub.publish("log:1", number)
            if number % 500 == 0:
                await asyncio.sleep(0)
        assert await fast.until(3000) == list(range(3000))
        assert slow.got == []
        gate.set()
        assert await slow.until(3000) == list(range(3000))


async def test_a_pattern_s_handler_that_is_too_slow_drops_counts_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub, box, gate = Hubbub(), Box(), asyncio.Event()

    @hub.on("log*")
    async def crawls(publication: Publication[int]) -> None:
        await gate.wait()
        box.put(publication.data)

    async with hub:
        await hub.publish("log", 0)
        await asyncio.sleep(0)  # it takes the first one
        with caplog.at_level(logging.WARNING):
            for number in range(1, consumers.QUEUE_LIMIT + 11):
                await hub.publish("log", number)
        gate.set()
        taken = 1 + consumers.QUEUE_LIMIT  # one is at the handler
        assert await box.until(taken) == list(range(taken))
        assert hub.node.observer.counts["consumer_dropped"] == 10
    (line,) = caplog.messages
    assert line.endswith(" is too slow for log*: publications are dropped")
    caplog.clear()


async def test_what_was_heard_before_the_stop_is_handled_before_the_stop_is_over() -> None:
    hub, box = Hubbub(channels=CHANNELS), Box()

    @hub.on("orders:1")
    async def handle(publication: Publication[Any]) -> None:
        await asyncio.sleep(0)
        box.put(publication.data)
        if publication.data == 1:
            await hub.publish("orders:2", "handled")

    async with hub:
        await hub.publish_many(("orders:1", number) for number in range(50))
    assert box.got == list(range(50))


async def test_a_hub_that_starts_again_has_its_handlers_again() -> None:
    hub, box = Hubbub(channels=CHANNELS), Box()

    @hub.on("orders:1")
    async def handle(publication: Publication[Any]) -> None:
        box.put(publication.data)

    for number in range(2):
        async with hub:
            await hub.publish("orders:1", number)
    assert box.got == [0, 1]


async def test_a_handler_that_is_added_while_the_hub_runs() -> None:
    hub, box = Hubbub(), Box()
    async with hub:

        @hub.on("news")
        async def handle(number: int) -> None:
            box.put(number)

        async with asyncio.timeout(5):
            while not await hub.subscribers("news"):  # noqa: ASYNC110 - turns of the loop, and nobody tells
                await asyncio.sleep(0)
        await hub.publish("news", 1)
        with pytest.raises(BadRequest):
            await hub.publish("news", "one")
    assert box.got == [1]


async def test_who_lost_its_place_says_so_and_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, box = Hubbub(channels=CHANNELS), Box()
    monkeypatch.setattr(consumers, "RETRY", 0)

    @hub.on("orders:1")
    async def handle(publication: Publication[Any]) -> None:
        box.put(publication.data)

    async with hub:
        await hub.publish("orders:1", 1)
        await box.until(1)
        exchange: Exchange = hub.node.broker.exchange  # type: ignore[attr-defined]  # the memory broker's
        with caplog.at_level(logging.ERROR):
            exchange.forget("orders:1")  # as a broker that lost its data
            await hub.publish("orders:1", 2)
            async with asyncio.timeout(5):
                while not caplog.messages:  # noqa: ASYNC110 - turns of the loop, and nobody tells
                    await asyncio.sleep(0)
            while box.got[-1] != "again":
                await hub.publish("orders:1", "again")
                await asyncio.sleep(0)
    assert "missed publications: " in caplog.messages[0]
    assert hub.node.observer.counts["consumer_lost_its_place"] == 1
    caplog.clear()


async def plain(publication: Publication[Any]) -> None:
    """A handler."""


async def greedy(publication: Publication[Any], more: int) -> None:
    """Takes too much."""


def sync(publication: Publication[Any]) -> None:
    """No async function."""


@pytest.mark.parametrize(
    ("topic", "function", "says"),
    [
        ("", plain, "plain (test_back_end_handlers.py, line N) listens to no channel: give a name or a pattern"),
        ("a", greedy, "greedy (…) takes (publication, more); a handler takes (publication)"),
        ("a", sync, "sync (…) is a plain function, and would hold up all others: write `async def sync`"),
    ],
)
def test_what_could_never_be_called_is_refused_at_once(topic: str, function: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Hubbub().on(topic)(function)
    for part in says.replace("line N", "…").split("…"):
        assert part.strip("( )") in str(caught.value)


async def test_a_handler_of_a_channel_that_no_rules_know_ends_the_start() -> None:
    hub = Hubbub()
    hub.on("nowhere:1")(plain)
    with pytest.raises(UnknownChannel, match=r"namespace 'nowhere' is not declared; add \[channels.nowhere\]"):
        await hub.start()
    assert not hub.node.is_running


async def test_publish_many_publishes_all_or_says_which_one_is_wrong() -> None:
    async with Hubbub(channels=CHANNELS) as hub:
        done = await hub.publish_many([("orders:1", 1), ("orders:2", 2), ("orders:1", 3)])
        assert [each.position and each.position.offset for each in done] == [1, 1, 2]
        with pytest.raises(BadRequest, match=r"publication 1 \(orders:1\): payload cannot be written as JSON"):
            await hub.publish_many([("orders:1", 4), ("orders:1", object())])
        with pytest.raises(UnknownChannel):
            await hub.publish_many([("orders:1", 4), ("nowhere:1", 1)])
        assert (await hub.history("orders:1", type=int)).publications[-1].data == 3


async def test_typed_streams_and_histories() -> None:
    async with Hubbub(channels=CHANNELS) as hub:
        await hub.publish("orders:1", {"amount": 1})
        async with hub.subscribe("orders:1", type=Order, history=1) as subscription:
            first = await anext(subscription)
            assert first.data == Order(1)
        await hub.publish("orders:1", "not an order")
        with pytest.raises(BadRequest, match="does not fit Order"):
            await hub.history("orders:1", type=Order)


async def test_a_handler_that_waited_for_something_cancelled_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    hub, box = Hubbub(), Box()

    @hub.on("news")
    async def handle(number: int) -> None:
        if number == 1:
            somebody_elses = asyncio.create_task(asyncio.Event().wait())
            somebody_elses.cancel()
            await somebody_elses
        box.put(number)

    async with hub:
        with caplog.at_level(logging.ERROR):
            await hub.publish("news", 1)
            await hub.publish("news", 2)
            assert await box.until(1) == [2]
    assert [message.split(") ")[1] for message in caplog.messages] == ["failed on news, offset 0"]
    caplog.clear()


async def test_a_handler_that_publishes_into_what_it_hears_lets_others_run() -> None:
    hub, counted = Hubbub(), 0

    @hub.on("echo*")
    async def echo(number: int) -> None:
        nonlocal counted
        counted += 1
        await hub.publish("echo", number + 1)

    async with hub:
        await hub.publish("echo", 0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert counted
    assert not hub.node.is_running


async def test_a_burst_of_one_publisher_is_not_too_much_for_a_quick_handler() -> None:
    hub, box = Hubbub(), Box()

    @hub.on("burst*")
    async def handle(number: int) -> None:
        box.put(number)

    async with hub:
        for number in range(5 * consumers.QUEUE_LIMIT):
            await hub.publish("burst", number)
        await hub.publish_many(("burst", number) for number in range(5 * consumers.QUEUE_LIMIT))
    assert box.got == [*range(5 * consumers.QUEUE_LIMIT)] * 2


async def test_starts_and_stops_wait_for_each_other() -> None:
    hub, box = Hubbub(), Box()

    @hub.on("news")
    async def handle(number: int) -> None:
        box.put(number)

    await asyncio.gather(hub.start(), hub.start(), hub.stop())
    assert hub.node.is_running
    await hub.publish("news", 1)
    assert await box.until(1) == [1]
    await hub.stop()
    assert not hub.node.is_running


async def test_a_handler_that_is_added_late_for_a_channel_that_no_rules_know_is_refused() -> None:
    async with Hubbub() as hub:
        with pytest.raises(UnknownChannel, match="namespace 'nowhere' is not declared"):
            hub.on("nowhere:1")(plain)


async def test_wrong_types_are_refused_by_name() -> None:
    async with Hubbub(auth={"hmac_secret": "x" * 32}) as hub:
        said = "user is text, and channels are a list of names"
        with pytest.raises(TypeError, match=said):
            hub.token(42)  # type: ignore[arg-type]  # a mistake on purpose
        with pytest.raises(TypeError, match=said):
            hub.token("ann", channels="room:1")
        with pytest.raises(ValueError, match="ttl = -5: expected more than 0 seconds"):
            hub.token("ann", ttl=-5)
        with pytest.raises(BadRequest, match="channel name is int: give text"):
            await hub.publish(5, 1)  # type: ignore[arg-type]  # a mistake on purpose
