"""Feeds whose source fails, in whatever way: nobody is deaf for good, and nothing is asked or told in vain."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from functools import partial
from typing import cast

import pytest
from tests.failing_store import FailingStore, store_of
from tests.fakes import Client, House
from tests.faults import UnreliableRemote

from hubbub.channels import ChannelRules
from hubbub.core.hooks import Admitted, Caller, NoHandlers
from hubbub.core.lanes import LIMIT
from hubbub.errors import BackendError
from hubbub.model import Publication

RULES = {
    "log": ChannelRules(delivery="durable", subscribe="anyone", publish="anyone"),
    "old": ChannelRules(delivery="durable", subscribe="anyone", retention=100),
}
AWAY = BackendError("the store is away")


@pytest.fixture
def house() -> Iterator[House]:
    with House(RULES, store=FailingStore) as house:
        yield house


def subscriber(house: House, *channels: str) -> Client:
    client = house.client()
    for channel in channels:
        house.call(partial(client.subscribe, channel))
    return client


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


# an opening that fails ----------------------------------------------------------------------------------------------


class Hesitation:
    """A guard that lets the first who asks wait. Implements Guard."""

    asks = frozenset({"subscribe"})

    def __init__(self) -> None:
        self.decided: asyncio.Future[None] | None = None

    async def subscribe(self, caller: Caller) -> None:
        """The first waits for the test."""
        if self.decided is None:
            self.decided = asyncio.get_running_loop().create_future()
            await self.decided

    async def publish(self, caller: Caller, data: bytes) -> Admitted:
        """As it is."""
        return Admitted(data)

    async def joined(self, caller: Caller) -> None:
        """No matter."""

    async def left(self, caller: Caller) -> None:
        """No matter."""

    def decide(self) -> None:
        """The first may, too."""
        assert self.decided is not None, "somebody waits"
        self.decided.set_result(None)


class Hesitating(NoHandlers):
    """An application that hesitates."""

    def __init__(self) -> None:
        self.hesitation = Hesitation()

    def guard(self, channel: str) -> Hesitation:  # type: ignore[override]  # it has an opinion
        """For every channel."""
        return self.hesitation


@pytest.mark.parametrize("is_slow", [False, True], ids=["at once", "after a while"])
def test_an_opening_that_fails_leaves_nobody_deaf_who_has_a_place_already(is_slow: bool) -> None:
    handlers = Hesitating()
    with House(RULES, store=FailingStore, handlers=handlers) as house:
        store = store_of(house)
        early, refused, late = house.client(), house.client(), house.client()
        house.call(partial(early.subscribe, "log:1"))  # it has a place, and no permission yet
        store.failing["heads"] = AWAY
        store.held = {"heads"} if is_slow else set()
        asked = house.call(partial(refused.subscribe, "log:1"))
        house.call(store.let_go)
        assert refused.error(asked) == 100
        store.failing.clear()
        house.call(handlers.hesitation.decide)
        house.call(partial(late.subscribe, "log:1"))
        house.call(partial(refused.subscribe, "log:1"))
        house.publish("log:1", b"1", b"2")
        for client in (early, late, refused):
            assert client.offsets("log:1") == [1, 2]
            house.call(partial(client.command, "unsubscribe", channel="log:1"))
        house.pass_time(6)
        assert house.channels == []


def test_a_channel_that_could_not_be_opened_is_gone_when_nobody_is_left(house: House) -> None:
    store_of(house).failing["heads"] = AWAY
    client = subscriber(house, "log:1")
    assert [entry.code for entry in client.log("log:1")] == [100]
    assert house.channels == []


# questions that fail ------------------------------------------------------------------------------------------------


def test_heads_that_fail_as_they_should_not_are_asked_again(house: House) -> None:
    clients = [subscriber(house, f"log:{number}") for number in range(3)]
    house.forgives = True
    store = store_of(house)
    store.failing["heads"] = IndexError("no row")
    house.pass_time(3, step=1)
    for number in range(3):
        store.write_unheard(f"log:{number}", b"1")
    store.failing.clear()
    house.pass_time(3, step=1)
    assert [client.offsets(f"log:{number}") for number, client in enumerate(clients)] == [[1]] * 3


def test_whether_the_source_is_the_same_is_asked_again_however_that_fails(house: House) -> None:
    client = subscriber(house, "log:1")
    house.publish("log:1", b"1")
    house.forgives = True
    store = store_of(house)
    store.failing["altered"] = IndexError("no row")
    epoch = client.positions["log:1"].epoch
    house.call(lambda: house.node.feeds.on_publication("log:1", Publication(b"another", 1), epoch))
    house.pass_time(3, step=1)
    store.failing.clear()
    house.pass_time(3, step=1)
    house.publish("log:1", b"2")
    house.pass_time(3, step=1)
    assert client.data("log:1") == [1, 2]


def test_an_outage_is_one_warning_a_minute_however_many_channels(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber(house, *[f"log:{number}" for number in range(50)])
    store = store_of(house)
    with caplog.at_level(logging.INFO, "hubbub.core.feeds"):
        store.failing["heads"] = AWAY
        house.pass_time(50, step=1)
        assert len(warnings(caplog)) == 1
        house.pass_time(60, step=1)
        assert len(warnings(caplog)) == 2
    assert "the store is away" in caplog.text


def test_nothing_is_read_in_an_outage_nor_after_it_where_nothing_is_missing(house: House) -> None:
    client = subscriber(house, *[f"log:{number}" for number in range(50)])
    store = store_of(house)
    store.failing |= {"heads": AWAY, "read": AWAY}
    store.asked.clear()
    house.pass_time(10, step=1)
    assert 5 <= len(store.asked_for("heads")) <= 11, "many channels share a question"
    store.failing.clear()
    store.write_unheard("log:7", b"1")
    house.pass_time(10, step=1)
    assert len(store.asked_for("read")) == 1
    assert client.offsets("log:7") == [1]


def test_a_hole_that_could_not_be_read_is_read_again(house: House) -> None:
    client = subscriber(house, "log:1")
    house.publish("log:1", b"1")
    store = store_of(house)
    store.failing |= {"heads": AWAY, "read": AWAY}
    store.write_unheard("log:1", b"2", b"3")
    epoch = client.positions["log:1"].epoch
    house.call(lambda: house.node.feeds.on_publication("log:1", Publication(b"3", 3), epoch))
    house.pass_time(5, step=0.5)
    assert len(store.asked_for("read")) > 1
    del store.failing["read"]  # and heads go on failing
    house.pass_time(2, step=0.5)
    assert client.offsets("log:1") == [1, 2, 3]


# a broker that could not be asked to tell of a channel --------------------------------------------------------------


@pytest.fixture
def deaf() -> Iterator[tuple[House, UnreliableRemote, Client]]:
    """With a broker that refused to tell of a channel, and now does not answer at all."""
    with House(RULES, store=FailingStore, wrap=lambda broker: UnreliableRemote(broker, is_direct=True)) as house:
        remote = cast("UnreliableRemote", house.brokers[0])
        remote.refuse("subscribe")
        client = subscriber(house, "log:1")
        remote.accept()
        remote.hold("subscribe")
        yield house, remote, client


def test_a_broker_that_does_not_answer_is_asked_once_to_tell_of_a_channel(
    deaf: tuple[House, UnreliableRemote, Client],
) -> None:
    house, remote, client = deaf
    house.pass_time(6, step=1)
    assert [call.channels for call in remote.calls] == [("log:1",)]
    house.run(remote.release_all())
    house.pass_time(3, step=1)
    assert remote.calls == []
    store_of(house).held = {"heads"}  # it is not polled, either
    house.publish("log:1", b"1")
    assert client.offsets("log:1") == [1]


def test_a_broker_that_refuses_once_more_is_asked_again(deaf: tuple[House, UnreliableRemote, Client]) -> None:
    house, remote, _ = deaf
    house.pass_time(1.1)
    house.call(lambda: remote.fail(remote.calls[0]))
    house.pass_time(1.1)
    assert len(remote.calls) == 1
    house.run(remote.release_all())
    house.settle()
    assert "log:1" in remote.channels


@pytest.mark.parametrize("is_back", [False, True], ids=["nobody is back", "somebody is back"])
def test_what_ended_while_the_broker_was_asked_to_tell_of_it_is_told_no_more(
    is_back: bool, deaf: tuple[House, UnreliableRemote, Client]
) -> None:
    house, remote, client = deaf
    house.pass_time(1.1)
    (asking,) = remote.calls
    house.call(partial(client.command, "unsubscribe", channel="log:1"))
    house.pass_time(0.1)
    assert house.channels == []
    remote.resume()
    if is_back:
        house.call(partial(client.subscribe, "log:1"))
    house.run(remote.release(asking))  # it comes behind the word that nobody listens
    house.settle()
    assert ("log:1" in remote.channels) is is_back


# what else goes on --------------------------------------------------------------------------------------------------


def test_a_connection_has_so_many_publications_under_way_however_they_come(house: House) -> None:
    """A door brings on what it has read already, a message at a time, though it was told to read no more."""
    client = subscriber(house, "log:1")
    store = store_of(house)
    store.held = {"commit"}
    count = 5 * LIMIT
    ids = range(100, 100 + count)

    def flood() -> None:
        for id in ids:
            message = {"id": id, "publish": {"channel": "log:1", "data": id}}
            client.connection.receive(json.dumps(message).encode())
        assert not client.transport.is_reading

    house.call(flood)
    assert client.connection._committing == LIMIT
    house.call(store.let_go)
    assert [client.error(id) for id in ids] == [0] * count
    assert client.data("log:1") == list(ids)
    assert client.transport.is_reading


def test_letting_go_of_what_is_old_goes_on_after_any_error(house: House) -> None:
    store = store_of(house)
    house.publish("old:1", b"1")
    house.forgives = True
    for error in (RuntimeError("a name that is none"), AWAY):
        store.failing["sweep"] = error
        house.pass_time(61)
    store.failing.clear()
    house.pass_time(61)
    assert len(store.asked_for("sweep")) == 3
    assert store.logs.log("old:1").items == []
