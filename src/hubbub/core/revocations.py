"""Tokens that are not to be believed any more, although they are signed and have not expired.

Answers for: "what this user was given up to then is void", for as long as such tokens may be around, and for the bound
on how many users that can be said of. Refuses to know: tokens, connections and clocks; times are arguments, in Unix
seconds, by which tokens expire, too.
"""

from __future__ import annotations

from typing import NamedTuple

from hubbub.errors import LimitExceeded

#: Users; about 0.3 KB each.
MAX_USERS = 65536


class _Revocation(NamedTuple):
    before: float
    until: float


class Revocations:
    """By user. Nothing is forgotten before its time: a bound that lets revoked tokens in again would be none."""

    def __init__(self, max_users: int = MAX_USERS) -> None:
        self._max = max_users
        self._users: dict[str, _Revocation] = {}

    def __len__(self) -> int:
        return len(self._users)

    def add(self, user: str, before: float, *, until: float, now: float) -> None:
        """Refuse what `user` was given up to `before`; remember that until `until`.

        Twice for one user is the later of both. Raises LimitExceeded when too many users are remembered.
        """
        known = self._users.get(user)
        if known is None and len(self._users) >= self._max:
            self._users = {name: known for name, known in self._users.items() if known.until > now}
            if len(self._users) >= self._max:
                raise LimitExceeded(f"tokens of {self._max} users are revoked already")
        if known is not None and known.until > now:
            before, until = max(before, known.before), max(until, known.until)
        self._users[user] = _Revocation(before, until)

    def refuses(self, user: str, issued_at: float, now: float) -> bool:
        """Whether a token of `user` is void; `issued_at` 0 is unknown, and so is void where anything is."""
        if not self._users:
            return False
        known = self._users.get(user)
        if known is None:
            return False
        if known.until <= now:
            del self._users[user]
            return False
        return issued_at <= known.before
