"""What clients may count on, whichever door they come through.

The fast door runs on both event loops, since it uses more of them than asyncio's documentation promises. The asgi door
is the reference; where the server underneath decides (uvicorn with `websockets`), a test says so.
"""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.contracts.doors import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PATH,
    PING,
    PONG,
    TEXT,
    EchoProbe,
    Peer,
    all_doors,
    closing,
    conversation,
    fast_door,
    frame,
    nothing_is_logged_as_our_error,
    pieces,
    request,
    served,
)

from hubbub.protocol.codec import JsonCodec
from hubbub.protocol.protobuf import ProtobufCodec
from hubbub.transports.handshake import Gate

__all__ = ["nothing_is_logged_as_our_error"]  # a fixture, for each test here


# handshake ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "query", "confirmed", "codec"),
    [
        ((), "", None, JsonCodec),
        (("Sec-WebSocket-Protocol: centrifuge-json",), "", "centrifuge-json", JsonCodec),
        (("Sec-WebSocket-Protocol: centrifuge-protobuf",), "", "centrifuge-protobuf", ProtobufCodec),
        (("Sec-WebSocket-Protocol: chat, centrifuge-protobuf",), "", "centrifuge-protobuf", ProtobufCodec),
        (("Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: centrifuge-json"), "", "centrifuge-json", JsonCodec),
        (("Sec-WebSocket-Protocol: chat",), "", None, JsonCodec),
        ((), "?cf_protocol=protobuf", None, ProtobufCodec),
        ((), "?format=protobuf", None, ProtobufCodec),
        ((), "?format=json&cf_protocol=", None, JsonCodec),
        (("Sec-WebSocket-Protocol: centrifuge-json",), "?format=protobuf", "centrifuge-json", JsonCodec),
    ],
)
@all_doors
async def test_the_codec_is_what_the_client_asked_for_and_is_confirmed_if_asked_by_subprotocol(
    door: str, headers: tuple[str, ...], query: str, confirmed: str | None, codec: type
) -> None:
    async with served(door) as serving:
        peer = await Peer.open(serving, *headers, path=PATH + query)
        assert peer.headers.get("sec-websocket-protocol") == confirmed
        assert type((await serving.probe()).codec) is codec
        assert peer.headers["sec-websocket-accept"] == "ICX+Yqv66kxgM0FcWaLWlFLwTAI="


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (request(path="/"), [404]),
        (request(path="/connection/websocket/"), [404]),
        (request(path="/connection/sse"), [404]),
        (request(version="12"), [400, 426]),
        (request(version=""), [400, 426]),
        (request(key=""), [400]),
        (request(key="short"), [400]),
        (request(key="AAAAAAAAAAAAAAAAAAAAAAA="), [400]),
        (request(key="täglich"), [400]),
        (request(method="POST"), [400, 405]),
        (b"GET /connection/websocket HTTP/1.1\r\nHost: example.com\r\n\r\n", [404, 405, 426]),
        (b"nonsense\r\n\r\n", [400]),
    ],
)
@all_doors
async def test_a_request_that_is_no_good_gets_an_http_answer(door: str, data: bytes, statuses: list[int]) -> None:
    async with served(door) as serving:
        peer = await Peer.connect(serving)
        assert await peer.ask(data) in statuses
        assert not serving.probes


@fast_door
async def test_bytes_behind_a_refused_request_are_ignored(door: str) -> None:
    async with served(door) as serving:
        peer = await Peer.connect(serving)
        assert await peer.ask(request(version="12") + frame(TEXT, b"hi")) == 400
        await peer.ends()
        assert not serving.probes


ORIGINS = [
    ((), (), True),
    (("Origin: https://example.com",), (), True),
    (("Origin: https://EXAMPLE.com",), (), True),
    (("Origin: https://example.com:8443",), (), False),
    (("Origin: https://evil.example",), (), False),
    (("Origin: https://example.com.evil.example",), (), False),
    (("Origin: null",), (), False),
    (("Origin: file://",), (), False),
    (("Origin: null",), ("*",), True),
    (("Origin: https://evil.example",), ("*",), True),
    (("Origin: https://app.example.com",), ("https://*.example.com",), True),
    (("Origin: https://app.example.com.evil.example",), ("https://*.example.com",), False),
    (("Origin: http://app.example.com",), ("https://*.example.com",), False),
    (("Origin: http://localhost:5173",), ("http://localhost:*",), True),
    (("Origin: https://example.com",), ("https://other.example",), False),
    (("Origin: https://evil.example", "X-Forwarded-Host: evil.example"), (), False),
]


