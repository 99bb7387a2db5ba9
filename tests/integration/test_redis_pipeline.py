"""redis/pipeline.py on real servers and against liars: whatever happens, every call has one answer, and it is exact."""

from __future__ import annotations

import asyncio
import logging
import random
import tracemalloc
from typing import Any

import pytest
from tests.backends import RedisServer, free_port
from tests.integration.redis_support import PATIENCE, connected, greeted, liar, made, outcome, shears, until
from tests.serving import Cable

from hubbub.redis import dialing as dialing_module
from hubbub.redis import pipeline as pipeline_module
from hubbub.redis import wire as wire_module
from hubbub.redis.pipeline import PLACE, Pipeline, Script
from hubbub.redis.wire import ConnectionLost, DeadlinePassed, OutboxFull, RedisError, Word

ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")

# ------------------------------------------------------------------------------------------------ ordinary days


async def test_commands_of_every_kind(redis_url: str) -> None:
    async with connected(redis_url) as pipeline:
        assert pipeline.is_connected
        assert await pipeline.call("SET", "a", b"\x00\xff") == b"OK"
        assert await pipeline.call("GET", "a") == b"\x00\xff"
        assert await pipeline.call("GET", "nobody") is None
        assert await pipeline.call("INCRBY", "n", 41) == 41
        assert await pipeline.call("INCRBYFLOAT", "n", 0.5) == b"41.5"
        assert await pipeline.call("HSET", "h", "ключ", "値") == 1
        assert await pipeline.call("HGETALL", "h") == {"ключ".encode(): "値".encode()}
        with pytest.raises(RedisError) as caught:
            await pipeline.call("INCR", "a")
        assert caught.value.kind == "ERR"
        with pytest.raises(TypeError):
            await pipeline.call("SET", "a", None)  # type: ignore[arg-type]  # the mistake that is tested
        with pytest.raises(UnicodeEncodeError):
            await pipeline.call("SET", "a", "\ud800")
        assert await pipeline.call("PING") == b"PONG"


async def test_the_database_of_the_url_is_the_one(redis_url: str) -> None:
    async with connected(redis_url + "/7") as seventh, connected(redis_url) as first:
        await seventh.call("SET", "a", 7)
        assert await first.call("GET", "a") is None
        assert b"name=hubbub-test" in await first.call("CLIENT", "LIST")


async def test_ten_thousand_calls_at_once_keep_their_order(redis_url: str) -> None:
    async with connected(redis_url, max_in_flight=500) as pipeline:
        replies = await asyncio.gather(*(pipeline.call("RPUSH", "list", number) for number in range(10_000)))
        assert replies == list(range(1, 10_001))
        assert await pipeline.call("LRANGE", "list", 0, -1) == [b"%d" % number for number in range(10_000)]


async def test_no_more_is_owed_than_was_agreed(redis_url: str) -> None:
    async with connected(redis_url, max_in_flight=3) as pipeline:
        calls = [asyncio.ensure_future(pipeline.call("PING")) for _ in range(50)]
        most = 0
        while not all(call.done() for call in calls):
            assert pipeline._wire is not None
            most = max(most, pipeline._wire.in_flight)
            await asyncio.sleep(0)
        assert most == 3
        assert await asyncio.gather(*calls) == [b"PONG"] * 50


async def test_a_reply_of_33_megabytes(redis_url: str) -> None:
    size = 33 * 1024 * 1024
    async with connected(redis_url) as pipeline:
        await pipeline.call("SETRANGE", "large", size - 1, "x")
        small, large, after = await asyncio.gather(
            pipeline.call("PING"), pipeline.call("GET", "large"), pipeline.call("PING")
        )
        assert (small, len(large), after) == (b"PONG", size, b"PONG")


async def test_commands_larger_than_the_socket_holds(redis_url: str) -> None:
    async with connected(redis_url) as pipeline:
        value = b"x" * 1_000_000
        calls = [pipeline.call("SET", f"key{number}", value) for number in range(40)]
        assert await asyncio.gather(*calls) == [b"OK"] * 40
        assert await pipeline.call("STRLEN", "key39") == 1_000_000


