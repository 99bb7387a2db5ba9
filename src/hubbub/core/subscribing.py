"""Entering and leaving a channel: the one procedure for client-side and server-side subscriptions.

Answers for: opening the channel, presence, recovery, and the moment from which a subscription is live. Refuses to know:
permissions and tokens (`commands` asked before) and how results are encoded.

The order of it: hear the channel first, then be present, then look at what was missed, and from there on without
waiting: answer, and go live. What is published in between is in the feed already, so nothing is missed and nothing
comes twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from hubbub.brokers.base import Broker, Notice
from hubbub.channels import ChannelRules
from hubbub.core.feeds import Feeds
from hubbub.core.hooks import Caller, Guard, Observer
from hubbub.core.hub import GONE, Channel, Hub, Subscriber, Subscription
from hubbub.core.pump import page_of
from hubbub.core.tasks import Tasks
from hubbub.errors import BackendError
from hubbub.model import ClientInfo, Position, Publication
from hubbub.presence.base import Presence

#: Seconds that the application gets to deal with the leaves of a stop.
LAST_WORDS = 5.0


class Entry(NamedTuple):
    """How a subscription begins.

    `position` is where it stands after `publications`, None where nothing is remembered; `recovered` is None if no
    recovery was asked for.
    """

    subscription: Subscription
    position: Position | None
    publications: Sequence[Publication]
    recovered: bool | None


class Member(Subscriber, Caller, Protocol):
    """A subscriber with a public identity."""

    @property
    def is_closed(self) -> bool:
        """Whether it has gone; it may go while something is awaited here."""
        ...

    def info_in(self, subscription: Subscription | None = None) -> ClientInfo:
        """What others see of it in this channel."""
        ...


class Doorkeeper:
    """Lets members into channels and out of them."""

    def __init__(
        self, hub: Hub, feeds: Feeds, *, broker: Broker, presence: Presence, tasks: Tasks, observer: Observer
    ) -> None:
        self._hub = hub
        self._feeds = feeds
        self._broker = broker
        self._presence = presence
        self._tasks = tasks
        self._observer = observer
        self._telling: dict[Subscription, asyncio.Task[None]] = {}  # the application, of joins and leaves

    def reserve(
        self, subscriber: Subscriber, name: str, rules: ChannelRules, *, guard: Guard | None = None
    ) -> Subscription:
        """A place in the channel, so that whoever ends subscriptions finds it, and nobody comes in twice.

        `guard` is told when the subscriber has come and when it is gone.
        """
        channel = self._hub.channel(name, rules)
        subscription = Subscription(subscriber, channel)
        subscription.guard = guard
        channel.subscriptions[subscriber] = subscription
        return subscription

    async def hear(self, subscription: Subscription) -> None:
        """Hear the channel. The subscription is not live until `begin` and the pump let it be.

        Raises InternalError (100), and the place is free again.
        """
        channel = subscription.channel
        try:
            await self._feeds.open(channel)
        except BaseException:
            self.leave(subscription.subscriber, subscription)
            raise

    async def enter(self, member: Member, subscription: Subscription) -> None:
        """Hear the channel, and be present in it. Raises InternalError (100)."""
        await self.hear(subscription)
        if subscription.channel.rules.presence and subscription.behind != GONE:
            await self._be_present(member, subscription)

    async def begin(self, subscription: Subscription, since: Position | None) -> Entry:
        """Look at what was missed since `since` (None: nothing to recover).

        The caller answers and lets the pump advance without waiting in between. Raises InternalError (100).
        """
        channel = subscription.channel
        feed = channel.feed
        if feed is None or feed.position is None:
            subscription.behind = 0
            return Entry(subscription, None, (), None if since is None else False)
        if since is None and not feed.skips:
            subscription.behind = feed.position.offset
            return Entry(subscription, feed.position, (), None)
        missed = await self._feeds.since(channel, since or Position("", 0))
        if missed is None and since is not None and feed.skips:  # whoever comes sees the newest
            since = Position("", 0)
            missed = await self._feeds.since(channel, since)
        if subscription.behind == GONE:
            return Entry(subscription, feed.position, (), None)
        if missed is None or (feed.skips and not missed and (since is None or since.offset != channel.offset)):
            subscription.behind = channel.offset
            return Entry(subscription, feed.position, (), None if since is None else False)
        page = page_of(missed)
        start = since.offset if since is not None else channel.offset
        subscription.behind = page[-1].offset if page else channel.offset
        return Entry(subscription, Position(feed.position.epoch, start), page, True)

    def entered(self, member: Member, subscription: Subscription) -> None:
        """The member has its answer: tell the others, and the application."""
        subscription.is_announced = subscription.is_present
        self._notify(member, subscription, "join")
        guard = subscription.guard
        if guard is not None and subscription.behind != GONE:
            subscription.has_entered = True
            if "join" in guard.asks:
                self._tell(guard.joined, member, subscription)

    def leave(self, subscriber: Subscriber, subscription: Subscription) -> None:
        """The subscription is over; presence and notices follow without being waited for."""
        channel = subscription.channel
        if subscription.behind == GONE:
            return
        if self._hub.leave(subscription):
            self._feeds.close(channel)
        if subscription.is_present:
            member: Member = subscriber  # type: ignore[assignment]  # only members are present
            self._tasks.begin(self._be_absent(channel, member.info_in(subscription)), "leave presence")
            if subscription.is_announced:
                self._notify(member, subscription, "leave")
        if subscription.guard is not None and subscription.has_entered and "leave" in subscription.guard.asks:
            caller: Member = subscriber  # type: ignore[assignment]  # only members have a guard
            self._tell(subscription.guard.left, caller, subscription)

    def _tell(self, call: Callable[[Caller], Coroutine[Any, Any, None]], member: Member, of: Subscription) -> None:
        """The application hears of a leave when it has dealt with the join. What it raises it logs itself."""
        work = _after(self._telling.get(of), call, member)
        task = self._telling[of] = self._tasks.spawn(work, f"tell of {of.channel.name}", quiet=True)
        task.add_done_callback(lambda done: self._told(of, done))

    async def stop(self) -> None:
        """Nobody is here any more: let the application hear of it, for a while."""
        if self._telling:
            await asyncio.wait(list(self._telling.values()), timeout=LAST_WORDS)

    def _told(self, subscription: Subscription, task: asyncio.Task[None]) -> None:
        if self._telling.get(subscription) is task:
            del self._telling[subscription]

    async def renew(self, channels: Iterable[Channel]) -> None:
        """Everybody who is here is still here. Liveness comes from connections, not from the moment of joining."""
        for channel in list(channels):
            if channel.rules.presence:
                for subscriber, subscription in list(channel.subscriptions.items()):
                    if subscription.is_present:
                        member: Member = subscriber  # type: ignore[assignment]  # only members are present
                        await self._be_present(member, subscription)

    async def _be_present(self, member: Member, subscription: Subscription) -> None:
        """Presence that fails never fails a subscription. One that completes after the leave is undone by the leave."""
        subscription.is_present = True
        info = member.info_in(subscription)
        try:
            await self._presence.add(subscription.channel.name, info)
        except BackendError:
            self._observer.count("presence_failed")
        if subscription.behind == GONE:  # the leave may have overtaken us
            await self._be_absent(subscription.channel, info)

    async def _be_absent(self, channel: Channel, info: ClientInfo) -> None:
        try:
            await self._presence.remove(channel.name, info.client)
        except BackendError:
            self._observer.count("presence_failed")

    def _notify(self, member: Member, subscription: Subscription, kind: str) -> None:
        channel = subscription.channel
        if channel.rules.join_leave == "off" or not subscription.is_present:
            return
        notice = Notice("join" if kind == "join" else "leave", member.info_in(subscription))
        self._tasks.begin(self._announce(channel.name, notice), f"announce {kind}")

    async def _announce(self, channel: str, notice: Notice) -> None:
        try:
            await self._broker.notify(channel, notice)
        except BackendError:
            self._observer.count("notice_failed")


async def _after(
    before: asyncio.Task[None] | None, call: Callable[[Caller], Coroutine[Any, Any, None]], member: Member
) -> None:
    if before is not None:
        await asyncio.wait([before])
    await call(member)
