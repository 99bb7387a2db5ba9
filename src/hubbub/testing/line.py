"""One connection between a test's client and the hub, both ends of it, with nothing but memory in between.

Answers for: being the transport of the server's connection, with a peer that reads or does not; commands and their
answers; pongs; and the end, whoever caused it. Refuses to know: channels, what commands mean, and time.

What the doors do around it (handshakes, origins, TLS, frames) is left out; from the protocol's messages on it is all
the real thing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from hubbub.core.connection import Connection, Head
from hubbub.errors import Disconnect
from hubbub.testing.dialects import Dialect, Message

#: What browsers say of a connection that was cut, of one that they closed, and what a door says of a message that is
#: too big (RFC 6455, 7.4.1).
CUT, GOODBYE, MESSAGE_TOO_BIG = 1006, 1000, 1009


class _Plain:
    """No framing: each message is its payload."""

    def framer(self, *, binary: bool) -> Callable[[bytes], bytes]:
        """The payload."""
        return bytes

    def join(self, framed: list[bytes]) -> tuple[bytes, ...]:
        """Several payloads."""
        return tuple(framed)


#: One for all: those who share a framing share what is encoded.
_PLAIN = _Plain()


class Line:
    """Implements Transport. `heard` is called with each push, `ended` once with code and reason."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        head: Head,
        write_budget: int,
        max_message: int,
        heard: Callable[[Message], None],
        answers_pings: Callable[[], bool],
        ended: Callable[[int, str], None],
    ) -> None:
        self.framing = _PLAIN
        self.head = head
        self.taken = 0
        self.unsent = 0
        self.connection: Connection | None = None
        self.code = 0
        self.reason = ""
        self._dialect = dialect
        self._write_budget = write_budget
        self._max_message = max_message
        self._heard = heard
        self._answers_pings = answers_pings
        self._ended = ended
        self._reads = True
        self._is_paused = False
        self._is_read_from = True
        self._sent: deque[bytes] = deque()  # by the server, and not read yet
        self._said: deque[bytes] = deque()  # by the client, and not read yet
        self._answers: dict[int, tuple[asyncio.Future[Message], Callable[[Message], object]]] = {}
        self._id = 0

    # the server's end -----------------------------------------------------------------------------------------------

    def write(self, buffers: list[Any]) -> None:
        """The client reads at once, unless it has stopped."""
        if self.code:
            return
        for buffer in buffers:
            payloads = buffer if isinstance(buffer, tuple) else (buffer,)
            self._sent.extend(payloads)
            self.unsent += sum(map(len, payloads))
        self._deliver()
        if self.unsent > self._write_budget and not self._is_paused and self.connection is not None:
            self._is_paused = True
            self.connection.paused()

    def close(self, code: int, reason: str) -> None:
        """The server ends it."""
        self._end(code, reason)

    def pause_reading(self) -> None:
        """What the client says waits."""
        self._is_read_from = False

    def resume_reading(self) -> None:
        """What waited comes, soon: not inside this call."""
        self._is_read_from = True
        asyncio.get_running_loop().call_soon(self._receive)

    # the client's end -----------------------------------------------------------------------------------------------

    @property
    def reads(self) -> bool:
        """Whether the client takes what the server sends."""
        return self._reads

    @reads.setter
    def reads(self, reads: bool) -> None:
        self._reads = reads
        self._deliver()
        if self._is_paused and self.unsent < self._write_budget // 4 and self.connection is not None:
            self._is_paused = False
            self.connection.resumed()

    def ask(self, kind: str, body: dict[str, Any], then: Callable[[Message], object]) -> asyncio.Future[Message]:
        """Send a command. The answer is its reply, or the Disconnect that came instead.

        `then` is called with a reply that is no error in its order with the pushes, before whoever awaits it runs.
        """
        self._id += 1
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if self.code:
            answer.set_exception(Disconnect(self.code, self.reason))
            return answer
        self._answers[self._id] = answer, then
        self._say(self._dialect.command(self._id, kind, body))
        return answer

    def hang_up(self, code: int) -> None:
        """The client is gone. The server sees only that."""
        if not self.code:
            self._end(code, "")
            if self.connection is not None:
                self.connection.closed()

    # in between -----------------------------------------------------------------------------------------------------

    def _say(self, message: bytes) -> None:
        self._said.append(message)
        self._receive()

    def _receive(self) -> None:
        while self._said and self._is_read_from and not self.code and self.connection is not None:
            message = self._said.popleft()
            if len(message) > self._max_message:
                self._end(MESSAGE_TOO_BIG, "message too big")
                self.connection.closed()
            else:
                self.connection.receive(message)

    def _deliver(self) -> None:
        while self._sent and self._reads:
            frame = self._sent.popleft()
            self.unsent -= len(frame)
            self.taken += len(frame)
            for message in self._dialect.messages(frame):
                self._take(message)

    def _take(self, message: Message) -> None:
        if not message:
            asyncio.get_running_loop().call_soon(self._answer_ping)
        elif "push" in message:
            self._heard(message["push"])
        else:
            answer, then = self._answers.pop(message["id"])
            if "error" not in message:
                then(message)
            if not answer.done():  # else the test waits no more
                answer.set_result(message)

    def _answer_ping(self) -> None:
        if self._answers_pings() and not self.code:
            self._say(self._dialect.pong)

    def _end(self, code: int, reason: str) -> None:
        if self.code:
            return
        self.code, self.reason = code, reason
        self._sent.clear()
        self.unsent = 0
        answers, self._answers = self._answers, {}
        for answer, _ in answers.values():
            if not answer.done():
                answer.set_exception(Disconnect(code, reason))
                answer.exception()  # seen, whether or not somebody still waits
        self._ended(code, reason)
