"""The pool of blocking connections, on a server that is a thread of the test and on a clock that stands still."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import hiredis
import pytest

from hubbub.clock import ManualClock
from hubbub.errors import BackendError
from hubbub.redis import pool as pool_module
from hubbub.redis.dialing import Refused
from hubbub.redis.outages import ALERT_AFTER
from hubbub.redis.pool import Pool
from hubbub.redis.wire import ConnectionLost, RedisError

ANSWERS = {b"HELLO": b"%0\r\n", b"PING": b"+PONG\r\n", b"ROLE": b"*1\r\n$6\r\nmaster\r\n"}


class House:
    """An address, and the server behind it."""

    name = "redis://house"

    def __init__(self) -> None:
        self.answers = dict(ANSWERS)
        self.trouble: BackendError | None = None  # in place of a connection
        self.connections = 0
        self.where_asked = 0
        self.moved: bool | None = False

    def connect(self, deadline: float) -> socket.socket:
        if self.trouble is not None:
            raise self.trouble
        ours, theirs = socket.socketpair()
        self.connections += 1
        threading.Thread(target=self._serve, args=[theirs], daemon=True).start()
        return ours

    async def open(self, factory: Any) -> Any:
        raise NotImplementedError  # nobody here has a loop

    def hello(self) -> list[list[bytes | str | int | float]]:
        return [["HELLO", 3], ["ROLE"]]

    def _serve(self, theirs: socket.socket) -> None:
        reader = hiredis.Reader()
        with theirs, contextlib.suppress(OSError):  # the pool leaves without a word
            while data := theirs.recv(65536):
                reader.feed(data)
                while command := reader.gets():
                    theirs.sendall(self.answers.get(command[0], b"+OK\r\n"))


class Guarded(House):
    """Behind Sentinels."""

    def has_moved(self, deadline: float) -> bool | None:
        self.where_asked += 1
        return self.moved


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def pool(house: House, clock: ManualClock) -> Iterator[Pool]:
    pool = Pool(house, clock=clock, smallest=1, largest=2)
    yield pool
    pool.close()


def ask(pool: Pool, clock: ManualClock, *command: str) -> Any:
    return pool.call(command or ("GET", "key"), clock.now() + 20.0)


def test_one_connection_serves_one_after_the_other(pool: Pool, house: House, clock: ManualClock) -> None:
    assert [ask(pool, clock) for _ in range(5)] == [b"OK"] * 5
    assert house.connections == 1


def test_nothing_is_connected_before_it_is_needed_nor_after_the_end(
    pool: Pool, house: House, clock: ManualClock
) -> None:
    assert house.connections == 0
    ask(pool, clock)
    pool.close()
    ask(pool, clock)
    assert house.connections == 2


def test_a_server_that_is_not_the_one_to_ask_is_left(pool: Pool, house: House, clock: ManualClock) -> None:
    house.answers[b"SET"] = b"-READONLY no\r\n"
    for number in (1, 2):
        with pytest.raises(RedisError, match="READONLY"):
            ask(pool, clock, "SET", "key", "value")
        assert house.connections == number
    house.answers[b"SET"] = b"-ERR syntax\r\n"
    for _ in range(2):
        with pytest.raises(RedisError, match="ERR syntax"):
            ask(pool, clock, "SET")
    assert house.connections == 3, "other errors are no reason"


def test_who_is_no_primary_is_not_asked(pool: Pool, house: House, clock: ManualClock) -> None:
    house.answers[b"ROLE"] = b"*1\r\n$5\r\nslave\r\n"
    with pytest.raises(ConnectionLost, match="is a slave, not the primary") as lost:
        ask(pool, clock)
    assert lost.value.was_sent is False


def test_a_replica_at_an_address_is_not_asked(pool: Pool, house: House, clock: ManualClock) -> None:
    house.answers[b"HELLO"] = b"%1\r\n$4\r\nrole\r\n$7\r\nreplica\r\n"
    with pytest.raises(ConnectionLost, match="this is a replica: name the primary") as lost:
        ask(pool, clock)
    assert lost.value.was_sent is False
    house.answers[b"HELLO"] = b"%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
    assert ask(pool, clock) == b"OK", "it was promoted"


def test_a_server_that_will_not_have_us_is_an_error_at_once(pool: Pool, house: House, clock: ManualClock) -> None:
    house.answers[b"HELLO"] = b"-WRONGPASS no\r\n"
    with pytest.raises(Refused, match="WRONGPASS"):
        ask(pool, clock)
    house.answers = dict(ANSWERS)
    assert ask(pool, clock) == b"OK", "and takes no place"


def test_a_server_that_loads_is_not_ready(pool: Pool, house: House, clock: ManualClock) -> None:
    house.answers[b"PING"] = b"-LOADING wait\r\n"
    with pytest.raises(ConnectionLost, match="not ready"):
        ask(pool, clock)


def test_one_alert_for_a_long_outage(
    pool: Pool, house: House, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    house.trouble = BackendError("redis://house cannot be reached: refused")
    for _ in range(5):
        with pytest.raises(ConnectionLost, match="cannot be reached"):
            ask(pool, clock)
        clock.move(ALERT_AFTER / 2)
    alerts = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert alerts == ["redis://house: unreachable for 30.0 s and 3 attempts: redis://house cannot be reached: refused"]
    house.trouble = None
    ask(pool, clock)
    assert "reachable again" in caplog.text
    assert pool.failures == 0


def test_who_the_primary_is_is_asked_now_and_then(clock: ManualClock) -> None:
    house = Guarded()
    pool = Pool(house, clock=clock, smallest=1, largest=2)
    for _ in range(3):
        ask(pool, clock)
    assert house.where_asked == 1, "once a second, not for each call, and not where a connection is made anyway"
    house.moved = True
    clock.move(1.1)
    ask(pool, clock)
    assert (house.where_asked, house.connections) == (2, 2)
    house.moved = None
    for _ in range(20):
        clock.move(1.1)
        ask(pool, clock)
    assert house.connections == 2
    assert house.where_asked < 10, "sentinels that are away are asked ever more rarely"
    pool.close()


def test_what_was_idle_for_long_has_to_answer_first(pool: Pool, house: House, clock: ManualClock) -> None:
    ask(pool, clock)
    clock.move(pool_module.IDLE + 1)
    house.answers[b"PING"] = b"-ERR unwell\r\n"
    with pytest.raises(ConnectionLost, match="not ready"):  # of the second connection
        ask(pool, clock)
    house.answers = dict(ANSWERS)
    assert ask(pool, clock) == b"OK"
    assert house.connections == 3
