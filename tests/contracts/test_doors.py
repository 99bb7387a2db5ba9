"""What clients may count on, whichever door they come through.

The fast door runs on both event loops, since it uses more of them than asyncio's documentation promises. The asgi door
is the reference; where the server underneath decides (uvicorn with `websockets`), a test says so.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import struct
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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
    Probe,
    Serving,
    closing,
    conversation,
    frame,
    pieces,
    request,
    served,
)

from hubbub.protocol.codec import JsonCodec
from hubbub.protocol.protobuf import ProtobufCodec
from hubbub.transports.handshake import Gate

FAST = {
    "websocket-uvloop": ("websocket", uvloop.new_event_loop),
    "websocket-asyncio": ("websocket", asyncio.new_event_loop),
}
DOORS = {**FAST, "asgi": ("asgi", uvloop.new_event_loop)}

#: Seconds for one story.
PATIENCE = 10.0

Story = Callable[..., Coroutine[Any, Any, None]]


def on_doors(doors: dict[str, Any]) -> Callable[[Story], Callable[..., None]]:
    """Make a test of a story, for each of these doors, on the event loop that it is listed with."""

    def make(story: Story) -> Callable[..., None]:
        @pytest.mark.parametrize("door", doors)
        @functools.wraps(story)
        def test(door: str, **fixtures: Any) -> None:
            kind, loop_factory = doors[door]
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(asyncio.wait_for(story(kind, **fixtures), PATIENCE))

        result: Callable[..., None] = test
        return result

    return make


all_doors, fast_door = on_doors(DOORS), on_doors(FAST)


@pytest.fixture(autouse=True)
def nothing_is_logged_as_our_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a peer does, it is no error of ours. A test that means one clears the log."""
    yield
    ours = [
        record
        for record in caplog.records
        if record.levelno >= logging.ERROR and record.name.startswith(("hubbub", "asyncio"))
    ]
    assert not ours, "\n".join(record.getMessage() for record in ours)


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
        for part in ("https://evil.example", "example.com", "server.allowed_origins"):
            assert part in line


@all_doors
async def test_a_trusted_proxy_says_which_host_the_page_is_of(door: str) -> None:
    async with served(door, gate=Gate((), ("127.0.0.0/8",))) as serving:
        await Peer.open(serving, "Host: inside:8000", "Origin: https://a.example", "X-Forwarded-Host: a.example")


@all_doors
async def test_frames_sent_together_with_the_request_are_not_lost(door: str) -> None:
    if door == "asgi":
        pytest.skip("uvicorn forgets them")
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


@all_doors
async def test_answers_and_pongs_keep_the_order_of_what_they_answer(door: str) -> None:
    async with served(door, EchoProbe) as serving:
        peer = await Peer.open(serving)
        peer.send(frame(TEXT, b"one"), frame(PING, b"two"), frame(TEXT, b"three"), closing(1000))
        if door == "asgi":
            pytest.skip("uvicorn answers pings, and closes, before the application has had its turn")
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


# closing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        (3000, "connection closed", (3000, "connection closed")),
        (3501, "bad request", (3501, "bad request")),
        (4999, "", (4999, "")),
        (1000, "bye", (1000, "bye")),
        (4000, "x" * 200, (4000, "x" * 123)),
        (4000, "ü" * 100, (4000, "ü" * 61)),
        (4000, "bad \ud800", (4000, "bad ?")),
        (0, "not a code", (3000, "not a code")),
        (1005, "reserved", (3000, "reserved")),
        (70000, "too big", (3000, "too big")),
        (-1, "negative", (3000, "negative")),
    ],
)
@all_doors
async def test_the_client_hears_the_servers_code_and_reason_after_what_was_written(
    door: str, code: int, reason: str, told: tuple[int, str]
) -> None:
    async with served(door) as serving:
        peer = await Peer.open(serving)
        probe = await serving.probe()
        probe.send(b"last words")
        probe.transport.close(code, reason)
        probe.send(b"too late")
        probe.transport.close(3008, "twice")
        assert await peer.frame() == (TEXT, b"last words")
        assert await peer.closed() == told
        peer.send(frame(TEXT, b"who cares"), closing(told[0]))
        assert await peer.ends() == b""
        await probe.hears("closed")
        assert not probe.messages


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (closing(1000, b"bye"), 1000),
        (closing(1001), 1001),
        (closing(3000), 3000),
        (closing(4999, b"app"), 4999),
        (frame(CLOSE), 1000),
        (closing(1000) + b"anything \x00\xff\xff\xff at all" * 9, 1000),
        (closing(1000) + closing(1001), 1000),
        (closing(1000) + frame(TEXT, b"late"), 1000),
    ],
)
@all_doors
async def test_a_clients_close_is_answered_with_its_code_and_ends_it(door: str, sent: bytes, answered: int) -> None:
    async with served(door) as serving:
        peer = await Peer.open(serving)
        peer.send(sent)
        opcode, payload = await peer.frame()
        assert opcode == CLOSE
        assert payload == struct.pack("!H", answered) or (sent == frame(CLOSE) and not payload) or door == "asgi"
        assert await peer.ends() == b""
        probe = await serving.probe()
        await probe.hears("closed")
        assert not probe.messages


