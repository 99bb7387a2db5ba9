"""The names of settings, and how they and their values stand in messages.

Answers for: which keys there are, which one a mistaken key was meant to be, and that nothing secret and nothing
endless gets into a message. Refuses to know: how values are read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

from hubbub.channels import DEFAULT, ChannelRules
from hubbub.errors import ConfigurationError
from hubbub.settings.sections import SECRETS, SECTIONS, Section, without_password


def is_section(section: str) -> bool:
    """Whether there is such a section; any namespace of channels is one."""
    return section in SECTIONS or (section.startswith("channels.") and section != "channels.")


def kind(section: str) -> type[Section] | type[ChannelRules]:
    """The struct whose fields may stand in a section."""
    return SECTIONS.get(section, ChannelRules)


def keys(namespaces: Iterable[str]) -> list[str]:
    """All dotted keys, with those of the given namespaces."""
    sections = [*SECTIONS, *(f"channels.{namespace}" for namespace in namespaces)]
    return [f"{section}.{field}" for section in sections for field in kind(section).__struct_fields__]


def nearest(key: str, section: str = "") -> str:
    """What `key` was meant to be: the key of that name in another section, or else the most similar one."""
    _, _, namespace = section.partition("channels.")
    known = keys([namespace or DEFAULT])
    name = "." + key.rpartition(".")[2]
    return next((k for k in known if k.endswith(name)), difflib.get_close_matches(key, known, 1, 0)[0])


def nearest_section(section: str) -> str:
    """What `section` was meant to be, without a namespace."""
    return difflib.get_close_matches(section, [*SECTIONS, "channels"], 1, 0)[0]


def unknown(origin: str, key: str, meant: str) -> NoReturn:
    """Refuse a key that nobody knows."""
    raise ConfigurationError(f"{origin}: unknown setting {key}; the nearest known one is {meant}")


def plain(key: str) -> str:
    """A key for an error message: as it is, or quoted if it holds what no key holds."""
    return key if re.fullmatch(r"[-\w.]{1,80}", key) else repr(key[:80])


def shown(name: str, value: object) -> str:
    """A value for an error message: never a secret, and never long."""
    if name in SECRETS:
        return "***"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(without_password(value) if name == "url" and isinstance(value, str) else value)
    if "PRIVATE KEY" in text:  # somebody took the wrong one of two files
        return "***"
    return text if len(text) <= 200 else text[:200] + "…"


def named(value: object) -> str:
    """The kind of a value, in the words of TOML."""
    return _NAMES.get(type(value), f"a {type(value).__name__}")


_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
    type(None): "None",
}
