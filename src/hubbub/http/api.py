"""The server API over HTTP: `POST /api/<operation>` with JSON, as `cent` speaks it; `/api/tail`, which goes on; the
description of all that; `/health` and `/ready`.

Answers for: keys, decoding, sizes, and the shape of answers and errors. Refuses to know: what operations do (the
table in `core.operations`), and what a tail tells.

As upstream: a wrong or missing key is HTTP 401, undecodable JSON 400, and everything else is HTTP 200 with
`{"result": …}` or `{"error": {"code": …, "message": …}}`. With the header `X-Centrifugo-Error-Mode: transport` an error
has an HTTP status of its own, and is the whole body.
"""

from __future__ import annotations

import hmac
import logging
from functools import cache
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from hubbub.core.node import NOT_STARTED, Node
from hubbub.core.operations import OPERATIONS, error_body
from hubbub.errors import BadRequest, MethodNotFound
from hubbub.http.openapi import STATUS, document
from hubbub.http.tail import Tail, TailRequest, asked_by

S = TypeVar("S", bound=msgspec.Struct)

log = logging.getLogger(__name__)


#: What is said where no key is set.
CLOSED = "the HTTP API is closed: set api.key to open it"


class Api:
    """The routes of one node. With an empty `key` the API is closed. `max_body` in bytes."""

    def __init__(self, node: Node, key: str, *, max_body: int) -> None:
        self._node = node
        self._key = key.encode()
        self._max_body = max_body

    @property
    def routes(self) -> list[Route]:
        """For an ASGI router."""
        return [
            Route("/api/openapi.json", self._describe, methods=["GET"]),
            Route("/api/tail", self._tail, methods=["GET", "POST"]),
            Route("/api/{operation}", self._call, methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/ready", self._ready, methods=["GET"]),
        ]

    async def _health(self, request: Request) -> Response:
        """The process answers."""
        return JSONResponse({})

    async def _ready(self, request: Request) -> Response:
        """It should get traffic."""
        return JSONResponse({}, 200 if self._node.is_ready else 503)

    async def _describe(self, request: Request) -> Response:
        """Open where the API is: it is the same for every server of this version, and tools fetch it without a key.

        Where the API is closed there is nothing to describe.
        """
        if not self._key:
            return PlainTextResponse(CLOSED + "\n", 401)
        return Response(_description(), media_type="application/json")

    async def _call(self, request: Request) -> Response:
        body = await self._body(request)
        if isinstance(body, Response):
            return body
        name = request.path_params["operation"]
        operation = OPERATIONS.get(name)
        try:
            if operation is None:
                raise MethodNotFound(f"method not found: there is no operation {name!r}")
            result = await operation.run(self._node, _decode(operation.name, body, operation.request))
        except Exception as error:
            return self._failure(request, error, f"operation {name}")
        return _answer(result if operation.is_bare else {"result": result})

    async def _tail(self, request: Request) -> Response:
        body = await self._body(request)
        if isinstance(body, Response):
            return body
        try:
            if request.method == "POST":
                asked = _decode("tail", body, TailRequest)
            else:
                asked = asked_by(request.query_params)
            tail = Tail(self._node, asked)
            await tail.open()
        except Exception as error:
            return self._failure(request, error, "tail")
        return tail.response(only_head=request.method == "HEAD")

    def _failure(self, request: Request, error: Exception, what: str) -> Response:
        """Why it was not done."""
        if isinstance(error, _Undecodable):
            return PlainTextResponse(f"the body is not JSON: {error}\n", 400)
        answer = self._node.failures.answer(error, what)
        body = error_body(answer)
        if request.headers.get("x-centrifugo-error-mode") == "transport":
            return _answer(body, STATUS.get(answer.wire_code, 400))
        return _answer({"error": body})

    async def _body(self, request: Request) -> bytes | Response:
        """What was sent, or why it is not looked at."""
        refusal = self._refusal(request)
        if refusal:
            return PlainTextResponse(refusal + "\n", 401)
        if not self._node.is_running:  # a publication would be taken, and nobody would hear it
            return PlainTextResponse(NOT_STARTED + "\n", 503)
        try:
            body = await _read(request, self._max_body)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        if body is None:
            return PlainTextResponse(f"the body is over the limit of {self._max_body} bytes\n", 413)
        return body

    def _refusal(self, request: Request) -> str:
        """Why this request may not; empty if it may."""
        if not self._key:
            return CLOSED
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        given = request.headers.get("x-api-key") or (credentials if scheme.lower() == "apikey" else "")
        # Headers are bytes, which Starlette reads as Latin-1; a query is UTF-8.
        key = given.encode("latin-1") if given else request.query_params.get("api_key", "").encode()
        if hmac.compare_digest(key, self._key):
            return ""
        return "missing or wrong API key: send it as X-API-Key"


class _Undecodable(Exception):
    """The body is not JSON at all."""


def _decode(name: str, body: bytes, shape: type[S]) -> S:
    """The request. JSON of the wrong shape is a bad request (107) that names the field."""
    try:
        return msgspec.json.decode(body or b"{}", type=shape)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{name}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Undecodable(error) from None


def _answer(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


@cache
def _description() -> bytes:
    return msgspec.json.encode(document())


async def _read(request: Request, limit: int) -> bytes | None:
    """The body, or None if it is over the limit: never more than that is held."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
