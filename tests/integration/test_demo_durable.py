"""The demo with a store: killed with -9 while two tabs write, and started again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect
from tests.integration.demo_support import PATIENCE, Demo, offsets, say, tabs

pytestmark = pytest.mark.timeout(180)

#: Messages of each tab. Some are shown as sent when the server dies, and some are on their way.
COUNT = 30


def texts(page: Page) -> Locator:
    """What the page shows as sent."""
    return page.locator(".message:not(.pending) .text:visible")


async def write(page: Page, name: str) -> None:
    """All of it in one breath, as fast as a page takes it."""
    for number in range(COUNT):
        await page.fill("#text", f"{name} {number}")
        await page.press("#text", "Enter")


async def test_everything_that_was_shown_as_sent_is_there_once(tmp_path: Path) -> None:
    demo = Demo(store=f"sqlite:///{tmp_path}/demo.db")
    await demo.start()
    async with tabs(may_be_refused=True) as open_tab:
        wren, otter = await open_tab("Wren", at=demo), await open_tab("Otter", at=demo)
        await say(wren, "hello")
        writing = [asyncio.create_task(write(wren, "wren")), asyncio.create_task(write(otter, "otter"))]
        await expect(texts(otter).nth(5)).to_be_visible()
        await demo.kill()
        shown = {text for page in (wren, otter) for text in await texts(page).all_inner_texts()}
        await asyncio.gather(*writing)  # they go on writing meanwhile
        assert len(shown) >= 6
        await demo.start()
        everything = {"hello", *(f"{name} {number}" for name in ("wren", "otter") for number in range(COUNT))}
        for page in (wren, otter):  # what was on its way is sent again, under its key
            await expect(texts(page)).to_have_count(len(everything), timeout=3 * PATIENCE)
            said = await texts(page).all_inner_texts()
            assert set(said) == everything
            for name in ("wren", "otter"):
                mine = [text for text in said if text.startswith(name)]
                assert mine == [f"{name} {number}" for number in range(COUNT)]
            assert await offsets(page) == list(range(1, len(everything) + 1))
        assert shown <= everything
        assert await texts(wren).all_inner_texts() == await texts(otter).all_inner_texts()
        late = await open_tab("Lark", at=demo)
        await expect(texts(late).last).to_have_text((await texts(wren).all_inner_texts())[-1])
    await demo.stop()
