"""One blocking socket to Redis, against a peer that says what the test wants."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hubbub.brokers.calls import go_on, publish_failed
from hubbub.clock import SystemClock
from hubbub.redis.blocking import BlockingWire
from hubbub.redis.wire import ConnectionLost, DeadlinePassed, OutboxFull, RedisError

CLOCK = SystemClock()
PATIENCE = 20.0


class Scene:
    """Both ends of a connection."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.settimeout(PATIENCE)
        self.wire = BlockingWire("redis://test", ours, clock=CLOCK)

    def says(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.peer.sendall(piece)

    def ask(self, *command: Any, seconds: float = PATIENCE) -> Any:
        return self.wire.ask(command, CLOCK.now() + seconds)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.wire.close()
    scene.peer.close()


def lost(call: Callable[[], Any]) -> ConnectionLost:
    with pytest.raises(ConnectionLost) as error:
        call()
    return error.value


def test_a_question_and_its_answer(scene: Scene) -> None:
    scene.says(b"$2\r\nhi\r\n")
    assert scene.ask("GET", "key") == b"hi"
    assert scene.peer.recv(100) == b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"


def test_none_and_false_are_answers(scene: Scene) -> None:
    scene.says(b"_\r\n#f\r\n")
    assert [scene.ask("A"), scene.ask("B")] == [None, False]


def test_an_answer_may_come_in_pieces_and_pushes_between(scene: Scene) -> None:
    answer = b">2\r\n$10\r\ninvalidate\r\n_\r\n*2\r\n:1\r\n$3\r\none\r\n"
    dribble = threading.Thread(target=scene.says, args=[bytes([byte]) for byte in answer])
    dribble.start()
    assert scene.ask("A") == [1, b"one"]
    dribble.join()


def test_many_questions_in_one_go(scene: Scene) -> None:
    scene.says(b"+OK\r\n-ERR no\r\n:3\r\n")
    first, second, third = scene.wire.converse([["A"], ["B"], ["C"]], CLOCK.now() + PATIENCE)
    assert (first, third) == (b"OK", 3)
    assert isinstance(second, RedisError)


def test_an_error_of_the_server_leaves_it_open(scene: Scene) -> None:
    scene.says(b"-READONLY no\r\n+OK\r\n")
    with pytest.raises(RedisError) as error:
        scene.ask("A")
    assert error.value.kind == "READONLY"
    assert scene.ask("B") == b"OK"


def test_no_answer_in_time_closes_it(scene: Scene) -> None:
    scene.says(b"$100\r\nhalf of")
    with pytest.raises(DeadlinePassed) as error:
        scene.ask("A", seconds=0.1)
    assert error.value.was_sent is True
    assert scene.wire.is_closed


def test_what_the_kernel_did_not_take_was_not_sent(scene: Scene) -> None:
    error = lost(lambda: scene.ask("SET", "key", b"x" * (16 << 20), seconds=0.2))  # of which the peer reads nothing
    assert error.was_sent is False
    assert scene.wire.is_closed


def test_an_end_instead_of_an_answer(scene: Scene) -> None:
    scene.peer.shutdown(socket.SHUT_WR)
    error = lost(lambda: scene.ask("A"))
    assert error.was_sent is True
    assert "the server ended it" in str(error)


def test_an_end_before_the_question(scene: Scene) -> None:
    scene.peer.close()
    assert lost(lambda: scene.ask("A")).was_sent is False


def test_what_is_no_resp_ends_it(scene: Scene) -> None:
    scene.says(b"HTTP/1.1 400 Bad Request\r\n")
    assert lost(lambda: scene.ask("A")).was_sent is True
    assert scene.wire.is_closed


def test_who_is_interrupted_leaves_no_answer_to_the_next(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    class TimeLimit(BaseException):
        """As task queues raise it from a signal."""

    def interrupted(*_: object) -> None:
        raise TimeLimit

    monkeypatch.setattr(BlockingWire, "_read", interrupted)
    with pytest.raises(TimeLimit):
        scene.ask("A")
    assert scene.wire.is_closed


def test_one_that_is_forgotten_in_a_circle_is_closed_before_its_socket_complains(scene: Scene) -> None:
    circle: list[Any] = [scene.wire]
    circle.append(circle)
    del scene.wire, circle
    gc.collect()  # a complaint fails this test: warnings are errors
    assert scene.peer.recv(1) == b"", "it has ended"
    scene.wire = BlockingWire("redis://test", socket.socket(), clock=CLOCK)  # for the fixture to close


def test_it_knows_whether_anything_came_unasked(scene: Scene) -> None:
    assert scene.wire.is_quiet()
    scene.says(b"$2\r\nhi\r\n")
    assert scene.ask("A") == b"hi"
    assert scene.wire.is_quiet()
    scene.peer.close()
    assert not scene.wire.is_quiet()


def test_bytes_that_nobody_asked_for_are_no_quiet(scene: Scene) -> None:
    scene.says(b"+late\r\n")
    assert not scene.wire.is_quiet()


# --- when to ask again


UNSENT = ConnectionLost("no connection", was_sent=False)
SENT = ConnectionLost("no answer", was_sent=True)


@pytest.mark.parametrize(
    ("error", "is_repeatable", "again"),
    [
        (UNSENT, False, True),
        (UNSENT, True, True),
        (SENT, True, True),
        (SENT, False, False),
        (RedisError("READONLY no"), False, True),
        (RedisError("LOADING wait"), True, True),
        (RedisError("OOM full"), True, False),
        (OutboxFull("too much"), True, False),
    ],
)
def test_what_is_asked_again(error: ConnectionLost | RedisError, is_repeatable: bool, again: bool) -> None:
    if again:
        assert go_on(error, was_sent=False, is_repeatable=is_repeatable, is_late=False) == (error is SENT)
    else:
        with pytest.raises(type(error)):
            go_on(error, was_sent=False, is_repeatable=is_repeatable, is_late=False)
    with pytest.raises(type(error)):
        go_on(error, was_sent=False, is_repeatable=is_repeatable, is_late=True)


def test_the_last_error_speaks_for_all_attempts() -> None:
    for last in (UNSENT, RedisError("OOM full")):
        with pytest.raises(ConnectionLost) as error:
            go_on(last, was_sent=True, is_repeatable=True, is_late=True)
        assert error.value.was_sent is True


def test_an_unsent_publish_without_a_key_waits_on_until_one_was_sent() -> None:
    was_sent = go_on(UNSENT, was_sent=False, is_repeatable=False, is_late=False)
    with pytest.raises(ConnectionLost):
        go_on(SENT, was_sent=was_sent, is_repeatable=False, is_late=False)


def test_who_published_is_told_what_to_do() -> None:
    told = [publish_failed(UNSENT, ""), publish_failed(SENT, "key"), publish_failed(SENT, "nonce")]
    assert [error.is_retry_safe for error in told] == [True, True, False]
    assert [str(error).partition(":")[0] for error in told] == [
        "not published, publish again",
        "perhaps published, publish again with the same idempotency key",
        "perhaps published, and publishing again may do it twice (give an idempotency key)",
    ]
