"""Channel classes: all that clients may do in the channels of one pattern, in one place.

Answers for: reading a class (its methods, their parameters, the type of its payloads), and asking it. Refuses to know:
which class a channel has (`application`), rules, and what follows from an answer.

    @hub.channel("room:{room_id}", delivery="recent", presence=True)
    class Room:
        async def subscribe(self, connection, room_id): ...       # return, or raise PermissionDenied
        async def publish(self, connection, room_id, data: Note): ...
        async def join(self, connection, room_id): ...
        async def leave(self, connection, room_id): ...
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import msgspec

from hubbub import payload
from hubbub.captures import ChannelPattern
from hubbub.core.hooks import Admitted, Caller
from hubbub.errors import BadRequest, ConfigurationError, Disconnect, InternalError, ReplyError
from hubbub.handlers.caller import seen
from hubbub.handlers.signatures import Captures, Signature, signature_of, where
from hubbub.handlers.typed import ANYTHING, Reader
from hubbub.payload import DataFormat

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What a class may say, and what each takes besides the connection and the captures.
METHODS = {"subscribe": (), "publish": ("data",), "join": (), "leave": ()}

#: Runs one of the application's coroutines: in time, and with its failures told.
Ask = Callable[[str, Awaitable[Any]], Awaitable[Any]]


class Ephemeral(msgspec.Struct, Generic[T], frozen=True):
    """Returned by a class's `publish`: this goes to whoever listens now, without an offset, and is kept nowhere."""

    data: T


class Room:
    """One channel class, with its one instance."""

    def __init__(self, pattern: ChannelPattern, of: type, *, format: DataFormat, ask: Ask) -> None:
        """Raises ConfigurationError for what could never be asked."""
        self.pattern = pattern
        self.where = where(of)
        self.ask = ask
        self.format: DataFormat = format
        self._instance = _made(of)
        _refuse_misspelt(of)
        self._methods: dict[str, tuple[Any, Captures]] = {}
        self.reader = Reader(Any)
        for name, also in METHODS.items():
            method = getattr(self._instance, name, None)
            if method is None:
                continue
            signature = signature_of(method)
            self._methods[name] = (method, Captures(signature, pattern, first="connection", also=also))
            if also:
                self.reader = _data_reader(signature, format)

    def renewed(self, ask: Ask) -> Room:
        """The same class with a new instance."""
        return Room(self.pattern, type(self._instance), format=self.format, ask=ask)

    @property
    def asks(self) -> frozenset[str]:
        """Its methods."""
        return frozenset(self._methods)

    async def call(self, name: str, caller: Caller, channel: str, **more: Any) -> Any:
        """Ask one of its methods."""
        method, captures = self._methods[name]
        arguments = captures.of(channel)
        return await self.ask(f"{name} of {self.where}", method(seen(caller), **arguments, **more))


class BoundRoom:
    """Implements Guard: a channel class for one channel."""

    __slots__ = ("_channel", "_room", "asks")

    def __init__(self, room: Room, channel: str) -> None:
        self._room = room
        self._channel = channel
        self.asks = room.asks

    async def subscribe(self, caller: Caller) -> None:
        """Return, or raise."""
        await self._room.call("subscribe", caller, self._channel)

    async def publish(self, caller: Caller, data: bytes) -> Admitted:
        """What is published: as it came, or what the class made of it. Raises BadRequest for what does not fit."""
        format = self._room.format
        said = await self._room.call("publish", caller, self._channel, data=_read(self._room.reader, data, format))
        try:
            if isinstance(said, Ephemeral):
                return Admitted(payload.body(said.data, format), ephemeral=True)
            return Admitted(data if said is None else payload.body(said, format))
        except BadRequest as error:
            log.error("publish of %s: what it returned: %s", self._room.where, error)
            raise InternalError from None

    async def joined(self, caller: Caller) -> None:
        """It is in."""
        await self._tell("join", caller)

    async def left(self, caller: Caller) -> None:
        """It is out."""
        await self._tell("leave", caller)

    async def _tell(self, name: str, caller: Caller) -> None:
        """Nobody waits for an answer: what it refuses now is refused too late."""
        try:
            await self._room.call(name, caller, self._channel)
        except InternalError:
            pass  # it is logged where it was asked
        except (ReplyError, Disconnect) as error:
            log.warning("%s of %s raised %r, which nobody hears: refuse in subscribe", name, self._room.where, error)


def _data_reader(signature: Signature, format: DataFormat) -> Reader:
    annotation = signature.parameters["data"]
    wanted = {"text": str, "binary": bytes}.get(format)
    if wanted is not None and annotation not in (wanted, *ANYTHING):
        raise ConfigurationError(f"{signature.where}: data is {wanted.__name__} in a channel of {format}")
    return Reader(annotation if format == "json" else Any)


def _read(reader: Reader, data: bytes, format: DataFormat) -> Any:
    if format == "json":
        return reader.json(data)
    return data.decode() if format == "text" else data


def _made(of: type) -> Any:
    if not isinstance(of, type):
        raise ConfigurationError(
            f"{where(of)} is no class: hub.channel decorates the class that speaks for its channels"
        )
    try:
        return of()
    except TypeError as error:
        raise ConfigurationError(
            f"{where(of)}: the hub makes its one instance, without arguments: {error}; give each a default"
        ) from None


def _refuse_misspelt(of: type) -> None:
    for name, value in vars(of).items():
        near = difflib.get_close_matches(name, METHODS, 1, 0.8)
        if callable(value) and name not in METHODS and near:
            raise ConfigurationError(f"{where(of)} has a method {name}: is it {near[0]}?")
