"""One socket to Redis or Valkey that speaks RESP3.

Answers for: bytes in and out. The commands of one loop turn leave in one write; replies find their futures in the order
of the commands; pushes go to a callback. When the socket breaks, everything that waits has its answer at once, and
exactly: what may have reached the server is told so, what cannot have left is handed back. It also finds the socket
that is open and dead: silence is asked (PING), and no byte for REPLY_DEADLINE while an answer is owed ends it.
Refuses to know: where the server is, reconnecting, and what commands mean.

Nothing here waits and nothing costs a timer: whoever owns a wire calls `tick` some times a second. A call that was
cancelled keeps its place in the order; its reply is read and dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from hubbub.clock import Clock
from hubbub.errors import BackendError, ConfigurationError

try:
    import hiredis
except ImportError as missing:
    raise ConfigurationError("Redis needs two more packages: pip install 'hubbub[redis]'") from missing

log = logging.getLogger(__name__)

#: What a command is made of. Text is sent as UTF-8.
Word: TypeAlias = bytes | str | int | float

#: Seconds of silence after which a wire with nothing to do is asked whether it lives.
IDLE = 5.0

#: Seconds without a byte, while an answer is owed, after which the server is taken for dead.
REPLY_DEADLINE = 5.0

#: Seconds for one whole reply. Only a stream of bytes that never ends in a reply gets here.
WHOLE_REPLY_DEADLINE = 30.0

#: A read takes this much at most: a turn of the loop stays short, and small replies still come by the hundred.
READ_BYTES = 65_536

#: Bytes that wait for the kernel, above which no more commands are taken.
WRITE_BYTES = 1_048_576

#: Errors which say that another server, or this one later, is the one to ask. The command was not carried out.
RENEWING = frozenset({"READONLY", "LOADING", "MASTERDOWN"})

#: What is wrong with a server that takes no writes, and what to do about it.
REPLICA = "this is a replica: name the primary, or its Sentinels, in the URL"

#: What to do about an error, where the server does not say so.
_FIXES = {
    "OOM": "Redis is full: raise maxmemory, or let it hold less",
    "READONLY": REPLICA,
    "NOAUTH": "put the password in the URL: redis://:password@host",
    "WRONGPASS": "correct user and password in the URL",
    "NOPERM": "allow it with ACL SETUSER",
    "MISCONF": "Redis cannot save: see its log, or its stop-writes-on-bgsave-error",
    "NOREPLICAS": "too few replicas: see min-replicas-to-write",
}

_NOTHING = object()  # no whole reply yet; None and False are replies
_PUSH = hiredis.PushNotification


class RedisError(BackendError):
    """The server answered with an error; `kind` is its first word (READONLY, OOM). The command was refused."""

    def __init__(self, text: str) -> None:
        self.kind = text.partition(" ")[0]
        fix = _FIXES.get(self.kind)
        super().__init__(f"{text} ({fix})" if fix else text)


class ConnectionLost(BackendError):
    """No answer came. `was_sent`: the command may have been carried out; if not, it certainly was not."""

    def __init__(self, text: str, *, was_sent: bool) -> None:
        self.was_sent = was_sent
        super().__init__(text)


class DeadlinePassed(ConnectionLost):
    """No answer came in time; the connection may well live."""


class OutboxFull(ConnectionLost):
    """Too much waits for the connection already: this was not taken. To ask again at once is of no use."""

    def __init__(self, text: str) -> None:
        super().__init__(text, was_sent=False)


def pack(command: tuple[Word, ...]) -> bytes:
    """The bytes of a command. Raises TypeError for what is no word, and UnicodeEncodeError for half a character."""
    return hiredis.pack_command(command)  # type: ignore[no-any-return,arg-type]  # typed as a 1-tuple


class Wire(asyncio.BufferedProtocol):
    """One connection, from `connection_made` on until `lost` is done; its result is the cause.

    `on_push` is called with the items of each push, `on_room` after each read and whenever the socket takes more.
    Who greets the server notes in `is_replica` what it said of itself then.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        *,
        on_push: Callable[[list[Any]], object] | None = None,
        on_room: Callable[[], object] | None = None,
    ) -> None:
        self.name = name
        self.is_replica = False
        self.is_writable = True
        self.unsent: list[tuple[bytes, asyncio.Future[Any], float]] = []  # filled when it is lost
        self._clock = clock
        self._on_push = on_push
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Exception] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=RedisError, notEnoughData=_NOTHING)
        # A view: over TLS asyncio reads record by record into slices of it, and a slice of a bytearray is a copy.
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._replies: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._out: list[bytes] = []  # always the commands of the last replies awaited, one for each
        self._out_bytes = 0
        self._pulse = _Pulse(clock.now())

    # -------------------------------------------------------------------------------------------- commands

    @property
    def in_flight(self) -> int:
        """Replies that are owed."""
        return len(self._replies)

    def send(self, data: bytes, reply: asyncio.Future[Any], when: float) -> None:
        """Send one packed command with this turn's batch. `reply` is done when answered, lost, or `when` has passed.

        A batch that grows over WRITE_BYTES leaves at once, so that `is_writable` is true to what the kernel takes.
        """
        if self.lost.done():
            _fail(reply, ConnectionLost(f"{self.name}: the connection is lost", was_sent=False))
            return
        self._replies.append((reply, when))
        out = self._out
        out.append(data)
        if len(out) == 1:
            self._loop.call_soon(self._flush)
        self._out_bytes += len(data)
        if self._out_bytes > WRITE_BYTES:
            self._flush()

    def ask(self, *command: Word, deadline: float = REPLY_DEADLINE) -> asyncio.Future[Any]:
        """Send a command: the future of its reply."""
        reply: asyncio.Future[Any] = self._loop.create_future()
        self.send(pack(command), reply, self._clock.now() + deadline)
        return reply

    def answered(self) -> None:
        """For the receiver of pushes: the next command in order has its whole answer, in pushes.

        SUBSCRIBE and its like get no other, unless they are refused.
        """
        if len(self._replies) <= len(self._out):
            self.sever(BackendError("pushes that answer nothing"))
            return
        reply = self._replies.popleft()[0]
        if not reply.done():
            reply.set_result(None)

    def tick(self, now: float) -> None:
        """Let deadlines pass, ask a silent server whether it lives, and give up a dead one."""
        if self.lost.done():
            return
        for reply, when in self._replies:
            if when <= now and not reply.done():
                reply.set_exception(DeadlinePassed(f"{self.name} did not answer in time", was_sent=True))
        verdict = self._pulse.feel(now, self._replies[0] if self._replies else None)
        if verdict is _PING:
            self.ask("PING").add_done_callback(_ignore)
        elif verdict:
            self.sever(TimeoutError(verdict))

    def sever(self, cause: Exception) -> None:
        """End it now: what may have been sent fails, what has not left is in `unsent`. Idempotent."""
        if self.lost.done():
            return
        self.lost.set_result(cause)
        self.is_writable = False
        split = len(self._replies) - len(self._out)
        for index, (reply, when) in enumerate(self._replies):
            if index >= split:
                self.unsent.append((self._out[index - split], reply, when))
            else:
                _fail(reply, ConnectionLost(f"lost {self.name} while it owed an answer: {cause}", was_sent=True))
        self._replies.clear()
        self._out.clear()
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, []
            self._out_bytes = 0
            assert self._transport is not None, "connected"
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # -------------------------------------------------------------------------------- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        # Only called for streams; uvloop's transports are no subclass of asyncio's.
        stream = self._transport = cast(asyncio.Transport, transport)
        stream.set_write_buffer_limits(high=WRITE_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """It broke, or the server left."""
        self.sever(exc or ConnectionResetError("the server closed the connection"))

    def pause_writing(self) -> None:
        """The kernel takes no more for now."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """It takes more."""
        self.is_writable = not self.lost.done()
        if self._on_room is not None:
            self._on_room()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the transport puts what it reads."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Give every reply and push that is whole now to whom it belongs."""
        self._pulse.reads += 1
        try:
            self._reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # any buffer will do
            renewing = self._take_replies()
        except Exception as error:  # garbage, in the words of hiredis or as a value that Python cannot hold
            self.sever(BackendError(f"what came is no Redis protocol: {error}"))
            return
        if renewing is not None:
            self.sever(renewing)
        elif self._on_room is not None:
            self._on_room()

    def _take_replies(self) -> RedisError | None:
        """Returns the error after which another connection is wanted; the replies that came with it are given out."""
        renewing = None
        gets, on_push, replies = self._reader.gets, self._on_push, self._replies
        while (value := gets()) is not _NOTHING:
            if type(value) is _PUSH:
                if on_push is not None:
                    try:  # here and not in a method: each publication would pay for the call
                        on_push(value)
                    except Exception:
                        log.exception("%s: the receiver of a push failed", self.name)
                continue
            if len(replies) <= len(self._out):
                if self.lost.done():
                    break  # a push's receiver ended it
                raise BackendError(f"an answer to nothing: {value!r:.200}")
            reply = replies.popleft()[0]
            if type(value) is RedisError:
                _fail(reply, value)
                renewing = value if value.kind in RENEWING else renewing
            elif not reply.done():
                reply.set_result(value)
        return renewing


_PING = "ping"


class _Pulse:
    """Whether the other end lives, judged at ticks alone, so that commands and replies pay nothing for it."""

    __slots__ = ("_asked", "_head", "_head_since", "_heard", "_seen", "reads")

    def __init__(self, now: float) -> None:
        self.reads = 0
        self._seen = 0
        self._heard = now  # the tick at which bytes had come
        self._asked = now  # the tick at which nothing was owed
        self._head: object = None
        self._head_since = now

    def feel(self, now: float, head: object) -> str:
        """With the entry that is next to be answered: nothing, `_PING`, or why the connection is dead."""
        if self.reads != self._seen:
            self._seen = self.reads
            self._heard = now
        if head is None:
            self._asked = now
            return _PING if now - self._heard >= IDLE else ""
        if head is not self._head:
            self._head, self._head_since = head, now
        if now - max(self._heard, self._asked) >= REPLY_DEADLINE:
            return f"no answer for {REPLY_DEADLINE:g} seconds"
        if now - self._head_since >= WHOLE_REPLY_DEADLINE:
            return f"an answer that is not whole after {WHOLE_REPLY_DEADLINE:g} seconds"
        return ""


def _fail(reply: asyncio.Future[Any], error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)


def _ignore(reply: asyncio.Future[Any]) -> None:
    """Of a PING, the bytes count; what it says, and whether it fails, is known otherwise."""
    if not reply.cancelled():
        reply.exception()
