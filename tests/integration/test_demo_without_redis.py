"""The demo on two servers with one log in PostgreSQL: Redis gone for good, PostgreSQL restarted while both write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect
from tests.backends import RedisServer
from tests.databases import PostgresServer
from tests.integration.demo_support import PATIENCE, Demo, Pair, offsets, say, tabs

pytestmark = pytest.mark.timeout(400)  # five servers and up to four pages, and what is away is waited for

LAWS = (Path(__file__).with_name("test_demo_laws.js")).read_text()

#: Messages of each in one breath. Some are shown as sent when something is killed, and some are on their way.
COUNT = 30

#: Milliseconds. A server waits five seconds for what is away, and the page asks again two seconds later.
LONG = 3 * PATIENCE


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    """This test's alone, to be restarted."""
    with PostgresServer("postgres15") as server:
        yield server


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """This test's alone, to be killed."""
    with RedisServer("redis") as server:
        yield server


@pytest.fixture
async def pair(database: PostgresServer, redis: RedisServer) -> AsyncIterator[Pair]:
    store = database.database()
    async with Demo(redis.url, store) as one, Demo(redis.url, store) as two, tabs() as open_tab:
        yield Pair(one, two, await open_tab("Wren", at=one), await open_tab("Otter", at=two), open_tab)


def texts(page: Page) -> Locator:
    """What the page shows as sent."""
    return page.locator(".message:not(.pending) .text:visible")


def breath(name: str) -> list[str]:
    """What somebody writes in one breath."""
    return [f"{name} {number}" for number in range(COUNT)]


async def write(page: Page, *lines: str) -> None:
    """As fast as the page takes it: it shows at once what it has not sent yet."""
    for line in lines:
        await page.fill("#text", line)
        await page.press("#text", "Enter")


async def has_all(page: Page, *speeches: list[str]) -> list[str]:
    """The page shows all of it as sent, once, each speech in its order. Returns the messages as they stand there."""
    everything = [line for speech in speeches for line in speech]
    await expect(texts(page)).to_have_count(len(everything), timeout=LONG)
    await expect(page.locator(".pending")).to_have_count(0)
    said = await texts(page).all_inner_texts()
    assert sorted(said) == sorted(everything)
    for speech in speeches:
        assert [line for line in said if line in speech] == speech
    assert await offsets(page) == list(range(1, len(everything) + 1))
    await expect(page.locator("#holes")).to_have_text("0")
    await expect(page.locator(".gap.lost")).to_have_count(0)
    return said


async def in_the_midst_of(pair: Pair) -> tuple[set[str], list[asyncio.Task[None]]]:
    """Both write. Returns in the midst of it, with what is shown as sent by now, and what goes on."""
    await say(pair.wren, "hello")
    tasks = [asyncio.create_task(write(page, *breath(name))) for page, name in zip(pair.pages, "wo", strict=True)]
    for page in pair.pages:
        await expect(texts(page).nth(5)).to_be_visible()
    return {text for page in pair.pages for text in await texts(page).all_inner_texts()}, tasks


async def test_redis_killed_for_good_and_chat_between_two_browsers_on_two_servers_goes_on(
    pair: Pair, redis: RedisServer
) -> None:
    wren, otter = pair.pages
    shown, writing = await in_the_midst_of(pair)
    redis.kill()
    await asyncio.gather(*writing)
    speeches = [["hello"], breath("w"), breath("o")]
    said = await has_all(wren, *speeches)
    assert await has_all(otter, *speeches) == said
    assert shown <= set(said)

    for number in range(3):  # and a conversation: each hears the other before the next answers
        for page, other in ((wren, otter), (otter, wren)):
            line = f"{'question' if page is wren else 'answer'} {number}"
            await page.locator("#text").press_sequentially(line)  # the hints that somebody is typing are lost
            await page.press("#text", "Enter")
            await expect(texts(other).last).to_have_text(line)
            said.append(line)
            speeches.append([line])
    assert await has_all(wren, *speeches) == await has_all(otter, *speeches) == said
    await expect(otter.locator("#state[data-state=connected]")).to_be_visible()

    await otter.reload()
    assert await has_all(otter, *speeches) == said
    for name, server in (("Lark", pair.one), ("Heron", pair.two)):  # they have never heard of a Redis
        late = await pair.open_tab(name, at=server)
        assert await has_all(late, *speeches) == said
        line = f"so I am {name}"
        await say(late, line)
        said.append(line)
        speeches.append([line])
        for page in (*pair.pages, late):
            assert await has_all(page, *speeches) == said


async def test_without_redis_the_page_says_what_it_does_not_know_and_learns_it_again(
    pair: Pair, redis: RedisServer
) -> None:
    wren, otter = pair.pages
    await expect(wren.locator("#here li")).to_have_count(2)
    redis.kill()
    late = await pair.open_tab("Lark", at=pair.two)
    for page in (*pair.pages, late):
        await expect(page.get_by_text("Who else is here is not known now.")).to_be_visible(timeout=LONG)
        await expect(page.locator("#count")).to_have_text("")
    await expect(wren.locator("#here li")).to_have_count(2)  # those whom it knew
    await expect(late.locator("#here li")).to_have_text(["LLarkyou"])
    assert await late.evaluate(f"{LAWS}; [...outside(), ...nameless(), ...pale()]") == []

    await otter.close()  # nobody is told
    redis.start()
    for page, names in ((wren, ["Wren", "Lark"]), (late, ["Lark", "Wren"])):
        await expect(page.locator("#doubt")).to_be_hidden(timeout=LONG)
        await expect(page.locator("#here li:not(.leaving) > span:nth-child(2)")).to_have_text(names, timeout=LONG)
        await expect(page.locator("#count")).to_have_text("2")


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_postgresql_restarted_while_both_write_costs_a_moment(
    pair: Pair, database: PostgresServer, end: str
) -> None:
    shown, writing = await in_the_midst_of(pair)
    await asyncio.to_thread(database.kill if end == "killed" else database.stop)
    await asyncio.gather(*writing)
    for page, line in zip(pair.pages, ("w meanwhile", "o meanwhile"), strict=True):
        await write(page, line)
        await expect(page.locator(".pending .text").last).to_have_text(line)
    if end == "killed":  # and it is away for too long: what was sent later may not overtake what was refused
        for page in pair.pages:
            await expect(page.locator(".delayed .refusal").first).to_contain_text("Not sent yet", timeout=LONG)
    await asyncio.to_thread(database.start)

    speeches = [["hello"], [*breath("w"), "w meanwhile"], [*breath("o"), "o meanwhile"]]
    said = await has_all(pair.wren, *speeches)
    assert await has_all(pair.otter, *speeches) == said
    assert shown <= set(said)
    await say(pair.otter, "on it goes")
    for page in (*pair.pages, await pair.open_tab("Lark", at=pair.one)):
        assert await has_all(page, *speeches, ["on it goes"]) == [*said, "on it goes"]
