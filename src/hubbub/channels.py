"""Channel names, the rules of their namespaces, and who may what.

Answers for: which rules hold for a channel, and whether a user may subscribe, publish or read under them. Refuses to
know: connections, tokens and payloads; whether somebody is subscribed comes as an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec

from hubbub.captures import ChannelPattern
from hubbub.errors import BadRequest, ConfigurationError, UnknownChannel
from hubbub.payload import DataFormat
from hubbub.rates import Rate, parse_rate

Delivery = Literal["live", "latest", "recent", "durable"]
JoinLeave = Literal["off", "asked", "always"]
MaySubscribe = Literal["anyone", "user", "owner", "token", "nobody"]
MayPublish = Literal["anyone", "user", "owner", "subscriber", "nobody"]
MayRead = Literal["anyone", "subscriber", "nobody"]

#: Characters; as in Centrifugo. Names travel in every push, so they stay short.
MAX_CHANNEL_LENGTH = 255

#: Names of channels that are remembered with their rules.
MAX_KNOWN = 10_000

#: The namespace of channels without a colon.
DEFAULT = "default"

_NAMESPACE = re.compile(r"[-\w.]{2,}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


class ChannelRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept in the channels of one namespace, and who may what there.

    `history_size` counts publications, `history_ttl` is in seconds, `max_bytes` limits one payload. `retention` is in
    seconds, too: how long a durable channel keeps a publication; 0 for ever.
    `rate` is a text such as "20/s", "" for no limit: what one connection may publish in one channel.
    """

    delivery: Delivery = "live"
    history_size: int = 100
    history_ttl: float = 300.0
    retention: float = 0.0
    presence: bool = False
    join_leave: JoinLeave = "off"
    subscribe: MaySubscribe = "token"
    publish: MayPublish = "nobody"
    read: MayRead = "subscriber"
    data: DataFormat = "json"
    max_bytes: int = 65536
    rate: str = ""

    def __post_init__(self) -> None:
        for name, value in (("history_size", self.history_size), ("history_ttl", self.history_ttl)):
            if value <= 0:
                raise ConfigurationError(f"{name} = {value}: expected more than 0; delivery = 'live' keeps nothing")
        if self.retention < 0:
            raise ConfigurationError(f"retention = {self.retention}: expected seconds, or 0 for ever")
        if self.max_bytes <= 0:
            raise ConfigurationError(f"max_bytes = {self.max_bytes}: expected more than 0")
        if self.join_leave != "off" and not self.presence:
            raise ConfigurationError(f"join_leave = {self.join_leave!r} needs presence = true")
        try:
            parse_rate(self.rate)
        except ConfigurationError as error:
            raise ConfigurationError(f"rate = {self.rate!r}: {error}") from None

    @property
    def has_memory(self) -> bool:
        """Whether publications get an offset and can be recovered."""
        return self.delivery != "live"

    @property
    def is_durable(self) -> bool:
        """Whether publications are written to the store before anybody hears of them."""
        return self.delivery == "durable"

    @property
    def kept(self) -> int:
        """How many publications the broker keeps."""
        if self.delivery == "recent":
            return self.history_size
        return 1 if self.delivery == "latest" else 0

    @property
    def publish_rate(self) -> Rate | None:
        """How often one connection may publish in one channel; None for no limit."""
        return parse_rate(self.rate)

    def may_subscribe(self, channel: str, user: str) -> bool:
        """Whether `user` ("" is anonymous) may subscribe without a token."""
        return _may(self.subscribe, channel, user, subscribed=False)

    def may_publish(self, channel: str, user: str, *, subscribed: bool) -> bool:
        """Whether `user` may publish."""
        return _may(self.publish, channel, user, subscribed=subscribed)

    def may_read(self, channel: str, user: str, *, subscribed: bool) -> bool:
        """Whether `user` may read history and presence."""
        return _may(self.read, channel, user, subscribed=subscribed)


def _may(who: str, channel: str, user: str, *, subscribed: bool) -> bool:
    if who == "anyone":
        return True
    if who == "user":
        return user != ""
    if who == "owner":
        return user != "" and re.split("[:#]", channel)[-1] == user
    return who == "subscriber" and subscribed  # "token" and "nobody" are never granted by a rule


