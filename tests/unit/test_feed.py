"""The feed, one test for each row of the table in docs/design/delivery.md, section 2, and for each race found in it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from hubbub.core.feed import NOTHING, Broken, Feed, Question, Step
from hubbub.core.ring import Ring, RingPool
from hubbub.model import Position, Publication
from hubbub.source import Page


def publication(offset: int) -> Publication:
    return Publication(b"%d" % offset, offset)


def page(offsets: Iterable[int], head: int, epoch: str = "A") -> Page:
    return Page([publication(offset) for offset in offsets], Position(epoch, head))


def feed_at(offset: int, *, skips: bool = False) -> Feed:
    feed = Feed(Ring(RingPool()), skips=skips)
    feed.start(Position("A", offset))
    return feed


def announce(feed: Feed, *offsets: int, epoch: str = "A") -> Step:
    step = Step()
    for offset in offsets:
        step = feed.announced(publication(offset), epoch)
    return step


def back(feed: Feed, page: Page) -> Step:
    """Read back, and nothing happened meanwhile."""
    assert feed.position is not None
    return feed.read_back(page, feed.position)


def told(step: Step) -> list[int]:
    return [item.offset for item in step.broadcast]


def kept(feed: Feed, after: int) -> list[int] | None:
    found = feed.since(Position("A", after))
    return None if found is None else [item.offset for item in found]


# starting -----------------------------------------------------------------------------------------------------------


def test_what_was_announced_while_starting_goes_on_from_the_head() -> None:
    feed = Feed(Ring(RingPool()))
    assert announce(feed, 5, 6, 7) == Step()
    assert told(feed.start(Position("A", 5))) == [6, 7]
    assert feed.position == Position("A", 7)


def test_a_hole_behind_the_head_is_read_at_the_start() -> None:
    feed = Feed(Ring(RingPool()))
    announce(feed, 7)
    assert feed.start(Position("A", 5)).ask == "read"


def test_what_was_announced_under_another_epoch_while_starting_is_asked_about() -> None:
    feed = Feed(Ring(RingPool()))
    announce(feed, 1, epoch="B")
    assert feed.start(Position("A", 5)).ask == "head"


def test_more_announcements_than_are_held_while_starting_are_read() -> None:
    feed = Feed(Ring(RingPool()))
    announce(feed, *range(1, Feed.PENDING_LIMIT + 10))
    step = feed.start(Position("A", 0))
    assert len(told(step)) == Feed.PENDING_LIMIT
    assert (step.ask, step.soon) == ("read", True)


def test_a_renewal_while_starting_is_asked_about_after_it() -> None:
    feed = Feed(Ring(RingPool()))
    assert feed.ask("head") is None
    assert feed.start(Position("A", 5)).ask == "head"


# announced ----------------------------------------------------------------------------------------------------------


def test_the_next_one_is_broadcast() -> None:
    feed = feed_at(5)
    assert told(announce(feed, 6)) == [6]
    assert feed.position == Position("A", 6)


def test_the_next_one_follows_without_a_step() -> None:
    feed = feed_at(5)
    assert feed.follows(Publication(b"6", 6), "A")
    assert feed.position == Position("A", 6)
    assert [kept.offset for kept in feed.stored.range(5, 6) or ()] == [6]


@pytest.mark.parametrize(
    ("offset", "epoch"), [(5, "A"), (7, "A"), (6, "B"), (0, "A")], ids=["repeated", "hole", "epoch", "unkept"]
)
def test_what_is_not_the_next_one_does_not_follow(offset: int, epoch: str) -> None:
    feed = feed_at(5)
    assert not feed.follows(Publication(b"", offset), epoch)
    assert feed.position == Position("A", 5)
    assert not feed.has_hole
    assert not feed.has_foreign
    assert not feed.counts


@pytest.mark.parametrize("question", ["head", "read", "replace", "verify"])
def test_nothing_follows_while_something_is_asked(question: Question) -> None:
    feed = feed_at(5)
    feed.ask(question)
    assert not feed.follows(Publication(b"6", 6), "A")
    assert feed.position == Position("A", 5)


def test_nothing_follows_before_the_start_or_in_doubt_or_after_a_rollback() -> None:
    new = Feed(Ring(RingPool()))
    assert not new.follows(Publication(b"1", 1), "")
    doubtful = feed_at(5)
    announce(doubtful, 6)
    assert doubtful.doubt()
    assert not doubtful.follows(Publication(b"7", 7), "A")
    rolled_back = feed_at(5)
    rolled_back.ask("replace")
    rolled_back.failed("replace")
    assert not rolled_back.follows(Publication(b"6", 6), "A")


def test_a_repeated_one_is_dropped_and_counted() -> None:
    feed = feed_at(5)
    assert announce(feed, 5) == Step()
    assert feed.counts == {"repeated": 1}


def test_one_beyond_the_next_waits_and_is_read_for() -> None:
    feed = feed_at(5)
    assert announce(feed, 7) == Step(ask="read")
    assert feed.has_hole


def test_the_missing_one_drains_what_waits() -> None:
    feed = feed_at(5)
    announce(feed, 8, 7)
    assert told(announce(feed, 6)) == [6, 7, 8]
    assert not feed.has_hole


def test_over_the_bound_the_newest_is_dropped_and_read_later() -> None:
    feed = feed_at(5)
    announce(feed, *range(7, 7 + Feed.PENDING_LIMIT + 3))
    assert feed.counts == {"overflow": 3}
    step = announce(feed, 6)
    assert told(step)[-1] == 6 + Feed.PENDING_LIMIT
    assert (step.ask, step.soon) == ("read", True)


def test_another_epoch_waits_and_the_head_is_asked() -> None:
    feed = feed_at(5)
    assert announce(feed, 1, epoch="B") == Step(ask="head", soon=True)
    assert feed.has_foreign


# read done ----------------------------------------------------------------------------------------------------------


def test_a_read_closes_the_hole_and_drains_what_waits() -> None:
    feed = feed_at(5)
    announce(feed, 8)
    feed.ask("read")
    step = feed.read_done(page([6, 7], 7))
    assert (told(step), step.ask) == ([6, 7, 8], None)


def test_a_page_that_ended_at_its_limit_is_followed_by_another() -> None:
    feed = feed_at(5)
    feed.ask("read")
    step = feed.read_done(page([6, 7], 9))
    assert (told(step), step.ask, step.soon) == ([6, 7], "read", True)


def test_an_announcement_that_overtook_the_read_is_not_broadcast_twice() -> None:
    feed = feed_at(5)
    feed.ask("read")
    announce(feed, 6)
    assert told(feed.read_done(page([6, 7], 7))) == [7]


def test_a_first_one_beyond_the_next_is_broken() -> None:
    feed = feed_at(5)
    feed.ask("read")
    step = feed.read_done(page([8, 9], 9))
    assert step.broken is not None
    assert (step.broken.cause, step.broken.old.offset, step.broken.new.offset) == ("trimmed", 5, 9)


def test_a_break_by_trimming_keeps_what_waits_beyond_the_head() -> None:
    feed = feed_at(5)
    announce(feed, 10)
    feed.ask("read")
    announce(feed, 11)
    step = feed.read_done(page([8, 9, 10], 10))
    assert step.broken is not None
    assert told(step) == [11]


def test_a_read_of_another_epoch_is_broken() -> None:
    feed = feed_at(5)
    feed.ask("read")
    step = feed.read_done(page([1], 1, "B"))
    assert step.broken is not None
    assert (step.broken.cause, feed.position) == ("epoch", Position("B", 1))


def test_a_hole_that_two_reads_leave_open_beyond_the_head_was_forged() -> None:
    feed = feed_at(5)
    announce(feed, 100)
    for expected in ("read", "head"):
        feed.ask("read")
        assert feed.read_done(page([], 5)).ask == expected
    assert not feed.has_hole
    assert feed.counts == {"forged": 1}


def test_what_came_behind_a_read_that_made_progress_is_not_forged() -> None:
    feed = feed_at(5)
    announce(feed, 7)
    feed.ask("read")
    feed.read_done(page([], 5))
    feed.ask("read")
    announce(feed, 9)
    step = feed.read_done(page([6, 7], 7))
    assert (told(step), step.ask) == ([6, 7], "read")
    assert feed.has_hole


def test_a_failed_question_can_be_asked_again() -> None:
    feed = feed_at(5)
    feed.ask("read")
    assert feed.ask("read") is None
    feed.failed("read")
    assert feed.ask("read") == Position("A", 5)


# head ---------------------------------------------------------------------------------------------------------------


def test_an_equal_head_is_silence() -> None:
    feed = feed_at(5)
    feed.ask("head")
    assert feed.head_seen(Position("A", 5)) == Step()


def test_a_higher_head_is_read_for() -> None:
    feed = feed_at(5)
    feed.ask("head")
    assert feed.head_seen(Position("A", 6)) == Step(ask="read")


def test_a_head_that_an_announcement_overtook_is_not_lower() -> None:
    feed = feed_at(5)
    feed.ask("head")
    announce(feed, 6)
    assert feed.head_seen(Position("A", 5)).broken is None


def test_a_lower_head_is_a_rollback_and_the_source_gets_another_epoch_before_anybody_is_told() -> None:
    feed = feed_at(5)
    feed.ask("head")
    step = feed.head_seen(Position("A", 3))
    assert (step.broken, step.ask) == (None, "replace")
    assert feed.ask("replace") == Position("A", 5)
    step = feed.replaced(Position("B", 3))
    assert step.broken == Broken("rollback", Position("A", 5), Position("B", 3))


def test_nothing_of_a_stream_that_was_rolled_back_goes_out() -> None:
    feed = feed_at(5)
    for question in ("head", "read", "replace"):
        feed.ask(question)
    assert announce(feed, 6) == NOTHING
    assert feed.head_seen(Position("A", 6)) == NOTHING
    assert feed.read_done(page([6], 6)) == NOTHING
    assert feed.read_back(page([4, 5, 6], 6), Position("A", 5)) == NOTHING
    announce(feed, 7, epoch="B")
    step = feed.replaced(Position("B", 6))
    assert step.broken is not None
    assert told(step) == [7]


def test_a_rollback_breaks_once_though_two_questions_were_under_way() -> None:
    feed = feed_at(10)
    announce(feed, 12)
    feed.ask("read")
    feed.ask("head")
    assert feed.head_seen(Position("A", 5)).ask == "replace"
    feed.ask("replace")
    assert feed.read_done(page([], 5)).broken is None
    assert feed.replaced(Position("B", 5)).broken is not None


def test_a_source_that_was_replaced_by_another_node_is_looked_at_again() -> None:
    feed = feed_at(5)
    feed.ask("replace")
    feed.ask("head")
    assert feed.replaced(Position("A", 9)) == Step(ask="head", soon=True), "it was no rollback after all"


def test_another_epoch_breaks_and_takes_what_was_announced_under_it() -> None:
    feed = feed_at(5)
    announce(feed, 1, 2, 3, epoch="B")
    feed.ask("head")
    step = feed.head_seen(Position("B", 1))
    assert step.broken is not None
    assert told(step) == [2, 3]


def test_a_busy_new_epoch_breaks_at_its_first_head() -> None:
    feed = feed_at(5)
    announce(feed, 1, epoch="B")
    feed.ask("head")
    announce(feed, 2, epoch="B")
    assert feed.head_seen(Position("B", 1)).broken is not None


def test_a_head_asked_before_an_announcement_cannot_disown_it() -> None:
    feed = feed_at(5)
    feed.ask("head")
    announce(feed, 1, epoch="B")
    assert feed.head_seen(Position("A", 5)) == Step(ask="head", soon=True)
    assert feed.has_foreign


def test_a_head_asked_after_it_disowns_a_foreign_announcement() -> None:
    feed = feed_at(5)
    announce(feed, 1, epoch="B")
    feed.ask("head")
    feed.head_seen(Position("A", 5))
    assert not feed.has_foreign
    assert feed.counts == {"foreign": 1}


def test_a_hole_after_a_break_is_read_though_an_older_read_was_under_way() -> None:
    feed = feed_at(5)
    announce(feed, 7)
    feed.ask("read")
    announce(feed, 2, epoch="B")
    feed.ask("head")
    feed.head_seen(Position("B", 0))
    assert feed.ask("read") is None
    assert feed.read_done(page([6, 7], 7)).ask == "read"


# reading back -------------------------------------------------------------------------------------------------------


def test_reading_back_makes_the_ring_reach_back() -> None:
    feed = feed_at(5)
    announce(feed, 6)
    assert kept(feed, 2) is None
    back(feed, page([3, 4, 5, 6], 6))
    assert kept(feed, 2) == [3, 4, 5, 6]


def test_what_reading_back_brings_beyond_the_position_is_broadcast_first() -> None:
    feed = feed_at(5)
    assert told(back(feed, page([4, 5, 6, 7], 7))) == [6, 7]
    assert kept(feed, 3) == [4, 5, 6, 7]


def test_reading_back_another_epoch_breaks_at_once() -> None:
    step = back(feed_at(5), page([1], 1, "B"))
    assert step.broken is not None
    assert step.broken.new == Position("B", 1)


def test_reading_back_another_epoch_asks_for_the_head_if_a_break_came_meanwhile() -> None:
    assert feed_at(5).read_back(page([1], 1, "B"), Position("C", 7)) == Step(ask="head", soon=True)


def test_a_page_is_enough_where_the_ring_does_not_reach() -> None:
    found = feed_at(5).since(Position("A", 2), page([3, 4], 5))
    assert found is not None
    assert [item.offset for item in found] == [3, 4]


def test_a_page_that_begins_later_is_not() -> None:
    assert feed_at(5).since(Position("A", 2), page([4, 5], 5)) is None


def test_who_stands_at_the_position_misses_nothing() -> None:
    assert kept(feed_at(5), 5) == []


# latest -------------------------------------------------------------------------------------------------------------


def test_latest_skips_and_never_goes_back() -> None:
    feed = feed_at(5, skips=True)
    assert told(announce(feed, 8)) == [8]
    assert announce(feed, 7) == Step()


def test_latest_gives_the_newest_alone() -> None:
    feed = feed_at(5, skips=True)
    announce(feed, 6, 7, 8)
    assert kept(feed, 2) == [8]


def test_latest_reads_back_the_newest() -> None:
    feed = feed_at(5, skips=True)
    back(feed, page([5], 5))
    assert kept(feed, 0) == [5]


def test_latest_is_not_broken_by_what_expired() -> None:
    feed = feed_at(5, skips=True)
    feed.ask("read")
    assert feed.read_done(page([], 9)).broken is None
    assert feed.position == Position("A", 9)


def test_a_rollback_that_could_not_be_told_yet_is_not_forgotten() -> None:
    """The source lost 8 to 10, its epoch cannot be replaced, and meanwhile others publish up to 11."""
    feed = Feed(Ring(RingPool()))
    feed.start(Position("e", 0))
    for offset in range(1, 11):
        feed.announced(Publication(b"old", offset), "e")
    feed.ask("head")
    assert feed.head_seen(Position("e", 7)).ask == "replace"
    feed.ask("replace")
    feed.failed("replace")
    assert feed.announced(Publication(b"new", 11), "e") == NOTHING
    feed.ask("head")
    assert feed.head_seen(Position("e", 11)).ask == "replace"
    feed.ask("replace")
    step = feed.replaced(Position("f", 11))
    assert step.broken is not None
    assert step.broken.cause == "rollback"
    assert feed.announced(Publication(b"new", 12), "f").broadcast
