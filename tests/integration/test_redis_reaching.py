"""redis/topology.py and redis/dialing.py on real servers: every way to reach one, what is said when it cannot be, and
Sentinels that lead to another.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from tests.backends import RedisServer, free_port
from tests.integration.certificates import Certificate
from tests.integration.redis_support import (
    PATIENCE,
    connected,
    greeted,
    guarded,
    liar,
    made,
    outcome,
    sentinel_url,
    until,
)

from hubbub.errors import BackendError
from hubbub.redis.dialing import Refused
from hubbub.redis.wire import ConnectionLost, RedisError

# ---------------------------------------------------------------------------------------------------- doors


@pytest.fixture
def tls_server(certificate: Certificate) -> Any:
    port = str(free_port())
    with RedisServer(
        "redis",
        tls_port=port,
        tls_cert_file=certificate.file,
        tls_key_file=certificate.key,
        tls_ca_cert_file=certificate.file,
        tls_auth_clients="no",
    ) as server:
        yield server, port


async def test_tls(tls_server: tuple[RedisServer, str], certificate: Certificate) -> None:
    server, port = tls_server
    for options in (f"ssl_ca_certs={certificate.file}", "ssl_cert_reqs=none"):
        async with connected(f"rediss://localhost:{port}/2?{options}") as pipeline:
            large = random.randbytes(5_000_000)
            assert await pipeline.call("SET", "large", large) == b"OK"
            assert await pipeline.call("GET", "large") == large
            wire = pipeline._wire
            server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await until(lambda: pipeline._wire is not wire)  # noqa: B023 - called at once
            assert await pipeline.call("PING", deadline=PATIENCE) == b"PONG"
    with pytest.raises(BackendError, match="ssl_ca_certs"):
        await made(f"rediss://localhost:{port}", deadline=0.5).start()
    with pytest.raises(BackendError, match="without TLS"):
        await made(
            f"rediss://localhost:{server.port}?ssl_cert_reqs=none&socket_connect_timeout=0.3", deadline=0.5
        ).start()


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_unix_socket(kind: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    with RedisServer(kind, unixsocket=str(path)) as server:
        async with connected(f"unix://{path}?db=3") as pipeline:
            assert await pipeline.call("SET", "a", 1) == b"OK"
            server.kill()
            await until(lambda: not pipeline.is_connected)
            server.start()
            assert await pipeline.call("GET", "a", deadline=PATIENCE) is None


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_users_and_passwords(kind: Any) -> None:
    with RedisServer(kind, requirepass="secret") as server:
        address = f"127.0.0.1:{server.port}"
        async with connected(server.url) as pipeline:
            assert await pipeline.call("PING") == b"PONG"
            await pipeline.call("ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "-hello")
            await pipeline.call("ACL", "SETUSER", "small", "on", ">pw", "~a", "+@connection", "+get", "+set")
            async with connected(f"redis://small:pw@{address}") as small:
                assert await small.call("GET", "a") is None
                with pytest.raises(RedisError, match="ACL SETUSER") as caught:
                    await small.call("GET", "b")
                assert caught.value.kind == "NOPERM"
        for url, words in (
            (f"redis://{address}", "put the password in the URL"),
            (f"redis://:wrong@{address}", "correct user and password"),
            (f"redis://nobody:secret@{address}", "correct user and password"),
            (f"redis://:secret@{address}/99", "no such database"),
        ):
            with pytest.raises(Refused, match=words) as refused:
                await made(url).start()
            assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"-ERR unknown command 'HELLO'\r\n+PONG\r\n", "Redis 7.0 or Valkey 8"),
        (b"-NOPROTO unsupported protocol version\r\n+PONG\r\n", "Redis 7.0 or Valkey 8"),
        (b"-NOPERM this user has no permissions to run the 'hello' command\r\n+PONG\r\n", r"\+hello"),
        (b"-DENIED Redis is running in protected mode\r\n", "protected mode"),
    ],
)
async def test_a_server_that_will_not_have_us_is_told_at_once(reply: bytes, words: str) -> None:
    async with liar(lambda data: reply + b"+PONG\r\n" * 2) as url:
        with pytest.raises(Refused, match=words):
            await made(url, deadline=PATIENCE).start()


async def test_a_server_that_is_not_ready_yet_is_waited_for() -> None:
    greetings = 0

    def loading(data: bytes) -> bytes:
        nonlocal greetings
        greetings += 1
        return b"%0\r\n-LOADING Redis is loading the dataset in memory\r\n" if greetings < 4 else greeted(data)

    async with liar(loading) as url, connected(url, deadline=PATIENCE) as pipeline:
        assert pipeline.is_connected
        assert greetings == 4


async def test_nobody_there_is_told_within_the_deadline() -> None:
    with pytest.raises(BackendError, match="cannot be reached"):
        await made(f"redis://127.0.0.1:{free_port()}", deadline=0.3).start()


async def test_a_server_that_takes_connections_and_says_nothing() -> None:
    async with liar(lambda data: b"") as url:
        with pytest.raises(BackendError, match="did not answer within"):
            await made(url, deadline=0.3).start()


# ------------------------------------------------------------------------------------------------- Sentinel


@pytest.mark.timeout(90)
@pytest.mark.parametrize("way", ["killed", "asked"])
@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_failover(kind: Any, way: str) -> None:
    async with guarded(kind) as (primary, replica, sentinels), connected(sentinel_url(sentinels)) as pipeline:
        assert await pipeline.call("SET", "a", "before") == b"OK"
        assert await pipeline.call("WAIT", 1, 5000) == 1
        if way == "killed":
            primary.kill()
        else:
            sentinels[0].command("SENTINEL", "FAILOVER", "house")
        async with asyncio.timeout(60):
            while f":{replica.port})" not in pipeline._endpoint.name:
                result = await outcome(pipeline.call("SET", "b", "during", deadline=60.0))
                assert isinstance(result, bytes | ConnectionLost | RedisError)
        assert await pipeline.call("GET", "a", deadline=60.0) == b"before"
        assert await pipeline.call("SET", "a", "after", deadline=60.0) == b"OK"
        assert replica.command("GET", "a") in (b"after", "after")


async def test_a_sentinel_that_does_not_know_the_name_is_told() -> None:
    config = "sentinel monitor house 127.0.0.1 1 1\n"
    with (
        RedisServer("redis", is_sentinel=True, config=config) as sentinel,
        pytest.raises(BackendError, match="does not know 'castle'"),
    ):
        await made(f"redis+sentinel://127.0.0.1:{sentinel.port}/castle", deadline=0.3).start()


async def test_whom_a_sentinel_names_wrongly_is_not_believed(own_backend: RedisServer) -> None:
    own_backend.command("REPLICAOF", "127.0.0.1", free_port())
    config = f"sentinel monitor house 127.0.0.1 {own_backend.port} 1\n"
    with (
        RedisServer(own_backend.kind, is_sentinel=True, config=config) as sentinel,
        pytest.raises(BackendError, match=r"not the primary|MASTERDOWN"),
    ):
        await made(f"redis+sentinel://127.0.0.1:{sentinel.port}/house", deadline=2.0).start()
