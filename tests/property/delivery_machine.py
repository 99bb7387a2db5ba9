"""The promise of delivery, against a naive model: a list for each life of each channel (docs/design/delivery.md, 9).

One machine drives two nodes with real hubs, feeds, pumps and connections, over any backend (`delivery_grounds`), while
clients come, go, are cut, read slowly and return with their positions, and streams are trimmed, forgotten and restored
from old copies. When all is healed:

- what a subscriber got is a contiguous run of the model's list, from where it joined to the end, and
- each signal that it lost its place (2500, 3010, `recovered: false`) stands where the model did lose data.

The second is asked when the signal comes: a position is lost if its life is over, or if what follows it is not kept.
Since the next position starts anew, a loss that is told twice fails.

`Delivery` is over brokers as they are, `UnreliableDelivery` over ones that lose, repeat, reorder, delay and fail
(tests/faults.py); test_delivery_model, _unreliable and _redis run them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, cast
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.contracts.stores import MemoryStores, StoreBackend
from tests.fakes import SECRET, Entry, House
from tests.property.delivery_grounds import Backend, Copy, Look, MemoryBackend
from tests.property.delivery_stores import ModelStores
from tests.property.delivery_terms import (
    BUDGET,
    CHANNELS,
    DURABLE,
    KEPT,
    PERSONAL,
    RULES,
    SLOTS,
    Signal,
    Slot,
    channels,
    kept,
    nodes,
    slots,
    streams,
)

from hubbub.auth import connection_token
from hubbub.brokers.base import Broker, is_nodes_own
from hubbub.core import feeds, pump
from hubbub.core.feed import Broken, Feed
from hubbub.core.hub import Channel
from hubbub.core.node import Limits, Node
from hubbub.core.ring import Ring
from hubbub.errors import BackendError, PublishFailed
from hubbub.model import Position
from hubbub.protocol.session import State


class Delivery(RuleBasedStateMachine):
    """Over the backend's brokers themselves, and stores in memory unless others are given.

    With a store that is not shared all that happens on the second node happens on the only one.
    """

    def __init__(self, backend: Backend | None = None, stores: StoreBackend | None = None, count: int = 2) -> None:
        super().__init__()
        self.backend: Backend = backend or MemoryBackend()
        self.stores = ModelStores(stores or MemoryStores())
        self.backend.keep(self.stores)
        limits = Limits(write_budget=BUDGET)
        self.house = House(
            RULES, nodes=count, wrap=self.wrap, ground=self.backend, limits=limits, store=self.stores.make
        )
        self.slots = [Slot(number) for number in range(SLOTS)]
        self.model: dict[tuple[str, str], list[int]] = {}  # by channel and epoch
        self.copies: dict[str, Copy] = {}
        self.signals: list[Signal] = []
        self.ephemeral: set[int] = set()
        self.number = 0
        self.breaks: Counter[str] = Counter()
        self.small = ExitStack()
        for node in self.house.nodes:
            node.feeds._on_broken = partial(self.broke, node.feeds._on_broken)

    def broke(self, tell: Callable[[Channel, Broken], None], channel: Channel, broken: Broken) -> None:
        self.breaks[channel.name] += 1
        tell(channel, broken)

    # the model ------------------------------------------------------------------------------------------------------

    def wrap(self, broker: Broker) -> Broker:
        return broker

    def node(self, number: int) -> Node:
        return self.house.nodes[number % len(self.house.nodes)]

    def look(self, channel: str) -> Look:
        if channel not in DURABLE:
            return self.backend.look(channel)
        kept, (epoch, top) = self.house.run(self.stores.oldest(channel))
        return Look(epoch, kept[0].offset if kept else top + 1, top)

    def is_lost(self, channel: str, before: Position | None) -> bool:
        """Whether the source cannot say any more what came after `before`."""
        stream = self.look(channel)
        if before is None or before.epoch != stream.epoch:
            return True
        return not stream.first - 1 <= before.offset <= stream.top

    def published(self, channel: str, number: int, position: Position | None) -> None:
        """The source says where it stands."""
        if position is None:
            self.ephemeral.add(number)
            return
        life = self.model.setdefault((channel, position.epoch), [])
        life += [0] * (position.offset - len(life))
        assert life[position.offset - 1] == 0, "two publications in one place"
        life[position.offset - 1] = number

    # publishers -----------------------------------------------------------------------------------------------------

    @rule(channel=channels, count=st.integers(1, 6), node=nodes, size=st.sampled_from([1, 1, 60]))
    def publish(self, channel: str, count: int, node: int, size: int) -> None:
        self.send(channel, count, node, size)
        self.rest()

    @rule(channel=st.sampled_from(PERSONAL), count=st.integers(1, 3), node=nodes)
    def publish_personal(self, channel: str, count: int, node: int) -> None:
        self.send(channel, count, node, 1)
        self.rest()

    @rule(channel=st.sampled_from(["news:1", "last:1"]), node=nodes)
    def publish_ephemeral(self, channel: str, node: int) -> None:
        self.send(channel, 1, node, 1, ephemeral=True)
        self.rest()

    def send(self, channel: str, count: int, node: int, size: int, *, ephemeral: bool = False) -> None:
        self.house.run(self.sending(channel, count, node, size, ephemeral=ephemeral))

    async def sending(self, channel: str, count: int, node: int, size: int, *, ephemeral: bool = False) -> None:
        for _ in range(count):
            self.number += 1
            number = self.number
            payload = json.dumps([number, "x" * size]).encode()
            try:
                done = await self.node(node).publish(channel, payload, ephemeral=ephemeral)
            except PublishFailed as error:
                self.refused(channel, node, error)
                continue
            self.published(channel, number, done.position)
            assert done.position is None or done.position.offset == len(self.model[channel, done.position.epoch])

    def refused(self, channel: str, node: int, error: BackendError) -> None:
        """Only a store that was made to refuse does, and then nothing is written."""
        assert isinstance(error, PublishFailed)
        assert channel in DURABLE
        assert not self.is_well(node)
        assert error.is_retry_safe

    def is_well(self, node: int) -> bool:
        """Whether this node's store answers."""
        return self.stores.is_well(node % len(self.house.nodes))

    @rule(
        slot=slots,
        channel=channels,
        before=st.integers(0, 3),
        after=st.integers(0, 8),
        what=st.sampled_from(["subscribe", "unsubscribe", "stop", "drain"]),
    )
    def in_one_turn(self, slot: int, channel: str, before: int, after: int, what: str) -> None:
        """Publications, something that a client does, and more of them, before anything is written."""
        user = self.slots[slot]
        client = user.client
        is_in = client is not None and client.is_subscribed.get(channel, False)
        can = client is not None and client.connection.session.state is State.CONNECTED

        def act() -> None:
            assert client is not None
            if what == "stop":
                client.transport.kernel = 0
                # A transport may find out at any moment that it is full, not only while it is written to.
                client.transport.stop()
            elif what == "drain":
                client.transport.kernel = None
            elif channel in client.is_asking:
                pass
            elif what == "unsubscribe" and is_in:
                user.wanted.discard(channel)
                client.command("unsubscribe", channel=channel)
            elif what == "subscribe" and not is_in:
                user.wanted.add(channel)
                client.subscribe(channel, user.positions.get(channel) if channel in KEPT else None)

        async def work() -> None:
            await self.sending(channel, before, 0, 1)
            if can:
                act()
            await self.sending(channel, after, 0, 60)

        self.house.run(work())
        self.rest()

    # clients --------------------------------------------------------------------------------------------------------

    @initialize(
        personal=st.booleans(),
        first=st.lists(channels, max_size=4),
        second=st.lists(channels, max_size=4),
        node=nodes,
        is_small=st.booleans(),
    )
    def some_are_there(self, personal: bool, first: list[str], second: list[str], node: int, is_small: bool) -> None:
        if is_small:
            self.make_small()
        for channel in {*first, *second}:
            self.send(channel, 2, node, 1)
        self.connect(0, 0, personal)
        self.connect(1, 1, False)
        for slot, wanted in enumerate((first, second)):
            for channel in wanted:
                self.subscribe(slot, channel)

    def make_small(self) -> None:
        """Pages, reads and rings: a few publications are many."""
        self.small.enter_context(mock.patch.object(pump, "PAGE_ITEMS", 4))
        self.small.enter_context(mock.patch.object(feeds, "READ_LIMIT", 7))
        for node in self.house.nodes:
            node.feeds.rings.budget = 500

    @rule(slot=slots, node=nodes, personal=st.booleans())
    def connect(self, slot: int, node: int, personal: bool) -> None:
        user = self.slots[slot]
        if user.client is not None:
            return
        if personal != user.is_personal:
            for channel in PERSONAL:
                user.positions.pop(channel, None)
            user.is_personal = personal
        client = user.client = self.house.client(node % len(self.house.nodes), connect=False)
        client.positions = user.positions
        client.on_entry = lambda channel, entry, before: self.noted(user, channel, entry, before)
        subs = {channel: user.positions[channel] for channel in PERSONAL if channel in user.positions}
        token = connection_token(SECRET, f"user{slot}", channels=PERSONAL) if personal else ""
        self.house.call(lambda: client.connect(token, subs))
        self.rest()

    @rule(slot=slots, channel=channels)
    def subscribe(self, slot: int, channel: str) -> None:
        user = self.slots[slot]
        if user.client is None or user.client.is_subscribed.get(channel) or channel in user.client.is_asking:
            return
        if user.client.connection.session.state is not State.CONNECTED:
            return
        user.wanted.add(channel)
        client = user.client
        since = user.positions.get(channel) if channel in KEPT else None
        self.house.call(lambda: client.subscribe(channel, since))
        self.rest()

    @rule(slot=slots, channel=channels, forget=st.booleans())
    def unsubscribe(self, slot: int, channel: str, forget: bool) -> None:
        user = self.slots[slot]
        if user.client is None or not user.client.is_subscribed.get(channel) or channel in user.client.is_asking:
            return
        client = user.client
        user.wanted.discard(channel)
        self.house.call(lambda: client.command("unsubscribe", channel=channel))
        if forget and not client.is_subscribed[channel]:
            user.positions.pop(channel, None)
        self.rest()

    @rule(slot=slots)
    def cut(self, slot: int) -> None:
        user = self.slots[slot]
        if user.client is not None:
            self.house.call(user.client.connection.closed)
            self.gone(user)
            self.rest()

    def gone(self, user: Slot) -> None:
        """What its client had on the way is lost with the connection."""
        assert user.client is not None
        user.client.transport.goodbye = user.client.transport.goodbye or (0, "cut")
        user.client = None

    @rule(slot=slots, node=nodes, channel=channels, count=st.integers(0, 6), seconds=st.sampled_from([0, 0, 7]))
    def go_and_come_back(self, slot: int, node: int, channel: str, count: int, seconds: float) -> None:
        """What a reload or a tunnel does: gone, something is published, and back with its positions, all at once."""
        user = self.slots[slot]
        self.cut(slot)
        self.house.pass_time(seconds)
        self.rest()
        self.send(channel, count, 1 - node, 1)
        self.rest()
        self.connect(slot, node, user.is_personal)
        for wanted in sorted(user.wanted | {channel}):
            self.subscribe(slot, wanted)

    @rule(slot=slots, channel=channels, counts=st.lists(st.integers(1, 8), min_size=2, max_size=4))
    def read_slowly(self, slot: int, channel: str, counts: list[int]) -> None:
        """It stops, much is published, and it takes up to where that began."""
        self.connect(slot, slot % 2, self.slots[slot].is_personal)
        self.subscribe(slot, channel)
        self.kernel(slot, 0)
        for count in counts:
            self.send(channel, count, 0, 60)
            self.rest()

    @rule(slot=slots)
    def take_nothing(self, slot: int) -> None:
        self.kernel(slot, 0)

    @rule(slot=slots, room=st.integers(1, 300))
    def take_some(self, slot: int, room: int) -> None:
        self.kernel(slot, room)

    @rule(slot=slots)
    def take_all(self, slot: int) -> None:
        self.kernel(slot, None)

    def kernel(self, slot: int, room: int | None) -> None:
        client = self.slots[slot].client
        if client is not None:
            transport = client.transport

            def change() -> None:
                transport.kernel = room

            self.house.call(change)
            self.rest()

    # the source -----------------------------------------------------------------------------------------------------

    @rule(channel=kept, keep=st.integers(0, 3))
    def trim(self, channel: str, keep: int) -> None:
        """The oldest are gone: a smaller history, or its time was over."""
        if channel in DURABLE:
            self.house.run(self.stores.let_go(channel, self.look(channel).top - keep))
        else:
            self.backend.trim(channel, keep)
        self.rest()

    @rule(channel=streams)
    def forget(self, channel: str) -> None:
        """Another life begins."""
        self.backend.forget(channel)
        self.rest()

    @rule(channel=streams)
    def back_up(self, channel: str) -> None:
        """A copy, to be restored some time."""
        self.copies[channel] = self.backend.save(channel)

    @rule(channel=streams, lost=st.integers(0, 3), node=nodes)
    def restore(self, channel: str, lost: int, node: int) -> None:
        """A failover or a backup lost the newest, and the source noticed: what is left goes on under another epoch."""
        copy = self.copies.pop(channel, None) or self.backend.save(channel)
        self.send(channel, lost, node, 1)
        self.rest()
        now = self.backend.load(channel, copy, is_noticed=True)
        self.again(channel, copy, now)
        self.rest()

    def roll_back(self, channel: str, lost: int, node: int) -> None:
        """A failover lost the newest, and the source does not know: for backends whose nodes ask by themselves.

        Only where a node listens and stands at what was lost, which will notice; and before anything else is published
        (see docs/design/delivery.md, 9).
        """
        copy = self.copies.pop(channel, None) or self.backend.save(channel)
        self.send(channel, lost, node, 1)
        self.rest()
        is_old = copy.look.epoch != self.look(channel).epoch
        is_noticed = is_old or not any(self.stands_beyond(each, channel, copy.look.head) for each in (0, 1))
        now = self.backend.load(channel, copy, is_noticed=is_noticed)
        breaks = self.breaks[channel]
        self.renew_all()
        self.rest()
        if not is_noticed:
            now = self.look(channel)
            if now.epoch == copy.look.epoch:
                assert breaks == self.breaks[channel], "they were told, and it goes on under the same epoch"
                assert not any(self.stands_beyond(each, channel, copy.look.head) for each in (0, 1)), "nobody noticed"
                now = self.backend.load(channel, copy, is_noticed=True)  # the last one left before it was asked
        self.again(channel, copy, now)

    def stands_beyond(self, node: int, channel: str, head: Position) -> bool:
        place = self.node(node).hub.channels.get(channel)
        if place is None or place.feed is None or place.feed.position is None or not place.subscriptions:
            return False
        position = place.feed.position
        return position.epoch == head.epoch and position.offset > head.offset

    def renew_all(self) -> None:
        """All ties are cut and whole again, and no call is held."""
        raise NotImplementedError

    def again(self, channel: str, copy: Copy, now: Look) -> None:
        """What the copy holds has happened in another life, too."""
        if now.top:
            self.model[channel, now.epoch] = self.model[channel, copy.look.epoch][: now.top]

    # time -----------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.05, 1.1, 2.1, 6.0, 12.0]))
    def pass_time(self, seconds: float) -> None:
        self.house.pass_time(seconds)
        self.rest()

    # what must hold -------------------------------------------------------------------------------------------------

    def noted(self, user: Slot, channel: str, entry: Entry, before: Position | None) -> None:
        user.log(channel).append(entry)
        if entry.kind == "unrecovered" or (entry.kind == "unsubscribed" and entry.code == 2500):
            self.signals.append(Signal(user.number, channel, entry.kind, before))

    def rest(self) -> None:
        """Nothing more happens by itself. Look after connections that ended, and at what was signalled."""
        self.house.settle()
        for user in self.slots:
            client = user.client
            if client is None:
                continue
            if client.transport.goodbye is not None:
                code = client.closed_with
                if code == 3010:
                    lost = [channel for channel in PERSONAL if self.is_lost(channel, user.positions.get(channel))]
                    assert lost, "3010, and nothing was lost"
                else:
                    is_connected = client.connection.session.state is State.CONNECTED
                    assert code == (3008 if is_connected else 3502), f"closed with {code}"
                    assert not is_connected or client.transport.kernel is not None, "3008, and it takes all"
                self.gone(user)
            elif client.connection.session.state is State.REFUSED and not client.transport.unsent:
                assert client.error(1) == 100, client.replies[1]
                self.house.call(client.connection.closed)
                self.gone(user)
        for signal in self.signals:
            if not signal.channel.startswith("last"):
                assert self.is_lost(signal.channel, signal.before), f"nothing was lost: {signal}"
        self.signals.clear()

    @invariant()
    def nothing_waits_that_should_be_written(self) -> None:
        for node in self.house.nodes:
            assert not node.hub._dirty
            assert not node.hub._touched
        for user in self.slots:
            if user.client is not None:
                assert not user.client.connection.outbox
                # A page, and the answers to what was asked; all of them are small here but for the pages.
                assert user.client.transport.most_unsent < BUDGET + (64 << 10) + 4096

    @invariant()
    def queues_are_bounded(self) -> None:
        for node in self.house.nodes:
            pool = node.feeds.rings
            rings = [feed.stored for feed in self.all_feeds() if isinstance(feed.stored, Ring)]
            assert pool.used <= pool.budget or len(pool._rings) == 1
            assert sum(ring._bytes for ring in pool._rings) == pool.used
            for ring in rings:
                assert ring._bytes == sum(item.size for item in ring._items) <= 1 << 20
        for feed in self.all_feeds():
            assert len(feed._pending) <= Feed.PENDING_LIMIT
            assert len(feed._foreign) <= Feed.PENDING_LIMIT

    @invariant()
    def the_live_stand_where_the_feed_stands(self) -> None:
        for node in self.house.nodes:
            for channel in (each for each in node.hub.channels.values() if not is_nodes_own(each.name)):
                sat = [(seat, member) for audience in channel.audiences for seat, member in enumerate(audience.live)]
                live = {member for _, member in sat}
                assert len(live) == len(sat), "nobody sits twice"
                for seat, member in sat:
                    subscription = channel.subscriptions[member]
                    assert subscription.behind is None
                    assert subscription.seat == seat
                    assert cast("Any", member).subscriptions[channel.name] is subscription
                for member, subscription in channel.subscriptions.items():
                    assert (subscription.behind is None) == (member in live)
        for user in self.slots:
            client = user.client
            if client is None or client.transport.unsent:
                continue
            for name, subscription in client.connection.subscriptions.items():
                feed = subscription.channel.feed
                if subscription.behind is None and feed is not None and client.is_subscribed.get(name):
                    assert user.positions[name] == feed.position, name

    def all_feeds(self) -> list[Feed]:
        return [
            channel.feed
            for node in self.house.nodes
            for channel in node.hub.channels.values()
            if channel.feed is not None
        ]

    # the end --------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Nothing more goes wrong. Memory keeps what is listened to, so there no feed looks by itself."""
        if isinstance(self.backend, MemoryBackend):
            for node in self.house.nodes:
                self.house.call(partial(node.feeds.on_renewed, [*CHANNELS, *PERSONAL]))

    def teardown(self) -> None:
        try:
            self.settle_all()
            assert all(all(life) for life in self.model.values()), "the source's own numbers"
            for user in self.slots:
                for channel, log in user.logs.items():
                    self.check(user, channel, log)
            self.house.run(self.stores.close())
            self.house.close()
        except BaseException:
            self.house.__exit__(BaseException)
            raise
        finally:
            self.small.close()

    def settle_all(self) -> None:
        for _ in range(4):
            self.heal()
            for user in self.slots:
                self.kernel(user.number, None)
                self.connect(user.number, user.number % 2, user.is_personal)
            self.heal()
            self.house.pass_time(3)
            self.rest()
            for user in self.slots:
                for channel in user.wanted:
                    self.subscribe(user.number, channel)
            self.heal()
            self.house.pass_time(45, step=5)
            self.rest()
        for user in self.slots:
            assert user.client is not None
            expected = user.wanted | (set(PERSONAL) if user.is_personal else set())
            for channel in expected:
                assert user.client.is_subscribed.get(channel), f"{user.number} is not in {channel}: {user.log(channel)}"
        self.the_live_stand_where_the_feed_stands()

    def check(self, user: Slot, channel: str, log: list[Entry]) -> None:
        seen: set[int] = set()
        epoch, offset = "", 0
        is_in = is_first = False
        for entry in log:
            if entry.kind == "recovered" and not channel.startswith("last"):
                assert (entry.epoch, entry.offset) == (epoch, offset), f"recovered from elsewhere: {log}"
            if entry.kind in ("joined", "recovered", "unrecovered"):
                epoch, offset, is_in = entry.epoch, entry.offset, True
                seen.clear()  # what has no offset may reach another node later: once for each subscription
                is_first = True
            elif entry.kind == "pub":
                assert is_in
                number = entry.data[0]
                if not entry.offset:
                    assert number in self.ephemeral
                    assert number not in seen, "twice"
                    seen.add(number)
                    continue
                assert entry.epoch == epoch
                if channel.startswith("last"):
                    # A fresh subscriber gets the newest, at which it stands.
                    assert entry.offset > offset or (is_first and entry.offset == offset), "order is monotone"
                    is_first = False
                else:
                    assert entry.offset == offset + 1, f"a hole, or twice: {log}"
                assert number == self.model[channel, epoch][entry.offset - 1]
                offset = entry.offset
            elif entry.kind in ("unsubscribed", "left"):
                is_in = False
        assert user.client is not None
        if is_in and user.client.is_subscribed.get(channel) and not channel.startswith("live"):
            now = self.look(channel)
            assert Position(epoch, offset) == now.head, f"not at the end: {log}"
            if channel.startswith("last") and now.first <= now.top:
                newest = self.model[channel, epoch][-1]
                assert any(entry.kind == "pub" and entry.data[0] == newest for entry in log), "the newest is missing"
