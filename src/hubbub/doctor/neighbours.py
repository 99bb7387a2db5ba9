"""The other nodes of the application: how many live, and of which versions.

Answers for: asking them as a node does that has just come, and leaving again in the same breath. Refuses to know: what
else nodes tell each other.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from hubbub.brokers import envelope
from hubbub.brokers.base import INTERCOM, Announcement
from hubbub.brokers.calls import Calls
from hubbub.core import orders
from hubbub.core.node import NodeInfo
from hubbub.doctor.findings import Finding
from hubbub.doctor.listener import Listener
from hubbub.errors import BackendError
from hubbub.model import Publication
from hubbub.redis.pipeline import Pipeline
from hubbub.redis.wire import RedisError
from hubbub.version import VERSION

#: Seconds that nodes get to answer, and the same where nobody says how many there are.
PATIENCE: Final = 3.0
BLIND: Final = 1.5

_SUBJECT = "nodes"


class Neighbours:
    """Those who answer. Give `hear` to the listener first."""

    def __init__(self, *, name: str, prefix: str) -> None:
        self._channel = Calls(name, prefix).target(INTERCOM).encode()
        self._id = f"doctor-{secrets.token_hex(8)}"
        self._found: dict[str, Mapping[str, Any]] = {}
        self._wanted = 0  # answers
        self._is_complete = asyncio.Event()

    def hear(self, channel: bytes, message: bytes) -> None:
        """Take what the nodes say."""
        if channel != self._channel:
            return
        try:
            said = envelope.read(message)
            order = orders.decode(said.publication.data) if isinstance(said, Announcement) else None
        except (envelope.Unreadable, orders.Unreadable):
            return  # of a newer version: who cannot be understood is not counted
        if isinstance(order, orders.Alive) and order.sender != self._id:
            self._found[order.sender] = order.about
            if 0 < self._wanted <= len(self._found):
                self._is_complete.set()

    async def find(self, pipeline: Pipeline, listener: Listener) -> list[Finding]:
        """Ask, and wait for the answers."""
        try:
            await listener.subscribe(self._channel)
            count = await self._listeners(pipeline)
            await asyncio.gather(*(pipeline.call("PUBLISH", self._channel, word) for word in self._words()))
        except BackendError as error:
            return [Finding(_SUBJECT, "wrong", f"the nodes cannot speak to each other: {error}")]
        if count != 0:
            try:
                await asyncio.wait_for(self._is_complete.wait(), BLIND if count is None else PATIENCE)
            except TimeoutError:
                pass  # whoever has answered by now is there
        return judged([about.get("version", "?") for about in self._found.values()], self._clients(), count)

    def _words(self) -> list[bytes]:
        """Hello, and goodbye: no node takes us for another one for longer than it reads."""
        nothing = dict.fromkeys(("num_clients", "num_users", "num_subs", "num_channels", "uptime"), 0)
        about = NodeInfo(uid=self._id, name="hubbub_doctor", version=VERSION, metrics={}, **nothing)
        hello = orders.Alive(sender=self._id, about=msgspec.to_builtins(about), asks=True)
        return [envelope.live(Publication(orders.encode(each))) for each in (hello, orders.Gone(sender=self._id))]

    async def _listeners(self, pipeline: Pipeline) -> int | None:
        """How many others listen to orders; None if the server does not say."""
        try:
            _, count = await pipeline.call("PUBSUB", "NUMSUB", self._channel)
        except RedisError:
            return None
        self._wanted = max(int(count) - 1, 0)
        return self._wanted

    def _clients(self) -> int:
        counts = (about.get("num_clients", 0) for about in self._found.values())
        return sum(count for count in counts if isinstance(count, int))


def judged(versions: list[str], clients: int, expected: int | None) -> list[Finding]:
    """From the versions of those who answered, their clients, and how many should have, if that is known."""
    found = []
    if not versions and not expected:
        return [Finding(_SUBJECT, "note", "no other node is up")]
    if versions:
        counts = Counter(versions)
        seen = f"{len(versions)} up with {clients:,} clients, version {', '.join(sorted(counts))}"
        if set(counts) == {VERSION}:
            found.append(Finding(_SUBJECT, "ok", seen))
        elif len(counts) == 1:
            found.append(Finding(_SUBJECT, "note", f"{seen}; here it is {VERSION}", "upgrade the older of both"))
        else:
            detail = ", ".join(f"{count} of {version}" for version, count in sorted(counts.items()))
            seen = f"a mixture of versions: {detail}"
            found.append(Finding(_SUBJECT, "warning", seen, "upgrade the rest; a mixture is for minutes"))
    silent = (expected or 0) - len(versions)
    if silent > 0:
        seen = f"{silent} more listen and gave no answer within {PATIENCE:g} s"
        found.append(
            Finding(_SUBJECT, "warning", seen, "look for nodes that hang, or whose CPU is busy: CLIENT LIST names them")
        )
    return found
