"""The subscriber over TLS, through a Unix socket and behind Sentinels: it hears, and it moves with the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from tests.backends import KINDS, Kind, RedisServer, free_port
from tests.contracts.conftest import Node
from tests.integration.certificates import Certificate
from tests.integration.redis_support import guarded, made, outcome, sentinel_url
from tests.integration.test_redis_ears import listening, said, until
from tests.serving import Cable

from hubbub.brokers.base import StreamOptions
from hubbub.brokers.redis import RedisBroker
from hubbub.clock import SystemClock
from hubbub.errors import BackendError
from hubbub.model import Publication
from hubbub.redis.pipeline import Pipeline


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
