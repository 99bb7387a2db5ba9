"""The books of a storm: what was published, what every subscriber got, and what is wrong with that.

Answers for: one truth per channel with memory (which publication stands at which position), told by all subscribers
together and contradicted by none; what a publisher was answered for each call; and the verdict. Refuses to know:
sockets, time, and how it came to pass.

A publication is known by its id, a text such as "api1-17", which is its payload, too. It was `acknowledged`, `perhaps`
published (an error, or no answer, after which it may be there), or `refused` (an error that says it is not there).

A store may lose its last writes where that is declared (`may_lose_from_now`, `has_lost`). Then everybody in its
channels has to be told once, and it excuses only what was acknowledged between these two: what was before, and what was
asked for afterwards, has to be in the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Outcome = Literal["acknowledged", "perhaps", "refused"]

#: Faults that are told one by one; of more there is the number.
TOLD = 12


class Place(NamedTuple):
    """A position of a stream."""

    epoch: str
    offset: int


@dataclass(slots=True)
class Run:
    """An unbroken piece of a stream that a subscriber got: after + 1 to upto."""

    epoch: str
    after: int
    upto: int

    def holds(self, place: Place) -> bool:
        return self.epoch == place.epoch and self.after < place.offset <= self.upto


class Stream:
    """A channel with memory, as all subscribers know it. `keeps_all`: it is durable, and nothing excuses a loss unless
    its store `has_lost` its last writes. `kept`: what the store itself holds in the end of what came since the round
    began, once it was read.
    """

    def __init__(self, name: str, *, keeps_all: bool = False) -> None:
        self.name = name
        self.keeps_all = keeps_all
        self.has_lost = False
        self.kept: dict[Place, str] | None = None
        self.at: dict[Place, str] = {}
        self.places: dict[str, list[Place]] = {}
        self.answered: dict[str, Place] = {}  # where publishers were told that it stands

    def forget(self) -> None:
        self.has_lost = False
        self.kept = None
        self.at.clear()
        self.places.clear()
        self.answered.clear()

    def saw(self, place: Place, what: str) -> str:
        """Somebody got it there. Returns what is wrong with that, or ""."""
        known = self.at.get(place)
        if known is None:
            self.at[place] = what
            self.places.setdefault(what, []).append(place)
            return ""
        return "" if known == what else f"{self.name}: at {place} one got {what} and another one {known}"

    def twice(self, *, may_lose: bool) -> list[str]:
        """What was published more than once. Who loses its data forgets what it has been told, too: then what is
        repeated may be there once in each life.
        """
        return [
            f"{self.name}: {what} was published twice: {places}"
            for what, places in self.places.items()
            if len(places) > (len({place.epoch for place in places}) if may_lose else 1)
        ]


class Follower:
    """One subscriber's place in one channel with memory, over all its connections."""

    __slots__ = ("losses", "runs", "stream", "who")

    def __init__(self, who: str, stream: Stream) -> None:
        self.who = who
        self.stream = stream
        self.runs: list[Run] = []
        self.losses = 0  # explicit signals: it was told that it missed something

    @property
    def place(self) -> Place | None:
        """Where it stands."""
        return Place(self.runs[-1].epoch, self.runs[-1].upto) if self.runs else None

    def subscribed(self, at: Place, *, asked: bool, recovered: bool) -> str:
        """The answer to a subscribe. `asked`: it brought its position. Returns what is wrong, or ""."""
        if asked and recovered:
            if at.epoch != self.runs[-1].epoch:
                return f"{self.who} in {self.stream.name}: recovered, from {self.place} into epoch {at.epoch}"
            return ""
        if asked and self.stream.keeps_all and not self.stream.has_lost:
            return f"{self.who} in {self.stream.name}: not recovered, from {self.place} to {at}"
        if asked:
            self.losses += 1
        elif self.runs:
            return f"{self.who} in {self.stream.name}: begins anew without having been told of a loss"
        self.runs.append(Run(at.epoch, at.offset, at.offset))
        return ""

    def sent_again(self, code: int) -> str:
        """It was told to subscribe again. Returns what is wrong, or ""."""
        may_be = not self.stream.keeps_all or self.stream.has_lost
        return "" if may_be else f"{self.who} in {self.stream.name}: unsubscribed with {code}"

    def got(self, offset: int, what: str) -> str:
        """A publication. Returns what is wrong, or ""."""
        run = self.runs[-1]
        if offset != run.upto + 1:
            return f"{self.who} in {self.stream.name}: {what} with offset {offset} after {run.upto} of {run.epoch}"
        run.upto = offset
        return self.stream.saw(Place(run.epoch, offset), what)

    def has(self, place: Place) -> bool:
        return any(run.holds(place) for run in self.runs)

    def may_miss(self, place: Place) -> bool:
        """Whether it is in the gap of a loss that was told."""
        pairs = zip(self.runs, self.runs[1:], strict=False)
        ends = [run.epoch for run in self.runs]
        return any(
            (place.epoch == old.epoch and place.offset > old.upto)
            or (place.epoch == new.epoch and place.offset <= new.after)
            or place.epoch not in ends
            for old, new in pairs
        )


