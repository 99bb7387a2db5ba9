"""The delivery model over unreliable brokers in memory; and rollbacks."""

from __future__ import annotations

from typing import cast

import pytest
from tests.contracts.stores import MemoryStores
from tests.fakes import Entry, House
from tests.faults import UnreliableRemote
from tests.property.delivery_terms import RULES
from tests.property.delivery_unreliable import UnreliableDelivery

from hubbub.model import Publication


def made(nodes: int = 1, stores: MemoryStores | None = None) -> House:
    store = (stores or MemoryStores()).store
    return House(RULES, nodes=nodes, wrap=lambda broker: UnreliableRemote(broker, is_direct=True), store=store)


def test_a_rollback_is_told_once() -> None:
    with made() as house:
        broker = cast("UnreliableRemote", house.brokers[0])
        client = house.client()
        house.call(lambda: client.subscribe("news:1"))
        house.publish("news:1", *[b"1"] * 10)
        broker.mischief.rewind("news:1", 5)
        house.call(broker.renew)
        house.call(broker.renew)
        assert client.log("news:1")[-1] == Entry("unsubscribed", code=2500)
        house.call(lambda: client.subscribe("news:1", client.positions["news:1"]))
        house.publish("news:1", b"2")
        house.pass_time(100, step=10)
        assert [entry.kind for entry in client.log("news:1")[-2:]] == ["unrecovered", "pub"]


def test_who_was_away_during_a_rollback_is_told() -> None:
    with made() as house:
        broker = cast("UnreliableRemote", house.brokers[0])
        client = house.client()
        house.call(lambda: client.subscribe("news:1"))
        house.publish("news:1", *[b"1"] * 10)
        house.call(client.connection.closed)
        broker.mischief.rewind("news:1", 5)
        house.call(broker.renew)
        house.publish("news:1", *[b"2"] * 7)
        again = house.client()
        house.call(lambda: again.subscribe("news:1", client.positions["news:1"]))
        assert again.log("news:1")[0].kind == "unrecovered"


def test_who_returns_to_a_node_that_is_late_has_lost_nothing() -> None:
    """Though that node itself has: what it missed is not kept any more."""
    with made(2) as house:
        late = cast("UnreliableRemote", house.brokers[0])
        stays, moves = house.client(0), house.client(1)
        house.call(lambda: stays.subscribe("tiny:1"))
        house.call(lambda: moves.subscribe("tiny:1"))
        house.publish("tiny:1", b"0", node=1)
        late.is_direct = False
        house.publish("tiny:1", *[b"1"] * 6, node=1)  # four are kept
        again = house.client(0)
        house.call(lambda: again.subscribe("tiny:1", moves.positions["tiny:1"]))
        assert [entry.kind for entry in again.log("tiny:1")] == ["recovered"]
        assert stays.log("tiny:1")[-1] == Entry("unsubscribed", code=2500)
        late.drop_all()


def test_a_broker_that_does_not_answer_holds_up_no_durable_channel() -> None:
    with made(2) as house:
        broker = cast("UnreliableRemote", house.brokers[0])
        client = house.client()
        house.call(lambda: client.subscribe("news:1"))
        house.call(lambda: client.subscribe("log:1"))
        broker.hold("heads")
        house.call(broker.renew)
        house.call(broker.leave)
        house.publish("log:1", b"1", node=1)
        house.pass_time(1.1)
        house.pass_time(0.05)
        assert client.data("log:1") == [1]


def test_a_forged_announcement_silences_no_durable_channel() -> None:
    stores = MemoryStores()
    with made(stores=stores) as house:
        client = house.client()
        house.call(lambda: client.subscribe("log:1"))
        house.publish("log:1", b"1")
        epoch = stores.logs.head("log:1").epoch
        house.call(lambda: house.node.feeds.on_publication("log:1", Publication(b"9", 1), epoch))
        house.publish("log:1", b"2")
        assert client.data("log:1") == [1, 2]


TestUnreliableDelivery = pytest.mark.timeout(900)(UnreliableDelivery.TestCase)
