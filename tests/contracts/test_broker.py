"""What every `Broker` must do besides what a `Source` must: B1 to B6, and B9 of `hubbub.brokers.base`.

Nothing here looks inside an implementation. `settle` stands before every assertion on what was announced.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.contracts.broker import KEPT, LIVE, fill, kept, position

from hubbub.brokers.base import Announcement, Notice, StreamOptions
from hubbub.model import ClientInfo, Publication, Published

if TYPE_CHECKING:
    from tests.contracts.conftest import BrokerFactory, Settle, TimePasses


# --- B1


async def test_b1_announced_as_returned_and_as_kept(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two = await broker_factory(2)
    await two.broker.subscribe("c")
    sent = Publication(
        b'{"text":"hi \xe2\x98\x83"}',
        info=ClientInfo("ann", "c1", b'{"name":"Ann"}', b'{"role":"op"}'),
        tags={"ticker": "AAPL", "ünï": "¢ode"},
    )
    done = await one.broker.publish("c", sent, KEPT)
    await settle()
    assert done.duplicate is False
    assert done.nodes in (None, 1)
    assert sent.offset == 0  # what the caller holds is not touched
    epoch, offset = position(done)
    assert two.heard.announced["c"] == [(sent.at(offset), epoch)]
    assert list((await two.broker.read("c", 0, 1)).publications) == [sent.at(offset)]


@pytest.mark.parametrize("options", [LIVE, KEPT], ids=["live", "kept"])
@pytest.mark.parametrize("data", [b"", b"\x00\xff\r\n\xfe", b"x" * 200_000], ids=["empty", "any-bytes", "large"])
async def test_b1_binary_travels_unchanged(
    broker_factory: BrokerFactory, settle: Settle, data: bytes, options: StreamOptions
) -> None:
    one, two = await broker_factory(2)
    await two.broker.subscribe("c")
    await one.broker.publish("c", Publication(data, binary=True), options)
    await settle()
    ((publication, _),) = two.heard.announced["c"]
    assert publication == Publication(data, publication.offset, binary=True)
    if options is KEPT:
        assert list((await one.broker.read("c", 0, 1)).publications) == [publication]


async def test_b1_a_thousand_interleaved_publishers(broker_factory: BrokerFactory, settle: Settle) -> None:
    nodes = await broker_factory(3)
    for node in nodes:
        await node.broker.subscribe("c")
    options = StreamOptions(size=1000, ttl=60)
    done = await asyncio.gather(
        *(nodes[n % 3].broker.publish("c", Publication(b"%d" % n), options) for n in range(1000))
    )
    await settle()
    assert sorted(position(published).offset for published in done) == list(range(1, 1001))
    given = {position(published).offset: b"%d" % n for n, published in enumerate(done)}
    log = [given[offset] for offset in range(1, 1001)]
    for node in nodes:
        assert node.heard.offsets("c") == list(range(1, 1001))
        assert node.heard.data("c") == log
    page = await nodes[0].broker.read("c", 0, 1000)
    assert [publication.data for publication in page.publications] == log


async def test_b1_channels_published_at_once_keep_each_its_order(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two = await broker_factory(2)
    channels = [f"c{number}" for number in range(5)]
    for channel in channels:
        await two.broker.subscribe(channel)
    await asyncio.gather(*(one.broker.publish(channels[n % 5], Publication(b"x"), KEPT) for n in range(100)))
    await settle()
    for channel in channels:
        assert two.heard.offsets(channel) == list(range(1, 21))


# --- B2


@pytest.mark.parametrize("size", [1, 2, 100])
async def test_b2_exactly_the_last_size_are_kept(broker_factory: BrokerFactory, size: int) -> None:
    (node,) = await broker_factory(1)
    options = StreamOptions(size=size, ttl=60)
    for top in range(1, 2 * size + 3):
        await node.broker.publish("c", Publication(b"x"), options)
        if top < 5 or top > 2 * size - 2:
            expected = list(range(max(1, top - size + 1), top + 1))
            assert await kept(node.broker, "c") == expected
            page = await node.broker.read("c", 0, 1000, reverse=True)
            assert [publication.offset for publication in page.publications] == expected[::-1]


async def test_b2_smaller_size_trims_and_larger_brings_nothing_back(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "c", 10, StreamOptions(size=100, ttl=60))
    await fill(node.broker, "c", 1, StreamOptions(size=2, ttl=60))
    assert await kept(node.broker, "c") == [10, 11]
    await fill(node.broker, "c", 1, StreamOptions(size=100, ttl=60))
    assert await kept(node.broker, "c") == [10, 11, 12]


async def test_b2_ttl_slides_with_the_newest(broker_factory: BrokerFactory, pass_time: TimePasses) -> None:
    (node,) = await broker_factory(1)
    options = StreamOptions(size=10, ttl=4)
    await fill(node.broker, "c", 1, options)
    await pass_time(3)
    await fill(node.broker, "c", 1, options)
    await pass_time(3)
    assert await kept(node.broker, "c") == [1, 2]
    await pass_time(2)
    assert await kept(node.broker, "c") == []


async def test_b2_reading_does_not_prolong(broker_factory: BrokerFactory, pass_time: TimePasses) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "c", 1, StreamOptions(size=10, ttl=4))
    await pass_time(3)
    assert await kept(node.broker, "c") == [1]
    await node.broker.heads(["c"])
    await pass_time(2)
    assert await kept(node.broker, "c") == []


async def test_b2_the_newest_ttl_counts(broker_factory: BrokerFactory, pass_time: TimePasses) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "c", 1, StreamOptions(size=10, ttl=60))
    await fill(node.broker, "c", 1, StreamOptions(size=10, ttl=2))
    await pass_time(3)
    assert await kept(node.broker, "c") == []
    await fill(node.broker, "d", 1, StreamOptions(size=10, ttl=2))
    await fill(node.broker, "d", 1, StreamOptions(size=10, ttl=60))
    await pass_time(3)
    assert await kept(node.broker, "d") == [1, 2]


async def test_b2_head_outlives_the_publications(broker_factory: BrokerFactory, pass_time: TimePasses) -> None:
    one, two = await broker_factory(2)
    await fill(one.broker, "c", 5, StreamOptions(size=3, ttl=2))
    head = (await one.broker.heads(["c"]))["c"]
    await pass_time(3)
    for reverse in (False, True):
        publications, after = await two.broker.read("c", 0, 10, reverse=reverse)
        assert list(publications) == []
        assert after == head
    await pass_time(86400)
    assert (await two.broker.heads(["c"]))["c"] == head


async def test_b2_publications_that_expired_stay_away(broker_factory: BrokerFactory, pass_time: TimePasses) -> None:
    (node,) = await broker_factory(1)
    await fill(node.broker, "c", 5, StreamOptions(size=3, ttl=2))
    await pass_time(3)
    await fill(node.broker, "c", 2, StreamOptions(size=100, ttl=60))
    assert await kept(node.broker, "c") == [6, 7]


async def test_b2_streams_of_one_backend_are_kept_apart(broker_factory: BrokerFactory, pass_time: TimePasses) -> None:
    """Whatever accounts for all of them together: what one trims, clears or expires is not another's."""
    one, two = await broker_factory(2)
    for number in range(30):
        await one.broker.publish("a", Publication(b"x" * 100 * number), StreamOptions(size=3, ttl=2))
        await two.broker.publish("b", Publication(b"y" * number), StreamOptions(size=10, ttl=60))
    assert await kept(two.broker, "a") == [28, 29, 30]
    await pass_time(3)
    assert await kept(one.broker, "a") == []
    page = await one.broker.read("b", 0, 100)
    assert [len(publication.data) for publication in page.publications] == list(range(20, 30))


