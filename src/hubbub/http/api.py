"""The server API over HTTP: `POST /api/<operation>` with JSON, as `cent` speaks it; `/health` and `/ready`.

Answers for: keys, decoding, sizes, and the shape of answers and errors. Refuses to know: what operations do (the
table in `core.operations`).

As upstream: a wrong or missing key is HTTP 401, undecodable JSON 400, and everything else is HTTP 200 with
`{"result": …}` or `{"error": {"code": …, "message": …}}`.
"""

from __future__ import annotations

import hmac
import logging

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from hubbub.core.node import Node
from hubbub.core.operations import OPERATIONS, Operation, error_body
from hubbub.errors import BadRequest, InternalError, MethodNotFound, ReplyError

log = logging.getLogger(__name__)


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
            Route("/api/{operation}", self._call, methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/ready", self._ready, methods=["GET"]),
        ]

    async def _health(self, request: Request) -> Response:
        """The process answers."""
        return JSONResponse({})

    async def _ready(self, request: Request) -> Response:
        """It should get traffic."""
        return JSONResponse({}, 200 if self._node.is_running else 503)

    async def _call(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal:
            return PlainTextResponse(refusal + "\n", 401)
        try:
            body = await _read(request, self._max_body)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        if body is None:
            return PlainTextResponse(f"the body is over the limit of {self._max_body} bytes\n", 413)
        operation = OPERATIONS.get(request.path_params["operation"])
        try:
            if operation is None:
                raise MethodNotFound
            result = await operation.run(self._node, _decode(operation, body))
        except _Undecodable as error:
            return PlainTextResponse(f"the body is not JSON: {error}\n", 400)
        except ReplyError as error:
            return _answer({"error": error_body(error)})
        except Exception:
            log.exception("operation %s failed", request.path_params["operation"])
            return _answer({"error": error_body(InternalError())})
        return _answer({"result": result})

    def _refusal(self, request: Request) -> str:
        """Why this request may not; empty if it may."""
        if not self._key:
            return "the HTTP API is closed: set api.key to open it"
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        given = request.headers.get("x-api-key") or (credentials if scheme.lower() == "apikey" else "")
        # Headers are bytes, which Starlette reads as Latin-1; a query is UTF-8.
        key = given.encode("latin-1") if given else request.query_params.get("api_key", "").encode()
        if hmac.compare_digest(key, self._key):
            return ""
        return "missing or wrong API key: send it as X-API-Key"


class _Undecodable(Exception):
    """The body is not JSON at all."""


def _decode(operation: Operation, body: bytes) -> msgspec.Struct:
    """The request. JSON of the wrong shape is a bad request (107) that names the field."""
    try:
        return msgspec.json.decode(body or b"{}", type=operation.request)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{operation.name}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Undecodable(error) from None


def _answer(body: dict[str, object]) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


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
