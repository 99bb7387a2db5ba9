"""What a client has been told: the half of it that only listens.

Answers for: subscriptions and positions; publications that wait to be looked at; who came and went; a list of
everything as text; and payloads in Python's terms. Refuses to know: commands, and how long anybody waits.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from typing import Any

import msgspec

from hubbub import payload
from hubbub.app import Hubbub
from hubbub.errors import ReplyError
from hubbub.handlers.publication import Publication
from hubbub.model import ClientInfo, Position
from hubbub.payload import DataFormat
from hubbub.testing.dialects import Dialect, Message


class Subscribed(msgspec.Struct, frozen=True):
    """A subscription has begun. `recovered` is None where there was nothing to recover.

    `publications` are those that came along: what was missed, or in `latest` channels the newest. `position` is None in
    channels without a memory.
    """

    recovered: bool | None
    publications: list[Publication[Any]]
    position: Position | None


class Hearing:
    """What one client knows. It outlives connections."""

    def __init__(self, hub: Hubbub, dialect: Dialect) -> None:
        self.closed = 0
        self.close_reason = ""
        self.received: list[str] = []
        self.positions: dict[str, Position] = {}
        self.joins: defaultdict[str, list[ClientInfo]] = defaultdict(list)
        self.leaves: defaultdict[str, list[ClientInfo]] = defaultdict(list)
        self.unsubscribed: dict[str, int] = {}
        self._hub = hub
        self._dialect = dialect
        self._subscriptions: dict[str, dict[str, Any]] = {}  # channels that it asked for, each with how
        self._server_side: set[str] = set()
        self._unread: defaultdict[str, deque[Publication[Any]]] = defaultdict(deque)
        self._news = asyncio.Event()

    def _heard(self, push: Message) -> None:
        channel = push.get("channel", "")
        if "pub" in push:
            self._take(channel, push["pub"])
        elif "join" in push or "leave" in push:
            kind = "join" if "join" in push else "leave"
            info = self._info(push[kind]["info"])
            (self.joins if kind == "join" else self.leaves)[channel].append(info)
            self._note(f"{kind} in {channel}: {info.user or 'anonymous'} ({info.client})")
        elif "unsubscribe" in push:
            code = push["unsubscribe"]["code"]
            self.unsubscribed[channel] = code
            self._subscriptions.pop(channel, None)  # its position stays, to come back with
            self._server_side.discard(channel)
            self._note(f"unsubscribed from {channel}: {code} {push['unsubscribe']['reason']}")
        elif "subscribe" in push:
            self._server_side.add(channel)
            self._subscribed(channel, push["subscribe"])
        else:
            self._note(", ".join(f"{kind}: {body}" for kind, body in push.items()))
        self._news.set()

    def _ended(self, code: int, reason: str) -> None:
        self.closed, self.close_reason = code, reason
        self._note(f"the connection was closed: {code} {reason}".rstrip())
        self._news.set()

    def _take(self, channel: str, message: Message) -> None:
        known = self.positions.get(channel)
        publication = self._publication(channel, message, known.epoch if known is not None else "")
        if publication.position is not None:
            self.positions[channel] = publication.position
        at = f" (offset {publication.position.offset})" if publication.position is not None else ""
        self._note(f"publication in {channel}: {publication.data!r}{at}")
        self._unread[channel].append(publication)

    def _note(self, line: str) -> None:
        self.received.append(line)

    def _subscribed(self, channel: str, result: Message) -> Subscribed:
        """What came along is in the result, and not to be looked at by `next`."""
        self.unsubscribed.pop(channel, None)
        recovered = result.get("recovered", False) if result.get("was_recovering") else None
        told = {True: ", recovered", False: ", NOT recovered", None: ""}[recovered]
        self._note(f"subscribed to {channel}{told}")
        position = Position(result.get("epoch", ""), result.get("offset", 0)) if result.get("recoverable") else None
        if position is not None:
            self.positions[channel] = position
        early, self._unread[channel] = self._unread[channel], deque()
        for message in result.get("publications", []):
            self._take(channel, message)
        came, self._unread[channel] = self._unread[channel], early
        return Subscribed(recovered, list(came), self.positions.get(channel) if position is not None else None)

    def _with_the_rest(self, channel: str, entered: Subscribed, head: int) -> Subscribed:
        """A long recovery comes in pages: all but the first behind the answer, as pushes."""
        if not entered.recovered:
            return entered
        unread = self._unread[channel]
        last = entered.publications[-1].position if entered.publications else None
        start = last.offset if last is not None else head
        rest = [each for each in unread if each.position is not None and start < each.position.offset <= head]
        for publication in rest:
            unread.remove(publication)
        return Subscribed(True, entered.publications + rest, self.positions.get(channel))

    # payloads -------------------------------------------------------------------------------------------------------

    def _format(self, channel: str) -> DataFormat:
        try:
            return self._hub.node.namespaces.resolve(channel).data
        except ReplyError:
            return "json"  # the server will say what is wrong with it

    def _written(self, channel: str, data: Any) -> bytes:
        if isinstance(data, bytes) or (isinstance(data, str) and self._format(channel) == "text"):
            return payload.body(data, self._format(channel)) if self._dialect.codec.binary else payload.encode(data)
        return payload.encode(data)

    def _value(self, data: Any) -> Any:
        return self._dialect.value(data, "json")

    def _info(self, info: Message) -> ClientInfo:
        opaque = self._dialect.opaque
        return ClientInfo(
            info.get("user", ""), info.get("client", ""), opaque(info.get("conn_info")), opaque(info.get("chan_info"))
        )

    def _publication(self, channel: str, message: Message, epoch: str) -> Publication[Any]:
        offset = message.get("offset", 0)
        return Publication(
            channel,
            self._dialect.value(message["data"], self._format(channel)),
            Position(message.get("epoch") or epoch, offset) if offset else None,
            self._info(message["info"]) if "info" in message else None,
            message.get("tags", {}),
        )
