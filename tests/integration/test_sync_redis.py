"""The blocking face on real Redis and Valkey: what it says, how it shares few connections, and what it survives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.backends import KINDS, Kind, RedisServer, free_port
from tests.integration.certificates import Certificate
from tests.integration.redis_support import guarded, sentinel_url

import hubbub
from hubbub import BackendError, Publication, Published, PublishFailed
from hubbub.brokers import blocking
from hubbub.redis import pool as pool_module
from hubbub.sync import Hubbub

#: Seconds for what must come, on any machine.
PATIENCE = 60.0

pytestmark = pytest.mark.timeout(120)  # some wait for deadlines, and machines are loaded

CHANNELS: dict[str, Any] = {
    "chat": {"delivery": "recent", "presence": True},
    "news": {"delivery": "live"},
    "files": {"delivery": "recent", "data": "binary"},
}
APP: dict[str, Any] = {"name": "app"}


def made(server: RedisServer, **options: Any) -> Hubbub:
    options.setdefault("broker", APP)
    options.setdefault("deadline", 10.0)  # a loaded machine needs some
    return Hubbub(server.url, channels=CHANNELS, **options)


@pytest.fixture
def hub(backend: RedisServer) -> Iterator[Hubbub]:
    hub = made(backend)
    yield hub
    hub.stop()


@pytest.fixture
def lonely(own_backend: RedisServer) -> Iterator[Hubbub]:
    """A hub on a server that the test may mistreat."""
    hub = made(own_backend)
    yield hub
    hub.stop()


def offset(done: Published) -> int:
    return done.position.offset if done.position is not None else 0


def until(condition: Callable[[], object]) -> None:
    """About what other threads and processes do."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.005)


def clients(server: RedisServer, name: str = "app-sync") -> list[str]:
    """The ids of the connections with this name; none while the server changes its role, which ends all of them."""
    try:
        rows = server.command("CLIENT", "LIST").decode().splitlines()
    except redis.ConnectionError:
        return []
    return [row.split()[0].removeprefix("id=") for row in rows if f"name={name} " in row]


# --- the same words as the others


async def test_what_it_publishes_others_hear_and_read(backend: RedisServer) -> None:
    hub = made(backend)
    async with hubbub.Hubbub(backend.url, channels=CHANNELS, broker=APP) as other:
        async with (
            other.subscribe("chat:1") as chat,
            other.subscribe("news:1") as news,
            other.subscribe("files:1") as files,
        ):
            done = hub.publish("chat:1", {"text": "hi"}, tags={"by": "task"})
            hub.publish("news:1", [1, 2])
            hub.publish("files:1", b"\x00\xff")
            first = await anext(chat)
            assert (first.data, first.tags, first.position) == ({"text": "hi"}, {"by": "task"}, done.position)
            assert (await anext(news)).data == [1, 2]
            assert (await anext(files)).data == b"\x00\xff"
        await other.publish("chat:1", {"text": "there"})
        assert hub.history("chat:1") == await other.history("chat:1")
        assert hub.history("files:1").publications[0].data == b"\x00\xff"
    hub.stop()


async def test_a_key_is_one_key_on_both_faces(backend: RedisServer) -> None:
    hub = made(backend)
    async with hubbub.Hubbub(backend.url, channels=CHANNELS, broker=APP) as other:
        first = await other.publish("chat:1", 1, idempotency_key="once")
        again = hub.publish("chat:1", 1, idempotency_key="once")
        assert (again.position, again.duplicate) == (first.position, True)
        hub.publish("news:1", 1, idempotency_key="once")
        assert (await other.publish("news:1", 1, idempotency_key="once")).duplicate is True
    hub.stop()


def test_the_promises_of_a_publish(hub: Hubbub, backend: RedisServer) -> None:
    assert [offset(hub.publish("chat:1", number)) for number in range(3)] == [1, 2, 3]
    assert hub.publish("chat:1", 3, version=5).duplicate is False
    assert hub.publish("chat:1", 3, version=4).duplicate is True
    assert hub.publish("chat:1", "typing", ephemeral=True) == Published()
    assert hub.publish("news:1", 1) == Published()
    assert [each.data for each in hub.history("chat:1").publications] == [0, 1, 2, 3]
    assert all(backend.command("PTTL", key) > 0 for key in backend.command("KEYS", "*"))
    assert [offset(done) for done in hub.publish_many([("chat:1", 4), ("news:1", 1), ("chat:1", 5)])] == [5, 0, 6]


