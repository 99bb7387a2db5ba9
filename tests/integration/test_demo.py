"""The demo, as people use it: real browsers, two tabs, a cut connection, a reload, a keyboard and no mouse."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from playwright.async_api import Page, expect
from tests.integration.demo_support import PATIENCE, Demo, Open, connected, offsets, say, tabs

pytestmark = pytest.mark.timeout(180)  # two browsers, where much else is going on

LAWS = (Path(__file__).with_name("test_demo_laws.js")).read_text()


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    """The demo, running."""
    async with Demo() as demo:
        yield demo


@pytest.fixture
async def open_tab(demo: Demo) -> AsyncIterator[Open]:
    """Opens the page as one more person, connected."""
    async with tabs() as open_tab:
        yield partial(open_tab, at=demo)


async def go(page: Page, room: str) -> None:
    """Go to another room."""
    await page.locator("#rooms button", has_text=room).click()
    await expect(page.locator("#title")).to_have_text(room)


async def publish(page: Page, first: int, last: int) -> None:
    """Write many messages at once, past the field."""
    await page.evaluate(
        """async ([first, last]) => {
            const { client } = await import("/static/network.js");
            const all = Array.from({ length: last - first + 1 }, (_, index) => first + index);
            await Promise.all(all.map(n => client.publish("demo:lobby", { text: `number ${n}` })));
        }""",
        [first, last],
    )


# two people ----------------------------------------------------------------------------------------------------------


async def test_two_people_talk_and_see_each_other(open_tab: Open) -> None:
    wren, otter = await open_tab("Wren"), await open_tab("Otter")
    await expect(wren.locator("#here li")).to_have_count(2)
    await expect(otter.locator("#here li")).to_have_text([re.compile("Otter.*you"), re.compile("Wren")])

    await say(wren, "hello")
    await say(otter, "hello yourself", "and good morning")
    for page in (wren, otter):
        await expect(page.locator(".text:visible")).to_have_text(["hello", "hello yourself", "and good morning"])
        await expect(page.locator(".offset:visible")).to_have_text(["#1", "#2", "#3"])
        await expect(page.locator(".message:not(.same) .who b")).to_have_text(
            ["Wren", "Otter"]
        )  # once for two in one breath
        await expect(page.locator("#position")).to_have_text("#3")
        await expect(page.locator("#rate b")).not_to_have_text("0")

    await otter.close()
    await expect(wren.locator("#here li")).to_have_count(1)


async def test_typing_is_shown_and_vanishes_and_leaves_no_trace(open_tab: Open) -> None:
    wren, otter = await open_tab("Wren", before="clock"), await open_tab("Otter")
    typing = wren.locator("#typing")

    await otter.locator("#text").press_sequentially("He")
    await expect(typing).to_have_text("Otter is typing …")
    await otter.fill("#text", "")
    await expect(typing).to_have_text("")

    await otter.locator("#text").press_sequentially("Hello")
    await expect(typing).to_have_text("Otter is typing …")
    await otter.press("#text", "Enter")
    await expect(wren.locator(".text:visible")).to_have_text(["Hello"])
    await expect(typing).to_have_text("")
    await expect(wren.locator("#position")).to_have_text("#1")  # hints have no offsets

    await otter.locator("#text").press_sequentially("I was about to")
    await expect(typing).to_have_text("Otter is typing …")
    await otter.close()
    await wren.clock.fast_forward(4000)
    await expect(typing).to_have_text("")

    await wren.reload()
    await expect(wren.locator(".text:visible")).to_have_text(["Hello"])
    await expect(typing).to_have_text("")


async def test_whoever_is_cut_off_gets_exactly_what_they_missed(open_tab: Open) -> None:
    wren, otter = await open_tab("Wren"), await open_tab("Otter")
    await say(wren, "hello")
    await expect(otter.locator("#position")).to_have_text("#1")

    await wren.get_by_role("switch", name="Cut my connection").click()
    await expect(wren.locator("#state")).to_have_text("Cut")
    await expect(wren.locator(".log:not([hidden]) .gap.open")).to_contain_text("Connection cut after #1")
    await expect(otter.locator("#here li")).to_have_count(1)
    await say(otter, "while you were away")
    await wren.fill("#text", "written in the dark")
    await wren.press("#text", "Enter")
    await expect(wren.locator(".pending .text")).to_have_text("written in the dark")
    await expect(otter.locator("#position")).to_have_text("#7", timeout=PATIENCE)  # the teller has said its five lines
    assert await offsets(wren) == [1]

    await wren.get_by_role("switch", name="Cut my connection").click()
    sentence = re.compile(r"^.?Recovered 6 messages, #2 to #7, nothing lost, in \d+ ms\s*$")
    await expect(wren.locator(".log:not([hidden]) .gap.closed")).to_have_text(sentence)
    await expect(wren.locator("#outcome")).to_have_text(sentence)
    await expect(wren.locator("#position")).to_have_text("#8")
    assert await offsets(wren) == list(range(1, 9)), "in order, once each, behind what was there"
    missed = await wren.locator("li.missed").evaluate_all("all => all.map(one => +one.dataset.offset)")
    assert missed == list(range(2, 8)), "what came later was not missed"
    await expect(wren.locator("#recovered")).to_have_text("6")
    await expect(wren.locator("#holes")).to_have_text("0")
    await expect(wren.locator(".pending")).to_have_count(0)
    await expect(otter.locator(".text:visible").last).to_have_text("written in the dark")
    assert await offsets(otter) == list(range(1, 9))


async def test_hundreds_are_recovered_and_the_page_holds_five_hundred(open_tab: Open) -> None:
    wren, otter = await open_tab("Wren"), await open_tab("Otter")
    await publish(otter, 1, 200)
    await expect(wren.locator("#position")).to_have_text("#200")
    await wren.evaluate("import('/static/network.js').then(network => network.cut())")
    await expect(wren.locator(".log:not([hidden]) .gap.open")).to_be_attached()
    await publish(otter, 201, 600)
    await wren.evaluate("import('/static/network.js').then(network => network.mend())")
    await expect(wren.locator("#outcome")).to_contain_text("Recovered 400 messages, #201 to #600, nothing lost")
    found = await offsets(wren)
    assert found == list(range(601 - len(found), 601))
    assert len(found) == 499, "and the line that sums it up"
    await expect(wren.locator("#holes")).to_have_text("0")
    await expect(wren.locator(".text:visible").last).to_be_in_viewport()


async def test_what_cannot_be_recovered_is_said_and_what_one_wrote_still_goes_out(demo: Demo, open_tab: Open) -> None:
    wren = await open_tab("Wren")
    await say(wren, "one", "two")
    await wren.evaluate("import('/static/network.js').then(network => network.cut())")
    await expect(wren.locator("#state")).to_have_text("Cut")
    await wren.fill("#text", "three")
    await wren.press("#text", "Enter")
    await demo.stop()
    await demo.start()  # it kept its rooms in memory, and it knows no token of its former life
    await wren.evaluate("import('/static/network.js').then(network => network.mend())")
    await expect(wren.locator(".log:not([hidden]) .gap.lost")).to_contain_text("The room began anew.", timeout=PATIENCE)
    await expect(wren.locator(".text:visible")).to_have_text(["one", "two", "three"])
    assert await offsets(wren) == [1, 2, 1]


async def test_a_reload_keeps_who_one_is_and_what_was_said(open_tab: Open) -> None:
    wren, otter = await open_tab("Wren"), await open_tab("Otter")
    await say(wren, "hello")
    await say(otter, "hello yourself")
    await go(wren, "Music")
    await say(otter, "gone already?")
    await expect(wren.locator("#rooms .badge:visible")).to_have_text("1 unread")
    user = await wren.evaluate("sessionStorage.me")

    await wren.reload()
    await connected(wren)
    await expect(wren.locator("#title")).to_have_text("Music")
    await expect(wren.locator("#rooms .badge:visible")).to_have_text("1 unread")
    assert await wren.evaluate("sessionStorage.me") == user
    await go(wren, "Lobby")
    await expect(wren.locator(".text:visible")).to_have_text(["hello", "hello yourself", "gone already?"])
    assert await offsets(wren) == [1, 2, 3]


async def test_rooms_are_apart_and_count_what_one_has_not_read(open_tab: Open) -> None:
    wren, otter = await open_tab("Wren"), await open_tab("Otter")
    await go(otter, "Kitchen")
    await expect(wren.locator("#here li")).to_have_count(1)
    await otter.locator("#text").press_sequentially("s")
    kitchen = wren.locator("#rooms button", has_text="Kitchen")
    await expect(kitchen).to_contain_text("Otter is typing")
    await expect(wren.locator("#typing")).to_have_text("")
    await say(otter, "soup!", "and bread")
    await expect(kitchen).to_have_text("KitchenOtter: and bread2 unread")
    await expect(wren).to_have_title("(2) Lobby · hubbub")
    await expect(wren.get_by_text("It is quiet here").locator("visible=true")).to_have_count(1)

    await go(wren, "Kitchen")
    await expect(kitchen.locator(".badge")).to_be_hidden()
    await expect(wren).to_have_title("Kitchen · hubbub")
    await expect(wren.get_by_placeholder("Message to Kitchen")).to_be_visible()
    await expect(wren.locator(".text:visible")).to_have_text(["soup!", "and bread"])
    await expect(wren.locator("#here li")).to_have_count(2)
    await expect(wren.locator("#text")).to_be_focused()


async def test_tabs_of_one_person_are_one_line(open_tab: Open) -> None:
    wren = await open_tab("Wren")
    async with wren.context.expect_page() as opening:
        await wren.get_by_role("link", name="as yourself").click()
    again = await opening.value
    await expect(again.locator("#me b")).to_have_text("Wren")
    await expect(wren.locator("#here li")).to_have_text([re.compile("you · 2 tabs")])

    async with wren.context.expect_page() as opening:
        await wren.get_by_role("link", name="as somebody else").click()
    other = await opening.value
    await expect(wren.locator("#here li")).to_have_count(2)
    await expect(other.locator("#me b")).to_have_text(re.compile(r"^\w+$"))
    await again.close()
    await expect(wren.locator("#here li").first).to_have_text(re.compile("you$"))


async def test_everything_works_without_a_mouse(open_tab: Open) -> None:
    wren, otter = await open_tab("Wren"), await open_tab("Otter")
    await tab_to(wren, ".skip", back=True)
    await expect(wren.get_by_role("link", name="Skip to the message field")).to_be_in_viewport()
    await wren.keyboard.press("Enter")
    await expect(wren.locator("#text")).to_be_focused()
    await wren.keyboard.type("first")
    await wren.keyboard.press("Shift+Enter")
    await wren.keyboard.type("second")
    await wren.keyboard.press("Enter")
    await expect(otter.locator(".text:visible")).to_have_text("first\nsecond", use_inner_text=True)
    await expect(wren.locator("#text")).to_be_focused()

    await tab_to(wren, "#rooms button", back=True)
    await wren.keyboard.press("ArrowDown")
    await wren.keyboard.press("Enter")
    await expect(wren.locator("#title")).to_have_text("Kitchen")
    await tab_to(wren, "#rooms button", back=True)
    await wren.keyboard.press("Home")
    await wren.keyboard.press("Enter")
    await expect(wren.locator("#title")).to_have_text("Lobby")

    await tab_to(wren, "#cut")
    await wren.keyboard.press("Space")
    await expect(wren.get_by_role("switch", checked=True)).to_be_focused()
    await expect(otter.locator("#position")).to_have_text("#2")
    await wren.keyboard.press("Space")
    await expect(wren.locator("#outcome")).to_contain_text("nothing lost")
    await expect(wren.get_by_role("switch", checked=False)).to_be_focused()


async def tab_to(page: Page, selector: str, *, back: bool = False) -> None:
    """Press Tab until an element that matches has the focus, and see that it shows."""
    for _ in range(20):
        await page.keyboard.press("Shift+Tab" if back else "Tab")
        if await page.evaluate("selector => document.activeElement.matches(selector)", selector):
            outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"the focus on {selector} cannot be seen"
            return
    raise AssertionError(f"the Tab key does not reach {selector}")


# what goes wrong -----------------------------------------------------------------------------------------------------


async def test_what_cannot_be_sent_says_so_and_is_not_lost(open_tab: Open) -> None:
    wren = await open_tab("Wren")
    send = wren.get_by_role("button", name="Send")
    await expect(send).to_be_disabled()
    await wren.fill("#text", "x" * 4001)
    await expect(wren.get_by_role("alert")).to_have_text("4,001 characters: at most 4,000")
    await expect(send).to_be_disabled()
    await wren.press("#text", "Enter")
    await expect(wren.locator(".message")).to_have_count(0)

    too_many_bytes = "\x01" * 4000  # six bytes each in JSON
    await wren.fill("#text", too_many_bytes)
    await send.click()
    await expect(wren.locator(".failed")).to_contain_text("Not sent: payload of")
    await wren.get_by_role("button", name="Put it back").click()
    await expect(wren.locator("#text")).to_have_value(too_many_bytes)
    await expect(wren.locator("#text")).to_be_focused()
    await expect(wren.locator(".message")).to_have_count(0)


async def test_what_people_write_is_text_and_nothing_else(open_tab: Open) -> None:
    wren = await open_tab("<u>Wren</u>")
    await say(wren, "<img src=x onerror=alert(1)>")
    await expect(wren.locator(".text:visible")).to_have_text("<img src=x onerror=alert(1)>")
    await expect(wren.locator(".who:visible b")).to_have_text("<u>Wren</u>")
    await expect(wren.locator("main img, main u, aside u, nav img, header u")).to_have_count(0)


# looks ---------------------------------------------------------------------------------------------------------------


LONG = ("a" * 4000, "مرحبا بالجميع، كيف حالكم اليوم؟", "😀👩‍👩‍👧‍👦🏳️‍🌈" * 60, "word " * 790, "line\n" * 200)


async def test_nothing_sticks_out_at_any_width(open_tab: Open) -> None:
    wren = await open_tab("Wrenwrenwrenwrenwrenwren")

    async def nothing_sticks_out(when: str) -> None:
        for width in (320, 390, 768, 1024, 1280, 2560):
            await wren.set_viewport_size({"width": width, "height": 800})
            assert await wren.evaluate(f"{LAWS}; outside()") == [], f"{when}, {width} pixels wide"

    await nothing_sticks_out("an empty room")
    await say(wren, *LONG)
    await nothing_sticks_out("long messages")
    await wren.get_by_role("switch", name="Cut my connection").click()
    await expect(wren.locator(".log:not([hidden]) .gap.open")).to_be_attached()
    await wren.set_viewport_size({"width": 320, "height": 800})
    await wren.get_by_role("button", name="Details").click()
    await expect(wren.locator("#facts")).to_be_visible()
    await nothing_sticks_out("cut")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everything_has_a_name_and_can_be_read(open_tab: Open, scheme: str) -> None:
    wren, otter = await open_tab("Wren", color_scheme=scheme, reduced_motion="reduce"), await open_tab("Otter")
    await go(otter, "Kitchen")
    await say(otter, "soup!")
    await go(otter, "Lobby")
    await say(wren, "hello")
    await otter.locator("#text").press_sequentially("x")
    await expect(wren.locator("#typing")).not_to_be_empty()
    assert await wren.evaluate(f"{LAWS}; nameless()") == []
    assert await wren.evaluate(f"{LAWS}; pale()") == []

    await wren.get_by_role("switch", name="Cut my connection").click()
    await expect(wren.locator(".log:not([hidden]) .gap.open")).to_be_attached()
    await say(otter, "and now?")
    await wren.fill("#text", "x" * 4001)
    assert await wren.evaluate(f"{LAWS}; pale()") == [], "cut"
    await wren.get_by_role("switch", name="Cut my connection").click()
    await expect(wren.locator(".log:not([hidden]) .gap.closed")).to_be_attached()
    assert await wren.evaluate(f"{LAWS}; pale()") == [], "recovered"
    assert await wren.evaluate("document.getAnimations().length") == 0, "somebody asked for less motion"


async def test_the_theme_is_the_systems_until_somebody_chooses(open_tab: Open) -> None:
    wren = await open_tab("Wren", color_scheme="dark")
    dark = await wren.evaluate("getComputedStyle(document.body).backgroundColor")
    button = wren.get_by_role("button", name="Dark theme")
    await expect(button).to_have_attribute("aria-pressed", "true")
    await button.click()
    await expect(button).to_have_attribute("aria-pressed", "false")
    light = await wren.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light != dark
    await wren.reload()
    await expect(button).to_have_attribute("aria-pressed", "false")
    assert await wren.evaluate("getComputedStyle(document.body).backgroundColor") == light
