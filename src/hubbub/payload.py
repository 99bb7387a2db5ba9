"""The gate: what may enter a channel, from anybody.

Answers for: every payload that is kept or fanned out being one that cannot break the frames around it, neither now nor
from history: a JSON value is exactly one value, valid UTF-8, on one line, and at most 128 deep. Refuses to know: who
publishes and where it goes.

Why so strict: payloads are embedded, unparsed, in the frames of every subscriber. One raw newline would split a frame,
one unbalanced bracket would swallow it.
"""

from __future__ import annotations

import base64
import json
from itertools import accumulate
from typing import Any, Literal, NoReturn

import msgspec

from hubbub.errors import BadRequest

DataFormat = Literal["json", "text", "binary"]

#: Levels of arrays and objects. Far above what people send, far below what makes a recursive parser in a client fail.
MAX_DEPTH = 128

#: Tags of one publication, and their bytes.
MAX_TAGS, MAX_TAG_BYTES = 64, 4096

#: As numbers: looking for a byte is ten times as fast as looking for bytes.
_LF, _CR = b"\n\r"

_decode = msgspec.json.decode


def admit(data: bytes, format: DataFormat, max_bytes: int, is_json: bool = False) -> bytes:
    """The payload as it will be kept and sent.

    JSON comes back compacted to one line; text as the JSON string that carries it; binary as it came. `is_json`: a
    parser has read it already, as one value, and it is not read again. Raises BadRequest (107) with a text that names
    what is wrong.
    """
    size = len(data)
    if size > max_bytes:
        raise BadRequest(f"payload of {size} bytes is over the channel's max_bytes of {max_bytes}")
    if format == "json":
        if not is_json or not size:
            return json_value(data)
        if size <= MAX_DEPTH and _LF not in data and _CR not in data:
            return data  # as `_shaped`, of what most payloads are
        return _shaped(data)
    if format == "text":
        try:
            return msgspec.json.encode(str(data, "utf-8"))
        except UnicodeDecodeError:
            raise BadRequest("payload is not valid UTF-8, and this channel carries text") from None
    return data


def from_json(data: bytes, format: DataFormat) -> bytes:
    """What somebody who speaks JSON sent, as the bytes of this format: text is in a string there, and bytes in base64.

    Raises BadRequest (107).
    """
    if format == "json":
        return data
    value = decode(data) if data else None
    if not isinstance(value, str):
        raise BadRequest(f"payload is no string, and this channel carries {format}")
    if format == "text":
        return value.encode("utf-8", "surrogatepass")  # which the gate refuses
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise BadRequest("payload is not base64, in which JSON carries bytes") from None


def admit_tags(tags: dict[str, str]) -> None:
    """Tags travel beside the payload: text to text, MAX_TAGS of them, MAX_TAG_BYTES in all. Raises BadRequest."""
    if len(tags) > MAX_TAGS:
        raise BadRequest(f"{len(tags)} tags are over the limit of {MAX_TAGS}")
    try:
        size = sum(len(key.encode()) + len(value.encode()) for key, value in tags.items())
    except (AttributeError, UnicodeEncodeError):
        raise BadRequest("tags are text to text, and valid Unicode") from None
    if size > MAX_TAG_BYTES:
        raise BadRequest(f"tags of {size} bytes are over the limit of {MAX_TAG_BYTES}")


def json_value(data: bytes) -> bytes:
    """`data` if it is exactly one JSON value, without raw line breaks. Raises BadRequest (107)."""
    try:
        _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _read_leniently(data)
    return _shaped(data)


def _shaped(data: bytes) -> bytes:
    """A JSON value if it is not too deep, on one line."""
    if len(data) > MAX_DEPTH and data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise BadRequest(f"payload is nested deeper than {MAX_DEPTH} levels")
    if _LF in data or _CR in data:
        # Inside strings JSON forbids them raw, so what is left are separators between tokens, never the only one.
        return data.translate(None, b"\r\n")
    return data


def _read_leniently(data: bytes) -> None:
    """Second opinion on what the fast parser refuses though it is JSON: lone surrogate escapes, huge numbers."""
    if not data:
        raise BadRequest("payload is empty, and this channel carries JSON")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadRequest("payload is not valid UTF-8") from None
    if text.startswith("\ufeff"):
        raise BadRequest("payload begins with a byte order mark, which JSON forbids")
    if _depth(data) > MAX_DEPTH:
        raise BadRequest(f"payload is nested deeper than {MAX_DEPTH} levels")
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"payload is not one JSON value: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _depth(data: bytes) -> int:
    """Deepest nesting of brackets outside strings, by whole-buffer steps: an attacker chooses how often this runs.

    Looks at bytes: in UTF-8 no other character contains them. What is no JSON gets some number; others refuse it.
    """
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(data.split(b'"')[::2]).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, outside)), default=0)


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {0x5B: 1, 0x7B: 1, 0x5D: -1, 0x7D: -1}


def body(value: Any, format: DataFormat) -> bytes:
    """A Python value as what is published in a channel of this format. Raises BadRequest for what it cannot be."""
    if format == "json":
        if isinstance(value, bytes | bytearray | memoryview):
            raise BadRequest("payload is bytes, and this channel carries json: decode it, or set its data = 'binary'")
        return encode(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")  # which the gate refuses
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    wanted = "str" if format == "text" else "bytes"
    raise BadRequest(f"payload is {type(value).__name__}, and this channel carries {format}: give {wanted}")


def encode(value: Any) -> bytes:
    """A Python value as a JSON payload. Raises BadRequest naming what cannot be written."""
    try:
        data = msgspec.json.encode(value, enc_hook=_foreign)
        if b"null" in data:  # which is also what becomes of NaN and the infinities
            _refuse_nan(value)
        return data
    except UnicodeEncodeError:
        return json.dumps(_plain(value), allow_nan=False, separators=(",", ":")).encode()  # lone surrogates, as escapes
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"payload cannot be written as JSON: {error}") from None


def _refuse_nan(value: Any) -> None:
    try:
        json.dumps(_plain(value), allow_nan=False)
    except ValueError:
        raise BadRequest("payload cannot be written as JSON: it holds NaN or an infinity; give None") from None


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=_foreign)


def _foreign(value: Any) -> Any:
    """What msgspec does not know, and says itself what it is: a pydantic model."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(
        f"objects of type {type(value).__qualname__} have no place there;"
        " give text, numbers, lists, dicts, dataclasses, structs or models"
    )


def decode(data: bytes) -> Any:
    """A JSON payload as a Python value. What the gate admitted decodes, with lone surrogates and huge numbers."""
    try:
        return _decode(data)
    except msgspec.DecodeError:
        return json.loads(data, parse_int=_integer)


def _integer(digits: str) -> int | float:
    """An integer beyond what Python converts is a number all the same."""
    return int(digits) if len(digits) < 4000 else float(digits)
