"""tests/storms/ledger.py: what a storm may not overlook, it does not."""

from __future__ import annotations

import pytest
from tests.storms.ledger import Follower, Ledger, Place

RECENT = "recent"


def place(offset: int, epoch: str = "e") -> Place:
    return Place(epoch, offset)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def follower(ledger: Ledger, who: str = "u") -> Follower:
    made = ledger.follow(who, RECENT)
    ledger.note(made.subscribed(place(0), asked=False, recovered=False))
    return made


def hears(ledger: Ledger, who: Follower, *each: str) -> None:
    for what in each:
        assert who.place is not None
        ledger.note(who.got(who.place.offset + 1, what))


def published(ledger: Ledger, what: str, at: Place | None) -> None:
    ledger.begins(what)
    ledger.ended(what, RECENT, "acknowledged", at)


def verdict(ledger: Ledger, *, may_lose: bool = False) -> str:
    return "\n".join(ledger.close(ledger.followers, may_lose=may_lose))


def test_two_who_have_all_of_it(ledger: Ledger) -> None:
    for who in (follower(ledger, "u"), follower(ledger, "v")):
        hears(ledger, who, "a", "b")
    published(ledger, "a", place(1))
    published(ledger, "b", None)
    assert verdict(ledger) == ""


def test_a_durable_channel_loses_nothing_and_sends_nobody_away(ledger: Ledger) -> None:
    who = ledger.follow("u", "durable", keeps_all=True)
    ledger.note(who.subscribed(place(0), asked=False, recovered=False))
    hears(ledger, who, "w-1", "w-2")
    assert verdict(ledger, may_lose=True) == ""
    ledger.note(who.sent_again(2500))
    ledger.note(who.subscribed(place(0, "f"), asked=True, recovered=False))
    ledger.ended("lost", "durable", "acknowledged")
    text = verdict(ledger, may_lose=True)
    assert "u in durable: unsubscribed with 2500" in text
    assert "not recovered" in text
    assert "lost was acknowledged, and nobody got it" in text
    assert ledger.acknowledged() == 1
    assert not ledger.losses()


def test_a_durable_channel_keeps_the_order_of_each_publisher(ledger: Ledger) -> None:
    who = ledger.follow("u", "durable", keeps_all=True)
    ledger.note(who.subscribed(place(0), asked=False, recovered=False))
    hears(ledger, who, "v-9", "w-2", "v-10", "w-1")
    for what in ("v-9", "v-10", "w-2"):
        ledger.ended(what, "durable", "acknowledged")
    assert verdict(ledger) == ""
    ledger.ended("w-1", "durable", "acknowledged")
    assert "w-1 stands at" in verdict(ledger)


def test_a_recent_channel_may_send_somebody_away(ledger: Ledger) -> None:
    ledger.note(follower(ledger).sent_again(2500))
    assert verdict(ledger) == ""


def test_a_hole(ledger: Ledger) -> None:
    who = follower(ledger)
    ledger.note(who.got(2, "b"))
    assert "b with offset 2 after 0" in verdict(ledger)


def test_a_repetition(ledger: Ledger) -> None:
    who = follower(ledger)
    hears(ledger, who, "a")
    ledger.note(who.got(1, "a"))
    assert "a with offset 1 after 1" in verdict(ledger)


def test_something_published_twice(ledger: Ledger) -> None:
    hears(ledger, follower(ledger), "a", "a")
    assert "published twice" in verdict(ledger)


def test_something_published_once_in_each_life(ledger: Ledger) -> None:
    who = follower(ledger)
    hears(ledger, who, "a")
    ledger.note(who.subscribed(place(0, "f"), asked=True, recovered=False))
    hears(ledger, who, "a")
    published(ledger, "a", place(1, "f"))
    assert verdict(ledger, may_lose=True) == ""
    assert "published twice" in verdict(ledger, may_lose=False)


def test_something_published_twice_in_one_life_although_data_was_lost(ledger: Ledger) -> None:
    hears(ledger, follower(ledger), "a", "a")
    assert "published twice" in verdict(ledger, may_lose=True)


def test_two_who_got_different_things(ledger: Ledger) -> None:
    hears(ledger, follower(ledger, "u"), "a")
    hears(ledger, follower(ledger, "v"), "b")
    assert "one got b and another one a" in verdict(ledger)


def test_one_who_is_behind(ledger: Ledger) -> None:
    hears(ledger, follower(ledger, "u"), "a", "b")
    hears(ledger, follower(ledger, "v"), "a")
    text = verdict(ledger)
    assert "v in recent: 1 publications are missing, and nobody said so" in text
    assert "stand at different places" in text


