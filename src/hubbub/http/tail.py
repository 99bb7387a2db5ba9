"""`/api/tail`: publications as they happen, one JSON object a line, without end.

Answers for: hearing channels (each without a hole) and patterns (at most once), telling a slow peer from a dead one,
and for never keeping more for either than is written here. Refuses to know: keys, and why somebody listens.

The lines: first `{"tail": {"node", "channels": {name: {"offset", "epoch"}}, "patterns": []}}`, then publications,
`{"channel", "data" or "b64data", "offset", "epoch", "tags", "info"}`; an empty line where nothing else is to be said;
`{"dropped": n}` where a peer is too slow for its patterns; `{"lost": true, "channel"}` where what was missed in a
channel is gone; and `{"end": "shutdown"}` as the last one when the server stops.

A channel is read by a `ChannelReader`: whoever is slow is caught up from what the channel keeps. Patterns keep nothing:
beyond `ROOM` they are dropped, and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from hubbub.brokers.globs import Matcher, matcher
from hubbub.core.node import HISTORY_LIMIT, Node
from hubbub.core.patterns import Listener
from hubbub.core.reader import ChannelReader, PositionLost
from hubbub.errors import BadRequest, NotAvailable
from hubbub.model import Position, Publication
from hubbub.protocol.codec import JsonCodec
from hubbub.protocol.messages import StreamPosition

#: Bytes of lines that wait for the peer.
ROOM = 1 << 20
#: Bytes of one write.
WRITE = 64 << 10
#: Seconds without a line after which an empty one is sent: writing is how a dead peer is noticed.
HEARTBEAT = 5.0
#: Seconds that a peer gets to take what is left when the server stops.
LAST_WRITES = 2.0
#: The scope extension by which our server cuts a connection: what a peer does not read would keep it open.
ABORT = "hubbub.abort"
#: Channels and patterns of one tail.
MAX_NAMES = 128

_codec = JsonCodec()


class TailRequest(Struct, kw_only=True):
    """What to listen to. `history`: start with the last so many publications of each channel that keeps any.

    `since`: by channel, after which position to start instead.
    """

    channels: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    history: Annotated[int, Meta(ge=0, le=HISTORY_LIMIT)] = 0
    since: dict[str, StreamPosition] = field(default_factory=dict)


def asked_by(query: QueryParams) -> TailRequest:
    """The same from a query: `?channel=a&channel=b&pattern=c.*&history=10`. Raises BadRequest (107)."""
    strange = sorted(set(query) - {"channel", "pattern", "history", "api_key"})
    if strange:
        raise BadRequest(f"tail: unknown parameter {strange[0]!r}: there are channel, pattern and history")
    asked = {"channels": query.getlist("channel"), "patterns": query.getlist("pattern")}
    try:
        return msgspec.convert(asked | {"history": query.get("history", "0")}, TailRequest, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"tail: {error}") from None


class Outlet:
    """Lines on their way to one peer: at most `ROOM` bytes, and one line more."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._is_ended = False
        self._news = asyncio.Event()
        self._taken = asyncio.Event()

    def offer(self, line: Callable[[], bytes]) -> None:
        """Keep the line if there is room; else it is dropped, and not even made."""
        if self._bytes >= ROOM:
            self._dropped += 1
            return
        self._tell_dropped()
        self._append(line())

    async def put(self, line: bytes) -> None:
        """Keep the line, as soon as there is room."""
        while self._bytes >= ROOM and not self._is_ended:
            self._taken.clear()
            await self._taken.wait()
        self._append(line)

    def end(self, line: bytes = b"") -> None:
        """Nothing comes behind this `line`."""
        if not self._is_ended:
            self._tell_dropped()
            if line:
                self._append(line)
            self._is_ended = True
            self._taken.set()
            self._news.set()

    async def take(self) -> bytes | None:
        """What is to be written next: lines, or an empty one after a while without any. None: that was all."""
        if not self._lines and not self._is_ended:
            self._tell_dropped()
        if not self._lines and not self._is_ended:
            self._news.clear()
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._news.wait()
            except TimeoutError:
                return b"\n"
        if not self._lines:
            return None
        taken = [self._lines.popleft()]
        size = len(taken[0])
        while self._lines and size + len(self._lines[0]) <= WRITE:
            size += len(self._lines[0])
            taken.append(self._lines.popleft())
        self._bytes -= size
        self._taken.set()
        return b"".join(taken)

    def _append(self, line: bytes) -> None:
        if not self._is_ended:
            self._lines.append(line)
            self._bytes += len(line)
            self._news.set()

    def _tell_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._append(_line({"dropped": dropped}))


