"""What the delivery machine runs on: streams in memory, or in a real Redis or Valkey, with the same mischief for both.

Answers for: `Backend` (brokers of one system, a look at a stream behind their back, and mischief done to it), for
memory, for nodes without a broker between them, and for a server; and for loops, which know when nodes that speak to
servers and databases are at rest. Refuses to know: nodes, clients, and what is to be expected of them.

**Time.** Nodes and brokers, reconnecting and deadlines included, go by one manual clock; only the bytes between them
and the server are real. So nothing here sleeps, no deadline passes because the machine is slow, and what takes forty
seconds costs as much as what takes none. While time stands still, a broken connection stays broken.

**Rest.** The nodes are at rest when every command has its answer and then, once more, when every subscription that is
up has heard a mark which was published behind those answers: the server sends in its own order, so all that was
announced before has come. A server that never answers, and nodes that ask again and again, fail the test.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple, Protocol, TypeVar

import redis
from tests.backends import RedisServer
from tests.fakes import Ground, ManualLoop, MemoryGround
from tests.property.delivery_stores import ModelStores

from hubbub.brokers.base import Announcement, BrokerEvents, Notice
from hubbub.brokers.memory import MemoryBroker, Stream
from hubbub.brokers.redis import RedisBroker
from hubbub.clock import Clock, ManualClock, TimerWheel
from hubbub.model import Position
from hubbub.redis.wire import Wire

T = TypeVar("T")

#: Looks at the sockets without rest, and real seconds each, after which something is said to be stuck.
LOOKS, A_LOOK = 10_000, 0.01
#: Seconds of the manual clock that pass at once for who waits (never to within a rounding error of a deadline, at
#: which a still clock would stay), and that may pass in all.
STEP, LONGEST = 0.05001, 30.0

#: Heard by every broker on a server; no application's channel begins so.
MARK = "\x02mark"

#: Make each epoch that is given here another one.
_epochs = itertools.count(1)


class Look(NamedTuple):
    """What a stream is at this moment: `first` is the oldest offset that is kept, above `top` while nothing is."""

    epoch: str
    first: int
    top: int

    @property
    def head(self) -> Position:
        return Position(self.epoch, self.top)


class Copy(NamedTuple):
    """What a stream was. `content` is the backend's own."""

    look: Look
    content: Any


class Backend(Ground, Protocol):
    """A ground whose streams can be seen and harmed, behind the brokers' back."""

    def keep(self, stores: ModelStores) -> None:
        """The stores that its nodes will have: its loop, made after this, is at rest when they owe nobody anything."""
        ...

    def look(self, channel: str) -> Look:
        """What is there now. A stream that nobody knows may have an empty epoch."""
        ...

    def trim(self, channel: str, keep: int) -> None:
        """Only the newest `keep` publications are left. No loss in itself: the head stays."""
        ...

    def forget(self, channel: str) -> None:
        """The stream is gone; whoever asks next gets another epoch."""
        ...

    def save(self, channel: str) -> Copy:
        """What is there now, for later."""
        ...

    def load(self, channel: str, copy: Copy, *, is_noticed: bool) -> Look:
        """What was there then is there again, as after a failover; under another epoch if it `is_noticed`."""
        ...


# Memory -------------------------------------------------------------------------------------------------------------


