"""The connections of this node, by id and by user.

Answers for: finding them, and how many one user may have. Refuses to know: what they listen to (the hub), and what is
done to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from hubbub.core.hub import Subscription
from hubbub.errors import Disconnect, DisconnectCode, UnsubscribeCode
from hubbub.model import Credentials


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
    credentials: Credentials

    def close(self, code: int, reason: str = "", *, detail: str = "") -> None:
        """End it."""
        ...

    def unsubscribe(self, subscription: Subscription, code: UnsubscribeCode) -> None:
        """End one of its subscriptions and say so."""
        ...


class Registry:
    """All connections, and those that have said who they are. `max_per_user` 0: no limit."""

    def __init__(self, max_per_user: int = 0) -> None:
        self.all: dict[str, Registered] = {}
        self._max_per_user = max_per_user
        self._users: dict[str, dict[str, Registered]] = {}
        self._connecting: dict[str, set[str]] = {}  # ids by user, of those that have no answer yet

    def add(self, connection: Registered) -> None:
        """It exists; nobody knows yet whose it is."""
        self.all[connection.id] = connection

    def identify(self, connection: Registered) -> None:
        """Its user is known, and it is about to connect. Raises Disconnect 3504 when that user has enough."""
        user, id = connection.user, connection.id
        if id in self._users.get(user, ()):
            return
        self._require_room(user)
        self._users.setdefault(user, {})[id] = connection
        self._connecting.setdefault(user, set()).add(id)

    def connected(self, connection: Registered) -> None:
        """It has connected, and counts from here on. Raises Disconnect 3504 when others of its user were faster.

        Who is connecting does not count: a connect that waits for something, and fails, would keep others out.
        """
        self._require_room(connection.user)
        self._has_connected(connection)

    def remove(self, connection: Registered) -> None:
        """It has ended."""
        self.all.pop(connection.id, None)
        self._has_connected(connection)
        mine = self._users.get(connection.user)
        if mine is not None and mine.pop(connection.id, None) is not None and not mine:
            del self._users[connection.user]

    def _has_connected(self, connection: Registered) -> None:
        connecting = self._connecting.get(connection.user)
        if connecting is not None:
            connecting.discard(connection.id)
            if not connecting:
                del self._connecting[connection.user]

    def _require_room(self, user: str) -> None:
        """As upstream, the anonymous user is nobody, who may have any number."""
        if not self._max_per_user or not user:
            return
        connected = len(self._users.get(user, ())) - len(self._connecting.get(user, ()))
        if connected >= self._max_per_user:
            detail = f"the user has {connected}, as many as client.max_connections_per_user allows"
            raise Disconnect(DisconnectCode.CONNECTION_LIMIT, detail=detail)

    def of(self, user: str, client: str = "") -> Iterator[Registered]:
        """The connections of `user`; with `client`, that one alone, if it is the user's."""
        for connection in list(self._users.get(user, {}).values()):
            if not client or connection.id == client:
                yield connection

    @property
    def users(self) -> int:
        """How many different users are connected; the anonymous one counts."""
        return len(self._users)
