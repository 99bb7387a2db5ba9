"""A whole server in one thread that does nothing by itself: time, loop, kernel and clients all wait for the test.

Answers for: `ManualLoop` (an event loop on the node's clock), `FakeTransport` (a socket whose kernel takes as many
bytes as the test allows), `Client` (speaks the client protocol over it, in JSON or Protobuf, and writes down what it
got), and `House` (nodes on one clock and one exchange). Refuses to know: chance. Nothing here is random, and nothing
sleeps, so that every failure can be replayed.

    with House(namespaces={"news": ChannelRules(delivery="recent", subscribe="anyone")}) as house:
        client = house.client()                    # connected, unless connect=False
        client.subscribe("news:1")
        house.publish("news:1", b"1")              # settles: everything has happened that can without time passing
        client.transport.kernel = 0                # from now on it takes no byte
        house.pass_time(40)
        client.transport.kernel = None             # takes everything
        assert client.offsets("news:1") == [1]
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from tests.wire import decode_frame, encode_command

from hubbub.auth import TokenVerifier
from hubbub.brokers.base import Broker, is_nodes_own
from hubbub.brokers.memory import Exchange, MemoryBroker
from hubbub.channels import ChannelRules, Namespaces
from hubbub.clock import ManualClock, TimerWheel
from hubbub.core.access import Access
from hubbub.core.connection import NO_HEAD, Connection, Head
from hubbub.core.hooks import Handlers
from hubbub.core.node import Limits, Node
from hubbub.errors import BackendError
from hubbub.model import Position
from hubbub.presence.base import Presence
from hubbub.presence.memory import MemoryPresence
from hubbub.protocol.codec import Codec, JsonCodec
from hubbub.protocol.protobuf import ProtobufCodec
from hubbub.stores.base import Store

T = TypeVar("T")

#: Signs the tokens of tests.
SECRET = "a secret of thirty-two characters or more"

#: Turns of the loop after which something is said to spin.
RESTLESS = 5000


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop that goes by a manual clock, and never waits."""

    def __init__(self, clock: ManualClock) -> None:
        self._manual = clock
        self.errors: list[dict[str, Any]] = []
        super().__init__()
        self.set_exception_handler(lambda loop, context: self.errors.append(context))

    def time(self) -> float:
        """The clock's."""
        return self._manual.now()

    @property
    def is_idle(self) -> bool:
        """Whether nothing can happen before time passes. True inside the only running callback, too."""
        ready: deque[Any] = self._ready  # type: ignore[attr-defined]  # there is no other way to know
        scheduled: list[Any] = self._scheduled  # type: ignore[attr-defined]
        due = any(not timer.cancelled() and timer.when() <= self.time() for timer in scheduled)
        return not ready and not due

    def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self.run_until_complete(work)

    def settle(self) -> None:
        """Run until nothing can happen before time passes."""
        self.run_until_complete(self.rest())

    async def rest(self) -> None:
        """Wait until nothing else can happen before time passes."""
        for _ in range(RESTLESS):
            await asyncio.sleep(0)
            if self.is_idle:
                return
        ready: deque[Any] = self._ready  # type: ignore[attr-defined]
        raise AssertionError(f"it does not come to rest, something asks again and again: {list(ready)[:5]}")


class Frames(list[bytes]):
    """Several frames that are written as one buffer."""


class PlainFraming:
    """No framing: each message is its payload."""

    def framer(self, *, binary: bool) -> Callable[[bytes], bytes]:
        """The payload."""
        return bytes

    def join(self, framed: list[bytes]) -> Frames:
        """Several payloads."""
        return Frames(framed)


#: One for all: variants are told apart by identity.
FRAMING = PlainFraming()


class Endpoint(Protocol):
    """What a transport brings its bytes to."""

    def receive(self, message: bytes) -> None: ...
    def paused(self) -> None: ...
    def resumed(self) -> None: ...
    def closed(self) -> None: ...


