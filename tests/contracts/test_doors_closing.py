"""How connections end: by either side, by mistake, by vanishing, and by any bytes at all; as `test_doors`."""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contracts.doors import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DOORS,
    FAST,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    EchoProbe,
    Peer,
    Probe,
    Serving,
    all_doors,
    closing,
    conversation,
    fast_door,
    frame,
    nothing_is_logged_as_our_error,
    on_doors,
    pieces,
    served,
)

from hubbub.errors import HubbubError

__all__ = ["nothing_is_logged_as_our_error"]  # a fixture, for each test here


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
    ids=["reason", "1001", "3000", "4999", "empty", "and bytes", "and another", "and text"],  # masks are random
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


@pytest.mark.parametrize("error", [RuntimeError("no room"), HubbubError("the hub is not started")])
@all_doors
async def test_a_connection_that_cannot_be_opened_is_1011_and_one_record_in_our_log(
    door: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Unopened(Probe):
        def __init__(self, *args: Any) -> None:
            raise error

    async with served(door, Unopened) as serving:
        peer = await Peer.open(serving)
        assert await peer.closed() == (1011, "internal server error")
        peer.send(closing(1011))
        assert await peer.ends() == b""
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert str(error) in caplog.text
    # What is raised on purpose says all in its text; a bug is found by its traceback.
    assert (record.exc_info is None) is isinstance(error, HubbubError)
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
