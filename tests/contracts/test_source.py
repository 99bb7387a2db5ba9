"""What every `Source` must do, tried on brokers: S1 to S6 of `hubbub.brokers.base`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.contracts.broker import KEPT, fill, kept, position

from hubbub.brokers.base import StreamOptions
from hubbub.model import ClientInfo, Position, Publication
from hubbub.source import Known

if TYPE_CHECKING:
    from tests.contracts.conftest import BrokerFactory, Settle, TimePasses


# --- S1


async def test_s1_offsets_are_contiguous_from_1(broker_factory: BrokerFactory) -> None:
    one, two = await broker_factory(2)
    positions = [
        position(await (one, two)[number % 2].broker.publish("c", Publication(b"x"), KEPT)) for number in range(10)
    ]
    assert [offset for _, offset in positions] == list(range(1, 11))
    assert len({epoch for epoch, _ in positions}) == 1


async def test_s1_each_channel_has_its_own_stream(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "a", 3)
    assert position(await node.broker.publish("b", Publication(b"x"), KEPT)).offset == 1
    heads = await node.broker.heads(["a", "b"])
    assert heads["a"].offset == 3
    assert heads["a"].epoch != heads["b"].epoch


async def test_s1_offsets_go_on_after_the_publications_expired(
    broker_factory: BrokerFactory, pass_time: TimePasses
) -> None:
    (node,) = await broker_factory(1)
    before = position(await node.broker.publish("c", Publication(b"x"), StreamOptions(size=5, ttl=2)))
    await pass_time(3)
    after = position(await node.broker.publish("c", Publication(b"y"), StreamOptions(size=5, ttl=2)))
    assert after == Position(before.epoch, 2)
    assert await kept(node.broker, "c") == [2]


# --- S2


async def test_s2_stream_exists_from_the_first_question(broker_factory: BrokerFactory) -> None:
    one, two = await broker_factory(2)
    head = (await one.broker.heads(["c"]))["c"]
    assert head.offset == 0
    assert head.epoch
    assert (await two.broker.heads(["c"]))["c"] == head
    assert (await two.broker.read("c", 0, 10)).head == head
    published = position(await two.broker.publish("c", Publication(b"x"), KEPT))
    assert published == Position(head.epoch, 1)


async def test_s2_read_makes_the_epoch_too(broker_factory: BrokerFactory) -> None:
    one, two = await broker_factory(2)
    publications, head = await one.broker.read("c", 0, 10)
    assert list(publications) == []
    assert head.offset == 0
    assert (await two.broker.heads(["c"]))["c"] == head


async def test_s2_stream_that_is_listened_to_stays_though_nothing_is_published(
    broker_factory: BrokerFactory, pass_time: TimePasses
) -> None:
    one, two = await broker_factory(2)
    await one.broker.subscribe("c")
    head = (await one.broker.heads(["c"]))["c"]
    for _ in range(5):
        await pass_time(100)
    assert (await two.broker.heads(["c"]))["c"] == head
    assert position(await two.broker.publish("c", Publication(b"x"), KEPT)) == Position(head.epoch, 1)


async def test_s2_first_askers_agree_on_the_epoch(broker_factory: BrokerFactory) -> None:
    nodes = await broker_factory(3)

    async def ask(number: int) -> str:
        broker = nodes[number % 3].broker
        if number % 4 == 0:
            return (await broker.heads(["c"]))["c"].epoch
        if number % 4 == 1:
            return (await broker.read("c", 0, 0)).head.epoch
        return position(await broker.publish("c", Publication(b"x"), KEPT)).epoch

    assert len(set(await asyncio.gather(*map(ask, range(60))))) == 1


async def test_s2_heads_of_many_channels_at_once(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "c7", 7)
    channels = [f"c{number}" for number in range(1500)]
    heads = await node.broker.heads(channels)
    assert set(heads) == set(channels)
    assert {channel for channel, head in heads.items() if head.offset} == {"c7"}
    assert len({head.epoch for head in heads.values()}) == 1500
    assert await node.broker.heads(channels) == heads


async def test_s2_heads_of_nothing_and_of_the_same_twice(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    assert await node.broker.heads([]) == {}
    assert list(await node.broker.heads(["c", "c"])) == ["c"]


@pytest.mark.parametrize("channel", ["room:42", "with space", "ünï¢ode☃", "{tag}x", "$personal#user", "a" * 255])
async def test_s2_any_name_is_a_channel(broker_factory: BrokerFactory, settle: Settle, channel: str) -> None:
    (node,) = await broker_factory(1)
    await node.broker.subscribe(channel)
    done = position(await node.broker.publish(channel, Publication(b"x"), KEPT))
    await settle()
    assert node.heard.offsets(channel) == [1]
    assert (await node.broker.heads([channel])) == {channel: done}
    assert await kept(node.broker, channel) == [1]


# --- S3


async def test_s3_page_and_head_belong_to_one_instant(broker_factory: BrokerFactory) -> None:
    one, two = await broker_factory(2)
    done = asyncio.Event()

    async def write() -> None:
        await fill(one.broker, "c", 200, StreamOptions(size=500, ttl=60))
        done.set()

    async def look() -> None:
        while not done.is_set():
            publications, head = await two.broker.read("c", 0, 1000)
            assert [publication.offset for publication in publications] == list(range(1, head.offset + 1))
            newest = await two.broker.read("c", 0, 1, reverse=True)
            assert [publication.offset for publication in newest.publications] == [newest.head.offset][
                : newest.head.offset
            ]
            await asyncio.sleep(0)

    await asyncio.gather(write(), look(), look())


# --- S4


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [
        pytest.param(0, 100, range(1, 11), id="all"),
        pytest.param(3, 100, range(4, 11), id="after"),
        pytest.param(9, 100, [10], id="the-last"),
        pytest.param(10, 100, [], id="at-the-head"),
        pytest.param(11, 100, [], id="beyond-the-head"),
        pytest.param(10**12, 100, [], id="far-beyond-the-head"),
        pytest.param(0, 3, [1, 2, 3], id="limit"),
        pytest.param(4, 1, [5], id="limit-1"),
        pytest.param(8, 2, [9, 10], id="limit-exact"),
        pytest.param(0, 0, [], id="limit-0"),
        pytest.param(5, 0, [], id="limit-0-after"),
    ],
)
async def test_s4_forward(broker_factory: BrokerFactory, after: int, limit: int, expected: list[int]) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "c", 10)
    publications, head = await node.broker.read("c", after, limit)
    assert [publication.offset for publication in publications] == list(expected)
    assert [publication.data for publication in publications] == [b"%d" % number for number in expected]
    assert head.offset == 10


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [
        pytest.param(0, 100, range(10, 0, -1), id="all"),
        pytest.param(0, 3, [10, 9, 8], id="limit"),
        pytest.param(0, 0, [], id="limit-0"),
        pytest.param(8, 100, range(7, 0, -1), id="below"),
        pytest.param(8, 2, [7, 6], id="below-limit"),
        pytest.param(8, 0, [], id="below-limit-0"),
        pytest.param(10, 1, [9], id="below-the-head"),
        pytest.param(11, 1, [10], id="just-beyond-the-head"),
        pytest.param(10**12, 2, [10, 9], id="far-beyond-the-head"),
        pytest.param(2, 100, [1], id="the-first"),
        pytest.param(1, 100, [], id="below-the-first"),
    ],
)
async def test_s4_reverse(broker_factory: BrokerFactory, after: int, limit: int, expected: list[int]) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "c", 10)
    publications, head = await node.broker.read("c", after, limit, reverse=True)
    assert [publication.offset for publication in publications] == list(expected)
    assert head.offset == 10


@pytest.mark.parametrize("after", [0, 1, 6])
async def test_s4_after_older_than_trimmed_starts_at_the_first_kept(broker_factory: BrokerFactory, after: int) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "c", 10, StreamOptions(size=3, ttl=60))
    assert await kept(node.broker, "c", after) == [8, 9, 10]
    assert [p.offset for p in (await node.broker.read("c", after, 2)).publications] == [8, 9]


@pytest.mark.parametrize(("after", "expected"), [(0, [10, 9, 8]), (10, [9, 8]), (9, [8]), (8, []), (5, []), (1, [])])
async def test_s4_reverse_ends_at_the_first_kept(
    broker_factory: BrokerFactory, after: int, expected: list[int]
) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "c", 10, StreamOptions(size=3, ttl=60))
    page = await node.broker.read("c", after, 100, reverse=True)
    assert [publication.offset for publication in page.publications] == expected


@pytest.mark.parametrize("reverse", [False, True])
async def test_s4_empty_stream(broker_factory: BrokerFactory, reverse: bool) -> None:
    (node,) = await broker_factory(1)
    for after in (0, 1, 5):
        publications, head = await node.broker.read("c", after, 10, reverse=reverse)
        assert list(publications) == []
        assert head.offset == 0


@pytest.mark.parametrize("reverse", [False, True])
async def test_s4_max_bytes_cuts_pages_but_always_gives_one(broker_factory: BrokerFactory, reverse: bool) -> None:
    (node,) = await broker_factory(1)
    for size in (5000, 5000, 5000, 40_000, 5000, 5000):
        await node.broker.publish("c", Publication(b"x" * size), KEPT)
    pages: list[list[int]] = []
    after = 0
    while True:
        page = await node.broker.read("c", after, 100, 16_500, reverse=reverse)
        assert page.head.offset == 6
        if not page.publications:
            break
        pages.append([publication.offset for publication in page.publications])
        after = pages[-1][-1]
    assert pages == ([[6, 5], [4], [3, 2, 1]] if reverse else [[1, 2, 3], [4], [5, 6]])


async def test_s4_tiny_max_bytes_gives_one_at_a_time(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "c", 3)
    for after in range(3):
        page = await node.broker.read("c", after, 100, 1)
        assert [publication.offset for publication in page.publications] == [after + 1]


# --- S5


async def test_s5_replaced_epoch_keeps_everything_else(broker_factory: BrokerFactory) -> None:
    one, two = await broker_factory(2)
    await fill(one.broker, "c", 3)
    versioned = StreamOptions(size=100, ttl=60, version=5)
    keyed = StreamOptions(size=100, ttl=60, idempotency_key="k")
    await one.broker.publish("c", Publication(b"4"), versioned)
    before = position(await one.broker.publish("c", Publication(b"5"), keyed))
    head = await two.broker.replace_epoch("c", before.epoch)
    assert head.epoch != before.epoch
    assert head.offset == 5
    assert (await one.broker.heads(["c"]))["c"] == head
    page = await one.broker.read("c", 0, 100)
    assert page.head == head
    assert [(p.offset, p.data) for p in page.publications] == [(number, b"%d" % number) for number in range(1, 6)]
    assert (await one.broker.publish("c", Publication(b"x"), versioned)).duplicate is True
    assert (await one.broker.publish("c", Publication(b"x"), keyed)).duplicate is True
    assert position(await one.broker.publish("c", Publication(b"6"), KEPT)) == Position(head.epoch, 6)
    assert await kept(two.broker, "c") == [1, 2, 3, 4, 5, 6]


async def test_s5_announced_under_the_new_epoch(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two = await broker_factory(2)
    await two.broker.subscribe("c")
    old = position(await one.broker.publish("c", Publication(b"x"), KEPT)).epoch
    new = (await one.broker.replace_epoch("c", old)).epoch
    await fill(one.broker, "c", 1)
    await settle()
    assert [(publication.offset, epoch) for publication, epoch in two.heard.announced["c"]] == [(1, old), (2, new)]


async def test_s5_of_many_calls_one_replaces(broker_factory: BrokerFactory) -> None:
    nodes = await broker_factory(3)
    await fill(nodes[0].broker, "c", 2)
    before = (await nodes[0].broker.heads(["c"]))["c"]
    heads = await asyncio.gather(*(nodes[n % 3].broker.replace_epoch("c", before.epoch) for n in range(12)))
    assert len(set(heads)) == 1
    assert heads[0].epoch != before.epoch
    assert await nodes[1].broker.replace_epoch("c", before.epoch) == heads[0]  # too late: it is another one already
    assert await nodes[1].broker.replace_epoch("c", "another") == heads[0]
    assert (await nodes[2].broker.heads(["c"]))["c"] == heads[0]


async def test_s5_stream_that_nobody_knows(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    head = await node.broker.replace_epoch("c", "gone")
    assert head.offset == 0
    assert (await node.broker.heads(["c"]))["c"] == head
    replaced = await node.broker.replace_epoch("c", head.epoch)
    assert replaced.offset == 0
    assert replaced.epoch != head.epoch
    assert position(await node.broker.publish("c", Publication(b"x"), KEPT)) == Position(replaced.epoch, 1)


async def test_s5_what_is_kept_still_expires_and_is_trimmed(
    broker_factory: BrokerFactory, pass_time: TimePasses
) -> None:
    (node,) = await broker_factory(1)
    options = StreamOptions(size=3, ttl=4)
    await fill(node.broker, "c", 5, options)
    await node.broker.replace_epoch("c", (await node.broker.heads(["c"]))["c"].epoch)
    await fill(node.broker, "c", 1, options)
    assert await kept(node.broker, "c") == [4, 5, 6]
    await node.broker.replace_epoch("c", (await node.broker.heads(["c"]))["c"].epoch)
    await pass_time(5)
    page = await node.broker.read("c", 0, 10)
    assert list(page.publications) == []
    assert page.head.offset == 6


async def test_s5_other_streams_stay(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    for channel in ("c", "d"):
        await fill(node.broker, channel, 1)
    heads = await node.broker.heads(["c", "d"])
    await node.broker.replace_epoch("c", heads["c"].epoch)
    assert (await node.broker.heads(["d"]))["d"] == heads["d"]


# --- S6


async def test_s6_what_is_held_and_is_there_is_not_altered(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "a", 3)
    info = ClientInfo("ann", "c1", b'{"name":"Ann"}')
    await node.broker.publish("b", Publication(b'"x"', info=info, tags={"a": "b"}), KEPT)
    await node.broker.publish("b", Publication(b"\x00\xff", binary=True), KEPT)
    known = {}
    for channel in ("a", "b"):
        page = await node.broker.read(channel, 0, 10)
        for publication in page.publications:
            known[channel] = Known(page.head.epoch, publication)
            assert await node.broker.altered(known) == set()


async def test_s6_what_is_lost_or_another_one_is_altered(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    heads = {}
    for channel in ("same", "other", "short", "life", "trimmed"):
        await fill(node.broker, channel, 3)
        heads[channel] = (await node.broker.heads([channel]))[channel]
    await node.broker.remove_history("trimmed")
    known = {
        "same": Known(heads["same"].epoch, Publication(b"3", 3)),
        "other": Known(heads["other"].epoch, Publication(b"another", 3)),
        "short": Known(heads["short"].epoch, Publication(b"4", 4)),
        "life": Known("another epoch", Publication(b"another", 3)),
        "trimmed": Known(heads["trimmed"].epoch, Publication(b"another", 3)),
        "nobody's": Known("some epoch", Publication(b"1", 1)),
    }
    assert await node.broker.altered(known) == {"other", "short"}
    assert await node.broker.altered({}) == set()


async def test_s6_of_many_channels_at_once(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "c7", 7)
    head = (await node.broker.heads(["c7"]))["c7"]
    known = {f"c{number}": Known(head.epoch, Publication(b"x", 8)) for number in range(1500)}
    assert await node.broker.altered(known) == {"c7"}
