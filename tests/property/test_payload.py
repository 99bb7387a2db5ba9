"""The laws of the gate: whatever comes, what goes on is one JSON value on one line, and the one that came."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from hypothesis import example, given
from hypothesis import strategies as st

from hubbub.errors import BadRequest
from hubbub.payload import MAX_DEPTH, admit, decode, encode

# An independent reading -------------------------------------------------------------------------------------


def refuse(name: str) -> NoReturn:
    raise ValueError(name)


def reading(data: bytes) -> Any:
    """What the standard library reads, exactly: numbers as they are written, and objects with all of their pairs."""
    text = data.decode("utf-8")
    return json.loads(
        text, parse_int=str, parse_float=str, parse_constant=refuse, object_pairs_hook=lambda pairs: (pairs,)
    )


def depth(value: Any) -> int:
    """Of a reading: lists are arrays, tuples of one are objects."""
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, tuple):
        return 1 + max((depth(inner) for _, inner in value[0]), default=0)
    return 0


def is_admissible(data: bytes) -> bool:
    try:
        return depth(reading(data)) <= MAX_DEPTH
    except (ValueError, RecursionError):
        return False


def check(data: bytes) -> None:
    """The law. Refused is what the independent reading refuses; what is let in can break no frame."""
    try:
        kept = admit(data, "json", len(data))
    except BadRequest:
        assert not is_admissible(data)
        return
    assert is_admissible(data)
    kept.decode("utf-8")
    assert b"\n" not in kept
    assert b"\r" not in kept
    assert reading(kept) == reading(data)
    assert admit(kept, "json", len(kept)) == kept
    assert repr(decode(kept)) == repr(json.loads(data))
    frame = b'{"push":{"channel":"x","pub":{"data":' + kept + b',"offset":7}}}'
    push = reading(frame)[0][0][1][0]
    assert [name for name, _ in push] == ["channel", "pub"]
    assert push[1][1][0] == [("data", reading(data)), ("offset", "7")]


# What comes -------------------------------------------------------------------------------------------------

TOKENS = [
    *("[", "]", "{", "}", ",", ":", '"', "\\", " ", "\n", "\r", "\t", "\0", "\x0b", "\x7f", "\ufeff", "\u2028", "/"),
    *("0", "1", "-", "+", ".", "e", "E", "null", "true", "false", "NaN", "Infinity", "é", "\U0001f600"),
    *('"a"', '""', '"a":', "1e400", "01", "[]", "{}", "\\n", "\\ud83d", "\\ude00", "\\u0000", '"\\ud83d"', '\\"'),
]
json_texts = st.lists(st.sampled_from(TOKENS), max_size=20).map(lambda parts: "".join(parts).encode())
broken_utf8 = st.lists(
    st.sampled_from([b'"', b"a", b"\xc3", b"\xa9", b"\xed\xa0\xbd", b"\xf0\x9f\x98\x80", b"\xff", b"\\ud83d", b","]),
    max_size=12,
).map(b"".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)
separators = st.sampled_from([(",", ":"), (", ", ": "), ("\r\n,", "\n:\t")])


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    check(data)


@given(json_texts)
@example(b'"\\ud83d"\n')
@example(b"1\n2")
@example(b'{"a":1,"a":[]}')
@example(b"1e400}")
def test_anything_that_looks_like_json(data: bytes) -> None:
    check(data)


@given(broken_utf8)
@example(b'"\xff"')
@example(b'"\\ud83d\xff"')
def test_anything_that_looks_like_utf8(data: bytes) -> None:
    check(data)
    check(b'["' + data + b'"]')


@given(values, separators, st.booleans(), st.sampled_from([None, 0, 2]))
def test_any_json_value(value: Any, separators: tuple[str, str], ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, separators=separators, ensure_ascii=ascii, indent=indent)
    check(text.encode("utf-8", "surrogatepass"))


@given(values, st.data())
def test_any_json_value_after_an_accident(value: Any, data: st.DataObject) -> None:
    text = bytearray(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    at = data.draw(st.integers(0, len(text)))
    text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2) | json_texts)
    check(bytes(text))


@given(
    st.lists(st.sampled_from(["[", '{"a":', '{"]\\"}":']), min_size=120, max_size=135),
    st.sampled_from(["1", '"\\ud83d"', "1e400", '"[[[["', "[],[]", "[],{}", ""]),
)
def test_anything_near_the_limit_of_nesting(openings: list[str], inner: str) -> None:
    closings = ["]" if opening == "[" else "}" for opening in reversed(openings)]
    check("".join([*openings, inner, *closings]).encode())


@given(st.sampled_from(["[", '{"a":', '"']), st.integers(0, 3000), st.binary(max_size=3))
def test_any_depth_that_does_not_end_well(opening: str, count: int, tail: bytes) -> None:
    check(opening.encode() * count + tail)


@given(st.text(st.characters(codec=None)).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary())
def test_any_text(data: bytes) -> None:
    try:
        kept = admit(data, "text", len(data))
    except BadRequest:
        assert data.decode("utf-8", "replace").encode() != data
        return
    assert json.loads(kept) == data.decode("utf-8")
    check(kept)


@given(values)
def test_what_is_encoded_passes_the_gate(value: Any) -> None:
    try:
        data = encode(value)
    except BadRequest:
        return
    assert admit(data, "json", len(data)) == data