def test_it_is_redis_py_that_hears_live_publications_bare(hub: Hubbub, backend: RedisServer) -> None:
    with redis.Redis.from_url(backend.url) as other, other.pubsub() as ears:
        ears.subscribe("news:1")
        assert ears.get_message(timeout=PATIENCE)["type"] == "subscribe"
        hub.publish("news:1", {"price": 5})
        assert ears.get_message(timeout=PATIENCE)["data"] == b'{"price":5}'


# --- handlers, and what only a node can do


def test_handlers_hear_what_anybody_publishes(hub: Hubbub, backend: RedisServer) -> None:
    heard: list[tuple[str, Any]] = []

    @hub.on("chat:*")
    def show(publication: Publication[Any]) -> None:
        heard.append((publication.channel, publication.data))

    with hub:
        hub.publish("chat:1", 1)
        other = made(backend)
        other.publish("chat:2", 2)
        backend.command("PUBLISH", "chat:3", '{"from": "redis-cli"}')
        until(lambda: len(heard) == 3)
    other.stop()
    assert sorted(heard, key=str) == [("chat:1", 1), ("chat:2", 2), ("chat:3", {"from": "redis-cli"})]


async def test_it_sees_and_rules_all_nodes(backend: RedisServer) -> None:
    hub = made(backend)
    async with hubbub.Hubbub(backend.url, channels=CHANNELS, broker=APP) as node:
        async with node.subscribe("chat:1"), node.subscribe("chat:1"), node.subscribe("news:1"):
            assert await asyncio.to_thread(hub.channels, "chat:*") == {"chat:1": 2}
            assert await asyncio.to_thread(hub.subscribers, "news:1") == 1
            assert await asyncio.to_thread(hub.presence, "chat:1") == {}
            assert (await asyncio.to_thread(hub.presence_stats, "chat:1")).clients == 0
            for order in (hub.disconnect, hub.unsubscribe, hub.revoke):
                await asyncio.to_thread(order, "ann")
        await asyncio.to_thread(hub.stop)


# --- few connections


def test_threads_share_a_bounded_pool(own_backend: RedisServer) -> None:
    hub = made(own_backend, pool_min=2, pool_max=5)
    try:
        with ThreadPoolExecutor(16) as threads:
            done = list(threads.map(lambda number: hub.publish("chat:1", number), range(800)))
        assert sorted(map(offset, done)) == list(range(1, 801))
        assert 1 <= len(clients(own_backend)) <= 5
    finally:
        hub.stop()
    until(lambda: not clients(own_backend))
    assert offset(hub.publish("chat:1", "again")) == 801
    hub.stop()


def test_a_pool_that_is_used_up_is_waited_for_and_named(own_backend: RedisServer) -> None:
    hub = made(own_backend, pool_max=2, deadline=0.3)
    with ThreadPoolExecutor(2) as threads:
        for number in range(2):
            threads.submit(hold, hub, f"held{number}")
        until(lambda: own_backend.command("CLIENT", "LIST").decode().count("cmd=blpop") == 2)
        with pytest.raises(PublishFailed, match=r"all 2 connections are in use.* raise pool_max") as failed:
            hub.publish("news:1", 1)
        assert failed.value.is_retry_safe is True
        with pytest.raises(BackendError, match="raise pool_max"):
            hub.history("chat:1")
        for number in range(2):
            own_backend.command("RPUSH", f"held{number}", "go on")
    assert len(clients(own_backend)) == 2
    hub.stop()


def hold(hub: Hubbub, key: str) -> None:
    """Keep a connection until there is something at `key`."""
    redis = hub._here().redis
    assert redis is not None
    redis.pool.call(("BLPOP", key, 0), time.monotonic() + PATIENCE)


def test_what_waits_for_a_connection_gets_one(own_backend: RedisServer) -> None:
    hub = made(own_backend, pool_max=1)
    hub.publish("chat:1", 0)
    own_backend.pause()
    with ThreadPoolExecutor(6) as threads:
        outcomes = [threads.submit(hub.publish, "chat:1", number) for number in range(6)]
        own_backend.resume()
        assert sorted(offset(outcome.result(PATIENCE)) for outcome in outcomes) == [2, 3, 4, 5, 6, 7]
    assert len(clients(own_backend)) == 1
    hub.stop()


