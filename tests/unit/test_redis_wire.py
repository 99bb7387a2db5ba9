"""redis/wire.py on a transport that only notes what happens to it: batching, order, pushes, and exact failure."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.clock import ManualClock
from hubbub.errors import BackendError
from hubbub.redis.wire import (
    IDLE,
    READ_BYTES,
    REPLY_DEADLINE,
    WHOLE_REPLY_DEADLINE,
    ConnectionLost,
    DeadlinePassed,
    RedisError,
    Wire,
    pack,
)

PING = pack(("PING",))


class Transport:
    """Notes what is written, and whether it was ended."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_aborted = False

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0

    def write(self, data: bytes) -> None:
        assert not self.is_aborted, "written after the end"
        self.writes.append(data)

    def abort(self) -> None:
        self.is_aborted = True


class Scene:
    """A wire whose other end is the test."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.pushes: list[Any] = []
        self.rooms = 0
        self.wire = Wire("redis://test", self.clock, on_push=self.pushes.append, on_room=self._room)
        self.transport = Transport()
        self.wire.connection_made(cast(asyncio.Transport, self.transport))

    def receive(self, data: bytes) -> None:
        """What the server sends, in pieces of what a read holds."""
        for start in range(0, len(data), READ_BYTES):
            piece = data[start : start + READ_BYTES]
            self.wire.get_buffer(-1)[: len(piece)] = piece
            self.wire.buffer_updated(len(piece))

    def move(self, seconds: float) -> None:
        """Let time pass as a pipeline does: in ticks."""
        for _ in range(round(seconds * 10)):
            self.clock.move(0.1)
            self.wire.tick(self.clock.now())

    def _room(self) -> None:
        self.rooms += 1


async def turn() -> None:
    """Let the loop go round once."""
    await asyncio.sleep(0)


async def test_commands_of_one_turn_leave_in_one_write_and_find_their_replies_in_order() -> None:
    scene = Scene()
    replies = [scene.wire.ask("GET", f"key{number}") for number in range(3)]
    assert not scene.transport.writes
    await turn()
    assert scene.transport.writes == [b"".join(pack(("GET", f"key{number}")) for number in range(3))]

    scene.receive(b"+one\r\n:2\r\n$-1\r\n")

    assert [await reply for reply in replies] == [b"one", 2, None]
    assert scene.wire.in_flight == 0


async def test_false_and_null_are_replies_and_not_a_lack_of_data() -> None:
    scene = Scene()
    replies = [scene.wire.ask("EVAL", "…", 0) for _ in range(4)]
    await turn()
    scene.receive(b"#f\r\n_\r\n*-1\r\n*0\r\n")
    assert [await reply for reply in replies] == [False, None, None, []]


async def test_an_error_fails_its_own_call_only() -> None:
    scene = Scene()
    first, second, third = (scene.wire.ask("INCR", "key") for _ in range(3))
    await turn()
    scene.receive(b":1\r\n-WRONGTYPE Operation against a key\r\n:2\r\n")
    assert (await first, await third) == (1, 2)
    with pytest.raises(RedisError, match="WRONGTYPE Operation") as caught:
        await second
    assert caught.value.kind == "WRONGTYPE"
    assert not scene.wire.lost.done()


async def test_an_error_inside_of_an_array_is_a_value() -> None:
    scene = Scene()
    reply = scene.wire.ask("EXEC")
    await turn()
    scene.receive(b"*2\r\n:1\r\n-ERR bad\r\n")
    number, error = await reply
    assert number == 1
    assert isinstance(error, RedisError)


async def test_the_error_of_a_full_server_says_what_to_do() -> None:
    assert "maxmemory" in str(RedisError("OOM command not allowed when used memory > 'maxmemory'."))


async def test_pushes_go_to_their_receiver_wherever_they_stand() -> None:
    scene = Scene()
    first, second = scene.wire.ask("PING"), scene.wire.ask("PING")
    await turn()
    scene.receive(b">2\r\n+a\r\n:1\r\n+one\r\n>1\r\n+b\r\n+two\r\n>1\r\n+c\r\n")
    assert (await first, await second) == (b"one", b"two")
    assert scene.pushes == [[b"a", 1], [b"b"], [b"c"]]


async def test_a_receiver_of_pushes_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.wire._on_push = lambda items: items[99]
    reply = scene.wire.ask("PING")
    await turn()
    scene.receive(b">1\r\n+a\r\n+PONG\r\n")
    assert await reply == b"PONG"
    assert "receiver of a push failed" in caplog.text


async def test_a_cancelled_call_keeps_its_place_in_the_order() -> None:
    scene = Scene()
    first, second, third = (scene.wire.ask("INCR", "key") for _ in range(3))
    await turn()
    second.cancel()
    scene.receive(b":1\r\n:2\r\n:3\r\n")
    assert (await first, await third) == (1, 3)


async def test_what_was_sent_fails_as_sent_and_what_had_not_left_is_handed_back() -> None:
    scene = Scene()
    answered, sent = scene.wire.ask("ONE"), scene.wire.ask("TWO")
    await turn()
    scene.receive(b"+OK\r\n")
    waiting = scene.wire.ask("THREE")

    scene.wire.connection_lost(ConnectionResetError("cut"))

    assert await answered == b"OK"
    with pytest.raises(ConnectionLost, match=r"redis://test.*cut") as caught:
        await sent
    assert caught.value.was_sent
    assert not waiting.done()
    assert [(data, reply) for data, reply, _ in scene.wire.unsent] == [(pack(("THREE",)), waiting)]
    assert scene.transport.is_aborted
    await turn()
    assert len(scene.transport.writes) == 1, "nothing is written after the end"


async def test_a_call_after_the_end_fails_as_not_sent() -> None:
    scene = Scene()
    scene.wire.connection_lost(None)
    with pytest.raises(ConnectionLost) as caught:
        await scene.wire.ask("GET", "key")
    assert not caught.value.was_sent
    assert "the server closed" in str(scene.wire.lost.result())


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n", b"\x15\x03\x01\x00\x02\x02", b"+OK\r\n+OK\r\n", b"%1\r\n*1\r\n:1\r\n:2\r\n"],
    ids=["HTTP", "TLS", "more answers than questions", "a key that Python cannot hold"],
)
async def test_garbage_ends_the_connection_and_every_call(garbage: bytes) -> None:
    scene = Scene()
    reply = scene.wire.ask("PING")
    await turn()
    scene.receive(garbage)
    assert scene.wire.lost.done()
    assert scene.transport.is_aborted
    assert reply.done()
    if not garbage.startswith(b"+OK"):
        with pytest.raises(ConnectionLost):
            await reply


@pytest.mark.parametrize("error", ["READONLY You can't write", "LOADING Redis is loading", "MASTERDOWN Link is down"])
async def test_an_error_that_wants_another_connection_ends_this_one_after_the_answers_that_came(error: str) -> None:
    scene = Scene()
    refused, answered, owed = (scene.wire.ask("INCR", "key") for _ in range(3))
    await turn()
    scene.receive(f"-{error}\r\n:7\r\n".encode())
    assert await answered == 7
    with pytest.raises(RedisError) as caught:
        await refused
    assert caught.value.kind == error.split()[0]
    with pytest.raises(ConnectionLost):
        await owed
    assert scene.wire.lost.result() is caught.value


async def test_a_deadline_ends_its_call_and_the_late_reply_disturbs_nobody() -> None:
    scene = Scene()
    hurried, patient = scene.wire.ask("A", deadline=1.0), scene.wire.ask("B", deadline=4.0)
    await turn()
    scene.move(0.9)
    assert not hurried.done()
    scene.move(0.2)
    with pytest.raises(DeadlinePassed) as caught:
        await hurried
    assert caught.value.was_sent
    scene.receive(b"+a\r\n+b\r\n")
    assert await patient == b"b"


async def test_silence_is_asked_and_no_answer_is_the_end() -> None:
    scene = Scene()
    scene.move(IDLE - 0.2)
    await turn()
    assert not scene.transport.writes
    scene.move(0.4)
    await turn()
    assert scene.transport.writes == [PING], "once"
    scene.receive(b"+PONG\r\n")
    scene.move(IDLE + 0.4)
    await turn()
    assert scene.transport.writes == [PING, PING]
    scene.move(REPLY_DEADLINE + 0.2)
    assert "no answer" in str(scene.wire.lost.result())


async def test_a_server_that_owes_an_answer_and_says_nothing_is_dead() -> None:
    scene = Scene()
    scene.move(3.0)
    reply = scene.wire.ask("GET", "key", deadline=60.0)
    await turn()
    scene.move(REPLY_DEADLINE - 0.2)
    assert not scene.wire.lost.done()
    scene.move(0.4)
    with pytest.raises(ConnectionLost, match="no answer for 5 seconds"):
        await reply


async def test_a_long_reply_may_take_its_time_and_not_for_ever() -> None:
    scene = Scene()
    reply = scene.wire.ask("GET", "key", deadline=600.0)
    await turn()
    scene.receive(b"$999999\r\n")
    for _ in range(int(WHOLE_REPLY_DEADLINE) - 1):
        scene.receive(b"x")
        scene.move(1.0)
    assert not scene.wire.lost.done()
    scene.receive(b"x")
    scene.move(1.5)
    with pytest.raises(ConnectionLost, match="not whole"):
        await reply


async def test_a_command_may_be_answered_in_pushes_and_keeps_its_place_in_the_order() -> None:
    scene = Scene()
    scene.wire._on_push = lambda items: scene.wire.answered()
    first, subscribed, second = (scene.wire.ask(*command) for command in (["PING"], ["SUBSCRIBE", "a"], ["PING"]))
    await turn()
    scene.receive(b"+one\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n+two\r\n")
    assert [await first, await subscribed, await second] == [b"one", None, b"two"]
    scene.receive(b">1\r\n+stray\r\n")
    assert "answer nothing" in str(scene.wire.lost.result())


async def test_an_answer_that_came_too_early_is_nobodys() -> None:
    scene = Scene()
    waiting = scene.wire.ask("GET", "key")
    scene.receive(b"+stray\r\n")
    assert "an answer to nothing" in str(scene.wire.lost.result())
    assert not waiting.done(), "it had not left; the owner of the wire sends it elsewhere"
    assert [reply for _, reply, _ in scene.wire.unsent] == [waiting]


async def test_a_socket_that_takes_no_more_is_known_and_told_when_it_does() -> None:
    scene = Scene()
    scene.wire.pause_writing()
    assert not scene.wire.is_writable
    scene.wire.resume_writing()
    assert (scene.wire.is_writable, scene.rooms) == (True, 1)


REPLIES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.binary(max_size=300),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=5), inner, max_size=3),
    max_leaves=12,
)


def encoded(value: Any) -> bytes:
    """A reply, as a server writes it."""
    match value:
        case None:
            return b"_\r\n"
        case bool():
            return b"#t\r\n" if value else b"#f\r\n"
        case int():
            return b":%d\r\n" % value
        case float():
            return f",{value!r}\r\n".encode()
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(value), value)
        case list():
            return b"*%d\r\n" % len(value) + b"".join(map(encoded, value))
        case _:
            return b"%%%d\r\n" % len(value) + b"".join(encoded(k) + encoded(v) for k, v in value.items())


@given(st.lists(st.tuples(REPLIES, st.booleans()), max_size=12), st.data())
async def test_any_chunking_of_any_replies_gives_the_same_replies(
    stream: list[tuple[Any, bool]], data: st.DataObject
) -> None:
    """A pair is a reply, and whether a push comes in front of it."""
    whole = b"".join((b">1\r\n" + encoded(value) if is_pushed else b"") + encoded(value) for value, is_pushed in stream)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=20)))
    scene = Scene()
    replies = [scene.wire.ask("GET", "key") for _ in stream]
    await turn()
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        scene.receive(whole[start:end])
    assert [await reply for reply in replies] == [value for value, _ in stream]
    assert scene.pushes == [[value] for value, is_pushed in stream if is_pushed]


@given(st.binary(max_size=200), st.integers(1, 5))
async def test_any_bytes_end_in_an_answer_for_every_call(noise: bytes, calls: int) -> None:
    scene = Scene()
    replies = [scene.wire.ask("GET", "key") for _ in range(calls)]
    await turn()
    scene.receive(noise)
    scene.move(REPLY_DEADLINE + 0.2)
    scene.wire.connection_lost(None)
    for reply in replies:
        assert reply.done()
        if (error := reply.exception()) is not None:
            assert isinstance(error, BackendError)
