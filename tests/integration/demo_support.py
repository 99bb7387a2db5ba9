"""The demo and its pages, for the tests of both: started as people start it, and opened in a real browser.

Answers for: `hubbub demo` as a process that can end and come back on its port, tabs of different people, and the few
things that people do in them. Refuses to know: what is tested.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

from playwright.async_api import Page, async_playwright, expect
from tests.compat.stage import CHROMIUM_FLAGS, missing
from tests.serving import ROOT, leashed

#: `await open_tab("Wren", at=demo)`: the page, opened by one more person, and connected.
Open = Callable[..., Awaitable[Page]]

#: Milliseconds. The teller says five lines in four seconds, and this machine may have other things to do.
PATIENCE = 20_000

expect.set_options(timeout=PATIENCE)


class Demo:
    """`hubbub demo`, on a free port at first, and on the same one when it starts again.

    Use it as an async context manager, or `start` and `stop` it.
    """

    def __init__(self, broker: str = "", store: str = "") -> None:
        self.url = ""
        self._options = [*(["--broker", broker] if broker else []), *(["--store", store] if store else [])]
        self._process: asyncio.subprocess.Process | None = None

    @property
    def port(self) -> str:
        """The port it listens on, "0" before its first start."""
        return self.url.rstrip("/").rpartition(":")[2] or "0"

    async def start(self) -> None:
        """Return once it has said where it is."""
        command = leashed(sys.executable, "-m", "hubbub", "demo", "--port", self.port, *self._options)
        self._process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode()
        assert "demo: open http" in line, line
        self.url = line.split("open ")[1].split(" ")[0]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def kill(self) -> None:
        """With -9."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """End it."""
        assert self._process is not None
        self._process.terminate()
        assert await self._process.wait() in (0, -signal.SIGTERM)  # uvicorn ends in good order and then by the signal


@asynccontextmanager
async def tabs(*, may_be_refused: bool = False) -> AsyncIterator[Open]:
    """Opens pages of demos. At the end no page may have complained, but for a server that was not there."""
    chromium = shutil.which("chromium-headless-shell") or missing("chromium-headless-shell")
    flags = [*CHROMIUM_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=flags)

        async def open_tab(name: str, *, at: Demo, width: int = 1280, before: str = "", **options: Any) -> Page:
            context = await browser.new_context(viewport={"width": width, "height": 800}, **options)
            page = await context.new_page()
            page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            if before == "clock":
                await page.clock.install()
            await page.goto(f"{at.url}?name={name}")
            await connected(page)
            return page

        yield open_tab
        await browser.close()
    if may_be_refused:
        complaints = [each for each in complaints if "ERR_CONNECTION_REFUSED" not in each]
    assert complaints == []


class Pair(NamedTuple):
    """Two servers, with a person's tab at each."""

    one: Demo
    two: Demo
    wren: Page
    otter: Page
    open_tab: Open

    @property
    def pages(self) -> tuple[Page, Page]:
        """Both tabs."""
        return self.wren, self.otter


async def connected(page: Page) -> None:
    """It is connected, and in the open room."""
    await expect(page.locator("#state[data-state=connected]")).to_be_visible()
    await expect(page.locator("#here li").first).to_be_attached()


async def say(page: Page, *texts: str) -> None:
    """Write messages, and see each come back."""
    for text in texts:
        await page.fill("#text", text)
        await page.press("#text", "Enter")
        await expect(page.locator(".pending")).to_have_count(0)


async def offsets(page: Page) -> list[int]:
    """The offsets of the open room's messages, as they stand on the page."""
    rows = page.locator(".log:not([hidden]) li[data-offset]")
    found: list[int] = await rows.evaluate_all("all => all.map(one => +one.dataset.offset)")
    return found
