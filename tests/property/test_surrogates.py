"""Masking lone surrogates: nothing is changed on the way through, and nothing but they is masked."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.errors import ProtocolError
from hubbub.protocol.codec import JsonCodec
from hubbub.protocol.surrogates import mask, unmask

#: Text of what matters here: escapes, halves of pairs, whole pairs, and the masks themselves.
PIECES = st.sampled_from(
    [
        "a",
        r"\\",
        r"\"",
        r"\n",
        r"\ud83d",
        r"\ude00",
        r"\ud83d\ude00",
        r"\u00e9",
        r"\ue03d",
        r"\uf03d",
        "ud83d",
        "ue03d",
        r"\/",
    ]
)


@given(st.lists(PIECES).map("".join))
def test_unmask_takes_off_what_mask_put_on(text: str) -> None:
    masked = mask(text.encode())
    if masked is not None:
        assert unmask(*masked) == text.encode()


@given(st.lists(PIECES).map("".join))
def test_payloads_with_halves_of_pairs_arrive_as_they_were_sent(text: str) -> None:
    payload = f'"{text}"'
    try:
        (command,) = JsonCodec().decode(b'{"id":1,"publish":{"channel":"c","data":%b}}' % payload.encode())
    except ProtocolError:
        # Both masks are used by the text itself: the one kind of JSON that is refused though it is some.
        assert "ue03d" in payload
        assert "uf03d" in payload
        return
    assert command.publish is not None
    assert json.loads(bytes(command.publish.data)) == json.loads(payload)  # type: ignore[arg-type]  # it is there


@pytest.mark.parametrize("text", [b'"plain"', rb'"\ud83d\ude00"', rb'"\\ud83d"', rb'"\u00e9"'])
def test_text_without_halves_is_left_alone(text: bytes) -> None:
    assert mask(text) is None
