"""The connection as an application's handlers see it.

Answers for: turning what the hearth knows of a client into plain values. Refuses to know: how a client is spoken to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from hubbub import model, payload
from hubbub.core.hooks import Caller, Handshake

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Connection(msgspec.Struct, frozen=True):
    """Who asks. `user` is verified, "" for anonymous; `info` is what the token (or `authenticate`) said of it.

    While it connects, in `authenticate`, there are also: the `token` that it brought, the `data` that it sent along,
    the `headers` of its HTTP request by lower-case name (cookies are in "cookie"), and the `query` string of its URL.
    """

    id: str
    user: str = ""
    info: Any = None
    token: str = ""
    data: Any = None
    headers: Mapping[str, str] = _NO_HEADERS
    query: str = ""


class Credentials(msgspec.Struct, frozen=True):
    """Who somebody is: what `authenticate` returns.

    `info` and `data` are anything that JSON can hold: others see `info` beside what the user publishes and in presence;
    `data` is told to the client alone, in its connect reply. `channels` it is subscribed to at once. `expire_at` is
    Unix time in seconds; None: for as long as it stays connected.
    """

    user: str
    info: Any = None
    data: Any = None
    channels: Sequence[str] = ()
    expire_at: float | None = None


def seen(caller: Caller) -> Connection:
    """A connected client."""
    info = caller.credentials.info
    return Connection(caller.id, caller.user, payload.decode(info) if info else None)


def at_the_door(caller: Caller, handshake: Handshake) -> Connection:
    """A client that connects. Raises BadRequest (107) where what it sent along is no JSON."""
    data = payload.decode(payload.json_value(handshake.data)) if handshake.data else None
    return Connection(caller.id, token=handshake.token, data=data, headers=handshake.headers, query=handshake.query)


def credentials_of(said: Credentials) -> model.Credentials:
    """What the application said, through the gate. Raises TypeError, and BadRequest for what JSON cannot hold."""
    given: dict[str, object] = {name: getattr(said, name) for name in ("user", "channels", "expire_at")}
    if not isinstance(given["user"], str):
        raise TypeError(f"user = {given['user']!r}: expected text, as in Credentials(str(user.id))")
    channels = given["channels"]
    if isinstance(channels, str) or not all(isinstance(channel, str) for channel in said.channels):
        raise TypeError(f"channels = {channels!r}: expected a list of names")
    if not isinstance(given["expire_at"], int | float | None):
        raise TypeError(f"expire_at = {given['expire_at']!r}: expected Unix time in seconds, or None")
    return model.Credentials(
        user=said.user,
        expire_at=said.expire_at or 0,
        info=_json(said.info),
        data=_json(said.data),
        subs={channel: model.PersonalSubscription() for channel in said.channels},
        can_refresh=False,  # there is no token to refresh: it comes again, and is asked again
    )


def _json(value: Any) -> bytes:
    return b"" if value is None else payload.json_value(payload.encode(value))
