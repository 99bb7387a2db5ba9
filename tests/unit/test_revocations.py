"""What is void, and for how long."""

from __future__ import annotations

import pytest

from hubbub.core.revocations import Revocations
from hubbub.errors import LimitExceeded


def test_what_was_issued_up_to_then_is_void_and_what_came_later_is_not() -> None:
    revocations = Revocations()
    revocations.add("ann", 100.0, until=500.0, now=100.0)
    assert revocations.refuses("ann", 99.0, 101.0)
    assert revocations.refuses("ann", 100.0, 101.0)
    assert not revocations.refuses("ann", 100.1, 101.0)
    assert not revocations.refuses("bob", 1.0, 101.0)


def test_who_does_not_say_when_is_refused() -> None:
    revocations = Revocations()
    assert not revocations.refuses("ann", 0, 1.0)
    revocations.add("ann", 100.0, until=500.0, now=100.0)
    assert revocations.refuses("ann", 0, 101.0)


def test_it_is_forgotten_when_such_tokens_have_expired() -> None:
    revocations = Revocations()
    revocations.add("ann", 100.0, until=500.0, now=100.0)
    assert revocations.refuses("ann", 99.0, 499.9)
    assert not revocations.refuses("ann", 99.0, 500.0)
    assert len(revocations) == 0


@pytest.mark.parametrize(("first", "second"), [((100.0, 500.0), (50.0, 900.0)), ((50.0, 900.0), (100.0, 500.0))])
def test_twice_is_the_later_of_both(first: tuple[float, float], second: tuple[float, float]) -> None:
    revocations = Revocations()
    for before, until in (first, second):
        revocations.add("ann", before, until=until, now=100.0)
    assert revocations.refuses("ann", 100.0, 899.0)


def test_one_that_is_over_does_not_count_for_the_next() -> None:
    revocations = Revocations()
    revocations.add("ann", 100.0, until=500.0, now=100.0)
    revocations.add("ann", 50.0, until=900.0, now=600.0)
    assert not revocations.refuses("ann", 60.0, 601.0)


def test_a_full_table_forgets_what_is_over_and_never_what_is_not() -> None:
    revocations = Revocations(max_users=2)
    revocations.add("ann", 100.0, until=500.0, now=100.0)
    revocations.add("bob", 100.0, until=900.0, now=100.0)
    with pytest.raises(LimitExceeded, match="2 users"):
        revocations.add("eve", 100.0, until=900.0, now=100.0)
    revocations.add("ann", 200.0, until=600.0, now=200.0)  # who is in it already may always be
    revocations.add("eve", 700.0, until=900.0, now=700.0)
    assert not revocations.refuses("ann", 1.0, 700.0)
    assert revocations.refuses("bob", 1.0, 700.0)
    assert revocations.refuses("eve", 1.0, 700.0)
