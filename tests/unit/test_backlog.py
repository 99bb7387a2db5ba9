"""Those who return from far away: each is served in its turn, and those who stand near each other share a read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from tests.failing_store import FailingStore, Question, store_of
from tests.fakes import House

from hubbub.channels import ChannelRules
from hubbub.core import feeds
from hubbub.errors import BackendError, InternalError
from hubbub.model import Position, Publication

RULES = {"log": ChannelRules(delivery="durable", subscribe="anyone", publish="anyone")}
COUNT = 600


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """With a channel of 600, of which a page has ten and the memory none."""
    monkeypatch.setattr(feeds, "READ_LIMIT", 10)
    with House(RULES, store=FailingStore) as house:
        store_of(house).write_unheard("log:1", *[b"%d" % number for number in range(1, COUNT + 1)])
        listener = house.client()
        house.call(partial(listener.subscribe, "log:1"))
        yield house


Outcome = Sequence[Publication] | BaseException | None


def come_back(house: House, offsets: Sequence[int], *, meanwhile: Callable[[], object] = lambda: None) -> list[Outcome]:
    """What each of these is told first that it missed, where all come at once."""
    channel = house.node.hub.channels["log:1"]

    async def work() -> list[Outcome]:
        epoch = channel.offset and channel.feed and channel.feed.position and channel.feed.position.epoch
        asking = [house.node.feeds.since(channel, Position(epoch or "", offset)) for offset in offsets]
        return list(await asyncio.gather(*asking, return_exceptions=True))

    task = house.begin(work())
    house.call(meanwhile)
    assert task.done(), "nobody waits for time to pass"
    return task.result()


def firsts(outcomes: Sequence[Outcome]) -> list[int]:
    """The first that each one misses."""
    found = []
    for outcome in outcomes:
        assert not isinstance(outcome, BaseException), outcome
        assert outcome
        found.append(outcome[0].offset)
    return found


def reads(house: House) -> list[Question]:
    return store_of(house).asked_for("read")


@pytest.mark.parametrize("step", [20, -20], ids=["oldest first", "newest first"])
def test_those_who_return_from_far_and_different_places_are_all_served(house: House, step: int) -> None:
    offsets = list(range(0, COUNT, 20))[:: 1 if step > 0 else -1]
    assert firsts(come_back(house, offsets)) == [offset + 1 for offset in offsets]
    assert len(reads(house)) == len(offsets), "one page reaches no two of them"
    assert store_of(house).most_under_way == 1


@pytest.mark.parametrize("order", ["oldest first", "newest first", "mixed"])
def test_those_whom_one_page_reaches_share_a_read(house: House, order: str) -> None:
    offsets = list(range(100, 106))
    offsets = {"oldest first": offsets, "newest first": offsets[::-1], "mixed": offsets[::2] + offsets[1::2]}[order]
    outcomes = come_back(house, offsets * 20)
    assert firsts(outcomes) == [offset + 1 for offset in offsets] * 20
    assert len(reads(house)) == 1


def test_a_crowd_of_the_same_place_is_one_read(house: House) -> None:
    assert firsts(come_back(house, [COUNT - 5] * 500)) == [COUNT - 4] * 500
    assert len(reads(house)) == 1


def test_who_comes_while_a_page_is_read_that_reaches_it_has_that_page(house: House) -> None:
    store = store_of(house)
    store.held = {"read"}
    later: list[asyncio.Task[list[Outcome]]] = []

    def meanwhile() -> None:
        channel = house.node.hub.channels["log:1"]
        later.append(asyncio.ensure_future(_since(house, channel.name, [103, 95, 400])))

    first = house.begin(_since(house, "log:1", [100]))
    house.call(meanwhile)
    house.call(store.let_go)
    assert firsts(first.result()) == [101]
    assert firsts(later[0].result()) == [104, 96, 401]
    assert [question.about for question in reads(house)] == [100, 95, 400]


async def _since(house: House, name: str, offsets: Sequence[int]) -> list[Outcome]:
    channel = house.node.hub.channels[name]
    asking = [house.node.feeds.since(channel, Position("", offset)) for offset in offsets]
    return list(await asyncio.gather(*asking, return_exceptions=True))


def test_pages_that_end_at_their_limit_of_bytes_starve_nobody(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far a page reaches is not known before it is there."""
    monkeypatch.setattr(feeds, "READ_LIMIT", 1000)
    monkeypatch.setattr(feeds, "READ_BYTES", 12)  # four of three digits
    offsets = list(range(500, 560, 2))
    for order in (offsets, offsets[::-1]):
        before = len(reads(house))
        assert firsts(come_back(house, order)) == [offset + 1 for offset in order]
        assert len(reads(house)) - before <= len(offsets), "each read serves somebody"
    assert store_of(house).most_under_way == 1


