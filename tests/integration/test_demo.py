"""The demo, as a person uses it: a real browser, two tabs, a cut connection, a reload."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, async_playwright, expect
from tests.compat.stage import CHROMIUM_FLAGS, missing
from tests.serving import ROOT, leashed


@pytest.fixture
async def demo() -> AsyncIterator[str]:
    """The demo's address."""
    command = leashed(sys.executable, "-m", "hubbub", "demo", "--port", "0")
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert "demo: open http" in line, line
    yield line.split("open ")[1].split(" ")[0]
    process.terminate()
    assert await process.wait() in (0, -signal.SIGTERM)  # uvicorn ends in good order and then by the signal


@pytest.fixture
async def tabs() -> AsyncIterator[tuple[Page, Page]]:
    """Two people's browsers."""
    chromium = shutil.which("chromium-headless-shell") or missing("chromium-headless-shell")
    flags = [*CHROMIUM_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=flags)
        first, second = [await (await browser.new_context()).new_page() for _ in range(2)]
        yield first, second
        await browser.close()


async def say(page: Page, text: str) -> None:
    """Write a message, as soon as the page lets one."""
    await page.fill("#text", text)
    await page.get_by_role("button", name="Send").click()


async def test_two_tabs_talk_and_one_is_cut_and_recovers(demo: str, tabs: tuple[Page, Page]) -> None:
    mine, theirs = tabs
    for page in tabs:
        await page.goto(demo)
        await expect(page.locator("#state[data-state=connected]")).to_be_visible()
    await expect(mine.locator("#here li")).to_have_count(2)  # presence, joins
    await say(mine, "hello")
    await expect(theirs.locator("#messages")).to_contain_text("hello")

    await mine.get_by_role("button", name="Cut my connection").click()
    await expect(mine.locator("#state[data-state=cut]")).to_be_visible()
    await expect(theirs.locator("#here li")).to_have_count(1)  # leaves
    await say(theirs, "while you were away")
    await expect(mine.locator("#messages")).not_to_contain_text("while you were away")

    await expect(mine.locator("#state[data-state=connected]")).to_be_visible(timeout=15_000)
    missed = mine.locator("#messages li.missed")
    await expect(missed).to_have_count(6)  # theirs, and the teller's five lines
    offsets = await mine.locator("#messages li[data-offset]").evaluate_all("all => all.map(one => +one.dataset.offset)")
    assert offsets == list(range(1, 8)), "what was missed arrives in order, once, behind what was there"
    await expect(mine.locator("#recovered")).to_have_text("all 6")

    await mine.reload()
    await expect(mine.locator("#messages")).to_contain_text("while you were away")
    offsets = await mine.locator("#messages li[data-offset]").evaluate_all("all => all.map(one => +one.dataset.offset)")
    assert offsets == list(range(1, 8)), "the history is there after a reload"
