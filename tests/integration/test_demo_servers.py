"""The demo on two servers that share a Redis: a browser at each, and the Redis stalled, gone, back, and emptied."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect
from tests.backends import RedisServer
from tests.integration.demo_support import PATIENCE, Demo, Pair, offsets, say, tabs

pytestmark = pytest.mark.timeout(
    240
)  # two servers, a browser, and a broker that is away for longer than a publish waits

LAWS = (Path(__file__).with_name("test_demo_laws.js")).read_text()

#: Milliseconds. A publish has five seconds, and a server that was away is looked for at least every five.
LONG = 3 * PATIENCE


@pytest.fixture
async def pair(own_backend: RedisServer) -> AsyncIterator[Pair]:
    async with Demo(own_backend.url) as one, Demo(own_backend.url) as two, tabs() as open_tab:
        yield Pair(one, two, await open_tab("Wren", at=one), await open_tab("Otter", at=two), open_tab)


def texts(page: Page) -> Locator:
    """What the page shows as said."""
    return page.locator(".message:not(.pending) .text:visible")


async def test_messages_typing_and_people_cross_and_say_where_they_are(pair: Pair) -> None:
    wren, otter = pair.pages
    await expect(wren.locator("#state")).to_have_text(f"Connected to :{pair.one.port}")
    await expect(otter.locator("#state")).to_have_text(f"Connected to :{pair.two.port}")
    await expect(wren.locator("#here li")).to_have_text([re.compile("Wren.*you$"), f"OOtter via :{pair.two.port}"])
    await expect(otter.locator("#here li")).to_have_text([re.compile("Otter.*you$"), f"WWren via :{pair.one.port}"])

    await say(wren, "hello")
    await expect(texts(otter)).to_have_text(["hello"])
    await otter.locator("#text").press_sequentially("He")
    await expect(wren.locator("#typing")).to_have_text("Otter is typing …")
    await say(otter, "hello yourself", "and good morning")
    for page, elsewhere in ((wren, pair.two), (otter, pair.one)):
        await expect(texts(page)).to_have_text(["hello", "hello yourself", "and good morning"])
        assert await offsets(page) == [1, 2, 3]
        via = page.locator(".message:not(.same) .elsewhere:visible")
        await expect(via).to_have_text([f"via :{elsewhere.port}"])  # once for two in one breath, and not for one's own
        await expect(page.locator("#place")).to_have_text(f":{pair.one.port if page is wren else pair.two.port}")
    assert await wren.locator("#epoch").inner_text() == await otter.locator("#epoch").inner_text()

    await otter.close()
    await expect(wren.locator("#here li")).to_have_count(1)


async def test_a_redis_that_stalls_or_starts_again_with_its_data_costs_nothing(
    pair: Pair, own_backend: RedisServer
) -> None:
    wren, otter = pair.pages
    await say(wren, "one")
    own_backend.pause()
    for page, text in ((wren, "two"), (otter, "three")):
        await page.fill("#text", text)
        await page.press("#text", "Enter")
        await expect(page.locator(".pending:not(.failed) .text")).to_have_text([text])
    own_backend.resume()
    for page in pair.pages:
        await expect(texts(page)).to_have_count(3, timeout=LONG)
        await expect(page.locator(".pending")).to_have_count(0)

    await asyncio.to_thread(own_backend.command, "SAVE")
    own_backend.kill()
    await otter.locator("#text").press_sequentially("typing into the void")  # such hints are worth nothing later
    await otter.press("#text", "Enter")
    refusal = otter.locator(".delayed .refusal")
    await expect(refusal).to_have_text("Not sent yet: the server cannot pass it on. Trying again.", timeout=LONG)
    await otter.fill("#text", "and more")
    await otter.press("#text", "Enter")
    await expect(otter.locator(".pending .text")).to_have_text(["typing into the void", "and more"])
    await expect(otter.locator("#state[data-state=connected]")).to_be_visible()

    own_backend.start()
    for page in pair.pages:
        await expect(texts(page).last).to_have_text("and more", timeout=LONG)
        await expect(page.locator(".pending")).to_have_count(0)
    await say(wren, "and on it goes")
    for page in pair.pages:
        await expect(texts(page)).to_have_count(6)
        assert await offsets(page) == [1, 2, 3, 4, 5, 6]
        await expect(page.locator("#holes")).to_have_text("0")
        await expect(page.locator(".gap.lost")).to_have_count(0)
    said = await texts(wren).all_inner_texts()
    assert said == await texts(otter).all_inner_texts()
    assert said[0] == "one"
    assert sorted(said[1:3]) == ["three", "two"], "nobody knows whose was first"
    assert said[3:] == ["typing into the void", "and more", "and on it goes"]


async def test_a_redis_that_comes_back_empty_is_said_plainly_and_all_goes_on(
    pair: Pair, own_backend: RedisServer
) -> None:
    wren, otter = pair.pages
    await say(wren, "one", "two")
    await expect(texts(otter)).to_have_count(2)
    own_backend.kill()
    own_backend.start()  # it keeps nothing on disk
    for page in pair.pages:
        gap = page.locator(".log:not([hidden]) .gap.lost")
        await expect(gap).to_contain_text("The room began anew.", timeout=LONG)
    await say(wren, "three")
    await say(otter, "four")
    for page in pair.pages:
        await expect(texts(page)).to_have_text(["one", "two", "three", "four"])
        assert await offsets(page) == [1, 2, 1, 2]
        await expect(page.locator("#holes")).to_have_text("0")
    assert await wren.locator("#epoch").inner_text() == await otter.locator("#epoch").inner_text()


@pytest.mark.parametrize("own_backend", ["redis"], indirect=True)
async def test_whoever_was_cut_off_recovers_what_the_other_server_published(pair: Pair) -> None:
    wren, otter = pair.pages
    await say(wren, "one")
    await expect(texts(otter)).to_have_count(1)
    await wren.evaluate("import('/static/network.js').then(network => network.cut())")
    await expect(wren.locator(".log:not([hidden]) .gap.open")).to_be_attached()
    await say(otter, "two", "three")
    await wren.evaluate("import('/static/network.js').then(network => network.mend())")
    await expect(wren.locator("#outcome")).to_contain_text("Recovered 2 messages, #2 to #3, nothing lost")
    assert await offsets(wren) == [1, 2, 3]


@pytest.mark.parametrize("own_backend", ["redis"], indirect=True)
async def test_where_somebody_is_fits_everywhere_and_can_be_read(pair: Pair) -> None:
    await say(pair.otter, "hello")
    for scheme in ("light", "dark"):
        look: dict[str, Any] = {"color_scheme": scheme, "reduced_motion": "reduce"}
        heron = await pair.open_tab("Heronheronheronheronhero", at=pair.one, **look)
        await expect(heron.locator(".who:visible .elsewhere")).to_have_count(1)
        for width in (320, 390, 768, 1024, 1440):
            await heron.set_viewport_size({"width": width, "height": 800})
            assert await heron.evaluate(f"{LAWS}; outside()") == [], f"{scheme}, {width} pixels wide"
        assert await heron.evaluate(f"{LAWS}; nameless()") == []
        assert await heron.evaluate(f"{LAWS}; pale()") == [], scheme