class FakeTransport:
    """Implements Transport. `kernel` is how many more bytes the kernel takes; None: all.

    It tells its endpoint like real ones do: paused when more than `budget` bytes are unsent, resumed below a
    quarter; what the peer sends while reading is paused waits here, as it would in the kernel.
    """

    def __init__(self, budget: int = 1 << 20, *, deliver: Callable[[bytes], None] = lambda frame: None) -> None:
        self.framing = FRAMING
        self.head: Head = NO_HEAD
        self.endpoint: Endpoint | None = None
        self.budget = budget
        self.taken = 0
        self.unsent = 0
        self.most_unsent = 0
        self.is_reading = True
        self.goodbye: tuple[int, str] | None = None
        self.waiting: deque[bytes] = deque()
        self._deliver = deliver
        self._kernel: int | None = None
        self._frames: deque[bytes] = deque()
        self._sent = 0  # bytes of the first frame that the kernel has
        self._is_paused = False

    # what the connection calls

    def write(self, buffers: list[Any]) -> None:
        """Take as much as the kernel takes, and keep the rest."""
        if self.goodbye is not None:
            return
        for buffer in buffers:
            frames = buffer if isinstance(buffer, Frames) else [buffer]
            self._frames.extend(frames)
            self.unsent += sum(map(len, frames))
        self._push()
        self.most_unsent = max(self.most_unsent, self.unsent)
        if self.unsent > self.budget and not self._is_paused:
            self._is_paused = True
            assert self.endpoint is not None
            self.endpoint.paused()

    def close(self, code: int, reason: str) -> None:
        """The last that the peer hears."""
        if self.goodbye is None:
            self.goodbye = code, reason

    def pause_reading(self) -> None:
        """What comes waits."""
        self.is_reading = False

    def resume_reading(self) -> None:
        """What waited comes, soon: not inside this call."""
        self.is_reading = True
        asyncio.get_running_loop().call_soon(self._read)

    # what the test does

    @property
    def kernel(self) -> int | None:
        """How many more bytes it takes; None: all."""
        return self._kernel

    @kernel.setter
    def kernel(self, room: int | None) -> None:
        self._kernel = room
        self._push()

    def stop(self) -> None:
        """Be full at once, as the event loop says at the end of a turn; it resumes when it is empty."""
        if not self._is_paused and self.goodbye is None and self.endpoint is not None:
            self._is_paused = True
            self.endpoint.paused()

    def receive(self, message: bytes) -> None:
        """The peer sends."""
        self.waiting.append(message)
        self._read()

    def _read(self) -> None:
        while self.waiting and self.is_reading and self.goodbye is None:
            assert self.endpoint is not None
            self.endpoint.receive(self.waiting.popleft())

    def _push(self) -> None:
        while self._frames and (self._kernel is None or self._kernel > 0):
            frame = self._frames[0]
            left = len(frame) - self._sent
            taken = left if self._kernel is None else min(left, self._kernel)
            if self._kernel is not None:
                self._kernel -= taken
            self.taken += taken
            self.unsent -= taken
            self._sent += taken
            if self._sent == len(frame):
                self._sent = 0
                self._deliver(self._frames.popleft())
        if self._is_paused and self.unsent < self.budget // 4 and self.goodbye is None:
            self._is_paused = False
            assert self.endpoint is not None
            self.endpoint.resumed()


# Clients ------------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One line of a client's log of a channel."""

    kind: str  # pub, joined, recovered, unrecovered, unsubscribed, left, refused
    offset: int = 0
    data: Any = None
    epoch: str = ""
    code: int = 0


