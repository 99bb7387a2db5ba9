"""The chats that are printed in README.md and docs/start.md, as they are printed: in two tabs of a real browser."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import BrowserContext, Page, expect
from tests.docs.conftest import CDN, Open
from tests.docs.pages import ROOT, Block, blocks
from tests.docs.running import Stage

README = ROOT / "README.md"
START = ROOT / "docs/start.md"


def is_server(block: Block) -> bool:
    return block.language == "console" and "hubbub serve chat:hub" in block.text


def chats(page: Path) -> list[list[Block]]:
    """The files of each chat of a page, each with the start of its server behind them."""
    found: list[list[Block]] = [[]]
    for block in blocks(page):
        if block.file.startswith("chat.") or is_server(block):
            found[-1].append(block)
        if is_server(block):
            found.append([])
    return found[:-1]


class Tabs:
    """Tabs of one browser that show what a stage serves, and what went wrong in them."""

    def __init__(self, browser: BrowserContext, stage: Stage) -> None:
        self._browser = browser
        self._port = stage.port
        self.errors: list[str] = []

    async def open(self, name: str = "", *, port: int = 0) -> Page:
        """A tab; its user answers with that name when asked for one. `port` is another server's than the first."""
        page = await self._browser.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        if name:
            page.once("dialog", lambda dialog: dialog.accept(name))
        await page.goto(f"http://127.0.0.1:{port or self._port}")
        return page


async def say(page: Page, text: str) -> None:
    await page.fill("#text", text)
    await page.press("#text", "Enter")


async def talk(ann: Page, bob: Page) -> None:
    """Two tabs talk, a reload shows what was said, and the server's refusal arrives."""
    await say(ann, "hello")
    await expect(bob.locator("#said li")).to_have_text(["hello"])
    await say(bob, "hi <b>there</b>")
    for page in (ann, bob):
        await expect(page.locator("#said li")).to_have_text(["hello", "hi <b>there</b>"])
    await ann.reload()
    await expect(ann.locator("#said li")).to_have_text(["hello", "hi <b>there</b>"])

    async with ann.expect_event("dialog") as refusal:
        ann.once("dialog", lambda dialog: dialog.accept())
        await say(ann, " ")
    assert (await refusal.value).message == "say something"
    await expect(bob.locator("#said li")).to_have_count(2)


async def test_the_chat_of_the_readme(tmp_path: Path, open_browser: Open) -> None:
    async with Stage(tmp_path) as stage:
        for block in chats(README)[0]:
            await stage.run(block)
        tabs = Tabs(await open_browser(), stage)
        await talk(await tabs.open(), await tabs.open())
        assert not tabs.errors


async def test_the_second_server_of_the_readme(tmp_path: Path, open_browser: Open) -> None:
    first, second = chats(README)[:2]
    async with Stage(tmp_path) as stage:
        for block in [block for block in first if block.file] + second:
            await stage.run(block)
        tabs = Tabs(await open_browser(), stage)
        pages = await tabs.open(), await tabs.open(port=stage.second_port)
        await talk(*pages)
        for block in blocks(README):
            if block.language == "sh" and block.text.startswith("redis-cli"):
                await stage.run(block)
        for page in pages:
            await expect(page.locator("#said li").last).to_have_text("hello from a shell")
        assert not tabs.errors


async def test_the_chats_of_the_first_page(tmp_path: Path, open_browser: Open) -> None:
    first, second = chats(START)
    async with Stage(tmp_path) as stage:
        for block in first:
            await stage.run(block)
        tabs = Tabs(await open_browser(), stage)
        ann, bob = await tabs.open(), await tabs.open()
        await talk(ann, bob)

        recovered = "new Promise((resolve) => room.on('subscribed', (context) => resolve(context.recovered)))"
        for page in (ann, bob):
            await page.evaluate(f"() => {{ globalThis.told = {recovered}; }}")
        await stage.run(first[-1])  # the server again: its memory is gone
        assert [await page.evaluate("() => told") for page in (ann, bob)] == [False, False]
        await say(bob, "again")
        await expect(ann.locator("#said li")).to_have_text(["again"])

        for page in (ann, bob):
            await page.close()
        for block in second:
            await stage.run(block)
        ann, bob = await tabs.open("Ann"), await tabs.open("Bob")
        for page in (ann, bob):
            await expect(page.locator("#here")).to_have_text("Ann, Bob")
        await say(ann, " hello ")
        await expect(bob.locator("#said li")).to_have_text(["Ann: hello"])
        await bob.close()
        await expect(ann.locator("#here")).to_have_text("Ann")
        assert not tabs.errors


def test_the_pages_fetch_the_client_that_is_tested() -> None:
    printed = [block.text for page in (README, START) for block in blocks(page) if block.language == "html"]
    version = (ROOT / "web/package.json").read_text().split('"centrifuge": "')[1].split('"')[0]
    assert f"centrifuge@{version}/" in CDN
    assert len(printed) == 3
    assert all(f'<script src="{CDN}"></script>' in text for text in printed)
