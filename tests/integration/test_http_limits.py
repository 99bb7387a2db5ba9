"""What HTTP on our port allows a stranger: uvicorn itself has no limit to a request's head, in bytes or in seconds."""

from __future__ import annotations

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tests.contracts.doors import TEXT, EchoProbe, Peer, Serving, frame, request
from tests.integration.support import port_of, running

from hubbub.server import Server
from hubbub.transports.upgrade import MAX_HEAD, Http


async def stranger(server: Server) -> Peer:
    door = Serving("websocket", EchoProbe)
    door.port = port_of(server)
    return await Peer.connect(door)


async def test_a_head_without_end_is_431() -> None:
    async with running() as server:
        peer = await stranger(server)
        peer.writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        line = b"X-More: " + b"x" * 1000 + b"\r\n"
        for _ in range(MAX_HEAD // len(line) + 2):
            peer.writer.write(line)
        assert await peer.ask(b"") == 431
        peer.leave()


async def test_one_header_without_end_is_431() -> None:
    async with running() as server:
        peer = await stranger(server)
        assert await peer.ask(b"GET /" + b"x" * (2 * MAX_HEAD)) == 431
        peer.leave()


@pytest.mark.parametrize(
    "sent", [b"", b"G", b"GET /health HTTP/1.1\r\nHost", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET"]
)
async def test_a_head_that_does_not_come_is_408(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Http, "head_timeout", 0.05)
    async with running() as server:
        peer = await stranger(server)
        peer.writer.write(sent)
        answers = await peer.ends()
        assert answers.count(b"HTTP/1.1 200") == sent.count(b"\r\n\r\n")
        assert answers.count(b"HTTP/1.1 408") == 1
        peer.leave()


async def test_a_large_body_and_a_long_connection_are_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Http, "head_timeout", 0.05)

    async def slow(request: Request) -> Response:
        body = await request.body()
        await asyncio.sleep(0.1)
        return PlainTextResponse(str(len(body)))

    async with running(fallback=Starlette(routes=[Route("/slow", slow, methods=["POST"])])) as server:
        peer = await stranger(server)
        size = 4 * MAX_HEAD
        head = f"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
        assert await peer.ask(head + b"x" * size) == 200
        assert await peer.reader.readexactly(int(peer.headers["content-length"])) == str(size).encode()
        assert await peer.ask(request()) == 101
        await asyncio.sleep(0.1)
        peer.send(frame(TEXT, b'{"id":1,"connect":{}}'))
        assert (await peer.frame())[0] == TEXT
        peer.leave()


async def test_an_upgrade_behind_a_request_that_is_not_answered_yet_is_refused() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.05)
        return PlainTextResponse("done")

    async with running(fallback=Starlette(routes=[Route("/slow", slow)])) as server:
        peer = await stranger(server)
        assert await peer.ask(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + request()) == 400
        assert b"101 Switching" not in await peer.ends()
        peer.leave()


async def test_nobody_comes_in_while_the_server_leaves() -> None:
    async with running() as server:
        peer = await stranger(server)
        assert await peer.ask(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") == 200
        await peer.reader.readexactly(2)
        server.hub.node.porter.is_leaving = True
        assert await peer.ask(request()) == 503
        peer.leave()
