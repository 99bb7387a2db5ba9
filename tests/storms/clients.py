"""The light clients of a storm: subscribers and publishers that do what an SDK does, and keep books.

Answers for: the client protocol in JSON over a WebSocket by hand; coming back after every cut with the last positions;
subscribing again where the server says so, and staying away where it says that. Refuses to know: what breaks, and what
is right (`ledger`).

A publication's bytes are the same for all who get them: each line is parsed once. Frames are masked with zeros, which
is a valid mask and leaves the bytes as they are.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import struct
from collections import OrderedDict
from typing import Any, cast

from tests.storms.ledger import Follower, Ledger, Place

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10

#: Seconds that an SDK waits for an answer; without one to a subscribe it connects anew.
ANSWER = 5.0

#: Seconds before an attempt to come back: the first and the longest. SDKs take longer; a test need not.
BACKOFF = 0.2, 2.0

#: Lines remembered as parsed.
_REMEMBERED = 20_000

_HANDSHAKE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

_parsed: OrderedDict[bytes, dict[str, Any]] = OrderedDict()


def _read(line: bytes) -> dict[str, Any]:
    """A push, parsed once for all who get it."""
    found = _parsed.get(line)
    if found is None:
        found = _parsed[line] = json.loads(line)
        if len(_parsed) > _REMEMBERED:
            _parsed.popitem(last=False)
    return found


class Hearing:
    """A channel without memory, or with the newest only (who comes again gets that again): what came last."""

    __slots__ = ("channel", "keeps_newest", "last", "seen", "who")

    def __init__(self, who: str, channel: str, *, keeps_newest: bool) -> None:
        self.who = who
        self.channel = channel
        self.keeps_newest = keeps_newest
        self.last = ""
        self.seen: OrderedDict[str, None] = OrderedDict()

    def got(self, what: str) -> str:
        """A publication. Returns what is wrong, or ""."""
        self.last = what
        if what in self.seen and not self.keeps_newest:
            return f"{self.who} in {self.channel}: {what} came twice"
        self.seen[what] = None
        if len(self.seen) > 500:
            self.seen.popitem(last=False)
        return ""


class Client(asyncio.Protocol):
    """One user of an SDK, over however many connections.

    Channels with memory are followed with a position; of `others` the newest is known. `goodbye` is the code with which
    it was sent away for good.
    """

    def __init__(self, user: str, token: str, port: int, *, ledger: Ledger) -> None:
        self.user = user
        self.port = port
        self.goodbye = 0
        self.connects = 0
        self.following: dict[str, Follower] = {}
        self.hearing: dict[str, Hearing] = {}
        self.inside: set[str] = set()  # channels in which it is subscribed now
        self._token = token
        self._ledger = ledger
        self._transport: asyncio.Transport | None = None
        self._left = b""
        self._is_upgraded = False
        self._ids = itertools.count(1)
        self._asked: dict[int, tuple[str, bool, asyncio.TimerHandle]] = {}  # subscribes under way: channel, recovers
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._retries: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._attempt = 0
        self._is_leaving = False
        self._returning: asyncio.Task[None] | None = None

    def follow(self, channel: str, *, keeps_all: bool = False) -> None:
        """Subscribe to a `recent` channel, or a durable one that `keeps_all`, from the next connection on."""
        self.following[channel] = self._ledger.follow(self.user, channel, keeps_all=keeps_all)

    def hear(self, channel: str, *, keeps_newest: bool) -> None:
        """Subscribe to another one."""
        self.hearing[channel] = Hearing(self.user, channel, keeps_newest=keeps_newest)

    @property
    def is_in(self) -> bool:
        """Whether it is connected and subscribed to everything."""
        return len(self.inside) == len(self.following) + len(self.hearing) and self._is_upgraded

    def start(self) -> None:
        """Connect, and come back for ever."""
        self._returning = asyncio.ensure_future(self._connect())

    async def leave(self) -> None:
        """Go, and do not come back."""
        self._is_leaving = True
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
        if self._transport is not None:
            self._transport.abort()
        self._forget()

    def call(self, command: str, **request: object) -> asyncio.Future[dict[str, Any]]:
        """The whole reply, an error included. Raises ConnectionError when the connection ends before it."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self._transport is None or not self._is_upgraded:
            future.set_exception(ConnectionError("not connected"))
        else:
            number = next(self._ids)
            self._calls[number] = future
            self._send({"id": number, command: request})
        return future

    # what asyncio calls ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._left, self._is_upgraded = b"", False
        self._transport.write(_HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        data = self._left + data if self._left else data
        at = 0
        if not self._is_upgraded:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._left = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self._abort()
                return
            self._is_upgraded, at = True, end + 4
            self._send({"id": next(self._ids), "connect": {"token": self._token}})
            for channel in (*self.following, *self.hearing):
                self._subscribe(channel)
        self._left = data[self._frames(data, at) :]

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._forget()
        if not self._is_leaving and not self.goodbye:
            self._returning = asyncio.ensure_future(self._connect())

    # ----------------------------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        first, most = BACKOFF
        if self.connects:
            await asyncio.sleep(random.uniform(0, min(most, first * 2**self._attempt)))
        while True:
            self._attempt += 1
            try:
                await loop.create_connection(lambda: self, "127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(random.uniform(0, min(most, first * 2**self._attempt)))
            else:
                self.connects += 1
                return

    def _forget(self) -> None:
        """What belonged to the connection that is over."""
        self._is_upgraded = False
        self.inside.clear()
        for _, _, timer in self._asked.values():
            timer.cancel()
        for timer in self._timers.values():
            timer.cancel()
        self._asked.clear()
        self._timers.clear()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.done():
                call.set_exception(ConnectionError("the connection was lost"))

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _subscribe(self, channel: str) -> None:
        self._timers.pop(channel, None)
        request: dict[str, Any] = {"channel": channel}
        follower = self.following.get(channel)
        place = follower.place if follower is not None else None
        if place is not None:
            request |= {"recover": True, "epoch": place.epoch, "offset": place.offset}
        number = next(self._ids)
        timer = asyncio.get_running_loop().call_later(ANSWER, self._abort)
        self._asked[number] = (channel, place is not None, timer)
        self._send({"id": number, "subscribe": request})

    def _subscribe_later(self, channel: str) -> None:
        self._retries[channel] = tries = self._retries.get(channel, 0) + 1
        delay = random.uniform(0, min(2.0, 0.1 * 2.0**tries))
        self._timers[channel] = asyncio.get_running_loop().call_later(delay, self._subscribe, channel)

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
                    self._push(_read(line)["push"])
                elif line == b"{}":
                    self._send({})
                elif line:
                    self._reply(json.loads(line))
        elif opcode == _PING:
            self._write(_PONG, payload)
        elif opcode == _CLOSE:
            self._closed(int.from_bytes(payload[:2], "big"))

    def _closed(self, code: int) -> None:
        if 3500 <= code < 4000 or 4500 <= code < 5000:
            self.goodbye = code
        self._abort()

    def _push(self, push: dict[str, Any]) -> None:
        channel = push.get("channel", "")
        if "pub" in push:
            self._publication(channel, push["pub"])
        elif "unsubscribe" in push:
            self.inside.discard(channel)
            code = push["unsubscribe"].get("code", 0)
            if code >= 2500:
                if channel in self.following:
                    self._ledger.note(self.following[channel].sent_again(code))
                self._subscribe_later(channel)
            else:
                self.following.pop(channel, None)
                self.hearing.pop(channel, None)
        elif "disconnect" in push:
            self._closed(push["disconnect"].get("code", 0))

    def _publication(self, channel: str, publication: dict[str, Any]) -> None:
        what = publication["data"]
        if channel not in self.inside:
            self._ledger.note(f"{self.user} in {channel}: {what} came to somebody who is not subscribed")
        elif channel in self.following:
            offset = publication.get("offset", 0)
            if offset:  # a stranger's has none
                self._ledger.note(self.following[channel].got(offset, what))
        else:
            self._ledger.note(self.hearing[channel].got(what))

    def _reply(self, reply: dict[str, Any]) -> None:
        number = reply.get("id", 0)
        if number in self._calls:
            call = self._calls.pop(number)
            if not call.done():
                call.set_result(reply)
        elif number in self._asked:
            channel, asked, timer = self._asked.pop(number)
            timer.cancel()
            self._subscribed(channel, reply, asked=asked)
        elif "error" in reply:
            self._refused("connect", reply["error"])
        else:
            self._attempt = 0

    def _subscribed(self, channel: str, reply: dict[str, Any], *, asked: bool) -> None:
        if "error" in reply:
            self._refused(channel, reply["error"])
            return
        result = reply["subscribe"]
        self._retries.pop(channel, None)
        self.inside.add(channel)
        follower = self.following.get(channel)
        if follower is not None:
            at = Place(result.get("epoch", ""), result.get("offset", 0))
            self._ledger.note(follower.subscribed(at, asked=asked, recovered=bool(result.get("recovered"))))
        for publication in result.get("publications", ()):
            self._publication(channel, publication)

    def _refused(self, what: str, error: dict[str, Any]) -> None:
        if not error.get("temporary"):
            self._ledger.note(f"{self.user}: {what} was refused for good: {error}")
        elif what == "connect":
            self._abort()
        else:
            self._subscribe_later(what)

    def _send(self, command: dict[str, Any]) -> None:
        self._write(_TEXT, json.dumps(command, separators=(",", ":")).encode())

    def _write(self, opcode: int, payload: bytes) -> None:
        if self._transport is not None:
            size = len(payload)
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size) if size < 126 else b""
            head = head or struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
            self._transport.write(head + bytes(4) + payload)