def test_what_was_acknowledged_and_nobody_got(ledger: Ledger) -> None:
    follower(ledger)
    published(ledger, "a", None)
    assert "a was acknowledged, and nobody got it" in verdict(ledger)


def test_what_was_acknowledged_elsewhere_than_it_stands(ledger: Ledger) -> None:
    hears(ledger, follower(ledger), "a")
    published(ledger, "a", place(2))
    assert "its publisher was told" in verdict(ledger)


def test_what_was_refused_and_is_there(ledger: Ledger) -> None:
    hears(ledger, follower(ledger), "a")
    ledger.ended("a", RECENT, "refused")
    assert "its publisher was told that it is not" in verdict(ledger)


def test_what_nobody_can_know_may_be_there_or_not(ledger: Ledger) -> None:
    hears(ledger, follower(ledger), "a")
    ledger.ended("a", RECENT, "perhaps")
    ledger.ended("b", RECENT, "perhaps")
    assert verdict(ledger) == ""


def test_a_call_without_an_answer(ledger: Ledger) -> None:
    ledger.begins("a")
    assert "a has no answer" in verdict(ledger)


def test_a_loss_that_was_told(ledger: Ledger) -> None:
    who = follower(ledger)
    hears(ledger, who, "a")
    published(ledger, "a", place(1))
    published(ledger, "lost", place(2))
    published(ledger, "missed", place(1, "f"))
    ledger.note(who.subscribed(place(1, "f"), asked=True, recovered=False))
    hears(ledger, who, "b")
    assert verdict(ledger, may_lose=True) == ""
    assert dict(ledger.losses()) == {1: 1}


def test_a_loss_does_not_excuse_what_is_missing_later(ledger: Ledger) -> None:
    who = follower(ledger)
    ledger.note(who.subscribed(place(1, "f"), asked=True, recovered=False))
    published(ledger, "a", place(2, "f"))
    assert "1 publications are missing" in verdict(ledger, may_lose=True)


def test_a_recovery_into_another_epoch(ledger: Ledger) -> None:
    who = follower(ledger)
    ledger.note(who.subscribed(place(0, "f"), asked=True, recovered=True))
    assert "recovered, from" in verdict(ledger)


def test_what_was_before_a_round_is_forgotten(ledger: Ledger) -> None:
    who = follower(ledger)
    hears(ledger, who, "a")
    published(ledger, "b", None)
    ledger.begin()
    hears(ledger, who, "c")
    assert verdict(ledger) == ""


# --- a store that loses its last writes

DURABLE = "durable"


def durable(ledger: Ledger, who: str = "u") -> Follower:
    made = ledger.follow(who, DURABLE, keeps_all=True)
    ledger.note(made.subscribed(place(0), asked=False, recovered=False))
    return made


def wrote(ledger: Ledger, what: str, at: Place | None = None) -> None:
    ledger.begins(what)
    ledger.ended(what, DURABLE, "acknowledged", at)


def told(ledger: Ledger, who: Follower, at: Place) -> None:
    ledger.note(who.sent_again(2500))
    ledger.note(who.subscribed(at, asked=True, recovered=False))


def failed_over(ledger: Ledger) -> Follower:
    """ "w-1" was written before the loss, "w-2" is lost, and "w-3" was written after it, in its place."""
    who = durable(ledger)
    wrote(ledger, "w-1", place(1))
    ledger.may_lose_from_now()
    wrote(ledger, "w-2", place(2))
    hears(ledger, who, "w-1", "w-2")
    ledger.has_lost()
    told(ledger, who, place(1, "f"))
    wrote(ledger, "w-3", place(2, "f"))
    hears(ledger, who, "w-3")
    return who


def kept(*each: str, epoch: str = "f") -> dict[Place, str]:
    return {place(offset, epoch): what for offset, what in enumerate(each, 1)}


def test_a_store_that_lost_its_last_writes_and_everybody_was_told(ledger: Ledger) -> None:
    failed_over(ledger)
    ledger.keeps(DURABLE, kept("w-1", "w-3"))
    assert verdict(ledger) == ""
    assert ledger.lost() == 1
    assert dict(ledger.losses()) == {1: 1}


def test_a_store_that_lost_what_was_acknowledged_long_before(ledger: Ledger) -> None:
    failed_over(ledger)
    ledger.keeps(DURABLE, kept("x", "w-3"))
    assert "w-1 was acknowledged, and is not in the store" in verdict(ledger)


@pytest.mark.parametrize("at", [None, place(3, "f")])
def test_a_store_that_lost_what_was_acknowledged_afterwards(ledger: Ledger, at: Place | None) -> None:
    failed_over(ledger)
    wrote(ledger, "w-4", at)
    ledger.keeps(DURABLE, kept("w-1", "w-3"))
    assert "w-4 was acknowledged, and is not in the store" in verdict(ledger)


