"""What the delivery machine plays with: channels and their rules, users, and how they are drawn.

Answers for: names that all variants of the machine share. Refuses to know: what is done to them.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st
from tests.fakes import Client, Entry

from hubbub.channels import ChannelRules
from hubbub.model import Position

#: All that is asked of a channel, but for what is drawn.
RULES: dict[str, ChannelRules] = {
    "news": ChannelRules(delivery="recent", subscribe="anyone", history_size=1000, history_ttl=1e6),
    "tiny": ChannelRules(delivery="recent", subscribe="anyone", history_size=4, history_ttl=1e6),
    "last": ChannelRules(delivery="latest", subscribe="anyone", history_ttl=1e6),
    "live": ChannelRules(delivery="live", subscribe="anyone"),
    "log": ChannelRules(delivery="durable", subscribe="anyone"),
}
CHANNELS = ("news:1", "tiny:1", "last:1", "live:1", "log:1")
KEPT = ("news:1", "tiny:1", "last:1", "log:1")
#: The channels that a server puts some clients into.
PERSONAL = ("news:own", "tiny:own", "log:own")
#: Those whose source is a store, which loses nothing by itself: only what is said in `trim` and `replace_epoch`.
DURABLE = ("log:1", "log:own")

#: Bytes: a few publications fill it.
BUDGET = 400
SLOTS = 3

channels = st.sampled_from(CHANNELS)
kept = st.sampled_from((*KEPT, *PERSONAL))
durable = st.sampled_from(DURABLE)
streams = st.sampled_from([channel for channel in (*KEPT, *PERSONAL) if channel not in DURABLE])
slots = st.integers(0, SLOTS - 1)
nodes = st.integers(0, 1)
indexes = st.integers(0, 5)
kinds = st.sampled_from(["heads", "read", "subscribe"])


class Signal(NamedTuple):
    """Somebody was told that what came after `before` is gone."""

    slot: int
    channel: str
    how: str
    before: Position | None


class Slot:
    """A user with one client at a time, and what it knows of its channels from one to the next."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.client: Client | None = None
        self.is_personal = False
        self.wanted: set[str] = set()
        self.positions: dict[str, Position] = {}
        self.logs: dict[str, list[Entry]] = {}

    def log(self, channel: str) -> list[Entry]:
        return self.logs.setdefault(channel, [])
