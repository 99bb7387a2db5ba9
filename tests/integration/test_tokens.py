"""Tokens of an issuer elsewhere, through a served hub: what clients are told, and when it fetches."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from tests.integration.support import client, port_of, running
from tests.issuer import KeyServer, jwk, key_set, pem, signed
from websockets.asyncio.client import connect

from hubbub.server import Server


async def answer(server: Server, token: str) -> Any:
    """What the server answers to a connect with this token; the close code where it closes."""
    async with connect(f"ws://127.0.0.1:{port_of(server)}/connection/websocket", compression=None) as socket:
        await socket.send(json.dumps({"id": 1, "connect": {"token": token}}))
        try:
            return json.loads(await socket.recv())
        except Exception:
            return socket.close_code


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_key_file(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = {"RS256": "rsa", "ES256": "p256", "EdDSA": "ed25519"}[algorithm]
    (tmp_path / "public.pem").write_text(pem(kind))
    monkeypatch.setenv("HUBBUB_AUTH_PUBLIC_KEY", str(tmp_path / "public.pem"))
    async with running(auth={"issuer": "us", "audience": ["chat"]}) as server:
        good = signed(algorithm, iss="us", aud="chat", exp=time.time() + 60)
        async with client(server, token=good) as connected:
            assert connected.id
        for token in (
            signed(algorithm, 1, iss="us", aud="chat"),
            signed(algorithm, iss="us", aud="feed"),
            signed(algorithm, iss="them", aud="chat"),
            jwt.encode({"sub": "42", "iss": "us", "aud": "chat"}, "x" * 32),
        ):
            assert await answer(server, token) == 3500
        expired = await answer(server, signed(algorithm, iss="us", aud="chat", exp=time.time() - 60))
        assert expired["error"]["code"] == 109


async def test_a_key_set() -> None:
    with KeyServer(key_set(jwk("p256", kid="one"))) as keys:
        async with running(auth={"jwks_url": keys.url}) as server:
            async with client(server, token=signed("ES256", headers={"kid": "one"})) as connected:
                assert connected.id
            unknown = await answer(server, signed("ES256", 1, headers={"kid": "two"}))
            # Temporary: SDKs come back, and by then the key may be there.
            assert unknown["error"]["code"] == 100
            assert unknown["error"]["temporary"] is True
            assert await answer(server, signed("ES256", 1, headers={"kid": "one"})) == 3500
        assert keys.hits == 1
    names = {task.get_name() for task in asyncio.all_tasks()} | {thread.name for thread in threading.enumerate()}
    assert not [name for name in names if "jwks" in name]


async def test_a_key_set_that_cannot_be_fetched_does_not_stop_the_server(caplog: pytest.LogCaptureFixture) -> None:
    with KeyServer() as keys:
        keys.status = 500
        async with running(auth={"jwks_url": keys.url, "anonymous": True}) as server:
            async with client(server) as anonymous:
                assert anonymous.id
            later = await answer(server, signed("ES256", headers={"kid": "one"}))
            assert later["error"]["temporary"] is True
    assert "it answers 500; nobody can connect with a token of theirs until it works" in caplog.text
