"""One client: its session, its transport, its subscriptions and its deadlines.

Answers for: running the commands of a client in their order, answering each, delivering what the hub gives, falling
behind when the transport is full and catching up when it drains, and leaving everything when it ends. Refuses to
know: bytes on sockets (transports), what commands do (`commands`), and who may what.

Every end is the same end: `close`, whoever caused it. It leaves the channels at once, whatever the transport still
has to say to a peer that may never answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from types import CoroutineType
from typing import Any, Protocol, TypeVar

from hubbub.core import eager
from hubbub.core.commands import COMMANDS, PUBLISHED
from hubbub.core.hub import LOST, Subscription
from hubbub.core.lanes import LIMIT, Lanes
from hubbub.core.limiter import CommandLimit, PublishLimits, Verdict
from hubbub.core.node import Node
from hubbub.core.variants import ClientVariant, Framing
from hubbub.errors import (
    Disconnect,
    DisconnectCode,
    InternalError,
    ProtocolError,
    TooManyRequests,
    UnsubscribeCode,
)
from hubbub.model import ClientInfo, Credentials, Published
from hubbub.protocol.codec import Codec
from hubbub.protocol.messages import Push, Result, UnsubscribePush
from hubbub.protocol.session import Request, Session, State
from hubbub.rates import Rate

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Looked at for every command.
CONNECTED = State.CONNECTED

#: Bytes of an answer that is written before the next command is run: a message may hold a thousand commands, and the
#: history of a channel may have half a megabyte. A thousand smaller ones are no more than the budget.
LARGE_ANSWER = 1024


#: Of the HTTP request that a client came with: its headers by lower-case name, and its query.
Head = tuple[Mapping[str, str], str]

#: Heads are kept until the client has connected; nobody asks for them later.
NO_HEAD: Head = ({}, "")


class Transport(Protocol):
    """Moves the frames of one connection; never waits.

    It tells its connection `receive` for each message, `paused` when over `write_budget` bytes are unsent, `resumed`
    when below a quarter of that, and `closed` once the peer is gone.
    """

    head: Head

    @property
    def framing(self) -> Framing:
        """How it wants its messages; the same object for all transports that want the same."""
        ...

    def write(self, buffers: list[Any]) -> None:
        """Send these, in order, as made by its framing. Ignored after `close`. The list is not kept."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Say goodbye and end; the peer gets a few seconds to answer. Idempotent."""
        ...

    def pause_reading(self) -> None:
        """Call `receive` no more, for now; what has been read already may still come."""
        ...

    def resume_reading(self) -> None:
        """Call it again."""
        ...

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        ...

    @property
    def taken(self) -> int:
        """Bytes that it has taken so far: while this stands still, the peer does not read."""
        ...


