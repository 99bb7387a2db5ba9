"""The order of the server, push by push: which copies are one publication, and what a refusal leaves."""

from __future__ import annotations

from collections import Counter

import pytest

from hubbub.redis.sieve import PROBES, Sieve
from hubbub.redis.wanted import BATCH, Saying, Wanted


class Heard:
    """A sieve with one granted channel, `c`, and two granted patterns."""

    def __init__(self) -> None:
        self.channels, self.patterns = granted("c"), granted("*", "c*")
        self.messages: list[tuple[str, bytes]] = []
        self.probes: list[tuple[bytes, bytes]] = []
        self.counts: Counter[str] = Counter()
        self.sieve = Sieve(
            self.channels,
            self.patterns,
            on_message=self.take,
            on_probe=lambda channel, data: self.probes.append((channel, data)),
            on_answer=lambda is_pattern, key, on: None,
            count=lambda event: self.counts.update([event]),
        )

    def take(self, channel: str, data: bytes) -> None:
        if data == b"poison":
            raise RuntimeError("poisoned")
        self.messages.append((channel, data))

    def push(self, *pushes: str) -> int:
        """How many publications came of them."""
        before = len(self.messages)
        for push in pushes:
            self.sieve.push([word.encode() for word in push.split()])
        return len(self.messages) - before


def granted(*names: str) -> Wanted:
    wanted = Wanted()
    wanted.begin()
    for name in names:
        wanted.want(name)
    for saying in wanted.unsaid():
        for key in saying.keys:
            wanted.granted(key, on=True)
    return wanted


@pytest.mark.parametrize(
    ("pushes", "publications"),
    [
        (["message c x"], 1),
        (["message c x", "pmessage * c x", "pmessage c* c x"], 1),
        (["message c x", "pmessage * c x", "message c x", "pmessage * c x"], 2),
        (["message c x", "message c x"], 2),
        (["pmessage * other x", "pmessage * other x"], 2),
        (["pmessage * c2 x", "pmessage c* c2 x", "pmessage * c2 x", "pmessage c* c2 x"], 2),
        (["pmessage * c2 x", "pmessage c* c2 x", "pmessage c* c2 x", "pmessage * c2 x"], 2),
        (["pmessage * c2 x", "pmessage c* c3 x"], 2),
        (["pmessage * c2 x", "psubscribe c* 3", "pmessage c* c2 x"], 2),
        (["message c x", "unsubscribe c 0", "pmessage * c x"], 2),
        (["message unknown x"], 0),
        (["pmessage unknown c2 x"], 0),
        (["pmessage unknown c2 x", "pmessage * c2 x"], 1),
    ],
)
def test_copies_of_one_publication_are_one(pushes: list[str], publications: int) -> None:
    assert Heard().push(*pushes) == publications


def test_what_the_channel_is_not_wanted_for_any_more_comes_by_its_pattern() -> None:
    heard = Heard()
    assert heard.push("message c x") == 1
    heard.channels.unwant("c")
    assert heard.push("message c x") == 0
    assert heard.push("pmessage * c x", "pmessage c* c x") == 1


def test_who_leaves_between_two_copies_does_not_get_the_second() -> None:
    heard = Heard()
    assert heard.push("message c x") == 1
    heard.channels.unwant("c")
    assert heard.push("pmessage * c x") == 0


def test_probes_are_no_publications() -> None:
    heard = Heard()
    probe = PROBES.decode() + "1"
    assert heard.push(f"message {probe} t", f"pmessage * {probe} t", f"pmessage * {PROBES.decode()}2 t") == 0
    assert heard.probes == [(probe.encode(), b"t")]


def test_a_channel_that_is_no_text_is_counted() -> None:
    heard = Heard()
    heard.sieve.push([b"pmessage", b"*", b"\xff", b"x"])
    assert heard.counts == {"redis_unreadable_channel": 1}
    assert heard.push("pmessage * ok x") == 1


def test_a_listener_that_fails_is_counted_and_gets_the_next() -> None:
    heard = Heard()
    assert heard.push("message c poison", "pmessage * c poison", "message c x") == 1
    assert heard.counts == {"redis_message_failed": 1}


def test_one_forbidden_name_is_found_among_many() -> None:
    wanted = Wanted()
    wanted.begin()
    for number in range(BATCH + 1):
        wanted.want(f"c{number}")
    many, one = wanted.unsaid()
    assert wanted.refused(many) == ([], [])
    alone = wanted.unsaid()
    assert alone == [Saying(True, [key]) for key in many.keys]
    settled, refused = wanted.refused(alone[0])
    assert [name.text for name in refused] == ["c0"]
    assert not settled
    for saying in [*alone[1:], one]:
        assert wanted.granted(saying.keys[0], on=True) is not None
    assert wanted.unsaid() == []
    assert b"c0" not in wanted.names
    wanted.again()
    assert wanted.unsaid() == []


def test_a_promised_name_that_is_refused_later_is_tried_again_and_owed_word() -> None:
    wanted = granted("a", "b")
    wanted.cut()
    wanted.begin()
    (saying,) = wanted.unsaid()
    wanted.refused(saying)
    a, b = wanted.unsaid()
    assert [name.text for name in wanted.refused(a)[1]] == ["a"]
    assert wanted.take_renewed() == []
    wanted.granted(b"b", on=True)
    assert wanted.take_renewed() == ["b"]
    assert wanted.unsaid() == []
    wanted.again()
    (again,) = wanted.unsaid()
    assert again == Saying(True, [b"a"])
    wanted.granted(b"a", on=True)
    assert wanted.take_renewed() == ["a"]
    assert b.keys == [b"b"]


def test_a_refusal_told_late_does_not_undo_what_came_after_it() -> None:
    wanted = Wanted()
    wanted.begin()
    name = wanted.want("c")
    (first,) = wanted.unsaid()
    wanted.unwant("c")
    wanted.unsaid()
    wanted.want("c")
    wanted.unsaid()
    wanted.granted(b"c", on=False)
    assert wanted.granted(b"c", on=True) is None
    assert wanted.refused(first) == ([name], [])
    assert name.is_settled


def test_renewed_names_that_were_left_meanwhile_get_no_word() -> None:
    wanted = granted("a", "b", "c", "d")
    wanted.cut()
    wanted.unwant("a")
    wanted.begin()
    (saying,) = wanted.unsaid()
    assert sorted(saying.keys) == [b"b", b"c", b"d"]
    wanted.granted(b"b", on=True)
    wanted.unwant("b")
    wanted.unwant("d")  # not granted yet: nobody waits for it
    wanted.granted(b"c", on=True)
    assert wanted.take_renewed() == ["c"]
    assert wanted.take_renewed() == []


def test_a_second_cut_before_the_word_owes_it_still() -> None:
    wanted = granted("a", "b")
    for _ in range(2):
        wanted.cut()
        wanted.begin()
        wanted.unsaid()
        wanted.granted(b"a", on=True)
        assert wanted.take_renewed() == []
    wanted.granted(b"b", on=True)
    assert sorted(wanted.take_renewed()) == ["a", "b"]
