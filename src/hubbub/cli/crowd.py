"""The load of `hubbub bench`: many clients of the client protocol in one event loop.

Answers for: the opening handshake, connect and subscribe, coming back after a cut with the last offset, and an exact
tally of what came. Refuses to know: how many clients, how fast, and how it is reported.

A publication's bytes are the same for all who get them, so each is parsed once and then recognised. Frames are masked
with zeros, which is a valid mask and leaves the bytes as they are.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, cast
from urllib.parse import SplitResult

from hubbub.cli.arguments import Failure

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10

#: Seconds for a client to get in.
ENTRY = 20.0

#: Clients that get in at the same time.
AT_ONCE = 100

#: Seconds before the first attempt to come back, and the most of them; each is drawn from the upper half.
_BACKOFF = (0.2, 5.0)

#: Latencies are counted in steps of so many seconds, so that a long run needs no more memory than a short one.
_STEP = 0.00005

#: Ids of commands that are no publications.
_IDS = 2

#: Publications remembered by their bytes.
_REMEMBERED = 4096


class Target(NamedTuple):
    """Where clients go, and as whom."""

    parts: SplitResult
    channel: str
    token: str = ""

    @property
    def address(self) -> tuple[str, int, ssl.SSLContext | None]:
        """Host, port and TLS."""
        secure = self.parts.scheme == "wss"
        port = self.parts.port or (443 if secure else 80)
        return self.parts.hostname or "", port, ssl.create_default_context() if secure else None


class Came(NamedTuple):
    """A publication of this run: its number from 1, when it was due, and its offset (0 where nothing is kept)."""

    number: int
    at: float
    offset: int


class Tally:
    """What was published and what came of it. `run` tells this run's publications from others'."""

    def __init__(self) -> None:
        self.run = os.urandom(6).hex()
        self.published = 0  # with an answer that says so
        self.unanswered: set[int] = set()  # numbers: nobody can tell whether the server has got them
        self.delivered = 0
        self.duplicates = 0
        self.reconnects = 0
        self.gone: list[str] = []  # why clients were sent away for good
        self._got: Counter[int] = Counter()  # deliveries of each number
        self._steps: Counter[int] = Counter()
        self._remembered: dict[bytes, Came | None] = {}

    def data(self, number: int, at: float) -> dict[str, Any]:
        """What publication `number` holds."""
        return {"run": self.run, "number": number, "at": at}

    def read(self, line: bytes) -> Came | None:
        """A push, if it is a publication of this run."""
        try:
            return self._remembered[line]
        except KeyError:
            pass
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        publication = json.loads(line).get("push", {}).get("pub")
        found = self._remembered[line] = self.came(publication) if publication else None
        return found

    def came(self, publication: dict[str, Any]) -> Came | None:
        """A publication, if it is of this run."""
        data = publication.get("data")
        if isinstance(data, dict) and data.get("run") == self.run:
            return Came(data["number"], data["at"], publication.get("offset", 0))
        return None

    def count(self, client: Client, came: Came) -> None:
        """One client has got it."""
        if came.number <= client.seen:
            self.duplicates += 1
            return
        client.seen = came.number
        client.offset = came.offset or client.offset
        self.delivered += 1
        self._got[came.number] += 1
        self._steps[int((time.monotonic() - came.at) / _STEP)] += 1

    def lost(self, clients: int) -> int:
        """Deliveries that are missing, of publications that the server has confirmed."""
        unsure = sum(self._got[number] for number in self.unanswered)
        return self.published * clients - (self.delivered - unsure)

    def percentile(self, share: float) -> float | None:
        """Seconds from when a publication was due until it was here, of that share of deliveries."""
        left = share * self.delivered
        for step, count in sorted(self._steps.items()):
            left -= count
            if left <= 0:
                return step * _STEP
        return None


class Client(asyncio.Protocol):
    """One client, over however many connections. `seen` is the number of the last publication that it got."""

    def __init__(self, target: Target, tally: Tally) -> None:
        self.seen = 0
        self.offset = 0
        self.is_in = False
        self._target = target
        self._tally = tally
        self._epoch = ""
        self._is_recoverable = False
        self._transport: asyncio.Transport | None = None
        self._left = b""
        self._is_upgraded = False
        self._is_leaving = False
        self._close = ""
        self._entry: asyncio.Future[None] | None = None
        self._return: asyncio.Task[None] | None = None

    @property
    def where(self) -> str:
        """The URL that it connects to."""
        return self._target.parts.geturl()

    async def enter(self) -> None:
        """Connect and subscribe. Raises Failure with the reason, OSError if nobody is there."""
        loop = asyncio.get_running_loop()
        self._left, self._is_upgraded, self._close = b"", False, ""
        self._entry = loop.create_future()
        host, port, tls = self._target.address
        async with asyncio.timeout(ENTRY):
            await loop.create_connection(lambda: self, host, port, ssl=tls)
            await self._entry

    def publish(self, number: int, at: float) -> None:
        """Publish one of this run's publications."""
        self._tally.unanswered.add(number)
        data = self._tally.data(number, at)
        self._send({"id": number + _IDS, "publish": {"channel": self._target.channel, "data": data}})

    async def leave(self) -> None:
        """Go, and do not come back."""
        self._is_leaving = True
        if self._return is not None:
            self._return.cancel()
        if self._transport is not None:
            self._transport.abort()

    # what asyncio calls ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # TCP or TLS; uvloop's own are no asyncio.Transport
        parts = self._target.parts
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        data = self._left + data if self._left else data
        at = 0
        if not self._is_upgraded:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._left = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                status = data.partition(b"\r\n")[0].decode(errors="replace")
                self._fail(f"there is no WebSocket at {self.where}: {status}")
                return
            self._is_upgraded, at = True, end + 4
            self._hello()
        self._left = data[self._frames(data, at) :]

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        was_in, self.is_in = self.is_in, False
        self._fail(self._why())
        if was_in and not self._is_leaving:
            if self._close.startswith(("35", "45")):
                self._tally.gone.append(self._close)
                return
            self._return = asyncio.ensure_future(self._come_back())

    # ----------------------------------------------------------------------------------------------------------------

    def _frames(self, data: bytes, at: int) -> int:
        """Look at the whole frames from `at` on; returns where the rest begins."""
        size = len(data)
        while size - at >= 2:
            start, length = at + 2, data[at + 1]
            if length == 126:
                start, length = at + 4, int.from_bytes(data[at + 2 : at + 4], "big")
            elif length == 127:
                start, length = at + 10, int.from_bytes(data[at + 2 : at + 10], "big")
            if size < start + length:
                break
            self._frame(data[at] & 15, data[start : start + length])
            at = start + length
        return at

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            for line in payload.split(b"\n"):
                if line.startswith(b'{"push"'):
                    came = self._tally.read(line)
                    if came is not None:
                        self._tally.count(self, came)
                elif line == b"{}":
                    self._send({})
                elif line:
                    self._reply(json.loads(line))
        elif opcode == _PING:
            self._write(_PONG, payload)
        elif opcode == _CLOSE:
            self._close = f"{int.from_bytes(payload[:2], 'big')} {payload[2:].decode(errors='replace')}"
            self._write(_CLOSE, payload[:2])

    def _hello(self) -> None:
        connect = {"token": self._target.token} if self._target.token else {}
        subscribe: dict[str, Any] = {"channel": self._target.channel}
        if self._is_recoverable:
            subscribe |= {"recover": True, "offset": self.offset, "epoch": self._epoch}
        self._send({"id": 1, "connect": connect}, {"id": 2, "subscribe": subscribe})

    def _reply(self, reply: dict[str, Any]) -> None:
        error = reply.get("error")
        if error:
            asked = {1: "connect", 2: "subscribe"}.get(reply.get("id", 0), "publish")
            self._refused(asked, f"{error.get('message')} ({error.get('code')})")
        elif "subscribe" in reply:
            self._subscribed(reply["subscribe"])
        elif "publish" in reply:
            self._tally.unanswered.discard(reply["id"] - _IDS)
            self._tally.published += 1

    def _subscribed(self, result: dict[str, Any]) -> None:
        for publication in result.get("publications", ()):
            came = self._tally.came(publication)
            if came is not None:
                self._tally.count(self, came)
        self.offset, self._epoch = result.get("offset", 0), result.get("epoch", "")
        self._is_recoverable = bool(result.get("recoverable"))
        self.is_in = True
        if self._entry is not None and not self._entry.done():
            self._entry.set_result(None)

    def _why(self) -> str:
        """Why it did not get in."""
        if self._close.startswith("3501") and not self._target.token:
            return f"the server lets nobody connect without a token: give one by --token-file ({self._close})"
        return f"the server refuses to let the clients connect: {self._close or 'the connection was closed'}"

    def _refused(self, asked: str, why: str) -> None:
        text = f"the server refuses to let the clients {asked}: {why}"
        if asked == "publish":
            self._tally.gone.append(text)
        self._fail(text)

    def _fail(self, why: str) -> None:
        if self._entry is not None and not self._entry.done():
            self._entry.set_exception(Failure(why))
            if self._transport is not None:
                self._transport.abort()

    async def _come_back(self) -> None:
        wait, most = _BACKOFF
        while not self._is_leaving:
            await asyncio.sleep(random.uniform(wait / 2, wait))
            wait = min(2 * wait, most)
            try:
                await self.enter()
            except (OSError, Failure):
                continue
            self._tally.reconnects += 1
            return

    def _send(self, *commands: dict[str, Any]) -> None:
        self._write(_TEXT, b"\n".join(json.dumps(each, separators=(",", ":")).encode() for each in commands))

    def _write(self, opcode: int, payload: bytes) -> None:
        if self._transport is not None:
            size = len(payload)
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size) if size < 126 else b""
            head = head or struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
            self._transport.write(head + bytes(4) + payload)


async def enter_all(clients: list[Client], tell: Callable[[int], None]) -> None:
    """Let all clients in, some at a time; `tell` hears how many are. Raises Failure."""
    gate = asyncio.Semaphore(AT_ONCE)
    count = 0

    async def enter(client: Client) -> None:
        nonlocal count
        async with gate:
            await client.enter()
        count += 1
        tell(count)

    tasks = [asyncio.ensure_future(enter(client)) for client in clients]
    try:
        await asyncio.gather(*tasks)
    except TimeoutError:
        raise Failure(f"after {count} clients, the next one did not get in within {ENTRY:g} seconds") from None
    except ssl.SSLError as error:
        raise Failure(f"{clients[0].where}: TLS fails: {error.reason}") from None
    except OSError as error:
        raise Failure(f"no server answers at {clients[0].where} ({error.strerror or error})") from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
