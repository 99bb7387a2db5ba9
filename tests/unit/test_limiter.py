"""Rates, on a clock of the test."""

from __future__ import annotations

from hubbub.core.limiter import MAX_BUCKETS, Bucket, PublishLimits
from hubbub.rates import Rate


def test_a_burst_up_to_the_count_and_then_evenly() -> None:
    bucket = Bucket(Rate(5, 1.0), 100.0)
    assert [bucket.take(100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not bucket.take(100.1)
    assert bucket.take(100.2)
    assert not bucket.take(100.2)
    assert [bucket.take(100.7) for _ in range(3)] == [True, True, False]


def test_a_long_pause_fills_it_once() -> None:
    bucket = Bucket(Rate(2, 1.0), 0.0)
    assert bucket.take(0.0)
    assert [bucket.take(1e12) for _ in range(3)] == [True, True, False]


def test_a_clock_that_jumps_back_takes_nothing_and_gives_nothing() -> None:
    bucket = Bucket(Rate(2, 1.0), 1e6)
    assert bucket.take(1e6)
    assert [bucket.take(0.0) for _ in range(2)] == [True, False]
    assert bucket.take(0.5), "what comes back comes from where the clock is now"


def test_a_channel_is_forgotten_when_its_bucket_is_full_again() -> None:
    limits = PublishLimits()
    slow, fast = Rate(1, 3600.0), Rate(1, 1.0)
    assert limits.take("slow", slow, 0.0)
    for number in range(MAX_BUCKETS - 1):
        assert limits.take(f"fast:{number}", fast, 0.0)
    assert not limits.take("one more", fast, 0.5), "none of them is full yet, and none may be forgotten"
    assert limits.take("one more", fast, 1.5)
    assert len(limits) == 2, "the slow one, and the new one"
    assert not limits.take("slow", slow, 1.5)


def test_each_channel_has_its_own_rate() -> None:
    limits = PublishLimits()
    assert [limits.take("a", Rate(1, 1.0), 0.0), limits.take("a", Rate(1, 1.0), 0.0)] == [True, False]
    assert [limits.take("b", Rate(2, 1.0), 0.0) for _ in range(3)] == [True, True, False]