class Client:
    """Speaks the protocol as the SDKs do, but only when told to. `auto_pong` answers pings at once."""

    def __init__(self, node: Node, *, binary: bool = False, budget: int = 1 << 20) -> None:
        self.node = node
        self.binary = binary
        self.auto_pong = True
        self.replies: dict[int, dict[str, Any]] = {}
        self.pings = 0
        self.frames: list[bytes] = []
        self.pushes: list[dict[str, Any]] = []
        self.logs: dict[str, list[Entry]] = {}
        self.positions: dict[str, Position] = {}
        self.is_subscribed: dict[str, bool] = {}
        self.on_entry: Callable[[str, Entry, Position | None], None] = lambda channel, entry, before: None
        self._asked: dict[int, str] = {}
        self._leaving: dict[int, str] = {}
        self._id = 0
        codec: Codec = PROTOBUF if binary else JSON
        self.transport = FakeTransport(budget, deliver=self._got)
        self.connection = Connection(node, self.transport, codec=codec)
        self.transport.endpoint = self.connection

    # what it says

    def command(self, kind: str, **body: Any) -> int:
        """Send one command; returns its id."""
        self._id += 1
        if kind == "subscribe":
            self._asked[self._id] = body.get("channel", "")
        elif kind == "unsubscribe":
            self._leaving[self._id] = body.get("channel", "")
        self.send(encode_command(self._id, kind, body, binary=self.binary))
        return self._id

    def send(self, message: bytes) -> None:
        """Send any bytes."""
        self.transport.receive(message)

    def connect(self, token: str = "", subs: Mapping[str, Position] | None = None) -> int:
        """The first command. `subs`: where to recover server-side subscriptions from (JSON only)."""
        body: dict[str, Any] = {"token": token} if token else {}
        if subs:
            body["subs"] = {
                channel: {"recover": True, "epoch": position.epoch, "offset": position.offset}
                for channel, position in subs.items()
            }
        return self.command("connect", **body)

    def subscribe(self, channel: str, since: Position | None = None, **body: Any) -> int:
        """Subscribe, recovering from `since` if it is given."""
        if since is not None:
            body |= {"recover": True, "epoch": since.epoch, "offset": since.offset}
        return self.command("subscribe", channel=channel, **body)

    def pong(self) -> None:
        """Answer a ping."""
        self.send(b"\x00" if self.binary else b"{}")

    # what it heard

    def log(self, channel: str) -> list[Entry]:
        """What happened in a channel, in order."""
        return self.logs.setdefault(channel, [])

    def offsets(self, channel: str) -> list[int]:
        """Of the publications it got."""
        return [entry.offset for entry in self.log(channel) if entry.kind == "pub"]

    def data(self, channel: str) -> list[Any]:
        """Of the publications it got."""
        return [entry.data for entry in self.log(channel) if entry.kind == "pub"]

    def error(self, id: int) -> int:
        """The code with which a command was refused, 0 if it was not."""
        code: int = self.replies[id].get("error", {}).get("code", 0)
        return code

    @property
    def closed_with(self) -> int:
        """The code of the closing frame, 0 while it is open."""
        return self.transport.goodbye[0] if self.transport.goodbye is not None else 0

    def _got(self, frame: bytes) -> None:
        self.frames.append(frame)
        for message in decode_frame(frame, binary=self.binary):
            self._message(message)

    def _message(self, message: dict[str, Any]) -> None:
        if not message:
            self.pings += 1
            if self.auto_pong:
                asyncio.get_running_loop().call_soon(self.pong)
        elif "push" in message:
            self.pushes.append(message["push"])
            self._push(message["push"])
        else:
            assert message["id"] not in self.replies, f"answered twice: {message}"
            self.replies[message["id"]] = message
            self._reply(message)

    @property
    def is_asking(self) -> set[str]:
        """Channels for which a subscribe or an unsubscribe has not been answered."""
        return {*self._asked.values(), *self._leaving.values()}

    def _note(self, channel: str, entry: Entry) -> None:
        self.log(channel).append(entry)
        self.on_entry(channel, entry, self.positions.get(channel))

    def _reply(self, message: dict[str, Any]) -> None:
        leaving = self._leaving.pop(message["id"], "")
        if leaving and self.is_subscribed.get(leaving):
            self.is_subscribed[leaving] = False
            self._note(leaving, Entry("left"))
        for channel, result in (message.get("connect") or {}).get("subs", {}).items():
            self._joined(channel, result)
        channel = self._asked.pop(message["id"], "")
        if "subscribe" in message:
            self._joined(channel, message["subscribe"])
        elif channel:
            self._note(channel, Entry("refused", code=message["error"]["code"]))

    def _joined(self, channel: str, result: dict[str, Any]) -> None:
        assert not self.is_subscribed.get(channel), f"subscribed to {channel} twice"
        self.is_subscribed[channel] = True
        epoch, offset = result.get("epoch", ""), result.get("offset", 0)
        kind = "joined"
        if result.get("was_recovering"):
            kind = "recovered" if result.get("recovered") else "unrecovered"
        self._note(channel, Entry(kind, offset, epoch=epoch))
        self.positions[channel] = Position(epoch, offset)
        for publication in result.get("publications", []):
            self._publication(channel, publication)

    def _push(self, push: dict[str, Any]) -> None:
        channel = push.get("channel", "")
        if "subscribe" in push:
            self._joined(channel, push["subscribe"])
        elif "pub" in push:
            assert self.is_subscribed.get(channel), f"a publication in {channel}, to which it is not subscribed"
            self._publication(channel, push["pub"])
        elif "unsubscribe" in push:
            assert self.is_subscribed.get(channel), f"unsubscribed from {channel}, to which it is not subscribed"
            self.is_subscribed[channel] = False
            self._note(channel, Entry("unsubscribed", code=push["unsubscribe"]["code"]))

    def _publication(self, channel: str, publication: dict[str, Any]) -> None:
        offset = publication.get("offset", 0)
        epoch = self.positions[channel].epoch
        self._note(channel, Entry("pub", offset, publication["data"], epoch))
        if offset:
            self.positions[channel] = Position(epoch, offset)


JSON, PROTOBUF = JsonCodec(), ProtobufCodec()


# The house ----------------------------------------------------------------------------------------------------------


class Errors(logging.Handler):
    """What was logged as an error: a task that died, a callback that raised. `expected`: how such a line may begin."""

    def __init__(self, expected: tuple[str, ...] = ()) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []
        self._expected = expected

    def emit(self, record: logging.LogRecord) -> None:
        """Write it down, but for what a test made a backend do."""
        if record.exc_info and isinstance(record.exc_info[1], BackendError):
            return
        if not record.getMessage().startswith(self._expected):
            self.records.append(logging.Formatter().format(record))


class Ground(Protocol):
    """What the nodes of a house stand on: a loop that knows when they are at rest, and brokers of one system."""

    #: How lines may begin that are logged as errors, and that are none here.
    expected: tuple[str, ...]

    def loop(self, clock: ManualClock) -> ManualLoop: ...
    def broker(self, timers: TimerWheel) -> Broker: ...


