"""One socket to Redis or Valkey for who may block.

Answers for: commands and their replies within a deadline, and an exact word on what became of a command without a
reply: a socket that fails or is late is closed at once, so that half a command is none, and no reply finds the wrong
question. Refuses to know: threads (one at a time), where the server is, reconnecting, and what commands mean.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import weakref
from collections.abc import Sequence
from typing import Any, TypeAlias

import hiredis

from hubbub.clock import Clock
from hubbub.redis.wire import ConnectionLost, DeadlinePassed, RedisError, Word, pack

Command: TypeAlias = Sequence[Word]

#: A read takes this much at most.
READ_BYTES = 16_384

#: Seconds: what a socket is given where less is left. Nothing at all would mean "do not wait".
_LEAST = 0.001

_NOTHING = object()  # no whole reply yet; None and False are replies


class BlockingWire:
    """One connection, greeted or not. `used` is when it was last asked, for its owner; so is `age`."""

    __slots__ = ("__weakref__", "_clock", "_end", "_reader", "_socket", "age", "is_closed", "loaded", "name", "used")

    def __init__(self, name: str, connected: socket.socket, *, clock: Clock) -> None:
        self.name = name
        self.is_closed = False
        self.loaded: set[str] = set()  # scripts that it has sent, by digest
        self.age = 0
        self.used = clock.now()
        self._socket = connected
        self._clock = clock
        self._reader = hiredis.Reader(replyError=RedisError, notEnoughData=_NOTHING)
        # A hub that is forgotten, as that of a module is at the end of the process, leaves nothing open. No `__del__`:
        # where a circle is collected, the socket's own may come before it, and complains that nobody has closed it.
        self._end = weakref.finalize(self, _close, connected)

    def ask(self, command: Command, end: float) -> Any:
        """The reply, by `end` on the monotonic clock.

        Raises RedisError for the server's error; ConnectionLost where there is no reply, DeadlinePassed where it did
        not come in time: then it is closed.
        """
        (reply,) = self.converse((command,), end)
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def converse(self, commands: Sequence[Command], end: float) -> list[Any]:
        """The replies to commands that go out in one go, the server's errors among them. Raises ConnectionLost."""
        data = b"".join([pack(tuple(command)) for command in commands])
        was_sent = False
        try:
            self._socket.settimeout(max(end - self._clock.now(), _LEAST))
            self._socket.sendall(data)
            was_sent = True  # the kernel has the last byte: before that, the server cannot have had a whole command
            replies = [self._reply(end) for _ in commands]
        except TimeoutError:
            self.close()
            raise DeadlinePassed(f"{self.name}: no answer in time", was_sent=was_sent) from None
        except (OSError, hiredis.HiredisError) as error:
            self.close()
            raise ConnectionLost(f"{self.name}: the connection is lost: {error}", was_sent=was_sent) from error
        except BaseException:  # a signal's handler, a greenlet's end: the reply may come later, and is nobody's
            self.close()
            raise
        self.used = self._clock.now()
        return replies

    def _reply(self, end: float) -> Any:
        while True:
            reply = self._reader.gets()
            if reply is _NOTHING:
                self._read(end)
            elif not isinstance(reply, hiredis.PushNotification):
                return reply

    def _read(self, end: float) -> None:
        left = end - self._clock.now()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise ConnectionResetError("the server ended it")
        self._reader.feed(data)

    def is_quiet(self) -> bool:
        """Whether nothing came that nobody has asked for: the end of the connection, above all. Does not wait."""
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Leave without a word. Idempotent."""
        self.is_closed = True
        self._end()


def _close(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.close()
