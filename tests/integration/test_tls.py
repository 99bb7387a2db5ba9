"""TLS without a proxy: the same promises as in the clear, where the event loop's TLS makes them harder to keep."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import httpx
import pytest
import uvloop
from tests.contracts.doors import BINARY, TEXT, EchoProbe, Peer, closing, frame, served
from tests.integration.certificates import Certificate
from tests.integration.support import client, port_of, running

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


async def test_clients_and_the_http_api_over_tls(certificate: Certificate) -> None:
    files = {"tls_certificate": certificate.file, "tls_key": certificate.key}
    async with running(server=files, api={"key": "k"}) as server:
        assert server.address.startswith("https://")
        async with (
            client(server, tls=certificate.trusted) as reader,
            httpx.AsyncClient(verify=certificate.trusted, trust_env=False) as http,
        ):
            await reader.call("subscribe", channel="news")
            url = f"https://localhost:{port_of(server)}/api/publish"
            text = "x" * 60000
            answer = await http.post(url, json={"channel": "news", "data": text}, headers={"X-API-Key": "k"})
            assert answer.json() == {"result": {}}
            assert (await reader.push())["pub"]["data"] == text
            server.should_exit = True
            assert await reader.closed() == (3001, "shutdown")


async def test_a_client_that_speaks_no_tls_and_one_that_does_not_trust_us(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(server={"tls_certificate": certificate.file, "tls_key": certificate.key}) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        try:
            assert b"HTTP/1.1 200" not in await reader.read()
        except ConnectionError:
            pass
        writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            async with client(server, tls=ssl.create_default_context()):
                pass
        async with client(server, tls=certificate.trusted):
            pass
    assert not [record for record in caplog.records if record.name.startswith("hubbub")]


Wrong = tuple[bytes, int]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "wrong", [(frame(0x3), 1002), (frame(TEXT, b"\xff"), 1007), (frame(TEXT, b"x" * 70000) * 3, 1009)]
)
def test_a_peer_that_breaks_the_protocol_is_told_why(loop: str, wrong: Wrong, certificate: Certificate) -> None:
    async def story() -> None:
        async with served("websocket", tls=certificate[:2]) as serving:
            peer = await Peer.open(serving, tls=certificate.trusted)
            peer.send(wrong[0])
            assert (await peer.closed())[0] == wrong[1]
            assert await peer.ends() == b""
            await (await serving.probe()).hears("closed")

    _run(LOOPS[loop], story())


@pytest.mark.parametrize("loop", LOOPS)
def test_echo_order_and_closing(loop: str, certificate: Certificate) -> None:
    async def story() -> None:
        async with served("websocket", EchoProbe, tls=certificate[:2]) as serving:
            peer = await Peer.open(serving, tls=certificate.trusted)
            messages = [b"%d" % number * (number + 1) for number in range(300)]
            peer.send(*(frame(BINARY, message) for message in messages))
            for message in messages:
                assert await peer.frame() == (BINARY, message)
            probe = await serving.probe()
            probe.send(b"last words")
            probe.transport.close(3000, "bye")
            assert await peer.frame() == (TEXT, b"last words")
            assert await peer.closed() == (3000, "bye")
            peer.send(closing(3000))
            assert await peer.ends() == b""

    _run(LOOPS[loop], story())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["we close", "it breaks the protocol"])
def test_no_peer_that_does_not_read_outlives_its_close(loop: str, how: str, certificate: Certificate) -> None:
    async def story() -> None:
        async with served("websocket", tls=certificate[:2], close_timeout=0.05) as serving:
            peer = await Peer.open(serving, tls=certificate.trusted, receive_buffer=4096)
            probe = await serving.probe()
            written = 0
            while "paused" not in probe.heard:
                probe.send(b"x" * 65536)
                written += 1
                await asyncio.sleep(0)
            if how == "we close":
                probe.transport.close(3008, "slow")
            else:
                peer.send(frame(0x3))
            await probe.hears("closed")
            assert serving.door is not None
            await serving.door.is_empty.wait()

    _run(LOOPS[loop], story())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_slow_peer_is_paused_and_resumed_and_gets_everything(loop: str, certificate: Certificate) -> None:
    async def story() -> None:
        async with served("websocket", tls=certificate[:2], write_budget=1 << 18) as serving:
            peer = await Peer.open(serving, tls=certificate.trusted, receive_buffer=4096)
            probe = await serving.probe()
            written = 0
            while "paused" not in probe.heard:
                probe.send(b"%09d" % written + b"x" * 4000)
                written += 1
                await asyncio.sleep(0)
            for number in range(written):
                assert int((await peer.frame())[1][:9]) == number
            await probe.hears("resumed")
            assert probe.heard == ["paused", "resumed"]

    _run(LOOPS[loop], story())


def _run(loop_factory: Callable[[], asyncio.AbstractEventLoop], story: object) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(story, 10))  # type: ignore[arg-type]  # a coroutine
