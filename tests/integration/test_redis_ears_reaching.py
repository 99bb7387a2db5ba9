"""The subscriber over TLS, through a Unix socket and behind Sentinels: it hears, and it moves with the primary."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from tests.backends import KINDS, Kind, RedisServer, free_port
from tests.contracts.conftest import Node
from tests.integration.certificates import Certificate
from tests.integration.redis_support import guarded, made, outcome, sentinel_url
from tests.integration.test_redis_ears import Listener, listening, said, until
from tests.serving import Cable

from hubbub.brokers.base import StreamOptions
from hubbub.brokers.redis import RedisBroker
from hubbub.clock import SystemClock
from hubbub.errors import BackendError
from hubbub.model import Publication
from hubbub.redis import dialing as dialing_module
from hubbub.redis.pipeline import Pipeline
from hubbub.redis.wire import REPLICA


@pytest.fixture(params=KINDS)
def server_with_doors(
    request: pytest.FixtureRequest, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RedisServer, dict[str, str]]]:
    """A server, and its address on each way. Valkey's program of the tests is built without TLS."""
    kind: Kind = request.param
    path = tmp_path_factory.mktemp("s") / "s"
    urls = {"unix": f"unix://{path}?db=3"}
    options: dict[str, Any] = {"unixsocket": str(path)}
    if kind == "redis":
        port = str(free_port())
        options |= {"tls_port": port, "tls_cert_file": str(certificate.file), "tls_key_file": str(certificate.key)}
        options |= {"tls_ca_cert_file": str(certificate.file), "tls_auth_clients": "no"}
        urls["tls"] = f"rediss://localhost:{port}/2?ssl_ca_certs={certificate.file}"
    with RedisServer(kind, **options) as server:
        yield server, urls