class Tail:
    """One peer that listens. `open` it, then answer with its `response`."""

    def __init__(self, node: Node, asked: TailRequest) -> None:
        self._node = node
        self._asked = asked
        self._outlet = Outlet()
        self._readers: dict[str, ChannelReader] = {}
        self._positions: dict[str, Position | None] = {}
        self._lost: list[str] = []
        self._listeners: list[Listener] = []
        self._copying: list[asyncio.Task[None]] = []
        self._is_closing = False
        self._writing: asyncio.Timeout | None = None

    async def open(self) -> None:
        """Listen from here on. Raises ReplyError: UnknownChannel (102), BadRequest (107), NotAvailable (108) …"""
        channels, patterns = dict.fromkeys(self._asked.channels), dict.fromkeys(self._asked.patterns)
        if not 0 < len(channels) + len(patterns) <= MAX_NAMES:
            raise BadRequest(f"tail: give 1 to {MAX_NAMES} channels and patterns")
        if not self._node.is_ready:
            raise NotAvailable("the server is starting or stopping")
        self._node.readers[self] = None  # to be told of the end
        try:
            for channel in channels:
                await self._open_channel(channel)
            matchers = [matcher(pattern) for pattern in patterns]
            for number, pattern in enumerate(patterns):
                callback = partial(self._heard, matchers[:number])
                self._listeners.append(await self._node.patterns.listen(pattern, callback))
        except BaseException:
            self.leave()
            raise

    def close(self) -> None:
        """The server stops. What has been heard is still told, to who takes it in time: the readers end, too, and the
        last of them says so.
        """
        self._end_with_the_last()
        if self._writing is not None and not self._is_closing:
            self._writing.reschedule(asyncio.get_running_loop().time() + LAST_WRITES)
        self._is_closing = True

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Write inside: it raises TimeoutError where the server stops and the peer does not read."""
        try:
            async with asyncio.timeout(LAST_WRITES if self._is_closing else None) as self._writing:
                yield
        finally:
            self._writing = None

    def response(self, *, only_head: bool = False) -> Response:
        """Tells what is heard, until the peer or the server goes."""
        if only_head:
            self.leave()
            return Response(media_type=_MEDIA_TYPE)
        return _TailResponse(self)

    async def _open_channel(self, channel: str) -> None:
        rules = self._node.namespaces.resolve(channel)
        since = self._asked.since.get(channel)
        reader = ChannelReader(self._node, channel)
        try:
            self._positions[channel] = await reader.open(
                Position(since.epoch, since.offset) if since is not None else None,
                self._asked.history if rules.has_memory and since is None else 0,
            )
        except PositionLost:
            self._lost.append(channel)
            return
        self._readers[channel] = reader

    async def run(self, write: Callable[[bytes], Awaitable[None]], gone: asyncio.Future[None]) -> None:
        """Write until somebody goes."""
        gone.add_done_callback(lambda _: self._outlet.end())
        await write(self._first_line())
        for channel, reader in self._readers.items():
            task = self._node.tasks.spawn(self._copy(channel, reader), f"tail {channel}")
            self._copying.append(task)
            task.add_done_callback(lambda _: self._end_with_the_last())
        while not gone.done() and (lines := await self._outlet.take()) is not None:
            await write(lines)

    def leave(self) -> None:
        """Listen no more."""
        self._node.readers.pop(self, None)
        for listener in self._listeners:
            listener.close()
        for reader in self._readers.values():
            reader.close()
        for task in self._copying:
            task.cancel()

    def _first_line(self) -> bytes:
        places = {
            channel: {"offset": position.offset, "epoch": position.epoch} if position is not None else {}
            for channel, position in self._positions.items()
        }
        patterns = [listener.pattern for listener in self._listeners]
        lost = [_line({"lost": True, "channel": channel}) for channel in self._lost]
        first = _line({"tail": {"node": self._node.id, "channels": places, "patterns": patterns}})
        return b"".join([first, *lost])

    async def _copy(self, channel: str, reader: ChannelReader) -> None:
        """Every publication of one channel, at the peer's pace."""
        position = self._positions[channel]
        epoch = position.epoch if position is not None else ""
        try:
            while (publication := await reader.next()) is not None:
                await self._outlet.put(_told(channel, publication, epoch if publication.offset else ""))
        except PositionLost:
            await self._outlet.put(_line({"lost": True, "channel": channel}))
            reader.close()

    def _end_with_the_last(self) -> None:
        if not self._node.is_ready and all(task.done() for task in self._copying):
            self._outlet.end(_line({"end": "shutdown"}))

    def _heard(self, earlier: list[Matcher], channel: str, publication: Publication, epoch: str) -> None:
        """A pattern matches. Nothing is told twice: channels of the tail are read, and one pattern speaks for all."""
        if channel not in self._positions and not any(matches(channel) for matches in earlier):
            self._outlet.offer(partial(_told, channel, publication, epoch))


class _TailResponse(Response):
    """A body that goes on until the peer or the tail ends."""

    def __init__(self, tail: Tail) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter: nginx passes lines on at once
        super().__init__(media_type=_MEDIA_TYPE, headers=headers)
        del self.headers["content-length"]
        self._tail = tail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""

        async def write(lines: bytes) -> None:
            await send({"type": "http.response.body", "body": lines, "more_body": True})

        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            async with self._tail.in_time():
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._tail.run(write, gone)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            cut = (scope.get("extensions") or {}).get(ABORT)
            if cut is not None:  # else the server below says that this answer has no end, and closes
                cut["abort"]()
                await gone
        finally:
            gone.cancel()
            self._tail.leave()


_MEDIA_TYPE = "application/x-ndjson"


async def _disconnected(receive: Receive) -> None:
    message: Message = {}
    while message.get("type") != "http.disconnect":
        message = await receive()


def _told(channel: str, publication: Publication, epoch: str) -> bytes:
    body = _codec.publication(publication, epoch)
    key = b'"b64data":' if publication.binary else b'"data":'
    return b'{"channel":%b,%b%b\n' % (msgspec.json.encode(channel), key, body.partition(b":")[2])


def _line(about: dict[str, Any]) -> bytes:
    return msgspec.json.encode(about) + b"\n"
