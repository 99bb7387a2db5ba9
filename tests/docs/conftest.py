"""A browser in which the official client is the one that was built here."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import BrowserContext, Page, Route, async_playwright
from tests.compat.stage import BUNDLE, CHROMIUM_FLAGS, missing
from tests.docs.running import Browse

#: Where pages fetch the official client from; nothing else is fetched from elsewhere.
CDN = "https://unpkg.com/centrifuge@5.7.1/dist/centrifuge.js"

#: Any address but this machine's.
ELSEWHERE = re.compile(r"https?://(?!localhost[:/]|127\.0\.0\.1[:/])")

Open = Callable[[], Awaitable[BrowserContext]]


@pytest.fixture
async def open_browser() -> AsyncIterator[Open]:
    """Starts a browser when it is wanted; what is on the network is what the tests give it."""
    async with AsyncExitStack() as stack:

        async def give(route: Route) -> None:
            await route.fulfill(path=BUNDLE, content_type="text/javascript")

        async def start() -> BrowserContext:
            if not BUNDLE.exists():
                missing(BUNDLE.name)
            playwright = await stack.enter_async_context(async_playwright())
            chromium = shutil.which("chromium-headless-shell") or missing("chromium-headless-shell")
            flags = [*CHROMIUM_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
            browser = await playwright.chromium.launch(executable_path=chromium, args=flags)
            stack.push_async_callback(browser.close)
            context = await browser.new_context()
            await context.route(ELSEWHERE, lambda route: route.abort())
            await context.route(CDN, give)
            return context

        yield start


@pytest.fixture
def browse(open_browser: Open) -> Browse:
    """Opens a URL of ours with the official client loaded."""

    async def open_page(url: str) -> Page:
        page = await (await open_browser()).new_page()
        await page.goto(url)
        await page.add_script_tag(path=BUNDLE)
        return page

    return open_page
