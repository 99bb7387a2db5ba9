"""The operations by which servers act on clients, the application's methods, batches, and errors as HTTP statuses."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
from tests.integration.support import client, running

from hubbub.core.hooks import Caller, NoHandlers
from hubbub.errors import BadRequest, Disconnect, MethodNotFound
from hubbub.server import Server

KEY = "secret"
SECRET = "a secret of at least thirty-two bytes"

SETTINGS: dict[str, Any] = {
    "api": {"key": KEY},
    "auth": {"hmac_secret": SECRET, "anonymous": True},
    "channels": {
        "default": {"subscribe": "anyone", "presence": True},
        "log": {"delivery": "recent", "subscribe": "anyone"},
    },
}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with running(**SETTINGS) as serving:
        yield serving


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.address, headers={"X-API-Key": KEY}, trust_env=False) as opened:
        yield opened


def token(user: str) -> str:
    return jwt.encode({"sub": user}, SECRET, "HS256")


async def call(http: httpx.AsyncClient, operation: str, **request: object) -> Any:
    answer = await http.post(f"/api/{operation}", content=json.dumps(request))
    assert answer.status_code == 200, answer.text
    return answer.json()


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


# clients --------------------------------------------------------------------------------------------------------------


async def test_subscribe_with_everything_that_upstream_has(server: Server, http: httpx.AsyncClient) -> None:
    async with client(server, token=token("ann")) as ann, client(server) as nobody:
        await nobody.call("subscribe", channel="news")
        done = await call(
            http, "subscribe", user="ann", channel="news", info={"seat": 7}, data={"why": "you"}, client=ann.id,
            override={"presence": {"value": True}, "force_recovery": {"value": True}},
        )  # fmt: skip
        assert done == {"result": {}}
        push = await ann.push()
        assert (push["channel"], push["subscribe"]) == ("news", {"data": {"why": "you"}})
        present = (await call(http, "presence", channel="news"))["result"]["presence"]
        assert present[ann.id]["chan_info"] == {"seat": 7}
        await call(http, "publish", channel="news", data=1)
        assert (await ann.push())["pub"]["data"] == 1


async def test_subscribe_recovers_and_reads_base64(server: Server, http: httpx.AsyncClient) -> None:
    async with client(server, token=token("ann")) as ann:
        epoch = ""
        for number in (1, 2, 3):
            epoch = (await call(http, "publish", channel="log:1", data=number))["result"]["epoch"]
        since = {"offset": 1, "epoch": epoch}
        data, info = encoded({"n": 1}), encoded("x")
        await call(http, "subscribe", user="ann", channel="log:1", recover_since=since, b64data=data, b64info=info)
        push = (await ann.push())["subscribe"]
        assert push == {"recoverable": True, "positioned": True, "epoch": epoch, "offset": 1, "data": {"n": 1}}
        assert [(await ann.push())["pub"]["offset"] for _ in range(2)] == [2, 3]


async def test_refresh_moves_the_end_and_expires(server: Server, http: httpx.AsyncClient) -> None:
    async with client(server, token=token("ann")) as ann:
        assert await call(http, "refresh", user="ann", expire_at=4_000_000_000) == {"result": {}}
        assert (await ann.push())["refresh"]["expires"] is True
        assert await call(http, "refresh", user="ann", client=ann.id, expired=True) == {"result": {}}
        assert await ann.closed() == (3005, "connection expired")


@pytest.mark.parametrize("operation", ["subscribe", "unsubscribe", "refresh", "disconnect"])
async def test_an_order_for_a_session_concerns_no_connection_that_has_none(
    server: Server, http: httpx.AsyncClient, operation: str
) -> None:
    async with client(server, token=token("ann")) as ann:
        await ann.call("subscribe", channel="news")
        more = {"expired": True} if operation == "refresh" else {}
        channel = {} if operation in ("refresh", "disconnect") else {"channel": "log:1"}
        request = {"user": "ann", "session": "of another transport", **more, **channel}
        assert await call(http, operation, **request) == {"result": {}}
        await ann.call("unsubscribe", channel="news")
        assert ann.pushes == []


async def test_history_remove(server: Server, http: httpx.AsyncClient) -> None:
    await call(http, "publish", channel="log:1", data=1)
    assert await call(http, "history_remove", channel="log:1") == {"result": {}}
    page = (await call(http, "history", channel="log:1", limit=10))["result"]
    assert (page["publications"], page["offset"]) == ([], 1)
    assert (await call(http, "history_remove", channel="news"))["error"]["code"] == 108


@pytest.mark.parametrize(
    ("operation", "request_body", "code"),
    [
        ("subscribe", {"user": "ann"}, 107),
        ("subscribe", {"user": "ann", "channel": "nowhere:1"}, 102),
        ("subscribe", {"user": "ann", "channel": "news", "b64info": "%"}, 107),
        ("subscribe", {"user": "ann", "channel": "news", "b64data": base64.b64encode(b"\xff").decode()}, 107),
        ("subscribe", {"user": "ann", "channel": "news", "recover_since": {"offset": -1}}, 107),
        ("refresh", {"user": "ann", "expire_at": -1}, 107),
        ("refresh", {}, 107),
        ("history_remove", {"channel": "nowhere:1"}, 102),
        ("rpc", {}, 107),
        ("batch", {}, 107),
        ("batch", {"commands": {}}, 107),
        ("tail", {}, 107),
    ],
)
async def test_mistakes(http: httpx.AsyncClient, operation: str, request_body: object, code: int) -> None:
    answer = await http.post(f"/api/{operation}", json=request_body)
    assert answer.status_code == 200
    assert answer.json()["error"]["code"] == code, answer.text


# the application ------------------------------------------------------------------------------------------------------


class Methods(NoHandlers):
    """What an application might offer."""

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        assert asyncio.current_task() is not None, "libraries need one"
        match method:
            case "echo":
                return data
            case "who":
                return json.dumps([caller.id, caller.user, caller.credentials.user]).encode()
            case "refuse":
                raise BadRequest("not like this", code=1234)
            case "away":
                raise Disconnect(4500, "go")
            case "break":
                raise RuntimeError("oops")
        raise MethodNotFound


async def test_rpc_calls_the_application_as_nobody(server: Server, http: httpx.AsyncClient) -> None:
    server.hub.node.handlers = Methods()
    assert await call(http, "rpc", method="echo", params={"a": [1]}) == {"result": {"data": {"a": [1]}}}
    assert await call(http, "rpc", method="echo") == {"result": {}}
    assert await call(http, "rpc", method="who") == {"result": {"data": ["", "", ""]}}
    assert (await call(http, "rpc", method="refuse"))["error"] == {"code": 1234, "message": "not like this"}
    assert (await call(http, "rpc", method="away"))["error"]["code"] == 103
    assert (await call(http, "rpc", method="nothing"))["error"]["code"] == 104
    assert (await call(http, "rpc", method="break"))["error"]["code"] == 100


async def test_rpc_where_there_is_nothing_to_call(http: httpx.AsyncClient) -> None:
    assert (await call(http, "rpc", method="echo"))["error"]["code"] in (104, 108)


# many at once ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True])
async def test_a_batch_is_answered_in_order_whatever_fails(http: httpx.AsyncClient, parallel: bool) -> None:
    commands: list[dict[str, Any]] = [
        {"publish": {"channel": "log:1", "data": {"n": 1}}},
        {"publish": {"channel": "nowhere:1", "data": {}}},
        {"publish": {"channel": 5}},
        {"nothing": {}},
        {"batch": {"commands": []}},
        {},
        {"info": {}, "channels": {}},
        {"publish": {"channel": "log:1", "data": "\ud83d\ude00"}},
        {"broadcast": {"channels": ["log:2", "log:3"], "data": 1}},
        {"history": {"channel": "log:1", "limit": 10}},
        {"disconnect": {"user": "nobody"}},
    ]
    answer = await call(http, "batch", commands=commands, parallel=parallel)
    assert set(answer) == {"replies"}  # as upstream's clients read it
    replies = answer["replies"]
    answered = [next(iter(reply)) for reply in replies]
    assert answered == ["publish", *["error"] * 6, "publish", "broadcast", "history", "disconnect"]
    assert [reply["error"]["code"] for reply in replies if "error" in reply] == [102, 107, 104, 104, 107, 107]
    assert all(reply["error"]["message"] for reply in replies if "error" in reply)
    assert replies[0]["publish"]["offset"] == 1
    assert [len(response["result"]) for response in replies[8]["broadcast"]["responses"]] == [2, 2]
    assert replies[9]["history"]["offset"] == 2
    assert replies[10] == {"disconnect": {}}


@pytest.mark.parametrize("parallel", [False, True])
async def test_a_long_batch(http: httpx.AsyncClient, parallel: bool) -> None:
    commands = [{"publish": {"channel": "log:1", "data": n}} for n in range(500)]
    replies = (await call(http, "batch", commands=commands, parallel=parallel))["replies"]
    assert [reply["publish"]["offset"] for reply in replies] == list(range(1, 501))


async def test_what_breaks_inside_a_batch_is_an_error_of_that_command(
    server: Server, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    server.hub.node.handlers = Methods()
    commands = [{"rpc": {"method": "break"}}, {"rpc": {"method": "echo", "params": 1}}]
    replies = (await call(http, "batch", commands=commands))["replies"]
    assert replies[0]["error"]["code"] == 100
    assert replies[1] == {"rpc": {"data": 1}}
    assert "rpc in a batch failed" in caplog.text


# errors as HTTP statuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "request_body", "status", "code"),
    [
        ("publish", {}, 400, 107),
        ("publish", {"channel": "nowhere:1", "data": 1}, 404, 102),
        ("nothing", {}, 404, 104),
        ("presence", {"channel": "log:1"}, 400, 108),
        ("history", {"channel": "log:1", "limit": 1, "since": {"offset": 1, "epoch": "other"}}, 416, 112),
        ("rpc", {"method": "break"}, 500, 100),
        ("rpc", {"method": "away"}, 403, 103),
        ("rpc", {"method": "refuse"}, 400, 1234),
    ],
)
async def test_in_the_transport_mode_errors_have_a_status_and_are_the_body(
    server: Server, http: httpx.AsyncClient, operation: str, request_body: object, status: int, code: int
) -> None:
    server.hub.node.handlers = Methods()
    headers = {"X-Centrifugo-Error-Mode": "transport"}
    answer = await http.post(f"/api/{operation}", json=request_body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["code"] == code
    assert set(answer.json()) == {"code", "message"}
    fine = await http.post("/api/channels", headers=headers)
    assert (fine.status_code, fine.json()) == (200, {"result": {"channels": {}}})
