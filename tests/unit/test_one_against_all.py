"""What one connection does must not hurt the others: not stop them, not make them wait, not leave anything behind."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from tests.fakes import Client, FakeTransport, House

from hubbub.channels import ChannelRules
from hubbub.core import lanes
from hubbub.core.connection import Connection
from hubbub.core.node import Limits
from hubbub.model import Position
from hubbub.protocol.codec import JsonCodec

RULES = {
    "room": ChannelRules(
        delivery="recent", subscribe="anyone", publish="anyone", read="anyone", presence=True, join_leave="always"
    ),
    "live": ChannelRules(subscribe="anyone", publish="anyone"),
}


def lines(*commands: dict[str, Any]) -> bytes:
    """Commands in one message."""
    return "\n".join(json.dumps(command) for command in commands).encode()


def subscribed(house: House, channel: str) -> Client:
    client = house.client()
    house.call(partial(client.subscribe, channel))
    return client


def test_who_comes_and_goes_in_one_message_stops_nobody() -> None:
    with House(RULES) as house:
        watcher = subscribed(house, "room:1")
        passer_by = house.client()
        come_and_go = lines(
            {"id": 2, "subscribe": {"channel": "room:1"}}, {"id": 3, "unsubscribe": {"channel": "room:1"}}
        )
        house.call(partial(passer_by.send, come_and_go))
        house.publish("room:1", b"1")
        assert watcher.data("room:1") == [1]


def test_commands_of_one_message_are_not_all_under_way_at_once() -> None:
    with House(RULES, limits=Limits(max_channels=1000)) as house:
        transport = FakeTransport()
        connection = transport.endpoint = Connection(house.node, transport, codec=JsonCodec())
        house.call(partial(connection.receive, lines({"id": 1, "connect": {}})))
        gone = {"recover": True, "epoch": "another", "offset": 1}  # has to be looked up, which is waited for
        crowd = lines(*({"id": 10 + n, "subscribe": {"channel": f"room:{n}", **gone}} for n in range(500)))
        under_way: list[int] = []

        def receive() -> None:
            connection.receive(crowd)
            under_way.append(len(connection._lanes or ()))

        house.call(receive)
        assert 0 < under_way[0] <= lanes.LIMIT
        assert len(connection.subscriptions) == 500, "all are answered in the end"


def test_who_misses_what_cannot_be_encoded_is_told() -> None:
    with House(RULES) as house:
        house.forgives = True  # it is logged
        reader = subscribed(house, "room:1")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reader.connection.variant, "encode", lambda prepared, publication, epoch: 1 / 0)
            house.publish("room:1", b"1")
        assert reader.closed_with == 3009
        later = subscribed(house, "room:1")
        house.publish("room:1", b"2")
        assert later.data("room:1") == [2]


def test_names_that_nobody_published_in_are_not_kept() -> None:
    with House(RULES) as house:
        client = house.client()
        for n in range(100):
            house.call(partial(client.subscribe, f"live:{n}"))
            house.call(partial(client.command, "unsubscribe", channel=f"live:{n}"))
        house.pass_time(0.1)
        assert not house.channels


def test_a_kick_while_connecting_is_not_missed() -> None:
    with House(RULES) as house:
        client = subscribed(house, "room:1")
        assert house.node.control.unsubscribe("", "room:1") == 1
        house.settle()
        assert client.connection.subscriptions == {}


def test_a_position_of_another_epoch_is_told_so() -> None:
    with House(RULES) as house:
        house.publish("room:1", b"1")
        client = house.client()
        house.call(partial(client.subscribe, "room:1", Position("another", 1)))
        house.publish("room:1", b"2")
        assert client.data("room:1") == [2]
