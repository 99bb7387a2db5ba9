"""Clocks, and the wheel: never early, never lost, and one that fails harms no other."""

from __future__ import annotations

import gc
import logging
import random
import time
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.clock import ManualClock, SystemClock, Timer, TimerWheel


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def wheel(clock: ManualClock) -> TimerWheel:
    return TimerWheel(clock)


def test_the_system_clock_reads_both_clocks() -> None:
    clock = SystemClock()
    assert abs(clock.now() - time.monotonic()) < 5
    assert abs(clock.time() - time.time()) < 5


def test_the_manual_clock_moves_when_told(clock: ManualClock) -> None:
    now, unix = clock.now(), clock.time()
    clock.move(5)
    clock.jump(-100)
    assert (clock.now(), clock.time()) == (now + 5, unix - 95)
    clock.move(0.5)
    assert (clock.now(), clock.time()) == (now + 5.5, unix - 94.5)


def test_an_empty_wheel(wheel: TimerWheel) -> None:
    assert len(wheel) == 0
    assert wheel.next_deadline() is None
    assert wheel.advance() == 0


def test_timers_run_when_due_and_once(clock: ManualClock, wheel: TimerWheel) -> None:
    ran: list[str] = []
    wheel.after(2, lambda: ran.append("two"))
    wheel.after(1, lambda: ran.append("one"))
    assert len(wheel) == 2
    clock.move(0.999)
    assert (wheel.advance(), ran) == (0, [])
    clock.move(0.002 + wheel.resolution)
    assert (wheel.advance(), ran) == (1, ["one"])
    clock.move(10)
    assert (wheel.advance(), ran) == (1, ["one", "two"])
    assert (wheel.advance(), len(wheel), wheel.next_deadline()) == (0, 0, None)


@given(
    st.lists(st.floats(0, 1000), min_size=1),
    st.sampled_from([0.001, 0.025, 1.0]),
    st.floats(0, 1e9),
)
def test_never_early_and_late_by_one_bucket_at_most(delays: list[float], resolution: float, start: float) -> None:
    clock = ManualClock(now=start)
    wheel = TimerWheel(clock, resolution)
    late: list[float] = []
    for delay in delays:
        when = start + delay
        wheel.after(delay, lambda when=when: late.append(clock.now() - when))  # type: ignore[misc]
    while (deadline := wheel.next_deadline()) is not None:
        clock.move(max(deadline - clock.now(), 0))
        wheel.advance()
    assert len(late) == len(delays)
    slack = 1e-6  # of floats, at clocks of years
    assert all(-slack <= each <= resolution + slack for each in late)


def test_deadlines_of_the_past_run_at_the_next_advance(clock: ManualClock, wheel: TimerWheel) -> None:
    ran: list[int] = []
    wheel.at(clock.now() - 50, lambda: ran.append(1))
    wheel.at(-1, lambda: ran.append(2))
    wheel.after(-5, lambda: ran.append(3))
    assert wheel.advance() == 3
    assert sorted(ran) == [1, 2, 3]


def test_buckets_run_in_the_order_of_their_deadlines(clock: ManualClock, wheel: TimerWheel) -> None:
    ran: list[int] = []
    order = list(range(100))
    random.shuffle(order)
    for at in order:
        wheel.after(at, lambda at=at: ran.append(at))  # type: ignore[misc]
    clock.move(1000)
    assert wheel.advance() == 100
    assert ran == sorted(ran)


def test_a_cancelled_timer_does_not_run(clock: ManualClock, wheel: TimerWheel) -> None:
    ran: list[int] = []
    timer = wheel.after(1, lambda: ran.append(1))
    timer.cancel()
    timer.cancel()
    assert (len(wheel), wheel.next_deadline()) == (0, None)
    clock.move(5)
    assert (wheel.advance(), ran) == (0, [])


def test_cancelling_after_it_ran_is_harmless(clock: ManualClock, wheel: TimerWheel) -> None:
    timer = wheel.after(1, lambda: None)
    clock.move(5)
    wheel.advance()
    timer.cancel()
    wheel.after(1, lambda: None)
    assert len(wheel) == 1