class PersonalChannels:
    """The channel that belongs to one user, by a template such as `user:{user}` or `#{user}`; "" for none."""

    def __init__(self, template: str = "") -> None:
        if template and template.count("{user}") != 1:
            raise ConfigurationError(
                f"personal_channel = {template!r}: expected exactly one {{user}}, as in 'user:{{user}}'"
            )
        self.template = template
        before, _, after = template.partition("{user}")
        self._pattern = re.compile(f"{re.escape(before)}(.+){re.escape(after)}", re.DOTALL) if template else None

    def of(self, user: str) -> str | None:
        """The user's own channel; None for the anonymous user, or where there are no personal channels."""
        return self.template.replace("{user}", user) if self.template and user else None

    def owner(self, channel: str) -> str | None:
        """Whose channel it is; None if it is nobody's."""
        match = self._pattern.fullmatch(channel) if self._pattern else None
        return match.group(1) if match else None


class Declaration(NamedTuple):
    """Rules of some channels: what these are called and `where` their delivery is said, for people; their namespace."""

    name: str
    where: str
    namespace: str
    rules: ChannelRules


class Namespaces:
    """All rules of one application, by namespace."""

    def __init__(self, rules: Mapping[str, ChannelRules] | None = None) -> None:
        self._rules = dict(rules or {})
        self._rules.setdefault(DEFAULT, ChannelRules())
        self._patterns: list[tuple[ChannelPattern, ChannelRules]] = []  # the most literal first
        self._known: dict[str, ChannelRules] = {}  # names that were looked at already: every command asks
        for name in self._rules:
            if not _NAMESPACE.fullmatch(name):
                raise ConfigurationError(
                    f"[channels.{name}]: a namespace has two or more of a-z A-Z 0-9 - _ . and nothing else"
                )

    def declare(self, pattern: ChannelPattern, rules: ChannelRules) -> None:
        """Channels that match `pattern` have these rules, unless a more literal pattern matches, too.

        Raises ConfigurationError where a namespace or a pattern of the same names is declared already.
        """
        if pattern.namespace in self._rules:
            raise ConfigurationError(
                f"namespace {pattern.namespace!r} has its rules already; {pattern.text!r} gives others"
            )
        for other, _ in self._patterns:
            if other.collides(pattern):
                raise ConfigurationError(f"{other.text!r} and {pattern.text!r} are the same channels: keep one")
        self._patterns.append((pattern, rules))
        self._patterns.sort(key=lambda entry: entry[0].rank, reverse=True)
        self._known.clear()

    def resolve(self, channel: str) -> ChannelRules:
        """The rules of `channel`. Raises UnknownChannel (102): no such namespace; BadRequest (107): a bad name."""
        known = self._known.get(channel)
        if known is not None:
            return known
        given: object = channel  # not everybody runs a type checker
        if not isinstance(given, str):
            raise BadRequest(f"channel name is {type(channel).__name__}: give text")
        if not 0 < len(channel) <= MAX_CHANNEL_LENGTH or _CONTROL.search(channel):
            raise BadRequest(_what_is_wrong(channel))
        rules = self._declared(channel)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[channel] = rules
        return rules

    def _declared(self, channel: str) -> ChannelRules:
        for pattern, rules in self._patterns:
            if pattern.match(channel) is not None:
                return rules
        namespace, colon, _ = channel.partition(":")
        found = self._rules.get(namespace if colon else DEFAULT)
        if found is not None:
            return found
        mine = [pattern.text for pattern, _ in self._patterns if pattern.namespace == namespace]
        if mine:
            raise UnknownChannel(f"unknown channel: {channel!r} matches none of {', '.join(mine)}")
        raise UnknownChannel(f"unknown channel: namespace {namespace!r} is not declared; add [channels.{namespace}]")

    @property
    def durable(self) -> str:
        """Something that asks for a store, as its settings or class name it; "" if nothing does."""
        return next((each.where for each in self if each.rules.is_durable), "")

    def __iter__(self) -> Iterator[Declaration]:
        """All that is declared, by settings and by classes; the default namespace always is."""
        for name, rules in self._rules.items():
            yield Declaration(name, f"channels.{name}.delivery", name, rules)
        for pattern, rules in self._patterns:
            where = f"the class of {pattern.text!r}"
            yield Declaration(pattern.text, where, pattern.namespace or DEFAULT, rules)

    @property
    def max_bytes(self) -> int:
        """The largest payload that any channel takes; frame limits follow from it."""
        return max(each.rules.max_bytes for each in self)


def _what_is_wrong(channel: str) -> str:
    if not channel:
        return "channel name is empty"
    if len(channel) > MAX_CHANNEL_LENGTH:
        return f"channel name of {len(channel)} characters is over the limit of {MAX_CHANNEL_LENGTH}"
    return "channel name contains white space or control characters"
