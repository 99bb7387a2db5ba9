"""The OpenAPI description, and a served API that is asked everything that it allows, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.serving import Served

from hubbub import Hubbub
from hubbub.core.operations import OPERATIONS

KEY = "secret"

CONFIG = f"""
[api]
key = "{KEY}"

[auth]
anonymous = true

[channels.default]
delivery = "recent"
presence = true
"""

#: What every answer must be. That a bad request is refused with a status is not among it: it is HTTP 200 and an error.
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(CONFIG, tmp_path_factory.mktemp("openapi")) as server:
        yield server
        assert "Traceback" not in server.output, server.output


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        opened.trust_env = False
        opened.headers["X-API-Key"] = KEY
        yield opened


@pytest.fixture(scope="module")
def schema(served: Served, session: requests.Session) -> Any:
    """The description, as a tool fetches it: without a key."""
    found = requests.Session()
    found.trust_env = False
    with found:
        answer = found.get(f"{served.api_url}/openapi.json", timeout=10)
    assert answer.headers["content-type"] == "application/json"
    loaded = schemathesis.openapi.from_dict(answer.json())
    loaded.config.update(base_url=served.http_url)
    return loaded


@pytest.mark.timeout(180)  # making up requests is slow, and machines are loaded
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_answer_is_as_described(
    schema: Any, session: requests.Session, name: str, mode: schemathesis.GenerationMode
) -> None:
    operation = schema[f"/api/{name}"]["POST"]

    # Loops are bounded by examples, not by time; what is generated is the same for every run.
    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        answer = case.call(session=session)
        case.validate_response(answer, checks=CHECKS)

    ask()


#: A request for each operation that succeeds, so that every result is looked at.
FINE: dict[str, Any] = {
    "publish": {"channel": "news", "data": {"n": 1}, "tags": {"a": "b"}},
    "broadcast": {"channels": ["news", "nowhere:1"], "data": 1},
    "history": {"channel": "news", "limit": 10},
    "history_remove": {"channel": "other"},
    "presence": {"channel": "news"},
    "presence_stats": {"channel": "news"},
    "channels": {},
    "info": {},
    "disconnect": {"user": "nobody"},
    "subscribe": {"user": "nobody", "channel": "news"},
    "unsubscribe": {"user": "nobody"},
    "refresh": {"user": "nobody"},
    "rpc": {"method": "nothing"},
    "batch": {"commands": [{"info": {}}, {"nothing": {}}]},
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_are_as_described(schema: Any, session: requests.Session, name: str) -> None:
    if name in ("history", "presence"):
        schema["/api/publish"]["POST"].Case(body=FINE["publish"], media_type="application/json").call(session=session)
    case = schema[f"/api/{name}"]["POST"].Case(body=FINE[name], media_type="application/json")
    answer = case.call(session=session)
    assert set(answer.json()) == {{"rpc": "error", "batch": "replies"}.get(name, "result")}
    case.validate_response(answer, checks=CHECKS)


def test_it_names_every_operation_and_what_it_does(schema: Any) -> None:
    paths = schema.raw_schema["paths"]
    assert set(paths) == {f"/api/{name}" for name in OPERATIONS} | {"/api/tail"}
    for path, item in paths.items():
        for operation in item.values():
            assert operation["summary"].endswith("."), path
            assert "401" in operation["responses"]
    assert schema.raw_schema["security"] == [{"key": []}]
    assert schema.raw_schema["openapi"].startswith("3.1")


async def test_where_the_api_is_closed_nothing_is_described() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(Hubbub().asgi()), base_url="http://hub") as http:
        answer = await http.get("/api/openapi.json")
    assert answer.status_code == 401
    assert "api.key" in answer.text
