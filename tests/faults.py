"""Brokers that misbehave on command: what a network, a slow loop or a failover can do, one step at a time.

Answers for: `SlowBroker` and `SlowPresence` (every call yields to the loop first; a correct caller must not
notice), `UnreliableBroker` (announcements and calls wait until the driver says what becomes of each), and
`Mischief` (streams that lose their memory). Refuses to know: chance and time. There is no randomness and no
sleeping here: the driver, a test or a Hypothesis state machine, decides everything, so that every failure can
be replayed.

How to drive an `UnreliableBroker`, one per node, all on one backend:

    exchange = Exchange()
    broker = UnreliableBroker(MemoryBroker(wheel, exchange))
    await broker.start(events)                # announcements go to broker.pending instead of `events`
    await broker.subscribe("room")
    await other.publish("room", ...)          # any broker of that exchange
    broker.pending                            # [Announcement(channel, what, epoch)], in their order
    broker.deliver(1); broker.drop(0)         # by index, 0 is the oldest: out of order; lost
    broker.repeat(0); broker.move(0, 2)       # twice; later than others
    broker.deliver_all(); broker.drop_all()   # a good network; a cut cable
    broker.renew()                            # "my ties were cut and are whole again" for all its channels

    broker.hold("heads", "read")              # from now on these calls wait in broker.calls
    asking = loop.create_task(node.check())   # ... somebody calls
    await let_run()                           # the call is in broker.calls now
    await broker.take(broker.calls[0])        # the backend is asked: the answer is of this instant ...
    await broker.release(broker.calls[0])     # ... and given here; release alone does both at once
    broker.fail(call)                         # BackendError: undone, or if taken: done, unconfirmed
    broker.resume(); await broker.release_all()
    broker.refuse("read"); broker.accept()    # calls fail at once, with BackendError, until accepted again

    broker.mischief.forget("room")            # the stream is gone: another epoch, offsets from 1
    broker.mischief.rewind("room", 5)         # a failover that lost writes: same epoch, head 5 again
    broker.mischief.trim("room", 3)           # only the newest 3 are kept

A state machine that is not async holds an event loop and runs the driver's coroutines with
`run_until_complete`, or, where nothing is held, with `finish`, which needs no loop at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from hubbub.brokers import base
from hubbub.brokers.base import Broker, BrokerEvents, Notice, StreamOptions
from hubbub.brokers.memory import MemoryBroker
from hubbub.errors import BackendError
from hubbub.model import ClientInfo, Position, PresenceStats, Publication, Published
from hubbub.presence.base import Presence
from hubbub.source import Known, Page

T = TypeVar("T")

CallKind = Literal[
    "altered",
    "heads",
    "notify",
    "publish",
    "read",
    "remove_history",
    "replace_epoch",
    "subscribe",
    "unsubscribe",
    "watch",
]


async def let_run(turns: int = 10) -> None:
    """Let every other task go as far as it can without time passing; a turn is one step of each."""
    for _ in range(turns):
        await asyncio.sleep(0)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what never really waits, such as any call of a `MemoryBroker`, without a loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError("it waits for something: run it on a loop")


class Announcement(NamedTuple):
    """What was announced and has not arrived yet. `epoch` is empty for notices and for what has no offset."""

    channel: str
    what: Publication | Notice
    epoch: str


class Call:
    """A call that waits for the driver. `is_taken`: the backend did it, and the caller does not know yet."""

    def __init__(self, kind: CallKind, channels: Sequence[str], ask: Callable[[], Awaitable[Any]]) -> None:
        self.kind = kind
        self.channels = channels
        self.is_taken = False
        self._ask = ask
        self._answer: Any = None
        self._error: BackendError | None = None
        self._caller: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<Call {self.kind} {','.join(self.channels)}{' taken' if self.is_taken else ''}>"

    @property
    def is_done(self) -> bool:
        """Whether the caller has its answer, or has given up waiting."""
        return self._caller.done()

    async def wait(self) -> Any:
        """The caller's side: the answer, once the driver gives it."""
        return await self._caller

    async def take(self) -> None:
        """Ask the backend now, once."""
        if self.is_taken:
            return
        self.is_taken = True
        try:
            self._answer = await self._ask()
        except BackendError as error:
            self._error = error

    def answer(self) -> None:
        """Give the caller what the backend said."""
        if self.is_done:
            return
        if self._error is not None:
            self._caller.set_exception(self._error)
        else:
            self._caller.set_result(self._answer)

    def fail(self) -> None:
        """Give the caller a BackendError."""
        if not self.is_done:
            self._caller.set_exception(BackendError(f"{self.kind} was made to fail"))


