"""What one application has registered, and how it is asked.

Answers for: finding who speaks for a channel, a method or a connection; running it in time; and for what a client is
told when it fails. Refuses to know: decorators (`app`), what a class or a function looks like (`rooms`, `signatures`).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from hubbub import model, payload
from hubbub.channels import MAX_KNOWN
from hubbub.core.hooks import Caller, Guard, Handshake, Observer
from hubbub.errors import (
    BadRequest,
    ConfigurationError,
    Disconnect,
    DisconnectCode,
    InternalError,
    MethodNotFound,
    NotAvailable,
    PermissionDenied,
    ReplyError,
)
from hubbub.handlers.caller import Connection, Credentials, at_the_door, credentials_of, seen
from hubbub.handlers.rooms import BoundRoom, Room
from hubbub.handlers.signatures import signature_of
from hubbub.handlers.typed import Reader

log = logging.getLogger(__name__)


def is_cancelled() -> bool:
    """Whether the current task itself is to end; else a CancelledError is that of something it waited for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


#: The method that clients have without anybody registering it (`core.commands`).
BUILT_IN = "publish"


class Application:
    """Implements Handlers. `timeout` in seconds is what each handler gets."""

    def __init__(self, observer: Callable[[], Observer], *, timeout: float) -> None:
        self._observer = observer
        self.timeout = timeout
        self._rooms: list[Room] = []
        self._guards: dict[str, Guard | None] = {}
        self._rpcs: dict[str, tuple[str, Callable[..., Awaitable[Any]], Reader | None]] = {}
        self._authenticate: tuple[str, Callable[..., Awaitable[Any]]] | None = None
        self.at_work: dict[object, str] = {}  # what runs at this moment, by where it stands

    def renewed(self) -> Application:
        """The same registrations, with new instances of the channel classes."""
        fresh = Application(self._observer, timeout=self.timeout)
        for room in self._rooms:
            fresh.add_room(room.renewed(fresh.ask))
        fresh._rpcs = dict(self._rpcs)
        fresh._authenticate = self._authenticate
        return fresh

    # registering ----------------------------------------------------------------------------------------------------

    def add_room(self, room: Room) -> None:
        """A channel class; the most literal pattern speaks."""
        self._rooms.append(room)
        self._rooms.sort(key=lambda each: each.pattern.rank, reverse=True)
        self._guards.clear()

    def add_rpc(self, method: str, function: Callable[..., Awaitable[Any]]) -> None:
        """A method that clients call: `(connection)` or `(connection, request)`. Raises ConfigurationError."""
        signature = signature_of(function)
        if method in self._rpcs:
            raise ConfigurationError(f"{signature.where}: RPC {method!r} is {self._rpcs[method][0]} already")
        if method == BUILT_IN:
            raise ConfigurationError(f"{signature.where}: RPC {method!r} is hubbub's own; choose another name")
        parameters = list(signature.parameters.items())
        if not 1 <= len(parameters) <= 2:
            names = ", ".join(signature.parameters)
            raise ConfigurationError(f"{signature.where} takes ({names}); an RPC takes (connection, request)")
        reader = Reader(parameters[1][1]) if len(parameters) == 2 else None
        self._rpcs[method] = (signature.where, function, reader)

    def set_authenticate(self, function: Callable[..., Awaitable[Any]]) -> None:
        """Who says who somebody is. Raises ConfigurationError."""
        signature = signature_of(function)
        if self._authenticate is not None:
            raise ConfigurationError(f"{signature.where}: {self._authenticate[0]} authenticates already")
        if len(signature.parameters) != 1:
            names = ", ".join(signature.parameters)
            raise ConfigurationError(f"{signature.where} takes ({names}); authenticate takes (connection)")
        self._authenticate = (signature.where, function)

    @property
    def authenticates(self) -> bool:
        """Whether the application says who somebody is."""
        return self._authenticate is not None

    # Handlers -------------------------------------------------------------------------------------------------------

    def authenticate(
        self, caller: Caller, handshake: Handshake
    ) -> Coroutine[Any, Any, model.Credentials | None] | None:
        """Ask the application who this is, if it says so at all."""
        if self._authenticate is None:
            return None
        return self._who(*self._authenticate, at_the_door(caller, handshake))

    async def _who(
        self, place: str, function: Callable[..., Awaitable[Any]], connection: Connection
    ) -> model.Credentials | None:
        said = await self.ask(place, function(connection))
        if said is None:
            return None
        if not isinstance(said, Credentials):
            log.error("%s returned %r; expected hubbub.Credentials, or None", place, said)
            raise InternalError
        try:
            return credentials_of(said)
        except (TypeError, BadRequest) as error:
            log.error("%s: its Credentials: %s", place, error)
            raise InternalError from None

    def guard(self, channel: str) -> Guard | None:
        """Who speaks for `channel`."""
        if not self._rooms:
            return None
        try:
            return self._guards[channel]
        except KeyError:
            pass
        room = next((room for room in self._rooms if room.pattern.match(channel) is not None), None)
        guard = BoundRoom(room, channel) if room is not None else None
        if len(self._guards) >= MAX_KNOWN:
            self._guards.clear()
        self._guards[channel] = guard
        return guard

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        """Call a method. Raises NotAvailable (108) where there are none, MethodNotFound (104) for an unknown one."""
        if not self._rpcs:
            raise NotAvailable("not available: no RPC is registered; @hub.rpc(...) does")
        if method not in self._rpcs:
            raise MethodNotFound(f"method not found: no @hub.rpc({method[:40]!r}) is registered")
        place, function, reader = self._rpcs[method]
        arguments = () if reader is None else (reader.json(data or b"null"),)
        said = await self.ask(place, function(seen(caller), *arguments))
        try:
            return payload.encode(said)
        except BadRequest as error:
            log.error("%s: its result: %s", place, error)
            raise InternalError from None

    async def send(self, caller: Caller, data: bytes) -> None:
        """Not available (3508)."""
        log.warning("user %r: client.send() has no handler here; use client.rpc(), and @hub.rpc(...)", caller.user)
        raise Disconnect(DisconnectCode.NOT_AVAILABLE, detail="a send command, and no handler for it")

    async def ask(self, place: str, work: Awaitable[Any]) -> Any:
        """Await the application's own coroutine. What it raises is for the client where it says so, else for our log.

        Raises ReplyError and Disconnect as they come, PermissionDenied (103) for a PermissionError, and InternalError
        (100) for everything else.
        """
        deadline = asyncio.timeout(self.timeout)
        mark = object()
        self.at_work[mark] = place
        try:
            async with deadline:
                return await work
        except (ReplyError, Disconnect):
            raise
        except PermissionError as error:
            raise PermissionDenied(str(error)) from None
        except TimeoutError:
            if deadline.expired():
                log.error("%s did not answer within %g s (client.handler_timeout)", place, self.timeout)
            else:
                log.exception("%s failed", place)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            log.exception("%s failed: what it waited for was cancelled", place)
        except Exception:
            log.exception("%s failed", place)
        finally:
            del self.at_work[mark]
            if inspect.iscoroutine(work):
                work.close()  # where the deadline passed before it began
        self._observer().count("handler_failed")
        raise InternalError
