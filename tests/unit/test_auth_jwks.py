"""Key sets behind a URL: what is fetched when, what holds while it fails, and what tokens can and cannot make it do."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.contracts.doors import until
from tests.issuer import KeyServer, jwk, key_set, part, pem, signed

from hubbub.auth import TokenVerifier
from hubbub.errors import InternalError, TokenInvalid
from hubbub.jwks import MAX_ASKED, MAX_DOCUMENT, RemoteKeys
from hubbub.keys import Key, KeyRing

NOW = 1_700_000_000.0
FOREVER = 1e6


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer(key_set(jwk("p256", kid="one"))) as server:
        yield server


@asynccontextmanager
async def started(
    url: str, *, refresh: float = FOREVER, gap: float = FOREVER, retry: float = 1
) -> AsyncIterator[RemoteKeys]:
    keys = RemoteKeys(url, refresh=refresh, gap=gap, retry=retry)
    await keys.start()
    try:
        yield keys
    finally:
        await keys.stop()


def is_known(keys: RemoteKeys, kid: str) -> Callable[[], bool]:
    def known() -> bool:
        try:
            return bool(keys.find(kid))
        except (InternalError, TokenInvalid):
            return False

    return known


# Tokens -----------------------------------------------------------------------------------------------------


async def test_tokens_of_a_key_set_are_believed(server: KeyServer) -> None:
    server.body = key_set(jwk("p256", kid="one"), jwk("rsa", kid="two"), jwk("ed25519", kid="three", alg="EdDSA"))
    verifier = TokenVerifier(jwks_url=server.url)
    await verifier.start()
    try:
        for algorithm, kid in (("ES256", "one"), ("RS384", "two"), ("EdDSA", "three")):
            assert verifier.connection(signed(algorithm, headers={"kid": kid}), NOW).user == "42"
            assert verifier.connection(signed(algorithm), NOW).user == "42"  # without kid: each that fits
            with pytest.raises(TokenInvalid, match=r"the signature does not match auth\.jwks_url"):
                verifier.connection(signed(algorithm, 1, headers={"kid": kid}), NOW)
        for wrong in ("two", "three"):
            with pytest.raises(TokenInvalid, match=r"alg is 'ES256', and auth\.jwks_url has no key for it"):
                verifier.connection(signed("ES256", headers={"kid": wrong}), NOW)
        assert server.hits == 1
        assert server.seen["User-Agent"].startswith("hubbub/")
    finally:
        await verifier.stop()


async def test_the_keys_of_the_configuration_hold_beside_it(server: KeyServer) -> None:
    secret = "a secret that is longer than thirty-two bytes"
    verifier = TokenVerifier(secret, public_key=pem("rsa"), jwks_url=server.url)
    await verifier.start()
    try:
        assert verifier.connection(signed("RS256", headers={"kid": "somebody's"}), NOW).user == "42"
        assert verifier.connection(signed("ES256", headers={"kid": "one"}), NOW).user == "42"
        assert server.hits == 1
    finally:
        await verifier.stop()


@pytest.mark.parametrize("algorithm", ["HS256", "none", "PS256", ""])
def test_a_token_of_another_family_makes_nobody_ask(algorithm: str) -> None:
    class Untouched:
        def find(self, kid: str) -> list[Key]:
            raise AssertionError("it was asked")

    header = json.dumps({"alg": algorithm, "kid": "new"}).encode()
    with pytest.raises(TokenInvalid, match=f"alg is '{algorithm}', and auth.jwks_url has no key for it"):
        KeyRing([], Untouched()).open(f"{part(header)}.{part(b'{}')}.")


# Fetching ---------------------------------------------------------------------------------------------------


async def test_a_new_key_is_fetched_when_a_token_names_it(server: KeyServer) -> None:
    async with started(server.url, gap=0) as keys:
        assert [key.id for key in keys.find("one")] == ["one"]
        server.body = key_set(jwk("p256", kid="one"), jwk("p256", 1, kid="two"))
        with pytest.raises(InternalError) as caught:
            keys.find("two")
        assert caught.value.is_temporary
        await until(is_known(keys, "two"))
        assert len(keys.find("")) == 2


async def test_a_key_that_is_withdrawn_is_believed_no_more(server: KeyServer) -> None:
    async with started(server.url, refresh=0.01, gap=0) as keys:
        assert keys.find("one")
        server.body = key_set(jwk("p256", 1, kid="two"))
        await until(is_known(keys, "two"))
        assert not is_known(keys, "one")()


async def test_a_name_that_nobody_knows_is_refused_for_now_and_then_for_good(server: KeyServer) -> None:
    async with started(server.url, gap=0) as keys:
        with pytest.raises(InternalError):
            keys.find("two")
        await until(lambda: keys._loaded == 2)
        with pytest.raises(TokenInvalid, match=r"^token: kid 'two' is not among the keys of auth\.jwks_url$"):
            keys.find("two")
        with pytest.raises(InternalError):
            keys.find("two")  # it may have been published since
        await until(lambda: keys._loaded == 3)
        assert server.hits == 3


async def test_tokens_cannot_make_it_ask_more_often_than_every_gap(server: KeyServer) -> None:
    async with started(server.url) as keys:
        for number in range(3 * MAX_ASKED):
            with pytest.raises(InternalError):
                keys.find(f"kid {number}")
        assert len(keys._asked) <= MAX_ASKED + 1
        await asyncio.sleep(0)
        assert keys._begun == server.hits == 1
        assert keys.find("one")


async def test_a_name_asked_for_during_a_fetch_is_fetched_again(server: KeyServer) -> None:
    """The answer under way may be older than the key."""
    async with started(server.url, gap=0) as keys:
        server.gate.clear()
        with pytest.raises(InternalError):
            keys.find("two")
        await until(lambda: server.hits == 2)
        with pytest.raises(InternalError):
            keys.find("three")
        server.gate.set()
        await until(lambda: keys._loaded == 3)
        for kid in ("two", "three"):
            with pytest.raises(TokenInvalid):
                keys.find(kid)


async def test_while_it_fails_the_old_keys_hold(server: KeyServer, caplog: pytest.LogCaptureFixture) -> None:
    async with started(server.url, refresh=0.01, gap=0, retry=0.01) as keys:
        server.status = 500
        await until(lambda: any("it answers 500; the old keys hold" in record.message for record in caplog.records))
        assert keys.find("one")
        with pytest.raises(InternalError):
            keys.find("two")  # for now: nobody can say that it is not there
        failed = server.hits
        await until(lambda: server.hits > failed)
        with pytest.raises(InternalError):
            keys.find("two")
        server.status, server.body = 200, key_set(jwk("p256", 1, kid="two"))
        await until(is_known(keys, "two"))
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert all(record.message.startswith(f"auth.jwks_url: {server.url}: ") for record in caplog.records)


async def test_a_server_without_keys_starts_and_gets_them_later(
    server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.status = 503
    async with started(server.url, gap=0, retry=0.01) as keys:
        assert "it answers 503; nobody can connect with a token of theirs until it works" in caplog.text
        for kid in ("", "one"):
            with pytest.raises(InternalError):
                keys.find(kid)
        server.status = 200
        await until(is_known(keys, "one"))
        assert keys.find("")


@pytest.mark.parametrize(
    ("status", "headers", "body", "text"),
    [
        (404, {}, b"", "it answers 404"),
        (302, {"Location": "http://127.0.0.1:1/"}, b"", "a redirect to 'http://127.0.0.1:1/'; set that instead"),
        (302, {"Location": "file:///etc/passwd"}, b"", "a redirect to 'file:///etc/passwd'"),
        (200, {}, b"<html>", "what it answers is not JSON"),
        (200, {}, b'{"keys":[]}', "none of its 0 keys"),
        (200, {"Content-Length": "50"}, b'{"keys":[', "what it answers is not JSON"),
        (200, {"Content-Length": str(MAX_DOCUMENT + 1)}, b" " * (MAX_DOCUMENT + 1), "more than 1048576 bytes"),
    ],
)
async def test_answers_that_are_none(
    server: KeyServer, caplog: pytest.LogCaptureFixture, status: int, headers: dict[str, str], body: bytes, text: str
) -> None:
    server.status, server.headers, server.body = status, headers, body
    async with started(server.url):
        [record] = caplog.records
        assert text in record.message
        assert "\n" not in record.message


async def test_a_server_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    with KeyServer() as gone:
        url = gone.url
    async with started(url):
        assert "cannot be reached: " in caplog.text


async def test_a_server_that_says_nothing_holds_nobody_up(
    server: KeyServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubbub.jwks.TIMEOUT", 0.05)
    server.gate.clear()
    async with started(server.url):
        assert "no answer within 0.05 seconds" in caplog.text


async def test_a_failure_that_nobody_thought_of_does_not_end_the_refreshing(
    server: KeyServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(url: str) -> bytes:
        raise RuntimeError("who would have thought")

    with monkeypatch.context() as patch:
        patch.setattr("hubbub.jwks.fetch", fail)
        keys = RemoteKeys(server.url, retry=0.01, gap=0)
        await keys.start()
        assert "who would have thought" in caplog.text
    await until(is_known(keys, "one"))
    await keys.stop()


async def test_the_loop_is_free_while_it_fetches(server: KeyServer) -> None:
    server.gate.clear()
    keys = RemoteKeys(server.url)
    start = asyncio.create_task(keys.start())
    await until(lambda: server.hits == 1)
    assert not start.done()
    server.gate.set()
    await start
    assert keys.find("one")
    await keys.stop()


def test_it_can_be_stopped_and_started_again_on_another_loop(server: KeyServer) -> None:
    keys = RemoteKeys(server.url, refresh=0.01, gap=0)

    async def once() -> None:
        hits = server.hits
        await keys.start()
        await until(lambda: server.hits >= hits + 2)
        await keys.stop()
        await keys.stop()

    asyncio.run(once())
    asyncio.run(once())


def test_a_fetch_under_way_does_not_outlive_the_loop(server: KeyServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys = RemoteKeys(server.url)

    async def begin() -> None:
        server.gate.clear()
        start = asyncio.create_task(keys.start())
        await until(lambda: server.hits == 1)
        start.cancel()
        await keys.stop()

    asyncio.run(begin())
    server.gate.set()
    assert "exception" not in caplog.text.lower()
