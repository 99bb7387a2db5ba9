"""Beside other applications: theirs under ours on one port, and ours inside theirs."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from tests.contracts.doors import until
from tests.integration.support import OPEN, PATH, client, port_of, running
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hubbub import Hubbub


async def shout(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text.upper())


async def hello(request: Request) -> Response:
    return JSONResponse({"hello": request.url.path})


async def fail(request: Request) -> Response:
    raise RuntimeError("their bug")


OTHER = Starlette(routes=[Route("/", hello), Route("/fail", fail), WebSocketRoute("/shout", shout)])


async def test_another_application_beside_ours_on_the_fast_port() -> None:
    async with running(fallback=OTHER, api={"key": "k"}) as server:
        base = f"127.0.0.1:{port_of(server)}"
        async with (
            client(server) as ours,
            connect(f"ws://{base}/shout") as theirs,
            httpx.AsyncClient(base_url=f"http://{base}", trust_env=False) as http,
        ):
            await theirs.send("hi")
            assert await theirs.recv() == "HI"
            await ours.call("subscribe", channel="news")
            assert (await http.get("/")).json() == {"hello": "/"}
            assert (await http.get("/health")).json() == {}
            assert (await http.get("/nowhere")).status_code == 404
            await http.post("/api/publish", json={"channel": "news", "data": 1}, headers={"X-API-Key": "k"})
            assert (await ours.push())["pub"]["data"] == 1
            with contextlib.suppress(InvalidStatus):
                async with connect(f"ws://{base}/nowhere"):
                    raise AssertionError("there is nothing")
            server.should_exit = True
            await theirs.wait_closed()
            assert theirs.close_code == 1012
            assert (await ours.closed())[0] == 3001


async def test_a_request_that_does_not_end_does_not_keep_the_server() -> None:
    started = asyncio.Event()

    async def endless(request: Request) -> Response:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with running(fallback=Starlette(routes=[Route("/endless", endless)])) as server:
        server.config.timeout_graceful_shutdown = 0
        async with httpx.AsyncClient(base_url=server.address, trust_env=False) as http:
            waiting = asyncio.ensure_future(http.get("/endless", timeout=None))
            await started.wait()
            server.should_exit = True
            with contextlib.suppress(httpx.HTTPError):
                assert (await waiting).status_code == 500


async def test_ours_inside_another_application_under_plain_uvicorn() -> None:
    hub = Hubbub(**OPEN, api={"key": "k"})
    app = Starlette(
        routes=[Route("/", hello), WebSocketRoute("/shout", shout), Mount("/rt", hub.asgi())], lifespan=hub.lifespan
    )
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    await until(lambda: server.started)
    base = f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        async with (
            client(f"ws://{base}/rt{PATH}") as ours,
            connect(f"ws://{base}/shout") as theirs,
            httpx.AsyncClient(base_url=f"http://{base}", trust_env=False) as http,
        ):
            await ours.call("subscribe", channel="news")
            assert (await http.get("/")).json() == {"hello": "/"}
            assert (await http.get("/rt/ready")).status_code == 200
            await http.post("/rt/api/publish", json={"channel": "news", "data": 1}, headers={"X-API-Key": "k"})
            assert (await ours.push())["pub"]["data"] == 1
            await hub.publish("news", 2)
            assert (await ours.push())["pub"]["data"] == 2
            await theirs.send("hi")
            assert await theirs.recv() == "HI"
    finally:
        server.should_exit = True
        await serving
    assert not hub.node.is_running