def test_connections_that_nobody_needs_are_closed_down_to_the_least(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = made(own_backend, pool_min=1, pool_max=4)
    own_backend.pause()
    with ThreadPoolExecutor(4) as threads:
        outcomes = [threads.submit(hub.publish, "chat:1", number) for number in range(4)]
        own_backend.resume()
        for outcome in outcomes:
            outcome.result(PATIENCE)
    monkeypatch.setattr(pool_module, "SPARE", -1.0)  # as if it were long ago
    for number in range(4):
        hub.publish("chat:1", number)
    until(lambda: len(clients(own_backend)) == 1)
    hub.stop()


# --- trouble


def test_connections_that_were_killed_while_idle_are_no_trouble(hub: Hubbub, backend: RedisServer) -> None:
    for number in range(1, 4):
        hub.publish("news:1", number)
        assert offset(hub.publish("chat:1", number)) == number
        for client in clients(backend):
            backend.command("CLIENT", "KILL", "ID", client)
    hub.publish("news:1", 4)


def test_a_restart_is_waited_out(lonely: Hubbub, own_backend: RedisServer) -> None:
    lonely.publish("chat:1", 1)
    own_backend.stop()
    with ThreadPoolExecutor(2) as threads:
        outcomes = [threads.submit(lonely.publish, channel, 2) for channel in ("chat:1", "news:1")]
        own_backend.start()
        assert offset(outcomes[0].result(PATIENCE)) == 1, "it keeps nothing on disk"
        assert outcomes[1].result(PATIENCE) == Published()


def test_a_server_that_is_away_is_an_error_that_says_it_was_not_published(own_backend: RedisServer) -> None:
    hub = made(own_backend, deadline=0.5)
    hub.publish("chat:1", 1)
    own_backend.kill()
    for channel in ("chat:1", "news:1"):
        with pytest.raises(PublishFailed, match="not published, publish again") as failed:
            hub.publish(channel, 2)
        assert failed.value.is_retry_safe is True
    with pytest.raises(BackendError, match="cannot be reached"):
        hub.history("chat:1")
    hub.stop()
    own_backend.start()
    patient = made(own_backend)
    assert offset(patient.publish("chat:1", 3)) == 1
    patient.stop()


def test_a_stalled_server_is_an_error_that_says_what_is_unknown(own_backend: RedisServer) -> None:
    hub = made(own_backend, deadline=0.6)
    hub.publish("chat:1", 1)
    hub.publish("news:1", 1)
    own_backend.pause()
    safe = {}
    for name, channel, key in (("live", "news:1", ""), ("kept", "chat:1", ""), ("keyed", "chat:1", "k")):
        with pytest.raises(PublishFailed) as failed:
            hub.publish(channel, 2, idempotency_key=key)
        safe[name] = failed.value.is_retry_safe
    with pytest.raises(BackendError):
        hub.history("chat:1")
    hub.stop()
    own_backend.resume()
    assert safe["keyed"] is True
    patient = made(own_backend)
    again = patient.publish("chat:1", 2, idempotency_key="k")
    kept = [each.data for each in patient.history("chat:1").publications]
    assert kept.count(2) <= 2, "each was carried out once at most"
    assert offset(again) <= len(kept)
    patient.stop()


def test_a_connection_that_leads_nowhere_gets_a_second_chance(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection is stalled, the server is not: what may be repeated is, on another one, and done once."""
    monkeypatch.setattr(blocking, "SECOND_CHANCE", 0.9)  # an attempt is given up after a tenth of what is left
    hub = made(own_backend, pool_max=2)
    hub.publish("chat:1", 1)
    own_backend.command("CLIENT", "PAUSE", 1500, "WRITE")
    assert offset(hub.publish("chat:1", 2)) == 2
    assert [each.data for each in hub.history("chat:1").publications] == [1, 2]
    hub.stop()


def test_idle_connections_are_asked_before_they_are_trusted(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = made(own_backend, deadline=1.0)
    hub.publish("news:1", 1)
    monkeypatch.setattr(pool_module, "IDLE", 0.0)
    monkeypatch.setattr(pool_module, "PING_DEADLINE", 0.1)
    own_backend.pause()
    with pytest.raises(PublishFailed, match="not published, publish again"):
        hub.publish("news:1", 2)
    hub.stop()
    own_backend.resume()


def test_a_replica_is_waited_out_until_it_is_primary(lonely: Hubbub, own_backend: RedisServer) -> None:
    lonely.publish("chat:1", 1)
    own_backend.command("REPLICAOF", "127.0.0.1", 1)
    with ThreadPoolExecutor(1) as threads:
        outcome = threads.submit(lonely.publish, "chat:1", 2)
        until(lambda: "READONLY" in str(own_backend.command("INFO", "errorstats")))
        own_backend.command("REPLICAOF", "NO", "ONE")
        assert offset(outcome.result(PATIENCE)) == 2


def test_scripts_that_the_server_forgot_are_sent_again(hub: Hubbub, backend: RedisServer) -> None:
    hub.publish("chat:1", 1)
    backend.command("SCRIPT", "FLUSH")
    assert offset(hub.publish("chat:1", 2)) == 2
    assert len(hub.history("chat:1").publications) == 2


def test_a_full_server_refuses_at_once(lonely: Hubbub, own_backend: RedisServer) -> None:
    lonely.publish("chat:1", 1)
    own_backend.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(PublishFailed, match="Redis is full") as failed:
        lonely.publish("chat:1", 2)
    assert failed.value.is_retry_safe is True


def test_a_wrong_password_names_the_fix() -> None:
    with RedisServer("redis", requirepass="secret") as server:
        hub = Hubbub(f"redis://:wrong@127.0.0.1:{server.port}", channels=CHANNELS)
        with pytest.raises(PublishFailed, match=r"WRONGPASS.*correct user and password"):
            hub.publish("chat:1", 1)
        good = made(server)
        assert offset(good.publish("chat:1", 1)) == 1
        good.stop()


# --- ways to the server


@pytest.mark.parametrize("kind", KINDS)
def test_a_unix_socket_and_tls(kind: Kind, certificate: Certificate, tmp_path: Path) -> None:
    options: dict[str, Any] = {"unixsocket": str(tmp_path / "s")}
    urls = [f"unix://{tmp_path}/s?db=3"]
    if kind == "redis":  # Valkey's program of the tests is built without TLS
        port = str(free_port())
        options |= {"tls_port": port, "tls_cert_file": str(certificate.file), "tls_key_file": str(certificate.key)}
        options |= {"tls_ca_cert_file": str(certificate.file), "tls_auth_clients": "no"}
        urls.append(f"rediss://localhost:{port}/2?ssl_ca_certs={certificate.file}")
    with RedisServer(kind, **options) as server:
        for url in urls:
            hub = Hubbub(url, channels={"chat": {"delivery": "recent", "max_bytes": 1 << 20}})
            text = "x" * 300_000
            assert [offset(hub.publish("chat:1", text)) for _ in range(3)] == [1, 2, 3]
            assert hub.history("chat:1").publications[0].data == text
            for client in clients(server, "hubbub-sync"):
                server.command("CLIENT", "KILL", "ID", client)
            assert offset(hub.publish("chat:1", 1)) == 4
            hub.stop()


@pytest.mark.parametrize("way", ["killed", "asked"])
@pytest.mark.parametrize("kind", KINDS)
async def test_it_moves_with_the_primary(kind: Kind, way: str) -> None:
    async with guarded(kind) as (primary, replica, sentinels):
        hub = Hubbub(sentinel_url(sentinels), channels=CHANNELS, broker=APP)
        hub.publish("chat:1", 1)
        until(lambda: replica.command("EXISTS", "app:m:{chat:1}"))
        if way == "killed":
            primary.kill()
        else:
            sentinels[0].command("SENTINEL", "FAILOVER", "house")
        end = time.monotonic() + 60
        while not clients(replica):
            assert time.monotonic() < end
            try:
                hub.publish("chat:1", "after")
            except BackendError:
                continue
        assert hub.publish("chat:1", "last").position is not None
        hub.stop()


# --- applications side by side


def test_nodes_of_another_application_are_not_obeyed(backend: RedisServer) -> None:
    """Pub/sub is one for all databases and applications: an order to our nodes is no order to theirs."""
    ours, theirs = made(backend), made(backend, broker={"name": "other"})
    seen: list[Any] = []

    @theirs.on("news:1")
    def show(publication: Publication[Any]) -> None:
        seen.append(publication.data)

    with theirs:
        assert ours.channels() == {}, "theirs is no node of ours"
        ours.publish("news:1", "for everybody")
        until(lambda: seen)
    ours.stop()


def test_durable_channels_are_kept_by_the_store_and_the_rest_by_redis(backend: RedisServer, tmp_path: Path) -> None:
    hub = Hubbub(
        backend.url,
        channels={"mail": {"delivery": "durable"}, "chat": {"delivery": "recent"}},
        store={"url": f"sqlite:///{tmp_path}/mail.db"},
    )
    try:
        assert offset(hub.publish("mail:1", "one")) == 1
        assert [offset(done) for done in hub.publish_many([("mail:1", "two"), ("chat:1", "hi")])] == [2, 1]
        assert hub.publish("mail:1", "typing", ephemeral=True) == Published()
        backend.flushall()
        assert [each.data for each in hub.history("mail:1").publications] == ["one", "two"]
        assert hub.history("chat:1").publications == []
    finally:
        hub.stop()
