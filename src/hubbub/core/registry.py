"""The connections of this node, by id and by user.

Answers for: finding them. Refuses to know: what they listen to (the hub), and what is done to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from hubbub.core.hub import Subscription
from hubbub.errors import UnsubscribeCode


class Registered(Protocol):
    """What can be asked of a connection from outside."""

    @property
    def id(self) -> str:
        """Its id, unique among all nodes."""
        ...

    @property
    def user(self) -> str:
        """Its user; "" before it has connected, and for anonymous ones."""
        ...

    subscriptions: dict[str, Subscription]

    def close(self, code: int, reason: str = "", *, detail: str = "") -> None:
        """End it."""
        ...

    def unsubscribe(self, subscription: Subscription, code: UnsubscribeCode) -> None:
        """End one of its subscriptions and say so."""
        ...


class Registry:
    """All connections, and those that have said who they are."""

    def __init__(self) -> None:
        self.all: dict[str, Registered] = {}
        self._users: dict[str, dict[str, Registered]] = {}

    def add(self, connection: Registered) -> None:
        """It exists; nobody knows yet whose it is."""
        self.all[connection.id] = connection

    def identify(self, connection: Registered) -> None:
        """Its user is known."""
        self._users.setdefault(connection.user, {})[connection.id] = connection

    def remove(self, connection: Registered) -> None:
        """It has ended."""
        self.all.pop(connection.id, None)
        mine = self._users.get(connection.user)
        if mine is not None and mine.pop(connection.id, None) is not None and not mine:
            del self._users[connection.user]

    def of(self, user: str, client: str = "") -> Iterator[Registered]:
        """The connections of `user`; with `client`, that one alone, if it is the user's."""
        for connection in list(self._users.get(user, {}).values()):
            if not client or connection.id == client:
                yield connection

    @property
    def users(self) -> int:
        """How many different users are connected; the anonymous one counts."""
        return len(self._users)
