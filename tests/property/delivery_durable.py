"""The delivery machine's durable channels: what only a store does, or has done to it.

Answers for: `DurableDelivery`, with publishers on several nodes at once and with keys, servers that die between commit
and broadcast or start anew, and logs that are swept or go back in time; and `LonelyDelivery`, where nothing is ever
announced. Refuses to know: what must hold, which is `delivery_machine`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule
from tests.contracts.stores import StoreBackend
from tests.property.delivery_grounds import Copy, LonelyBackend, Look
from tests.property.delivery_machine import Delivery
from tests.property.delivery_terms import DURABLE, durable, nodes, slots

from hubbub.brokers.base import StreamOptions
from hubbub.errors import PublishFailed
from hubbub.model import Position


class DurableDelivery(Delivery):
    """Over the backend's brokers themselves."""

    # publishers -----------------------------------------------------------------------------------------------------

    async def sending_keyed(self, channel: str, nodes: Sequence[int], size: int, key: str = "") -> None:
        """The same once on each of these nodes, all at once: with a key it is there once."""
        self.number += 1
        number = self.number
        payload, options = json.dumps([number, "x" * size]).encode(), StreamOptions(idempotency_key=key)
        calls = [self.node(node).publish(channel, payload, options=options) for node in nodes]
        places: list[tuple[Position, bool]] = []
        for node, done in zip(nodes, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if isinstance(done, PublishFailed):
                self.refused(channel, node, done)
                continue
            assert not isinstance(done, BaseException), done
            assert done.position is not None
            if not done.duplicate:
                self.published(channel, number, done.position)
            places.append((done.position, done.duplicate))
        assert len({position for position, _ in places}) <= 1, "the same key in two places"
        assert sum(not is_again for _, is_again in places) == min(1, len(places)), "one of them is the first"

    @rule(channel=durable, counts=st.lists(st.integers(1, 4), min_size=2, max_size=4), size=st.sampled_from([1, 60]))
    def publish_together(self, channel: str, counts: list[int], size: int) -> None:
        """Several at once, on both nodes: they share commits, and each has a place of its own."""

        async def work() -> None:
            ones = [[node] for node, count in enumerate(counts) for _ in range(count)]
            await asyncio.gather(*(self.sending_keyed(channel, one, size) for one in ones))

        self.house.run(work())
        self.rest()

    @rule(channel=durable, nodes=st.lists(nodes, min_size=1, max_size=3), again=st.lists(nodes, max_size=2))
    def publish_again(self, channel: str, nodes: list[int], again: list[int]) -> None:
        """Who has no answer publishes again, with the same key, wherever."""
        before = self.look(channel).top
        self.house.run(self.sending_keyed(channel, nodes, 1, key := f"key{self.number}"))
        self.rest()
        if self.look(channel).top > before:
            for node in filter(self.is_well, again):
                options = StreamOptions(idempotency_key=key)
                done = self.house.run(self.node(node).publish(channel, b"[]", options=options))
                assert done.duplicate
                assert done.position == self.look(channel).head
        self.rest()

    @rule(channel=durable, count=st.integers(1, 3))
    def commit_and_die(self, channel: str, count: int) -> None:
        """A server is killed between commit and broadcast."""
        if not self.stores.is_shared:
            return
        for _ in range(count):
            self.number += 1
            data = json.dumps([self.number, ""]).encode()
            done = self.house.run(self.stores.write_and_die(self.house.clock, channel, data))
            self.published(channel, self.number, done.position)
        self.rest()

    # clients --------------------------------------------------------------------------------------------------------

    @rule(slot=slots, node=nodes, channel=durable, count=st.sampled_from([3, 4, 5, 7, 8, 9, 15, 22]))
    def miss_pages(self, slot: int, node: int, channel: str, count: int) -> None:
        """Back after so long that nobody has in memory what it missed; where pages are small, they are many."""
        user = self.slots[slot]
        self.connect(slot, node, user.is_personal)
        self.subscribe(slot, "log:1")
        self.cut(slot)
        self.house.pass_time(7)
        self.send(channel, count, 1 - node, 1)
        for each in self.house.nodes:
            each.feeds.trim(channel)  # its ring is empty
        self.rest()
        self.connect(slot, node, user.is_personal)
        self.subscribe(slot, "log:1")

    # the store ------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 5, 60]))
    def sweep(self, seconds: float) -> None:
        """What was kept for long enough is gone."""
        self.house.run(self.stores.sweep(seconds))
        self.rest()

    @rule(lost=st.integers(0, 3))
    def go_back(self, lost: int) -> None:
        """A standby without the newest was promoted, or a backup restored: all of the store goes on in another life."""
        if self.stores.is_shared:  # a file that is open goes nowhere
            before = self.looks()
            self.house.run(self.stores.go_back(_without(lost, before)))
            self.went_back(before)

    @rule(node=nodes, lost=st.sampled_from([None, None, 0, 1, 3]))
    def restart(self, node: int, lost: int | None) -> None:
        """A server stops and starts; meanwhile its store may go back in time."""
        server = self.node(node)
        for user in self.slots:
            if user.client is not None and user.client.node is server:
                self.cut(user.number)
        self.let_calls_pass(node)
        before = self.looks()
        self.finish(server.stop())
        if lost is not None:
            self.house.run(self.stores.go_back(_without(lost, before)))
        self.house.forgives = lost is not None  # a store that knows it says so
        self.finish(server.start())
        errors = self.house.errors.records
        errors[:] = [error for error in errors if "is an older copy" not in error]
        self.house.forgives = False
        if lost is not None:
            self.went_back(before)
        self.rest()

    def let_calls_pass(self, node: int) -> None:
        """No call of this node is held or refused."""

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """What may have to wait for time."""
        task = self.house.begin(work)
        for _ in range(100):
            if task.done():
                break
            self.house.pass_time(0.5)
        task.result()

    def looks(self) -> dict[str, Look]:
        return {channel: self.look(channel) for channel in DURABLE}

    def went_back(self, before: dict[str, Look]) -> None:
        for channel, look in before.items():
            now = self.look(channel)
            assert now.epoch != look.epoch
            self.again(channel, Copy(look, None), now)
        self.rest()

    @rule(channel=durable)
    def replace_epoch(self, channel: str) -> None:
        """The store went back in time, and says so; nothing is announced."""
        if not self.stores.is_shared:
            return  # nobody else can
        before = self.look(channel)
        self.house.run(self.stores.replace_epoch(channel, before.epoch))
        now = self.look(channel)
        assert now == before._replace(epoch=now.epoch) != before
        self.again(channel, Copy(before, None), now)
        self.rest()

    # time -----------------------------------------------------------------------------------------------------------

    @rule()
    def look_at_the_store(self) -> None:
        """Whatever became of announcements: two looks at it later everything is there."""
        self.house.pass_time(13.2, step=1.1)  # more than a second each: a timer is never early
        self.house.pass_time(0.05)  # patience, after the last look
        self.rest()
        self.nobody_lags_behind_the_store()

    def nobody_lags_behind_the_store(self) -> None:
        for node in range(len(self.house.nodes)):
            for channel in DURABLE:
                self.does_not_lag(channel, node)

    def poll(self, node: int, slot: int, channel: str, counts: list[int]) -> None:
        """Where nothing is announced: a node has its own commits at once, and a second later everybody has them."""
        self.subscribe(slot, "log:1")
        for count in counts:
            own = node + count
            was_late = self.is_late(channel, own)
            self.send(channel, count, own, 1)
            self.rest()
            assert was_late or not self.is_late(channel, own), f"{channel} lags behind its own node"
            self.house.pass_time(1.1)
            self.house.pass_time(0.05)  # patience: announcements of what it finds might be on their way
            self.rest()
            self.does_not_lag(channel, node)

    def does_not_lag(self, channel: str, node: int) -> None:
        """Who listens there has all that the store has, if it answers."""
        assert not self.is_well(node) or not self.is_late(channel, node), f"{channel} lags"

    def is_late(self, channel: str, node: int) -> bool:
        """Whether there is more in the store than listeners have there."""
        place = self.node(node).hub.channels.get(channel)
        position = place.feed.position if place is not None and place.feed is not None else None
        return position is not None and position != self.look(channel).head


class LonelyDelivery(DurableDelivery):
    """Over nodes that have only a store in common, which they poll."""

    def __init__(self, stores: StoreBackend | None = None, count: int = 2) -> None:
        super().__init__(LonelyBackend(), stores, count)

    @rule(node=nodes, slot=slots, channel=durable, counts=st.lists(st.integers(0, 3), min_size=1, max_size=3))
    def look_each_second(self, node: int, slot: int, channel: str, counts: list[int]) -> None:
        """Whoever is there has everything soon after it is published."""
        self.poll(node, slot, channel, counts)


def _without(lost: int, looks: dict[str, Look]) -> dict[str, int]:
    """Where logs end that have lost so many."""
    return {channel: max(0, look.top - lost) for channel, look in looks.items()}
