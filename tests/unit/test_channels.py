"""Channels: names, the rules that hold for them, and who may what."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from hubbub.channels import (
    DEFAULT,
    MAX_CHANNEL_LENGTH,
    ChannelRules,
    Delivery,
    MayPublish,
    MayRead,
    MaySubscribe,
    Namespaces,
    PersonalChannels,
)
from hubbub.errors import BadRequest, ConfigurationError, UnknownChannel

CHAT = ChannelRules(delivery="recent", max_bytes=100_000)
PLAIN = ChannelRules(publish="anyone")


# Resolving --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "rules"),
    [
        ("news", PLAIN),
        ("chat", PLAIN),
        ("#42", PLAIN),
        ("$private", PLAIN),
        ("chat:", CHAT),
        ("chat:room", CHAT),
        ("chat:room:42", CHAT),
        ("chat:42#7", CHAT),
        ("chat:комната", CHAT),
        ("default:x", PLAIN),
        ("my-ns.2_x:a", CHAT),
        ("x" * MAX_CHANNEL_LENGTH, PLAIN),
        ("é" * MAX_CHANNEL_LENGTH, PLAIN),
    ],
)
def test_channels_find_their_rules(channel: str, rules: ChannelRules) -> None:
    namespaces = Namespaces({"chat": CHAT, "my-ns.2_x": CHAT, DEFAULT: PLAIN})
    assert namespaces.resolve(channel) is rules


@pytest.mark.parametrize("channel", [":", ":x", "cha:x", "Chat:x", "chatt:x", "$chat:x", "a:b", "#1:x", "chat\u200b:x"])
def test_undeclared_namespaces_are_unknown(channel: str) -> None:
    with pytest.raises(UnknownChannel) as caught:
        Namespaces({"chat": CHAT}).resolve(channel)
    assert caught.value.wire_code == 102


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        ("", "channel name is empty"),
        ("x" * 256, "channel name of 256 characters is over the limit of 255"),
        ("nope:" + "x" * 251, "channel name of 256 characters is over the limit of 255"),
        ("a b", "white space or control characters"),
        ("nope: ", "white space or control characters"),
        ("a\n", "white space or control characters"),
        ("\0", "white space or control characters"),
        ("chat:\x7f", "white space or control characters"),
        ("chat:\t", "white space or control characters"),
    ],
)
def test_bad_names(channel: str, text: str) -> None:
    with pytest.raises(BadRequest, match=text) as caught:
        Namespaces({"chat": CHAT}).resolve(channel)
    assert caught.value.wire_code == 107


def test_the_default_namespace_is_always_there_and_closed() -> None:
    rules = Namespaces().resolve("news")
    assert rules == ChannelRules()
    assert not rules.may_subscribe("news", "42")
    assert not rules.may_publish("news", "42", subscribed=True)


@pytest.mark.parametrize("name", ["ab", "a-", "Chat", "a.b_c-1", "22", "x" * 100])
def test_names_of_namespaces(name: str) -> None:
    assert Namespaces({name: CHAT}).resolve(f"{name}:x") is CHAT


@pytest.mark.parametrize("name", ["", "a", "é-namespace", "a b", "a:b", "$a", "a#", "ab\n", "a/b", "*"])
def test_what_is_no_name_of_a_namespace(name: str) -> None:
    with pytest.raises(ConfigurationError, match="a namespace has two or more of"):
        Namespaces({name: CHAT})


def test_the_largest_payload_of_all() -> None:
    assert Namespaces().max_bytes == 65536
    assert Namespaces({"chat": CHAT}).max_bytes == 100_000
    assert Namespaces({DEFAULT: ChannelRules(max_bytes=1)}).max_bytes == 1


def test_later_changes_to_the_mapping_do_not_matter() -> None:
    given = {"chat": CHAT}
    namespaces = Namespaces(given)
    given.clear()
    assert namespaces.resolve("chat:x") is CHAT
    assert list(given) == []


# Rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delivery", "has_memory", "kept"), [("live", False, 0), ("latest", True, 1), ("recent", True, 7)]
)
def test_what_is_kept(delivery: Delivery, has_memory: bool, kept: int) -> None:
    rules = ChannelRules(delivery=delivery, history_size=7)
    assert (rules.has_memory, rules.kept) == (has_memory, kept)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"history_size": 0}, "history_size = 0: expected more than 0"),
        ({"history_size": -1}, "history_size = -1: expected more than 0"),
        ({"history_ttl": 0}, "history_ttl = 0: expected more than 0"),
        ({"history_ttl": -0.5}, "history_ttl = -0.5: expected more than 0"),
        ({"max_bytes": 0}, "max_bytes = 0: expected more than 0"),
        ({"join_leave": "asked"}, "join_leave = 'asked' needs presence = true"),
        ({"join_leave": "always"}, "join_leave = 'always' needs presence = true"),
    ],
)
def test_rules_that_contradict_themselves(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        ChannelRules(**fields)


def test_rules_are_frozen_and_take_no_unknown_fields() -> None:
    with pytest.raises(AttributeError):
        PLAIN.presence = True  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="unknown field `durability`"):
        msgspec.convert({"durability": ""}, ChannelRules)


# Who may ----------------------------------------------------------------------------------------------------

NOBODY, ANONYMOUS, SIGNED_IN, OWNER = "nobody", "", "7", "42"
WHO = {
    # rule: who of the anonymous, another user and the owner of chat:42 may
    "anyone": {ANONYMOUS, SIGNED_IN, OWNER},
    "user": {SIGNED_IN, OWNER},
    "owner": {OWNER},
    "token": set(),
    "nobody": set(),
}


@pytest.mark.parametrize("rule", get_args(MaySubscribe))
@pytest.mark.parametrize("user", [ANONYMOUS, SIGNED_IN, OWNER])
def test_who_may_subscribe(rule: MaySubscribe, user: str) -> None:
    assert ChannelRules(subscribe=rule).may_subscribe("chat:42", user) == (user in WHO[rule])


@pytest.mark.parametrize("rule", get_args(MayPublish))
@pytest.mark.parametrize("user", [ANONYMOUS, SIGNED_IN, OWNER])
@pytest.mark.parametrize("subscribed", [True, False])
def test_who_may_publish(rule: MayPublish, user: str, subscribed: bool) -> None:
    expected = subscribed if rule == "subscriber" else user in WHO[rule]
    assert ChannelRules(publish=rule).may_publish("chat:42", user, subscribed=subscribed) == expected


@pytest.mark.parametrize("rule", get_args(MayRead))
@pytest.mark.parametrize("user", [ANONYMOUS, SIGNED_IN, OWNER])
@pytest.mark.parametrize("subscribed", [True, False])
def test_who_may_read(rule: MayRead, user: str, subscribed: bool) -> None:
    expected = subscribed if rule == "subscriber" else user in WHO[rule]
    assert ChannelRules(read=rule).may_read("chat:42", user, subscribed=subscribed) == expected


@pytest.mark.parametrize(
    ("channel", "user", "owns"),
    [
        ("42", "42", True),
        ("inbox:42", "42", True),
        ("a:b:42", "42", True),
        ("#42", "42", True),
        ("inbox:room#42", "42", True),
        ("inbox:42", "4", False),
        ("inbox:42", "2", False),
        ("inbox:142", "42", False),
        ("inbox:42:x", "42", False),
        ("inbox:", "", False),
        ("inbox#", "", False),
        ("", "", False),
        ("inbox:Ann", "ann", False),
        ("inbox:b", "a:b", False),  # a user with a separator owns nothing: safe, if unkind
    ],
)
def test_the_last_part_names_the_owner(channel: str, user: str, owns: bool) -> None:
    assert ChannelRules(subscribe="owner").may_subscribe(channel, user) is owns


# Personal channels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "channel"),
    [("user:{user}", "user:42"), ("#{user}", "#42"), ("u:{user}:inbox", "u:42:inbox")],
)
def test_personal_channels_go_both_ways(template: str, channel: str) -> None:
    personal = PersonalChannels(template)
    assert personal.of("42") == channel
    assert personal.owner(channel) == "42"
    assert personal.owner("x" + channel) is None
    assert personal.of("") is None
    assert personal.owner(template.replace("{user}", "")) is None


@pytest.mark.parametrize("user", ["a:b", "a\nb", ".*", "{user}", "\\1", "é"])
def test_odd_users_have_their_own_channel_all_the_same(user: str) -> None:
    personal = PersonalChannels("user:{user}")
    channel = personal.of(user)
    assert channel is not None
    assert personal.owner(channel) == user


def test_a_template_is_no_pattern() -> None:
    assert PersonalChannels("u.er:{user}").owner("user:42") is None


def test_no_personal_channels() -> None:
    personal = PersonalChannels()
    assert personal.of("42") is None
    assert personal.owner("user:42") is None
    assert personal.owner("") is None


@pytest.mark.parametrize("template", ["user", "user:{id}", "{user}:{user}", "{ user }"])
def test_what_is_no_template(template: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected exactly one \{user\}, as in 'user:\{user\}'"):
        PersonalChannels(template)
