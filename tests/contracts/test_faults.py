"""The unreliable broker does what its driver says. As a reliable one it passes the broker's suite."""

from __future__ import annotations

import asyncio

import pytest
from tests.contracts.broker import KEPT, fill, kept
from tests.contracts.conftest import Heard
from tests.faults import UnreliableBroker, finish, let_run

from hubbub.brokers.base import HoldsStreams, Notice, StreamOptions
from hubbub.brokers.memory import Exchange, MemoryBroker
from hubbub.clock import ManualClock, TimerWheel
from hubbub.errors import BackendError
from hubbub.model import ClientInfo, Position, Publication


class Net:
    """One unreliable node that listens to "c", and a reliable one that publishes."""

    def __init__(self) -> None:
        timers = TimerWheel(ManualClock())
        exchange = Exchange()
        self.heard = Heard()
        self.broker = UnreliableBroker(MemoryBroker(timers, exchange))
        self.other = MemoryBroker(timers, exchange)

    @property
    def offsets(self) -> list[int]:
        return self.heard.offsets("c")


@pytest.fixture
async def net() -> Net:
    net = Net()
    await net.broker.start(net.heard)
    await net.other.start(Heard())
    await net.broker.subscribe("c")
    return net


async def test_announcements_wait_for_the_driver(net: Net) -> None:
    await fill(net.other, "c", 5)
    assert net.offsets == []
    assert [announcement.channel for announcement in net.broker.pending] == ["c"] * 5
    net.broker.deliver(1)
    net.broker.drop(0)
    net.broker.repeat(2)
    net.broker.move(0, 2)  # 3 behind 5
    net.broker.deliver_all()
    assert net.offsets == [2, 5, 4, 5, 3]
    await fill(net.other, "c", 2)
    net.broker.drop_all()
    assert net.offsets == [2, 5, 4, 5, 3]


async def test_notices_wait_as_well(net: Net) -> None:
    notice = Notice("join", ClientInfo("ann", "c1"))
    await net.other.notify("c", notice)
    assert net.heard.notices == {}
    net.broker.deliver()
    assert net.heard.notices["c"] == [notice]


async def test_it_does_not_hold_streams(net: Net) -> None:
    assert not isinstance(net.broker, HoldsStreams)


async def test_held_call_is_answered_with_what_was_taken(net: Net) -> None:
    net.broker.hold("heads", "read")
    early = asyncio.create_task(net.broker.heads(["c"]))
    late = asyncio.create_task(net.broker.heads(["c"]))
    read = asyncio.create_task(net.broker.read("c", 0, 10))
    await let_run()
    assert [call.kind for call in net.broker.calls] == ["heads", "heads", "read"]
    await net.broker.take(net.broker.calls[0])
    await fill(net.other, "c", 3)
    await net.broker.release_all()
    assert net.broker.calls == []
    assert (await early)["c"].offset == 0
    assert (await late)["c"].offset == 3
    assert (await read).head.offset == 3


async def test_calls_are_released_in_any_order_and_pass_again_after_resume(net: Net) -> None:
    net.broker.hold("subscribe", "unsubscribe")
    leave = asyncio.create_task(net.broker.unsubscribe("c"))
    come = asyncio.create_task(net.broker.subscribe("c"))
    await let_run()
    first, second = net.broker.calls
    await net.broker.release(second)
    await net.broker.release(first)
    await asyncio.gather(leave, come)
    assert net.broker.channels == set()
    net.broker.resume("subscribe")
    await net.broker.subscribe("c")
    assert net.broker.channels == {"c"}


async def test_failed_call_may_have_been_done(net: Net) -> None:
    net.broker.hold("publish")
    calls = [asyncio.create_task(net.broker.publish("c", Publication(b"x"), KEPT)) for _ in range(2)]
    await let_run()
    undone, done = net.broker.calls
    await net.broker.take(done)
    net.broker.fail(undone)
    net.broker.fail(done)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [BackendError] * 2
    assert await kept(net.other, "c") == [1]