@pytest.mark.parametrize(("headers", "allowed", "is_admitted"), ORIGINS)
@all_doors
async def test_a_page_may_connect_to_its_own_host_and_where_its_origin_is_allowed(
    door: str, headers: tuple[str, ...], allowed: tuple[str, ...], is_admitted: bool
) -> None:
    async with served(door, gate=Gate(allowed)) as serving:
        peer = await Peer.connect(serving)
        assert await peer.ask(request(*headers)) == (101 if is_admitted else 403)
        assert len(serving.probes) == (1 if is_admitted else 0)


@all_doors
async def test_a_refused_origin_is_one_log_line_that_names_what_would_allow_it(
    door: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(door) as serving:
        peer = await Peer.connect(serving)
        assert await peer.ask(request("Origin: https://evil.example")) == 403
        (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("hubbub")]
        for part in ("from 127.0.0.1,", "https://evil.example", "example.com", "server.allowed_origins"):
            assert part in line


@pytest.mark.parametrize(("trusted", "address"), [((), "127.0.0.1"), (("127.0.0.1",), "203.0.113.9")])
@all_doors
async def test_the_log_says_where_a_client_is_and_believes_a_trusted_proxy_about_it(
    door: str, trusted: tuple[str, ...], address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hubbub")
    forwarded = "X-Forwarded-For: 6.6.6.6, 203.0.113.9"
    async with served(door, gate=Gate((), trusted)) as serving:
        await Peer.open(serving, forwarded)
        assert await (await Peer.connect(serving)).ask(request(forwarded, "Origin: https://evil.example")) == 403
    opened, refused = [record.getMessage() for record in caplog.records if record.name.startswith("hubbub")]
    assert opened == f"a connection from {address}"
    assert refused.startswith(f"refused a connection from {address}, ")


@all_doors
async def test_a_trusted_proxy_says_which_host_the_page_is_of(door: str) -> None:
    async with served(door, gate=Gate((), ("127.0.0.0/8",))) as serving:
        await Peer.open(serving, "Host: inside:8000", "Origin: https://a.example", "X-Forwarded-Host: a.example")


@fast_door
async def test_frames_sent_together_with_the_request_are_not_lost(door: str) -> None:
    """Plain uvicorn forgets them."""
    async with served(door, EchoProbe) as serving:
        peer = await Peer.connect(serving)
        whole = frame(TEXT, b"one") + frame(TEXT, b"two")
        assert await peer.ask(request() + whole[:13]) == 101
        peer.send(whole[13:])
        assert [await peer.frame(), await peer.frame()] == [(TEXT, b"one"), (TEXT, b"two")]


@all_doors
async def test_a_request_may_come_byte_by_byte(door: str) -> None:
    async with served(door, EchoProbe) as serving:
        peer = await Peer.connect(serving)
        data = request()
        for byte in data[:-1]:
            peer.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await peer.ask(data[-1:]) == 101
        peer.send(frame(TEXT, b"hi"))
        assert await peer.frame() == (TEXT, b"hi")


# messages -------------------------------------------------------------------------------------------------------------


@all_doors
async def test_text_is_text_and_binary_is_binary_both_ways(door: str) -> None:
    async with served(door, EchoProbe) as serving:
        peer = await Peer.open(serving)
        for opcode, message in ((TEXT, "grüße 👋".encode()), (BINARY, b"\x00\xff\xfe"), (TEXT, b""), (BINARY, b"")):
            peer.send(frame(opcode, message))
            assert await peer.frame() == (opcode, message)


@pytest.mark.parametrize("size", [125, 126, 127, 65535, 65536])
@all_doors
async def test_every_form_of_length(door: str, size: int) -> None:
    async with served(door, EchoProbe) as serving:
        peer = await Peer.open(serving)
        peer.send(frame(BINARY, b"x" * size))
        assert await peer.frame() == (BINARY, b"x" * size)


@all_doors
async def test_fragments_are_one_message_and_pings_come_between_them(door: str) -> None:
    async with served(door, EchoProbe) as serving:
        peer = await Peer.open(serving)
        word = "ü".encode()  # cut inside a character
        peer.send(frame(TEXT, b"gr" + word[:1], fin=False), frame(PING, b"still there?"))
        assert await peer.frame() == (PONG, b"still there?")
        peer.send(frame(CONTINUATION, word[1:], fin=False), frame(CONTINUATION, b"n"))
        assert await peer.frame() == (TEXT, "grün".encode())
        peer.send(frame(BINARY, b"", fin=False), frame(PONG, b"unasked"), frame(CONTINUATION, b"end"))
        assert await peer.frame() == (BINARY, b"end")


@all_doors
async def test_a_thousand_frames_in_one_segment_come_in_order(door: str) -> None:
    async with served(door, EchoProbe) as serving:
        peer = await Peer.open(serving)
        messages = [str(number).encode() for number in range(1000)]
        peer.send(*(frame(TEXT, message) for message in messages))
        assert [await peer.frame() for _ in messages] == [(TEXT, message) for message in messages]


@fast_door
async def test_answers_and_pongs_keep_the_order_of_what_they_answer(door: str) -> None:
    """Plain uvicorn answers pings, and closes, before the application has had its turn."""
    async with served(door, EchoProbe) as serving:
        peer = await Peer.open(serving)
        peer.send(frame(TEXT, b"one"), frame(PING, b"two"), frame(TEXT, b"three"), closing(1000))
        assert await conversation(peer) == [(TEXT, b"one"), (PONG, b"two"), (TEXT, b"three"), (CLOSE, b"\x03\xe8")]


@all_doors
async def test_a_stream_may_be_cut_anywhere(door: str) -> None:
    data = frame(TEXT, b"abc") + frame(PING, b"p") + frame(BINARY, bytes(130)) + frame(TEXT, b"end")
    async with served(door, EchoProbe) as serving:
        peer = await Peer.open(serving)
        for place in range(1, len(data)):
            for piece in pieces(data, [place]):
                peer.writer.write(piece)
                await asyncio.sleep(0)
            got = sorted([await peer.frame() for _ in range(4)])
            assert got == sorted([(TEXT, b"abc"), (PONG, b"p"), (BINARY, bytes(130)), (TEXT, b"end")])


# slow peers -----------------------------------------------------------------------------------------------------------


@all_doors
async def test_a_peer_that_stops_reading_is_paused_at_the_budget_and_resumed_below_a_quarter(door: str) -> None:
    budget = 1 << 18
    async with served(door, write_budget=budget) as serving:
        peer = await Peer.open(serving, receive_buffer=4096)
        probe = await serving.probe()
        written = 0
        while "paused" not in probe.heard:
            probe.send(b"%09d" % written + b"x" * 4000)
            written += 1
            await asyncio.sleep(0)
        assert probe.heard == ["paused"]
        assert budget < probe.transport.unsent <= budget + 8192
        for number in range(written):
            opcode, payload = await peer.frame()
            assert (opcode, int(payload[:9])) == (TEXT, number)
        await probe.hears("resumed")
        assert probe.heard == ["paused", "resumed"]
        assert probe.unsent_when_resumed <= budget // 4
        await probe.until_drained()
        assert probe.transport.taken >= written * 4009


@all_doors
async def test_the_budget_is_in_bytes_whatever_the_alphabet(door: str) -> None:
    message = ("grüße 👋" * 500).encode()
    budget = 1 << 18
    async with served(door, write_budget=budget) as serving:
        peer = await Peer.open(serving, receive_buffer=4096)
        probe = await serving.probe()
        count = 0
        while "paused" not in probe.heard:
            probe.send(message)
            count += 1
            await asyncio.sleep(0)
        whole = len(message) + 4  # with a frame's head, which an ASGI server makes later
        assert budget < probe.transport.unsent <= budget + whole
        assert count * len(message) <= probe.transport.unsent + probe.transport.taken <= count * whole
        for _ in range(count):
            assert await peer.frame() == (TEXT, message)
        await probe.until_drained()


@all_doors
async def test_what_is_taken_grows_while_a_slow_peer_reads_and_stands_still_while_it_does_not(door: str) -> None:
    async with served(door, write_budget=1 << 18) as serving:
        peer = await Peer.open(serving, receive_buffer=4096)
        probe = await serving.probe()
        while "paused" not in probe.heard:
            probe.send(b"x" * 65536)
            await asyncio.sleep(0)
        taken = probe.transport.taken
        while probe.transport.taken == taken:
            await peer.frame()


@all_doors
async def test_reading_can_be_paused(door: str) -> None:
    async with served(door, EchoProbe, close_timeout=60) as serving:
        peer = await Peer.open(serving)
        probe = await serving.probe()
        probe.transport.pause_reading()
        probe.transport.pause_reading()
        peer.send(frame(TEXT, b"wait"))
        probe.send(b"still writing")
        assert await peer.frame() == (TEXT, b"still writing")
        assert len(probe.messages) <= (1 if door == "asgi" else 0)  # one may be under way there
        probe.transport.resume_reading()
        probe.transport.resume_reading()
        assert await peer.frame() == (TEXT, b"wait")
        probe.transport.pause_reading()
        probe.transport.close(3000, "bye")
        assert await peer.closed() == (3000, "bye")
        peer.send(closing(3000))
        assert await peer.ends() == b""
