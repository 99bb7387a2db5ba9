"""What servers do to clients: into channels, out of them, away, and to another end. In a house without chance."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from tests.fakes import SECRET, Client, House
from tests.faults import UnreliableBroker

from hubbub.auth import connection_token
from hubbub.brokers.memory import MemoryBroker
from hubbub.channels import ChannelRules
from hubbub.core.node import Limits
from hubbub.errors import BadRequest, LimitExceeded, UnknownChannel
from hubbub.model import Position

RULES = {
    "default": ChannelRules(subscribe="anyone"),
    "log": ChannelRules(delivery="recent", history_size=5),
    "seen": ChannelRules(presence=True, join_leave="always", read="anyone", subscribe="anyone"),
    "state": ChannelRules(delivery="latest"),
}


def ann(house: House, **options: Any) -> Client:
    return house.client(token=connection_token(SECRET, "ann"), **options)


def subscribe(house: House, channel: str, user: str = "ann", **options: Any) -> int:
    count = house.run(house.node.control.subscribe(user, channel, **options))
    house.settle()
    return count


def pushed(client: Client, kind: str) -> list[dict[str, Any]]:
    return [push[kind] | {"channel": push.get("channel", "")} for push in client.pushes if kind in push]


def unreliable(broker: MemoryBroker) -> UnreliableBroker:
    return UnreliableBroker(broker, is_direct=True)


# subscribe ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [False, True])
def test_every_connection_of_the_user_and_no_other_hears_the_channel_from_then_on(binary: bool) -> None:
    with House(RULES) as house:
        clients = [ann(house, binary=binary) for _ in range(2)]
        stranger = house.client(token=connection_token(SECRET, "bob"))
        house.publish("log:1", b"1")
        assert subscribe(house, "log:1", data=b'{"why":"you"}') == 2
        house.publish("log:1", b"2")
        for client in clients:
            (push,) = pushed(client, "subscribe")
            assert (push["channel"], push["offset"]) == ("log:1", 1)
            assert push["data"] == ('{"why":"you"}' if binary else {"why": "you"})
            assert push["epoch"]
            assert push["recoverable"] is push["positioned"] is True
            assert client.offsets("log:1") == [2]
        assert stranger.pushes == []


def test_where_nothing_is_kept_there_is_no_position() -> None:
    with House(RULES) as house:
        client = ann(house)
        assert subscribe(house, "news") == 1
        house.publish("news", b"1")
        assert pushed(client, "subscribe") == [{"channel": "news"}]
        assert client.data("news") == [1]


def test_what_was_missed_since_a_position_comes_behind_the_push() -> None:
    with House(RULES) as house:
        client = ann(house)
        house.publish("log:1", b"1", b"2", b"3")
        epoch = house.run(house.node.history("log:1")).head.epoch
        subscribe(house, "log:1", since=Position(epoch, 1))
        house.publish("log:1", b"4")
        assert pushed(client, "subscribe")[0]["offset"] == 1
        assert client.offsets("log:1") == [2, 3, 4]


def test_a_position_that_is_gone_is_the_present() -> None:
    with House(RULES) as house:
        client = ann(house)
        house.publish("log:1", b"1")
        subscribe(house, "log:1", since=Position("of another life", 0))
        house.publish("log:1", b"2")
        assert pushed(client, "subscribe")[0]["offset"] == 1
        assert client.offsets("log:1") == [2]


def test_the_newest_of_a_latest_channel_comes_at_once() -> None:
    with House(RULES) as house:
        client = ann(house)
        house.publish("state:1", b"1", b"2")
        subscribe(house, "state:1")
        assert client.data("state:1") == [2]


def test_to_ask_again_does_nothing() -> None:
    with House(RULES) as house:
        client = ann(house)
        assert [subscribe(house, "log:1") for _ in range(3)] == [1, 0, 0]
        house.call(lambda: client.subscribe("news"))
        assert subscribe(house, "news") == 0  # it is there by itself
        house.publish("log:1", b"1")
        assert client.offsets("log:1") == [1]
        assert len(pushed(client, "subscribe")) == 1


def test_two_orders_at_once_are_one() -> None:
    with House(RULES, wrap=unreliable) as house:
        client, broker = ann(house), house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        broker.hold("subscribe")
        orders = [house.begin(house.node.control.subscribe("ann", "log:1")) for _ in range(2)]
        house.run(broker.release_all())
        house.settle()
        assert [order.result() for order in orders] == [1, 0]
        assert len(pushed(client, "subscribe")) == 1


def test_one_connection_alone() -> None:
    with House(RULES) as house:
        one, two = ann(house), ann(house)
        assert subscribe(house, "log:1", client=one.connection.id) == 1
        assert subscribe(house, "log:1", user="bob", client=two.connection.id) == 0
        assert (len(one.pushes), len(two.pushes)) == (1, 0)


def test_publications_while_it_enters_are_neither_lost_nor_twice() -> None:
    with House(RULES, wrap=unreliable) as house:
        client, broker = ann(house), house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        house.publish("log:1", b"1")
        broker.hold("heads")
        order = house.begin(house.node.control.subscribe("ann", "log:1"))
        house.publish("log:1", b"2", b"3")
        house.run(broker.release_all())
        house.settle()
        assert order.result() == 1
        house.publish("log:1", b"4")
        start = pushed(client, "subscribe")[0]["offset"]
        assert client.offsets("log:1") == list(range(start + 1, 5))


def test_a_client_that_goes_while_it_enters_leaves_nothing_behind() -> None:
    with House(RULES, wrap=unreliable) as house:
        client, broker = ann(house), house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        broker.hold("subscribe")
        order = house.begin(house.node.control.subscribe("ann", "seen:1"))
        house.call(client.connection.closed)
        house.run(broker.release_all())
        house.settle()
        assert order.result() == 0
        assert house.run(house.node.presence("seen:1")) == {}
        house.pass_time(60)
        assert not house.channels


def test_a_kick_while_it_enters_wins() -> None:
    with House(RULES, wrap=unreliable) as house:
        client, broker = ann(house), house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        broker.hold("subscribe")
        order = house.begin(house.node.control.subscribe("ann", "log:1"))
        client.is_subscribed["log:1"] = True  # or the push would be taken for a mistake
        assert house.call(lambda: house.node.control.unsubscribe("ann", "log:1")) == 1
        house.run(broker.release_all())
        house.settle()
        house.publish("log:1", b"1")
        assert order.result() == 0
        assert client.offsets("log:1") == []
        assert pushed(client, "subscribe") == []


def test_a_source_that_cannot_be_asked_is_told_and_the_rest_is_done() -> None:
    with House(RULES, wrap=unreliable) as house:
        client, broker = ann(house), house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        broker.refuse("subscribe")
        with pytest.raises(Exception, match="cannot be asked"):
            subscribe(house, "log:1")
        assert client.connection.subscriptions == {}
        broker.accept()
        assert subscribe(house, "log:1") == 1


def test_presence_and_notices_go_by_the_rules_of_the_channel() -> None:
    with House(RULES) as house:
        watcher = house.client()
        house.call(lambda: watcher.subscribe("seen:1"))
        client = ann(house)
        subscribe(house, "seen:1", info=b'{"seat":7}')
        present = house.run(house.node.presence("seen:1"))
        assert present[client.connection.id].chan_info == b'{"seat":7}'
        joined = [push for push in pushed(watcher, "join") if push["info"].get("user") == "ann"]
        assert [push["info"]["chan_info"] for push in joined] == [{"seat": 7}]
        assert len(pushed(client, "join")) == 1
        house.call(lambda: house.node.control.unsubscribe("ann", "seen:1"))
        assert client.connection.id not in house.run(house.node.presence("seen:1"))
        assert len(pushed(watcher, "leave")) == 1


def test_it_is_server_side_the_client_cannot_leave_and_a_lost_place_closes_it() -> None:
    with House(RULES) as house:
        client = ann(house)
        subscribe(house, "log:1")
        house.publish("log:1", b"1")
        house.call(lambda: client.command("unsubscribe", channel="log:1"))
        house.call(lambda: client.subscribe("log:1"))
        assert client.log("log:1")[-1].code == 105
        house.exchange.forget("log:1")
        house.publish("log:1", b"2")
        assert client.closed_with == 3010


def test_a_slow_client_gets_it_all_when_it_drains() -> None:
    with House(RULES) as house:
        client = ann(house, budget=2000)
        client.transport.kernel = 0
        house.publish("news", b"0")
        house.call(lambda: client.subscribe("news"))
        house.publish("news", b'"' + b"x" * 5000 + b'"')
        assert client.connection.is_paused
        subscribe(house, "log:1")
        house.publish("log:1", b"1", b"2")
        assert pushed(client, "subscribe") == []
        house.call(partial(setattr, client.transport, "kernel", None))
        assert client.offsets("log:1") == [1, 2]


def test_one_that_has_no_connect_reply_is_left_out() -> None:
    with House(RULES, wrap=unreliable) as house:
        broker = house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        broker.hold("subscribe")
        client = house.client(token=connection_token(SECRET, "ann", channels=["news"]))
        assert subscribe(house, "log:1") == 0
        house.run(broker.release_all())
        house.settle()
        assert client.is_subscribed == {"news": True}
        assert client.pushes == []


def test_a_connection_has_only_so_many_channels() -> None:
    with House(RULES, limits=Limits(max_channels=2)) as house:
        full, other = ann(house), ann(house)
        house.call(lambda: [full.subscribe(channel) for channel in ("a", "b")])
        with pytest.raises(LimitExceeded, match="1 connections of this user have 2 channels"):
            subscribe(house, "log:1")
        assert set(full.connection.subscriptions) == {"a", "b"}
        assert set(other.connection.subscriptions) == {"log:1"}


def test_names_are_checked() -> None:
    with House(RULES) as house:
        ann(house)
        with pytest.raises(UnknownChannel):
            subscribe(house, "nowhere:1")
        with pytest.raises(BadRequest):
            subscribe(house, "")
        assert subscribe(house, "log:1", user="nobody") == 0


# refresh --------------------------------------------------------------------------------------------------------------


def expiring(house: House, seconds: float) -> str:
    return connection_token(SECRET, "ann", expire_at=house.clock.time() + seconds)


def test_a_later_end_keeps_it_and_an_earlier_one_ends_it() -> None:
    with House(RULES, limits=Limits(expired_grace=5)) as house:
        kept, ended = house.client(token=expiring(house, 30)), ann(house)
        control = house.node.control
        end = house.clock.time() + 300
        assert house.call(lambda: control.refresh("ann", kept.connection.id, expire_at=end)) == 1
        assert house.call(lambda: control.refresh("ann", ended.connection.id, expire_at=house.clock.time() + 10)) == 1
        assert pushed(kept, "refresh") == [{"expires": True, "ttl": 300, "channel": ""}]
        assert pushed(ended, "refresh") == [{"expires": True, "ttl": 10, "channel": ""}]
        house.pass_time(14, step=1)
        assert (kept.closed_with, ended.closed_with) == (0, 0)
        house.pass_time(2, step=1)
        assert (kept.closed_with, ended.closed_with) == (0, 3005)
        house.pass_time(280, step=5)
        assert kept.closed_with == 0
        house.pass_time(20, step=5)
        assert kept.closed_with == 3005


def test_without_an_end_it_lives_for_ever() -> None:
    with House(RULES) as house:
        client = house.client(token=expiring(house, 30))
        assert house.call(lambda: house.node.control.refresh("ann")) == 1
        assert pushed(client, "refresh") == [{"channel": ""}]
        house.pass_time(200, step=5)
        assert client.closed_with == 0


@pytest.mark.parametrize("options", [{"expired": True}, {"expire_at": 1.0}, {"expired": True, "expire_at": 1e12}])
def test_what_has_expired_is_closed_at_once(options: dict[str, Any]) -> None:
    with House(RULES) as house:
        clients, other = [ann(house), ann(house)], house.client()
        assert house.call(lambda: house.node.control.refresh("ann", **options)) == 2
        assert [client.closed_with for client in clients] == [3005, 3005]
        assert other.closed_with == 0
        assert house.node.control.refresh("ann", **options) == 0


def test_what_others_see_changes_with_the_next_publication() -> None:
    rules = {"default": ChannelRules(subscribe="anyone", publish="anyone")}
    with House(rules) as house:
        client, reader = ann(house), house.client()
        house.call(lambda: reader.subscribe("news"))
        house.call(lambda: client.command("publish", channel="news", data=1))
        house.call(lambda: house.node.control.refresh("ann", info=b'{"name":"Ann"}'))
        house.call(lambda: client.command("publish", channel="news", data=2))
        infos = [push["pub"]["info"].get("conn_info") for push in reader.pushes]
        assert infos == [None, {"name": "Ann"}]


# removing history -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda broker: broker, unreliable], ids=["local", "elsewhere"])
def test_who_returns_after_a_removal_is_told_that_it_cannot_recover(wrap: Any) -> None:
    with House(RULES | {"log": ChannelRules(delivery="recent", subscribe="anyone")}, wrap=wrap) as house:
        live, gone, current = house.client(), house.client(), house.client()
        house.call(lambda: live.subscribe("log:1"))
        house.publish("log:1", b"1", b"2", b"3")
        epoch = live.positions["log:1"].epoch
        house.run(house.node.remove_history("log:1"))
        house.call(lambda: gone.subscribe("log:1", Position(epoch, 1)))
        house.call(lambda: current.subscribe("log:1", Position(epoch, 3)))
        house.publish("log:1", b"4")
        assert gone.log("log:1")[0].kind == "unrecovered"
        assert current.log("log:1")[0].kind == "recovered"
        assert [client.offsets("log:1") for client in (live, gone, current)] == [[1, 2, 3, 4], [4], [4]]
        page = house.run(house.node.history("log:1", -1))
        assert [item.offset for item in page.publications] == [4]


def test_an_order_that_is_given_up_leaves_nothing_behind() -> None:
    with House(RULES, wrap=unreliable) as house:
        client, broker = ann(house), house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        broker.hold("subscribe")
        order = house.begin(house.node.control.subscribe("ann", "log:1"))
        house.call(order.cancel)
        house.run(broker.release_all())
        house.settle()
        with pytest.raises(asyncio.CancelledError):
            order.result()
        assert client.connection.subscriptions == {}
        assert subscribe(house, "log:1") == 1
