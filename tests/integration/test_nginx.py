"""nginx in front, as it is most often configured."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.contracts.doors import TEXT, EchoProbe, Peer, Serving, closing, frame, request, served
from tests.integration.support import client, port_of, running
from tests.serving import leashed
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hubbub.transports.handshake import Gate

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""


@asynccontextmanager
async def nginx(upstream: str, folder: Path) -> AsyncIterator[int]:
    """Start it before `upstream`; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, upstream=upstream))
    assert NGINX is not None
    process = await asyncio.create_subprocess_exec(
        *leashed(NGINX, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                break
        assert process.returncode is None, (folder / "error.log").read_text()
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def through(port: int) -> Serving:
    """A door as a peer behind nginx sees it."""
    serving = Serving("websocket", EchoProbe)
    serving.port = port
    return serving


async def test_clients_and_the_http_api_through_nginx(tmp_path: Path) -> None:
    async with (
        running(api={"key": "k"}) as server,
        nginx(f"127.0.0.1:{port_of(server)}", tmp_path) as port,
        client(f"ws://127.0.0.1:{port}/connection/websocket") as reader,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        await reader.call("subscribe", channel="news")
        await http.post("/api/publish", json={"channel": "news", "data": 1}, headers={"X-API-Key": "k"})
        assert (await reader.push())["pub"]["data"] == 1
        server.should_exit = True
        assert await reader.closed() == (3001, "shutdown")


async def test_nginx_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with running(server={"unix": str(path)}), nginx(f"unix:{path}", tmp_path) as port:
        address = f"ws://chat.example:{port}/connection/websocket"
        # Whoever reaches the socket is this machine, and trusted.
        async with connect(address, host="127.0.0.1", origin=f"http://chat.example:{port}"):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize(("trusted", "is_admitted"), [(["127.0.0.1"], True), (["10.0.0.0/8"], False), ([], False)])
async def test_the_forwarded_host_counts_from_a_trusted_proxy_alone(
    trusted: list[str], is_admitted: bool, tmp_path: Path
) -> None:
    async with (
        running(server={"trusted_proxies": trusted}) as server,
        nginx(f"127.0.0.1:{port_of(server)}", tmp_path) as port,
    ):
        address = f"ws://chat.example:{port}/connection/websocket"
        opening = connect(address, host="127.0.0.1", origin=f"http://chat.example:{port}")  # type: ignore[arg-type]
        if is_admitted:
            async with opening:
                pass
        else:
            with pytest.raises(InvalidStatus, match="403"):
                await opening
        with pytest.raises(InvalidStatus, match="403"):
            await connect(address, host="127.0.0.1", origin="http://evil.example")  # type: ignore[arg-type]


async def test_the_doors_goodbyes_pass_through_nginx(tmp_path: Path) -> None:
    async with (
        served("websocket", EchoProbe, gate=Gate()) as serving,
        nginx(f"127.0.0.1:{serving.port}", tmp_path) as port,
    ):
        for wrong, code in ((frame(0x3), 1002), (frame(TEXT, b"\xff"), 1007), (frame(TEXT, b"x" * 99999), 1009)):
            behind = through(port)
            peer = await Peer.open(behind)
            peer.send(frame(TEXT, b"hi"))
            assert await peer.frame() == (TEXT, b"hi")
            peer.send(wrong)
            assert (await peer.closed())[0] == code
            await peer.ends()
            peer.leave()
        behind = through(port)
        peer = await Peer.open(behind)
        peer.send(closing(4001))
        assert (await peer.closed())[0] == 4001
        await peer.ends()
        peer.leave()
        refused = await Peer.connect(behind)
        assert await refused.ask(request(version="12")) == 400
        refused.leave()
