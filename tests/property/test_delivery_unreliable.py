"""The delivery model over unreliable brokers in memory; and rollbacks."""

from __future__ import annotations

from typing import cast

import pytest
from tests.fakes import Entry, House
from tests.faults import UnreliableBroker
from tests.property.delivery_machine import RULES
from tests.property.delivery_unreliable import UnreliableDelivery


def test_a_rollback_is_told_once() -> None:
    with House(RULES, wrap=lambda broker: UnreliableBroker(broker, is_direct=True)) as house:
        broker = cast("UnreliableBroker", house.brokers[0])
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
    with House(RULES, wrap=lambda broker: UnreliableBroker(broker, is_direct=True)) as house:
        broker = cast("UnreliableBroker", house.brokers[0])
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
    with House(RULES, nodes=2, wrap=lambda broker: UnreliableBroker(broker, is_direct=True)) as house:
        late = cast("UnreliableBroker", house.brokers[0])
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


TestUnreliableDelivery = pytest.mark.timeout(900)(UnreliableDelivery.TestCase)
