"""What the suite plays on: configurations, the servers and drivers that are running, and tokens.

Answers for: starting each once, when the first test wants it; and for what is missing on this machine being a skip at
home and a failure in CI. Refuses to know: pytest's fixtures (conftest), and scenarios.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Literal, NoReturn

import cent
import pytest
from playwright.async_api import async_playwright
from tests.compat.sdk import Client, Driver, Logs, NodeDriver, PageDriver, PythonDriver, Sdk
from tests.serving import ROOT, Door, Served

SECRET = "secret"
API_KEY = "test-api-key"

_BOTH = f"""
[server]
allowed_origins = ["http://127.0.0.1:*"]

[api]
key = "{API_KEY}"
"""

#: What the SDKs' own suites want of a server.
INSECURE = f"""
{_BOTH}
[auth]
hmac_secret = "{SECRET}"
insecure = true

[channels.default]
delivery = "recent"
presence = true

[channels.recovery]
delivery = "recent"
subscribe = "anyone"
publish = "subscriber"

[channels.smallhistory]
delivery = "recent"
history_size = 2
subscribe = "anyone"
publish = "subscriber"

[channels.fast]
delivery = "live"
subscribe = "anyone"
publish = "anyone"

[channels.bytes]
delivery = "recent"
data = "binary"
"""

#: Everything needs its token, and each user has a channel of their own.
SECURE = f"""
{_BOTH}
[auth]
hmac_secret = "{SECRET}"
personal_channel = "#{{user}}"

[channels.default]
delivery = "recent"
subscribe = "token"
publish = "subscriber"
read = "subscriber"
presence = true
join_leave = "always"

[channels.recovery]
delivery = "recent"
subscribe = "token"
publish = "subscriber"
read = "subscriber"
presence = true
join_leave = "always"

[channels.asked]
subscribe = "user"
presence = true
join_leave = "asked"
"""

#: As secure, with no patience: what takes minutes elsewhere takes seconds here.
BRISK = f"""
{SECURE}
[client]
ping_interval = 1.0
pong_timeout = 0.9
expired_grace = 0.3
"""

#: Clients are held to rates, and users to one connection.
LIMITED = f"""
{INSECURE}
[channels.slow]
rate = "3/m"

[client]
command_rate = "20/s"
max_connections_per_user = 1
"""

#: Room for one.
NARROW = f"""
{INSECURE}
[client]
max_connections = 1
"""

CONFIGURATIONS = {"insecure": INSECURE, "secure": SECURE, "brisk": BRISK, "limited": LIMITED, "narrow": NARROW}

#: Each SDK: which driver, and whether in Protobuf.
SDKS: dict[str, tuple[Literal["node", "page", "python"], bool]] = {
    "js-json": ("node", False),
    "js-protobuf": ("node", True),
    "browser-json": ("page", False),
    "python-json": ("python", False),
    "python-protobuf": ("python", True),
}

#: See testing notes of Chromium: no sandbox for root, small /dev/shm in containers, and nothing that calls home.
CHROMIUM_FLAGS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)

BUNDLE = ROOT / "src" / "hubbub" / "demo" / "static" / "centrifuge.js"


def missing(what: str) -> NoReturn:
    """Something that the suite needs is not on this machine."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing", pytrace=False)
    pytest.skip(f"{what} is missing")


# servers ------------------------------------------------------------------------------------------------------------


class Servers:
    """Servers by door and configuration, started when they are wanted."""

    def __init__(self, stack: ExitStack, new_folder: Callable[[str], Path]) -> None:
        self._stack = stack
        self._new_folder = new_folder
        self._running: dict[tuple[Door, str], Served] = {}

    def get(self, door: Door, configuration: str) -> Served:
        """It is running."""
        served = self._running.get((door, configuration))
        if served is None:
            folder = self._new_folder(configuration)
            served = self._stack.enter_context(Served(CONFIGURATIONS[configuration], folder, door))
            self._running[door, configuration] = served
        return served

    @property
    def complaints(self) -> list[str]:
        """What servers said that they say about their own failures alone."""
        return [
            f"{configuration} behind the {door} door said:\n{served.output}"
            for (door, configuration), served in self._running.items()
            if any(word in served.output for word in ("Traceback", "ERROR", "CRITICAL", "killed"))
        ]


# SDKs ---------------------------------------------------------------------------------------------------------------


async def _blank_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request with an empty page. Browsers let only pages that came from this machine speak to it."""
    await reader.readuntil(b"\r\n\r\n")
    page = b"<!doctype html>"
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n" % len(page))
    writer.write(b"Connection: close\r\n\r\n" + page)
    writer.close()


#: A fixture that makes clients: `await connected(url, user="42")`.
Open = Callable[..., Awaitable[Client]]

#: A fixture that opens the server API of a server.
Api = Callable[[Served], cent.AsyncClient]


class Drivers:
    """Drivers, started when they are wanted."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._logs = Logs()
        self._running: dict[str, Driver] = {}

    async def sdk(self, name: str) -> Sdk:
        """It is ready."""
        kind, protobuf = SDKS[name]
        if kind not in self._running:
            make = {"node": self._node, "page": self._page, "python": self._python}[kind]
            self._running[kind] = await make()
        return Sdk(name, self._running[kind], self._logs, protobuf)

    async def _python(self) -> Driver:
        return PythonDriver(self._logs)

    async def _node(self) -> Driver:
        node = shutil.which("node") or missing("node")
        if not (ROOT / "web" / "node_modules" / "centrifuge").exists():
            missing("web/node_modules (python3 dev.py web)")
        driver = NodeDriver(self._logs, node)
        await driver.start()
        self._stack.push_async_callback(driver.stop)
        return driver

    async def _page(self) -> Driver:
        chromium = shutil.which("chromium-headless-shell") or missing("chromium-headless-shell")
        if not BUNDLE.exists():
            missing(f"{BUNDLE.relative_to(ROOT)} (python3 dev.py web)")
        playwright = await self._stack.enter_async_context(async_playwright())
        flags = [*CHROMIUM_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = await playwright.chromium.launch(executable_path=chromium, args=flags)
        self._stack.push_async_callback(browser.close)
        page = await browser.new_page()
        pages = await self._stack.enter_async_context(await asyncio.start_server(_blank_page, "127.0.0.1", 0))
        await page.goto(f"http://127.0.0.1:{pages.sockets[0].getsockname()[1]}/")
        driver = PageDriver(self._logs, page)
        await driver.start(BUNDLE)
        return driver


async def new_client(
    sdk: Sdk, opened: list[Client], url: str, *, user: str | None = None, info: object = None, **options: Any
) -> Client:
    """`user`: with a token of theirs."""
    if user is not None:
        options["token"] = token(user, info=info)
    client = await Client(sdk).open(url, **options)
    opened.append(client)
    return client


# tokens: made by hand, as any back end would, and not by the code under test ------------------------------------------


def token(user: str, *, expires_in: float | None = None, secret: str = SECRET, **claims: object) -> str:
    """A connection token."""
    if expires_in is not None:
        claims["exp"] = int(time.time() + expires_in)
    return _signed({"sub": user} | {name: claim for name, claim in claims.items() if claim is not None}, secret)


def subscription_token(user: str, channel: str, **claims: Any) -> str:
    """A subscription token."""
    return token(user, channel=channel, **claims)


def _signed(claims: dict[str, object], secret: str) -> str:
    parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    text = ".".join(parts)
    return f"{text}.{_base64(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
