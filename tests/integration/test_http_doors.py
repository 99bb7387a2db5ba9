"""What both doors tell an application of a request's head, and what they say where nobody started the hub."""

from __future__ import annotations

import logging

import httpx
import pytest
import uvicorn
from tests.contracts.doors import Peer, Probe, Serving, all_doors, request, served
from websockets.asyncio.client import connect

from hubbub import Hubbub
from hubbub.core.node import NOT_STARTED
from hubbub.core.operations import OPERATIONS
from hubbub.transports.handshake import headers_of

REPEATED = (
    "X-Forwarded-For: 1.2.3.4",
    "x-forwarded-for: 10.0.0.2",
    "Cookie: a=1; b=2",
    "Cookie: c=3",
    "X-Once:   as it came, with a comma  ",
    "X-Umlaut: grün",
    "X-Empty:",
)


async def told(door: str, *headers: str) -> dict[str, str]:
    """What the endpoint behind a door hears of these headers."""
    async with served(door, Probe) as serving:
        await Peer.open(serving, *headers)
        heard = dict((await serving.probe()).transport.head[0])
        return {name: value for name, value in heard.items() if name.startswith("x-") or name == "cookie"}


@all_doors
async def test_headers_are_the_same_at_both_doors_however_often_they_were_sent(door: str) -> None:
    assert await told(door, *REPEATED) == {
        "x-forwarded-for": "1.2.3.4, 10.0.0.2",
        "cookie": "a=1; b=2; c=3",
        "x-once": "as it came, with a comma",
        "x-umlaut": "grün".encode().decode("latin-1"),
        "x-empty": "",
    }


def test_names_of_headers_are_in_lower_case_whoever_wrote_them() -> None:
    assert headers_of([("COOKIE", "a=1"), ("Cookie", "b=2"), ("X-A", "1"), ("x-a", "")]) == {
        "cookie": "a=1; b=2",
        "x-a": "1, ",
    }


# nobody started the hub ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [*OPERATIONS, "tail", "nothing"])
async def test_no_operation_is_done_by_a_hub_that_is_not_started(operation: str) -> None:
    hub = Hubbub(api={"key": "k"})
    transport = httpx.ASGITransport(hub.asgi())
    async with httpx.AsyncClient(transport=transport, base_url="http://hub") as http:
        asked = {"channel": "news", "data": 1}
        answer = await http.post(f"/api/{operation}", json=asked, headers={"X-API-Key": "k"})
        assert answer.status_code == 503
        assert answer.text == "the hub is not started: FastAPI(lifespan=hub.lifespan)\n"
        assert answer.headers["content-type"].startswith("text/plain")
        assert (await http.post(f"/api/{operation}", json=asked)).status_code == 401
        assert (await http.get("/health")).status_code == 200
        async with hub:
            assert (await http.post("/api/info", headers={"X-API-Key": "k"})).status_code == 200


@all_doors
async def test_the_doors_of_a_hub_that_is_not_started_say_so_and_once_a_minute_in_the_log(
    door: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hubbub()
    async with served(door, Probe, refusal=hub.node.refusal) as serving:
        for _ in range(3):
            peer = await Peer.connect(serving)
            assert await peer.ask(request()) == 503
            assert NOT_STARTED.encode() in await peer.ends()
        ours = [record for record in caplog.records if record.name.startswith("hubbub")]
        warnings = [record.getMessage() for record in ours if record.levelno >= logging.WARNING]
        assert warnings == [f"a connection was refused: {NOT_STARTED}"]
        async with hub:
            await Peer.open(serving)
    assert not hub.node.is_running


async def test_a_mounted_hub_that_nobody_starts_refuses_its_clients() -> None:
    hub = Hubbub(auth={"anonymous": True})
    server = uvicorn.Server(uvicorn.Config(hub.asgi(), lifespan="off", port=0, log_config=None))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    try:
        serving = Serving("asgi", Probe)
        serving.port = server.servers[0].sockets[0].getsockname()[1]
        peer = await Peer.connect(serving)
        assert await peer.ask(request()) == 503
        assert NOT_STARTED.encode() in await peer.ends()
        peer.leave()
        async with hub, connect(f"ws://127.0.0.1:{serving.port}/connection/websocket") as socket:
            await socket.send('{"id":1,"connect":{}}')
            assert '"client"' in str(await socket.recv())
    finally:
        await server.shutdown()