async def test_a_script_is_sent_whole_once(backend: RedisServer) -> None:
    def calls_of(command: str) -> int:
        statistics = backend.command("INFO", "commandstats")  # redis-py has parsed them
        return int(statistics.get(f"cmdstat_{command}", {"calls": 0})["calls"])

    async with connected(backend.url) as pipeline:
        backend.command("CONFIG", "RESETSTAT")
        results = await asyncio.gather(*(pipeline.run(ADD, ["n"], [1]) for _ in range(100)))
        assert sorted(results) == list(range(1, 101))
        assert (calls_of("eval"), calls_of("evalsha")) == (1, 99)

        # Forgotten by the server while a hundred are on their way: told so, all of them, and sent whole by one.
        backend.command("SCRIPT", "FLUSH")
        backend.command("CONFIG", "RESETSTAT")
        results = await asyncio.gather(*(pipeline.run(ADD, ["n"], [1]) for _ in range(100)))
        assert sorted(results) == list(range(101, 201)), "each was carried out once"
        assert (calls_of("eval"), calls_of("evalsha")) == (1, 199)


async def test_an_error_of_a_script_is_raised(redis_url: str) -> None:
    async with connected(redis_url) as pipeline:
        for _ in range(2):
            with pytest.raises(RedisError, match="told so"):
                await pipeline.run(Script("return redis.error_reply('BAD told so')"), [], [])


async def test_cancelled_calls_disturb_nobody(own_backend: RedisServer) -> None:
    async with connected(own_backend.url, max_in_flight=10) as pipeline:
        own_backend.pause()  # so that ten are on their way, and the others wait
        calls = [asyncio.ensure_future(pipeline.call("RPUSH", "list", number)) for number in range(30)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for number in (3, 9, 10, 17, 29):
            calls[number].cancel()
        own_backend.resume()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [number for number, result in enumerate(results) if isinstance(result, asyncio.CancelledError)] == [
            3, 9, 10, 17, 29,
        ]  # fmt: skip
        kept = [int(item) for item in await pipeline.call("LRANGE", "list", 0, -1)]
        assert kept == [number for number in range(30) if number not in (10, 17, 29)], "what waited was never sent"


# ------------------------------------------------------------------------------------------------- bad days


async def test_killed_with_calls_in_flight_and_back_on_the_same_port(own_backend: RedisServer) -> None:
    events: list[str] = []
    async with connected(own_backend.url, observer=events.append, max_in_flight=50, deadline=PATIENCE) as pipeline:
        own_backend.pause()  # the calls reach the kernel, and no answer comes back
        calls = [asyncio.ensure_future(pipeline.call("INCR", "n")) for _ in range(80)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        own_backend.kill()

        sent = await asyncio.gather(*(outcome(call) for call in calls[:50]))
        assert all(isinstance(error, ConnectionLost) and error.was_sent for error in sent)
        assert not pipeline.is_connected
        assert not any(call.done() for call in calls[50:])

        own_backend.start()
        assert await asyncio.gather(*calls[50:]) == list(range(1, 31)), "what had not left, in order, once"
        assert "redis_reconnect" in events


async def test_while_it_is_down_calls_wait_and_end_by_their_deadline(own_backend: RedisServer) -> None:
    async with connected(own_backend.url) as pipeline:
        own_backend.kill()
        await until(lambda: not pipeline.is_connected)
        patient = asyncio.ensure_future(pipeline.call("PING", deadline=PATIENCE))
        with pytest.raises(DeadlinePassed, match="not sent in time: no connection") as caught:
            await pipeline.call("PING", deadline=0.2)
        assert not caught.value.was_sent
        with pytest.raises(DeadlinePassed):
            await pipeline.run(ADD, ["n"], [1], deadline=0.2)
        assert not patient.done()
        own_backend.start()
        assert await patient == b"PONG"
        assert await pipeline.run(ADD, ["n"], [1], deadline=PATIENCE) == 1, "the new server has never seen the script"


async def test_stalled_beyond_the_deadline_and_back(own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "REPLY_DEADLINE", 0.5)
    async with connected(own_backend.url) as pipeline:
        own_backend.pause()
        hurried = await outcome(pipeline.call("INCR", "n", deadline=0.1))
        assert isinstance(hurried, DeadlinePassed)
        assert hurried.was_sent
        patient = await outcome(pipeline.call("INCR", "n", deadline=PATIENCE))
        assert isinstance(patient, ConnectionLost)
        assert patient.was_sent
        assert "no answer for" in str(patient)
        waiting = asyncio.ensure_future(pipeline.call("GET", "m", deadline=PATIENCE))
        own_backend.resume()
        assert await waiting is None
        assert await pipeline.call("PING") == b"PONG"


async def test_a_dead_connection_that_nobody_uses_is_found(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_module, "IDLE", 0.2)
    monkeypatch.setattr(wire_module, "REPLY_DEADLINE", 0.3)
    async with connected(own_backend.url) as pipeline:
        own_backend.pause()
        await until(lambda: not pipeline.is_connected)
        own_backend.resume()
        await until(lambda: pipeline.is_connected)


async def test_connections_killed_by_an_administrator(backend: RedisServer) -> None:
    async with connected(backend.url) as pipeline:
        for _ in range(5):
            wire = pipeline._wire
            backend.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await until(lambda: pipeline._wire is not wire)  # noqa: B023 - called at once
            assert await pipeline.call("PING", deadline=PATIENCE) == b"PONG"


@pytest.mark.parametrize("kept", [0, 1, 4, 5, 100, 70_000, 1_000_000])
async def test_replies_cut_in_the_middle(backend: RedisServer, kept: int) -> None:
    """The connection ends `kept` bytes into the replies; what was whole is given, all else fails as sent."""
    backend.command("SET", "large", b"x" * 200_000)

    async with shears(backend.port) as (url, cut_after), connected(url) as pipeline:
        cut_after(kept)
        calls = [pipeline.call("GET", "large") for _ in range(20)]
        results = await asyncio.gather(*map(outcome, calls))
        whole = kept // (200_000 + len(b"$200000\r\n\r\n"))
        assert all(result == b"x" * 200_000 for result in results[:whole])
        assert all(isinstance(result, ConnectionLost) and result.was_sent for result in results[whole:])
        assert len(await pipeline.call("GET", "large", deadline=PATIENCE)) == 200_000


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 100_000, b":1\r\n" * 9, b"*3\r\n$"])
async def test_a_server_that_sends_garbage(garbage: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "REPLY_DEADLINE", 0.4)
    events: list[str] = []

    def answer(data: bytes) -> bytes:
        return greeted(data) or garbage

    async with liar(answer) as url, connected(url, observer=events.append) as pipeline:
        for _ in range(3):
            await outcome(pipeline.call("GET", "key", deadline=PATIENCE))
        await until(lambda: events.count("redis_reconnect") >= 3)
        await until(lambda: pipeline.is_connected)


