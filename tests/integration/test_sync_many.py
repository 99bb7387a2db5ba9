"""`publish_many` of the blocking face on real servers: few questions, in order, and none twice whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from tests.backends import RedisServer
from tests.storms.proxy import Proxy

from hubbub import Published, PublishFailed
from hubbub.brokers import blocking
from hubbub.brokers.base import StreamOptions
from hubbub.brokers.batches import MOST, PUBLISH_MANY, Batches, Each, published_many
from hubbub.clock import SystemClock
from hubbub.model import Publication
from hubbub.redis.blocking import BlockingWire
from hubbub.redis.wire import RedisError
from hubbub.sync import Hubbub

#: Seconds for what must come, on any machine.
PATIENCE = 60.0

pytestmark = pytest.mark.timeout(120)  # some wait for deadlines, and machines are loaded

CHANNELS: dict[str, Any] = {
    "chat": {"delivery": "recent", "history_size": 10_000},
    "news": {"delivery": "live"},
}


def made(url: str, **options: Any) -> Hubbub:
    options.setdefault("deadline", 10.0)  # a loaded machine needs some
    return Hubbub(url, channels=CHANNELS, broker={"name": "app"}, **options)


@pytest.fixture
def hub(backend: RedisServer) -> Iterator[Hubbub]:
    hub = made(backend.url)
    yield hub
    hub.stop()


@pytest.fixture
def lonely(own_backend: RedisServer) -> Iterator[Hubbub]:
    """A hub on a server that the test may mistreat."""
    hub = made(own_backend.url)
    yield hub
    hub.stop()


def mixed(count: int) -> list[tuple[str, int]]:
    """In two channels with memory, and a live one."""
    return [(("chat:1", "news:1", "chat:2")[number % 3], number) for number in range(count)]


def kept(hub: Hubbub, channel: str) -> list[Any]:
    return [publication.data for publication in hub.history(channel, limit=10_000).publications]


def numbers(asked: Sequence[tuple[str, int]], channel: str) -> list[int]:
    return [number for name, number in asked if name == channel]


def offsets(done: Sequence[Published]) -> list[int]:
    return [each.position.offset if each.position is not None else 0 for each in done]


class Ears:
    """What redis-py hears of the live channel and of those with memory, in one order: the server's."""

    def __init__(self, server: RedisServer) -> None:
        self._redis = redis.Redis.from_url(server.url)
        self._pubsub = self._redis.pubsub()  # type: ignore[no-untyped-call]  # redis-py's own
        self._pubsub.psubscribe("chat:*", "news:*")
        for _ in range(2):
            assert self._pubsub.get_message(timeout=PATIENCE)["type"] == "psubscribe"

    def take(self) -> list[tuple[str, int]]:
        """All that was announced until now, in pairs of channel and number."""
        self._redis.publish("news:end", "-1")
        heard: list[tuple[str, int]] = []
        while True:
            message = self._pubsub.get_message(timeout=PATIENCE)
            assert message is not None, "not even the end was heard"
            if message["channel"] == b"news:end":
                return heard
            # Of what is kept, a number in JSON is the last word of the frame.
            heard.append((message["channel"].decode(), int(message["data"].split()[-1].rpartition(b"\x00")[2])))

    def close(self) -> None:
        self._pubsub.close()
        self._redis.close()


@contextlib.contextmanager
def ears_of(server: RedisServer) -> Iterator[Ears]:
    ears = Ears(server)
    try:
        yield ears
    finally:
        ears.close()


def before_batch(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], object]) -> None:
    """Do this once, right before the batch with that number is asked for, from 1 on."""
    converse, seen = BlockingWire.converse, [0]

    def counted(self: BlockingWire, commands: Any, end: float) -> list[Any]:
        if commands[0][0] in ("EVAL", "EVALSHA"):
            seen[0] += 1
            if seen[0] == number:
                do()
        return converse(self, commands, end)

    monkeypatch.setattr(BlockingWire, "converse", counted)


# --- few questions, in order


