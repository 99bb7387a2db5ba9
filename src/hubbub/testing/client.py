"""A client of the hub, as a test holds it: does what SDKs do, but only when told to, and remembers what it was told.

Answers for: each command and its result in Python's terms; coming and going; and for failing with a text that says what
was expected and what came. Refuses to know: what becomes of that which it hears (`hearing`), how bytes are written and
moved (`line`, `dialects`), and when everything has happened (`hub`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import msgspec

from hubbub import payload
from hubbub.app import History, Hubbub
from hubbub.errors import ReplyError
from hubbub.handlers.publication import Publication
from hubbub.handlers.typed import Reader
from hubbub.model import ClientInfo, Position, PresenceStats
from hubbub.testing.dialects import DIALECTS, CodecName, Dialect, Message
from hubbub.testing.expecting import error_of, failure
from hubbub.testing.hearing import Hearing, Subscribed
from hubbub.testing.line import CUT, GOODBYE, Line

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # every type checker brings it; unions are no `type[T]`

T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who connects, and with what. `user` None: the token, the application or the rules have to say it."""

    user: str | None = None
    info: Any = None
    channels: Sequence[str] = ()
    ttl: float | None = None
    token: str = ""
    data: Any = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    query: str = ""


class Returned(msgspec.Struct, frozen=True):
    """What coming back brought, by channel.

    `recovered` has what was missed, complete and in order; channels in `lost` could not give it, and their clients have
    to read the state anew; `refused` has those that the client may not subscribe to any more.
    """

    recovered: dict[str, list[Publication[Any]]]
    lost: list[str]
    refused: dict[str, ReplyError]


class Stage(Protocol):
    """What a client stands on."""

    @property
    def hub(self) -> Hubbub:
        """The application's."""
        ...

    @property
    def patience(self) -> float:
        """Real seconds to wait for what is expected."""
        ...

    def join(self, line: Line, dialect: Dialect, identity: Identity) -> None:
        """Connect the server's end. Raises ConnectionRefusedError."""
        ...

    async def rest(self) -> None:
        """Let everything happen that can happen now."""
        ...

    async def settle(self) -> None:
        """The same, and let the application's handlers finish."""
        ...