class Mischief(Protocol):
    """Ways in which a backend loses what it promised to keep, each done behind the broker's back."""

    def forget(self, channel: str) -> None:
        """The stream is gone; whoever asks next gets another epoch."""
        ...

    def rewind(self, channel: str, offset: int) -> None:
        """What is above `offset` never happened, under the same epoch: against S1, offsets return."""
        ...

    def trim(self, channel: str, keep: int) -> None:
        """Only the newest `keep` publications are left. No loss in itself: the head stays."""
        ...


class MemoryMischief:
    """Mischief in the exchange of a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def forget(self, channel: str) -> None:
        """The stream is gone."""
        self._broker.exchange.forget(channel)

    def rewind(self, channel: str, offset: int) -> None:
        """The newest ones never happened."""
        stream = self._broker.stored(channel)
        lost = stream.top - offset
        if lost <= 0:
            return
        del stream.items[max(0, len(stream.items) - lost) :]
        stream.top = offset
        stream.first = min(stream.first, offset + 1)
        stream.version = 0

    def trim(self, channel: str, keep: int) -> None:
        """The oldest ones are gone."""
        stream = self._broker.stored(channel)
        stream.first = max(stream.first, stream.top - keep + 1)
        del stream.items[: max(0, len(stream.items) - keep)]


class UnreliableBroker:
    """A `Broker` around another one, in which the driver decides what arrives. See the top of this file.

    Deliberately not `HoldsStreams`, so that a feed on it has to read like from a broker elsewhere. With
    `is_direct`, announcements pass straight through, and nothing is unreliable until the driver says so.
    """

    def __init__(self, broker: Broker, mischief: Mischief | None = None, *, is_direct: bool = False) -> None:
        self.is_direct = is_direct
        self.pending: list[Announcement] = []
        self.calls: list[Call] = []
        self.channels: set[str] = set()
        self._broker = broker
        self._mischief = mischief
        if mischief is None and isinstance(broker, MemoryBroker):
            self._mischief = MemoryMischief(broker)
        self._events: BrokerEvents | None = None
        self._held: set[CallKind] = set()
        self._refused: set[CallKind] = set()

    # --- the driver's side: announcements

    @property
    def mischief(self) -> Mischief:
        """What can be done to the streams."""
        assert self._mischief is not None, "give a Mischief for this kind of broker"
        return self._mischief

    def deliver(self, index: int = 0) -> Announcement:
        """This announcement arrives."""
        announcement = self.pending.pop(index)
        self._arrive(announcement)
        return announcement

    def repeat(self, index: int = 0) -> Announcement:
        """This announcement arrives, and stays pending to arrive again."""
        announcement = self.pending[index]
        self._arrive(announcement)
        return announcement

    def drop(self, index: int = 0) -> Announcement:
        """This announcement never arrives."""
        return self.pending.pop(index)

    def move(self, index: int, to: int) -> None:
        """This announcement changes its place in the queue."""
        self.pending.insert(to, self.pending.pop(index))

    def deliver_all(self) -> None:
        """Everything arrives, in order, also what is announced meanwhile."""
        while self.pending:
            self.deliver()

    def drop_all(self) -> None:
        """Nothing of it arrives."""
        self.pending.clear()

    def cut(self) -> None:
        """Say that all ties are cut."""
        if self._events is not None:
            self._events.on_cut()

    def renew(self, channels: Iterable[str] | None = None) -> None:
        """Say that the ties of these channels (all that are subscribed) were cut and are whole again."""
        if self._events is not None:
            self._events.on_cut()
            self._events.on_renewed(sorted(self.channels) if channels is None else list(channels))

    # --- the driver's side: calls

    def hold(self, *kinds: CallKind) -> None:
        """From now on calls of these kinds wait in `calls`."""
        self._held.update(kinds)

    def resume(self, *kinds: CallKind) -> None:
        """Calls of these kinds (all) pass again. Those that wait go on waiting."""
        self._held.difference_update(kinds or self._held.copy())

    def refuse(self, *kinds: CallKind) -> None:
        """From now on calls of these kinds fail at once."""
        self._refused.update(kinds)

    def accept(self, *kinds: CallKind) -> None:
        """Calls of these kinds (all) do not fail any more."""
        self._refused.difference_update(kinds or self._refused.copy())

    async def take(self, call: Call) -> None:
        """The backend does it now; the caller does not learn of it yet."""
        await call.take()

    async def release(self, call: Call) -> None:
        """The caller gets the answer, of when it was taken or of now. It runs on in the next `let_run`."""
        await call.take()
        call.answer()
        self._remove(call)

    async def release_all(self) -> None:
        """Release what waits, oldest first, but not what comes to wait because of it."""
        for call in self.calls.copy():
            await self.release(call)

    def fail(self, call: Call) -> None:
        """The caller gets a BackendError."""
        call.fail()
        self._remove(call)

    # --- the broker's side: Broker

    async def start(self, events: BrokerEvents) -> None:
        """Begin, between the broker and `events`."""
        self._events = events
        await self._broker.start(self)

    async def stop(self) -> None:
        """End: what is pending is lost, who waits gets a BackendError."""
        self._events = None
        self.pending.clear()
        self.channels.clear()
        for call in self.calls.copy():
            self.fail(call)
        await self._broker.stop()

    async def subscribe(self, channel: str) -> None:
        """Pass it on."""

        async def ask() -> None:
            await self._broker.subscribe(channel)
            self.channels.add(channel)

        await self._pass("subscribe", (channel,), ask)

    async def unsubscribe(self, channel: str) -> None:
        """Pass it on. Announcements that are pending may still arrive, as they may from a socket's buffer."""

        async def ask() -> None:
            await self._broker.unsubscribe(channel)
            self.channels.discard(channel)

        await self._pass("unsubscribe", (channel,), ask)

    async def publish(self, channel: str, publication: Publication, options: StreamOptions) -> Published:
        """Pass it on."""
        return await self._pass("publish", (channel,), lambda: self._broker.publish(channel, publication, options))

    async def notify(self, channel: str, said: Notice | base.Announcement) -> None:
        """Pass it on."""
        await self._pass("notify", (channel,), lambda: self._broker.notify(channel, said))

    async def remove_history(self, channel: str) -> None:
        """Pass it on."""
        await self._pass("remove_history", (channel,), lambda: self._broker.remove_history(channel))

    async def watch(self, patterns: Collection[str]) -> None:
        """Pass it on."""
        await self._pass("watch", tuple(patterns), lambda: self._broker.watch(patterns))

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Pass it on."""
        return await self._pass("heads", channels, lambda: self._broker.heads(channels))

    async def read(
        self, channel: str, after: int, limit: int, max_bytes: int = 1 << 20, *, reverse: bool = False
    ) -> Page:
        """Pass it on."""
        return await self._pass(
            "read", (channel,), lambda: self._broker.read(channel, after, limit, max_bytes, reverse=reverse)
        )

    async def altered(self, known: Mapping[str, Known]) -> set[str]:
        """Pass it on."""
        return await self._pass("altered", tuple(known), lambda: self._broker.altered(known))

    async def replace_epoch(self, channel: str, epoch: str) -> Position:
        """Pass it on."""
        return await self._pass("replace_epoch", (channel,), lambda: self._broker.replace_epoch(channel, epoch))

    # --- the broker's side: BrokerEvents of the inner one

    def on_publication(self, channel: str, publication: Publication, epoch: str) -> None:
        """Queue it."""
        self._queue(Announcement(channel, publication, epoch))

    def on_notice(self, channel: str, notice: Notice) -> None:
        """Queue it."""
        self._queue(Announcement(channel, notice, ""))

    def on_cut(self) -> None:
        """The inner broker noticed something by itself."""
        self.cut()

    def on_renewed(self, channels: Iterable[str]) -> None:
        """The inner broker noticed something by itself."""
        self.renew(channels)

    def _queue(self, announcement: Announcement) -> None:
        if self.is_direct:
            self._arrive(announcement)
        else:
            self.pending.append(announcement)

    def _arrive(self, announcement: Announcement) -> None:
        channel, what, epoch = announcement
        if self._events is None:
            return
        if isinstance(what, Publication):
            self._events.on_publication(channel, what, epoch)
        else:
            self._events.on_notice(channel, what)

    async def _pass(self, kind: CallKind, channels: Sequence[str], ask: Callable[[], Awaitable[T]]) -> T:
        if kind in self._refused:
            raise BackendError(f"{kind} is refused")
        if kind not in self._held:
            return await ask()
        call = Call(kind, channels, ask)
        self.calls.append(call)
        try:
            answer: T = await call.wait()
            return answer
        finally:  # also when the caller gave up waiting
            self._remove(call)

    def _remove(self, call: Call) -> None:
        if call in self.calls:
            self.calls.remove(call)


class UnreliableRemote(UnreliableBroker):
    """One that is elsewhere: a `Remote`. `leave`, and nothing is heard, until it comes `back`."""

    def __init__(self, broker: Broker, mischief: Mischief | None = None, *, is_direct: bool = False) -> None:
        super().__init__(broker, mischief, is_direct=is_direct)
        self.is_away = False

    @property
    def is_connected(self) -> bool:
        """Whether announcements arrive, as far as anybody can know."""
        return not self.is_away and (not isinstance(self._broker, base.Remote) or self._broker.is_connected)

    def leave(self) -> None:
        """The connection on which it hears is gone, and what was on its way there."""
        self.is_away = True
        self.pending.clear()
        self.cut()

    def back(self) -> None:
        """It hears again."""
        self.is_away = False
        self.renew()

    def _queue(self, announcement: Announcement) -> None:
        if not self.is_away:
            super()._queue(announcement)


class SlowBroker:
    """A `Broker` around another one, in which every call yields to the loop before and after."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def start(self, events: BrokerEvents) -> None:
        """Slowly."""
        await _slowly(self._broker.start(events))

    async def stop(self) -> None:
        """Slowly."""
        await _slowly(self._broker.stop())

    async def subscribe(self, channel: str) -> None:
        """Slowly."""
        await _slowly(self._broker.subscribe(channel))

    async def unsubscribe(self, channel: str) -> None:
        """Slowly."""
        await _slowly(self._broker.unsubscribe(channel))

    async def publish(self, channel: str, publication: Publication, options: StreamOptions) -> Published:
        """Slowly."""
        return await _slowly(self._broker.publish(channel, publication, options))

    async def notify(self, channel: str, said: Notice | base.Announcement) -> None:
        """Slowly."""
        await _slowly(self._broker.notify(channel, said))

    async def remove_history(self, channel: str) -> None:
        """Slowly."""
        await _slowly(self._broker.remove_history(channel))

    async def watch(self, patterns: Collection[str]) -> None:
        """Slowly."""
        await _slowly(self._broker.watch(patterns))

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Slowly."""
        return await _slowly(self._broker.heads(channels))

    async def read(
        self, channel: str, after: int, limit: int, max_bytes: int = 1 << 20, *, reverse: bool = False
    ) -> Page:
        """Slowly."""
        return await _slowly(self._broker.read(channel, after, limit, max_bytes, reverse=reverse))

    async def altered(self, known: Mapping[str, Known]) -> set[str]:
        """Slowly."""
        return await _slowly(self._broker.altered(known))

    async def replace_epoch(self, channel: str, epoch: str) -> Position:
        """Slowly."""
        return await _slowly(self._broker.replace_epoch(channel, epoch))


class SlowPresence:
    """A `Presence` around another one, in which every call yields to the loop before and after."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self.ttl = presence.ttl

    async def start(self) -> None:
        """Slowly."""
        await _slowly(self._presence.start())

    async def stop(self) -> None:
        """Slowly."""
        await _slowly(self._presence.stop())

    async def add(self, channel: str, info: ClientInfo) -> None:
        """Slowly."""
        await _slowly(self._presence.add(channel, info))

    async def remove(self, channel: str, client: str) -> None:
        """Slowly."""
        await _slowly(self._presence.remove(channel, client))

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Slowly."""
        return await _slowly(self._presence.members(channel))

    async def stats(self, channel: str) -> PresenceStats:
        """Slowly."""
        return await _slowly(self._presence.stats(channel))


async def _slowly(call: Awaitable[T]) -> T:
    await asyncio.sleep(0)
    try:
        return await call
    finally:
        await asyncio.sleep(0)