def test_a_call_under_way_is_excused_unless_its_answer_names_the_new_life(ledger: Ledger) -> None:
    for what in ("w-8", "w-9"):
        ledger.begins(what)
    failed_over(ledger)
    ledger.ended("w-8", DURABLE, "acknowledged", place(3))
    ledger.keeps(DURABLE, kept("w-1", "w-3"))
    ledger.ended("w-9", DURABLE, "acknowledged", place(3, "f"))
    text = verdict(ledger)
    assert "w-8" not in text
    assert "w-9 was acknowledged, and is not in the store" in text


def test_a_loss_that_nobody_was_told_of(ledger: Ledger) -> None:
    failed_over(ledger)
    other = durable(ledger, "v")
    hears(ledger, other, "w-1", "w-2")
    ledger.keeps(DURABLE, kept("w-1", "w-3"))
    text = verdict(ledger)
    assert "v in durable: 2 publications are missing, and nobody said so" in text
    assert "told of losses {1: 1, 0: 1} times" in text


def test_a_loss_that_was_told_twice(ledger: Ledger) -> None:
    told(ledger, failed_over(ledger), place(2, "f"))
    ledger.keeps(DURABLE, kept("w-1", "w-3"))
    assert "told of losses {2: 1} times" in verdict(ledger)


def test_a_loss_that_was_told_before_there_was_one(ledger: Ledger) -> None:
    who = durable(ledger)
    ledger.may_lose_from_now()
    told(ledger, who, place(0, "f"))
    text = verdict(ledger)
    assert "unsubscribed with 2500" in text
    assert "not recovered" in text


def test_two_histories_under_one_epoch(ledger: Ledger) -> None:
    """The end was lost, and the store goes on as if it had never been."""
    who = durable(ledger)
    ledger.may_lose_from_now()
    wrote(ledger, "w-1", place(1))
    hears(ledger, who, "w-1")
    ledger.has_lost()
    wrote(ledger, "w-2", place(1))
    ledger.keeps(DURABLE, kept("w-2", epoch="e"))
    text = verdict(ledger)
    assert "one got w-1, and the store holds w-2" in text
    assert "told of losses {0: 1} times" in text


def test_what_is_lost_and_published_again_is_there_once_in_each_life(ledger: Ledger) -> None:
    who = durable(ledger)
    ledger.may_lose_from_now()
    ledger.begins("w-1")
    wrote(ledger, "v-1")
    hears(ledger, who, "w-1", "v-1")
    ledger.has_lost()
    told(ledger, who, place(0, "f"))
    ledger.ended("w-1", DURABLE, "acknowledged", place(1, "f"))
    hears(ledger, who, "w-1")
    ledger.keeps(DURABLE, kept("w-1"))
    assert verdict(ledger) == ""
    hears(ledger, who, "w-1")
    ledger.keeps(DURABLE, kept("w-1", "w-1"))
    text = verdict(ledger)
    assert "published twice" in text
    assert "the store holds w-1 2 times" in text


def test_a_store_that_was_to_lose_something_and_did_not(ledger: Ledger) -> None:
    who = durable(ledger)
    ledger.may_lose_from_now()
    ledger.has_lost()
    told(ledger, who, place(0, "f"))
    ledger.keeps(DURABLE, {})
    assert "lost nothing" in verdict(ledger)


# --- what the store itself says


def test_a_whole_store_holds_what_it_acknowledged_once_and_in_order(ledger: Ledger) -> None:
    who = durable(ledger)
    hears(ledger, who, "w-1", "w-2")
    wrote(ledger, "w-1")
    wrote(ledger, "w-2")
    ledger.keeps(DURABLE, kept("w-1", "w-2", epoch="e"))
    assert verdict(ledger) == ""
    ledger.keeps(DURABLE, kept("w-2", "w-1", "w-1", epoch="e"))
    text = verdict(ledger)
    assert "the store holds w-1 2 times" in text
    assert "one got w-1, and the store holds w-2" in text
    assert "w-1 stands at" in text


def test_a_whole_store_that_lost_what_everybody_has(ledger: Ledger) -> None:
    hears(ledger, durable(ledger), "w-1")
    wrote(ledger, "w-1")
    ledger.keeps(DURABLE, {})
    assert "w-1 was acknowledged, and is not in the store" in verdict(ledger)


def test_what_was_refused_and_is_in_the_store(ledger: Ledger) -> None:
    durable(ledger)
    ledger.ended("w-1", DURABLE, "refused")
    ledger.keeps(DURABLE, kept("w-1", epoch="e"))
    assert "the store holds w-1, and its publisher was told that it is not there" in verdict(ledger)