WRONG = {
    "reserved bit 1": (frame(TEXT, b"x", rsv=4), 1002),
    "reserved bit 3": (frame(PING, b"x", rsv=1), 1002),
    "reserved opcode": (frame(0x3, b"x"), 1002),
    "reserved control opcode": (frame(0xB, b"x"), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a message inside a message": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "a fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "an unmasked frame": (frame(TEXT, b"x", mask=False), 1002),
    "text that is not UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "fragments that are not UTF-8": (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"x"), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "a message over the limit": (frame(TEXT, b"x" * 70000), 1009),
    "the announcement of one": (b"\x81\xff\x00\x00\x00\x00\xff\xff\xff\xff", 1009),
    "fragments over the limit": (frame(TEXT, b"x" * 40000, fin=False) + frame(CONTINUATION, b"x" * 40000), 1009),
    "a close frame of one byte": (frame(CLOSE, b"x"), 1002),
    "close code 0": (closing(0), 1002),
    "close code 999": (closing(999), 1002),
    "close code 1005": (closing(1005), 1002),
    "close code 1006": (closing(1006), 1002),
    "close code 5000": (closing(5000), 1002),
    "a reason that is not UTF-8": (closing(1000, b"\xff"), 1007),
}


@pytest.mark.parametrize("what", WRONG)
@fast_door
async def test_a_peer_that_breaks_the_protocol_is_told_why_and_is_gone(door: str, what: str) -> None:
    data, code = WRONG[what]
    async with served(door) as serving:
        peer = await Peer.open(serving)
        peer.send(data)
        assert (await peer.closed())[0] == code
        probe = await serving.probe()
        await probe.hears("closed")
        probe.send(b"nobody is there")
        probe.transport.close(3000, "nor here")
        assert not probe.messages
        assert await peer.ends() == b""


@pytest.mark.parametrize("what", ["a continuation of nothing", "text that is not UTF-8", "a message over the limit"])
@fast_door
async def test_the_code_arrives_also_at_a_peer_that_goes_on_sending(door: str, what: str) -> None:
    """A socket closed with unread bytes in it is reset, and a reset takes the close frame away from the peer."""
    data, code = WRONG[what]
    async with served(door) as serving:
        peer = await Peer.open(serving)
        for _ in range(50):
            peer.send(data)
        await peer.writer.drain()
        assert (await peer.closed())[0] == code
        peer.send(data)
        await peer.writer.drain()
        peer.writer.close()
        assert await peer.ends() == b""
        assert serving.door is not None
        await serving.door.is_empty.wait()


@all_doors
async def test_a_message_over_the_limit_is_1009(door: str) -> None:
    async with served(door, max_message=1000) as serving:
        peer = await Peer.open(serving)
        peer.send(frame(TEXT, b"x" * 1000))
        probe = await serving.probe()
        await probe.gets(1)
        peer.send(frame(TEXT, b"x" * 1001), frame(TEXT, b"late"))
        assert (await peer.closed())[0] == 1009
        peer.send(closing(1009))
        await peer.ends()
        await probe.hears("closed")
        assert len(probe.messages) == 1


@fast_door
async def test_nothing_follows_the_close_frame(door: str) -> None:
    """A frame that is right and one that is wrong in one segment: picows closes before it shows the first."""
    async with served(door, EchoProbe) as serving:
        peer = await Peer.open(serving)
        peer.send(frame(TEXT, b"right"), frame(0x3, b"wrong"))
        frames = await conversation(peer)
        assert [opcode for opcode, _ in frames].index(CLOSE) == len(frames) - 1


@all_doors
async def test_an_endpoint_with_a_bug_costs_one_connection(door: str, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Probe):
        raises = True

    async with served(door, Broken) as serving:
        peer = await Peer.open(serving)
        other = await Peer.open(serving)
        peer.send(frame(TEXT, b"boom"))
        assert (await peer.closed())[0] == 1011
        peer.leave()
        await (await serving.probe()).hears("closed")
        other.send(frame(PING, b"fine"))
        assert await other.frame() == (PONG, b"fine")
    assert "an endpoint with a bug" in caplog.text
    caplog.clear()


@fast_door
async def test_a_connection_that_cannot_be_opened_is_1011(door: str, caplog: pytest.LogCaptureFixture) -> None:
    class Unopened(Probe):
        def __init__(self, *args: Any) -> None:
            raise RuntimeError("no room")

    async with served(door, Unopened) as serving:
        peer = await Peer.open(serving)
        assert (await peer.closed())[0] == 1011
    assert "no room" in caplog.text
    caplog.clear()


@all_doors
async def test_a_half_open_peer_is_gone(door: str) -> None:
    async with served(door) as serving:
        peer = await Peer.open(serving)
        probe = await serving.probe()
        peer.writer.write_eof()
        await probe.hears("closed")
        await peer.ends()


@all_doors
async def test_a_peer_that_vanishes_is_gone(door: str) -> None:
    async with served(door) as serving:
        peer = await Peer.open(serving)
        probe = await serving.probe()
        peer.reset()
        await probe.hears("closed")
        probe.send(b"hello?")
        probe.transport.close(3000, "")
        assert probe.heard == ["closed"]


@all_doors
async def test_a_peer_that_vanishes_inside_a_frame_is_gone(door: str) -> None:
    async with served(door) as serving:
        peer = await Peer.open(serving)
        peer.send(frame(TEXT, b"half")[:5])
        peer.writer.write_eof()
        await (await serving.probe()).hears("closed")
        await peer.ends()


@fast_door
async def test_a_peer_that_never_answers_the_close_is_cut_off(door: str) -> None:
    async with served(door, close_timeout=0.05) as serving:
        peer = await Peer.open(serving)
        probe = await serving.probe()
        probe.transport.close(3001, "shutdown")
        assert await peer.closed() == (3001, "shutdown")
        assert await peer.ends() == b""
        await probe.hears("closed")


CLOSES = {
    "we close": b"",
    "it closes": closing(1000),
    "it breaks the protocol": frame(0x3),
    "it breaks our part of the protocol": frame(TEXT, b"\xff"),
}


@pytest.mark.parametrize("how", CLOSES)
@fast_door
async def test_no_peer_that_does_not_read_outlives_its_close(door: str, how: str) -> None:
    async with served(door, close_timeout=0.05) as serving:
        peer = await Peer.open(serving, receive_buffer=4096)
        probe = await serving.probe()
        while "paused" not in probe.heard:
            probe.send(b"x" * 65536)
            await asyncio.sleep(0)
        if CLOSES[how]:
            peer.send(CLOSES[how])
        else:
            probe.transport.close(3008, "slow")
        await probe.hears("closed")
        assert serving.door is not None
        await serving.door.is_empty.wait()


@on_doors({"asgi": DOORS["asgi"]})
async def test_the_reference_lets_go_of_a_peer_that_does_not_read(door: str) -> None:
    """The socket is the ASGI server's affair."""
    async with served(door, close_timeout=0.05) as serving:
        await Peer.open(serving, receive_buffer=4096)
        probe = await serving.probe()
        while "paused" not in probe.heard:
            probe.send(b"x" * 65536)
            await asyncio.sleep(0)
        probe.transport.close(3008, "slow")
        await probe.hears("closed")


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
        unsent: list[int] = []
        resumed = asyncio.ensure_future(probe.hears("resumed"))
        resumed.add_done_callback(lambda done: unsent.append(probe.transport.unsent))
        for number in range(written):
            opcode, payload = await peer.frame()
            assert (opcode, int(payload[:9])) == (TEXT, number)
        await resumed
        assert probe.heard == ["paused", "resumed"]
        assert unsent[0] < budget // 4
        await probe.until_drained()
        assert probe.transport.taken >= written * 4009


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
    async with served(door, EchoProbe) as serving:
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


# anything at all ------------------------------------------------------------------------------------------------------

frames = st.builds(
    frame,
    st.integers(0, 15),
    st.one_of(st.binary(max_size=140), st.text(max_size=20).map(str.encode)),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 1, 4]),
    mask=st.sampled_from([True, True, True, False]),
)
streams = st.lists(st.one_of(frames, frames, st.binary(max_size=40)), max_size=8).map(b"".join)