def test_a_callback_may_cancel_another_of_the_same_bucket(clock: ManualClock, wheel: TimerWheel) -> None:
    timers: list[Timer] = []

    def cancel_all() -> None:
        for timer in timers:
            timer.cancel()

    timers += [wheel.after(1, cancel_all), wheel.after(1, cancel_all)]
    clock.move(5)
    assert wheel.advance() == 1


def test_a_callback_may_arm_again(clock: ManualClock, wheel: TimerWheel) -> None:
    ran: list[float] = []

    def again() -> None:
        ran.append(clock.now())
        wheel.after(1, again)

    wheel.after(1, again)
    for _ in range(5):
        clock.move(1.1)
        assert wheel.advance() == 1
    assert len(ran) == 5
    assert len(wheel) == 1


def test_arming_for_now_inside_a_callback_does_not_spin(clock: ManualClock, wheel: TimerWheel) -> None:
    ran: list[int] = []

    def again() -> None:
        ran.append(1)
        assert len(ran) < 100
        wheel.after(0, again)

    wheel.after(0, again)
    clock.move(wheel.resolution)
    wheel.advance()
    assert len(ran) <= 2


def test_one_that_raises_harms_no_other(
    clock: ManualClock, wheel: TimerWheel, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []

    def broken() -> None:
        raise RuntimeError("of the callback")

    for callback in (broken, lambda: ran.append(1), broken, lambda: ran.append(2)):
        wheel.after(1, callback)
    clock.move(5)
    assert wheel.advance() == 4
    assert ran == [1, 2]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "broken" in caplog.records[0].message
    assert caplog.records[0].exc_info is not None


def test_the_driver_is_told_when_the_next_deadline_comes_forward(clock: ManualClock, wheel: TimerWheel) -> None:
    told: list[float | None] = []
    wheel.on_earlier = lambda: told.append(wheel.next_deadline())
    wheel.after(10, lambda: None)
    wheel.after(20, lambda: None)
    wheel.after(10, lambda: None)
    assert len(told) == 1
    wheel.after(5, lambda: None)
    assert len(told) == 2
    assert told[1] is not None
    assert told[0] is not None
    assert told[1] < told[0]


def test_the_driver_is_told_after_the_first_was_cancelled(clock: ManualClock, wheel: TimerWheel) -> None:
    told: list[object] = []
    wheel.on_earlier = lambda: told.append(wheel.next_deadline())
    wheel.after(10, lambda: None).cancel()
    assert wheel.next_deadline() is None
    wheel.after(20, lambda: None)
    assert len(told) == 2


def test_the_driver_sees_the_timer_that_it_is_told_of(clock: ManualClock, wheel: TimerWheel) -> None:
    seen: list[float | None] = []
    wheel.on_earlier = lambda: seen.append(wheel.next_deadline())
    wheel.after(10, lambda: None)
    assert seen == [wheel.next_deadline()]
    assert seen[0] is not None


def test_a_timer_armed_by_the_driver_call_is_not_lost(clock: ManualClock, wheel: TimerWheel) -> None:
    ran: list[int] = []
    wheel.on_earlier = wheel.next_deadline
    wheel.after(1, lambda: ran.append(1))
    clock.move(5)
    assert (wheel.advance(), ran) == (1, [1])


def test_the_wall_clock_may_jump(clock: ManualClock, wheel: TimerWheel) -> None:
    wheel.after(10, lambda: None)
    clock.jump(1e9)
    assert wheel.advance() == 0
    clock.jump(-2e9)
    clock.move(11)
    assert wheel.advance() == 1


def test_cancelled_timers_leave_nothing_behind(clock: ManualClock, wheel: TimerWheel) -> None:
    class Owner:
        def call(self) -> None: ...

    owner = Owner()
    gone = weakref.ref(owner)
    timer = wheel.after(1000, owner.call)
    timer.cancel()
    del owner
    gc.collect()
    assert gone() is None
    assert timer.callback is None


def test_moving_a_deadline_again_and_again_does_not_pile_up(clock: ManualClock, wheel: TimerWheel) -> None:
    """What a ping does to its connection's deadline."""
    timer = wheel.after(25, lambda: None)
    for _ in range(10_000):
        timer.cancel()
        clock.move(0.01)
        timer = wheel.after(25, lambda: None)
        wheel.advance()
    assert len(wheel) == 1
    assert len(wheel._order) <= 25 / wheel.resolution + 2