class Client(Hearing):
    """A client; `TestHub.connect` makes it.

    `id` is the connection's. `closed` is 0 while it is connected, else a close code: the server's, 1006 after `drop`,
    1000 after `close`; `close_reason` goes with it. `data` is what the server told it on connecting. `received` lists
    everything that it was told, as text. `joins` and `leaves` list who came and went, and `unsubscribed` has the code
    with which the server ended a subscription, by channel. `answers_pings = False` makes it a client that hangs.
    """

    def __init__(self, stage: Stage, identity: Identity, *, codec: CodecName, name: str) -> None:
        super().__init__(stage.hub, DIALECTS[codec]())
        self.name = name
        self.id = ""
        self.data: Any = None
        self.answers_pings = True
        self._stage = stage
        self._identity = identity
        self._line: Line | None = None

    def __repr__(self) -> str:
        state = f"closed with {self.closed}" if self.closed else "connected" if self._line else "not connected"
        return f"<Client {self.name}, {state}>"

    # coming and going -----------------------------------------------------------------------------------------------

    async def connect(self) -> dict[str, Subscribed]:
        """Connect; `TestHub.connect` has done it. Returns the subscriptions that the server made.

        Raises ConnectionRefusedError, ReplyError (109: the token has expired), Disconnect (3500: it is wrong).
        """
        who, hub = self._identity, self._stage.hub
        line = Line(
            self._dialect,
            head=({name.lower(): value for name, value in who.headers.items()}, who.query),
            write_budget=hub.settings.client.write_budget,
            max_message=hub.max_message,
            heard=self._heard,
            answers_pings=lambda: self.answers_pings,
            ended=self._ended,
        )
        self._stage.join(line, self._dialect, who)
        self._line, self.closed, self.close_reason = line, 0, ""
        body: dict[str, Any] = {}
        if who.token:
            body["token"] = who.token
        if who.data is not None:
            body["data"] = payload.encode(who.data)
        known = {name: position for name, position in self.positions.items() if name in self._server_side}
        heads = await self._heads(known)
        if known:
            body["subs"] = {name: _recovering(position) for name, position in known.items()}
        entered: dict[str, Subscribed] = {}
        try:
            await self._ask("connect", body, "to connect", lambda reply: self._come_in(reply["connect"], entered))
        except ReplyError:
            line.hang_up(GOODBYE)  # as SDKs do, before they try again
            raise
        await self._stage.rest()
        return {name: self._with_the_rest(name, each, heads.get(name, 0)) for name, each in entered.items()}

    async def drop(self) -> None:
        """The connection is cut, without a goodbye: the server sees only that it is gone."""
        self._connected("to drop its connection").hang_up(CUT)
        await self._stage.rest()

    async def close(self) -> None:
        """Leave, for good."""
        self._connected("to close its connection").hang_up(GOODBYE)
        await self._stage.rest()

    async def reconnect(self, *, token: str | None = None) -> Returned:
        """Come back with the positions of all subscriptions, as SDKs do, and with another token if one is given.

        Raises what connecting raises, and ExpectationFailed where SDKs stay away (codes 3500 to 3999, 4500 to 4999).
        """
        __tracebackhide__ = True
        if not self.closed:
            raise self._failure("to come back", "it is connected: drop() comes first")
        if 3500 <= self.closed < 4000 or 4500 <= self.closed < 5000:
            raise self._failure("to come back", f"SDKs stay away after {self.closed} ({self.close_reason})")
        if token is not None:
            self._identity = msgspec.structs.replace(self._identity, token=token, user=None)
        entered = await self.connect()
        refused: dict[str, ReplyError] = {}
        for channel, options in list(self._subscriptions.items()):
            try:
                entered[channel] = await self._subscribe(channel, options, self.positions.get(channel))
            except ReplyError as error:
                refused[channel] = error
                self._forget(channel)
        return Returned(
            {channel: each.publications for channel, each in entered.items() if each.recovered},
            [channel for channel, each in entered.items() if each.recovered is False],
            refused,
        )

    def stop_reading(self) -> None:
        """Take nothing more of what the server sends, like a phone in a tunnel. The server keeps what it may keep."""
        self._connected("to stop reading").reads = False

    async def start_reading(self) -> None:
        """Take it, and let the server catch it up."""
        self._connected("to read again").reads = True
        await self._stage.rest()

    # commands -------------------------------------------------------------------------------------------------------

    async def subscribe(
        self, channel: str, *, token: str = "", since: Position | None = None, join_leave: bool = False
    ) -> Subscribed:
        """Subscribe, recovering what was missed `since`. `join_leave` asks to be told who comes and goes.

        Raises ReplyError: PermissionDenied, UnknownChannel, and what else the server answers.
        """
        options: dict[str, Any] = {"token": token} if token else {}
        if join_leave:
            options["join_leave"] = True
        return await self._subscribe(channel, options, since)

    async def unsubscribe(self, channel: str) -> None:
        """Leave a channel."""
        await self._ask("unsubscribe", {"channel": channel}, f"to unsubscribe from {channel}")
        self._forget(channel)
        await self._stage.rest()

    async def publish(self, channel: str, data: Any) -> None:
        """Publish what JSON can hold (with Protobuf also bytes). When it returns, subscribers have it.

        Raises ReplyError.
        """
        body = {"channel": channel, "data": self._written(channel, data)}
        await self._ask("publish", body, f"to publish in {channel}")
        await self._stage.rest()

    async def rpc(self, method: str, data: Any = None) -> Any:
        """Call one of the application's methods. Raises ReplyError."""
        body: dict[str, Any] = {"method": method} | ({} if data is None else {"data": payload.encode(data)})
        result = (await self._ask("rpc", body, f"to call {method!r}"))["rpc"]
        await self._stage.rest()
        return self._value(result["data"]) if result.get("data") is not None else None

    async def history(
        self, channel: str, *, limit: int = -1, since: Position | None = None, reverse: bool = False
    ) -> History[Any]:
        """What the channel has kept: at most `limit` (below 0: up to 300). Raises ReplyError."""
        body: dict[str, Any] = {"channel": channel, "limit": limit, "reverse": reverse}
        if since is not None:
            body["since"] = {"offset": since.offset, "epoch": since.epoch}
        result = (await self._ask("history", body, f"to read the history of {channel}"))["history"]
        position = Position(result.get("epoch", ""), result.get("offset", 0))
        kept = result.get("publications", [])
        return History([self._publication(channel, each, position.epoch) for each in kept], position)

    async def presence(self, channel: str) -> dict[str, ClientInfo]:
        """Who is in the channel, by connection. Raises ReplyError."""
        result = (await self._ask("presence", {"channel": channel}, f"to see who is in {channel}"))["presence"]
        return {id: self._info(each) for id, each in result["presence"].items()}

    async def presence_stats(self, channel: str) -> PresenceStats:
        """How many are in the channel. Raises ReplyError."""
        reply = await self._ask("presence_stats", {"channel": channel}, f"to count who is in {channel}")
        return PresenceStats(reply["presence_stats"].get("num_clients", 0), reply["presence_stats"].get("num_users", 0))

    async def refresh(self, token: str, *, channel: str = "") -> None:
        """Bring a new token, for the connection or for the subscription to `channel`. Raises ReplyError, Disconnect."""
        kind, body = ("sub_refresh", {"channel": channel, "token": token}) if channel else ("refresh", {"token": token})
        await self._ask(kind, body, "its new token to be taken")
        if not channel:
            self._identity = msgspec.structs.replace(self._identity, token=token, user=None)
        await self._stage.rest()

    # expectations ---------------------------------------------------------------------------------------------------

    @overload
    async def next(self, channel: str) -> Publication[Any]: ...
    @overload
    async def next(self, channel: str, *, type: TypeForm[T]) -> Publication[T]: ...
    async def next(self, channel: str, *, type: Any = Any) -> Publication[Any]:
        """The next publication in the channel that was not looked at yet; `type` is what its data is read as.

        Raises ExpectationFailed if none comes.
        """
        __tracebackhide__ = True
        await self._stage.rest()
        unread = self._unread[channel]
        try:
            async with asyncio.timeout(self._stage.patience):
                while not unread and not self.closed:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        if not unread:
            raise self._failure(f"a publication in {channel}", self._why_nothing(channel))
        publication = unread.popleft()
        if type is Any:
            return publication
        data = Reader(type).json(payload.encode(publication.data))
        return Publication(channel, data, publication.position, publication.info, publication.tags)

    async def expect_nothing(self, channel: str = "") -> None:
        """Nothing is there to be looked at in the channel (in any, if empty), now that everything due has happened.

        Raises ExpectationFailed.
        """
        __tracebackhide__ = True
        await self._stage.settle()
        for name, unread in self._unread.items():
            if unread and channel in ("", name):
                data = ", ".join(repr(each.data) for each in unread)
                raise self._failure(f"nothing in {channel or 'any channel'}", f"in {name} there came {data}")

    def _why_nothing(self, channel: str) -> str:
        if self.closed:
            return f"its connection was closed with {self.closed} {self.close_reason}".rstrip()
        if self._line is not None and not self._line.reads:
            return "it has stopped reading: start_reading() comes first"
        if channel in self.unsubscribed:
            return f"the server has unsubscribed it with code {self.unsubscribed[channel]}"
        if channel not in self._subscriptions and channel not in self._server_side:
            return "it is not subscribed to that"
        return "none came"

    def _failure(self, expected: str, instead: str) -> AssertionError:
        return failure(self.name, expected, instead, self.received)

    # how it is done -------------------------------------------------------------------------------------------------

    async def _subscribe(self, channel: str, options: dict[str, Any], since: Position | None) -> Subscribed:
        body = {"channel": channel, **options} | (_recovering(since) if since is not None else {})
        heads = await self._heads([channel] if since is not None else [])
        entered: list[Subscribed] = []

        def begin(reply: Message) -> None:
            self._subscriptions[channel] = options
            entered.append(self._subscribed(channel, reply["subscribe"]))

        await self._ask("subscribe", body, f"to subscribe to {channel}", begin)
        await self._stage.rest()
        return self._with_the_rest(channel, entered[0], heads.get(channel, 0))

    def _come_in(self, result: Message, entered: dict[str, Subscribed]) -> None:
        self.id = result["client"]
        self.data = self._value(result["data"]) if "data" in result else None
        subs = result.get("subs", {})
        self._server_side = set(subs)
        entered.update({channel: self._subscribed(channel, each) for channel, each in subs.items()})

    async def _heads(self, channels: Iterable[str]) -> dict[str, int]:
        """Where the channels stand: what comes up to there was missed, what comes behind it is new."""
        kept = [channel for channel in channels if self._is_kept(channel)]
        heads = await self._stage.hub.node.broker.heads(kept) if kept else {}
        return {channel: head.offset for channel, head in heads.items()}

    def _is_kept(self, channel: str) -> bool:
        try:
            return self._stage.hub.node.namespaces.resolve(channel).has_memory
        except ReplyError:
            return False  # the server will say what is wrong with it

    def _forget(self, channel: str) -> None:
        self._subscriptions.pop(channel, None)
        self.positions.pop(channel, None)

    async def _ask(
        self, kind: str, body: dict[str, Any], wish: str, then: Callable[[Message], object] = lambda reply: None
    ) -> Message:
        """Send a command and wait for its answer. Raises ReplyError, Disconnect, ExpectationFailed."""
        __tracebackhide__ = True
        line = self._line
        if line is None:
            raise self._failure(wish, "it is not connected")
        answer = line.ask(kind, body, then)
        await self._stage.rest()  # nearly always all that it takes
        if not answer.done():
            await asyncio.wait([answer], timeout=self._stage.patience)
        if not answer.done():
            answer.cancel()
            why = "no answer came"
            if not line.reads:
                why = "it has stopped reading, also answers: start_reading() comes first"
            running = self._stage.hub.at_work
            raise self._failure(wish, why + (f"; still running: {', '.join(running)}" if running else ""))
        reply = answer.result()
        if "error" in reply:
            error = error_of(reply["error"])
            self._note(f"refused {wish}: {error.wire_code} {error.message}")
            raise error
        return reply

    def _connected(self, wish: str) -> Line:
        if self._line is None or self.closed:
            raise self._failure(wish, f"it is not connected (closed with {self.closed})")
        return self._line


def _recovering(position: Position) -> dict[str, Any]:
    return {"recover": True, "epoch": position.epoch, "offset": position.offset}
