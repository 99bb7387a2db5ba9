"""The delivery machine over brokers that do to announcements and calls what networks do; and rollbacks.

Answers for: `UnreliableDelivery`, on any backend. Refuses to know: what must hold, which is `delivery_machine`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.faults import Announcement, UnreliableBroker, UnreliableRemote
from tests.property.delivery_durable import DurableDelivery
from tests.property.delivery_terms import durable, indexes, kept, kinds, nodes, slots, streams

from hubbub.brokers.base import Broker
from hubbub.model import Publication


class UnreliableDelivery(DurableDelivery):
    """Over brokers that do to announcements and calls whatever networks do."""

    def wrap(self, broker: Broker) -> Broker:
        return UnreliableRemote(broker, is_direct=True)

    def broker(self, node: int) -> UnreliableRemote:
        return cast("UnreliableRemote", self.house.brokers[node % len(self.house.brokers)])

    @rule(node=nodes, is_direct=st.booleans())
    def change_the_network(self, node: int, is_direct: bool) -> None:
        self.broker(node).is_direct = is_direct

    def pick(self, node: int, index: int) -> int | None:
        pending = self.broker(node).pending
        return index % len(pending) if pending else None

    def on_announcement(self, node: int, index: int, act: Callable[[UnreliableBroker, int], object]) -> None:
        place = self.pick(node, index)
        if place is not None:
            self.house.call(lambda: act(self.broker(node), place))
            self.rest()

    @rule(node=nodes, channel=kept, fates=st.lists(st.sampled_from(["lost", "late", "twice", "now"]), max_size=6))
    def publish_badly(self, node: int, channel: str, fates: list[str]) -> None:
        """Each announcement meets its own fate on this node; what is late comes after the others."""
        broker = self.broker(node)
        was, broker.is_direct = broker.is_direct, False
        before = len(broker.pending)
        self.send(channel, len(fates), 1 - node, 1)
        for fate in fates:
            if before >= len(broker.pending):  # nobody listens here
                break
            if fate == "late":
                broker.move(before, len(broker.pending) - 1)
            elif fate == "lost":
                broker.drop(before)
            else:
                if fate == "twice":
                    self.house.call(lambda: broker.repeat(before))
                self.house.call(lambda: broker.deliver(before))
        broker.is_direct = was
        self.rest()

    @rule(slot=slots, node=nodes, channel=kept, count=st.integers(1, 4))
    def outrun(self, slot: int, node: int, channel: str, count: int) -> None:
        """A client comes back on another node before what it has seen is announced there."""
        user = self.slots[slot]
        broker = self.broker(node)
        self.cut(slot)
        self.connect(slot, 1 - node, user.is_personal)
        self.subscribe(slot, channel)
        was, broker.is_direct = broker.is_direct, False
        self.send(channel, count, 1 - node, 1)
        self.rest()
        self.cut(slot)
        self.connect(slot, node, user.is_personal)
        self.subscribe(slot, channel)
        broker.is_direct = was

    @rule(node=nodes, index=indexes)
    def deliver(self, node: int, index: int) -> None:
        self.on_announcement(node, index, lambda broker, place: broker.deliver(place))

    @rule(node=nodes, index=indexes)
    def repeat(self, node: int, index: int) -> None:
        def act(broker: UnreliableBroker, place: int) -> None:
            if has_offset(broker.pending[place]):
                broker.repeat(place)

        self.on_announcement(node, index, act)

    @rule(node=nodes, index=indexes)
    def lose(self, node: int, index: int) -> None:
        self.on_announcement(node, index, lambda broker, place: broker.drop(place))

    @rule(node=nodes)
    def lose_all(self, node: int) -> None:
        self.house.call(self.broker(node).drop_all)
        self.rest()

    @rule(node=nodes)
    def deliver_all(self, node: int) -> None:
        self.house.call(self.broker(node).deliver_all)
        self.rest()

    @rule(node=nodes)
    def leave(self, node: int) -> None:
        self.house.call(self.broker(node).leave)
        self.rest()

    @rule(node=nodes)
    def back(self, node: int) -> None:
        """Where it was away."""
        if self.broker(node).is_away:
            self.house.call(self.broker(node).back)
            self.rest()

    @rule(node=nodes, slot=slots, channel=durable)
    def cross(self, node: int, slot: int, channel: str) -> None:
        """Two commits are announced the other way round, at almost the same time: nobody reads because of it."""
        broker, number = self.broker(node), node % len(self.house.nodes)
        self.connect(slot, node, self.slots[slot].is_personal)
        self.subscribe(slot, "log:1")
        self.back(node)
        self.house.pass_time(1.1)
        self.rest()
        was, broker.is_direct = broker.is_direct, False
        asked, before = len(self.stores.asked), len(broker.pending)
        if not self.is_late(channel, node):
            self.send(channel, 2, node + 1, 1)
            self.rest()
            if len(broker.pending) == before + 2 and len(self.house.nodes) == 2:
                self.house.call(lambda: broker.deliver(before + 1))
                self.house.call(lambda: broker.deliver(before))
                assert not self.is_late(channel, node)
                assert (number, "read") not in self.stores.asked[asked:], "patience"
        broker.is_direct = was
        self.rest()

    @rule(node=nodes, slot=slots, channel=durable, counts=st.lists(st.integers(0, 3), min_size=1, max_size=3))
    def do_without(self, node: int, slot: int, channel: str, counts: list[int]) -> None:
        """The broker is away, and whoever is there has everything soon after it is published."""
        self.house.call(self.broker(node).leave)
        self.poll(node, slot, channel, counts)

    @rule(node=nodes)
    def renew(self, node: int) -> None:
        self.house.call(lambda: self.broker(node).renew())
        self.rest()

    @rule(node=nodes, kind=kinds)
    def hold(self, node: int, kind: Any) -> None:
        self.broker(node).hold(kind)

    @rule(node=nodes)
    def resume(self, node: int) -> None:
        self.broker(node).resume()

    @precondition(lambda self: any(self.broker(node).calls for node in (0, 1)))
    @rule(node=nodes, index=indexes, what=st.sampled_from(["take", "release", "release", "fail"]))
    def on_call(self, node: int, index: int, what: str) -> None:
        broker = self.broker(node)
        if not broker.calls:
            return
        call = broker.calls[index % len(broker.calls)]
        if what == "take":
            self.house.run(broker.take(call))
        elif what == "release":
            self.house.run(broker.release(call))
        else:
            self.house.call(lambda: broker.fail(call))
        self.rest()

    @rule(node=nodes, kind=kinds)
    def refuse(self, node: int, kind: Any) -> None:
        self.broker(node).refuse(kind)

    @rule(node=nodes)
    def accept(self, node: int) -> None:
        self.broker(node).accept()

    @rule(node=nodes, is_gone=st.booleans())
    def hurt_the_store(self, node: int, is_gone: bool) -> None:
        """It fails, or it does not answer."""
        number = node % len(self.house.nodes)
        self.stores.refuse(number) if is_gone else self.stores.hold(number)

    @rule(node=nodes)
    def mend_the_store(self, node: int) -> None:
        """What has waited for an answer goes on waiting."""
        self.stores.heal(node % len(self.house.nodes))

    @precondition(lambda self: self.stores.calls)
    @rule(index=indexes, what=st.sampled_from(["take", "release", "release", "fail"]))
    def on_question(self, index: int, what: str) -> None:
        """An answer of then comes now, or none."""
        _, call = self.stores.calls[index % len(self.stores.calls)]
        if what != "fail":
            self.house.run(call.take())
        if what == "release":
            self.house.call(call.answer)
        elif what == "fail":
            self.house.call(call.fail)
        self.rest()

    @rule(node=nodes)
    def wait_for_the_check(self, node: int) -> None:
        self.house.pass_time(41, step=5)
        self.rest()

    @rule(channel=streams, lost=st.integers(1, 3), node=nodes)
    def lose_the_newest(self, channel: str, lost: int, node: int) -> None:
        self.roll_back(channel, lost, node)

    def renew_all(self) -> None:
        for node in (0, 1):
            self.let_calls_pass(node)
            self.house.call(self.broker(node).back)
        self.house.pass_time(1.1)  # who could not ask a moment ago waits for a second
        self.rest()

    def let_calls_pass(self, node: int) -> None:
        """Of broker and store. A store's that was taken before has the answer of then."""
        broker = self.broker(node)
        broker.resume()
        broker.accept()
        self.house.run(broker.release_all())
        number = node % len(self.house.nodes)
        self.stores.heal(number)
        self.house.run(self.stores.release(number))
        self.rest()

    def heal(self) -> None:
        for node in (0, 1):
            self.broker(node).is_direct = True
            self.let_calls_pass(node)
            self.back(node)
            self.house.call(self.broker(node).deliver_all)
            self.rest()


def has_offset(announcement: Announcement) -> bool:
    """Without one nobody can tell a repetition; networks that repeat are below what carries those."""
    return isinstance(announcement.what, Publication) and announcement.what.offset > 0


class DeafDelivery(UnreliableDelivery):
    """Over brokers that can be asked, and of which nothing is ever heard: as if they were down from first to last."""

    def wrap(self, broker: Broker) -> Broker:
        remote = UnreliableRemote(broker, is_direct=True)
        remote.is_away = True
        return remote

    def back(self, node: int) -> None:
        """It never is."""

    def renew_all(self) -> None:
        for node in (0, 1):
            self.let_calls_pass(node)
            self.house.call(self.broker(node).renew)  # asks what streams are, as the check after silence does
        self.house.pass_time(1.1)  # who could not ask a moment ago waits for a second
        self.rest()
