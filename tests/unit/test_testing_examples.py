"""Our own examples, tested as their authors would test them: with `hubbub.testing`, and httpx for what is HTTP."""

from __future__ import annotations

import httpx
import pytest
from examples import chat, fastapi_app, starlette_app

from hubbub import BadRequest, Disconnect, PermissionDenied
from hubbub.testing import TestHub


def http(app: object) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]  # an ASGI application, as each framework types it
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_chat(capsys: pytest.CaptureFixture[str]) -> None:
    async with TestHub(chat.hub) as server:
        ann = await server.connect(data={"name": "ann"})
        bob = await server.connect(data={"name": "bob"}, codec="protobuf")
        for client in (ann, bob):
            await client.subscribe("room:lobby")
        await ann.publish("room:lobby", {"type": "message", "text": "hi", "author": "somebody else"})
        await ann.publish("room:lobby", {"type": "typing"})
        message, typing = await bob.next("room:lobby"), await bob.next("room:lobby")
        assert message.data == {"type": "message", "text": "hi", "author": "ann"}
        assert (typing.data, typing.position) == ({"type": "typing", "author": "ann"}, None)
        assert await bob.rpc("room.people", "lobby") == ["ann", "bob"]
        with pytest.raises(BadRequest):
            await bob.publish("room:lobby", {"type": "shout"})
        with pytest.raises(PermissionDenied, match="for the staff"):
            await bob.subscribe("room:staff")
        with pytest.raises(Disconnect):
            await server.connect(data={"title": "no name"})
        await server.settle()
    assert capsys.readouterr().out == "room:lobby: ann: hi\n"


@pytest.mark.parametrize("time", ["first", "second"])
async def test_fastapi(time: str) -> None:
    async with TestHub(fastapi_app.hub) as server, http(fastapi_app.app) as client:
        reader = await server.connect()
        await reader.subscribe("news:world")
        posted = await client.post("/news/world", json={"title": f"It rains for the {time} time"})
        assert posted.json() == {"offset": 1}
        assert (await reader.next("news:world", type=fastapi_app.Headline)).data.title.endswith(f"{time} time")
        assert len((await client.get("/news/world")).json()) == 1


@pytest.mark.parametrize("time", ["first", "second"])
async def test_what_an_application_mounts_follows_the_hub(time: str) -> None:
    trial = TestHub(starlette_app.hub, api={"key": "a key"})
    async with trial as server, http(starlette_app.app) as client:
        reader = await server.connect()
        await reader.subscribe("visits:home")
        body = {"channel": "visits:home", "data": {"page": "home", "count": 41}}
        answer = await client.post("/rt/api/publish", json=body, headers={"X-API-Key": "a key"})
        assert answer.json()["result"]["offset"] == 1
        assert (await client.get("/")).text == "home: 42\n"
        assert [(await reader.next("visits:home")).data["count"] for _ in range(2)] == [41, 42]
        assert (await client.get("/listeners")).json() == {"visits:home": 1}
