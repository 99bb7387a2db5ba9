"""Settings: sections and namespaces without a word, in each place where one may write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.reading import read, refusal

from hubbub import Hubbub
from hubbub.channels import ChannelRules
from hubbub.errors import ConfigurationError
from hubbub.settings import Settings, load
from hubbub.testing import TestHub


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a directory of its own, where its file is hubbub.toml."""
    monkeypatch.chdir(tmp_path)


def declared(**sections: Any) -> Mapping[str, ChannelRules]:
    """By keyword arguments, as an application gives them."""
    return Hubbub(**sections).settings.channels


def refused(**sections: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Hubbub(**sections)
    return str(caught.value)


# An empty table declares its namespace ----------------------------------------------------------------------

CHAT = {"chat": ChannelRules()}


@pytest.mark.parametrize("toml", ["[channels.chat]\n", "[channels]\nchat = {}\n", "channels.chat = {}\n"])
def test_in_the_file(toml: str) -> None:
    assert read(toml).channels == CHAT


def test_in_keyword_arguments() -> None:
    assert declared(channels={"chat": {}}) == CHAT
    assert declared(channels={"chat": {}, "news": {"delivery": "recent"}}) == {
        **CHAT,
        "news": ChannelRules(delivery="recent"),
    }


def test_by_its_dotted_key() -> None:
    assert load(None, {}, {"channels.chat.": {}}).channels == CHAT


@pytest.mark.parametrize("name", ["my.app", "chat.delivery", "delivery", "server"])
def test_whatever_its_name_is_like(name: str) -> None:
    assert declared(channels={name: {}}) == {name: ChannelRules()} == read(f'[channels."{name}"]\n').channels


def test_with_a_rule_from_elsewhere_it_is_one_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBBUB_CHANNELS_MY_CHAT_PRESENCE", "true")
    assert declared(channels={"my-chat": {}}) == {"my-chat": ChannelRules(presence=True)}
    assert read("[channels.my-chat]\n", {"HUBBUB_CHANNELS_MY_CHAT_PRESENCE": "1"}).channels == declared(
        channels={"my-chat": {}}
    )


def test_a_file_s_rules_stay_where_arguments_say_nothing_more() -> None:
    Path("hubbub.toml").write_text('[channels.chat]\ndelivery = "recent"\n')
    assert declared(channels={"chat": {}}) == {"chat": ChannelRules(delivery="recent")}


def test_what_is_stronger_adds_to_it() -> None:
    hub = Hubbub(channels={"chat": {}})
    hub.override({"channels.chat.presence": True, "channels.news.": {}})
    assert hub.settings.channels == {"chat": ChannelRules(presence=True), "news": ChannelRules()}
    hub.override({"server.port": 9000})
    assert set(hub.settings.channels) == {"chat", "news"}


async def test_it_can_be_published_to_and_declared_by_a_test() -> None:
    hub = Hubbub(channels={"chat": {}})
    async with TestHub(hub, channels={"news": {}}):
        await hub.publish("chat:1", "hello")
        await hub.publish("news:1", "hello")


def test_a_class_of_the_same_namespace_is_refused() -> None:
    hub = Hubbub(channels={"chat": {}})
    with pytest.raises(ConfigurationError, match=r"'chat:\{id\}' has its rules in \[channels.chat\] of the settings"):
        hub.channel("chat:{id}", subscribe="anyone")(type("Chat", (), {}))


# A section that says nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("section", ["server", "store", "auth", "client", "channels"])
def test_a_section_without_a_word_leaves_the_defaults(section: str) -> None:
    assert read(f"[{section}]\n") == Settings()
    given: list[dict[str, Any]] = [{section: {}}, {section: None}]
    for sections in given:
        assert Hubbub(**sections).settings == Settings()


# What can mean nothing is refused -----------------------------------------------------------------------------

NAME = "a namespace has two or more of a-z A-Z 0-9 - _ . and nothing else"
TABLE = "expected a table of a namespace, such as"


@pytest.mark.parametrize("name", ["", "c", "a b", "a:b"])
def test_names_are_judged_and_the_place_is_named(name: str) -> None:
    assert refused(channels={name: {}}) == f"argument: [channels.{name}]: {NAME}"
    assert refusal(f'[channels."{name}"]\n') == f"hubbub.toml: [channels.{name}]: {NAME}"


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        ({"channelz": {}}, "unknown setting channelz; the nearest known one is channels"),
        ({"sever": {}}, "unknown setting sever; the nearest known one is server"),
        ({"sever": None}, "unknown setting sever; the nearest known one is server"),
        ({"server": {"tls": {}}}, "unknown setting server.tls; the nearest known one is server.tls_key"),
        ({"server": {"prot": None}}, "unknown setting server.prot; the nearest known one is server.port"),
        ({"server": {"port": {}}}, "server.port = {}: expected an integer, found a table"),
        ({"server": 5}, 'server: expected a table, such as server={"host": …}, found an integer'),
        ({"channels": "chat"}, 'channels: expected a table, such as channels={"chat": {}}, found a string'),
        ({"channels": ["chat"]}, 'channels: expected a table, such as channels={"chat": {}}, found a list'),
        ({"channels": {"chat": None}}, f'channels.chat: {TABLE} {{"chat": {{}}}} for the default rules, found None'),
        ({"channels": {"chat": []}}, f'channels.chat: {TABLE} {{"chat": {{}}}} for the default rules, found a list'),
        (
            {"channels": {"chat": {"foo": {}}}},
            "unknown setting channels.chat.foo; the nearest known one is channels.ch",
        ),
        ({"channels": {"chat": {"rate": {}}}}, "channels.chat.rate = {}: expected a string, found a table"),
    ],
)
def test_keyword_arguments(sections: dict[str, Any], text: str) -> None:
    assert refused(**sections).startswith(f"argument: {text}")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("HUBBUB_STORE", "names a section and no setting of it, such as HUBBUB_STORE_URL"),
        ("HUBBUB_CHANNELS", "names a section and no setting of it, such as HUBBUB_CHANNELS_CHAT_DELIVERY"),
        (
            "HUBBUB_CHANNELS_CHAT",
            "names a namespace and no rule of it; HUBBUB_CHANNELS_CHAT_DELIVERY=live declares it with the defaults",
        ),
        (
            "HUBBUB_CHANNELS_MY_ROOM",
            "names a namespace and no rule of it; HUBBUB_CHANNELS_MY_ROOM_DELIVERY=live declares it with the defaults",
        ),
    ],
)
@pytest.mark.parametrize("value", ["", "live"])
def test_variables(variable: str, value: str, text: str) -> None:
    assert refusal("[channels.my-room]\n", {variable: value}).startswith(f"{variable}: {text}")


def test_a_rule_without_a_namespace_is_meant_for_the_default_one() -> None:
    nearest = "the nearest known one is HUBBUB_CHANNELS_DEFAULT_DELIVERY (channels.default.delivery)"
    said = refusal("", {"HUBBUB_CHANNELS_DELIVERY": "recent"})
    assert said == f"HUBBUB_CHANNELS_DELIVERY: unknown setting channels.delivery; {nearest}"


def test_what_the_error_of_a_variable_says_is_right() -> None:
    assert read("", {"HUBBUB_CHANNELS_CHAT_DELIVERY": "live"}).channels == CHAT
