"""Each example does what it says, run as it says, with real clients."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from tests.backends import RedisServer
from tests.examples.running import PATH, Running, page, serving, started
from tests.serving import ROOT
from tests.talking import Refused

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
SECRET = "a secret of thirty-two characters or more"


def command(example: str) -> str:
    """The command that its docstring gives, without the environment and the arguments that a test gives itself."""
    text = (ROOT / "examples" / f"{example}.py").read_text()
    found = re.search(
        rf"((?:hubbub serve|uvicorn) examples\.{example}:\w+|python (?:-m pytest )?examples/{example}\.py)", text
    )
    assert found is not None, f"examples/{example}.py does not say how it is run"
    return found[1]


def http(running: Running) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=running.http, trust_env=False)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_says_how_it_is_run_and_has_a_test(example: str) -> None:
    assert command(example)
    assert f'command("{example}")' in Path(__file__).read_text()


async def test_plain_asyncio() -> None:
    process = await started(command("plain"), {})
    said, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, said.decode()
    lines = said.decode().splitlines()
    assert [line for line in lines if not line.startswith("kitchen")] == [
        "waiter: soup",
        "waiter: bread",
        "waiter: cake",
        "after the soup: bread",
        "all: soup, bread, cake",
        "refused: payload does not fit Order: price: Expected `float`, got `str`",
        "takings: 10.00",
    ]
    assert [line for line in lines if line.startswith("kitchen")] == [
        "kitchen: soup is order 1",
        "kitchen: bread is order 2",
        "kitchen: cake is order 3",
    ]


async def test_chat() -> None:
    async with (
        serving(command("chat")) as server,
        page(server, data={"name": "ann"}) as (ann, _),
        page(server, data={"name": "bob"}) as (bob, _),
    ):
        await ann.call("subscribe", channel="room:lobby")
        await bob.call("subscribe", channel="room:lobby")
        assert await ann.call("rpc", method="room.people", data="lobby") == {"data": ["ann", "bob"]}

        await bob.call("publish", channel="room:lobby", data={"type": "typing"})
        await bob.call("publish", channel="room:lobby", data={"type": "message", "text": "hi", "author": "ann"})
        typing, message = await ann.push(), await ann.push()
        assert typing["pub"]["data"] == {"type": "typing", "author": "bob"}
        assert "offset" not in typing["pub"]
        assert message["pub"]["data"] == {"type": "message", "text": "hi", "author": "bob"}
        assert message["pub"]["offset"] == 1
        await server.printed("room:lobby: bob: hi")

        await ann.call("subscribe", channel="room:staff")
        with pytest.raises(Refused, match=r"^103: the staff's room is for the staff$"):
            await bob.call("subscribe", channel="room:staff")
        with pytest.raises(Refused, match=r"^107: payload does not fit .*: Object missing required field `text`$"):
            await bob.call("publish", channel="room:lobby", data={"type": "message"})

        async with page(server, data={"name": "cem"}) as (cem, _):
            missed = await cem.call("subscribe", channel="room:lobby", recover=True, offset=0, epoch="")
            assert [each["data"]["text"] for each in missed["publications"]] == ["hi"]


async def test_the_tests_of_the_chat() -> None:
    process = await started(command("test_chat") + " -p no:cacheprovider", {})
    said, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, said.decode()
    assert "3 passed" in said.decode()


async def test_fastapi_mounted_and_with_a_dependency() -> None:
    async with serving(command("fastapi_app")) as server, page(server) as (reader, _), http(server) as client:
        await reader.call("subscribe", channel="news:world")
        assert (await client.post("/news/world", json={"title": "It rains"})).json() == {"offset": 1}
        assert (await reader.push())["pub"]["data"] == {"title": "It rains"}
        await server.printed("news:world: It rains")
        await client.post("/news/world", json={"title": "Still"})
        assert (await client.get("/news/world")).json() == [{"title": "Still"}, {"title": "It rains"}]
        assert (await client.post("/news/world", json={"headline": 1})).status_code == 422
        assert (await client.get("/health")).json() == {}


async def test_starlette_with_routes_beside() -> None:
    async with serving(command("starlette_app")) as server, http(server) as client:
        assert (await client.get("/")).text == "home: 1\n"
        async with page(server, "/rt" + PATH) as (reader, _):
            subscribed = await reader.call("subscribe", channel="visits:home", recover=True, offset=0, epoch="")
            assert [each["data"] for each in subscribed["publications"]] == [{"page": "home", "count": 1}]
            assert (await client.get("/listeners")).json() == {"visits:home": 1}
            assert (await client.get("/")).text == "home: 2\n"
            assert (await reader.push())["pub"]["data"] == {"page": "home", "count": 2}
        assert (await client.get("/rt/health")).json() == {}


async def test_a_script_that_only_publishes() -> None:
    keys = {"HUBBUB_API_KEY": "k", "HUBBUB_AUTH_INSECURE": "true"}
    async with serving("hubbub serve", **keys) as server, page(server) as (reader, _):
        await reader.call("subscribe", channel="news")
        script = command("publish_only") + """ news '{"title": "It rains"}'"""
        process = await started(script, {"HUBBUB_URL": server.http, "HUBBUB_API_KEY": "k"})
        said, _ = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, said) == (0, b'{"result":{}}\n')
        assert (await reader.push())["pub"]["data"] == {"title": "It rains"}


async def test_a_web_application_that_blocks(backend: RedisServer) -> None:
    async with serving(command("wsgi_app"), HUBBUB_BROKER_URL=backend.url) as server, http(server) as client:
        assert [(await client.post("/say/lobby", content=text)).text for text in ("hello", "again")] == [
            "number 1\n",
            "number 2\n",
        ]
        assert (await client.get("/said/lobby")).text == "hello\nagain\n"
        backend.command("PUBLISH", "room:kitchen", '"soup"')
        for line in ("room:lobby: hello", "room:lobby: again", "room:kitchen: soup"):
            await server.printed(line)


async def test_notifications_for_each_user_alone() -> None:
    keys = {"HUBBUB_AUTH_HMAC_SECRET": SECRET}
    async with serving(command("notifications"), **keys) as server, http(server) as client:
        tokens = {name: (await client.post("/token", params={"user": name})).json() for name in ("ann", "bob")}
        assert (await client.post("/notify/ann", json={"text": "early"})).json() == 0
        async with page(server, token=tokens["ann"]) as (ann, connected), page(server, token=tokens["bob"]) as (bob, _):
            assert list(connected["subs"]) == ["user:ann"]
            assert (await client.post("/notify/ann", json={"text": "hello"})).json() == 1
            assert (await ann.push())["pub"]["data"] == {"text": "hello"}
            await server.printed("user:ann: hello")
            with pytest.raises(Refused, match=r"^103: "):
                await bob.call("subscribe", channel="user:ann")
            assert (await client.post("/logout/ann")).json() == 1
            assert (await ann.closed())[0] == 3005
        assert (await client.post("/notify/ann", json={"text": "gone"})).json() == 0