class MemoryGround:
    """One exchange, in which nothing ever waits."""

    expected: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.exchange = Exchange()

    def loop(self, clock: ManualClock) -> ManualLoop:
        """A plain one."""
        return ManualLoop(clock)

    def broker(self, timers: TimerWheel) -> MemoryBroker:
        """One more on the exchange."""
        return MemoryBroker(timers, self.exchange)


class House:
    """Nodes in one thread, on one clock and one ground, which is memory unless given. To be used with `with`.

    Whatever hubbub logs as an error fails the test, unless it `forgives`.
    """

    def __init__(
        self,
        namespaces: Mapping[str, ChannelRules] | None = None,
        *,
        nodes: int = 1,
        wrap: Callable[[Any], Broker] = lambda broker: broker,
        ground: Ground | None = None,
        presence: Callable[[], Presence] = MemoryPresence,
        handlers: Handlers | None = None,
        limits: Limits | None = None,
        access: Callable[[Namespaces], Access] | None = None,
        store: Callable[[ManualClock], Store] | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.timers = TimerWheel(self.clock)
        self.ground = ground or MemoryGround()
        self.loop = self.ground.loop(self.clock)
        self.forgives = False
        self.errors = Errors(self.ground.expected)
        logging.getLogger("hubbub").addHandler(self.errors)
        self.namespaces = Namespaces(namespaces)
        self.limits = limits or Limits()
        self.brokers: list[Broker] = []
        self.nodes: list[Node] = []
        for _ in range(nodes):
            # A wheel for each node: it tells one driver when to wake it.
            timers = TimerWheel(self.clock)
            broker = wrap(self.ground.broker(timers))
            node = Node(
                self.namespaces,
                broker,
                presence=presence(),
                store=store(self.clock) if store is not None else None,
                timers=timers,
                access=(access or open_access)(self.namespaces),
                handlers=handlers,
                limits=self.limits,
            )
            self.brokers.append(broker)
            self.nodes.append(node)
            self.run(node.start())

    @property
    def exchange(self) -> Exchange:
        """Where the streams of a memory ground are."""
        assert isinstance(self.ground, MemoryGround), "what stands on something else has no exchange"
        return self.ground.exchange

    @property
    def node(self) -> Node:
        """The first."""
        return self.nodes[0]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the test to its end."""
        return self.loop.complete(work)

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a coroutine that may have to wait for the test."""
        task = self.loop.create_task(work)
        self.settle()
        return task

    def call(self, function: Callable[[], T]) -> T:
        """Call something that expects to be on the loop, and settle."""

        async def work() -> T:
            return function()

        result = self.run(work())
        self.settle()
        return result

    @property
    def channels(self) -> list[str]:
        """What the node holds of channels that somebody chose."""
        return [name for name in self.node.hub.channels if not is_nodes_own(name)]

    def settle(self) -> None:
        """Let everything happen that can without time passing. No task may have died of a bug."""
        self.loop.settle()
        assert not self.loop.errors, self.loop.errors
        assert self.forgives or not self.errors.records, "\n".join(self.errors.records)

    def pass_time(self, seconds: float, step: float = 0.0) -> None:
        """Time passes, in one jump or in steps."""
        while seconds > 0:
            moved = min(step or seconds, seconds)
            self.clock.move(
                moved + 1e-5
            )  # never within a rounding error of a deadline, at which a still clock would stay
            seconds -= moved
            self.settle()

    def client(
        self, node: int = 0, *, token: str = "", connect: bool = True, binary: bool = False, budget: int = 0
    ) -> Client:
        """A client of that node."""
        client = self.call(lambda: Client(self.nodes[node], binary=binary, budget=budget or self.limits.write_budget))
        if connect:
            self.call(lambda: client.connect(token))
        return client

    def publish(self, channel: str, *payloads: bytes, node: int = 0, ephemeral: bool = False) -> None:
        """From this server."""

        async def work() -> None:
            for payload in payloads:
                await self.nodes[node].publish(channel, payload, ephemeral=ephemeral)

        self.run(work())
        self.settle()

    def close(self) -> None:
        """Stop the nodes."""
        logging.getLogger("hubbub").removeHandler(self.errors)
        try:
            for node in self.nodes:
                self.run(node.stop())
            self.loop.settle()
        finally:
            self.loop.close()

    def __enter__(self) -> House:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
            return
        try:
            self.close()
        except Exception:  # the test has failed already, and that is what should be read
            pass


def open_access(namespaces: Namespaces) -> Access:
    """Anybody may connect, with a token signed with SECRET or without one; the rules say who may what."""
    return Access(namespaces, TokenVerifier(SECRET), anonymous=True)
