"""Who is let in, and how everybody is seen out. By the node's own clock, which stands still."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import pytest
from tests.fakes import Client, House

from hubbub.channels import ChannelRules
from hubbub.core.node import Limits
from hubbub.core.reader import ChannelReader
from hubbub.model import Position

ANYONE: dict[str, Any] = {"subscribe": "anyone", "publish": "anyone"}
RULES = {"news": ChannelRules(delivery="recent", **ANYONE), "live": ChannelRules(**ANYONE)}


def subscribed(house: House, count: int, *channels: str, node: int = 0) -> list[Client]:
    clients = [house.client(node) for _ in range(count)]
    for client in clients:
        for channel in channels:
            house.call(lambda client=client, channel=channel: client.subscribe(channel))  # type: ignore[misc]
    return clients


def test_a_full_house_says_so_once_and_takes_clients_again_when_others_leave(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with House(RULES, limits=Limits(max_connections=2)) as house, caplog.at_level(logging.WARNING, "hubbub"):
        node = house.node
        assert node.refusal() == ""
        unborn = house.client(connect=False)
        client = house.client()
        assert node.refusal() == node.refusal() == "too many connections"
        assert len(caplog.records) == 1
        assert "client.max_connections = 2" in caplog.text
        assert node.is_ready
        house.call(unborn.connection.closed)
        assert node.refusal() == ""
        house.client()
        assert node.refusal()
        assert len(caplog.records) == 2
        assert client.closed_with == 0


def test_they_leave_evenly_those_who_came_first_before_the_others() -> None:
    with House(RULES) as house:
        clients = subscribed(house, 100, "news:1")
        drain = house.begin(house.node.drain(10.0))
        assert not house.node.is_ready
        assert house.node.refusal() == "the server is stopping"
        gone = [0]
        for _ in range(400):
            house.pass_time(0.025)
            gone.append(sum(client.closed_with != 0 for client in clients))
            assert gone[-1] == sum(client.closed_with != 0 for client in clients[: gone[-1]])
        assert all(0 <= after - before <= 2 for before, after in pairwise(gone))
        assert gone[200] in range(48, 53)
        house.pass_time(0.2)
        assert drain.done()
        assert {client.closed_with for client in clients} == {3001}
        assert house.node.is_running


def test_each_has_what_was_published_before_it_left_and_nothing_of_what_came_after() -> None:
    with House(RULES) as house:
        clients = subscribed(house, 20, "news:1", "live:1")
        drain = house.begin(house.node.drain(2.0))
        published = 0
        lengths = []
        while not drain.done():
            house.publish("news:1", b"%d" % published)
            house.publish("live:1", b"%d" % published)
            published += 1
            house.pass_time(0.025)
        for client in clients:
            lengths.append(len(client.data("news:1")))
            assert client.data("news:1") == client.data("live:1") == list(range(lengths[-1]))
        assert lengths == sorted(lengths)
        assert len(set(lengths)) > 15


def test_what_is_broadcast_in_the_same_turn_comes_before_the_goodbye() -> None:
    with House(RULES) as house:
        clients = subscribed(house, 3, "news:1")

        async def publish_and_drain() -> None:
            await house.node.publish("news:1", b"1")
            await house.node.drain()

        house.run(publish_and_drain())
        assert [client.data("news:1") for client in clients] == [[1]] * 3
        assert {client.closed_with for client in clients} == {3001}


def test_without_time_they_leave_at_once() -> None:
    with House(RULES) as house:
        clients = subscribed(house, 5)
        assert house.begin(house.node.drain()).done()
        assert {client.closed_with for client in clients} == {3001}
        assert house.begin(house.node.drain(10.0)).done(), "there is nobody left"


def test_one_client_is_not_worth_the_whole_time() -> None:
    with House(RULES) as house:
        client = house.client()
        drain = house.begin(house.node.drain(600.0))
        house.pass_time(0.2)
        assert client.closed_with == 3001
        assert drain.done()


def test_a_drain_is_cut_short_by_another() -> None:
    with House(RULES) as house:
        clients = subscribed(house, 10)
        drain = house.begin(house.node.drain(600.0))
        house.pass_time(1)
        assert not drain.done()
        house.begin(house.node.drain())
        assert {client.closed_with for client in clients} == {3001}
        house.pass_time(0.2)
        assert drain.done()


def test_who_leaves_alone_counts() -> None:
    with House(RULES) as house:
        clients = subscribed(house, 10)
        drain = house.begin(house.node.drain(10.0))
        for client in clients[:5]:
            house.call(client.connection.closed)
        house.pass_time(4.8)
        assert {client.closed_with for client in clients[5:]} == {0}
        house.pass_time(1.0)
        assert sum(client.closed_with == 3001 for client in clients) == 1
        house.pass_time(10.0, step=0.1)
        assert drain.done()


def test_it_tells_how_far_it_is() -> None:
    with House(RULES) as house:
        subscribed(house, 4)
        told: list[tuple[int, int]] = []
        drain = house.begin(house.node.drain(1.0, lambda left, total: told.append((left, total))))
        house.pass_time(2.0, step=0.05)
        assert drain.done()
        assert {total for _, total in told} == {4}
        left = [left for left, _ in told]
        assert left == sorted(left, reverse=True)
        assert set(left) == {4, 3, 2, 1, 0}


def test_python_listens_until_the_last_client_has_gone() -> None:
    with House(RULES) as house:
        subscribed(house, 2)
        reader = ChannelReader(house.node, "news:1")
        house.run(reader.open(None, 0))
        drain = house.begin(house.node.drain(1.0))
        house.publish("news:1", b"1")
        publication = house.run(reader.next())
        assert publication is not None
        assert publication.data == b"1"
        house.pass_time(2.0, step=0.1)
        assert drain.done()
        assert house.run(reader.next()) is None


def test_a_node_that_starts_again_takes_clients_again() -> None:
    with House(RULES) as house:
        house.run(house.node.stop())
        assert house.node.refusal() == "the server is stopping"
        house.run(house.node.start())
        assert house.node.refusal() == ""
        assert house.node.is_ready


def test_five_hundred_go_to_the_other_node_and_miss_nothing() -> None:
    """Two nodes on one exchange: what a shared broker will be for two processes."""
    crowd = 500
    with House(RULES, nodes=2) as house:
        clients = subscribed(house, crowd, "news:1")
        drain = house.begin(house.node.drain(5.0))
        published = 0
        back: dict[Client, Client] = {}
        goodbyes = []
        while not drain.done():
            house.publish("news:1", b"%d" % published, node=published % 2)
            published += 1
            house.pass_time(0.05)
            left = [client for client in clients if client.closed_with and client not in back]
            goodbyes.append(len(left))
            for client in left:
                back[client] = returned(house, client)
        house.publish("news:1", b"%d" % published, node=1)
        assert len(back) == crowd
        assert max(goodbyes) <= crowd // 50, "a crowd that leaves at once returns at once"
        for before, after in back.items():
            assert [entry.kind for entry in after.log("news:1")][:1] == ["recovered"]
            assert before.data("news:1") + after.data("news:1") == list(range(published + 1))


def returned(house: House, client: Client) -> Client:
    """What an SDK does when it was sent away: elsewhere, from where it was."""
    position: Position = client.positions["news:1"]
    again = house.client(1)
    house.call(lambda: again.subscribe("news:1", position))
    return again
