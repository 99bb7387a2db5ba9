"""Fan-out: one encoding a variant, one write a subscriber, and nobody gets a publication twice or out of turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hubbub.brokers.base import Notice
from hubbub.channels import ChannelRules
from hubbub.core import hub as hub_module
from hubbub.core.feed import Feed
from hubbub.core.hub import LOST, Channel, Hub, Subscription
from hubbub.core.ring import Ring, RingPool
from hubbub.model import ClientInfo, Position, Publication


class Offset(int):
    """A message: the offset of a publication, as long as that is."""

    size = 0

    def __len__(self) -> int:
        return self.size


class Numbers:
    """The variant of these tests: offsets in tuples. Counts what it encodes, and fails when told."""

    def __init__(self) -> None:
        self.encoded = 0
        self.is_broken = False

    def prepare(self, channel: str) -> str:
        return channel

    def encode(self, prepared: str, publication: Publication, epoch: str) -> int:
        if self.is_broken:
            raise ValueError("cannot be encoded")
        self.encoded += 1
        message = Offset(publication.offset)
        message.size = len(publication.data)
        return message

    def notice(self, channel: str, notice: Notice) -> str:
        return f"{notice.kind} {notice.info.client}"

    def frame(self, message: Any) -> tuple[Any, ...]:
        if self.is_broken:
            raise ValueError("cannot be framed")
        return (message,)

    def pack(self, messages: list[Any]) -> tuple[Any, ...]:
        return tuple(messages)


class Listener:
    """Writes down what it is given at each flush."""

    def __init__(self, variant: Numbers) -> None:
        self.variant = variant
        self.outbox: list[Any] = []
        self.writes: list[list[Any]] = []
        self.has_failed = False

    def flush(self) -> None:
        self.writes.append(self.outbox.copy())
        self.outbox.clear()

    def failed(self) -> None:
        self.has_failed = True

    @property
    def got(self) -> list[Any]:
        return [message for write in self.writes for buffer in write for message in buffer]


class Room:
    """A hub, one channel with memory, and a loop that turns when told."""

    def __init__(self) -> None:
        self.scheduled: list[Callable[[], None]] = []
        self.hub = Hub(self.scheduled.append)
        self.variant = Numbers()
        self.channel: Channel = self.hub.channel("a", ChannelRules(delivery="recent"))
        self.feed = self.channel.feed = Feed(Ring(RingPool()))
        self.feed.start(Position("A", 0))

    def listener(self, variant: Numbers | None = None) -> tuple[Listener, Subscription]:
        listener = Listener(variant or self.variant)
        subscription = Subscription(listener, self.channel)
        self.channel.subscriptions[listener] = subscription
        self.hub.go_live(subscription)
        return listener, subscription

    def publish(self, *offsets: int) -> None:
        for offset in offsets:
            for item in self.feed.announced(Publication(b"x", offset), "A").broadcast:
                self.hub.broadcast(self.channel, item)

    def turn(self) -> None:
        while self.scheduled:
            self.scheduled.pop(0)()


def test_what_is_published_in_one_turn_is_one_buffer_in_one_write() -> None:
    room = Room()
    one, _ = room.listener()
    two, _ = room.listener()
    room.publish(1, 2, 3)
    assert one.writes == []
    room.turn()
    assert one.writes == two.writes == [[(1, 2, 3)]]
    assert one.writes[0][0] is two.writes[0][0], "the same buffer for everybody"
    assert room.variant.encoded == 3


def test_what_a_single_listener_got_ends_where_it_stands_behind() -> None:
    room = Room()
    one, subscription = room.listener()
    room.publish(1, 2)
    room.hub.fall_behind(subscription)
    room.publish(3)
    room.turn()
    assert subscription.behind is not None
    assert one.got == list(range(1, subscription.behind + 1))


def test_each_variant_encodes_for_itself() -> None:
    room = Room()
    other = Numbers()
    room.listener()
    room.listener(other)
    room.publish(1)
    assert (room.variant.encoded, other.encoded) == (1, 1)


def test_nothing_is_encoded_for_nobody() -> None:
    room = Room()
    _, subscription = room.listener()
    room.hub.fall_behind(subscription)
    room.publish(1)
    assert room.variant.encoded == 0


def test_who_goes_live_does_not_get_the_open_batch() -> None:
    room = Room()
    one, _ = room.listener()
    room.publish(1)
    two, _ = room.listener()
    room.publish(2)
    room.turn()
    assert one.got == [1, 2]
    assert two.got == [2]


def test_who_falls_behind_stands_before_the_open_batch() -> None:
    room = Room()
    room.listener()
    one, subscription = room.listener()
    room.publish(1)
    room.turn()
    room.publish(2, 3)
    room.hub.fall_behind(subscription)
    room.turn()
    assert one.got == [1]
    assert subscription.behind == 1


def test_who_falls_behind_without_an_open_batch_stands_at_the_position() -> None:
    room = Room()
    _, subscription = room.listener()
    room.publish(1, 2)
    room.turn()
    room.hub.fall_behind(subscription)
    assert subscription.behind == 2


def test_who_leaves_does_not_get_the_open_batch() -> None:
    room = Room()
    room.listener()
    one, subscription = room.listener()
    room.publish(1)
    room.hub.leave(subscription)
    room.turn()
    assert one.got == []


def test_leaving_says_whether_it_was_the_last() -> None:
    room = Room()
    _, first = room.listener()
    _, second = room.listener()
    assert not room.hub.leave(first)
    assert room.hub.leave(second)


def test_a_batch_is_closed_at_its_limit() -> None:
    room = Room()
    room.listener()
    one, _ = room.listener()
    for offset in (1, 2, 3):
        for item in room.feed.announced(Publication(b"x" * (hub_module.MAX_BATCH // 2 + 1), offset), "A").broadcast:
            room.hub.broadcast(room.channel, item)
    room.turn()
    assert one.writes == [[(1, 2), (3,)]]


def test_an_answer_keeps_its_place_before_what_is_published_after_it() -> None:
    room = Room()
    one, _ = room.listener()
    room.hub.enqueue(one, ("answer",))
    room.publish(1)
    room.turn()
    assert one.got == ["answer", 1]


def test_one_that_fails_to_write_harms_nobody_else() -> None:
    room = Room()
    one, _ = room.listener()
    two, _ = room.listener()

    def fail() -> None:
        raise OSError

    one.flush = fail  # type: ignore[method-assign]
    room.publish(1)
    room.turn()
    assert two.got == [1]
    assert one.outbox == []
    assert one.has_failed, "it must not go on as if nothing was missing"


def test_what_is_published_while_a_flush_is_written_waits_for_the_next() -> None:
    room = Room()
    one, _ = room.listener()
    two, _ = room.listener()
    write = one.flush

    def publish_more() -> None:
        write()
        one.flush = write  # type: ignore[method-assign]
        room.publish(2)

    one.flush = publish_more  # type: ignore[method-assign]
    room.publish(1)
    room.turn()
    assert one.writes == two.writes == [[(1,)], [(2,)]]


def test_a_join_and_its_leave_in_one_flush_cancel_out() -> None:
    room = Room()
    one, subscription = room.listener()
    subscription.wants_notices = True
    for kind, client in (("join", "x"), ("join", "y"), ("leave", "x")):
        room.hub.notify(room.channel, Notice(kind, ClientInfo("", client)))  # type: ignore[arg-type]
    room.turn()
    assert one.got == ["join y"]


def test_a_crowd_is_not_told_who_comes_and_goes(monkeypatch: Any) -> None:
    monkeypatch.setattr(hub_module, "NOTICE_LIMIT", 1)
    room = Room()
    for _ in range(2):
        room.listener()[1].wants_notices = True
    room.hub.notify(room.channel, Notice("join", ClientInfo("", "x")))
    assert room.hub.notices_dropped == 1


# what cannot be delivered -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("breaks", ["encode", "frame"])
def test_who_misses_what_cannot_be_delivered_is_told_and_gets_nothing_more(breaks: str) -> None:
    room = Room()
    one, subscription = room.listener()
    sound, _ = room.listener(Numbers())
    if breaks == "frame":
        room.publish(1)
    room.variant.is_broken = True
    if breaks == "encode":
        room.publish(1)
    room.hub.close_batches()
    room.variant.is_broken = False
    room.publish(2)
    room.turn()
    assert one.has_failed
    assert subscription.behind == LOST
    assert (one.got, sound.got) == ([], [1, 2])


def test_who_lost_its_place_may_fall_behind_though_nobody_else_is_left() -> None:
    room = Room()
    _, one = room.listener()
    _, two = room.listener()
    room.variant.is_broken = True
    room.publish(1)
    room.hub.leave(two)
    room.hub.fall_behind(one)
    assert one.behind == LOST


def test_who_loses_its_place_while_a_flush_is_written_is_told_soon() -> None:
    room = Room()
    one, _ = room.listener()
    flush = one.flush

    def flush_and_break() -> None:
        flush()
        room.variant.is_broken = True
        room.publish(2)
        room.variant.is_broken = False

    one.flush = flush_and_break  # type: ignore[method-assign]
    room.publish(1)
    room.turn()
    assert one.has_failed


# bookkeeping --------------------------------------------------------------------------------------------------------


def test_a_batch_for_nobody_is_forgotten() -> None:
    room = Room()
    one, subscription = room.listener()
    room.publish(1)
    room.hub.fall_behind(subscription)
    room.turn()
    room.hub.go_live(subscription)
    room.publish(2)
    room.turn()
    assert one.got == [2]


def test_going_live_twice_is_being_live_once() -> None:
    room = Room()
    one, subscription = room.listener()
    room.hub.go_live(subscription)
    room.publish(1)
    room.turn()
    assert one.got == [1]


def test_an_audience_ends_with_the_last_of_its_variant() -> None:
    room = Room()
    room.listener()
    _, other = room.listener(Numbers())
    assert len(room.channel.audiences) == 2
    room.hub.leave(other)
    assert [audience.variant for audience in room.channel.audiences] == [room.variant]


def test_batches_are_as_large_again_after_one_was_closed() -> None:
    room = Room()
    one, _ = room.listener()
    for offset in (1, 2, 3, 4):
        item = Publication(b"x" * (hub_module.MAX_BATCH // 2), offset)
        assert room.feed.follows(item, "A")
        room.hub.broadcast(room.channel, item)
        if offset == 2:
            room.turn()
    room.turn()
    assert one.writes == [[(1, 2)], [(3, 4)]]


def test_a_crowd_is_written_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "SLICE", -1.0)  # the time is up whenever it is looked at
    room = Room()
    crowd = [room.listener()[0] for _ in range(2 * hub_module.LOOK + 1)]
    room.publish(1)
    for written in (hub_module.LOOK, 2 * hub_module.LOOK, 2 * hub_module.LOOK + 1):
        room.scheduled.pop(0)()
        assert sum(len(one.writes) for one in crowd) == written
    assert not room.scheduled
