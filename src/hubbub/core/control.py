"""What servers do to the clients of this node: send them away, out of channels and into them, and move their end.

Answers for: finding a user's connections and doing one thing to each, at once or as far as each lets it. Refuses to
know: who asks (the server API, the application, another node), and whether it may.

Whoever asks gets back how many connections or subscriptions it concerned; none is no error. Client ids are unique among
all nodes, users are not on one node only: each node does its part.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol, cast

from msgspec import UNSET, Raw, structs

from hubbub.channels import ChannelRules, Namespaces
from hubbub.clock import Clock
from hubbub.core.access import Access
from hubbub.core.hooks import Guard
from hubbub.core.hub import GONE, Subscription
from hubbub.core.pump import Pump
from hubbub.core.registry import Registered, Registry
from hubbub.core.subscribing import Doorkeeper, Entry, Member
from hubbub.errors import BadRequest, DisconnectCode, LimitExceeded, UnsubscribeCode
from hubbub.model import Credentials, Position
from hubbub.protocol.messages import Push, RefreshPush, SubscribePush
from hubbub.protocol.session import Session, State

log = logging.getLogger(__name__)


class Client(Registered, Member, Protocol):
    """What can be done to a connection from outside, besides ending it."""

    session: Session

    @property
    def is_ready(self) -> bool:
        """Whether it can take more than answers."""
        ...

    def identify(self, credentials: Credentials) -> None:
        """Who it is from now on."""
        ...

    def rearm(self) -> None:
        """An expiry has changed."""
        ...

    def push(self, channel: str, push: Push) -> None:
        """Say something unasked."""
        ...

    def leave(self, subscription: Subscription) -> None:
        """End one subscription silently."""
        ...


class Control:
    """The hand of servers on one node. `guard_of`: who speaks for a channel; `max_channels` of one connection."""

    def __init__(
        self,
        registry: Registry,
        doorkeeper: Doorkeeper,
        *,
        pump: Pump,
        access: Access,
        namespaces: Namespaces,
        clock: Clock,
        max_channels: int,
        guard_of: Callable[[str], Guard | None],
    ) -> None:
        self._registry = registry
        self._doorkeeper = doorkeeper
        self._pump = pump
        self._access = access
        self._namespaces = namespaces
        self._clock = clock
        self._max_channels = max_channels
        self._guard_of = guard_of

    def disconnect(
        self, user: str, client: str = "", *, code: int = 0, reason: str = "", whitelist: Collection[str] = ()
    ) -> int:
        """Close the connections of `user` (with `client`: that one), but those in `whitelist`. Returns how many.

        Without a `code` it is 3503 (force disconnect), from which SDKs do not come back.
        """
        if code and not 3000 <= code <= 4999:
            raise BadRequest(f"disconnect code = {code}: expected 3000 to 4999")
        closed = 0
        for connection in self._registry.of(user, client):
            if connection.id not in whitelist:
                connection.close(code or DisconnectCode.FORCE_DISCONNECT, reason)
                closed += 1
        return closed

    def unsubscribe(self, user: str, channel: str = "", client: str = "") -> int:
        """End the user's subscriptions to `channel` (all channels if empty), and tell the clients. Returns how many."""
        ended = 0
        for connection in self._registry.of(user, client):
            for name in [channel] if channel else list(connection.subscriptions):
                subscription = connection.subscriptions.get(name)
                if subscription is not None:
                    connection.unsubscribe(subscription, UnsubscribeCode.SERVER)
                    ended += 1
        return ended

    def refresh(
        self, user: str, client: str = "", *, expire_at: float = 0.0, expired: bool = False, info: bytes = b""
    ) -> int:
        """Give the user's connections another end: Unix time `expire_at`, 0 for none. Returns how many.

        Those that are `expired`, or whose end has passed already, are closed with 3005 at once; SDKs come back with
        another token. `info` (JSON) replaces what others see of the connection from its next publication or join on.
        """
        time = self._clock.time()
        is_past = expired or (0 < expire_at <= time and not self._access.insecure)
        if is_past:
            return self.disconnect(user, client, code=DisconnectCode.CONNECTION_EXPIRED)
        ttl = self._access.ttl(expire_at, time)
        refreshed = 0
        for connection in self._connected(user, client):
            mine = connection.credentials
            end = 0.0 if ttl is None else expire_at
            connection.identify(structs.replace(mine, expire_at=end, info=info or mine.info))
            connection.rearm()
            connection.push("", RefreshPush(ttl is not None, ttl or 0))
            refreshed += 1
        return refreshed

    def revoke(self, user: str, *, before: float | None = None, ttl: float) -> int:
        """Believe no token of `user` any more that was issued up to `before` (Unix time; None: now). Returns how many
        connections were closed: those with such a token.

        They are closed with 3005, and their token is answered with 109 from now on, which makes SDKs ask the
        application for another one; it is the application that says no to who may not come back. `ttl`: for how many
        seconds such tokens may still be valid. A token without `iat` is one of them. Raises LimitExceeded.
        """
        if not user:
            raise ValueError("revoke whose tokens? The anonymous user has none")
        now = self._clock.time()
        last = now if before is None else before
        self._access.revocations.add(user, last, until=now + ttl, now=now)
        void = [each for each in self._registry.of(user) if each.credentials.issued_at <= last]
        for connection in void:
            connection.close(DisconnectCode.CONNECTION_EXPIRED, detail="its token is revoked")
        return len(void)

    async def subscribe(
        self,
        user: str,
        channel: str,
        client: str = "",
        *,
        info: bytes = b"",
        data: bytes = b"",
        since: Position | None = None,
    ) -> int:
        """Subscribe the user's connections (with `client`: that one) to `channel`. Returns how many were not in it.

        The client hears of it by a push with `data` (JSON) and the position; then comes what was published since
        `since`, as far as it is kept, and then what is published, without a hole. `info` (JSON) is what others see of
        it in this channel. Connections that have not had their connect reply yet are left out: what they are subscribed
        to is in their credentials.

        Raises UnknownChannel (102), BadRequest (107) for a bad name, LimitExceeded (106) and InternalError (100) if
        some could not be subscribed; the others are, and to ask again does no harm.
        """
        rules = self._namespaces.resolve(channel)
        entering = [
            self._enter(connection, self._reserve(connection, channel, rules, info=info), data=data, since=since)
            for connection in self._connected(user, client)
            if channel not in connection.subscriptions and self._has_room(connection)
        ]
        results = await asyncio.gather(*entering, return_exceptions=True)
        for failure in results:
            if isinstance(failure, BaseException):
                raise failure
        crowded = sum(
            channel not in each.subscriptions and not self._has_room(each) for each in self._connected(user, client)
        )
        if crowded:
            raise LimitExceeded(f"{crowded} connections of this user have {self._max_channels} channels already")
        return sum(1 for entered in results if entered)

    def _reserve(self, connection: Client, channel: str, rules: ChannelRules, *, info: bytes) -> Subscription:
        """At once for all of them, so that a second order of the same kind finds nothing to do."""
        subscription = self._doorkeeper.reserve(connection, channel, rules, guard=self._guard_of(channel))
        subscription.is_server_side = True
        subscription.chan_info = info
        subscription.wants_notices = rules.join_leave == "always"
        connection.subscriptions[channel] = subscription
        return subscription

    async def _enter(
        self, connection: Client, subscription: Subscription, *, data: bytes, since: Position | None
    ) -> bool:
        """Into the channel, with the procedure of everybody. False if client or subscription ended meanwhile."""
        try:
            await self._doorkeeper.enter(connection, subscription)
            is_over = _is_over(connection, subscription)
            entry = None if is_over else await self._doorkeeper.begin(subscription, since)
        except BaseException:
            connection.leave(subscription)
            raise
        if entry is None or _is_over(connection, subscription):
            connection.leave(subscription)
            return False
        self._begin(connection, entry, data)
        return True

    def _begin(self, connection: Client, entry: Entry, data: bytes) -> None:
        """Tell the client, and right behind it what it missed; nothing waits in here."""
        subscription, position = entry.subscription, entry.position
        if entry.publications:  # a push has no room for them: the pump brings them behind it
            subscription.behind = entry.publications[0].offset - 1
        connection.push(
            subscription.channel.name,
            SubscribePush(
                recoverable=position is not None,
                epoch=position.epoch if position is not None else "",
                offset=subscription.behind or 0,
                positioned=position is not None,
                data=Raw(data) if data else UNSET,
            ),
        )
        if connection.is_ready and not self._pump.advance(subscription):
            self._pump.run(cast("Any", connection))
        self._doorkeeper.entered(connection, subscription)

    def _has_room(self, connection: Client) -> bool:
        return len(connection.subscriptions) < self._max_channels

    def _connected(self, user: str, client: str) -> Iterator[Client]:
        """Those that have their connect reply: before it there is nobody to push to."""
        for connection in self._registry.of(user, client):
            known = cast("Client", connection)  # what is registered is a connection
            if known.session.state is State.CONNECTED:
                yield known


def _is_over(connection: Client, subscription: Subscription) -> bool:
    """Either may have ended while something was awaited."""
    return connection.is_closed or subscription.behind == GONE
