"""Frames between nodes come back as they were, and whatever else arrives is read or refused, never worse."""

from __future__ import annotations

import contextlib
import json
from typing import Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hubbub.brokers import envelope
from hubbub.brokers.base import Announcement, Notice
from hubbub.brokers.envelope import Unreadable
from hubbub.model import ClientInfo, Publication
from hubbub.payload import json_value

infos = st.builds(ClientInfo, st.text(), st.text(), st.binary(), st.binary())
tags = st.dictionaries(st.text(), st.text(), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
payloads = values.map(lambda value: json.dumps(value).encode())
publications = st.builds(
    Publication,
    st.binary() | payloads,
    st.just(0),
    st.none() | infos,
    st.none() | tags,
    st.booleans(),
)
epochs = st.text("abcXYZ0123456789", min_size=1, max_size=24)
offsets = st.integers(1, 2**53)


def kept(epoch: str, offset: int, body: bytes) -> bytes:
    """As the script writes it."""
    return b"\xc1\x01p" + f"{epoch} {offset} ".encode() + body


@given(publications, offsets)
def test_a_body_comes_back(publication: Publication, offset: int) -> None:
    assert envelope.of_body(envelope.body(publication), offset) == publication.at(offset)


@given(publications, epochs, offsets)
@example(Publication(b" 1 2 "), "a", 1)
def test_a_kept_publication_comes_back(publication: Publication, epoch: str, offset: int) -> None:
    frame = kept(epoch, offset, envelope.body(publication))
    assert envelope.kept(publication.at(offset), epoch) == frame
    assert envelope.read(frame) == Announcement(publication.at(offset), epoch)


@given(st.builds(Publication, payloads, st.just(0), st.none() | infos, st.none() | tags))
def test_a_live_publication_comes_back(publication: Publication) -> None:
    assert envelope.read(envelope.live(publication)) == Announcement(publication, "")


@given(st.builds(Publication, st.binary(), st.just(0), st.none() | infos, st.none() | tags, st.just(True)))
def test_live_bytes_come_back(publication: Publication) -> None:
    assert envelope.read(envelope.live(publication)) == Announcement(publication, "")


@given(payloads)
def test_what_says_everything_goes_out_bare(data: bytes) -> None:
    assert envelope.live(Publication(data)) == data


@pytest.mark.parametrize(
    "publication",
    [
        Publication(b"1", binary=True),
        Publication(b"1", tags={"a": "b"}),
        Publication(b"1", info=ClientInfo("ann")),
        Publication(b"typing"),
        Publication(b'"' + b"x" * (1 << 20) + b'"'),
        Publication(b""),
    ],
)
def test_what_a_payload_does_not_say_goes_out_in_a_frame(publication: Publication) -> None:
    assert envelope.live(publication) != publication.data
    assert envelope.read(envelope.live(publication)) == Announcement(publication, "")


@given(st.sampled_from(("join", "leave")), infos)
def test_a_notice_comes_back(kind: Literal["join", "leave"], info: ClientInfo) -> None:
    assert envelope.read(envelope.notice(Notice(kind, info))) == Notice(kind, info)


@given(st.binary() | st.binary().map(lambda rest: b"\xc1\x01" + rest))
def test_whatever_arrives_is_read_or_refused(message: bytes) -> None:
    with contextlib.suppress(Unreadable):
        envelope.read(message)


@given(publications, epochs, offsets, st.data())
def test_what_was_cut_or_changed_is_read_or_refused(
    publication: Publication, epoch: str, offset: int, data: st.DataObject
) -> None:
    frames = (
        kept(epoch, offset, envelope.body(publication)),
        envelope.live(publication),
        envelope.notice(Notice("join", publication.info or ClientInfo())),
    )
    frame = bytearray(data.draw(st.sampled_from(frames)))
    del frame[data.draw(st.integers(0, len(frame))) :]
    if frame:
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Unreadable):
        envelope.read(bytes(frame))


@given(st.text())
@example("true")
@example("[1")
@example("\ufeff1")
def test_a_strangers_text_is_json_or_a_json_string(text: str) -> None:
    read = envelope.read(text.encode())
    assert isinstance(read, Announcement)
    assert (read.publication.offset, read.epoch) == (0, "")
    data = read.publication.data
    assert data in (text.encode(), msgspec.json.encode(text))
    json_value(data)


@pytest.mark.parametrize(
    ("message", "data"),
    [
        pytest.param(b'{"a":1}', b'{"a":1}', id="json"),
        pytest.param(b'{\n "a": 1\r\n}', b'{ "a": 1}', id="json-on-many-lines"),
        pytest.param(b"hello", b'"hello"', id="text"),
        pytest.param(b'say "hi"\n', b'"say \\"hi\\"\\n"', id="text-to-escape"),
        pytest.param(b"", b'""', id="empty"),
        pytest.param(b"NaN", b'"NaN"', id="not-json-although-python-says-so"),
        pytest.param(b"[" * 200 + b"]" * 200, b'"' + b"[" * 200 + b"]" * 200 + b'"', id="too-deep-for-json"),
    ],
)
def test_a_strangers_message(message: bytes, data: bytes) -> None:
    assert envelope.read(message) == Announcement(Publication(data), "")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(b"\x80\x04pickle", "not_text", id="pickle"),
        pytest.param(b'"\xff"', "not_text", id="not-utf-8"),
        pytest.param(b"x" * (1 << 20), "too_large", id="large-with-its-quotes"),
        pytest.param(b"1" * ((1 << 20) + 1), "too_large", id="large"),
        pytest.param(b"\x00" * (1 << 18), "too_large", id="large-once-escaped"),
        pytest.param(b"\xc1", "broken", id="no-version"),
        pytest.param(b"\xc1\x02p", "newer", id="version"),
        pytest.param(b"\xc1\x01?", "newer", id="kind"),
        pytest.param(b"\xc1\x01l\x04x", "newer", id="flags"),
        pytest.param(b"\xc1\x01l", "broken", id="no-body"),
        pytest.param(b"\xc1\x01l\x02\x00\x00\x00\x09\x90", "broken", id="extras-cut"),
        pytest.param(b"\xc1\x01l\x02\x00\x00\x00\x01\x01", "broken", id="extras-of-another-shape"),
        pytest.param(b"\xc1\x01j\x90", "broken", id="notice-of-nobody"),
        pytest.param(b"\xc1\x01pabc", "broken", id="no-offset"),
        pytest.param(b"\xc1\x01p 1 \x00x", "broken", id="no-epoch"),
        pytest.param(b"\xc1\x01pabc 0 \x00x", "broken", id="offset-0"),
        pytest.param(b"\xc1\x01pabc -1 \x00x", "broken", id="offset-below"),
        pytest.param(b"\xc1\x01p\xff 1 \x00x", "broken", id="epoch"),
    ],
)
def test_what_cannot_be_read_says_why(message: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as refused:
        envelope.read(message)
    assert refused.value.reason == reason


def test_fields_of_a_newer_node_are_skipped() -> None:
    info = b"\x97\xc3\xa3ann\xa2c1\xc4\x00\xc4\x00\xc0\xa3new"
    read = envelope.read(b"\xc1\x01j" + info)
    assert read == Notice("join", ClientInfo("ann", "c1"))
