"""What the HTTP API can do, for machines: an OpenAPI 3.1 description made from the table of operations.

Answers for: the document. Refuses to know: what operations do, and how they are called.

It says the same of every server of this version: nothing in it depends on channels, keys or clients.
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
from msgspec import Struct

from hubbub.core import shapes
from hubbub.core.operations import OPERATIONS, Operation
from hubbub.version import VERSION

_REF = "#/components/schemas/{name}"

#: HTTP status of an error's code in the transport error mode: upstream's, and the nearest one for codes that upstream
#: does not map. All others are the application's own, and 400.
STATUS = {100: 500, 101: 401, 102: 404, 103: 403, 104: 404, 106: 429, 107: 400, 108: 400, 111: 429, 112: 416}

_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_NOT_STARTED = {"description": "The hub is not started", "content": _TEXT}
_ERROR_MODE = {
    "name": "X-Centrifugo-Error-Mode",
    "in": "header",
    "description": "transport: errors have an HTTP status of their own, and the error is the whole body",
    "schema": {"type": "string", "enum": ["transport"]},
}


def document() -> dict[str, Any]:
    """The description, as JSON can hold it."""
    rows = list(OPERATIONS.values())
    types: list[type[Struct]] = [shapes.Error, shapes.KeptPublication]
    types += [each for row in rows for each in (row.request, row.result)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    refs = dict(zip(types, schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hubbub: the server API",
            "version": VERSION,
            "description": "What back ends may ask of a server. Errors are HTTP 200 with `error`, unless the "
            "header X-Centrifugo-Error-Mode asks otherwise.",
        },
        "security": [{"key": []}],
        "paths": {
            **{f"/api/{row.name}": {"post": _operation(row, refs)} for row in rows},
            "/api/tail": {"get": _tail()},
        },
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the setting api.key"}
            },
        },
    }


def _operation(row: Operation, refs: dict[type[Struct], dict[str, Any]]) -> dict[str, Any]:
    error = refs[shapes.Error]
    result = refs[row.result] if row.is_bare else _only("result", refs[row.result])
    answers: dict[str, Any] = {
        "200": _answer("Done, or an error", {"anyOf": [result, _only("error", error)]}),
        "400": _answer("The body is not JSON; in the transport error mode an error, too", error, also=_TEXT),
        "401": _answer("The key is missing or wrong, or the API is closed", error, also=_TEXT),
        "413": {"description": "The body is too long", "content": _TEXT},
        "503": _NOT_STARTED,
    }
    for status in sorted({status for status in STATUS.values() if str(status) not in answers}):
        answers[str(status)] = _answer("An error, in the transport error mode", error)
    return {
        "operationId": row.name,
        "summary": row.summary,
        "description": inspect.getdoc(row.request) or "",
        "parameters": [_ERROR_MODE],
        "requestBody": {"content": {"application/json": {"schema": refs[row.request]}}},
        "responses": answers,
    }


def _tail() -> dict[str, Any]:
    names = {"type": "array", "items": {"type": "string"}}
    return {
        "operationId": "tail",
        "summary": "Listen: publications as they happen, one JSON object a line, without end.",
        "parameters": [
            {"name": "channel", "in": "query", "description": "its name; may be given again", "schema": names},
            {"name": "pattern", "in": "query", "description": "a glob; may be given again", "schema": names},
            {
                "name": "history",
                "in": "query",
                "description": "start with the last so many publications of each channel that keeps them",
                "schema": {"type": "integer", "minimum": 0, "maximum": 300},
            },
        ],
        "responses": {
            "200": {"description": "Lines", "content": {"application/x-ndjson": {"schema": {"type": "string"}}}},
            "401": {"description": "The key is missing or wrong, or the API is closed", "content": _TEXT},
            "503": _NOT_STARTED,
        },
    }


def _only(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}


def _answer(description: str, schema: dict[str, Any], *, also: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}, **(also or {})}}