def test_many_are_few_questions(hub: Hubbub, backend: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish_many(mixed(1))  # connects, and sends the script
    written, read = [], []
    sendall, recv = socket.socket.sendall, socket.socket.recv

    def counted_sendall(self: socket.socket, data: Any, *rest: int) -> None:
        written.append(len(data))
        return sendall(self, data, *rest)

    def counted_recv(self: socket.socket, size: int, *rest: int) -> bytes:
        data = recv(self, size, *rest)
        read.append(len(data))
        return data

    with monkeypatch.context() as patched:
        patched.setattr(socket.socket, "sendall", counted_sendall)
        patched.setattr(socket.socket, "recv", counted_recv)
        done = hub.publish_many(mixed(10 * MOST))
    assert len(done) == 10 * MOST
    assert len(written) == 10
    assert len(read) < 10 * MOST / 2, "an answer may come in pieces, but all of a batch come together"
    with monkeypatch.context() as patched:
        patched.setattr(socket.socket, "sendall", counted_sendall)
        written.clear()
        large = "x" * 60_000
        hub.publish_many([("chat:3", large)] * 10)
    assert len(written) == 3, "four have less than 256 KiB"
    assert max(written) < 300_000


def test_their_order_is_the_order_of_all_channels(hub: Hubbub, backend: RedisServer) -> None:
    asked = mixed(3 * MOST + 1)
    with ears_of(backend) as ears:
        done = hub.publish_many(asked)
        assert ears.take() == asked
    first, live, second = (offsets(done[start::3]) for start in range(3))
    assert first == list(range(1, len(first) + 1))
    assert second == list(range(1, len(second) + 1))
    assert set(live) == {0}
    assert not any(each.duplicate for each in done)
    assert kept(hub, "chat:1") == numbers(asked, "chat:1")
    assert kept(hub, "chat:2") == numbers(asked, "chat:2")
    assert all(backend.command("PTTL", key) != -1 for key in backend.command("KEYS", "*")), "all go by themselves"


def test_one_by_one_or_together_is_the_same(hub: Hubbub, backend: RedisServer) -> None:
    single = [hub.publish(*each) for each in mixed(6)]
    names = [key for key in backend.command("KEYS", "*") if not key.startswith(b"app:n:")]
    ones = {key: backend.command("DUMP", key) for key in names if key.startswith(b"app:l:")}
    backend.flushall()
    assert offsets(hub.publish_many(mixed(6))) == offsets(single)
    assert {key: backend.command("DUMP", key) for key in ones} == ones
    assert sorted(key for key in backend.command("KEYS", "*") if not key.startswith(b"app:n:")) == sorted(names)


# --- cuts


@pytest.mark.parametrize("after", [0, 1, 2000, 4000])
async def test_a_cut_in_the_answers_publishes_nothing_twice(backend: RedisServer, after: int) -> None:
    """That many bytes into them: before the first, in it, and in later batches. The server has done the whole batch."""
    asked = mixed(4 * MOST)
    async with Proxy(backend.port) as proxy:
        hub = made(f"redis://127.0.0.1:{proxy.port}")
        try:
            await asyncio.to_thread(hub.publish_many, [("chat:9", 0)])
            with ears_of(backend) as ears:
                proxy.cut_in_answer(after)
                done = await asyncio.to_thread(hub.publish_many, asked)
                assert ears.take() == asked
            assert offsets(done[0::3]) == list(range(1, len(done[0::3]) + 1))
            assert not any(each.duplicate for each in done)
            assert await asyncio.to_thread(kept, hub, "chat:2") == numbers(asked, "chat:2")
            assert proxy.connections == 1
        finally:
            hub.stop()


async def test_what_never_reached_the_server_is_asked_for_again(
    backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "SECOND_CHANCE", 0.9)  # an attempt is given up after a tenth of what is left
    asked = mixed(2 * MOST)
    async with Proxy(backend.port) as proxy:
        hub = made(f"redis://127.0.0.1:{proxy.port}")
        try:
            await asyncio.to_thread(hub.publish_many, [("chat:9", 0)])
            with ears_of(backend) as ears:
                proxy.stall("clients")
                await asyncio.to_thread(hub.publish_many, asked)
                assert ears.take() == asked
        finally:
            hub.stop()


async def test_without_an_answer_a_batch_is_in_doubt_and_those_after_it_are_not_published(
    own_backend: RedisServer,
) -> None:
    asked = mixed(3 * MOST)
    async with Proxy(own_backend.port) as proxy:
        hub = made(f"redis://127.0.0.1:{proxy.port}", deadline=2.0)
        try:
            await asyncio.to_thread(hub.publish_many, [("chat:9", 0)])
            with ears_of(own_backend) as ears:
                proxy.stall("server", new=True)
                text = f"^0 of {3 * MOST} are published, the next {MOST} perhaps, and publishing these again may"
                with pytest.raises(PublishFailed, match=text) as failed:
                    await asyncio.to_thread(hub.publish_many, asked)
                assert failed.value.is_retry_safe is False
                assert ears.take() == asked[:MOST]
        finally:
            hub.stop()


def test_a_connection_that_dies_between_two_batches(
    hub: Hubbub, backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = mixed(4 * MOST)
    before_batch(monkeypatch, 3, lambda: backend.command("CLIENT", "KILL", "TYPE", "normal"))
    with ears_of(backend) as ears:
        hub.publish_many(asked)
        assert ears.take() == asked


def test_a_server_that_dies_between_two_batches(own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = made(own_backend.url, deadline=0.5)
    hub.publish_many(mixed(1))
    before_batch(monkeypatch, 3, own_backend.kill)
    with pytest.raises(PublishFailed, match=f"^{2 * MOST} of {4 * MOST} are published, ") as failed:
        hub.publish_many(mixed(4 * MOST))
    assert failed.value.is_retry_safe is False, "those before would come twice"
    with pytest.raises(PublishFailed, match=r"^not published, publish again: ") as failed:
        hub.publish_many(mixed(4 * MOST))
    assert failed.value.is_retry_safe is True
    hub.stop()


# --- what the server refuses


def test_a_script_that_the_server_forgot_is_sent_again(
    hub: Hubbub, backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = mixed(4 * MOST)
    before_batch(monkeypatch, 3, lambda: backend.command("SCRIPT", "FLUSH"))
    with ears_of(backend) as ears:
        hub.publish_many(asked)
        assert ears.take() == asked


def test_a_replica_is_waited_out_until_it_is_primary(
    lonely: Hubbub, own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [("news:1", 0), *mixed(4 * MOST)]  # a batch that begins with what a replica would take
    before_batch(monkeypatch, 3, lambda: own_backend.command("REPLICAOF", "127.0.0.1", 1))
    with ears_of(own_backend) as ears, ThreadPoolExecutor(1) as threads:
        outcome = threads.submit(lonely.publish_many, asked)
        while "READONLY" not in str(own_backend.command("INFO", "errorstats")):
            assert not outcome.done(), "it waits"
            time.sleep(0.005)
        own_backend.command("REPLICAOF", "NO", "ONE")
        assert len(outcome.result(PATIENCE)) == len(asked)
        assert ears.take() == asked


def test_a_server_that_is_full_refuses_a_whole_batch(
    lonely: Hubbub, own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [("news:1", 0), *mixed(4 * MOST)]
    before_batch(monkeypatch, 3, lambda: own_backend.command("CONFIG", "SET", "maxmemory", "1"))
    with ears_of(own_backend) as ears:
        text = f"^{2 * MOST} of {4 * MOST + 1} are published, publish the rest again: .*Redis is full"
        with pytest.raises(PublishFailed, match=text):
            lonely.publish_many(asked)
        assert ears.take() == asked[: 2 * MOST]
        own_backend.command("CONFIG", "SET", "maxmemory", "0")
        lonely.publish_many(asked[2 * MOST :])
        assert ears.take() == asked[2 * MOST :]


@pytest.mark.parametrize("key", ["app:m:{chat:bad}", "app:l:{chat:bad}"])
def test_one_that_is_refused_ends_it(hub: Hubbub, backend: RedisServer, key: str) -> None:
    hub.publish("chat:bad", 0)
    backend.command("SET", key, "neither hash nor list")
    asked = [("chat:1", 0), ("news:1", 1), ("chat:bad", 2), ("chat:1", 3), ("news:1", 4)]
    with ears_of(backend) as ears:
        with pytest.raises(PublishFailed, match=r"^2 of 5 are published, publish the rest again: WRONGTYPE"):
            hub.publish_many(asked)
        assert ears.take() == asked[:2]
    assert kept(hub, "chat:1") == [0]


def test_one_that_the_user_may_not_publish_ends_it(own_backend: RedisServer) -> None:
    own_backend.command("ACL", "SETUSER", "ann", "on", ">secret", "~*", "+@all", "&news:1")
    hub = made(own_backend.url.replace("redis://", "redis://ann:secret@"))
    with ears_of(own_backend) as ears:
        with pytest.raises(PublishFailed, match=r"^1 of 3 are published, .* channel"):
            hub.publish_many([("news:1", 0), ("news:2", 1), ("news:1", 2)])
        assert ears.take() == [("news:1", 0)]
    hub.stop()


# --- what a batch leaves of itself


def test_the_same_batch_again_goes_on_where_it_ended(hub: Hubbub, backend: RedisServer) -> None:
    """As after a cut that took the answer with it, were the reason for the refusal to go in between."""
    redis = hub._here().redis
    assert redis is not None
    size = StreamOptions(size=10, ttl=60.0)
    names = ["news:1", "chat:1", "chat:bad", "news:1", "chat:1", "news:1"]
    asked: list[Each] = [
        (name, Publication(str(number).encode()), StreamOptions() if name == "news:1" else size)
        for number, name in enumerate(names)
    ]
    (batch,) = Batches("app").publish_many(asked)

    def ask() -> tuple[list[Published], RedisError | None]:
        end = SystemClock().now() + PATIENCE
        replies = redis.pool.run(PUBLISH_MANY, batch.call.keys, batch.call.words, end)
        return published_many(batch, replies, is_first=False)

    pairs = [(name, number) for number, name in enumerate(names)]
    backend.command("SET", "app:m:{chat:bad}", "no hash")
    with ears_of(backend) as ears:
        for _ in range(2):
            done, refused = ask()
            assert (offsets(done), refused and refused.kind) == ([0, 1], "WRONGTYPE")
        assert ears.take() == pairs[:2]
        backend.command("DEL", "app:m:{chat:bad}")
        for _ in range(2):
            done, refused = ask()
            assert (offsets(done), refused) == ([0, 1, 1, 0, 2, 0], None)
        assert ears.take() == pairs[2:]