async def test_refused_calls_fail_at_once(net: Net) -> None:
    net.broker.refuse("read", "heads")
    with pytest.raises(BackendError):
        await net.broker.read("c", 0, 1)
    net.broker.accept("read")
    await net.broker.read("c", 0, 1)
    with pytest.raises(BackendError):
        await net.broker.heads(["c"])
    net.broker.accept()
    await net.broker.heads(["c"])


async def test_error_of_the_backend_is_the_answer() -> None:
    broker = UnreliableBroker(MemoryBroker(TimerWheel(ManualClock())))  # not started: subscribing fails
    broker.hold("subscribe")
    call = asyncio.create_task(broker.subscribe("c"))
    await let_run()
    await broker.release(broker.calls[0])
    with pytest.raises(BackendError):
        await call


async def test_caller_that_gives_up_is_forgotten(net: Net) -> None:
    net.broker.hold("read")
    asking = asyncio.create_task(net.broker.read("c", 0, 1))
    await let_run()
    call = net.broker.calls[0]
    asking.cancel()
    await let_run()
    assert net.broker.calls == []
    assert call.is_done
    await net.broker.release(call)
    net.broker.fail(call)


async def test_stopping_fails_who_waits_and_delivers_nothing_more(net: Net) -> None:
    await fill(net.other, "c", 1)
    net.broker.hold("read")
    asking = asyncio.create_task(net.broker.read("c", 0, 1))
    await let_run()
    await net.broker.stop()
    with pytest.raises(BackendError):
        await asking
    net.broker.deliver_all()
    net.broker.renew()
    assert (net.offsets, net.heard.renewed) == ([], [])


async def test_renewed_names_what_is_subscribed(net: Net) -> None:
    for channel in ("b", "a"):
        await net.broker.subscribe(channel)
    await net.broker.unsubscribe("b")
    net.broker.renew()
    assert net.heard.renewed == ["a", "c"]
    net.broker.renew(["c"])
    assert net.heard.renewed == ["a", "c", "c"]


async def test_forget_is_another_epoch(net: Net) -> None:
    await fill(net.other, "c", 3)
    before = (await net.other.heads(["c"]))["c"]
    net.broker.mischief.forget("c")
    after = (await net.other.heads(["c"]))["c"]
    assert after.offset == 0
    assert after.epoch != before.epoch


@pytest.mark.parametrize(
    ("offset", "left"), [(8, [6, 7, 8]), (6, [6]), (5, []), (2, []), (0, []), (99, [6, 7, 8, 9, 10])]
)
async def test_rewind_is_the_same_epoch_with_less(net: Net, offset: int, left: list[int]) -> None:
    options = StreamOptions(size=5, ttl=60)
    await fill(net.other, "c", 10, options)
    before = (await net.other.heads(["c"]))["c"]
    net.broker.mischief.rewind("c", offset)
    assert (await net.other.heads(["c"]))["c"] == Position(before.epoch, min(offset, 10))
    assert await kept(net.other, "c") == left
    await fill(net.other, "c", 1, options)
    assert await kept(net.other, "c") == [*left, min(offset, 10) + 1][-5:]


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 100])
async def test_trim_keeps_the_head(net: Net, keep: int) -> None:
    await fill(net.other, "c", 4)
    net.broker.mischief.trim("c", keep)
    assert await kept(net.other, "c") == [1, 2, 3, 4][max(0, 4 - keep) :]
    assert (await net.other.heads(["c"]))["c"].offset == 4
    await fill(net.other, "c", 1)
    assert await kept(net.other, "c") == [1, 2, 3, 4, 5][max(0, 4 - keep) :]


async def test_finish_runs_what_does_not_wait(net: Net) -> None:
    assert finish(net.broker.heads(["c"]))["c"].offset == 0
    net.broker.hold("heads")
    with pytest.raises(AssertionError):
        finish(net.broker.heads(["c"]))
    assert net.broker.calls == []
