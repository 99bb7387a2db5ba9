"""What the memory broker forgets for lack of room: streams, publications and idempotency keys. It counts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.faults import finish
from tests.unit.test_memory_stream import House, heads, offsets, publish

from hubbub.brokers.base import StreamOptions
from hubbub.brokers.memory import MemoryBroker
from hubbub.model import ClientInfo, Position, Publication


def test_least_recently_used_stream_is_forgotten_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    house = House(max_streams=3)
    broker = house.broker()
    a, b, c = heads(broker, "a", "b", "c")
    publish(broker, "a")
    finish(broker.read("b", 0, 1))
    heads(broker, "d")  # instead of c
    assert house.exchange.streams_evicted == 1
    assert "streams" in caplog.text
    assert heads(broker, "a", "b") == [Position(a.epoch, 1), b]
    assert heads(broker, "c")[0].epoch != c.epoch
    assert len(house.exchange) == 3


def test_evicted_stream_answers_nothing_to_who_still_holds_it() -> None:
    house = House(max_streams=1)
    broker = house.broker()
    stream = broker.stored("a")
    for ttl in (5, 60):
        publish(broker, "a", StreamOptions(size=10, ttl=ttl))
    heads(broker, "b")
    assert stream.range(0, 2) is None
    house.pass_time(10)  # the sweep finds it retired
    assert stream.range(2, 2) is None
    house.exchange.forget("a")  # what is not there may be forgotten again
    assert len(house.exchange) == 1


def test_stream_that_somebody_listens_to_is_never_evicted() -> None:
    house = House(max_streams=2)
    broker = house.broker()
    channels = [f"c{number}" for number in range(40)]
    for channel in channels:
        finish(broker.subscribe(channel))
    before = heads(broker, *channels)
    for number in range(100):
        heads(broker, f"other{number}")
    assert heads(broker, *channels) == before
    assert len(house.exchange) <= 40 + 40 // 16 + 2
    for channel in channels:
        finish(broker.unsubscribe(channel))
    for number in range(10):
        heads(broker, f"more{number}")
    assert len(house.exchange) == 2


def test_own_exchange_has_the_limits_that_are_given() -> None:
    broker = MemoryBroker(House().timers, max_streams=1, meta_ttl=5, max_bytes=7)
    heads(broker, "a", "b")
    assert (len(broker.exchange), broker.exchange.meta_ttl, broker.exchange.shelf.max_bytes) == (1, 5, 7)
    assert broker.counts()["streams_evicted"] == 1


def test_stream_that_was_only_asked_for_goes_first() -> None:
    house = House(max_streams=3)
    broker = house.broker()
    publish(broker, "old")
    finish(broker.subscribe("listened"))
    old, listened = heads(broker, "old", "listened")
    for number in range(50):
        heads(broker, f"invented{number}")
    assert heads(broker, "old", "listened") == [old, listened]
    assert (len(house.exchange), house.exchange.streams_evicted) == (3, 49)
    publish(broker, "new")  # the last invention makes room
    assert heads(broker, "old", "listened") == [old, listened]
    publish(broker, "newer")  # nothing is left but what was published into
    assert heads(broker, "old", "listened") == [old, listened]
    assert heads(broker, "new")[0].offset == 0


def test_stream_published_into_again_and_again_is_in_use() -> None:
    house = House(max_streams=2)
    broker = house.broker()
    for channel in "abaaa":
        publish(broker, channel)
        house.pass_time(1)
    a, b = heads(broker, "a", "b")
    publish(broker, "a")
    publish(broker, "c")
    assert heads(broker, "a") == [a._replace(offset=5)]
    assert heads(broker, "b")[0].epoch != b.epoch


def test_bytes_are_bounded_and_the_least_recently_published_into_goes_first(caplog: pytest.LogCaptureFixture) -> None:
    house = House(max_bytes=10_000)
    broker = house.broker()
    finish(broker.subscribe("a"))
    for channel in "aabca":
        publish(broker, channel, data=b"x" * 1840)
        house.pass_time(1)
    assert house.exchange.shelf.bytes == 10_000
    finish(broker.read("b", 0, 10))  # to read is not to publish
    before = heads(broker, "a", "b", "c")
    publish(broker, "d", data=b"x")
    assert [len(broker.stored(channel).items) for channel in "abcd"] == [3, 0, 1, 1]
    publish(broker, "d", data=b"x" * 3000)
    assert [len(broker.stored(channel).items) for channel in "abcd"] == [3, 0, 0, 2]
    assert heads(broker, "a", "b", "c") == before  # who returns learns what is missing
    assert broker.stored("b").range(0, 1) is None
    assert broker.stored("b").range(1, 1) == ()
    assert broker.counts() == {
        "streams_evicted": 0,
        "publications_evicted": 2,
        "bytes_evicted": 4000,
        "keys_evicted": 0,
    }
    assert caplog.text.count("bytes of history") == 1
    assert publish(broker, "b").position == Position(before[1].epoch, 2)


def test_stream_just_published_into_is_never_emptied() -> None:
    house = House(max_bytes=1000)
    broker = house.broker()
    for channel in "abab":  # at one instant, which does not tell who was the last
        publish(broker, channel, data=b"x" * 600)
        assert offsets(finish(broker.read(channel, 0, 10)).publications)
        assert len(house.exchange.shelf.kept) == 1
    for _ in range(9):
        publish(broker, "b", data=b"x" * 5000)
    assert len(broker.stored("b").items) == 10  # heavier than allowed, and alone
    publish(broker, "a")
    assert house.exchange.shelf.bytes == Publication(b"").size
    assert house.exchange.shelf.bytes_evicted == broker.counts()["bytes_evicted"] == 3 * 760 + 760 + 9 * 5160


def test_one_publisher_and_many_names_fill_no_memory() -> None:
    house = House(max_bytes=1 << 20)
    broker = house.broker()
    for number in range(8000):
        publish(broker, f"c{number}", data=b"x" * 65_000)
        assert house.exchange.shelf.bytes <= 1 << 20
    assert len(house.exchange.shelf.kept) == (1 << 20) // 65_160
    assert broker.counts()["publications_evicted"] == 8000 - 16
    assert broker.counts()["streams_evicted"] == 0


def weight(house: House) -> int:
    """What is kept, counted one by one."""
    streams = [*house.exchange._streams.values(), *house.exchange._asked.values()]
    assert {stream for stream in streams if stream.items} == set(house.exchange.shelf.kept)
    return sum(publication.size for stream in streams for publication in stream.items)


@given(st.data())
def test_bytes_are_exact_whatever_happens(data: st.DataObject) -> None:
    house = House(max_bytes=6000, max_streams=4, meta_ttl=20)
    broker = house.broker()
    channels = st.sampled_from("abcdef")
    infos = st.sampled_from([None, ClientInfo("ann", "c1", b"{}", b"[1]")])
    shelf = house.exchange.shelf
    for _ in range(data.draw(st.integers(1, 40))):
        channel = data.draw(channels)
        match data.draw(st.sampled_from(["publish"] * 5 + ["read", "forget", "wait", "stall"])):
            case "publish":
                publication = Publication(
                    bytes(data.draw(st.integers(0, 1500))),
                    info=data.draw(infos),
                    tags=data.draw(st.sampled_from([None, {}, {"a": "b"}])),
                )
                options = StreamOptions(data.draw(st.sampled_from([1, 2, 9, 17])), data.draw(st.integers(0, 30)))
                published = finish(broker.publish(channel, publication, options))
                assert published.position is not None
                assert broker.stored(channel).items[-1].offset == published.position.offset
            case "read":
                finish(broker.read(channel, 0, 10))
            case "forget":
                house.exchange.forget(channel)
            case "wait":
                house.pass_time(data.draw(st.sampled_from([0.5, 3, 25])))
            case _:
                house.clock.move(5)  # the wheel stands still
        assert shelf.bytes == weight(house)
        assert shelf.bytes <= 6000 or len(shelf.kept) == 1
    house.pass_time(60)
    house.pass_time(60)
    assert (shelf.bytes, len(shelf.kept), len(house.exchange), len(house.timers)) == (0, 0, 0, 0)


def test_keys_are_bounded_and_the_oldest_goes_first(caplog: pytest.LogCaptureFixture) -> None:
    house = House(max_keys=2)
    broker = house.broker()

    def is_duplicate(key: str) -> bool:
        return publish(broker, options=StreamOptions(idempotency_key=key)).duplicate

    assert [is_duplicate(key) for key in "abbcbca"] == [False, False, True, False, True, True, False]
    assert house.exchange.keys_evicted == 2
    assert caplog.text.count("idempotency keys") == 1


def test_streams_that_come_and_go_leave_nothing_for_the_sweep() -> None:
    house = House(max_streams=10)
    broker = house.broker()
    for number in range(500):
        publish(broker, f"c{number}", StreamOptions(size=1, ttl=86400))
    assert sum(map(len, house.exchange._due.values())) == 10
