"""A connection, opened and greeted.

Answers for: a wire that is ready for commands, or an error that names the fix. The greeting (RESP3, user, database)
goes out in one write and ends with PING, which a server that is still loading refuses; behind Sentinel the server is
asked for its role on this very connection. And for leaving a server that is not the one to ask any more. Refuses to
know: trying again.

The answer to HELLO tells whether a server is a replica. Every user may say it, at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from hubbub.clock import Clock
from hubbub.errors import BackendError
from hubbub.redis.topology import Endpoint, Moving
from hubbub.redis.wire import REPLICA, ConnectionLost, RedisError, Wire, Word

log = logging.getLogger(__name__)

#: Seconds between a connection and the last answer to its greeting.
GREETING_DEADLINE = 3.0

#: Seconds between two questions whether a server is the primary still. What is published on one that was made a
#: replica reaches nobody elsewhere, and is no error.
ROLE_EVERY = 1.0

#: Kinds of error that trying again does not heal.
_FOR_GOOD = frozenset({"WRONGPASS", "NOAUTH", "NOPERM", "NOPROTO", "DENIED"})


class Refused(BackendError):
    """The server is there and will not have us: the text names what to change. Trying again does not help."""


async def dial(
    endpoint: Endpoint,
    clock: Clock,
    *,
    on_push: Callable[[list[Any]], object] | None = None,
    on_room: Callable[[], object] | None = None,
    needs_primary: bool = False,
) -> Wire:
    """A wire that is ready. Raises BackendError when the server cannot be reached or asked, Refused when it objects.

    With `needs_primary` a replica is not taken. Trying again helps once it is promoted, or the address leads elsewhere.
    """
    wire = await endpoint.open(lambda: Wire(endpoint.name, clock, on_push=on_push, on_room=on_room))
    try:
        await _greet(wire, endpoint)
        if needs_primary and wire.is_replica:
            raise BackendError(f"{endpoint.name}: {REPLICA}")
    except BaseException as error:
        wire.sever(error if isinstance(error, Exception) else ConnectionAbortedError("given up"))
        raise
    return wire


@asynccontextmanager
async def guarded(wire: Wire, endpoint: Endpoint) -> AsyncIterator[None]:
    """Meanwhile, end the wire as soon as another server is the one to ask, though this one answers.

    A primary that was replaced in good order goes on as a replica: it refuses writes, which its callers see. Whoever
    only listens, or only announces, would never know: it still hears what the others publish, later, and with one more
    server in between, or nothing. Behind Sentinels these say who is the one; at an address it is the server itself, and
    the next connection may well lead to another. One that was a replica from the start was taken as such.
    """
    if isinstance(endpoint, Moving):
        leaving = _leave_when_moved(wire, endpoint)
    elif not wire.is_replica:
        leaving = _leave_when_demoted(wire)
    else:
        yield
        return
    guard = asyncio.create_task(leaving, name=f"guard {endpoint.name}")
    try:
        yield
    finally:
        guard.cancel()
        await asyncio.wait([guard])


async def _leave_when_moved(wire: Wire, endpoint: Moving) -> None:
    cause: Exception = BackendError("the primary is another one now")
    try:
        await endpoint.moved()
    except Exception as error:  # nobody would watch any more: the next connection has another guard
        log.exception("who the primary is cannot be asked")
        cause = error
    wire.sever(cause)


async def _leave_when_demoted(wire: Wire) -> None:
    while not wire.lost.done():
        await asyncio.sleep(ROLE_EVERY)
        try:
            greeting = await wire.ask("HELLO")
        except BackendError:
            continue  # the wire is lost or late, which others judge; a server that would not say so says READONLY
        if is_replica(greeting):
            wire.sever(BackendError(REPLICA))


def is_replica(greeting: object) -> bool:
    """What the answer to HELLO tells."""
    return isinstance(greeting, dict) and greeting.get(b"role") == b"replica"


async def _greet(wire: Wire, endpoint: Endpoint) -> None:
    commands: list[list[Word]] = [*endpoint.hello(), ["PING"]]
    replies: asyncio.Future[list[Any]] = asyncio.gather(
        *(wire.ask(*command) for command in commands), return_exceptions=True
    )
    try:
        async with asyncio.timeout(GREETING_DEADLINE):
            answers = await replies
    except TimeoutError:
        raise BackendError(
            f"{endpoint.name} took the connection and did not answer for {GREETING_DEADLINE:g} seconds"
        ) from None
    for command, answer in zip(commands, answers, strict=True):
        if isinstance(answer, RedisError):
            raise _refusal(endpoint.name, command, answer) from answer
        if isinstance(answer, ConnectionLost):
            raise BackendError(f"{endpoint.name} ended the connection during the greeting: {wire.lost.result()}")
        if command == ["ROLE"] and answer[0] != b"master":
            raise BackendError(f"{endpoint.name}: whom the Sentinels named is a {answer[0].decode()}, not the primary")
    wire.is_replica = is_replica(answers[0])


def _refusal(name: str, command: list[Word], error: RedisError) -> BackendError:
    """What the error means in a greeting."""
    verb = str(command[0])
    if error.kind == "NOPROTO" or (verb == "HELLO" and "unknown command" in str(error).lower()):
        return Refused(f"{name} does not speak RESP3 ({error}): Redis 7.0 or Valkey 8 is needed, or later")
    if error.kind == "NOPERM":
        return Refused(f"{name}: the user may not say {verb}: ACL SETUSER <user> +{verb.lower()} ({error})")
    if verb == "SELECT" and error.kind == "ERR":
        return Refused(f"{name}: there is no such database: change the number at the end of the URL ({error})")
    if error.kind in _FOR_GOOD:
        return Refused(f"{name}: {error}")
    return BackendError(f"{name} is not ready: {error}")
