"""Who may connect, from where, and in which codec, without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.protocol.codec import JsonCodec
from hubbub.protocol.protobuf import ProtobufCodec
from hubbub.transports.handshake import Codecs, Gate

HERE = {"host": "chat.example"}


@pytest.mark.parametrize(
    ("headers", "peer", "trusted", "host"),
    [
        ({"host": "A.example"}, "10.0.0.1", (), "a.example"),
        ({"host": "a.example:8000"}, "10.0.0.1", (), "a.example:8000"),
        ({"host": "in", "x-forwarded-host": "out.example"}, "10.0.0.1", (), "in"),
        ({"host": "in", "x-forwarded-host": "out.example"}, "10.0.0.1", ("10.0.0.1",), "out.example"),
        ({"host": "in", "x-forwarded-host": "out.example, mid.example"}, "10.0.0.1", ("10.0.0.0/8",), "out.example"),
        ({"host": "in", "x-forwarded-host": "out.example"}, "fd00::1", ("fd00::/8",), "out.example"),
        ({"host": "in", "x-forwarded-host": "out.example"}, "", (), "out.example"),
        ({"host": "in", "x-forwarded-host": ""}, "10.0.0.1", ("10.0.0.1",), "in"),
        ({"host": "in", "x-forwarded-host": "out"}, "not an address", ("0.0.0.0/0",), "in"),
        ({"host": "in", "x-forwarded-host": "out"}, "203.0.113.9", ("*",), "out"),
        ({"host": "in", "x-forwarded-host": "out"}, "2001:db8::7", ("10.0.0.1", "*"), "out"),
        ({}, "10.0.0.1", (), ""),
    ],
)
def test_the_host_is_the_proxys_word_if_it_is_trusted(
    headers: dict[str, str], peer: str, trusted: tuple[str, ...], host: str
) -> None:
    assert Gate((), trusted).host(headers, peer) == host


@pytest.mark.parametrize(
    ("forwarded", "peer", "trusted", "client"),
    [
        (None, "203.0.113.9", (), "203.0.113.9"),
        ("1.2.3.4", "203.0.113.9", (), "203.0.113.9"),
        ("1.2.3.4", "10.0.0.1", ("10.0.0.0/8",), "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", "10.0.0.1", ("10.0.0.0/8",), "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4, 10.0.0.2", "10.0.0.1", ("10.0.0.0/8",), "1.2.3.4"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.1", ("10.0.0.0/8",), "10.0.0.3"),
        ("", "10.0.0.1", ("10.0.0.0/8",), "10.0.0.1"),
        ("2001:db8::7", "::1", ("::1",), "2001:db8::7"),
        ("1.2.3.4", "", (), "1.2.3.4"),
        ("1.2.3.4, 10.0.0.2", "10.0.0.1", ("*",), "1.2.3.4"),
        ("2001:db8::7", "fd00::1", ("*",), "2001:db8::7"),
        (" , ", "10.0.0.1", ("*",), "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_no_trusted_proxy_has(
    forwarded: str | None, peer: str, trusted: tuple[str, ...], client: str
) -> None:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert Gate((), trusted).client_address(headers, peer) == client


@pytest.mark.parametrize(
    ("origin", "allowed", "is_admitted"),
    [
        ("https://chat.example", (), True),
        ("http://chat.example", (), True),
        ("https://chat.example:444", (), False),
        ("https://sub.chat.example", (), False),
        ("https://", (), False),
        ("null", (), False),
        ("[", (), False),
        ("https://[", (), False),
        ("https://[::1", ("https://a.example",), False),
        ("HTTPS://A.example", ("https://a.EXAMPLE/",), True),
        ("https://chat.example", ("https://a.example",), False),
        ("https://x.a.example", ("https://*.a.example",), True),
        ("https://a.example", ("https://*.a.example",), False),
        ("https://evil.example/.a.example", ("https://*.a.example",), False),
        ("http://localhost:3000", ("http://localhost:*",), True),
        ("http://localhost:3000.evil.example", ("http://localhost:*",), False),
        ("http://localhost:evil.example", ("http://localhost:*",), False),
        ("http://[::1]:3000", ("http://[::1]:*",), True),
        ("http://[::1]:3000", ("http://[::1]:3000",), True),
        ("http://:", ("http://[::1]",), False),
        ("null", ("null",), True),
        ("null", ("http*", "n*"), False),
        ("file://", ("file://",), True),
        ("https://aXexample", ("https://a.example",), False),
        ("https://user@a.example", ("https://*a.example",), False),
        ("https://a.example", ("*",), True),
        ("https://a.example", ("https://b.example", "*"), True),
    ],
)
def test_origins(origin: str, allowed: tuple[str, ...], is_admitted: bool) -> None:
    assert Gate(allowed).admits({**HERE, "origin": origin}, "1.2.3.4") is is_admitted


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=20), st.text(max_size=30))
def test_no_header_breaks_the_gate(origin: str, host: str, peer: str, forwarded: str) -> None:
    headers = {"origin": origin, "host": host, "x-forwarded-host": forwarded, "x-forwarded-for": forwarded}
    for gate in (Gate(), Gate(("https://*.example",), ("*",))):
        gate.admits(headers, peer)
        gate.client_address(headers, peer)


@given(st.lists(st.text(max_size=20)), st.text(max_size=40))
def test_every_request_gets_a_codec_and_only_a_subprotocol_that_it_asked_for(asked: list[str], query: str) -> None:
    codec, subprotocol = Codecs().negotiate(asked, query)
    assert isinstance(codec, JsonCodec | ProtobufCodec)
    assert subprotocol is None or subprotocol in asked


def test_all_connections_share_a_codec() -> None:
    codecs = Codecs()
    assert codecs.negotiate(["centrifuge-json"], "")[0] is codecs.negotiate([], "")[0]
    assert codecs.negotiate(["centrifuge-protobuf"], "")[0] is codecs.negotiate([], "format=protobuf")[0]
