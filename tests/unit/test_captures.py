"""Patterns of channel names: what matches, what is captured, which one wins, and what is no pattern."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.captures import ChannelPattern
from hubbub.channels import ChannelRules, Namespaces
from hubbub.errors import ConfigurationError, UnknownChannel


@pytest.mark.parametrize(
    ("pattern", "channel", "captures"),
    [
        ("room:{id}", "room:42", {"id": "42"}),
        ("room:{id}", "room:42:7", {"id": "42:7"}),
        ("room:{id}", "room:", None),
        ("room:{id}", "rooms:42", None),
        ("room:{id}", "room:a\nb", {"id": "a\nb"}),
        ("doc:{id}:edit", "doc:1:edit", {"id": "1"}),
        ("doc:{id}:{part}", "doc:1:2:3", {"id": "1", "part": "2:3"}),
        ("doc:{id}.{part}", "doc:1.2", {"id": "1", "part": "2"}),
        ("lobby", "lobby", {}),
        ("lobby", "lobby:1", None),
        ("a.b:{id}", "a.b:x", {"id": "x"}),
        ("a.b:{id}", "a-b:x", None),
    ],
)
def test_match(pattern: str, channel: str, captures: dict[str, str] | None) -> None:
    assert ChannelPattern(pattern).match(channel) == captures


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("room:{id", "a brace is not closed; a capture is {name}"),
        ("room:id}", "a brace is not closed; a capture is {name}"),
        ("room:{}", "{} is no name that a parameter can have"),
        ("room:{room id}", "{room id} is no name that a parameter can have"),
        ("doc:{id}:{id}", "{id} comes twice"),
        ("{room}", "it begins with its namespace, as in 'room:{room_id}'"),
        ("{space}:{id}", "it begins with its namespace, as in 'room:{room_id}'"),
        ("doc:{a}{b}", "two captures need something between them, such as ':'"),
    ],
)
def test_what_is_no_pattern(pattern: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"channel pattern {pattern!r}: {why}") + "$"):
        ChannelPattern(pattern)


parts = st.text(st.characters(blacklist_characters="{}:", blacklist_categories=["Cs"]), min_size=1, max_size=8)


@given(st.lists(parts, min_size=1, max_size=4))
def test_captures_are_what_was_put_in(values: list[str]) -> None:
    names = [f"n{number}" for number in range(len(values))]
    pattern = ChannelPattern("space:" + ":".join(f"{{{name}}}" for name in names))
    assert pattern.match("space:" + ":".join(values)) == dict(zip(names, values, strict=True))


def test_the_most_literal_pattern_gives_the_rules() -> None:
    namespaces = Namespaces()
    for size, pattern in enumerate(("room:{id}", "room:{id}:admin", "room:lobby", "room:{id}:{part}"), 1):
        namespaces.declare(ChannelPattern(pattern), ChannelRules(history_size=size))
    found = {
        channel: namespaces.resolve(channel).history_size
        for channel in ("room:1", "room:1:admin", "room:lobby", "room:1:x", "room:lobby:admin")
    }
    assert found == {"room:1": 1, "room:1:admin": 2, "room:lobby": 3, "room:1:x": 4, "room:lobby:admin": 2}


def test_what_no_pattern_of_a_namespace_matches_is_unknown_and_says_what_there_is() -> None:
    namespaces = Namespaces()
    namespaces.declare(ChannelPattern("doc:{id}:edit"), ChannelRules())
    with pytest.raises(UnknownChannel, match=re.escape("'doc:1' matches none of doc:{id}:edit")):
        namespaces.resolve("doc:1")


def test_the_same_channels_cannot_be_declared_twice() -> None:
    namespaces = Namespaces({"chat": ChannelRules()})
    namespaces.declare(ChannelPattern("room:{id}"), ChannelRules())
    text = "'room:{id}' and 'room:{other}' are the same channels: keep one"
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        namespaces.declare(ChannelPattern("room:{other}"), ChannelRules())
    with pytest.raises(ConfigurationError, match="namespace 'chat' has its rules already"):
        namespaces.declare(ChannelPattern("chat:{id}"), ChannelRules())


def test_what_is_declared_later_counts_for_names_that_were_looked_at() -> None:
    namespaces = Namespaces({"default": ChannelRules(history_size=7)})
    assert namespaces.resolve("lobby").history_size == 7
    namespaces.declare(ChannelPattern("lobby"), ChannelRules(history_size=8, max_bytes=1 << 20))
    assert namespaces.resolve("lobby").history_size == 8
    assert namespaces.max_bytes == 1 << 20