class PatientLoop(ManualLoop):
    """A manual loop that waits for stores, which are in threads or behind sockets."""

    def __init__(self, clock: ManualClock, stores: ModelStores) -> None:
        super().__init__(clock)
        self._stores = stores

    async def rest(self) -> None:
        """Wait until nothing else can happen before time passes."""
        selector: Any = self._selector  # type: ignore[attr-defined]  # waits for answers, without time passing
        looks = 0
        await super().rest()
        while not self.has_everything():
            looks += 1
            assert looks < LOOKS, f"it does not come to rest: {self}"
            selector.select(A_LOOK)
            await super().rest()

    def has_everything(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._stores.owed


class MemoryBackend(MemoryGround):
    """Implements Backend on one exchange."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = ManualClock()
        self._stores: ModelStores | None = None

    def keep(self, stores: ModelStores) -> None:
        """Wait for these."""
        self._stores = stores

    def loop(self, clock: ManualClock) -> ManualLoop:
        """One that waits for stores."""
        assert self._stores is not None, "keep() comes first"
        self._clock = clock
        return PatientLoop(clock, self._stores)

    def _stream(self, channel: str) -> Stream:
        return self.exchange.stream(channel, self._clock.now())

    def look(self, channel: str) -> Look:
        """What is there."""
        stream = self._stream(channel)
        return Look(stream.epoch, stream.first, stream.top)

    def trim(self, channel: str, keep: int) -> None:
        """The oldest are gone."""
        stream = self._stream(channel)
        stream.first = max(stream.first, stream.top - keep + 1)
        del stream.items[: max(0, len(stream.items) - keep)]

    def forget(self, channel: str) -> None:
        """Another life begins."""
        self.exchange.forget(channel)

    def save(self, channel: str) -> Copy:
        """A copy of its list."""
        return Copy(self.look(channel), self._stream(channel).items.copy())

    def load(self, channel: str, copy: Copy, *, is_noticed: bool) -> Look:
        """In a stream of its own: the one that was is over."""
        expires = self._stream(channel).expires
        self.exchange.forget(channel)
        stream = self._stream(channel)
        if not is_noticed:
            stream.epoch = copy.look.epoch
        stream.items, stream.first, stream.top, stream.expires = copy.content.copy(), *copy.look[1:], expires
        return self.look(channel)


class LonelyBroker(MemoryBroker):
    """What a server has that was given no broker: of commits only its own are heard."""

    async def notify(self, channel: str, said: Notice | Announcement) -> None:
        """Others do not hear what is in a store."""
        if isinstance(said, Notice):
            await super().notify(channel, said)
        elif self._events is not None:
            self._events.on_publication(channel, *said)


class LonelyBackend(MemoryBackend):
    """Memory for streams, so that they are as ever, and no word about durable channels between servers."""

    def broker(self, timers: TimerWheel) -> MemoryBroker:
        """One more on the exchange."""
        return LonelyBroker(timers, self.exchange)


# A server -----------------------------------------------------------------------------------------------------------


class WiredLoop(PatientLoop):
    """A patient loop with sockets to a server: it is at rest when nothing is owed on them, and everything has come."""

    def __init__(self, clock: ManualClock, stores: ModelStores, has_all_come: Callable[[], bool]) -> None:
        super().__init__(clock, stores)
        self.wires: list[Wire] = []
        self.sent = 0  # commands, on all of them
        self._dialing = 0
        self._has_all_come = has_all_come

    async def create_connection(self, *arguments: Any, **options: Any) -> Any:
        """Remember what is connected to the broker."""
        self._dialing += 1
        try:
            transport, protocol = await super().create_connection(*arguments, **options)
        finally:
            self._dialing -= 1
        if not isinstance(protocol, Wire):  # to a database
            return transport, protocol
        self.wires = [wire for wire in self.wires if not wire.lost.done()]
        self.wires.append(protocol)
        send = protocol.send

        def count_and_send(data: bytes, reply: asyncio.Future[Any], when: float) -> None:
            self.sent += 1
            send(data, reply, when)

        protocol.send = count_and_send  # type: ignore[method-assign]  # the one place through which commands go
        return transport, protocol

    def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, for which time passes where it must."""
        task = self.create_task(work)
        self.settle()
        waited = 0.0
        while not task.done():
            assert waited < LONGEST, f"it never ends: {task}"
            self._manual.move(STEP)
            waited += STEP
            self.settle()
        return task.result()

    def has_everything(self) -> bool:
        """Whether nobody waits for an answer, and what was announced has come."""
        return super().has_everything() and not self._is_owed and self._has_all_come()

    @property
    def _is_owed(self) -> bool:
        return self._dialing > 0 or any(wire.in_flight and not wire.lost.done() for wire in self.wires)


class MarkedBroker(RedisBroker):
    """One that knows the last mark it has heard, and reconnects after the same delays in every run."""

    def __init__(self, url: str, *, name: str, clock: Clock) -> None:
        super().__init__(url, name=name, clock=clock)
        self.marked = 0
        for supervised in (self._commands, self._ears):
            supervised._backoff._draw.seed(1)

    async def start(self, events: BrokerEvents) -> None:
        """Hear marks, too."""
        await super().start(events)
        await self._ears.subscribe(MARK)

    def _hear(self, channel: str, message: bytes) -> None:
        if channel == MARK:
            self.marked = int(message)
        else:
            super()._hear(channel, message)

    @property
    def is_whole(self) -> bool:
        """Whether both connections are up."""
        return self._ears.is_connected and self._commands.is_connected

    @property
    def is_hearing(self) -> bool:
        """Whether its subscriptions are up."""
        return self._ears.is_connected

    @property
    def ears(self) -> Wire | None:
        """The connection for subscriptions."""
        line = self._ears._line
        return line._wire if line is not None else None

    @property
    def commands(self) -> Wire | None:
        """The connection for commands."""
        return self._commands._wire


class ServerBackend:
    """Implements Backend on a Redis or Valkey that nobody else uses meanwhile; `close` it."""

    #: FLUSHALL takes the orders of the nodes, too, and they say so.
    expected: tuple[str, ...] = ("orders of other nodes are lost",)

    def __init__(self, server: RedisServer) -> None:
        self.brokers: list[MarkedBroker] = []
        self._url = server.url
        self._said: Any = redis.Redis.from_url(server.url, socket_timeout=LOOKS * A_LOOK)
        self._stores: ModelStores | None = None
        self._loop: WiredLoop | None = None
        self._mark = 0
        self._marked_at = 0  # commands that had been sent
        self.flush()

    def keep(self, stores: ModelStores) -> None:
        """Wait for these, too."""
        self._stores = stores

    def loop(self, clock: ManualClock) -> ManualLoop:
        """One that knows of its sockets."""
        assert self._stores is not None, "keep() comes first"
        self._loop = WiredLoop(clock, self._stores, self._has_all_come)
        return self._loop

    def broker(self, timers: TimerWheel) -> MarkedBroker:
        """One more of the same application."""
        broker = MarkedBroker(self._url, name="model", clock=timers.clock)
        self.brokers.append(broker)
        return broker

    def close(self) -> None:
        """Let go of the server."""
        self._said.close()

    def _has_all_come(self) -> bool:
        """With nothing owed: whether a mark was heard that was published behind the last command."""
        assert self._loop is not None, "the loop asks"
        if self._marked_at != self._loop.sent:
            self._marked_at = self._loop.sent
            self._mark += 1
            self._said.publish(MARK, self._mark)
        return all(broker.marked == self._mark for broker in self.brokers if broker.is_hearing)

    # what it keeps --------------------------------------------------------------------------------------------------

    def look(self, channel: str) -> Look:
        """What is there."""
        meta, kept = _keys(channel)
        with self._said.pipeline() as together:
            (epoch, top), length = together.hmget(meta, "e", "s").llen(kept).execute()
        if epoch is None:
            return Look("", 1, 0)
        # What lies there under a head of 0 is of a former life.
        return Look(epoch.decode(), int(top) - (length if int(top) else 0) + 1, int(top))

    def trim(self, channel: str, keep: int) -> None:
        """The oldest are gone."""
        kept = _keys(channel)[1]
        self._said.ltrim(kept, -keep, -1) if keep else self._said.delete(kept)

    def forget(self, channel: str) -> None:
        """Both keys are gone."""
        self._said.delete(*_keys(channel))

    def forget_head(self, channel: str) -> None:
        """The head is gone, and what was kept is still there."""
        self._said.delete(_keys(channel)[0])

    def save(self, channel: str) -> Copy:
        """Both keys, as the server itself would write them down."""
        with self._said.pipeline() as together:
            for key in _keys(channel):
                together.dump(key).pttl(key)
            content = together.execute()
        return Copy(self.look(channel), content)

    def load(self, channel: str, copy: Copy, *, is_noticed: bool) -> Look:
        """Both keys, as they were."""
        keys = _keys(channel)
        with self._said.pipeline() as together:
            together.delete(*keys)
            for key, dump, ttl in zip(keys, copy.content[::2], copy.content[1::2], strict=True):
                if dump is not None:
                    together.restore(key, max(ttl, 0), dump)
            if is_noticed:
                together.hset(keys[0], mapping={"e": f"again{next(_epochs)}", "s": copy.look.top})
            together.execute()
        return self.look(channel)

    def flush(self) -> None:
        """Everything is gone, scripts too."""
        self._said.flushall()
        self._said.script_flush()

    # its connections ------------------------------------------------------------------------------------------------

    def kill_ears(self) -> None:
        """CLIENT KILL TYPE pubsub."""
        ends = [broker.ears for broker in self.brokers]
        self._said.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        self.see_the_end(ends)

    def kill_all(self) -> None:
        """Every connection, as a failover does."""
        ends = [wire for broker in self.brokers for wire in (broker.ears, broker.commands)]
        self._said.execute_command("CLIENT", "KILL", "SKIPME", "yes")
        self.see_the_end(ends)

    def kill_commands(self, node: int) -> None:
        """The connection for commands of one node."""
        wire = self.brokers[node].commands
        if wire is not None:
            self.cut(wire)
            self.see_the_end([wire])

    def cut(self, wire: Wire) -> None:
        """The server closes one connection. Whatever was on its way, either way, may be lost."""
        assert wire._transport is not None, "connected"
        host, port = wire._transport.get_extra_info("sockname")
        self._said.execute_command("CLIENT", "KILL", "ADDR", f"{host}:{port}", "SKIPME", "yes")

    def see_the_end(self, wires: Iterable[Wire | None]) -> None:
        """Return once these are known to be lost: a closed socket is heard of when it is read."""
        assert self._loop is not None, "there are nodes"
        ends = [wire.lost for wire in wires if wire is not None]
        if ends:
            self._loop.run_until_complete(asyncio.wait(ends))


def _keys(channel: str) -> tuple[str, str]:
    return f"model:m:{{{channel}}}", f"model:l:{{{channel}}}"
