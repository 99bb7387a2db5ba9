"""Who publishes in a storm: over WebSockets, over the HTTP API, and in Python in a process of its own.

Answers for: publishing one after the other at a pace, waiting for each answer, repeating what an error says may be
repeated, and telling the ledger. Refuses to know: subscribers, and what breaks.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.serving import ROOT, leashed
from tests.storms.clients import Client
from tests.storms.ledger import Ledger, Outcome, Place

T = TypeVar("T")

#: Seconds within which every call has its answer. Publishing gives up after 5; the rest is for a loaded machine.
BOUND = 30.0

#: Seconds for a process to start, on any machine.
PATIENCE = 120.0

#: Seconds after which a keep-alive connection is not used again: the server ends it after 5.
IDLE = 2.0

#: Publications that a client sends without waiting for answers.
BURST = 5

API_KEY = "key"


class Unanswered(Exception):
    """There is no answer, and there cannot be one: the connection was lost."""


class Http:
    """One keep-alive connection to the HTTP API of one node, opened again when it is lost."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = 0.0

    async def ask(self, operation: str, **request: object) -> dict[str, Any]:
        """The result. Raises Refusal for an error, Unanswered."""
        body = json.dumps(request).encode()
        head = f"POST /api/{operation} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {API_KEY}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        if time.monotonic() - self._used > IDLE:
            self.close()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self._streams
            writer.write(head.encode() + body)
            answer = await self._answer(reader)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise Unanswered(repr(error)) from error
        except BaseException:
            self.close()  # what is left of the answer would be the next one's
            raise
        self._used = time.monotonic()
        if "error" in answer:
            raise Refusal(answer["error"])
        return dict(answer["result"])

    async def _answer(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer: dict[str, Any] = json.loads(await reader.readexactly(length))
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Refusal(Exception):
    """The answer was an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.error = error


class Publisher(ABC):
    """Publishes "name-1", "name-2" … in channels drawn at random, `pace` seconds apart, while it is not paused."""

    def __init__(self, name: str, channels: Sequence[str], *, ledger: Ledger, pace: float) -> None:
        self.name = name
        self._channels = channels
        self._ledger = ledger
        self._pace = pace
        self._numbers = itertools.count(1)
        self._may_go = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def resume(self) -> None:
        self._may_go.set()

    async def pause(self) -> None:
        """Return when the last call has its answer."""
        self._may_go.clear()
        await self._is_idle.wait()

    async def _run(self) -> None:
        while True:
            await self._may_go.wait()
            self._is_idle.clear()
            try:
                await self.some(random.choice(self._channels))
            finally:
                self._is_idle.set()
            await asyncio.sleep(random.uniform(0.5, 1.5) * self._pace)

    async def some(self, channel: str) -> None:
        """Publish the next one there."""
        await self.one(f"{self.name}-{next(self._numbers)}", channel)

    async def one(self, what: str, channel: str) -> None:
        """Publish it, and tell the ledger."""
        self._ledger.begins(what)
        outcome, place = await self.publish(what, channel)
        self._ledger.ended(what, channel, outcome, place)

    async def answer(self, what: str, call: Awaitable[T]) -> T:
        """What a call gives. That it does not answer in time is wrong. Raises Unanswered."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(BOUND):
                return await call
        except TimeoutError:
            self._ledger.note(f"the call that publishes {what} has no answer within {BOUND:g} s")
            raise Unanswered from None
        finally:
            self._ledger.slowest = max(self._ledger.slowest, time.monotonic() - began)

    def told(self, what: str, error: dict[str, Any]) -> Outcome:
        """What an error answer says of the publish, to whoever will not repeat it."""
        message = str(error.get("message"))
        if message.startswith("not published"):
            return "refused"
        if not message.startswith("perhaps published"):
            self._ledger.note(f"{what}: an error that does not say what became of it: {error}")
        return "perhaps"

    @abstractmethod
    async def publish(self, what: str, channel: str) -> tuple[Outcome, Place | None]:
        """Once, and again where that is safe. Returns what became of it in the end."""
        ...


class WebSocketPublisher(Publisher):
    """A client that only publishes, now and then many at once. It repeats nothing: what is not published must not be
    there.
    """

    def __init__(self, client: Client, channels: Sequence[str], *, ledger: Ledger, pace: float) -> None:
        super().__init__(client.user, channels, ledger=ledger, pace=pace)
        self.client = client

    async def some(self, channel: str) -> None:
        """One, or a burst that keeps its order."""
        while not self.client.is_in:  # noqa: ASYNC110 - an SDK waits for its connection, too
            await asyncio.sleep(0.05)
        count = BURST if random.random() < 0.2 else 1
        await asyncio.gather(*(self.one(f"{self.name}-{next(self._numbers)}", channel) for _ in range(count)))

    async def publish(self, what: str, channel: str) -> tuple[Outcome, Place | None]:
        try:
            reply = await self.answer(what, self.client.call("publish", channel=channel, data=what))
        except (ConnectionError, Unanswered):
            return "perhaps", None
        if "error" not in reply:
            return "acknowledged", None
        return self.told(what, reply["error"]), None


class ApiPublisher(Publisher):
    """A back end in any language. Every second call brings an idempotency key, and is repeated until it is accepted;
    the others never are.
    """

    def __init__(
        self, name: str, ports: Sequence[int], channels: Sequence[str], *, ledger: Ledger, pace: float
    ) -> None:
        super().__init__(name, channels, ledger=ledger, pace=pace)
        self._doors = [Http(port) for port in ports]
        self._has_key = False

    async def stop(self) -> None:
        await super().stop()
        for door in self._doors:
            door.close()

    async def publish(self, what: str, channel: str) -> tuple[Outcome, Place | None]:
        self._has_key = not self._has_key
        if not self._has_key:
            try:
                return "acknowledged", await self._ask(what, channel)
            except Unanswered:
                return "perhaps", None
            except Refusal as refusal:
                return self.told(what, refusal.error), None
        while True:
            try:
                return "acknowledged", await self._ask(what, channel, idempotency_key=what)
            except (Unanswered, Refusal):
                self._ledger.outcomes["repeated"] += 1
                self._doors.append(self._doors.pop(0))  # any node will do
                await asyncio.sleep(0.2)

    async def _ask(self, what: str, channel: str, **more: object) -> Place | None:
        result = await self.answer(what, self._doors[0].ask("publish", channel=channel, data=what, **more))
        return Place(result["epoch"], result["offset"]) if "offset" in result else None


class Backend:
    """A process with both Python faces of hubbub (`backend`): what is asked of it, and what its handlers hear.

    `on_heard` is called with the face and the publication.
    """

    def __init__(self, config: Path, *, on_heard: Callable[[str, str], None]) -> None:
        self._config = config
        self._on_heard = on_heard
        self._process: asyncio.subprocess.Process | None = None
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._is_ready = asyncio.Event()

    async def start(self, *channels: str) -> None:
        """Return when the handlers of all `channels` hear."""
        command = leashed(sys.executable, "-m", "tests.storms.backend", self._config, *channels)
        with self._config.with_suffix(".log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        self._listening = asyncio.ensure_future(self._listen(self._process))
        async with asyncio.timeout(PATIENCE):
            await self._is_ready.wait()

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._listening is not None:
            await asyncio.gather(self._listening, return_exceptions=True)

    async def publish(self, face: str, what: str, channel: str, key: str) -> dict[str, Any]:
        """What the call gave: `epoch` and `offset`, or an `error` and `is_retry_safe`."""
        assert self._process is not None, "started"
        assert self._process.stdin is not None, "it was asked for"
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[what] = future
        self._process.stdin.write(json.dumps([face, what, channel, key]).encode() + b"\n")
        return await future

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None, "it was asked for"
        async for line in process.stdout:
            said = json.loads(line)
            if "heard" in said:
                self._on_heard(said["face"], said["heard"])
            elif "what" in said:
                future = self._answers.pop(said["what"])
                if not future.done():
                    future.set_result(said)
            else:
                self._is_ready.set()


class PythonPublisher(Publisher):
    """Calls `publish` of one of the faces, "asyncio" or "sync". Every second call brings an idempotency key. What an
    error says may be repeated is repeated; of those without a key only every second one, the others must not be there.
    """

    def __init__(self, face: str, backend: Backend, channels: Sequence[str], *, ledger: Ledger, pace: float) -> None:
        super().__init__(face, channels, ledger=ledger, pace=pace)
        self._backend = backend

    async def publish(self, what: str, channel: str) -> tuple[Outcome, Place | None]:
        number = int(what.rpartition("-")[2])
        key = what if number % 2 else ""
        while True:
            try:
                answer = await self.answer(what, self._backend.publish(self.name, what, channel, key))
            except Unanswered:
                return "perhaps", None
            if "epoch" in answer:
                return "acknowledged", Place(answer["epoch"], answer["offset"]) if answer["epoch"] else None
            if answer["is_retry_safe"] is None:
                self._ledger.note(f"{what} in {channel}: an error that does not say whether to repeat: {answer}")
            if not answer["is_retry_safe"]:
                return "perhaps", None
            if number % 4 == 0:
                return "refused", None
            self._ledger.outcomes["repeated"] += 1
            await asyncio.sleep(0.1)
