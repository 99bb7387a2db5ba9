"""Many publishes as one question: how a list is cut, what replies mean, and what is told when it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from hubbub.brokers import batches, blocking
from hubbub.brokers.base import StreamOptions
from hubbub.brokers.batches import MOST, MOST_BYTES, Batch, Batches, Each, many_failed, published_many
from hubbub.brokers.blocking import BlockingRedis
from hubbub.clock import ManualClock
from hubbub.errors import BackendError, PublishFailed
from hubbub.model import Position, Publication, Published
from hubbub.redis.dialing import Refused
from hubbub.redis.pool import Pool
from hubbub.redis.wire import ConnectionLost, RedisError

KEPT, LIVE = StreamOptions(size=10, ttl=60.0), StreamOptions()
LOST, UNSENT = ConnectionLost("cut", was_sent=True), ConnectionLost("no way", was_sent=False)


def each(number: int, options: StreamOptions = KEPT, size: int = 1) -> Each:
    return (f"chat:{number}", Publication(b"x" * size), options)


def cut(*publications: Each) -> list[int]:
    """How many there are in each batch."""
    return [len(batch.parts) for batch in Batches("app").publish_many(publications)]


def batch_of(*publications: Each) -> Batch:
    (batch,) = Batches("app").publish_many(publications)
    return batch


# --- cutting


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [1]), (MOST, [MOST]), (MOST + 1, [MOST, 1]), (3 * MOST, [MOST] * 3)],
)
def test_a_batch_has_so_many_at_most(count: int, expected: list[int]) -> None:
    assert cut(*map(each, range(count))) == expected


def test_a_batch_has_so_many_bytes_at_most_and_what_has_more_goes_alone() -> None:
    third, whole = MOST_BYTES * 3 // 10, MOST_BYTES + 1
    assert cut(*(each(1, size=third) for _ in range(7))) == [3, 3, 1]
    assert cut(each(1), each(2, size=whole), each(3), each(4, size=whole), each(5, size=whole)) == [1] * 5
    assert cut(*(each(1, LIVE, size=third) for _ in range(4))) == [3, 1], "live ones count as well"


def test_all_are_asked_for_in_their_order_and_each_has_its_own_name() -> None:
    asked = [each(number, LIVE if number % 3 else KEPT) for number in range(2 * MOST)]
    found = list(Batches("app").publish_many(asked))
    assert [call.words[0] == "PUBLISH" for batch in found for call in batch.parts] == [
        bool(n % 3) for n in range(2 * MOST)
    ]
    first = found[0].call
    assert first.words[1] == ("kll" * MOST)[:MOST]
    assert [word for word in first.words if isinstance(word, str) and word.startswith("chat:")] == [
        channel for channel, _, _ in asked[:MOST]
    ]
    keys = [key for batch in found for key in batch.call.keys]
    assert len(set(keys)) == len(keys)
    assert first.keys[0].startswith("app:n:{chat:0}:")


# --- reading


def test_what_replies_mean() -> None:
    batch = batch_of(each(1), each(2, LIVE), each(3))
    done, refused = published_many(batch, [[b"e 7", 0], 5, [b"f 1", 1]], is_first=True)
    assert refused is None
    assert done == [Published(Position("e", 7)), Published(), Published(Position("f", 1), None, True)]
    again, _ = published_many(batch, [[b"e 7", 1], 0, [b"f 1", 1]], is_first=False)
    assert [each.duplicate for each in again] == [False] * 3, "what an attempt of our own left is no duplicate"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_what_comes_after_a_refused_one_has_no_reply(count: int) -> None:
    error = RedisError("WRONGTYPE no")
    done, refused = published_many(batch_of(each(1), each(2), each(3)), [*[[b"e 1", 0]] * count, error], is_first=True)
    assert (len(done), refused) == (count, error)


@pytest.mark.parametrize(
    ("error", "done", "outcome", "is_retry_safe"),
    [
        (UNSENT, 0, "not published, publish again", True),
        (RedisError("OOM full"), 0, "not published, publish again", True),
        (UNSENT, 3, "3 of 9 are published, publish the rest again", False),
        (RedisError("OOM full"), 3, "3 of 9 are published, publish the rest again", False),
        (LOST, 0, "0 of 9 are published, the next 4 perhaps, and publishing these again may do it twice", False),
        (LOST, 3, "3 of 9 are published, the next 4 perhaps, and publishing these again may do it twice", False),
    ],
)
def test_what_is_told_of_a_list(error: BackendError, done: int, outcome: str, is_retry_safe: bool) -> None:
    failed = many_failed(error, done=done, asked=4, of=9)
    assert (failed.outcome, failed.is_retry_safe) == (outcome, is_retry_safe)


# --- asking


class Told:
    """In place of a pool: what the server does with each question. A list is its reply, of which 0 is whatever fits."""

    def __init__(self, *outcomes: BackendError | list[Any] | int) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[tuple[str, ...]] = []

    def run(self, script: Any, keys: Sequence[str], words: Sequence[Any], end: float) -> Any:
        assert script is batches.PUBLISH_MANY
        self.asked.append(tuple(keys))
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BackendError):
            raise outcome
        return [[b"e 1", 0]] * outcome if isinstance(outcome, int) else outcome


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "PAUSE", 0.0)


def publish(told: Told, count: int) -> list[Published]:
    broker = BlockingRedis(cast(Pool, told), name="app", prefix="", clock=ManualClock(), deadline=5.0)
    return broker.publish_many([each(number) for number in range(count)])


@pytest.mark.parametrize("error", [LOST, UNSENT, RedisError("LOADING wait"), RedisError("READONLY no")])
def test_a_batch_that_failed_is_asked_for_again_and_only_that_one(error: BackendError) -> None:
    told = Told(MOST, error, error, MOST, 1)
    assert len(publish(told, 2 * MOST + 1)) == 2 * MOST + 1
    first, second, *repeated, third = told.asked
    assert repeated == [second, second]
    assert len({first, second, third}) == 3


def test_nothing_is_asked_for_after_one_that_was_refused() -> None:
    told = Told(MOST, [[b"e 1", 0], [b"e 2", 0], RedisError("WRONGTYPE no")])
    with pytest.raises(PublishFailed, match=f"^{MOST + 2} of {3 * MOST} are published, publish the rest again: WRONG"):
        publish(told, 3 * MOST)
    assert told.outcomes == []


@pytest.mark.parametrize("last", [RedisError("OOM full"), Refused("WRONGPASS no")])
def test_a_batch_that_was_cut_and_then_refused_is_in_doubt(last: BackendError) -> None:
    told = Told(MOST, LOST, last)
    with pytest.raises(PublishFailed, match=f"^{MOST} of {2 * MOST} are published, the next {MOST} perhaps") as failed:
        publish(told, 2 * MOST)
    assert failed.value.is_retry_safe is False


def test_a_list_of_nothing_asks_nothing() -> None:
    assert publish(Told(), 0) == []