@dataclass(slots=True)
class Publication:
    """What a publisher knows of one."""

    channel: str
    outcome: Outcome


@dataclass
class Ledger:
    """All of it. `wrong` grows as soon as something cannot be right."""

    wrong: list[str] = field(default_factory=list)
    streams: dict[str, Stream] = field(default_factory=dict)
    followers: list[Follower] = field(default_factory=list)
    publications: dict[str, Publication] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)  # calls under way
    slowest: float = 0.0  # seconds until an answer
    outcomes: Counter[str] = field(default_factory=Counter)
    store: Literal["whole", "losing", "has lost"] = "whole"
    excused: set[str] = field(default_factory=set)  # calls that the store may have answered, and lost

    def follow(self, who: str, channel: str, *, keeps_all: bool = False) -> Follower:
        follower = Follower(who, self.streams.setdefault(channel, Stream(channel, keeps_all=keeps_all)))
        self.followers.append(follower)
        return follower

    def note(self, wrong: str) -> None:
        """Something is wrong, if the text is not empty."""
        if wrong and len(self.wrong) < 1000:
            self.wrong.append(wrong)

    def begins(self, what: str) -> None:
        """A call was made."""
        self.unanswered.add(what)
        if self.store == "losing":
            self.excused.add(what)

    def ended(self, what: str, channel: str, outcome: Outcome, place: Place | None = None) -> None:
        """It has its answer, or can have none any more."""
        self.unanswered.discard(what)
        self.outcomes[outcome] += 1
        self.publications[what] = Publication(channel, outcome)
        if place is not None and channel in self.streams:
            self.streams[channel].answered[what] = place

    def may_lose_from_now(self) -> None:
        """What the store acknowledges from now on it may lose, until it `has_lost`."""
        self.store = "losing"
        self.excused = set(self.unanswered)

    def has_lost(self) -> None:
        """The store has lost what it was to lose, and whoever follows one of its channels is to be told once."""
        self.store = "has lost"
        for stream in self.streams.values():
            stream.has_lost = stream.keeps_all

    def keeps(self, channel: str, kept: dict[Place, str]) -> None:
        """The store says so, now that everything is calm: all that it holds since the round began."""
        self.streams[channel].kept = kept

    def losses(self) -> Counter[int]:
        """How many followers of what may lose something were told of how many losses, in all."""
        streams = [each for each in self.streams.values() if each.has_lost or not each.keeps_all]
        return Counter(follower.losses for follower in self.followers if follower.stream in streams)

    def acknowledged(self) -> int:
        """Publications in channels that keep all."""
        return len(list(self._acknowledged()))

    def lost(self) -> int:
        """Of those the ones that the store has lost, with leave."""
        there = {what for stream in self.streams.values() for what in (stream.kept or {}).values()}
        return len(set(self._acknowledged()) - there) if self.store == "has lost" else 0

    def _acknowledged(self) -> Iterable[str]:
        durable = {name for name, stream in self.streams.items() if stream.keeps_all}
        for what, each in self.publications.items():
            if each.outcome == "acknowledged" and each.channel in durable:
                yield what

    # the verdict ----------------------------------------------------------------------------------------------------

    def close(self, followers: Iterable[Follower], *, may_lose: bool) -> list[str]:
        """What is wrong now that everything is calm. `may_lose`: data really was lost.

        `followers` are those who were there all the time.
        """
        here = list(followers)
        for what in sorted(self.unanswered):
            self.note(f"the call that publishes {what} has no answer")
        for stream in self.streams.values():
            theirs = [each for each in here if each.stream is stream]
            self._close_stream(stream, theirs, may_lose=stream.has_lost if stream.keeps_all else may_lose)
        if self.store == "has lost" and not self.lost():
            self.note("the store was to lose what it had acknowledged, and lost nothing: so nothing was tried")
        wrong = self.wrong
        return wrong[:TOLD] + [f"and {len(wrong) - TOLD} more"] * (len(wrong) > TOLD)

    def _close_stream(self, stream: Stream, followers: list[Follower], *, may_lose: bool) -> None:
        ends = Counter(follower.place for follower in followers)
        if len(ends) > 1:
            self.note(f"{stream.name}: subscribers stand at different places: {dict(ends)}")
        for wrong in stream.twice(may_lose=may_lose):
            self.note(wrong)
        if stream.keeps_all:
            self._judge_order(stream, stream.at)
            if stream.kept is not None:
                self._judge_kept(stream, stream.kept)
        if stream.has_lost:
            told = Counter(follower.losses for follower in followers)
            if set(told) - {1}:
                self.note(f"{stream.name}: told of losses {dict(told)} times, and each was to be told once")
        for what, publication in self.publications.items():
            if publication.channel == stream.name:
                self.note(self._judge(stream, what, publication, may_lose=may_lose))
        self._judge_followers(stream, followers)

    def _judge(self, stream: Stream, what: str, publication: Publication, *, may_lose: bool) -> str:
        places, answered = stream.places.get(what, ()), stream.answered.get(what)
        if publication.outcome == "refused":
            return f"{stream.name}: {what} is there, and its publisher was told that it is not" if places else ""
        if publication.outcome == "acknowledged" and not places and not may_lose:
            return f"{stream.name}: {what} was acknowledged, and nobody got it"
        if places and answered is not None and answered not in places and (stream.kept or {}).get(answered) != what:
            return f"{stream.name}: {what} is at {places}, and its publisher was told {answered}"
        return ""

    def _judge_kept(self, stream: Stream, kept: dict[Place, str]) -> None:
        """The store holds what was acknowledged, once and in order, and what anybody got of the life that it is in."""
        times = Counter(kept.values())
        epochs = {place.epoch for place in kept}
        for what, count in times.items():
            if count > 1:
                self.note(f"{stream.name}: the store holds {what} {count} times")
        for what, publication in self.publications.items():
            if publication.channel == stream.name:
                self.note(self._judge_in_store(stream, what, publication.outcome, is_there=what in times))
        for place, what in stream.at.items():
            if place.epoch in epochs and (held := kept.get(place)) != what:
                self.note(f"{stream.name}: at {place} one got {what}, and the store holds {held}")
        self._judge_order(stream, kept)

    def _judge_in_store(self, stream: Stream, what: str, outcome: Outcome, *, is_there: bool) -> str:
        if outcome == "refused" and is_there:
            return f"{stream.name}: the store holds {what}, and its publisher was told that it is not there"
        if outcome != "acknowledged" or is_there:
            return ""
        answered, lives = stream.answered.get(what), {place.epoch for place in stream.kept or ()}
        if stream.has_lost and what in self.excused and (answered is None or answered.epoch not in lives):
            return ""
        return f"{stream.name}: {what} was acknowledged, and is not in the store"

    def _judge_order(self, stream: Stream, at: dict[Place, str]) -> None:
        """What one publisher was acknowledged stands in the order in which it was published."""
        last: dict[tuple[str, str], int] = {}
        for place, what in sorted(at.items()):
            publication = self.publications.get(what)
            if publication is not None and publication.outcome == "acknowledged":
                name, _, number = what.rpartition("-")
                known = last.get((place.epoch, name), 0)
                if int(number) < known:
                    self.note(f"{stream.name}: {what} stands at {place}, after {name}-{known}")
                last[place.epoch, name] = int(number)

    def _judge_followers(self, stream: Stream, followers: list[Follower]) -> None:
        """Each has everything that anybody got, or was told of the loss."""
        acknowledged = {what for what, each in self.publications.items() if each.outcome == "acknowledged"}
        answered = {place for what, place in stream.answered.items() if what in acknowledged}
        wanted = answered.union(stream.at, stream.kept or ())
        judged: dict[tuple[tuple[str, int, int], ...], list[Place]] = {}
        for follower in followers:
            key = tuple((run.epoch, run.after, run.upto) for run in follower.runs)
            if key not in judged:
                judged[key] = sorted(p for p in wanted if not follower.has(p) and not follower.may_miss(p))
            if missing := judged[key]:
                self.note(
                    f"{follower.who} in {stream.name}: {len(missing)} publications are missing, and nobody said so: "
                    f"{_briefly(missing)}; it has {_briefly(key)}"
                )

    def begin(self) -> None:
        """What was before is forgotten; each follower begins a run where it stands."""
        self.publications.clear()
        self.wrong.clear()
        self.excused.clear()
        self.store = "whole"
        for stream in self.streams.values():
            stream.forget()
        for follower in self.followers:
            follower.losses = 0
            if (place := follower.place) is not None:
                follower.runs = [Run(place.epoch, place.offset, place.offset)]


def _briefly(things: Iterable[object]) -> str:
    listed = list(things)
    return ", ".join(map(str, listed[:4])) + (f" … {listed[-1]}" if len(listed) > 4 else "")
