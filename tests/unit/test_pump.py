"""Subscriptions that are behind: fed in pages, as fast as they are taken, until they are live; or told of the loss."""

from __future__ import annotations

from functools import partial
from typing import cast

import pytest
from tests.fakes import Client, House
from tests.faults import UnreliableBroker

from hubbub.channels import ChannelRules
from hubbub.core.feeds import Feeds
from hubbub.core.hub import Subscription
from hubbub.core.node import Limits
from hubbub.core.pump import PAGE_BYTES, PAGE_ITEMS, page_of
from hubbub.core.ring import Ring
from hubbub.model import Position, Publication

RULES = {
    "news": ChannelRules(delivery="recent", subscribe="anyone", history_size=1000),
    "tiny": ChannelRules(delivery="recent", subscribe="anyone", history_size=3),
    "last": ChannelRules(delivery="latest", subscribe="anyone", history_ttl=20),
    "live": ChannelRules(subscribe="anyone"),
}
BIG = b'"%s"' % (b"x" * 100)


def house(*, budget: int = 1000, is_elsewhere: bool = False) -> House:
    """With the memory broker, whose streams a feed reads, or with one that has to be asked."""
    limits = Limits(write_budget=budget)
    if is_elsewhere:
        return House(RULES, limits=limits, wrap=lambda broker: UnreliableBroker(broker, is_direct=True))
    return House(RULES, limits=limits)


def slow_reader(house: House, *channels: str) -> tuple[Client, Subscription]:
    """A client that takes nothing, has 12 publications of its first channel on the way, and is 8 behind."""
    client = house.client()
    for channel in channels:
        house.call(partial(client.subscribe, channel))
    client.transport.kernel = 0
    house.publish(channels[0], *[BIG] * 12)
    subscription = client.connection.subscriptions[channels[0]]
    assert client.connection.is_paused
    house.publish(channels[0], *[BIG] * 8)
    assert subscription.behind == 12
    return client, subscription


def take(house: House, client: Client, room: int | None = None) -> None:
    def change() -> None:
        client.transport.kernel = room

    house.call(change)


