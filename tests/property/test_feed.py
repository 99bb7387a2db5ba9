"""The feed alone, against a stream: whatever is lost, repeated, late or out of order, what it tells is contiguous."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hubbub.core.feed import Feed, Question, Step
from hubbub.core.ring import Ring, RingPool
from hubbub.model import Position, Publication
from hubbub.source import Known, Page, is_altered


class FeedMachine(RuleBasedStateMachine):
    """The source is a list that may be trimmed, begun anew, or lose its end and go on; it answers when it pleases."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self.items: list[Publication] = []
        self.first = 1
        self.air: list[tuple[Publication, str]] = []
        self.lives = 0  # how often the end was lost
        self.answers: dict[Question, Position | Page | bool] = {}
        self.known: Known | None = None  # what was asked about
        self.asked: dict[Question, int] = {}
        self.feed = Feed(Ring(RingPool(), 5000))
        self.told = Position("", -1)
        self.apply(self.feed.start(self.head))

    @property
    def head(self) -> Position:
        return Position(f"e{self.epoch}", len(self.items))

    def page(self, after: int, limit: int) -> Page:
        kept = [item for item in self.items if item.offset > after and item.offset >= self.first]
        return Page(kept[:limit], self.head)

    def apply(self, step: Step) -> None:
        if self.told.offset < 0:
            assert self.feed.position is not None
            self.told = Position(self.feed.position.epoch, self.feed.position.offset - len(step.broadcast))
        if step.broken is not None:
            assert step.broken.old == self.told
            lost = step.broken.old.epoch != self.head.epoch or self.first > step.broken.old.offset + 1
            assert lost, f"nothing was lost: {step}"
            self.told = step.broken.new
        for item in step.broadcast:
            assert item.offset == self.told.offset + 1
            self.told = Position(self.told.epoch, item.offset)
            if self.told.epoch == self.head.epoch:
                assert item == self.items[item.offset - 1]
        assert self.feed.position == self.told
        if step.ask is not None:
            self.ask(step.ask)

    def ask(self, question: Question) -> None:
        position = self.feed.ask(question)
        if position is not None:
            assert question not in self.asked
            self.asked[question] = position.offset
            if question == "verify":
                self.known = self.feed.in_doubt

    def look(self, question: Question, limit: int) -> Position | Page | bool:
        """The source's answer, as of now."""
        if question == "verify":
            assert self.known is not None, "only what is in doubt is verified"
            return is_altered(self.known, self.page(self.known.publication.offset - 1, 1))
        if question == "read":
            return self.page(self.asked["read"], limit)
        if question == "replace" and self.told.epoch == self.head.epoch:
            self.epoch += 1
        return self.head

    def take(self, question: Question, answer: Position | Page | bool) -> Step:
        if isinstance(answer, Page):
            return self.feed.read_done(answer)
        if isinstance(answer, bool):
            return self.feed.verified(is_altered=answer)
        return self.feed.replaced(answer) if question == "replace" else self.feed.head_seen(answer)

    @rule(count=st.integers(1, 4))
    def publish(self, count: int) -> None:
        for _ in range(count):
            item = Publication(b"%d.%d" % (self.epoch, self.lives), len(self.items) + 1)
            self.items.append(item)
            self.air.append((item, self.head.epoch))

    @precondition(lambda self: self.air)
    @rule(index=st.integers(0, 9), how=st.sampled_from(["arrive", "arrive", "lose", "repeat"]))
    def announcement(self, index: int, how: str) -> None:
        place = index % len(self.air)
        item, epoch = self.air[place] if how == "repeat" else self.air.pop(place)
        if how != "lose":
            self.apply(self.feed.announced(item, epoch))

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 1), limit=st.integers(1, 5))
    def the_source_looks(self, which: int, limit: int) -> None:
        question = sorted(self.asked)[which % len(self.asked)]
        if question not in self.answers:
            self.answers[question] = self.look(question, limit)

    @precondition(lambda self: self.answers)
    @rule(which=st.integers(0, 1))
    def the_answer_comes(self, which: int) -> None:
        question = sorted(self.answers)[which % len(self.answers)]
        answer = self.answers.pop(question)
        del self.asked[question]
        self.apply(self.take(question, answer))

    @rule()
    def the_head_is_checked(self) -> None:
        self.ask("head")

    @rule(after=st.integers(0, 9), limit=st.integers(1, 5))
    def somebody_returns(self, after: int, limit: int) -> None:
        self.apply(self.feed.read_back(self.page(min(after, self.told.offset), limit), self.told))

    @rule(keep=st.integers(0, 4))
    def trim(self, keep: int) -> None:
        self.first = max(self.first, len(self.items) - keep + 1)

    @rule(count=st.integers(0, 3))
    def the_end_is_lost(self, count: int) -> None:
        """A failover, and the connection to the old one is cut: what is on its way from there arrives no more."""
        is_known = self.feed.doubt()
        if is_known or not count:  # with nothing at hand it cannot be told, which is the limit of what is promised
            del self.items[max(0, len(self.items) - count) :]
            self.lives += 1
            self.air.clear()

    @rule()
    def the_connection_is_renewed(self) -> None:
        if self.feed.in_doubt is not None:
            self.ask("verify")

    @rule()
    def forget(self) -> None:
        self.epoch += 1
        self.items = []
        self.first = 1

    @invariant()
    def what_waits_is_asked_about(self) -> None:
        if self.feed.has_hole and self.feed.in_doubt is None:
            assert "read" in self.asked, "a hole that nobody reads for"
        if any(epoch == self.head.epoch for epoch, _ in self.feed._foreign):
            assert self.asked, "the source's epoch waits, and nobody asks about it"

    def teardown(self) -> None:
        for _ in range(200):
            self.the_connection_is_renewed()
            self.ask("head")
            while self.asked:
                for which in range(len(self.asked)):
                    self.the_source_looks(which, 5)
                self.the_answer_comes(0)
            if self.feed.position == self.head:
                break
        assert self.feed.position == self.head
        assert not self.feed.has_hole
        assert not self.feed.has_foreign


TestFeed = FeedMachine.TestCase