async def test_every_way_hears_and_hears_again(server_with_doors: tuple[RedisServer, dict[str, str]]) -> None:
    server, urls = server_with_doors
    for url in urls.values():
        async with listening(url, "a", "b") as listener:
            await listener.hears(server, "a", "".join(map(str, range(60_000))))
            await said(server, "CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: listener.renewed)
            assert sorted(listener.renewed[0]) == ["a", "b"]
            await listener.hears(server, "b")
            server.kill()
            await until(lambda: not listener.ears.is_connected)
            server.start()
            await until(lambda: len(listener.renewed) == 2)
            await listener.hears(server, "a")
            assert listener.counts["redis_deaf"] == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", ["killed", "asked"])
@pytest.mark.parametrize("kind", KINDS)
async def test_failover(kind: Kind, way: Literal["killed", "asked"]) -> None:
    """Whoever only listens moves, too. After a planned failover the old primary goes on, and what is published on the
    new one arrives on it by replication: a probe would come back for ever.
    """
    async with guarded(kind) as (primary, replica, sentinels):
        url = sentinel_url(sentinels)
        commands = made(url)
        await commands.start()

        async def publish(channel: bytes, data: bytes) -> None:
            await commands.call("PUBLISH", channel, data)

        async with listening(url, "a", "b", publish=publish) as listener, listening(url, "a") as alone:
            await listener.hears(primary, "a", "before")
            if way == "killed":
                primary.kill()
            else:
                sentinels[0].command("SENTINEL", "FAILOVER", "house")
            await until(lambda: listener.renewed and alone.renewed)
            for one in (listener, alone):
                await until(lambda: is_at(one.ears._endpoint.name, replica))  # noqa: B023 - called at once
            await heard_by_both(commands, [listener.heard, alone.heard])
            assert sorted({name for names in listener.renewed for name in names}) == ["a", "b"]
            assert await said(replica, "PUBSUB", "NUMSUB", "a") in ([b"a", 2], {b"a": 2})
            if way == "asked":
                assert await said(primary, "PUBSUB", "NUMSUB", "a") in ([b"a", 0], {b"a": 0})
        await commands.stop()


def is_at(name: str, server: RedisServer) -> bool:
    return f":{server.port})" in name


async def heard_by_both(commands: Pipeline, heard: list[list[tuple[str, bytes]]]) -> None:
    """Publish as publishers do until it arrives: the pipeline may be on its way to the new primary still."""
    while not all(("a", b"after") in each for each in heard):
        await outcome(commands.call("PUBLISH", "a", "after", deadline=60.0))
        await asyncio.sleep(0.1)


async def test_a_broker_whose_two_connections_are_at_different_servers_finds_out(
    redis_server: RedisServer, own_backend: RedisServer
) -> None:
    """A name or an address that leads elsewhere since: nobody would hear what this node publishes, and none is cut."""
    async with Cable(own_backend.port) as cable:
        broker = RedisBroker(f"redis://127.0.0.1:{cable.port}", name="app", prefix="two:", clock=SystemClock())
        node = Node(broker)
        await broker.start(node.heard)
        await broker.subscribe("a")

        cable.lead_to(redis_server.port)
        await killed(own_backend, "app-commands")
        await until(lambda: node.heard.renewed == ["a"])
        assert broker.counts()["redis_deaf"] >= 1, "it was not cut, it was found"
        await published(node, "1")

        cable.lead_to(own_backend.port)
        deaf = broker.counts()["redis_deaf"]
        await killed(redis_server, "app-ears")
        await until(lambda: broker.counts()["redis_deaf"] > deaf)
        with pytest.raises(BackendError):
            await broker.subscribe("b")  # no connection is taken that does not hear
        cable.lead_to(redis_server.port)
        await until(lambda: node.heard.renewed == ["a", "a"])
        await published(node, "2")
        await broker.stop()


@pytest.fixture
def two_backends(own_backend: RedisServer) -> Iterator[tuple[RedisServer, RedisServer]]:
    """Two servers of a kind that have nothing to do with each other, yet."""
    with RedisServer(own_backend.kind) as other:
        yield own_backend, other


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are asked all the time whether they lead."""
    monkeypatch.setattr(dialing_module, "ROLE_EVERY", 0.05)


@pytest.mark.usefixtures("watchful")
async def test_a_demoted_server_is_left_for_the_one_that_the_address_leads_to_now(
    two_backends: tuple[RedisServer, RedisServer],
) -> None:
    """It goes on, and what is published on the new one arrives on it by replication: a probe comes back for ever."""
    old, new = two_backends
    async with Cable(old.port) as cable, listening(f"redis://127.0.0.1:{cable.port}", "a", "b") as listener:
        await listener.hears(old, "a", "before")
        cable.lead_to(new.port)
        await said(old, "REPLICAOF", "127.0.0.1", new.port)
        await until(lambda: listener.renewed)
        assert sorted(listener.renewed[0]) == ["a", "b"]
        await listener.hears(new, "a", "after")
        assert await said(new, "PUBSUB", "NUMSUB", "a") in ([b"a", 1], {b"a": 1})
        assert await said(old, "PUBSUB", "NUMSUB", "a") in ([b"a", 0], {b"a": 0})
        assert listener.counts["redis_deaf"] == 0


@pytest.mark.usefixtures("watchful")
async def test_a_demoted_server_with_no_other_is_no_server_until_it_is_promoted(
    own_backend: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(own_backend.url, "a") as listener:
        await said(own_backend, "REPLICAOF", "127.0.0.1", free_port())
        await until(lambda: listener.counts["redis_connect_failed"] > 3)
        assert not listener.ears.is_connected
        assert not listener.renewed
        with pytest.raises(BackendError, match="name the primary, or its Sentinels, in the URL"):
            await Listener(own_backend.url).ears.start()
        await said(own_backend, "REPLICAOF", "NO", "ONE")
        await until(lambda: listener.renewed)
        await listener.hears(own_backend, "a")
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sum("no connection for subscriptions" in text and REPLICA in text for text in told) == 1


@pytest.mark.usefixtures("watchful")
async def test_a_broker_that_only_announces_moves_with_the_address(
    two_backends: tuple[RedisServer, RedisServer],
) -> None:
    """Nothing that it says is refused by a replica, and nobody elsewhere hears it."""
    old, new = two_backends
    async with Cable(old.port) as cable:
        one, two = (
            Node(RedisBroker(f"redis://127.0.0.1:{port}", name="app", clock=SystemClock()))
            for port in (cable.port, new.port)
        )
        for node in (one, two):
            await node.broker.start(node.heard)
            await node.broker.subscribe("a")
        cable.lead_to(new.port)
        await said(old, "REPLICAOF", "127.0.0.1", new.port)
        await until(lambda: one.heard.renewed == ["a"])
        while not two.heard.data("a"):  # the other connection may be on its way still
            await outcome(one.broker.publish("a", Publication(b"1"), StreamOptions()))
            await asyncio.sleep(0.05)
        await published(two, "2")
        await until(lambda: b"2" in one.heard.data("a"))
        for node in (one, two):
            await node.broker.stop()


async def killed(server: RedisServer, name: str) -> None:
    """Cut the connection of that name."""
    listed: bytes | str = await said(server, "CLIENT", "LIST")
    for client in (listed.decode() if isinstance(listed, bytes) else listed).splitlines():
        if f" name={name} " in client:
            await said(server, "CLIENT", "KILL", "ID", client.split()[0].removeprefix("id="))


async def published(node: Node, data: str) -> None:
    """What the broker publishes comes back to it."""
    await node.broker.publish("a", Publication(data.encode()), StreamOptions())
    await until(lambda: data.encode() in node.heard.data("a"))