def test_who_came_first_waits_for_one_read_at_most_that_begins_before_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many older positions are wanted nearby."""
    monkeypatch.setattr(feeds, "READ_LIMIT", 1000)
    monkeypatch.setattr(feeds, "READ_BYTES", 12)
    assert firsts(come_back(house, [520, *range(480, 520)]))[0] == 521
    begun = [question.about for question in reads(house)]
    assert begun[:2] == [480, 520]


def test_clients_that_return_from_everywhere_hear_everything(house: House) -> None:
    offsets = list(range(0, COUNT, 40))
    clients = [house.client() for _ in offsets]

    def subscribe() -> None:
        for client, offset in zip(clients, offsets, strict=True):
            client.subscribe("log:1", Position("", offset))

    house.call(subscribe)
    house.publish("log:1", b"0")
    for client, offset in zip(clients, offsets, strict=True):
        assert client.log("log:1")[0].kind == "recovered"
        assert client.offsets("log:1") == list(range(offset + 1, COUNT + 2))
    assert store_of(house).most_under_way == 1


# failures -----------------------------------------------------------------------------------------------------------


def test_where_the_source_cannot_be_asked_all_are_told_and_asked_for_once(house: House) -> None:
    store = store_of(house)
    store.failing["read"] = BackendError("the store is away")
    outcomes = come_back(house, [100, 200, 300])
    assert all(isinstance(outcome, InternalError) for outcome in outcomes)
    assert len(reads(house)) == 1
    store.failing.clear()
    assert firsts(come_back(house, [100])) == [101]


def test_nothing_is_read_for_who_has_given_up(house: House) -> None:
    store = store_of(house)
    store.held = {"read"}
    asking = house.begin(_since(house, "log:1", [100, 200, 300]))
    house.pass_time(2.1)
    assert [str(outcome) for outcome in asking.result()] == ["the channel's source cannot be asked now"] * 3
    house.call(store.let_go)
    assert len(reads(house)) == 1
    assert firsts(come_back(house, [200])) == [201]
    assert len(reads(house)) == 2


# what is removed meanwhile ------------------------------------------------------------------------------------------


def test_a_history_that_is_removed_while_it_is_read_back_is_given_to_nobody(house: House) -> None:
    store = store_of(house)
    store.held = {"read"}
    back, late = house.client(), house.client()
    house.call(partial(back.subscribe, "log:1", Position("", COUNT - 3)))
    house.run(store.trim("log:1", COUNT))
    house.call(partial(house.node.trim, "log:1"))
    house.call(store.let_go)
    house.call(partial(late.subscribe, "log:1", Position("", COUNT - 3)))
    house.publish("log:1", b"0")
    for client in (back, late):
        assert client.log("log:1")[0].kind == "unrecovered"
        assert client.offsets("log:1") == [COUNT + 1]


def test_a_history_that_is_removed_while_a_hole_is_mended_is_not_remembered(house: House) -> None:
    store = store_of(house)
    listener = house.client()
    house.call(partial(listener.subscribe, "log:1"))
    store.write_unheard("log:1", b"1", b"2")
    store.held = {"read"}
    house.pass_time(2, step=0.1)
    assert len(reads(house)) == 1
    house.run(store.trim("log:1", COUNT + 2))
    house.call(partial(house.node.trim, "log:1"))
    house.call(store.let_go)
    assert listener.offsets("log:1") == [COUNT + 1, COUNT + 2]  # it was here when they were published
    late = house.client()
    house.call(partial(late.subscribe, "log:1", Position("", COUNT)))
    assert late.log("log:1")[0].kind == "unrecovered"
