"""redis/topology.py and redis/backoff.py without a server: what URLs mean, and what is wrong with them."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.certificates import make_certificate

from hubbub.errors import BackendError, ConfigurationError
from hubbub.redis.backoff import Backoff
from hubbub.redis.topology import Endpoint, endpoint_of


def endpoint(url: str) -> Endpoint:
    return endpoint_of(url, client_name="hubbub node-1")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis://example.org", "redis://example.org:6379/0"),
        ("redis://example.org/", "redis://example.org:6379/0"),
        ("redis://:secret@example.org:7000/3", "redis://example.org:7000/3"),
        ("redis://user:secret@[::1]:7000?db=4", "redis://[::1]:7000/4"),
        ("rediss://user:secret@example.org", "rediss://example.org:6379/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
        ("unix://user:secret@/run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
        ("redis+sentinel://one,two:7000/primary", "redis+sentinel://one:26379,two:7000/primary/0"),
        ("rediss+sentinel://u:secret@one,[::1]:7/primary/2", "rediss+sentinel://one:26379,::1:7/primary/2"),
    ],
)
def test_the_name_of_an_endpoint_is_its_url_without_the_password(url: str, name: str) -> None:
    assert endpoint(url).name == name


@pytest.mark.parametrize(
    ("url", "hello"),
    [
        ("redis://host", [["HELLO", 3, "SETNAME", "hubbub-node-1"]]),
        ("redis://:p%40ss@host", [["HELLO", 3, "AUTH", "default", "p@ss", "SETNAME", "hubbub-node-1"]]),
        (
            "redis://user:pass@host/5",
            [["HELLO", 3, "AUTH", "user", "pass", "SETNAME", "hubbub-node-1"], ["SELECT", 5]],
        ),
        (
            "redis+sentinel://user:pass@host/primary",
            [["HELLO", 3, "AUTH", "user", "pass", "SETNAME", "hubbub-node-1"], ["ROLE"]],
        ),
    ],
)
def test_what_is_said_first(url: str, hello: list[list[str | int]]) -> None:
    assert endpoint(url).hello() == hello


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://host", "found the scheme 'http'"),
        ("redis+cluster://host", "found the scheme 'redis\\+cluster'"),
        ("unix+sentinel://host/primary", "found the scheme 'unix\\+sentinel'"),
        ("", "found the scheme ''"),
        ("redis://host:port", "cannot be read"),
        ("redis://host/name", "number of a database .* found '/name'"),
        ("redis://host?db=x", "db"),
        ("redis://host?max_connections=5", "does not have: max_connections"),
        ("redis://host?ssl_ca_certs=/x", "write rediss:// for TLS"),
        ("rediss://host?ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs.*No such file"),
        ("rediss://host?ssl_cert_reqs=perhaps", "ssl_cert_reqs.*perhaps"),
        ("unix://", "path of a socket"),
        ("redis+sentinel://host", "NAME"),
        ("redis+sentinel://host,/primary", "commas"),
        ("redis+sentinel://host:x/primary", "cannot be read"),
    ],
)
def test_a_wrong_url_is_refused_in_words(url: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        endpoint(url)


def test_no_complaint_tells_the_password() -> None:
    for url in (
        "redis://u:secret@host:port",
        "redis://u:secret@host/x",
        "http://u:secret@host",
        "redis://:secret@h?x=1",
    ):
        with pytest.raises(ConfigurationError) as caught:
            endpoint(url)
        assert "secret" not in str(caught.value)


def test_tls_checks_the_server_unless_told_otherwise(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    strict = endpoint(f"rediss://host?ssl_ca_certs={certificate.file}")
    lax = endpoint("rediss://host?ssl_cert_reqs=none")
    contexts = [vars(each)["_access"].tls for each in (strict, lax)]
    assert [context.verify_mode for context in contexts] == [ssl.CERT_REQUIRED, ssl.CERT_NONE]
    assert [context.check_hostname for context in contexts] == [True, False]


async def test_nobody_there_is_told_with_the_address() -> None:
    with pytest.raises(BackendError, match=r"redis://127\.0\.0\.1:1/0 cannot be reached"):
        await endpoint("redis://127.0.0.1:1").open(asyncio.Protocol)
    with pytest.raises(BackendError, match=r"unix:///nowhere/redis\.sock.*cannot be reached"):
        await endpoint("unix:///nowhere/redis.sock").open(asyncio.Protocol)
    with pytest.raises(BackendError, match="no Sentinel names a primary"):
        await endpoint("redis+sentinel://127.0.0.1:1,127.0.0.1:2/primary").open(asyncio.Protocol)


async def test_an_address_that_does_not_answer_is_given_up() -> None:
    # The test network of RFC 5737: packets to it are lost, or refused by the machine's own routes.
    with pytest.raises(BackendError, match="cannot be reached"):
        await endpoint("redis://192.0.2.1?socket_connect_timeout=0.05").open(asyncio.Protocol)


def test_the_bound_of_delays_doubles_up_to_the_cap_and_starts_again() -> None:
    longest = [0.0] * 12
    backoff = Backoff()
    for seed in range(300):
        backoff = Backoff(first=0.05, cap=5.0, seed=seed)
        for attempt in range(12):
            assert backoff.attempt == attempt
            delay = backoff.next()
            assert 0.0 <= delay <= min(5.0, 0.05 * 2**attempt)
            longest[attempt] = max(longest[attempt], delay)
    assert all(found > 0.9 * min(5.0, 0.05 * 2**attempt) for attempt, found in enumerate(longest))
    backoff.reset()
    assert backoff.next() <= 0.05


def test_two_nodes_do_not_come_back_together() -> None:
    assert [Backoff().next() for _ in range(3)] != [Backoff().next() for _ in range(3)]


def test_years_of_attempts_do_not_overflow() -> None:
    backoff = Backoff()
    backoff.attempt = 10**7
    assert 0.0 <= backoff.next() <= 5.0


@pytest.mark.parametrize(("package", "module"), [("hiredis", "wire"), ("redis", "topology")])
def test_without_the_packages_the_extra_is_named(package: str, module: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; import hubbub.redis.{module}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ConfigurationError: Redis needs two more packages: pip install 'hubbub[redis]'" in ended.stderr


def test_hubbub_alone_loads_none_of_it() -> None:
    program = "import hubbub, sys; print({'redis', 'hiredis', 'hubbub.redis'} & {*sys.modules})"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
