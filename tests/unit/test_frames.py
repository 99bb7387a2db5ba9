"""Frames as a server writes them: bytes against an independent reader, and what a goodbye can carry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.streams import StreamReader

from hubbub.protocol.frames import BINARY, TEXT, binary_frame, text_frame
from hubbub.transports.asgi import TextOrBytes
from hubbub.transports.endpoint import MAX_REASON, goodbye, is_close_code
from hubbub.transports.websocket import Frames


def parsed(data: bytes) -> list[Frame]:
    """As `websockets` reads it, on a client's side."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    frames: list[Frame] = []
    while True:
        try:
            parser = Frame.parse(reader.read_exact, mask=False)
            next(parser)
        except StopIteration as done:
            frames.append(done.value)
        except EOFError:
            return frames


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize(("first_byte", "opcode"), [(TEXT, 1), (BINARY, 2)])
def test_a_frame_is_whole_unmasked_and_in_the_shortest_form(size: int, first_byte: int, opcode: int) -> None:
    payload = b"x" * size
    frame = text_frame if first_byte == TEXT else binary_frame
    (read,) = parsed(frame(payload))
    assert (read.fin, int(read.opcode), bytes(read.data)) == (True, opcode, payload)
    assert frame(payload) == Frame(read.opcode, payload).serialize(mask=False)


@given(st.lists(st.binary(max_size=200)))
def test_joined_frames_are_read_one_by_one(payloads: list[bytes]) -> None:
    joined = Frames().join([Frames().framer(binary=True)(payload) for payload in payloads])
    assert [bytes(read.data) for read in parsed(joined)] == payloads


def test_asgi_wants_text_for_text() -> None:
    assert TextOrBytes().framer(binary=False)("ü".encode()) == "ü"
    assert TextOrBytes().framer(binary=True)(b"\xff") == b"\xff"


@given(st.integers(), st.text())
def test_every_goodbye_fits_a_close_frame(code: int, reason: str) -> None:
    told, text = goodbye(code, reason)
    assert is_close_code(told)
    assert told == code or not is_close_code(code)
    assert len(text.encode()) <= MAX_REASON
    assert reason.encode(errors="replace").decode().startswith(text)


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1014, 3000, 3999, 4000, 4999])
def test_codes_that_exist(code: int) -> None:
    assert is_close_code(code)


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1100, 2999, 5000, 65535, 70000])
def test_codes_that_do_not(code: int) -> None:
    assert not is_close_code(code)