# --- B3


@pytest.mark.parametrize("options", [LIVE, KEPT], ids=["live", "kept"])
async def test_b3_repeated_key_publishes_nothing(
    broker_factory: BrokerFactory, settle: Settle, options: StreamOptions
) -> None:
    one, two = await broker_factory(2)
    await two.broker.subscribe("c")
    once = StreamOptions(size=options.size, ttl=options.ttl, idempotency_key="k")
    first = await one.broker.publish("c", Publication(b"first"), once)
    assert first.duplicate is False
    await one.broker.publish("c", Publication(b"between"), options)
    for node in (one, two):
        again = await node.broker.publish("c", Publication(b"again"), once)
        assert again.duplicate is True
        assert again.position == first.position
    await settle()
    assert two.heard.data("c") == [b"first", b"between"]
    if options is KEPT:
        assert await kept(one.broker, "c") == [1, 2]
    else:
        assert first.position is None


async def test_b3_keys_belong_to_their_channel(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    options = StreamOptions(size=10, ttl=60, idempotency_key="k")
    for channel in ("a", "b"):
        assert (await node.broker.publish(channel, Publication(b"x"), options)).duplicate is False
    other = StreamOptions(size=10, ttl=60, idempotency_key="l")
    assert (await node.broker.publish("a", Publication(b"x"), other)).duplicate is False


async def test_b3_race_of_one_key_has_one_winner(broker_factory: BrokerFactory, settle: Settle) -> None:
    nodes = await broker_factory(3)
    await nodes[0].broker.subscribe("c")
    options = StreamOptions(size=100, ttl=60, idempotency_key="k")
    done = await asyncio.gather(*(nodes[n % 3].broker.publish("c", Publication(b"%d" % n), options) for n in range(60)))
    await settle()
    assert sorted(published.duplicate for published in done) == [False] + [True] * 59
    assert len({published.position for published in done}) == 1
    assert nodes[0].heard.offsets("c") == [1]


@pytest.mark.parametrize("options", [LIVE, KEPT], ids=["live", "kept"])
async def test_b3_key_lives_five_minutes_from_its_first_use(
    broker_factory: BrokerFactory, pass_time: TimePasses, options: StreamOptions
) -> None:
    (node,) = await broker_factory(1)
    once = StreamOptions(size=options.size, ttl=options.ttl, idempotency_key="k")
    await node.broker.publish("c", Publication(b"x"), once)
    await pass_time(200)
    assert (await node.broker.publish("c", Publication(b"x"), once)).duplicate is True
    await pass_time(98)
    assert (await node.broker.publish("c", Publication(b"x"), once)).duplicate is True
    await pass_time(4)
    assert (await node.broker.publish("c", Publication(b"x"), once)).duplicate is False
    assert (await node.broker.publish("c", Publication(b"x"), once)).duplicate is True


async def test_b3_version_not_higher_is_dropped(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two = await broker_factory(2)
    await two.broker.subscribe("c")

    async def publish(version: int) -> Published:
        options = StreamOptions(size=10, ttl=60, version=version)
        return await one.broker.publish("c", Publication(b"%d" % version), options)

    first = await publish(5)
    assert position(first).offset == 1
    for lower in (5, 4, 1):
        dropped = await publish(lower)
        assert dropped.duplicate is True
        assert dropped.position == first.position
    second = await publish(6)
    assert second.duplicate is False
    assert position(second).offset == 2
    assert (await publish(5)).position == second.position  # the current one
    await settle()
    assert two.heard.data("c") == [b"5", b"6"]
    assert await kept(one.broker, "c") == [1, 2]


async def test_b3_no_version_is_no_check(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)
    versioned = StreamOptions(size=10, ttl=60, version=5)
    await node.broker.publish("c", Publication(b"x"), versioned)
    assert (await node.broker.publish("c", Publication(b"y"), KEPT)).duplicate is False
    assert (await node.broker.publish("c", Publication(b"x"), versioned)).duplicate is True


async def test_b3_another_version_epoch_starts_anew(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)

    async def is_dropped(version: int, epoch: str) -> bool:
        options = StreamOptions(size=10, ttl=60, version=version, version_epoch=epoch)
        return (await node.broker.publish("c", Publication(b"x"), options)).duplicate

    assert not await is_dropped(5, "a")
    assert await is_dropped(5, "a")
    assert not await is_dropped(1, "b")
    assert await is_dropped(1, "b")
    assert not await is_dropped(2, "b")


async def test_b3_version_without_an_epoch_is_compared_with_any(broker_factory: BrokerFactory) -> None:
    (node,) = await broker_factory(1)

    async def is_dropped(version: int, epoch: str) -> bool:
        options = StreamOptions(size=10, ttl=60, version=version, version_epoch=epoch)
        return (await node.broker.publish("c", Publication(b"x"), options)).duplicate

    assert not await is_dropped(5, "a")
    assert await is_dropped(4, "")
    assert await is_dropped(5, "")
    assert not await is_dropped(6, "")
    assert await is_dropped(6, "")
    assert not await is_dropped(1, "a")  # the last one had none, which is another


async def test_b3_version_outlives_the_publications(broker_factory: BrokerFactory, pass_time: TimePasses) -> None:
    (node,) = await broker_factory(1)
    options = StreamOptions(size=10, ttl=2, version=5)
    await node.broker.publish("c", Publication(b"x"), options)
    await pass_time(3)
    assert (await node.broker.publish("c", Publication(b"x"), options)).duplicate is True


async def test_b3_race_of_versions_announces_them_rising(broker_factory: BrokerFactory, settle: Settle) -> None:
    nodes = await broker_factory(3)
    await nodes[0].broker.subscribe("c")
    versions = [(number * 37) % 101 for number in range(1, 101)]  # 1 to 100, shuffled
    done = await asyncio.gather(
        *(
            nodes[version % 3].broker.publish(
                "c", Publication(b"%d" % version), StreamOptions(size=100, ttl=60, version=version)
            )
            for version in versions
        )
    )
    await settle()
    announced = [int(data) for data in nodes[0].heard.data("c")]
    assert announced == sorted(announced)
    assert announced[-1] == 100
    assert sum(not published.duplicate for published in done) == len(announced)
    assert nodes[0].heard.offsets("c") == list(range(1, len(announced) + 1))


# --- B4


@pytest.mark.parametrize("options", [LIVE, KEPT], ids=["live", "kept"])
async def test_b4_only_subscribed_nodes_hear(
    broker_factory: BrokerFactory, settle: Settle, options: StreamOptions
) -> None:
    one, two, three = await broker_factory(3)
    await one.broker.publish("c", Publication(b"too early"), options)
    await settle()
    await two.broker.subscribe("c")
    await two.broker.subscribe("d")
    await three.broker.subscribe("d")
    await one.broker.publish("c", Publication(b"1"), options)
    await one.broker.publish("d", Publication(b"2"), options)
    await settle()
    assert one.heard.announced == {}
    assert two.heard.data("c") == [b"1"]
    assert two.heard.data("d") == [b"2"]
    assert three.heard.data("c") == []
    assert three.heard.data("d") == [b"2"]


async def test_b4_nothing_is_heard_after_unsubscribe(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two = await broker_factory(2)
    for channel in ("c", "d"):
        await two.broker.subscribe(channel)
    await two.broker.unsubscribe("c")
    await settle()
    await fill(one.broker, "c", 2)
    await fill(one.broker, "d", 2)
    await settle()
    assert two.heard.offsets("c") == []
    assert two.heard.offsets("d") == [1, 2]


async def test_b4_subscribing_twice_is_hearing_once(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two = await broker_factory(2)
    await two.broker.subscribe("c")
    await two.broker.subscribe("c")
    await fill(one.broker, "c", 1)
    await settle()
    assert two.heard.offsets("c") == [1]
    await two.broker.unsubscribe("c")  # one is enough: calls are not counted
    await settle()
    await fill(one.broker, "c", 1)
    await settle()
    assert two.heard.offsets("c") == [1]


async def test_b4_unsubscribing_what_was_not_subscribed(broker_factory: BrokerFactory, settle: Settle) -> None:
    (node,) = await broker_factory(1)
    await node.broker.unsubscribe("c")
    await node.broker.subscribe("c")
    await node.broker.unsubscribe("c")
    await node.broker.unsubscribe("c")
    await node.broker.subscribe("c")
    await fill(node.broker, "c", 1)
    await settle()
    assert node.heard.offsets("c") == [1]


@pytest.mark.parametrize("calls", ["us", "sus", "usus", "susususususs"])
async def test_b4_quick_leave_and_return_last_call_wins(
    broker_factory: BrokerFactory, settle: Settle, calls: str
) -> None:
    """Calls that overlap, started in this order and none awaited before the next."""
    one, two = await broker_factory(2)
    await asyncio.gather(*(two.broker.subscribe("c") if call == "s" else two.broker.unsubscribe("c") for call in calls))
    await fill(one.broker, "c", 2)
    await settle()
    assert two.heard.offsets("c") == [1, 2]
    await asyncio.gather(two.broker.subscribe("c"), two.broker.unsubscribe("c"))
    await settle()
    await fill(one.broker, "c", 1)
    await settle()
    assert two.heard.offsets("c") == [1, 2]


async def test_b4_publishing_while_subscribing(broker_factory: BrokerFactory, settle: Settle) -> None:
    """What was published after `subscribe` returned is heard, without a hole."""
    one, two = await broker_factory(2)
    confirmed = 0
    published = 0

    async def publish() -> None:
        nonlocal published
        for _ in range(50):
            published = position(await one.broker.publish("c", Publication(b"x"), KEPT)).offset
            await asyncio.sleep(0)

    async def subscribe() -> None:
        nonlocal confirmed
        for _ in range(5):
            await asyncio.sleep(0)
        await two.broker.subscribe("c")
        confirmed = published

    await asyncio.gather(publish(), subscribe())
    await settle()
    offsets = two.heard.offsets("c")
    assert offsets == list(range(offsets[0], 51))
    assert offsets[0] <= confirmed + 2  # one may have had its offset before, and its reply after the confirmation


async def test_b4_subscribe_then_read_misses_nothing(broker_factory: BrokerFactory, settle: Settle) -> None:
    """How a feed starts: confirm, then read the head; what is read and what is heard must overlap or meet."""
    one, two = await broker_factory(2)

    async def publish() -> None:
        for _ in range(50):
            await one.broker.publish("c", Publication(b"x"), KEPT)
            await asyncio.sleep(0)

    publishing = asyncio.create_task(publish())
    for _ in range(7):
        await asyncio.sleep(0)
    await two.broker.subscribe("c")
    head = (await two.broker.heads(["c"]))["c"].offset
    await publishing
    await settle()
    assert two.heard.offsets("c")[0] <= head + 1
    assert two.heard.offsets("c")[-1] == 50


async def test_b4_stopped_broker_hears_nothing_and_others_go_on(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two, three = await broker_factory(3)
    for node in (two, three):
        await node.broker.subscribe("c")
    await fill(one.broker, "c", 1)
    await settle()
    await two.broker.stop()
    await two.broker.stop()  # idempotent
    await fill(one.broker, "c", 1)
    await settle()
    assert two.heard.offsets("c") == [1]
    assert three.heard.offsets("c") == [1, 2]
    assert await kept(three.broker, "c") == [1, 2]


async def test_b4_notices_go_to_whoever_subscribed_and_are_not_kept(
    broker_factory: BrokerFactory, settle: Settle
) -> None:
    one, two, three = await broker_factory(3)
    for node in (one, two):
        await node.broker.subscribe("c")
    join = Notice("join", ClientInfo("ann", "c1", b'{"name":"Ann"}', b"{}"))
    leave = Notice("leave", ClientInfo("ann", "c1"))
    await one.broker.notify("c", join)
    await one.broker.notify("c", leave)
    await settle()
    assert one.heard.notices["c"] == two.heard.notices["c"] == [join, leave]
    assert three.heard.notices == {}
    assert one.heard.announced == {}
    assert (await one.broker.heads(["c"]))["c"].offset == 0


# --- B5


@pytest.mark.parametrize("options", [LIVE, KEPT], ids=["live", "kept"])
async def test_b5_publisher_hears_itself_once(
    broker_factory: BrokerFactory, settle: Settle, options: StreamOptions
) -> None:
    one, two = await broker_factory(2)
    for node in (one, two):
        await node.broker.subscribe("c")
    for _ in range(3):
        await one.broker.publish("c", Publication(b"x"), options)
    await settle()
    assert len(one.heard.announced["c"]) == 3
    assert one.heard.announced == two.heard.announced


# --- B6


async def test_b6_size_0_has_no_offset_and_is_not_kept(broker_factory: BrokerFactory, settle: Settle) -> None:
    one, two = await broker_factory(2)
    await two.broker.subscribe("c")
    before = (await one.broker.heads(["c"]))["c"]
    done = await one.broker.publish("c", Publication(b"x", tags={"a": "b"}), LIVE)
    assert done.position is None
    assert done.duplicate is False
    await settle()
    assert two.heard.announced["c"] == [(Publication(b"x", tags={"a": "b"}), "")]
    assert (await one.broker.read("c", 0, 10)) == ([], before)


async def test_b6_size_0_takes_an_offset_away(broker_factory: BrokerFactory, settle: Settle) -> None:
    (node,) = await broker_factory(1)
    await node.broker.subscribe("c")
    await node.broker.publish("c", Publication(b"x", offset=7), LIVE)
    await node.broker.publish("c", Publication(b"y", offset=7), StreamOptions(idempotency_key="k"))
    await settle()
    assert node.heard.announced["c"] == [(Publication(b"x"), ""), (Publication(b"y"), "")]


async def test_b6_size_0_leaves_a_stream_alone(
    broker_factory: BrokerFactory, settle: Settle, pass_time: TimePasses
) -> None:
    (node,) = await broker_factory(1)
    await node.broker.subscribe("c")
    options = StreamOptions(size=10, ttl=4)
    await fill(node.broker, "c", 2, options)
    await node.broker.publish("c", Publication(b"typing"), LIVE)
    await fill(node.broker, "c", 1, options)
    await settle()
    assert node.heard.offsets("c") == [1, 2, 0, 3]
    assert await kept(node.broker, "c") == [1, 2, 3]
    await pass_time(3)
    await node.broker.publish("c", Publication(b"typing"), LIVE)  # does not prolong
    await pass_time(2)
    assert await kept(node.broker, "c") == []


# --- B9


async def test_b9_what_has_its_offset_from_elsewhere_arrives_with_it_and_is_kept_nowhere(
    broker_factory: BrokerFactory, settle: Settle
) -> None:
    one, two = await broker_factory(2)
    await two.broker.subscribe("c")
    before = (await one.broker.heads(["c"]))["c"]
    publication = Publication(b'{"text":"hi"}', 42, ClientInfo("ann", "c1", b'{"a":1}'), {"a": "b"})
    await one.broker.notify("c", Announcement(publication, "7555e5a8.1"))
    await one.broker.notify("c", Announcement(Publication(b"\x00\xff", 43, None, None, True), "7555e5a8.1"))
    await settle()
    assert two.heard.announced["c"] == [
        (publication, "7555e5a8.1"),
        (Publication(b"\x00\xff", 43, None, None, True), "7555e5a8.1"),
    ]
    assert await one.broker.read("c", 0, 10) == ([], before)
