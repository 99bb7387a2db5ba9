"""What one node knows of one channel with memory: the place where order is made and holes are mended.

Answers for: turning announcements that may be lost, late, repeated or out of order, together with what was read from
the source, into one contiguous sequence; and for saying plainly when that cannot be done (broken). Refuses to know:
subscribers, sockets, clocks and tasks. Every method is an event; the `Step` it returns says what to do about it. The
algorithm is section 2 of docs/design/delivery.md.

Invariants:
- Between two breaks, what the steps tell to broadcast is contiguous and begins right after the position of the start.
- `position` is the place of the last publication told to broadcast, and None only before `start`.
- At most one of each question is under way; whoever answers calls `read_done`, `head_seen`, `replaced` or `verified`
  once.
- In doubt nothing is broadcast: the source may have become another one, which goes on under the same epoch as if what
  it lost had never been.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from hubbub.core.ring import Ring
from hubbub.model import Position, Publication
from hubbub.source import Known, Page, Stored

Question = Literal["head", "read", "replace", "verify"]
Cause = Literal["epoch", "rollback", "trimmed"]


class Broken(NamedTuple):
    """The sequence cannot be continued: what was lost is lost. `new` is where the feed stands now."""

    cause: Cause
    old: Position
    new: Position


class Step(NamedTuple):
    """What the owner of a feed has to do, in this order: tell of the break, broadcast, ask the source.

    `soon` asks at once; otherwise patience first, since the hole may close by itself.
    """

    broken: Broken | None = None
    broadcast: Sequence[Publication] = ()
    ask: Question | None = None
    soon: bool = False


NOTHING = Step()

#: The source has lost the end of the stream, and goes on under the same epoch. Before anybody is told, it gets another
#: one: who was away meanwhile would take the new offsets for the old.
ROLLED_BACK = Step(ask="replace", soon=True)

#: `Position(…)` runs a Python function that does only this, at twice the cost.
_position = tuple.__new__

#: Noted for a question that was asked before the sequence broke: its answer is about another one.
STALE = Position("", -1)


class Feed:
    """One channel with memory on one node.

    `stored` is where publications up to the position can be read without waiting: a ring of our own, or the stream
    itself where the broker lives in this process. A feed that `skips` (`latest` channels) may leave publications out.
    """

    __slots__ = (
        "_asked",
        "_doubted",
        "_foreign",
        "_foreign_is_news",
        "_held_last",
        "_hole_reads",
        "_is_rolled_back",
        "_overflowed",
        "_pending",
        "_ring",
        "counts",
        "position",
        "skips",
        "stored",
    )

    #: Publications that wait for a hole to close. Beyond it the newest is dropped: the read will bring it.
    PENDING_LIMIT = 256

    #: Reads that may leave the same hole open before what lies beyond the head is taken for forged.
    HOLE_READS = 2

    def __init__(self, stored: Stored, *, skips: bool = False, counts: dict[str, int] | None = None) -> None:
        self.position: Position | None = None
        self.stored = stored
        self.skips = skips
        self.counts = {} if counts is None else counts  # what was dropped, shared by all feeds of a node
        self._ring = stored if isinstance(stored, Ring) else None
        self._pending: dict[int, Publication] = {}
        self._foreign: dict[tuple[str, int], Publication] = {}
        self._asked: dict[Question, Position] = {}
        self._hole_reads = 0
        self._overflowed = False
        self._doubted = False  # a head was wanted before there was a position to compare it with
        self._is_rolled_back = False  # that is known, and the epoch could not be replaced yet
        self._held_last: Publication | None = None  # in doubt: what the source has to hold, too
        self._foreign_is_news = False  # some came after the head that is under way was asked for

    # events ---------------------------------------------------------------------------------------------------------

    def start(self, head: Position) -> Step:
        """The first head, read after the broker confirmed the subscription. What was announced meanwhile is waiting."""
        self.position = head
        step = self._adopt_foreign()
        return step._replace(ask="head", soon=True) if self._doubted and step.ask is None else step

    def follows(self, publication: Publication, epoch: str) -> bool:
        """Whether a publication that was announced is the next one, and nothing is in question: it is to be broadcast.

        That is nearly always so, and all there is to do. If False, nothing has happened: call `announced`.
        """
        position = self.position
        if position is None or self._asked or self._pending or self._is_rolled_back or self._held_last is not None:
            return False
        known, offset = position.epoch, publication.offset
        if offset != position.offset + 1 or epoch != known:
            return False
        self.position = _position(Position, (known, offset))
        self._hole_reads = 0
        if self._ring is not None:
            self._ring.append(publication)
        return True

    def announced(self, publication: Publication, epoch: str) -> Step:
        """A publication was announced."""
        if self.follows(publication, epoch):
            return Step(broadcast=(publication,))
        position = self.position
        offset = publication.offset
        if self._asked and "replace" in self._asked and position is not None and epoch == position.epoch:
            return NOTHING  # of what comes after the loss; it is in the source, under the epoch to come
        if self._is_rolled_back and position is not None and epoch == position.epoch:
            return NOTHING
        if self._held_last is not None and position is not None and epoch == position.epoch:
            if offset > position.offset:
                self._hold(publication)
            return NOTHING
        if position is None or epoch != position.epoch:
            self._hold_foreign(publication, epoch)
            return NOTHING if position is None else Step(ask="head", soon=True)
        if offset == position.offset + 1 or (self.skips and offset > position.offset):
            self._advance(publication)
            if not self._pending:
                return Step(broadcast=(publication,))
            return self._continue([publication])
        if offset <= position.offset:
            self._count("repeated")
            return Step(ask="verify", soon=True) if self._is_another(publication) and self.doubt() else NOTHING
        self._hold(publication)
        return Step(ask="read")

    def ask(self, question: Question) -> Position | None:
        """The owner asks the source now: the position to ask about, or None if that question is under way already."""
        if self.position is None:
            self._doubted = True
            return None
        if question in self._asked:
            return None
        self._asked[question] = self.position
        if question == "read":
            self._overflowed = False
        elif question == "head":
            self._foreign_is_news = False
        return self.position

    def doubt(self) -> bool:
        """The source may have become another one. False if there is nothing at hand to tell it by."""
        if self._held_last is None and self.position is not None:
            newest = self.stored.range(self.position.offset - 1, self.position.offset)
            self._held_last = newest[0] if newest else None
        if "verify" in self._asked:
            self._asked["verify"] = STALE  # of whoever was there before
        if self._held_last is not None:  # what waits may be lost with it, and what is not is in the source
            self._pending.clear()
            self._foreign.clear()
        return self._held_last is not None

    @property
    def in_doubt(self) -> Known | None:
        """What the source is to be asked about."""
        return Known(self._position.epoch, self._held_last) if self._held_last is not None else None

    def verified(self, *, is_altered: bool) -> Step:
        """Whether the source has lost what we hold, in answer to `ask("verify")`."""
        noted = self._asked.pop("verify")
        if self._held_last is None or "replace" in self._asked:
            return NOTHING
        if noted is STALE:
            return Step(ask="verify", soon=True)
        self._held_last = None
        if is_altered or self._is_rolled_back:
            return ROLLED_BACK
        step = self._continue([])
        return step if step.ask is not None else step._replace(ask="head", soon=True)

    def failed(self, question: Question) -> None:
        """The source could not be asked."""
        self._asked.pop(question, None)
        if question == "replace":
            self._is_rolled_back = True  # whatever the source says next, it has lost something

    def head_seen(self, head: Position) -> Step:
        """Where the source says that the stream stands, in answer to `ask("head")`."""
        noted = self._asked.pop("head")
        position = self._position
        if noted is STALE:
            return Step(ask="head", soon=True)  # asked before the break
        if "replace" in self._asked:
            return NOTHING
        if head.epoch != position.epoch:
            return self._break("epoch", head)
        if head.offset < noted.offset or self._is_rolled_back:
            return ROLLED_BACK
        if self._held_last is not None:
            return NOTHING  # it is asked again once that is verified
        if self._foreign_is_news:  # a head asked for before these came cannot disown them
            return Step(ask="head", soon=True)
        self._drop_foreign()
        return Step(ask="read") if head.offset > position.offset else NOTHING

    def read_done(self, page: Page) -> Step:
        """What the source had after the position noted by `ask("read")`."""
        noted = self._asked.pop("read")
        position = self._position
        if noted is STALE:
            return self._continue([])  # there may be a hole since, for which nobody reads
        if "replace" in self._asked:
            return NOTHING
        if page.head.epoch != position.epoch:
            return self._break("epoch", page.head)
        if page.head.offset < noted.offset or self._is_rolled_back:
            return ROLLED_BACK
        if self._held_last is not None:
            return NOTHING
        return self._merge(page)

    def replaced(self, head: Position) -> Step:
        """The source has given the stream another epoch, in answer to `ask("replace")`: nobody can mistake it now."""
        noted = self._asked.pop("replace")
        if noted is STALE or head.epoch == self._position.epoch:
            return Step(ask="head", soon=True)
        return self._break("rollback", head)

    def read_back(self, page: Page, noted: Position) -> Step:
        """What the source had after an older position, read for somebody who returns.

        What it brings beyond our position goes out first, so that who waits for it finds a feed that has caught up;
        the rest makes the ring reach back further.
        """
        if "replace" in self._asked:
            return NOTHING
        if page.head.epoch != self._position.epoch:
            if noted.epoch == self._position.epoch:  # where we stood when it was asked for: no break has come since
                return self._break("epoch", page.head)
            return Step(ask="head", soon=True)
        if self._held_last is not None or self._is_rolled_back:
            return NOTHING
        older: list[Publication] = []
        broadcast: list[Publication] = []
        for publication in page.publications:
            if publication.offset <= self._position.offset:
                older.append(publication)
            elif publication.offset == self._position.offset + 1 or self.skips:
                self._advance(publication)
                broadcast.append(publication)
            else:  # it is we who are late, and not who returns
                return self._break("trimmed", page.head)
        if self._ring is not None and older and (self._ring or older[-1].offset == self._position.offset):
            self._ring.extend_back(older)
        step = self._continue(broadcast)
        if step.ask is None and page.head.offset != self._position.offset:
            return step._replace(ask="head")  # more of it, or less: a rollback, or overtaken by an announcement
        return step

    def since(self, position: Position, page: Page | None = None) -> Sequence[Publication] | None:
        """What a subscriber that stands at `position` misses, as much of it as `page` or the ring can give at once.

        Contiguous from position + 1, possibly not up to our position; None if neither reaches back that far.
        `can_know` was asked before.
        """
        upto = self._position.offset
        if self.skips:
            position = position._replace(offset=max(position.offset, upto - 1))
        if position.offset >= upto:
            return ()
        found = self.stored.range(position.offset, upto)
        if found is None and page is not None and page.head.epoch == self._position.epoch:
            found = [item for item in page.publications if position.offset < item.offset <= upto]
            if not found or (found[0].offset != position.offset + 1 and not self.skips):
                return None
        return found

    def can_know(self, position: Position) -> bool:
        """Whether `position` is one of this life of the stream. An empty epoch is a client's that never saw one."""
        mine = self._position
        return position.epoch in ("", mine.epoch) and position.offset <= mine.offset

    @property
    def has_hole(self) -> bool:
        """Whether something waits for a publication that has not come."""
        return bool(self._pending)

    @property
    def has_foreign(self) -> bool:
        """Whether something waits that was announced under an epoch that the source has not confirmed."""
        return bool(self._foreign)

    # what they share ------------------------------------------------------------------------------------------------

    @property
    def _position(self) -> Position:
        assert self.position is not None, "answers come only to questions, and those only after the start"
        return self.position

    def _is_another(self, publication: Publication) -> bool:
        """Whether we hold another one at its offset."""
        held = self.stored.range(publication.offset - 1, publication.offset)
        return bool(held) and held is not None and held[0] != publication

    def _advance(self, publication: Publication) -> None:
        self.position = Position(self._position.epoch, publication.offset)
        self._hole_reads = 0
        if self._ring is not None:
            self._ring.append(publication)

    def _continue(self, broadcast: list[Publication]) -> Step:
        """Drain what waits and follows; what still waits is a hole, to be read."""
        pending = self._pending
        while pending and (following := pending.pop(self._position.offset + 1, None)) is not None:
            self._advance(following)
            broadcast.append(following)
        for offset in [offset for offset in pending if offset <= self._position.offset]:
            del pending[offset]
        if pending:
            return Step(broadcast=broadcast, ask="read")
        self._hole_reads = 0
        if self._overflowed:
            return Step(broadcast=broadcast, ask="read", soon=True)
        return Step(broadcast=broadcast) if broadcast else NOTHING

    def _merge(self, page: Page) -> Step:
        broadcast: list[Publication] = []
        for publication in page.publications:
            ahead = publication.offset - self._position.offset
            if ahead <= 0:
                continue
            if ahead > 1 and not self.skips:
                return self._break("trimmed", page.head)
            self._advance(publication)
            broadcast.append(publication)
        if not page.publications and page.head.offset > self._position.offset:
            return self._jump(page.head, broadcast)
        behind = page.head.offset > self._position.offset
        step = self._continue(broadcast)
        if behind and self._position.offset < page.head.offset:
            return Step(broadcast=broadcast, ask="read", soon=True)  # the page ended at its limit
        return self._disown(step, page.head)

    def _jump(self, head: Position, broadcast: list[Publication]) -> Step:
        """The source kept nothing of what it gave offsets to. Where skipping is allowed, that is no loss."""
        if not self.skips:
            return self._break("trimmed", head)
        self.position = head
        return self._continue(broadcast)

    def _disown(self, step: Step, head: Position) -> Step:
        """A hole that reads do not close, and behind it only what lies beyond the head: that was never published."""
        if step.ask is None:
            return step
        self._hole_reads += 1
        if self._hole_reads < self.HOLE_READS:
            return step
        for offset in [offset for offset in self._pending if offset > head.offset]:
            del self._pending[offset]
            self._count("forged")
        self._hole_reads = 0
        # What came behind the read was not in it: the head tells whether it was real.
        return step._replace(ask="read" if self._pending else "head")

    def _break(self, cause: Cause, head: Position) -> Step:
        """Start again at `head`. Subscribers come back with the position from before, and recover what there is."""
        old = self._position
        self.position = head
        self._held_last = None
        self._is_rolled_back = False
        for question in self._asked:
            self._asked[question] = STALE
        if cause != "trimmed":
            self._pending.clear()
        self._hole_reads = 0
        if self._ring is not None:
            self._ring.clear()
        return self._adopt_foreign()._replace(broken=Broken(cause, old, head))

    def _adopt_foreign(self) -> Step:
        """Take what was announced under the epoch that is now ours; the rest waits for the next head."""
        epoch, offset = self._position
        for (other, number), publication in list(self._foreign.items()):
            if other == epoch:
                del self._foreign[other, number]
                if number > offset:
                    self._pending[number] = publication
        step = self._continue([])
        return step._replace(ask="head", soon=True) if self._foreign and step.ask is None else step

    def _hold(self, publication: Publication) -> None:
        if len(self._pending) >= self.PENDING_LIMIT:
            self._overflow()
        else:
            self._pending[publication.offset] = publication

    def _hold_foreign(self, publication: Publication, epoch: str) -> None:
        if len(self._foreign) >= self.PENDING_LIMIT:
            self._overflow()
        else:
            self._foreign[epoch, publication.offset] = publication
        self._foreign_is_news = True

    def _overflow(self) -> None:
        """Something announced was not held. It is in the source, and a read will bring it."""
        self._overflowed = True
        self._count("overflow")

    def _drop_foreign(self) -> None:
        """The source stands by our epoch, asked after the last of these came: forged, or of a life long gone."""
        if self._foreign:
            self._count("foreign", len(self._foreign))
            self._foreign.clear()

    def _count(self, what: str, times: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + times
