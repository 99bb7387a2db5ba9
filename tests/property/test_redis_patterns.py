"""What the server is asked to match is at least what our globs match: the rest is matched here."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from hubbub.brokers.globs import matcher
from hubbub.brokers.redis import _coarse, _literally

texts = st.text("ab:.*?[]!^-\\é☃", max_size=12)


def matches_in_redis(pattern: str, text: str) -> bool:
    """As `stringmatchlen` does, for patterns without sets: `?` is one byte, `\\` quotes."""
    pieces = re.findall(rb"\\.|.", pattern.encode(), re.DOTALL)
    wild = {b"*": b".*", b"?": b"."}
    expression = b"".join(wild.get(piece) or re.escape(piece[-1:]) for piece in pieces)
    return re.fullmatch(expression, text.encode(), re.DOTALL) is not None


@given(texts, texts)
@example("[!x]", "é")
@example("r?om:[a-c]", "r☃om:a")
@example("[]a]b", "]b")
@example("[!]a]", "b")
@example("[a", "[a")
@example("a\\", "a\\")
def test_what_a_glob_matches_the_server_sends(pattern: str, text: str) -> None:
    assert not re.search(r"(?<!\\)(?:\\\\)*\[", _coarse(pattern))  # no sets
    if matcher(pattern)(text):
        assert matches_in_redis(_coarse(pattern), text)


@given(st.text("ab:?*", max_size=8), st.text("ab:", max_size=8), st.text("ab:☃", max_size=4))
def test_what_a_glob_made_of_the_text_matches_the_server_sends(pattern: str, one: str, two: str) -> None:
    text = pattern.replace("*", one).replace("?", two[:1] or "a")
    assert matcher(pattern)(text)
    assert matches_in_redis(_coarse(pattern), text)


@given(texts, texts)
def test_a_prefix_matches_itself_alone(prefix: str, text: str) -> None:
    assert matches_in_redis(_literally(prefix), text) is (prefix == text)


def test_what_the_server_can_tell_by_itself_it_does() -> None:
    assert [_coarse(glob) for glob in ("orders.*", "a?b", "a[xy]", "**", "[a", "*?*[!b]")] == [
        *("orders.*", "a?*b", "a?*", "*", "\\[a", "??*")
    ]
