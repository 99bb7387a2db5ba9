"""The gate: what it lets in, what it refuses, and that its work is linear. The laws are in property/test_payload."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from hubbub.errors import BadRequest
from hubbub.payload import MAX_DEPTH, admit, decode, encode, json_value

MANY = 1 << 30


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (b"{}", b"{}"),
        (b"null", b"null"),
        (b"0", b"0"),
        (b"-0.0e-10", b"-0.0e-10"),
        (b'"text"', b'"text"'),
        (b' [ 1 , { "a" : [ ] } ] ', b' [ 1 , { "a" : [ ] } ] '),
        (b'{\r\n  "a": 1\r\n}\n', b'{  "a": 1}'),
        (b"\n1\r", b"1"),
        (b"[1,\n2]", b"[1,2]"),
        (b'["a\\nb\\r"]\n', b'["a\\nb\\r"]'),
        ('"é \U0001f600 \u2028"'.encode(), '"é \U0001f600 \u2028"'.encode()),
        (b'"\\u0000\\ud83d\\ude00"', b'"\\u0000\\ud83d\\ude00"'),
        (b'"\x7f"', b'"\x7f"'),
        # What the fast parser refuses though it is JSON, and browsers send it.
        (b'"\\ud83d"', b'"\\ud83d"'),
        (b'"\\ude00\\ud83d"', b'"\\ude00\\ud83d"'),
        (b'{"\\ud83d":"\\uD83D\\uD83D"}\n', b'{"\\ud83d":"\\uD83D\\uD83D"}'),
        (b"1e400", b"1e400"),
        (b"[-1e400]", b"[-1e400]"),
        (b"9" * 5000, b"9" * 5000),
        (b"0." + b"9" * 5000 + b"e-99999", b"0." + b"9" * 5000 + b"e-99999"),
        (b'{"a":1,"a":2}', b'{"a":1,"a":2}'),  # JSON leaves the meaning of this to the reader
    ],
)
def test_json_that_is_let_in(data: bytes, kept: bytes) -> None:
    assert admit(data, "json", MANY) == kept
    assert admit(kept, "json", MANY) == kept


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "payload is empty, and this channel carries JSON"),
        (b" ", "not one JSON value"),
        (b"\n", "not one JSON value"),
        (b"\xff", "not valid UTF-8"),
        (b'"\xff"', "not valid UTF-8"),
        (b'{"\xff":1}', "not valid UTF-8"),
        (b'"\xed\xa0\xbd"', "not valid UTF-8"),  # a lone surrogate as bytes
        (b'"\xc0\x80"', "not valid UTF-8"),  # NUL, overlong
        (b'"\xf4\x90\x80\x80"', "not valid UTF-8"),  # beyond Unicode
        (b'"\xe2\x82"', "not valid UTF-8"),
        (b'["\\ud83d","\xff"]', "not valid UTF-8"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
        ("{}".encode("utf-16"), "not valid UTF-8"),
        ("{}".encode("utf-16-le"), "not one JSON value"),
        ("{}".encode("utf-32-be"), "not one JSON value"),
        (b"\0", "not one JSON value"),
        (b"1\0", "not one JSON value"),
        (b'"\0"', "not one JSON value"),
        (b'"\n"', "not one JSON value"),
        (b'"\r"', "not one JSON value"),
        (b'"\t"', "not one JSON value"),
        (b'"\\\n"', "not one JSON value"),
        (b'"\\ud83d\n"', "not one JSON value"),
        (b'"\\u00g0"', "not one JSON value"),
        (b'"\\x41"', "not one JSON value"),
        (b"'a'", "not one JSON value"),
        (b'"a', "not one JSON value"),
        (b"1\n2", "not one JSON value"),
        (b"1\r.5", "not one JSON value"),
        (b"tr\nue", "not one JSON value"),
        (b"-\n1", "not one JSON value"),
        (b"1 2", "not one JSON value"),
        (b"{}{}", "not one JSON value"),
        (b"{}\n{}", "not one JSON value"),
        (b"{}]", "not one JSON value"),
        (b"1}}", "not one JSON value"),
        (b'1},"offset":5,"x":{"y":1', "not one JSON value"),
        (b'1}}\n{"push":{}}', "not one JSON value"),
        (b'"\\ud83d"}}\n{"push":{}}', "not one JSON value"),
        (b'1e400}}\n{"push":{}}', "not one JSON value"),
        (b"[1,]", "not one JSON value"),
        (b"[,1]", "not one JSON value"),
        (b'{"a"}', "not one JSON value"),
        (b"{1:2}", "not one JSON value"),
        (b"[1}", "not one JSON value"),
        (b"[", "not one JSON value"),
        (b"01", "not one JSON value"),
        (b"1.", "not one JSON value"),
        (b".5", "not one JSON value"),
        (b"+1", "not one JSON value"),
        (b"0x10", "not one JSON value"),
        (b"1e", "not one JSON value"),
        ("١".encode(), "not one JSON value"),
        (b"NaN", "NaN is not JSON"),
        (b"[Infinity]", "Infinity is not JSON"),
        (b"-Infinity", "-Infinity is not JSON"),
        (b"undefined", "not one JSON value"),
        (b"True", "not one JSON value"),
        (b"/**/1", "not one JSON value"),
        (b"\xc2\xa01", "not one JSON value"),
        (b"\x0b1", "not one JSON value"),
        (b"\x0c1", "not one JSON value"),
    ],
)
def test_json_that_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(BadRequest, match=text) as caught:
        admit(data, "json", MANY)
    assert caught.value.wire_code == 107


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]", inner: bytes = b"") -> bytes:
    return opening * depth + inner + closing * depth


@pytest.mark.parametrize("inner", [b"1", b'"\\ud83d"', b"1e400", b'"]"', b'"\\"]]"', b'"\\\\"', b'"[[[["'])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b"[\n", b"\r]")])
def test_the_limit_of_nesting(opening: bytes, closing: bytes, inner: bytes) -> None:
    assert json_value(nested(MAX_DEPTH, opening, closing, inner))
    with pytest.raises(BadRequest, match="nested deeper than 128 levels"):
        json_value(nested(MAX_DEPTH + 1, opening, closing, inner))


@pytest.mark.parametrize(
    "data",
    [
        b"[" + b",".join([b"[]"] * 1000) + b"]",
        b"[" + b",".join([b'{"[{[{":"[{[{"}'] * 1000) + b"]",
        json.dumps("[" * 1000).encode(),
        json.dumps('\\"[' * 1000).encode(),
        json.dumps({'{"' * 100: "[\\" * 100}).encode(),
        nested(127, inner=b"[],[],[]"),
    ],
)
def test_many_brackets_are_not_deep(data: bytes) -> None:
    assert json_value(data) == data


@pytest.mark.parametrize("depth", [200, 900, 1100, 5_000, 100_000])
@pytest.mark.parametrize("tail", [b"", b"x", b"]"])
def test_no_depth_reaches_the_stack(depth: int, tail: bytes) -> None:
    for data in (nested(depth), b"[" * depth, nested(depth, b'{"a":', b"}", b"1")):
        with pytest.raises(BadRequest):
            json_value(data + tail)


def test_a_duplicate_key_does_not_hide_depth() -> None:
    with pytest.raises(BadRequest, match="nested deeper"):
        json_value(b'{"a":' + nested(MAX_DEPTH) + b',"a":1}')


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Generous: what is not linear takes minutes here, not seconds."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@pytest.mark.parametrize(
    ("data", "accepted"),
    [
        (b"1" * 10_000_000, True),
        (b"0." + b"1" * 10_000_000, True),
        (b"1e" + b"1" * 10_000_000, True),
        (b"1" * 10_000_000 + b"x", False),
        (b"-" * 10_000_000, False),
        (b'"' + b"\\ud83d" * 500_000 + b'"', True),
        (b'"' + b"\\" * 3_000_001 + b'"', False),
        (b'"\\ud83d' * 500_000, False),
        (b'"' * 3_000_000, False),
        (b"[" * 1_000_000, False),
        (b"[],[]," * 500_000, False),
        (b"\n" * 3_000_000 + b"1", True),
        (b" " * 3_000_000, False),
    ],
    ids=range(13),
)
def test_the_work_is_linear(data: bytes, accepted: bool) -> None:
    with within(10):
        if accepted:
            json_value(data)
            return
        with pytest.raises(BadRequest) as caught:
            json_value(data)
        assert len(str(caught.value)) < 200


def test_size_is_judged_first_and_before_anything_is_parsed() -> None:
    for format in ("json", "text", "binary"):
        assert admit(b"1234", format, 4)
        with pytest.raises(BadRequest, match="payload of 5 bytes is over the channel's max_bytes of 4"):
            admit(b"\xff[[[[", format, 4)


@pytest.mark.parametrize("text", ["", "hi", 'say "hi"\r\n', "é\U0001f600", "\0\x1f\x7f", "[{]}", "\\", "\ufeff"])
def test_text_travels_as_a_json_string_on_one_line(text: str) -> None:
    kept = admit(text.encode(), "text", MANY)
    assert json.loads(kept) == text
    assert b"\n" not in kept
    assert b"\r" not in kept


@pytest.mark.parametrize("data", [b"\xff", b"a\xed\xa0\xbd", b"\xc0\x80"])
def test_text_must_be_utf8(data: bytes) -> None:
    with pytest.raises(BadRequest, match="not valid UTF-8, and this channel carries text"):
        admit(data, "text", MANY)


@pytest.mark.parametrize("data", [b"", b"\0\xff\n", b"]}"])
def test_binary_comes_as_it_is(data: bytes) -> None:
    assert admit(data, "binary", MANY) is data


# Encoding ---------------------------------------------------------------------------------------------------


class Note(msgspec.Struct):
    text: str


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"null"),
        ({"text": "hi", "n": [1, 2.5, True]}, b'{"text":"hi","n":[1,2.5,true]}'),
        ("a\nb", b'"a\\nb"'),
        (Note("hi"), b'{"text":"hi"}'),
        (2**80, str(2**80).encode()),
        ((1, 2), b"[1,2]"),
        ({1: 2}, b'{"1":2}'),
    ],
)
def test_values_are_encoded(value: Any, data: bytes) -> None:
    assert encode(value) == data


def circle() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "objects of type object"),
        ({"a": [1j]}, "objects of type complex"),
        ({None: 1}, "objects of type NoneType"),
        (circle(), "recursion"),
    ],
)
def test_values_that_cannot_be_written(value: Any, text: str) -> None:
    with pytest.raises(BadRequest, match=f"payload cannot be written as JSON: .*{text}"):
        encode(value)


# Decoding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":[1,2.5,null,true]}', {"a": [1, 2.5, None, True]}),
        (b'["\\ud83d"]', ["\ud83d"]),
        (b"[1e400]", [float("inf")]),
        (b"9" * 3999, 10**3999 - 1),
        (b"9" * 5000, float("inf")),
        (b"0." + b"1" * 5000, 1 / 9),
        (b'{"a":"\\ud83d","n":' + b"9" * 5000 + b"}", {"a": "\ud83d", "n": float("inf")}),
    ],
    ids=range(7),
)
def test_what_was_admitted_can_be_read(data: bytes, value: object) -> None:
    assert decode(json_value(data)) == value