def test_a_page_has_a_limit_of_items_and_of_bytes_but_at_least_one() -> None:
    assert len(page_of([Publication(b"x")] * 1000)) == PAGE_ITEMS
    assert len(page_of([Publication(b"x" * (PAGE_BYTES // 2))] * 10)) == 2
    assert len(page_of([Publication(b"x" * (PAGE_BYTES * 2))] * 10)) == 1


def test_who_drains_gets_the_rest_and_is_live_again() -> None:
    with house() as home:
        client, subscription = slow_reader(home, "news:1")
        home.publish("news:1", *[BIG] * 20)
        take(home, client)
        assert client.offsets("news:1") == list(range(1, 41))
        assert subscription.behind is None


def test_a_quarter_must_be_free_before_it_goes_on() -> None:
    with house() as home:
        client, subscription = slow_reader(home, "news:1")
        take(home, client, client.transport.unsent - 250)
        assert subscription.behind == 12
        take(home, client, 1)
        assert subscription.behind != 12


def test_a_slow_reader_costs_its_budget_and_one_page_however_many_channels() -> None:
    with house(budget=100_000) as home:
        names = [f"news:{number}" for number in range(50)]
        client, _ = slow_reader_of_many(home, names)
        client.transport.most_unsent = 0
        take(home, client, client.transport.unsent)
        assert client.transport.most_unsent < 100_000 + 2 * PAGE_BYTES


def slow_reader_of_many(home: House, names: list[str]) -> tuple[Client, None]:
    client = home.client()
    for name in (*names, "live:1"):
        home.call(partial(client.subscribe, name))
    client.transport.kernel = 0
    home.publish("live:1", *[b'"%s"' % (b"x" * 5000)] * 25)
    assert client.connection.is_paused
    for name in names:
        home.publish(name, *[b'"%s"' % (b"x" * 60_000)] * 2)
    return client, None


def test_what_is_ephemeral_or_live_is_skipped_while_behind() -> None:
    with house() as home:
        client, _ = slow_reader(home, "news:1", "live:1")
        home.publish("live:1", b"1")
        home.publish("news:1", b"2", ephemeral=True)
        take(home, client)
        home.publish("live:1", b"3")
        assert client.data("live:1") == [3]
        assert 2 not in client.data("news:1")


def test_latest_gets_the_newest_once() -> None:
    with house() as home:
        client, _ = slow_reader(home, "last:1")
        home.publish("last:1", b"1", b"2", b"3")
        take(home, client)
        assert client.offsets("last:1") == [*range(1, 13), 23]
        assert client.data("last:1")[-1] == 3


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["in memory", "elsewhere"])
def test_latest_whose_newest_expired_meanwhile_is_told(is_elsewhere: bool) -> None:
    with house(is_elsewhere=is_elsewhere) as home:
        client, subscription = slow_reader(home, "last:1")
        home.pass_time(25, step=1)
        if is_elsewhere:
            forget_ring(subscription)
        take(home, client)
        assert client.log("last:1")[-1].code == 2500


def test_who_was_trimmed_meanwhile_is_told_2500() -> None:
    with house() as home:
        client, _ = slow_reader(home, "tiny:1")
        home.publish("tiny:1", *[BIG] * 10)
        take(home, client)
        assert client.log("tiny:1")[-1].kind == "unsubscribed"
        assert client.log("tiny:1")[-1].code == 2500


def test_what_the_ring_lost_is_read_from_the_source() -> None:
    with house(is_elsewhere=True) as home:
        client, subscription = slow_reader(home, "news:1")
        forget_ring(subscription)
        take(home, client)
        assert client.offsets("news:1") == list(range(1, 21))
        assert home.node.feeds.counts["read_back"] == 1


def forget_ring(subscription: Subscription) -> None:
    feed = subscription.channel.feed
    assert feed is not None
    assert isinstance(feed.stored, Ring)
    feed.stored.clear()


def reading(home: House) -> tuple[UnreliableBroker, Client, Subscription]:
    """A slow reader that has drained, while its page is being read."""
    broker = cast("UnreliableBroker", home.brokers[0])
    client, subscription = slow_reader(home, "news:1", "live:1")
    forget_ring(subscription)
    broker.hold("read")
    take(home, client)
    assert len(broker.calls) == 1
    return broker, client, subscription


def test_who_left_while_its_page_was_read_gets_nothing_and_does_not_go_live() -> None:
    with house(is_elsewhere=True) as home:
        broker, client, subscription = reading(home)
        home.call(lambda: client.command("unsubscribe", channel="news:1"))
        home.run(broker.release_all())
        home.settle()
        assert client.log("news:1")[-1].kind == "left"
        assert all(not audience.live for audience in subscription.channel.audiences)


def test_who_is_full_again_when_its_page_comes_waits_with_it() -> None:
    with house(is_elsewhere=True) as home:
        broker, client, subscription = reading(home)
        client.transport.kernel = 0
        home.publish("live:1", *[BIG] * 15)
        full = client.transport.unsent
        home.run(broker.release_all())
        home.settle()
        assert client.transport.unsent == full
        assert subscription.behind is not None
        broker.resume()
        take(home, client)
        home.run(broker.release_all())
        home.settle()
        assert client.offsets("news:1") == list(range(1, 21))


def test_a_source_that_cannot_be_asked_is_asked_again() -> None:
    with house(is_elsewhere=True) as home:
        broker = cast("UnreliableBroker", home.brokers[0])
        client, subscription = slow_reader(home, "news:1")
        forget_ring(subscription)
        broker.refuse("read")
        take(home, client)
        assert subscription.behind is not None
        broker.accept()
        home.pass_time(1.1)
        assert client.offsets("news:1") == list(range(1, 21))


# Returning with a position: the same pages, and the same pump ---------------------------------------------------------


def test_a_long_recovery_goes_on_after_its_first_page() -> None:
    with house(budget=1 << 20) as home:
        home.publish("news:1", *[b"1"] * 900)
        client = home.client()
        home.call(lambda: client.subscribe("news:1", Position("", 0)))
        assert client.log("news:1")[0].kind == "recovered"
        assert client.offsets("news:1") == list(range(1, 901))
        assert len(client.frames) >= 3


def test_a_crowd_that_returns_costs_one_read() -> None:
    with house(is_elsewhere=True, budget=1 << 20) as home:
        broker = cast("UnreliableBroker", home.brokers[0])
        home.publish("news:1", *[b"1"] * 20)
        broker.hold("read")
        clients = [home.client() for _ in range(30)]
        for number, client in enumerate(clients):
            home.call(partial(client.subscribe, "news:1", Position("", number % 20)))
        for _ in range(3):
            home.run(broker.release_all())
            home.settle()
        assert all(client.offsets("news:1")[-1] == 20 for client in clients)
        assert home.node.feeds.counts["read_back"] <= 2


def test_who_is_ahead_of_its_new_node_recovers_all_the_same() -> None:
    with House(RULES, nodes=2, wrap=lambda broker: UnreliableBroker(broker, is_direct=True)) as home:
        first, second = home.client(0), home.client(1)
        for client in (first, second):
            home.call(partial(client.subscribe, "news:1"))
        cast("UnreliableBroker", home.brokers[1]).is_direct = False
        home.publish("news:1", b"1")
        again = home.client(1)
        home.call(lambda: again.subscribe("news:1", first.positions["news:1"]))
        assert again.log("news:1")[0].kind == "recovered"
        assert second.offsets("news:1") == [1]


def test_a_read_back_that_never_ends_is_an_error_in_time() -> None:
    with house(is_elsewhere=True) as home:
        home.publish("news:1", *[b"1"] * 20)
        cast("UnreliableBroker", home.brokers[0]).hold("read")
        clients = [home.client() for _ in range(2)]
        for client, offset in zip(clients, (10, 5), strict=True):
            home.call(partial(client.subscribe, "news:1", Position("", offset)))
        home.pass_time(5, step=0.5)
        assert [client.log("news:1")[0].code for client in clients] == [100, 100]


def test_ephemeral_publications_do_not_hide_a_lost_one() -> None:
    with house(is_elsewhere=True) as home:
        broker = cast("UnreliableBroker", home.brokers[0])
        client = home.client()
        home.call(lambda: client.subscribe("news:1"))
        broker.is_direct = False
        home.publish("news:1", b"1")
        broker.drop_all()
        broker.is_direct = True
        for _ in range(10):
            home.publish("news:1", b"0", ephemeral=True)
            home.pass_time(10)
        assert 1 in client.data("news:1")


def test_a_source_that_refuses_is_not_asked_for_each_announcement() -> None:
    with house(is_elsewhere=True) as home:
        broker = cast("UnreliableBroker", home.brokers[0])
        client = home.client()
        home.call(lambda: client.subscribe("news:1"))
        broker.is_direct = False
        home.publish("news:1", b"1")
        broker.drop_all()
        broker.is_direct = True
        broker.refuse("read")
        home.publish("news:1", *[b"2"] * 50)
        for _ in range(50):
            home.publish("news:1", b"3")
        assert feeds_of(home).counts["read_failed"] == 1
        broker.accept()
        home.pass_time(1.1)
        assert client.offsets("news:1") == list(range(1, 102))


def test_a_source_that_fails_as_it_should_not_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a driver's mistake")

    with house(is_elsewhere=True) as home:
        home.forgives = True  # it is logged as an error
        broker = cast("UnreliableBroker", home.brokers[0])
        client = home.client()
        home.call(lambda: client.subscribe("news:1"))
        broker.is_direct = False
        home.publish("news:1", b"1")
        broker.drop_all()
        broker.is_direct = True
        with monkeypatch.context() as patch:
            patch.setattr(broker, "read", fail)
            home.publish("news:1", b"2")
            home.pass_time(0.5)
            assert feeds_of(home).counts["read_failed"] == 1
        home.pass_time(1.1)
        assert client.offsets("news:1") == [1, 2]


def feeds_of(home: House) -> Feeds:
    return home.node.feeds
