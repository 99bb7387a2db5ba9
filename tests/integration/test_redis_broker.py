"""The Redis broker where Redis, its keys or its neighbours are not as they should be, on real servers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis
import redis.asyncio
from tests.backends import RedisServer
from tests.contracts.broker import KEPT, LIVE, fill, kept, position
from tests.contracts.conftest import AGE, Node

from hubbub.brokers import redis as broker_module
from hubbub.brokers.base import Notice, StreamOptions
from hubbub.brokers.redis import RedisBroker
from hubbub.clock import SystemClock
from hubbub.errors import BackendError, PublishFailed
from hubbub.model import ClientInfo, Position, Publication
from hubbub.redis.wire import ConnectionLost

META, LIST = "app:m:{c}", "app:l:{c}"
KEYED = StreamOptions(size=100, ttl=60, idempotency_key="k")
KEYED_LIVE = StreamOptions(idempotency_key="k")


@asynccontextmanager
async def running(server: RedisServer, *, name: str = "app", prefix: str = "") -> AsyncIterator[Node]:
    """One node."""
    node = Node(RedisBroker(server.url, name=name, prefix=prefix, clock=SystemClock()))
    await node.broker.start(node.heard)
    try:
        yield node
    finally:
        await node.broker.stop()


@pytest.fixture
async def node(backend: RedisServer) -> AsyncIterator[Node]:
    async with running(backend) as node:
        yield node


@pytest.fixture
async def lonely(own_backend: RedisServer) -> AsyncIterator[Node]:
    """A node on a server that the test may mistreat."""
    async with running(own_backend) as node:
        yield node


async def until(condition: Callable[[], object]) -> None:
    """Return once it holds: it is about what another process does."""
    while not condition():  # noqa: ASYNC110  # there is nothing to wait on
        await asyncio.sleep(0.002)


def counts(node: Node) -> dict[str, int]:
    assert isinstance(node.broker, RedisBroker)
    return node.broker.counts()


def lose_answers(node: Node, monkeypatch: pytest.MonkeyPatch, times: int = 1, *, was_sent: bool = True) -> list[str]:
    """The next commands are carried out (or with `was_sent` false, are not), and their answers lost. Returns a log."""
    log: list[str] = []
    pipeline = getattr(node.broker, "_commands")  # noqa: B009  # which a test of what it does has to reach

    def losing(name: str) -> None:
        real: Callable[..., Awaitable[Any]] = getattr(pipeline, name)

        async def lossy(*arguments: Any, **options: Any) -> Any:
            log.append(name)
            if len(log) > times:
                return await real(*arguments, **options)
            if was_sent:
                await real(*arguments, **options)
            raise ConnectionLost("cut by the test", was_sent=was_sent)

        monkeypatch.setattr(pipeline, name, lossy)

    for name in ("run", "call"):
        losing(name)
    return log


# --- what is in Redis


async def test_every_key_is_the_applications_and_has_a_ttl(node: Node, backend: RedisServer) -> None:
    await node.broker.subscribe("listened")
    await node.broker.heads(["asked", "listened"])
    await node.broker.read("read", 0, 1)
    await node.broker.publish("c", Publication(b"1"), KEYED)
    await node.broker.publish("c", Publication(b"1"), KEPT)
    await node.broker.publish("live", Publication(b"1"), LIVE)
    await node.broker.publish("live", Publication(b"1"), KEYED_LIVE)
    await node.broker.notify("live", Notice("join", ClientInfo("ann")))
    await node.broker.remove_history("c")
    await node.broker.publish("c", Publication(b"1"), KEPT)
    ttls = {key.decode(): backend.command("PTTL", key) / 1000 for key in backend.command("KEYS", "*")}
    nonces = [ttls.pop(key) for key in list(ttls) if key.startswith("app:n:{c}:")]
    assert len(nonces) == 2
    assert all(0 < ttl <= 15 for ttl in nonces)
    limits = {
        "app:m:{asked}": 60,
        "app:m:{listened}": 180,
        "app:m:{read}": 60,
        "app:k:1:{c}:k": 300,
        "app:k:4:{live}:k": 300,
        META: 30 * 86400,
        LIST: 60,
    }
    assert set(ttls) == set(limits)
    assert all(limit * 0.9 < ttls[key] <= limit for key, limit in limits.items())


async def test_nothing_is_left_when_all_is_over(node: Node, backend: RedisServer) -> None:
    await node.broker.heads([f"asked{number}" for number in range(20)])
    await fill(node.broker, "c", 5)
    await node.broker.publish("c", Publication(b"1"), KEYED)
    backend.command("EVAL", AGE, 0, 301_000)
    assert backend.command("KEYS", "*") == [META.encode()]
    backend.command("EVAL", AGE, 0, 30 * 86_400_000)
    assert backend.command("DBSIZE") == 0


async def test_who_asks_does_not_shorten_what_who_listens_has(node: Node, backend: RedisServer) -> None:
    async with running(backend) as other:
        await node.broker.subscribe("c")
        before = await node.broker.heads(["c"])
        assert await other.broker.heads(["c"]) == before
        assert (await other.broker.read("c", 0, 1)).head == before["c"]
        assert backend.command("TTL", META) > 60


async def test_who_listens_keeps_the_epoch_though_nobody_publishes(
    backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "REMIND_EVERY", 0.01)
    async with running(backend) as node:
        await node.broker.subscribe("c")
        before = await node.broker.heads(["c"])
        backend.command("PEXPIRE", META, 30_000)
        await until(lambda: backend.command("TTL", META) > 60)
        assert await node.broker.heads(["c"]) == before
        await node.broker.unsubscribe("c")
        await node.broker.heads(["another"])  # behind a reminder that may be under way
        backend.command("DEL", META)
        assert isinstance(node.broker, RedisBroker)
        await node.broker.remind()
        assert backend.command("EXISTS", META) == 0


async def test_history_may_live_longer_than_a_month(node: Node, backend: RedisServer) -> None:
    await fill(node.broker, "c", 1, StreamOptions(size=10, ttl=90 * 86400))
    assert backend.command("TTL", META) > backend.command("TTL", LIST) > 89 * 86400


async def test_applications_do_not_meet(node: Node, backend: RedisServer) -> None:
    async with running(backend, name="other", prefix="other:") as other:
        for each in (node, other):
            await each.broker.subscribe("c")
            await each.broker.watch(["*"])
        await fill(node.broker, "c", 3)
        await fill(other.broker, "c", 1)
        await fill(other.broker, "d", 1)
        await until(lambda: len(other.heard.announced["d"]) == 1 and len(node.heard.announced["c"]) == 3)
        assert other.heard.offsets("c") == [1]
        # One without a prefix hears the others, by the names that they have in Redis.
        await until(lambda: len(node.heard.announced) == 3)
        assert set(node.heard.announced) == {"c", "other:c", "other:d"}
        assert set(other.heard.announced) == {"c", "d"}


async def test_a_prefix_is_no_pattern(backend: RedisServer) -> None:
    prefix = "a?[b]*\\^:"
    async with running(backend, prefix=prefix) as one, running(backend, prefix="ax[b]yz\\^:") as two:
        await one.broker.watch(["c*"])
        await two.broker.publish("c1", Publication(b"1"), LIVE)
        await one.broker.publish("c2", Publication(b"2"), LIVE)
        await until(lambda: bool(one.heard.announced))
        assert dict(one.heard.announced) == {"c2": [(Publication(b"2"), "")]}


async def test_braces_make_no_two_keys_one(node: Node) -> None:
    first = StreamOptions(size=1, ttl=60, idempotency_key="b}:c")
    second = StreamOptions(size=1, ttl=60, idempotency_key="c")
    assert (await node.broker.publish("a", Publication(b"1"), first)).duplicate is False
    assert (await node.broker.publish("a}:b", Publication(b"1"), second)).duplicate is False


async def test_numbers_beyond_what_lua_counts_in(node: Node, backend: RedisServer) -> None:
    await fill(node.broker, "c", 1)
    backend.command("HSET", META, "s", 10**15)
    await node.broker.subscribe("c")
    assert position(await node.broker.publish("c", Publication(b"1"), KEPT)).offset == 10**15 + 1
    await until(lambda: bool(node.heard.announced))
    assert node.heard.offsets("c") == [10**15 + 1]
    assert await kept(node.broker, "c", 10**15) == [10**15 + 1]

    async def is_dropped(version: int) -> bool:
        options = StreamOptions(size=10, ttl=60, version=version)
        return (await node.broker.publish("c", Publication(b"1"), options)).duplicate

    assert [await is_dropped(2**62 + more) for more in (0, 1, 1, 0, 2)] == [False, False, True, True, False]


# --- what Redis loses


@pytest.mark.parametrize("question", ["heads", "read", "publish"])
async def test_an_emptied_server_is_another_epoch(node: Node, backend: RedisServer, question: str) -> None:
    await fill(node.broker, "c", 5)
    before = (await node.broker.heads(["c"]))["c"]
    backend.flushall()
    if question == "publish":
        await fill(node.broker, "c", 1)
    elif question == "read":
        await node.broker.read("c", 0, 1)
    head = (await node.broker.heads(["c"]))["c"]
    assert head.epoch != before.epoch
    assert head.offset == (1 if question == "publish" else 0)


@pytest.mark.parametrize("question", ["heads", "read", "replace", "publish"])
async def test_a_lost_meta_makes_nothing_of_what_is_left(node: Node, backend: RedisServer, question: str) -> None:
    await fill(node.broker, "c", 5)
    before = (await node.broker.heads(["c"]))["c"]
    backend.command("DEL", META)
    if question == "heads":
        assert (await node.broker.heads(["c"]))["c"].epoch != before.epoch
    elif question == "read":
        page = await node.broker.read("c", 0, 10)
        assert list(page.publications) == []
        assert page.head.epoch != before.epoch
    elif question == "replace":
        assert (await node.broker.replace_epoch("c", before.epoch)).epoch != before.epoch
    done = position(await node.broker.publish("c", Publication(b"new"), KEPT))
    assert done.offset == 1
    assert done.epoch != before.epoch
    assert [p.data for p in (await node.broker.read("c", 0, 10)).publications] == [b"new"]


async def test_a_lost_list_is_history_trimmed(node: Node, backend: RedisServer) -> None:
    await fill(node.broker, "c", 5)
    head = (await node.broker.heads(["c"]))["c"]
    backend.command("DEL", LIST)
    assert await node.broker.read("c", 0, 10) == ([], head)
    await fill(node.broker, "c", 2)
    assert await kept(node.broker, "c", 3) == [6, 7]


async def test_a_server_rolled_back_goes_on_under_another_epoch(node: Node, backend: RedisServer) -> None:
    await fill(node.broker, "c", 3)
    saved = {key: backend.command("DUMP", key) for key in (META, LIST)}
    await fill(node.broker, "c", 2)
    before = (await node.broker.heads(["c"]))["c"]
    for key, value in saved.items():
        backend.command("RESTORE", key, 60_000, value, "REPLACE")
    assert (await node.broker.heads(["c"]))["c"] == Position(before.epoch, 3)
    head = await node.broker.replace_epoch("c", before.epoch)
    assert head.offset == 3
    assert position(await node.broker.publish("c", Publication(b"4"), KEPT)) == Position(head.epoch, 4)
    assert await kept(node.broker, "c") == [1, 2, 3, 4]


async def test_forgotten_scripts_are_sent_again(node: Node, backend: RedisServer) -> None:
    await fill(node.broker, "c", 2)
    backend.command("SCRIPT", "FLUSH")
    await asyncio.gather(*(node.broker.publish("c", Publication(b"1"), KEPT) for _ in range(5)))
    assert await kept(node.broker, "c") == [1, 2, 3, 4, 5, 6, 7]


# --- strangers


def speak(server: RedisServer, *messages: bytes | str, channel: str = "c") -> None:
    for message in messages:
        server.command("PUBLISH", channel, message)


async def test_a_stranger_is_heard(node: Node, backend: RedisServer) -> None:
    await node.broker.subscribe("c")
    await fill(node.broker, "c", 1)
    speak(backend, '{"a": 1}', "hello", b"\xc1\x01l\x00ours")
    await fill(node.broker, "c", 1)
    await until(lambda: len(node.heard.announced["c"]) == 5)
    assert node.heard.data("c") == [b"1", b'{"a": 1}', b'"hello"', b"ours", b"1"]
    assert node.heard.offsets("c") == [1, 0, 0, 0, 2]
    assert node.heard.announced["c"][1][1] == ""
    assert await kept(node.broker, "c") == [1, 2]


async def test_what_cannot_be_read_is_counted_and_told_once(
    node: Node, backend: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await node.broker.subscribe("c")
    speak(backend, *[b"\x80pickle"] * 3, b"x" * (1 << 20), b"\xc1\x07", b"\xc1\x01p", b"\xc1\x01l\xf0", "end")
    await until(lambda: bool(node.heard.announced["c"]))
    assert node.heard.data("c") == [b'"end"']
    expected = {"message_not_text": 3, "message_too_large": 1, "message_newer": 2, "message_broken": 1}
    assert {name: number for name, number in counts(node).items() if name.startswith("message_")} == expected
    lines = [record.getMessage() for record in caplog.records if record.name == "hubbub.brokers.redis"]
    assert len(lines) == 4
    assert all("'c'" in line for line in lines)


async def test_a_channel_name_that_is_no_text_harms_nobody(node: Node, backend: RedisServer) -> None:
    await node.broker.watch(["*"])
    backend.command("PUBLISH", b"\xff\xfe", "1")
    speak(backend, "2")
    await until(lambda: bool(node.heard.announced))
    assert set(node.heard.announced) == {"c"}


async def test_what_we_publish_live_is_bare_for_others(node: Node, backend: RedisServer) -> None:
    async with redis.asyncio.Redis.from_url(backend.url) as other, other.pubsub() as pubsub:
        await pubsub.subscribe("c")
        assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
        await node.broker.publish("c", Publication(b'{"price": 5}'), LIVE)
        await node.broker.publish("c", Publication(b'{"price": 6}'), KEYED_LIVE)
        assert [(await pubsub.get_message(timeout=5))["data"] for _ in range(2)] == [b'{"price": 5}', b'{"price": 6}']


async def test_who_says_so_in_the_nodes_own_channels_is_not_watched(node: Node, backend: RedisServer) -> None:
    await node.broker.watch(["*"])
    speak(backend, "1", channel="\x01orders")
    speak(backend, "2")
    await until(lambda: bool(node.heard.announced))
    assert set(node.heard.announced) == {"c"}


async def test_what_a_newer_node_keeps_is_as_if_trimmed(node: Node, backend: RedisServer) -> None:
    await fill(node.broker, "c", 5)
    backend.command("LSET", LIST, 2, b"\x80?")
    assert await kept(node.broker, "c") == [1, 2]
    assert await kept(node.broker, "c", 2) == [4, 5]
    page = await node.broker.read("c", 0, 10, reverse=True)
    assert [publication.offset for publication in page.publications] == [5, 4]
    with pytest.raises(BackendError, match="upgrade this node"):
        await node.broker.read("c", 2, 1)
    assert counts(node)["message_newer"] == 4


async def test_a_page_is_cut_by_its_bytes_however_large_they_are(node: Node) -> None:
    sizes = [10] * 40 + [400_000] * 5 + [10] * 40
    for size in sizes:
        await node.broker.publish("c", Publication(b"x" * size), KEPT)
    for reverse in (False, True):
        after, offsets = 0, []
        while page := (await node.broker.read("c", after, 1000, 1 << 20, reverse=reverse)).publications:
            assert sum(len(publication.data) for publication in page) <= 1 << 20
            offsets += [publication.offset for publication in page]
            after = offsets[-1]
        assert offsets == (list(range(85, 0, -1)) if reverse else list(range(1, 86)))


# --- trouble


async def test_a_lost_answer_publishes_nothing_twice(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.broker.subscribe("c")
    calls = lose_answers(node, monkeypatch)
    done = await node.broker.publish("c", Publication(b"1"), KEPT)
    assert calls == ["run", "run"]
    assert (position(done).offset, done.duplicate) == (1, False)
    await fill(node.broker, "c", 1)
    await until(lambda: len(node.heard.announced["c"]) == 2)
    assert node.heard.offsets("c") == [1, 2]


async def test_a_lost_answer_to_a_key_is_the_first_position(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_answers(node, monkeypatch)
    assert position(await node.broker.publish("c", Publication(b"1"), KEYED)).offset == 1
    assert await kept(node.broker, "c") == [1]
    again = await node.broker.publish("c", Publication(b"1"), KEYED)
    assert (position(again).offset, again.duplicate) == (1, True)


async def test_a_lost_answer_to_a_live_publish_with_a_key(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.broker.subscribe("c")
    lose_answers(node, monkeypatch)
    assert (await node.broker.publish("c", Publication(b"1"), KEYED_LIVE)).position is None
    await node.broker.publish("c", Publication(b"2"), LIVE)
    await until(lambda: len(node.heard.announced["c"]) == 2)
    assert node.heard.data("c") == [b"1", b"2"]


async def test_a_lost_answer_to_a_live_publish_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.broker.subscribe("c")
    calls = lose_answers(node, monkeypatch)
    with pytest.raises(PublishFailed, match=r"perhaps published.*idempotency key") as failed:
        await node.broker.publish("c", Publication(b"1"), LIVE)
    assert failed.value.is_retry_safe is False
    assert calls == ["call"]
    await node.broker.publish("c", Publication(b"2"), LIVE)
    await until(lambda: len(node.heard.announced["c"]) == 2)
    assert node.heard.data("c") == [b"1", b"2"]


async def test_what_was_not_sent_is_sent_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.broker.subscribe("c")
    calls = lose_answers(node, monkeypatch, 2, was_sent=False)
    await node.broker.publish("c", Publication(b"1"), LIVE)
    assert calls == ["call"] * 3
    await until(lambda: bool(node.heard.announced["c"]))
    assert node.heard.data("c") == [b"1"]


async def test_a_short_absence_is_waited_out(lonely: Node, own_backend: RedisServer) -> None:
    await fill(lonely.broker, "c", 1)
    await asyncio.to_thread(own_backend.stop)
    await until(lambda: counts(lonely).get("redis_reconnect", 0) > 0)
    waiting = [
        asyncio.create_task(lonely.broker.publish("c", Publication(b"1"), options)) for options in (KEPT, LIVE, KEYED)
    ]
    reading = asyncio.create_task(lonely.broker.heads(["c"]))
    own_backend.start()  # in this thread: the server ends with the thread that started it
    done = await asyncio.gather(*waiting)
    assert [published.duplicate for published in done] == [False] * 3
    assert {position(done[0]).offset, position(done[2]).offset} == {1, 2}
    assert (await reading)["c"].epoch == position(done[0]).epoch


async def test_a_long_absence_is_an_error_that_says_it_was_not_published(
    lonely: Node, own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "DEADLINE", 0.3)
    own_backend.kill()
    await until(lambda: counts(lonely).get("redis_reconnect", 0) > 0)
    for options in (LIVE, KEPT, KEYED):
        with pytest.raises(PublishFailed, match="not published, publish again") as failed:
            await lonely.broker.publish("c", Publication(b"1"), options)
        assert failed.value.is_retry_safe is True
    with pytest.raises(BackendError):
        await lonely.broker.heads(["c"])
    with pytest.raises(BackendError):
        await lonely.broker.notify("c", Notice("join", ClientInfo("ann")))


async def test_a_stalled_server_is_an_error_that_says_what_is_unknown(
    lonely: Node, own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lonely.broker.subscribe("c")
    await fill(lonely.broker, "c", 1)
    monkeypatch.setattr(broker_module, "DEADLINE", 0.3)
    own_backend.pause()
    outcomes = await asyncio.gather(
        *(lonely.broker.publish("c", Publication(b"x"), options) for options in (LIVE, KEPT, KEYED)),
        return_exceptions=True,
    )
    own_backend.resume()
    errors = [outcome for outcome in outcomes if isinstance(outcome, PublishFailed)]
    assert [error.is_retry_safe for error in errors] == [False, False, True]
    assert all("perhaps published" in str(error) for error in errors)
    monkeypatch.setattr(broker_module, "DEADLINE", 5.0)
    again = await lonely.broker.publish("c", Publication(b"x"), KEYED)
    assert position(again).offset == 3
    assert again.duplicate is True
    await until(lambda: len(lonely.heard.announced["c"]) == 4)
    assert sorted(lonely.heard.offsets("c")) == [0, 1, 2, 3]


async def test_a_replica_is_waited_out_until_it_is_primary(lonely: Node, own_backend: RedisServer) -> None:
    await fill(lonely.broker, "c", 1)
    own_backend.command("REPLICAOF", "127.0.0.1", 1)
    publishing = asyncio.create_task(lonely.broker.publish("c", Publication(b"x"), KEPT))
    await until(lambda: counts(lonely).get("redis_reconnect", 0) > 0)
    assert not publishing.done()
    own_backend.command("REPLICAOF", "NO", "ONE")
    assert position(await publishing).offset == 2
    assert await kept(lonely.broker, "c") == [1, 2]


async def test_a_full_server_refuses_and_nothing_is_published(lonely: Node, own_backend: RedisServer) -> None:
    await lonely.broker.subscribe("c")
    await fill(lonely.broker, "c", 1)
    own_backend.command("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(PublishFailed, match=r"not published.*Redis is full") as failed:
        await lonely.broker.publish("c", Publication(b"x"), KEPT)
    assert failed.value.is_retry_safe is True
    own_backend.command("CONFIG", "SET", "maxmemory", 0)
    assert position(await lonely.broker.publish("c", Publication(b"x"), KEPT)).offset == 2
    await until(lambda: len(lonely.heard.announced["c"]) == 2)
    assert lonely.heard.offsets("c") == [1, 2]


async def test_ears_that_were_cut_off_are_renewed(backend: RedisServer) -> None:
    async with running(backend, prefix="p:") as node:
        await node.broker.subscribe("c")
        await node.broker.watch(["w*"])
        assert backend.command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        await until(lambda: node.heard.renewed == ["c"])
        await fill(node.broker, "c", 1)
        await fill(node.broker, "w1", 1)
        await until(lambda: len(node.heard.announced) == 2)
        assert node.heard.offsets("c") == node.heard.offsets("w1") == [1]


async def test_a_broker_that_is_not_running_says_so_at_once(backend: RedisServer) -> None:
    async with running(backend) as node:
        pass
    with pytest.raises(BackendError, match="not running"):
        await node.broker.heads(["c"])
    with pytest.raises(PublishFailed):
        await node.broker.publish("c", Publication(b"1"), LIVE)
    with pytest.raises(BackendError):
        await node.broker.subscribe("c")
    await node.broker.stop()


async def test_a_broker_that_cannot_start_leaves_nothing_running(own_backend: RedisServer) -> None:
    own_backend.command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "-subscribe", "&*")
    url = own_backend.url.replace("//", "//deaf:secret@")
    broker = RedisBroker(url, name="app", clock=SystemClock())
    before = asyncio.all_tasks()
    with pytest.raises(BackendError):
        await broker.start(Node(broker).heard)
    assert asyncio.all_tasks() == before
    assert broker.is_running is False


async def test_many_nodes_and_publishers_have_one_sequence(backend: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(running(backend)) for _ in range(4)]
        for each in nodes:
            await each.broker.subscribe("c")
        options = StreamOptions(size=50, ttl=60)
        await asyncio.gather(*(fill(each.broker, "c", 100, options) for each in nodes))
        await until(lambda: all(len(each.heard.announced["c"]) == 400 for each in nodes))
        for each in nodes:
            assert each.heard.announced["c"] == nodes[0].heard.announced["c"]
            assert each.heard.offsets("c") == list(range(1, 401))
        assert await kept(nodes[0].broker, "c") == list(range(351, 401))
