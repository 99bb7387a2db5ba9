"""The laws of rates, on clocks that do what clocks do."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from hubbub.core.limiter import FLOOD, MAX_BUCKETS, Bucket, CommandLimit, PublishLimits, Verdict
from hubbub.rates import Rate

rates = st.builds(Rate, st.integers(1, 50), st.sampled_from([1.0, 60.0, 3600.0]))
#: Steps of a clock, most of them forward, some of them far.
steps = st.lists(st.one_of(st.floats(0, 3), st.just(0.0), st.floats(0, 1e9)), max_size=120)
leaps = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(0.0)), max_size=120)

#: What floats may be wrong by, in tokens.
A_LITTLE = Fraction(1, 1000)


def taken(rate: Rate, moments: list[float]) -> list[float]:
    """The moments at which there was a token."""
    bucket = Bucket(rate, moments[0])
    return [now for now in moments if bucket.take(now)]


def moments_of(steps: list[float]) -> list[float]:
    moments = [1000.0]
    for step in steps:
        moments.append(moments[-1] + step)
    return moments


@given(rates, steps)
def test_no_span_of_time_gets_more_than_the_rate(rate: Rate, steps: list[float]) -> None:
    admitted = taken(rate, moments_of(steps))
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            span = Fraction(admitted[last]) - Fraction(admitted[first])
            assert last - first + 1 <= rate.count + span * rate.count / Fraction(rate.seconds) + A_LITTLE


@given(rates, st.lists(st.floats(0, 10), max_size=100))
@example(Rate(1, 1.0), [0.0] * 100)
@example(Rate(3, 1.0), [0.0] * 100)
def test_who_keeps_to_the_rate_is_never_refused(rate: Rate, pauses: list[float]) -> None:
    moments = moments_of([rate.seconds / rate.count + pause for pause in pauses])
    assert taken(rate, moments) == moments


@given(rates, steps)
def test_it_admits_what_an_exact_one_admits(rate: Rate, steps: list[float]) -> None:
    """But where a rounding error decides."""
    moments = moments_of(steps)
    bucket = Bucket(rate, moments[0])
    level, at = Fraction(rate.count), Fraction(moments[0])
    for moment in moments:
        now = Fraction(moment)
        level = min(Fraction(rate.count), level + (now - at) * rate.count / Fraction(rate.seconds))
        at = now
        is_taken = bucket.take(moment)
        if abs(level - 1) > A_LITTLE:
            assert is_taken is (level >= 1)
        if is_taken:
            level -= 1


@given(rates, leaps)
def test_a_clock_that_jumps_gives_no_more_than_a_full_bucket_and_starves_nobody(rate: Rate, leaps: list[float]) -> None:
    moments = moments_of(leaps)
    bucket = Bucket(rate, moments[0])
    admitted = 0
    forward = Fraction(0)
    for before, now in pairwise([moments[0], *moments]):
        forward += max(Fraction(0), Fraction(now) - Fraction(before))
        admitted += bucket.take(now)
    assert admitted <= rate.count + forward * rate.count / Fraction(rate.seconds) + A_LITTLE
    # Wherever the clock stands now: one period from here, all of it is there again.
    later = moments[-1] + rate.seconds + 1e-3
    assert sum(bucket.take(later) for _ in range(rate.count + 5)) == rate.count


@given(rates, st.integers(0, 60), st.floats(0, 1e6))
def test_it_is_as_good_as_new_when_it_says_so(rate: Rate, wanted: int, pause: float) -> None:
    bucket = Bucket(rate, 1000.0)
    for _ in range(wanted):
        bucket.take(1000.0)
    later = max(bucket.full_at, 1000.0) + pause
    assert later <= 1000.0 + rate.seconds + pause + 1e-6
    assert sum(bucket.take(later) for _ in range(rate.count + 5)) == rate.count


@given(rates, steps)
def test_a_flood_is_beyond_ten_times_the_rate_and_nothing_below_it_is(rate: Rate, steps: list[float]) -> None:
    moments = moments_of(steps)
    limit = CommandLimit(rate, moments[0])
    verdicts = [limit.verdict(now) for now in moments]
    if len(moments) <= FLOOD * rate.count:
        assert Verdict.FLOOD not in verdicts
    admitted = [now for now, verdict in zip(moments, verdicts, strict=True) if verdict is Verdict.ADMITTED]
    assert admitted == taken(rate, moments), "being refused costs nothing of the rate"


@given(rates)
def test_ten_times_the_rate_at_once_is_the_last_that_is_refused(rate: Rate) -> None:
    limit = CommandLimit(rate, 5.0)
    verdicts = [limit.verdict(5.0) for _ in range(FLOOD * rate.count + 1)]
    assert verdicts.count(Verdict.ADMITTED) == rate.count
    assert verdicts.count(Verdict.REFUSED) == (FLOOD - 1) * rate.count
    assert verdicts[-1] is Verdict.FLOOD


@given(rates, st.lists(st.tuples(st.integers(0, 2 * MAX_BUCKETS), st.floats(0, 1)), max_size=150))
def test_however_many_channels_memory_and_each_channels_rate_are_bounded(
    rate: Rate, publications: list[tuple[int, float]]
) -> None:
    limits = PublishLimits()
    now = 1000.0
    admitted: dict[str, list[float]] = {}
    for number in range(MAX_BUCKETS + 5):  # a crowd of channels at once
        limits.take(f"crowd:{number}", rate, now)
    for number, pause in publications:
        now += pause
        if limits.take(f"crowd:{number}", rate, now):
            admitted.setdefault(f"crowd:{number}", []).append(now)
        assert len(limits) <= MAX_BUCKETS
    for moments in admitted.values():
        span = Fraction(moments[-1]) - Fraction(moments[0])
        assert len(moments) <= rate.count + span * rate.count / Fraction(rate.seconds) + A_LITTLE
