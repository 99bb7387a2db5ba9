"""Group commit, without a database: who waits for one that fails, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from hubbub.clock import ManualClock
from hubbub.errors import PublishFailed
from hubbub.model import Position, Publication, Published
from hubbub.stores.base import Draft, Written
from hubbub.stores.writer import PATIENCE, STEP, Writer


class Away:
    """A Table that takes all the patience it is given, and writes nothing, `failures` times."""

    def __init__(self, clock: ManualClock, failures: int) -> None:
        self.failures = failures
        self.batches: list[list[bytes]] = []
        self.during: list[tuple[float, Draft]] = []  # what is published meanwhile, and when
        self.writer: Writer | None = None
        self.answers: list[tuple[float, asyncio.Future[Published]]] = []
        self.took: list[float] = []  # until each had its answer
        self._clock = clock

    def publish(self, draft: Draft) -> None:
        assert self.writer is not None
        began, future = self._clock.now(), self.writer.append(draft)
        future.add_done_callback(lambda _: self.took.append(self._clock.now() - began))
        self.answers.append((began, future))

    async def commit(self, drafts: Sequence[Draft], patience: float) -> Sequence[Written]:
        self.batches.append([each.publication.data for each in drafts])
        if len(self.batches) > self.failures:
            return [Written(Position("e", number)) for number, _ in enumerate(drafts, 1)]
        end = self._clock.now() + patience
        while self.during and self.during[0][0] <= end:
            at, draft = self.during.pop(0)
            self._clock.move(max(0.0, at - self._clock.now()))
            self.publish(draft)
        self._clock.move(end - self._clock.now())
        await asyncio.sleep(0)
        raise PublishFailed("not published, publish again: away", is_retry_safe=True)


def draft(number: int) -> Draft:
    return Draft("c", Publication(b"%d" % number))


async def test_each_waits_for_a_store_that_is_away_and_none_much_longer() -> None:
    clock = ManualClock()
    table = Away(clock, 1000)
    writer = table.writer = Writer(table, on_committed=lambda *told: None, clock=clock)
    start = clock.now()
    table.during = [(start + number * 0.25, draft(number)) for number in range(1, 80)]
    table.publish(draft(0))
    while len(table.answers) < 80:
        await asyncio.wait([table.answers[-1][1]])
    await asyncio.wait([future for _, future in table.answers])
    await asyncio.sleep(0)  # who counts hears of the last one
    assert len(table.took) == 80
    assert min(table.took) >= PATIENCE - STEP
    assert max(table.took) <= PATIENCE + 2 * STEP
    assert all(future.exception() is not None for _, future in table.answers)
    await writer.stop()


async def test_one_that_is_back_writes_all_that_waited_in_order() -> None:
    clock = ManualClock()
    table = Away(clock, 1)
    writer = table.writer = Writer(table, on_committed=lambda *told: None, clock=clock)
    table.during = [(clock.now() + number * 0.25, draft(number)) for number in range(1, 20)]
    table.publish(draft(0))
    with pytest.raises(PublishFailed):
        await table.answers[0][1]
    await asyncio.gather(*(future for _, future in table.answers[1:]))
    assert [int(data) for batch in table.batches[1:] for data in batch] == list(range(1, 20))
    assert len(table.batches) == 3  # once it writes, they share a commit
    await writer.stop()
