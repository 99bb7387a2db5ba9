"""Wishes and sieve against a server of a few lines: whatever crosses on the way, who is wanted is heard, exactly once.

The server here does what Redis does: it takes the commands of one connection in order, answers each name, sends every
copy of a publication without anything in between, the patterns' in any order, and refuses the whole of a command that
names something forbidden.
"""

from __future__ import annotations

import random
from collections import deque
from fnmatch import fnmatchcase

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hubbub.redis.sieve import Sieve
from hubbub.redis.wanted import Name, Saying, Wanted

CHANNELS = ["a1", "a2", "b1", "b2"]
PATTERNS = ["a*", "*1", "*", "b2"]


class Copy(bytes):
    """The payload of one publication. All are equal, as bytes, and none is another: only order tells them apart."""

    def __new__(cls) -> Copy:
        return super().__new__(cls, b"same")


class Conversation(RuleBasedStateMachine):
    """One client, one server, and what is on its way between them in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.patterns = Wanted(), Wanted()
        self.sieve = self.new_sieve()
        self.is_connected = False
        self.upward: deque[tuple[Wanted, Saying]] = deque()
        self.downward: deque[list[bytes] | tuple[Wanted, Saying]] = deque()
        self.server: dict[int, set[bytes]] = {id(self.channels): set(), id(self.patterns): set()}
        self.forbidden: set[bytes] = set()
        #: Publications that must be heard: promised without a break since before they were published.
        self.due: dict[str, list[Copy]] = {channel: [] for channel in CHANNELS}
        self.heard: list[tuple[str, Copy]] = []
        self.to_renew: set[str] = set()
        self.connect()

    def new_sieve(self) -> Sieve:
        return Sieve(
            self.channels,
            self.patterns,
            on_message=self.take,
            on_probe=lambda channel, data: None,
            on_answer=self.answered,
            count=lambda event: None,
        )

    def take(self, channel: str, data: bytes) -> None:
        assert isinstance(data, Copy)
        assert not any(data is earlier for _, earlier in self.heard), f"{channel}: one publication twice"
        assert self.is_wanted(channel), f"{channel} is not wanted"
        self.heard.append((channel, data))

    def answered(self, is_pattern: bool, key: bytes, on: bool) -> None:
        (self.patterns if is_pattern else self.channels).granted(key, on=on)

    def ways(self, channel: str) -> list[Name]:
        """What could make it heard."""
        name = self.channels.names.get(channel.encode())
        patterns = [each for each in self.patterns.names.values() if fnmatchcase(channel, each.text)]
        return patterns if name is None else [name, *patterns]

    def is_wanted(self, channel: str) -> bool:
        return any(name.wanted for name in self.ways(channel))

    def is_promised(self, channel: str) -> bool:
        return any(name.promised and not name.owed for name in self.ways(channel))

    def wish_gone(self) -> None:
        """What nobody is promised any more need not be heard; one that comes back later is another wish."""
        for channel, due in self.due.items():
            if not self.is_promised(channel):
                due.clear()

    @rule(channel=st.sampled_from(CHANNELS), soon=st.booleans())
    def subscribe(self, channel: str, soon: bool) -> None:
        self.channels.want(channel)
        self.settle_if(soon)

    @rule(channel=st.sampled_from(CHANNELS), soon=st.booleans())
    def unsubscribe(self, channel: str, soon: bool) -> None:
        # The copy that the channel's other ways would bring may have been taken for this one already, and counts.
        self.channels.unwant(channel)
        self.wish_gone()
        self.to_renew.discard(channel)
        self.settle_if(soon)

    @rule(pattern=st.sampled_from(PATTERNS), soon=st.booleans())
    def watch(self, pattern: str, soon: bool) -> None:
        self.patterns.want(pattern)
        self.settle_if(soon)

    @rule(pattern=st.sampled_from(PATTERNS), soon=st.booleans())
    def unwatch(self, pattern: str, soon: bool) -> None:
        self.patterns.unwant(pattern)
        self.wish_gone()
        self.settle_if(soon)

    @precondition(lambda self: self.is_connected)
    @rule()
    def flush(self) -> None:
        for kind in (self.channels, self.patterns):
            self.upward.extend((kind, saying) for saying in kind.unsaid())

    @precondition(lambda self: self.upward)
    @rule()
    def server_takes_one(self) -> None:
        kind, saying = self.upward.popleft()
        subscribed = self.server[id(kind)]
        if saying.on and self.forbidden & set(saying.keys):
            self.downward.append((kind, saying))
            return
        letter = b"p" if kind is self.patterns else b""
        for key in saying.keys:
            (subscribed.add if saying.on else subscribed.discard)(key)
            self.downward.append([letter + (b"subscribe" if saying.on else b"unsubscribe"), key])

    @precondition(lambda self: self.is_connected)
    @rule()
    def settle(self) -> None:
        """Otherwise too little of what chance tries would ever be granted."""
        self.flush()
        while self.upward:
            self.server_takes_one()
        while self.downward:
            self.client_takes_some(20)

    def settle_if(self, soon: bool) -> None:
        if soon and self.is_connected:
            self.settle()

    @precondition(lambda self: self.is_connected)
    @rule(channels=st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=5), order=st.randoms(use_true_random=False))
    def publish_some(self, channels: list[str], order: random.Random) -> None:
        for channel in channels:
            self.publish(channel, order)

    def publish(self, channel: str, order: random.Random) -> None:
        data, key = Copy(), channel.encode()
        matching = [pattern for pattern in self.server[id(self.patterns)] if fnmatchcase(channel, pattern.decode())]
        copies = [[b"pmessage", pattern, key, data] for pattern in matching]
        order.shuffle(copies)
        if key in self.server[id(self.channels)]:
            copies.insert(0, [b"message", key, data])
        self.downward.extend(copies)
        if self.is_connected and self.is_promised(channel):
            self.due[channel].append(data)

    @precondition(lambda self: self.downward)
    @rule(count=st.integers(1, 20))
    def client_takes_some(self, count: int) -> None:
        for _ in range(min(count, len(self.downward))):
            item = self.downward.popleft()
            if isinstance(item, list):
                self.sieve.push(item)
                self.note_heard()
            else:
                kind, saying = item
                _, refused = kind.refused(saying)
                assert len(saying.keys) == 1 or not refused
        self.check_renewed()

    def note_heard(self) -> None:
        for channel, due in self.due.items():
            for data in list(due):
                if any(data is heard for _, heard in self.heard):
                    assert due[0] is data, f"{channel}: out of order, or one before it was lost"
                    due.pop(0)

    def check_renewed(self) -> None:
        renewed = self.channels.take_renewed()
        if renewed:
            assert len(renewed) == len(set(renewed))
            forbidden = {key.decode() for key in self.forbidden}
            assert set(renewed) <= self.to_renew
            assert self.to_renew - set(renewed) <= forbidden
            self.to_renew -= set(renewed)

    @rule(what=st.sampled_from([*["nothing"] * 5, "cut", "forbid", "allow"]), name=st.sampled_from(CHANNELS + PATTERNS))
    def disturb(self, what: str, name: str) -> None:
        """Seldom: most of what can go wrong takes a while to build up."""
        if what == "cut" and self.is_connected:
            self.cut()
        elif what == "forbid":
            self.forbid(name)
        elif what == "allow":
            self.forbidden.clear()
            self.channels.again()
            self.patterns.again()

    def cut(self) -> None:
        self.is_connected = False
        self.upward.clear()
        self.downward.clear()
        for subscribed in self.server.values():
            subscribed.clear()
        for due in self.due.values():
            due.clear()
        self.to_renew |= {name.text for name in self.channels.names.values() if name.promised}
        self.channels.cut()
        self.patterns.cut()
        self.sieve = self.new_sieve()

    @precondition(lambda self: not self.is_connected)
    @rule()
    def connect(self) -> None:
        self.is_connected = True
        self.channels.begin()
        self.patterns.begin()

    def forbid(self, name: str) -> None:
        """Redis cuts who listens to what it now forbids."""
        self.forbidden.add(name.encode())
        if self.is_connected and any(name.encode() in subscribed for subscribed in self.server.values()):
            self.cut()

    @invariant()
    def at_rest_everything_wanted_is_granted(self) -> None:
        if not self.is_connected or self.upward or self.downward:
            return
        for kind in (self.channels, self.patterns):
            if kind.has_unsaid or self.forbidden:
                return
        for kind in (self.channels, self.patterns):
            names = list(kind.names.values())
            assert all(name.is_settled and name.promised for name in names)
            assert {name.key for name in names} == self.server[id(kind)]
        assert not any(self.due.values()), "published while it was promised, and never heard"
        assert not self.to_renew

    def teardown(self) -> None:
        """Let everything that is under way arrive, on a connection that holds."""
        self.forbidden.clear()
        if not self.is_connected:
            self.connect()
        for _ in range(3):
            self.channels.again()
            self.patterns.again()
            self.settle()
        self.at_rest_everything_wanted_is_granted()


TestConversation = Conversation.TestCase


def test_names_are_said_in_batches_and_leave_nothing_behind() -> None:
    wanted = Wanted()
    names = [wanted.want(f"c{number}") for number in range(1200)]
    wanted.begin()
    sayings = wanted.unsaid()
    assert [len(saying.keys) for saying in sayings] == [512, 512, 176]
    assert wanted.unsaid() == []
    for name in names:
        assert wanted.granted(name.key, on=True) is name
        wanted.unwant(name.text)
    for saying in wanted.unsaid():
        assert not saying.on
        for key in saying.keys:
            assert wanted.granted(key, on=False) is None
    assert wanted.names == {}


def test_an_answer_with_others_behind_it_settles_nothing() -> None:
    wanted = Wanted()
    wanted.begin()
    name: Name = wanted.want("c")
    wanted.unsaid()
    wanted.unwant("c")
    wanted.unsaid()
    assert wanted.want("c") is name
    wanted.unsaid()
    assert wanted.granted(b"c", on=True) is None
    assert wanted.granted(b"c", on=False) is None
    assert wanted.granted(b"c", on=True) is name


def test_who_leaves_and_returns_unsaid_is_owed_word_after_a_cut() -> None:
    wanted = Wanted()
    wanted.begin()
    wanted.want("c")
    wanted.unsaid()
    wanted.granted(b"c", on=True)
    wanted.unwant("c")
    wanted.want("c")
    assert wanted.unsaid() == []
    wanted.cut()
    wanted.begin()
    assert [saying.keys for saying in wanted.unsaid()] == [[b"c"]]
    assert wanted.take_renewed() == []
    wanted.granted(b"c", on=True)
    assert wanted.take_renewed() == ["c"]