@pytest.mark.parametrize("name", FAST)
def test_every_stream_of_bytes_ends_in_answers_or_a_close_with_a_code_that_exists(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind, loop_factory = FAST[name]

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(streams, st.lists(st.integers(0, 200), max_size=3))
    def whatever(data: bytes, cuts: list[int]) -> None:
        runner.run(asyncio.wait_for(_survive(serving, data, cuts), PATIENCE))
        assert not [record for record in caplog.records if record.exc_info]

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        context = served(kind, EchoProbe)
        serving = runner.run(context.__aenter__())
        try:
            whatever()
        finally:
            runner.run(context.__aexit__(None, None, None))


async def _survive(serving: Serving, data: bytes, cuts: list[int]) -> None:
    """Send it, then a stream's end: the door must end it in turn, with at most one close frame, as the last frame."""
    peer = await Peer.open(serving)
    for piece in pieces(data, [min(cut, len(data)) for cut in cuts]):
        peer.writer.write(piece)
        await asyncio.sleep(0)
    peer.writer.write_eof()
    got = await conversation(peer)
    for opcode, payload in got[:-1]:
        assert opcode in (TEXT, BINARY, PONG), (opcode, payload)
    if got and got[-1][0] == CLOSE:
        assert int.from_bytes(got[-1][1][:2], "big") in (*range(1000, 1015), *range(3000, 5000))
    peer.leave()
    assert serving.door is not None
    await serving.door.is_empty.wait()