class Connection:
    """One client. Implements the hub's Subscriber, the pump's Reader and the doorkeeper's Member."""

    __slots__ = (
        "_committing",
        "_dammed",
        "_held",
        "_info",
        "_lanes",
        "_limit",
        "_node",
        "_publishing",
        "_stalled",
        "_timer",
        "_waits_for",
        "credentials",
        "id",
        "is_closed",
        "is_paused",
        "outbox",
        "session",
        "subscriptions",
        "transport",
        "variant",
    )

    def __init__(self, node: Node, transport: Transport, *, codec: Codec) -> None:
        self._node = node
        self.transport = transport
        now = node.clock.now()
        self.id = str(uuid.uuid4())
        self.session = Session(codec, node.limits.timing, now=now)
        self.variant: ClientVariant = node.variants.of(codec, transport.framing)
        self.credentials = Credentials()
        self.subscriptions: dict[str, Subscription] = {}
        self.outbox: list[Any] = []
        self.is_closed = False
        self.is_paused = False
        self._held: Sequence[Request] = ()  # read, and not begun: too much is under way or unsent
        self._dammed = False  # too many commands wait: nothing is read
        self._lanes: Lanes | None = None
        self._committing = 0  # publications of this connection that wait for their commit
        rate = node.limits.command_rate
        self._limit = None if rate is None else CommandLimit(rate, now)
        self._publishing: PublishLimits | None = None  # made when it first publishes where there is a rate
        self._info: ClientInfo | None = None  # made when first asked for, anew when the credentials are
        self._stalled: tuple[float, int] | None = None
        self._waits_for: set[asyncio.Task[Any]] | None = None  # answers of the application that nobody else wants
        self._timer = node.timers.at(self.session.deadline, self._tick)
        node.registry.add(self)

    @property
    def user(self) -> str:
        """The verified user, "" for anonymous."""
        return self.credentials.user

    @property
    def request(self) -> Head:
        """The HTTP request that it came with, until it has connected."""
        return self.transport.head

    def info_in(self, subscription: Subscription | None = None) -> ClientInfo:
        """What others see of this connection, in a channel of its own or anywhere."""
        if subscription is not None and subscription.chan_info:
            return ClientInfo(self.credentials.user, self.id, self.credentials.info, subscription.chan_info)
        if self._info is None:
            self._info = ClientInfo(self.credentials.user, self.id, self.credentials.info)
        return self._info

    # what comes in --------------------------------------------------------------------------------------------------

    def receive(self, message: bytes) -> None:
        """One message from the peer, whatever it holds."""
        if self.is_closed:
            return
        try:
            requests = self.session.receive(message, self._node.now)
        except ProtocolError as error:
            self.close(DisconnectCode.BAD_REQUEST, detail=str(error))
            return
        if len(requests) == 1 and self._lanes is None and not self._dammed:
            if self._runs_on(requests[0]):  # nearly always alone, and nearly never
                self._dam()
        elif requests:
            self._take(requests)
        else:
            self.rearm()  # a pong moves the deadline

    def _take(self, requests: Sequence[Request]) -> None:
        """Run them in their turn, as many as may be under way or answered unread; the rest waits."""
        if self._held:
            self._held = [*self._held, *requests]  # a door may bring more after it was told to stop
            return
        for number, request in enumerate(requests):
            if self.is_paused or self._is_full:
                self._held = requests[number:]
                break
            if self._lanes is None or self._lanes.enter(request):
                self._run(request)
        self._dam()

    @property
    def _is_full(self) -> bool:
        """Whether as many commands are under way as may be."""
        return self._committing >= LIMIT or (self._lanes is not None and self._lanes.is_full)

    def _take_held(self) -> None:
        held, self._held = self._held, ()
        self._take(held)

    def _run(self, request: Request) -> None:
        """Start a command that has its lane, if there are lanes."""
        if not self._runs_on(request) and self._lanes is not None:
            self._left(request)

    def _runs_on(self, request: Request) -> bool:
        """Start a command. True if it goes on as a task; most end here. Nothing runs once the connection is closed."""
        id, kind = request.id, request.kind
        if self.is_closed or (self.session.state is not CONNECTED and kind != "connect"):
            # Nothing runs behind a connect that was refused, though it came in the same message. It is not even a
            # reason to close: SDKs send connect and subscribe at once, and have to see the error (109: another token).
            return False
        if self._limit is not None and not self._is_in_time(request, self._limit):
            return False
        try:
            result: Any = COMMANDS[kind](self._node, self, id, request.body)
            if result is PUBLISHED:  # which it nearly always is: `reply`, without the calls
                if not self.is_closed:
                    variant = self.variant
                    self._node.hub.enqueue(self, variant.frame(variant.codec.reply(id, PUBLISHED)))
                return False
            if isinstance(result, CoroutineType):
                result, rest = eager.begin(result)
                if rest is not None:
                    self._wait_for(request, rest)
                    return True
            elif isinstance(result, asyncio.Future):
                self._wait_for_commit(request, result)
                return False
        except Exception as error:
            self._failed(request, error)
            return False
        if result is not None:
            self.reply(id, result)
        return False

    def _is_in_time(self, request: Request, limit: CommandLimit) -> bool:
        """Whether a command is within the rate; else it is answered with 111, which SDKs try again after a while.

        What cannot be answered (send) ends the connection, so that nothing is lost silently; so does a flood. And
        unsubscribe is never refused: SDKs take an error there for a reason to reconnect.
        """
        verdict = limit.verdict(self._node.now())
        if verdict is Verdict.ADMITTED:
            return True
        if verdict is Verdict.FLOOD or not request.id:
            self.close(DisconnectCode.TOO_MANY_REQUESTS, detail=f"{request.kind} beyond client.command_rate")
            return False
        if request.kind != "unsubscribe":
            self._failed(request, TooManyRequests())
            return False
        return True

    async def while_here(self, task: asyncio.Task[T]) -> T:
        """The task's result; it is cancelled where the connection ends before it."""
        waits_for = self._waits_for = self._waits_for or set()
        waits_for.add(task)
        try:
            return await task
        finally:
            waits_for.discard(task)
            if not waits_for:
                self._waits_for = None

    def spend(self, channel: str, rate: Rate) -> None:
        """It publishes once more in `channel`, at most at this rate. Raises TooManyRequests (111)."""
        if self._publishing is None:
            self._publishing = PublishLimits()
        if not self._publishing.take(channel, rate, self._node.now()):
            raise TooManyRequests

    def _wait_for(self, request: Request, rest: eager.Rest[Result | None]) -> None:
        """The command waits for something; from here on, lanes keep the order."""
        if self._lanes is None:
            self._lanes = Lanes()
            self._lanes.enter(request)
        self._node.tasks.spawn(self._finish(request, rest), f"command {request.kind}")

    def _wait_for_commit(self, request: Request, commit: asyncio.Future[Published]) -> None:
        """It has its place in the order, so nothing waits for it but its answer: a batch shares one commit."""
        self._committing += 1
        commit.add_done_callback(lambda commit: self._committed(request, commit))
        if self._committing == LIMIT:
            self._dam()

    def _committed(self, request: Request, commit: asyncio.Future[Published]) -> None:
        self._committing -= 1
        error = asyncio.CancelledError() if commit.cancelled() else commit.exception()
        if self.is_closed:
            return
        if error is None:
            self.reply(request.id, PUBLISHED)
        else:
            self._failed(request, error if isinstance(error, Exception) else InternalError())
        if self._held and not self.is_paused:
            self._take_held()
        self._dam()

    async def _finish(self, request: Request, rest: eager.Rest[Result | None]) -> None:
        try:
            result = await rest
            if result is not None:
                self.reply(request.id, result)
        except Exception as error:
            self._failed(request, error)
        finally:
            self._left(request)
            if self._held and not self.is_paused:
                self._take_held()
            self._dam()

    def _left(self, request: Request) -> None:
        """A command is done: those that waited for it start. A loop, since one that ends at once lets others start."""
        lanes = self._lanes
        assert lanes is not None, "only commands that entered a lane leave it"
        ready = deque(lanes.leave(request))
        while ready:
            following = ready.popleft()
            if not self._runs_on(following):
                ready.extend(lanes.leave(following))
        if not len(lanes):
            self._lanes = None

    def _dam(self) -> None:
        """Stop reading while too many commands wait, or while the peer does not take what we have for it."""
        should_stop = self.is_paused or bool(self._held) or self._is_full
        if should_stop != self._dammed and not self.is_closed:
            self._dammed = should_stop
            if should_stop:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _failed(self, request: Request, error: Exception) -> None:
        if isinstance(error, Disconnect):
            self.close(error.code, error.reason, detail=error.detail)
            return
        if isinstance(error, ProtocolError):
            self.close(DisconnectCode.BAD_REQUEST, detail=str(error))
            return
        error = self._node.failures.answer(error, request.kind, f" of user {self.user!r}")
        self._node.observer.count(f"error_{error.wire_code}")
        if not request.id:
            return  # a send; nobody waits for an answer
        self.raw(self.session.codec.error(request.id, error))
        if request.kind == "connect":
            self.session.refused()

    # what goes out --------------------------------------------------------------------------------------------------

    def reply(self, id: int, result: Result) -> None:
        """Answer command `id`."""
        self.raw(self.session.codec.reply(id, result))

    def push(self, channel: str, push: Push) -> None:
        """Say something unasked."""
        self.raw(self.session.codec.push(channel, push))

    def raw(self, message: bytes) -> None:
        """One encoded message, in its order with everything else."""
        if not self.is_closed:
            self._node.hub.enqueue(self, self.variant.frame(message))
            if len(message) > LARGE_ANSWER:
                self.flush()

    def flush(self) -> None:
        """Write the outbox."""
        if self.outbox:  # else it was closed meanwhile
            self.transport.write(self.outbox)
            self.outbox.clear()

    def failed(self) -> None:
        """Something is lost, and nothing that comes behind it is sent; the client comes back with its position."""
        self.outbox.clear()
        self.close(DisconnectCode.WRITE_ERROR)

    # slow and gone --------------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether it can take a page of what it missed."""
        return not self.is_paused and not self.is_closed

    @property
    def behind(self) -> list[Subscription]:
        """Subscriptions that are not live."""
        return [sub for sub in self.subscriptions.values() if sub.behind is not None and sub.behind >= 0]

    def paused(self) -> None:
        """The transport is full: nothing more until it drains but answers to what was asked already."""
        if self.is_closed or self.is_paused:
            return
        self.is_paused = True
        self._node.observer.count("fell_behind")
        for subscription in self.subscriptions.values():
            self._node.hub.fall_behind(subscription)
        self._stalled = (self._node.clock.now(), self.transport.taken)
        self.rearm()
        self._dam()

    def resumed(self) -> None:
        """It has drained: catch up."""
        if self.is_closed or not self.is_paused:
            return
        self.is_paused = False
        self._stalled = None
        self._take_held()
        self._node.pump.run(self)

    def lost(self, subscription: Subscription) -> None:
        """What a subscription missed cannot be had any more: the client has to subscribe again."""
        self._node.hub.fall_behind(subscription)
        subscription.behind = LOST
        if subscription.is_server_side:
            self.close(DisconnectCode.INSUFFICIENT_STATE, detail=f"lost its place in {subscription.channel.name}")
        else:
            self.unsubscribe(subscription, UnsubscribeCode.INSUFFICIENT_STATE)

    def unsubscribe(self, subscription: Subscription, code: UnsubscribeCode) -> None:
        """End one subscription and tell the client why."""
        self.leave(subscription)
        self.push(subscription.channel.name, UnsubscribePush(int(code), code.reason))

    def leave(self, subscription: Subscription) -> None:
        """End one subscription silently."""
        if self.subscriptions.get(subscription.channel.name) is subscription:
            del self.subscriptions[subscription.channel.name]
        self._node.doorkeeper.leave(self, subscription)

    def close(self, code: int, reason: str = "", *, detail: str = "") -> None:
        """End the connection from our side."""
        if self.is_closed:
            return
        goodbye = Disconnect(code, reason, detail=detail)
        self._node.observer.count(f"disconnect_{goodbye.code}")
        log.info("connection %s of user %r is closed: %s", self.id, self.user, goodbye)
        if self.outbox:
            self.flush()
        self.closed()
        self.transport.close(goodbye.code, goodbye.reason)

    def closed(self) -> None:
        """It has ended, whoever ended it: leave everything."""
        if self.is_closed:
            return
        self.is_closed = True
        self._timer.cancel()
        for task in self._waits_for or ():
            task.cancel()
        self.outbox.clear()
        for subscription in list(self.subscriptions.values()):
            self.leave(subscription)
        self._node.registry.remove(self)

    # deadlines ------------------------------------------------------------------------------------------------------

    def identify(self, credentials: Credentials) -> None:
        """Who it is, or is from now on."""
        self.credentials = credentials
        self._info = None
        self._node.registry.identify(self)

    def connected(self, credentials: Credentials) -> None:
        """The client is known from here on."""
        self.identify(credentials)
        self._node.registry.connected(self)
        self.transport.head = NO_HEAD
        self.session.accepted(self._node.clock.now(), random.random())
        self.rearm()

    def rearm(self) -> None:
        """Wait for the earliest of: the session's deadline, the stall check, the end of an expiry's grace."""
        now = self._node.clock.now()
        deadline = self.session.deadline
        if self._stalled is not None:
            deadline = min(deadline, self._stalled[0] + self._node.limits.stall_timeout)
        for expire_at in (self.credentials.expire_at, *self._expiring()):
            if expire_at:
                deadline = min(deadline, now + max(0.0, self._time_left(expire_at)))
        if self._timer.when != deadline or self._timer.callback is None:
            self._timer.cancel()
            self._timer = self._node.timers.at(deadline, self._tick)

    def _expiring(self) -> list[float]:
        return [sub.expire_at for sub in self.subscriptions.values() if sub.expire_at]

    def _time_left(self, expire_at: float) -> float:
        """Seconds until what expires at Unix time `expire_at` is ended; wall clocks may jump, so ask again."""
        return expire_at + self._node.limits.expired_grace - self._node.clock.time()

    def _tick(self) -> None:
        if self.is_closed:
            return
        try:
            self._check_expiry()
            self._check_stall()
            ping = self.session.due(self._node.clock.now(), unsent=self.transport.unsent > 0 or self._dammed)
        except Disconnect as error:
            self.close(error.code, error.reason, detail=error.detail)
            return
        if ping is not None:
            self.raw(ping)
        if not self.is_closed:
            self.rearm()

    def _check_expiry(self) -> None:
        expire_at = self.credentials.expire_at
        if self.session.state is State.CONNECTED and expire_at and self._time_left(expire_at) <= 0:
            raise Disconnect(DisconnectCode.CONNECTION_EXPIRED)
        for subscription in list(self.subscriptions.values()):
            if subscription.expire_at and self._time_left(subscription.expire_at) <= 0:
                if subscription.is_server_side:
                    raise Disconnect(DisconnectCode.SUBSCRIPTION_EXPIRED)
                self.unsubscribe(subscription, UnsubscribeCode.EXPIRED)

    def _check_stall(self) -> None:
        """A peer that takes no byte of what waits for it for the whole timeout is not slow, it is gone."""
        if not self.transport.unsent:
            self._stalled = None
            return
        now, taken = self._node.clock.now(), self.transport.taken
        if self._stalled is None or self._stalled[1] != taken:
            self._stalled = (now, taken)
        elif now - self._stalled[0] >= self._node.limits.stall_timeout:
            raise Disconnect(DisconnectCode.SLOW, detail="no byte was taken within stall_timeout")