async def test_a_server_that_ends_every_connection_is_not_stormed() -> None:
    """A greeting that works and a connection that does not last: the delays grow all the same."""
    greetings = 0

    def answer(data: bytes) -> bytes:
        nonlocal greetings
        greetings += 1
        return greeted(data) + b"?"

    async with liar(answer) as url, connected(url) as pipeline:
        with pytest.raises(ConnectionLost):
            await pipeline.call("PING", deadline=0.5)
        assert pipeline._backoff.attempt >= 2
        assert greetings < 50


async def test_a_replica_is_left_at_once(own_backend: RedisServer) -> None:
    async with connected(own_backend.url) as pipeline:
        assert await pipeline.call("SET", "a", 1) == b"OK"
        wire = pipeline._wire
        own_backend.command("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(RedisError) as caught:
            await pipeline.call("SET", "a", 2)
        assert caught.value.kind in {"READONLY", "MASTERDOWN"}
        await until(lambda: pipeline._wire is not wire)
        own_backend.command("REPLICAOF", "NO", "ONE")
        assert await pipeline.call("SET", "a", 3, deadline=PATIENCE) == b"OK"


async def test_a_replica_that_refuses_nothing_is_left_and_not_taken_again(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who only announces is never told READONLY."""
    monkeypatch.setattr(dialing_module, "ROLE_EVERY", 0.05)
    async with connected(own_backend.url) as pipeline:
        own_backend.command("REPLICAOF", "127.0.0.1", free_port())
        await until(lambda: pipeline._backoff.attempt >= 3)
        assert not pipeline.is_connected
        waiting = pipeline.call("PUBLISH", "a", "1", deadline=PATIENCE)
        own_backend.command("REPLICAOF", "NO", "ONE")
        assert await waiting == 0
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sum("no connection for commands" in text and wire_module.REPLICA in text for text in told) == 1
    assert any("lost the connection for commands: this is a replica" in text for text in told)


async def test_a_replica_can_be_looked_at(own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing_module, "ROLE_EVERY", 0.0)
    own_backend.command("REPLICAOF", "127.0.0.1", free_port())
    async with connected(own_backend.url) as pipeline:
        wire = pipeline._wire
        for _ in range(50):
            assert b"role:slave" in await pipeline.call("INFO", "replication")
        assert pipeline._wire is wire


async def test_who_has_patience_waits_for_a_connection_that_long_and_not_at_all_after_that(
    own_backend: RedisServer,
) -> None:
    async with connected(own_backend.url) as pipeline:
        assert await pipeline.run(ADD, ["n"], [1], patience=0.0) == 1, "there is a connection"
        own_backend.kill()
        await until(lambda: not pipeline.is_connected)
        hasty = asyncio.ensure_future(pipeline.run(ADD, ["n"], [1], 10 * PATIENCE, patience=0.1))
        with pytest.raises(DeadlinePassed, match="no connection") as caught:
            await hasty
        assert caught.value.was_sent is False
        patient = asyncio.ensure_future(pipeline.run(ADD, ["n"], [1], PATIENCE, patience=10 * PATIENCE))
        await asyncio.sleep(0)
        own_backend.start()
        assert await patient == 1


async def test_a_full_server_says_what_to_do_and_stays_connected(own_backend: RedisServer) -> None:
    async with connected(own_backend.url) as pipeline:
        await pipeline.call("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(RedisError, match="raise maxmemory"):
            await pipeline.call("SET", "a", "x")
        assert await pipeline.call("GET", "a") is None


async def test_stopping_answers_everybody(own_backend: RedisServer) -> None:
    pipeline = made(own_backend.url, max_in_flight=5)
    with pytest.raises(ConnectionLost, match="not started"):
        await pipeline.call("PING")
    await pipeline.start()
    own_backend.pause()
    calls = [asyncio.ensure_future(outcome(tried(pipeline, "PING"))) for _ in range(8)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await pipeline.stop()
    await pipeline.stop()
    assert [error.was_sent for error in await asyncio.gather(*calls)] == [True] * 5 + [False] * 3
    with pytest.raises(ConnectionLost, match="stopped"):
        await pipeline.call("PING")
    assert not pipeline.is_connected


MIB = b"x" * (1 << 20)


async def tried(pipeline: Pipeline, *command: Word, deadline: float | None = None) -> Any:
    """A call, made and awaited in a task of its own."""
    return await pipeline.call(*command, deadline=deadline)


async def test_a_server_that_does_not_read_costs_a_bounded_outbox(own_backend: RedisServer) -> None:
    """Publishers of a megabyte each: what is refused is refused at once, everything else is carried out, once."""
    counted: list[str] = []
    async with connected(own_backend.url, deadline=PATIENCE, max_waiting=16 << 20, observer=counted.append) as pipeline:
        await pipeline.call("SET", "n", 0)
        own_backend.pause()
        tracemalloc.start()
        try:
            calls = [asyncio.ensure_future(tried(pipeline, "APPEND", "all", MIB)) for _ in range(400)]
            await asyncio.sleep(0)
            refused = [call for call in calls if call.done()]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 32 << 20, "16 in the outbox, and what was handed to the kernel"
        assert len(refused) > 350
        assert counted == ["redis_outbox_full"] * len(refused)
        for call in refused:
            error = call.exception()
            assert isinstance(error, OutboxFull)
            assert not error.was_sent
        assert "KiB of commands wait already" in str(refused[0].exception())
        assert "publish less at once, or again later" in str(refused[0].exception())

        small = asyncio.ensure_future(outcome(tried(pipeline, "PING")))
        own_backend.resume()
        lengths = await asyncio.gather(*(call for call in calls if call not in refused))
        assert lengths == [number << 20 for number in range(1, len(lengths) + 1)], "in order"
        assert await pipeline.call("STRLEN", "all") == len(lengths) << 20
        answer = await small
        assert answer == b"PONG" or isinstance(answer, OutboxFull)
        await asyncio.gather(*(pipeline.call("SET", f"k{n}", MIB) for n in range(10)))
        assert pipeline._waiting == 0
        assert len(counted) <= len(refused) + 1


async def test_the_outbox_fills_while_the_server_is_away_and_empties_by_deadlines(
    own_backend: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(own_backend.url, max_waiting=10 * (100 + PLACE)) as pipeline:
        own_backend.kill()
        await until(lambda: not pipeline.is_connected)
        for _ in range(2):
            calls = [
                asyncio.ensure_future(outcome(tried(pipeline, "SET", "a", b"x" * 70, deadline=0.3))) for _ in range(30)
            ]
            results = await asyncio.gather(*calls)
            assert [type(result) for result in results] == [DeadlinePassed] * 10 + [OutboxFull] * 20
            assert pipeline._waiting == 0
        cancelled = [asyncio.ensure_future(pipeline.call("SET", "a", b"x" * 70)) for _ in range(10)]
        await asyncio.sleep(0)
        assert pipeline._waiting
        for call in cancelled:
            call.cancel()
        await until(lambda: not pipeline._waiting)
        waiting = asyncio.ensure_future(pipeline.call("SET", "a", 1, deadline=PATIENCE))
        own_backend.start()
        assert await waiting == b"OK"
    assert "calls are refused" in caplog.text
    assert len([1 for record in caplog.records if record.levelno == logging.WARNING and "refused" in record.msg]) == 1


async def test_what_had_not_left_is_taken_back_though_the_outbox_is_full(own_backend: RedisServer) -> None:
    async with connected(own_backend.url, deadline=PATIENCE, max_waiting=1000) as pipeline:
        calls = [asyncio.ensure_future(pipeline.call("INCR", "n")) for _ in range(100)]
        # They are made, and leave at the end of the turn.
        assert pipeline._wire is not None
        pipeline._wire.sever(ConnectionResetError("cut at that moment"))
        assert await asyncio.gather(*calls) == list(range(1, 101))
        assert pipeline._waiting == 0


async def test_a_stop_while_it_reconnects_answers_everybody(own_backend: RedisServer) -> None:
    for _ in range(5):
        pipeline = made(own_backend.url)
        await pipeline.start()
        own_backend.kill()
        await until(lambda: not pipeline.is_connected)  # noqa: B023 - called at once
        calls = [asyncio.ensure_future(outcome(pipeline.call("PING", deadline=PATIENCE))) for _ in range(3)]
        await asyncio.sleep(random.random() / 10)
        own_backend.start()
        await asyncio.sleep(random.random() / 50)
        await pipeline.stop()
        for result in await asyncio.gather(*calls):
            assert result == b"PONG" or isinstance(result, ConnectionLost)
        assert not [task for task in asyncio.all_tasks() if "redis" in task.get_name()]
        assert not pipeline.is_connected


async def test_a_start_that_is_cancelled_leaves_nothing(own_backend: RedisServer) -> None:
    def clients() -> int:
        listed: str = own_backend.command("INFO", "clients")["connected_clients"]
        return int(listed)

    before = clients()
    pipeline = made(own_backend.url)
    for turns in range(12):
        starting = asyncio.ensure_future(pipeline.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            await pipeline.stop()
    await until(lambda: clients() == before)
    await pipeline.start()
    assert await pipeline.call("PING") == b"PONG"
    await pipeline.stop()


async def test_every_call_has_an_answer_and_the_answers_are_true(
    backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers count up while the way breaks again and again. What is counted is what succeeded, and what may have."""
    monkeypatch.setattr(pipeline_module, "STEADY", 0.0)  # each attempt counts as the first
    done, unsure, refused = 0, 0, 0
    is_over = False

    async def count() -> None:
        nonlocal done, unsure, refused
        while not is_over:
            result = await outcome(pipeline.call("INCR", "n", deadline=PATIENCE))
            if isinstance(result, int):
                done += 1
            elif result.was_sent:
                unsure += 1
            else:
                refused += 1

    async with Cable(backend.port) as cable, connected(f"redis://127.0.0.1:{cable.port}") as pipeline:
        callers = [asyncio.ensure_future(count()) for _ in range(100)]
        for _ in range(10):
            before = done
            await until(lambda: done >= before + 500)  # noqa: B023 - called at once
            cable.cut()
            await until(lambda: not pipeline.is_connected)
            cable.mend()
        is_over = True
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*callers)
        counted = int(await pipeline.call("GET", "n"))
    assert done <= counted <= done + unsure
    assert unsure
    assert refused == 0
