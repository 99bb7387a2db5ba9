"""What the memory broker does beyond the contract: its ring, its sweep, and listeners that misbehave."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.faults import finish

from hubbub.brokers import exchange
from hubbub.brokers.base import HoldsStreams, Notice, StreamOptions
from hubbub.brokers.memory import Exchange, MemoryBroker, Stream
from hubbub.clock import ManualClock, TimerWheel
from hubbub.errors import BackendError
from hubbub.model import ClientInfo, Position, Publication, Published

KEPT = StreamOptions(size=100, ttl=60)


class CountingClock(ManualClock):
    """Counts how often it is asked."""

    asked = 0

    def now(self) -> float:
        self.asked += 1
        return super().now()


class Listener:
    """Writes down what it hears, then does what the test says."""

    def __init__(self, then: Any = lambda: None) -> None:
        self.heard: list[Publication | Notice] = []
        self.then = then

    def on_publication(self, channel: str, publication: Publication, epoch: str) -> None:
        self.heard.append(publication)
        self.then()

    def on_notice(self, channel: str, notice: Notice) -> None:
        self.heard.append(notice)
        self.then()

    def on_cut(self) -> None:
        pass

    def on_renewed(self, channels: Iterable[str]) -> None:
        raise AssertionError("the ties of a broker in this process are never cut")


class House:
    """Brokers on one exchange, and time."""

    def __init__(self, **limits: Any) -> None:
        self.clock = CountingClock()
        self.timers = TimerWheel(self.clock)
        self.exchange = Exchange(**limits)

    def broker(self, listener: Listener | None = None) -> MemoryBroker:
        broker = MemoryBroker(self.timers, self.exchange)
        finish(broker.start(listener or Listener()))
        return broker

    def pass_time(self, seconds: float) -> None:
        """Time passes, and the wheel turns."""
        self.clock.move(seconds)
        self.timers.advance()


def publish(broker: MemoryBroker, channel: str = "c", options: StreamOptions = KEPT, data: bytes = b"") -> Published:
    return finish(broker.publish(channel, Publication(data), options))


def offsets(publications: Sequence[Publication] | None) -> list[int] | None:
    return None if publications is None else [publication.offset for publication in publications]


def heads(broker: MemoryBroker, *channels: str) -> list[Position]:
    return list(finish(broker.heads(channels)).values())


def filled(count: int, size: int = 100) -> Stream:
    stream = Stream("epoch", 0.0)
    for _ in range(count):
        stream.append(Publication(b""), size, 0.0, 60.0)
    return stream


# --- the stream as a ring


@pytest.mark.parametrize(
    ("after", "upto", "expected"),
    [
        (0, 10, None),
        (6, 10, None),
        (7, 10, [8, 9, 10]),
        (7, 9, [8, 9]),
        (9, 10, [10]),
        (10, 10, []),
        (3, 3, []),
        (9, 8, []),
        (10, 11, None),
        (7, 11, None),
        (50, 60, None),
    ],
)
def test_range_is_complete_or_none(after: int, upto: int, expected: list[int] | None) -> None:
    assert offsets(filled(10, size=3).range(after, upto)) == expected


def test_range_of_an_expired_stream_is_none() -> None:
    stream = filled(3)
    stream.clear()
    assert stream.range(0, 3) is None
    assert offsets(stream.range(3, 3)) == []


def test_retired_stream_knows_nothing_whatever_is_asked() -> None:
    stream = filled(3)
    stream.retire()
    stream.clear()  # the sweep may still come by
    assert [stream.range(after, upto) for after, upto in [(0, 3), (2, 3), (3, 3), (3, 4)]] == [None] * 4


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=120), st.data())
def test_stream_is_like_a_list_that_is_cut(steps: list[tuple[int, bool]], data: st.DataObject) -> None:
    stream = Stream("epoch", 0.0)
    model: list[int] = []
    top = 0
    for size, is_expired in steps:
        if is_expired:
            model = []
            stream.expires = 0.0
        top += 1
        stream.append(Publication(b""), size, 1.0, 60.0)
        model = [*model, top][-size:]
        assert len(stream.items) <= max(size + size // 8, len(model))  # an eighth more than was asked for
    after = data.draw(st.integers(0, top + 2))
    upto = data.draw(st.integers(after, top + 2))
    limit = data.draw(st.integers(-1, top + 2))
    assert offsets(stream.page(after, limit, 1 << 20)) == [n for n in model if n > after][: max(limit, 0)]
    below = [n for n in reversed(model) if n < after or not after]
    assert offsets(stream.page_back(after, limit, 1 << 20)) == below[: max(limit, 0)]
    wanted = list(range(after + 1, upto + 1))
    assert offsets(stream.range(after, upto)) == (wanted if set(wanted) <= set(model) else None)


def test_trimming_is_done_an_eighth_at_a_time_and_does_not_show() -> None:
    stream = filled(16, size=16)
    for top in (17, 18):
        stream.append(Publication(b""), 16, 0.0, 60.0)
        assert len(stream.items) == top
        assert offsets(stream.page(0, 100, 1 << 20)) == list(range(top - 15, top + 1))
    stream.append(Publication(b""), 16, 0.0, 60.0)
    assert len(stream.items) == 16


@pytest.mark.parametrize(("max_bytes", "count"), [(0, 1), (1, 1), (2500, 2), (1 << 20, 4)])
def test_pages_end_at_max_bytes(max_bytes: int, count: int) -> None:
    stream = Stream("epoch", 0.0)
    for _ in range(4):
        stream.append(Publication(b"x" * 1000), 10, 0.0, 60.0)
    assert offsets(stream.page(0, 10, max_bytes)) == [1, 2, 3, 4][:count]
    assert offsets(stream.page_back(0, 10, max_bytes)) == [4, 3, 2, 1][:count]


def test_version_is_compared_under_its_epoch_and_without_one_in_any_case() -> None:
    stream = Stream("epoch", 0.0)
    asked = [(2, ""), (2, ""), (1, ""), (1, "a"), (1, "a"), (2, "a"), (2, ""), (3, ""), (3, ""), (1, "a"), (1, "b")]
    assert "".join("-+"[stream.is_news(*version)] for version in asked) == "+--+-+-+-++"


def test_epochs_do_not_follow_a_seed() -> None:
    epochs = set()
    for _ in range(20):
        random.seed(1)
        epochs.add(House().broker().stored("c").epoch)
    assert len(epochs) == 20
    assert all(len(epoch) == 8 and epoch.isascii() and epoch.isalpha() for epoch in epochs)


# --- the hot path


def test_publish_never_waits_and_asks_the_clock_once() -> None:
    house = House()
    broker = house.broker()
    finish(broker.subscribe("c"))
    publish(broker)  # arms the sweep
    for options, readings in [
        (StreamOptions(), 0),
        (KEPT, 1),
        (StreamOptions(size=5, ttl=60, version=7), 1),
        (StreamOptions(size=5, ttl=60, version=7), 1),
    ]:
        house.clock.asked = 0
        publish(broker, options=options)
        assert house.clock.asked == readings


def test_live_publication_is_passed_on_as_it_is() -> None:
    listener = Listener()
    broker = House().broker(listener)
    finish(broker.subscribe("c"))
    publication = Publication(b"x")
    assert finish(broker.publish("c", publication, StreamOptions())) == Published(None, 1)
    assert listener.heard[0] is publication
    finish(broker.publish("c", Publication(b"x", offset=3), StreamOptions()))
    assert listener.heard[1] == publication


def test_nodes_are_counted() -> None:
    house = House()
    brokers = [house.broker() for _ in range(3)]
    for broker in brokers[1:]:
        finish(broker.subscribe("c"))
    assert publish(brokers[0]).nodes == 2
    assert publish(brokers[0], options=StreamOptions()).nodes == 2
    assert publish(brokers[0], "nobody").nodes == 0
    once = StreamOptions(idempotency_key="k")
    assert [publish(brokers[0], options=once).nodes for _ in range(2)] == [2, 0]


def test_ttl_0_gives_an_offset_and_keeps_nothing() -> None:
    house = House()
    broker = house.broker()
    published = publish(broker, options=StreamOptions(size=10))
    page = finish(broker.read("c", 0, 10))
    assert (list(page.publications), page.head) == ([], published.position)
    house.pass_time(2)
    assert finish(broker.heads(["c"]))["c"] == published.position


# --- listeners


@pytest.mark.parametrize("options", [StreamOptions(), KEPT], ids=["live", "kept"])
def test_listener_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture, options: StreamOptions) -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    house = House()
    listeners = [Listener(), Listener(fail), Listener()]
    for broker in (brokers := [house.broker(listener) for listener in listeners]):
        finish(broker.subscribe("c"))
    publish(brokers[0], options=options)
    finish(brokers[0].notify("c", Notice("join", ClientInfo("ann", "c1"))))
    assert [len(listener.heard) for listener in listeners] == [2, 2, 2]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all("'c'" in record.getMessage() for record in errors)


def test_leaving_and_coming_while_it_is_announced() -> None:
    house = House()
    late = Listener()
    brokers: list[MemoryBroker] = []

    def change() -> None:
        finish(brokers[0].unsubscribe("c"))
        finish(brokers[2].subscribe("c"))

    brokers += [house.broker(Listener(change)), house.broker(second := Listener()), house.broker(late)]
    for broker in brokers[:2]:
        finish(broker.subscribe("c"))
    publish(brokers[1])
    assert (len(second.heard), len(late.heard)) == (1, 0)
    publish(brokers[1])
    assert (len(second.heard), len(late.heard)) == (2, 1)


def test_subscribing_needs_a_running_broker() -> None:
    broker = MemoryBroker(House().timers)
    with pytest.raises(BackendError):
        finish(broker.subscribe("c"))
    finish(broker.unsubscribe("c"))
    finish(broker.stop())
    finish(broker.start(Listener()))
    for _ in range(2):
        finish(broker.subscribe("c"))
    assert publish(broker).nodes == 1


def test_it_holds_its_streams() -> None:
    broker = House().broker()
    assert isinstance(broker, HoldsStreams)
    stream = broker.stored("c")
    publish(broker, data=b"x")
    assert stream.range(0, 1) == [Publication(b"x", 1)]
    assert broker.stored("c") is stream


# --- expiry


def test_idle_process_frees_publications() -> None:
    house = House()
    broker = house.broker()
    streams = [broker.stored(f"c{number}") for number in range(50)]
    for number in range(50):
        publish(broker, f"c{number}", StreamOptions(size=10, ttl=1 + number % 7))
    house.pass_time(0.5)
    publish(broker, "c0", StreamOptions(size=10, ttl=20))  # prolonged: not freed when its first time has come
    house.pass_time(9)
    assert [len(stream.items) for stream in streams] == [2] + [0] * 49
    house.pass_time(13)
    assert not streams[0].items
    assert len(house.exchange) == 50


def test_what_expired_is_read_by_nobody_before_it_is_swept() -> None:
    house = House()
    broker = house.broker()
    publish(broker, options=StreamOptions(size=10, ttl=5))
    house.clock.move(5)  # the wheel stands still
    assert list(finish(broker.read("c", 0, 10)).publications) == []
    publish(broker)
    assert offsets(finish(broker.read("c", 0, 10)).publications) == [2]


def test_much_that_expires_at_once_is_freed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_SLICE", 10)
    house = House()
    broker = house.broker()
    streams = [broker.stored(f"c{number}") for number in range(20)]
    for number in range(20):
        publish(broker, f"c{number}", StreamOptions(size=5, ttl=5, idempotency_key="k"))
    house.pass_time(7)
    assert sum(bool(stream.items) for stream in streams) == 15
    for _ in range(3):
        house.pass_time(0.05)
    assert not any(stream.items for stream in streams)
    house.pass_time(300)
    for _ in range(3):
        house.pass_time(0.05)
    house.clock.asked = 0
    assert len(house.timers) == 1  # only the heads are left to expire
    house.pass_time(exchange.META_TTL)
    for _ in range(3):
        house.pass_time(0.05)
    assert (len(house.exchange), len(house.timers)) == (0, 0)


def test_heads_expire_unless_used() -> None:
    house = House(meta_ttl=100)
    broker = house.broker()
    for channel in ("read", "asked", "published", "listened", "idle"):
        publish(broker, channel)
    before = heads(broker, "read", "asked", "published", "listened", "idle")
    finish(broker.subscribe("listened"))
    for _ in range(3):
        house.pass_time(60)
        finish(broker.read("read", 0, 0))
        heads(broker, "asked")
        publish(broker, "published")
    assert len(house.exchange) == 4
    after = heads(broker, "read", "asked", "published", "listened", "idle")
    assert [a.epoch == b.epoch for a, b in zip(before, after, strict=True)] == [True] * 4 + [False]


def test_stream_that_was_only_asked_for_is_forgotten_after_a_minute() -> None:
    house = House()
    broker = house.broker()
    finish(broker.subscribe("listened"))
    heads(broker, *(f"invented{number}" for number in range(1000)))
    before = heads(broker, "listened", "asked", "live")
    publish(broker, "published", StreamOptions(size=1, ttl=1))
    publish(broker, "live", StreamOptions())  # leaves a stream alone
    house.pass_time(40)
    heads(broker, "asked")
    house.pass_time(40)
    assert len(house.exchange) == 3
    assert heads(broker, "listened", "asked") == before[:2]
    house.pass_time(61)
    assert list(house.exchange._asked) == ["listened"]
    assert list(house.exchange._streams) == ["published"]
    finish(broker.unsubscribe("listened"))
    house.clock.move(60)  # the wheel stands still
    assert heads(broker, "listened")[0].epoch != before[0].epoch


def test_head_that_expired_is_gone_before_it_is_swept() -> None:
    house = House(meta_ttl=100)
    broker = house.broker()
    finish(broker.subscribe("listened"))
    idle, listened = heads(broker, "idle", "listened")
    stream = broker.stored("idle")
    house.clock.move(100)  # the wheel stands still
    assert heads(broker, "idle")[0].epoch != idle.epoch
    assert heads(broker, "listened") == [listened]
    assert stream.range(0, 0) is None


def test_publications_go_with_a_head_that_expires_before_them() -> None:
    house = House(meta_ttl=10)
    broker = house.broker()
    stream = broker.stored("c")
    publish(broker)
    house.pass_time(11)
    assert (len(house.exchange), stream.items) == (0, [])
    house.pass_time(100)
    assert len(house.timers) == 0


def test_keys_are_freed() -> None:
    house = House()
    broker = house.broker()
    for key in "abc":
        publish(broker, options=StreamOptions(idempotency_key=key))
        house.pass_time(100)
    assert len(house.timers) == 1
    house.pass_time(300)
    assert len(house.timers) == 0


def test_sweep_moves_to_another_broker_when_its_own_stops() -> None:
    house = House()
    house.broker()
    one = house.broker()
    other_timers = TimerWheel(house.clock)
    two = MemoryBroker(other_timers, house.exchange)
    finish(two.start(Listener()))
    stream = one.stored("c")
    publish(one)
    for broker in (one, two):
        finish(broker.subscribe("c"))
    finish(one.stop())
    assert publish(two).nodes == 1
    house.pass_time(120)
    assert not stream.items


def test_nothing_waits_once_all_brokers_stopped() -> None:
    house = House()
    finish(house.broker().stop())
    one = house.broker()
    publish(one)
    finish(one.stop())
    assert len(house.timers) == 0
    other_timers = TimerWheel(house.clock)
    two = MemoryBroker(other_timers, house.exchange)
    finish(two.start(Listener()))
    house.clock.move(120)
    other_timers.advance()
    assert not two.stored("c").items
