"""Which channels, or which patterns, are wanted, said and granted on the connection of the moment. Pure.

Answers for: what is to be said to the server so that it sends what is wanted, in few large commands; which wishes it
has granted, so that a quick leave and return cannot cross; and whom a renewed connection owes word. Refuses to know:
sockets, time, and who waits.

The server answers the commands of one connection in their order, and each name of a command by itself. So a count of
unanswered commands per name is all the generation that is needed: an answer with others behind it proves nothing, the
last one everything, and with the connection all counts end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: Names in one command. One with 10,000 would keep the server's only thread from everybody else.
BATCH = 512


class Name:
    """One channel or pattern. It is `wanted` here; the server has it `granted`, by what it has answered so far."""

    __slots__ = ("granted", "key", "owed", "promised", "said", "text", "unanswered", "wanted")

    def __init__(self, text: str, key: bytes) -> None:
        self.text = text
        self.key = key
        self.wanted = False
        self.said = False  # the last command about it subscribes
        self.unanswered = 0  # commands on this connection
        self.granted = False
        self.promised = False  # somebody was told that it is heard
        self.owed = False  # it was promised when a connection ended, and has not been granted since

    @property
    def is_settled(self) -> bool:
        """Whether everything published from now on is heard."""
        return self.wanted and self.granted and not self.unanswered


class Saying(NamedTuple):
    """One command: subscribe to these names (`on`), or unsubscribe from them."""

    on: bool
    keys: list[bytes]


class Wanted:
    """All names of one kind. From `begin` to `cut` of a connection: say what `unsaid` gives, tell the answers."""

    def __init__(self) -> None:
        self.names: dict[bytes, Name] = {}
        self._unsaid: dict[bytes, None] = {}
        self._alone: set[bytes] = set()  # of the unsaid: refused in company, one of which may be the cause
        self._awaited: set[Name] = set()  # owed, and neither granted nor refused on this connection
        self._renewed: list[Name] = []

    def want(self, text: str) -> Name:
        """It is wanted from now on."""
        key = text.encode()
        name = self.names.get(key)
        if name is None:
            name = self.names[key] = Name(text, key)
        if not name.wanted:
            name.wanted = True
            name.promised = name.is_settled  # it had not been said that it was unwanted
            self._unsaid[key] = None
        return name

    def unwant(self, text: str) -> None:
        """It is not wanted any more, whatever was promised."""
        name = self.names.get(text.encode())
        if name is None or not name.wanted:
            return
        name.wanted = name.promised = name.owed = False
        self._awaited.discard(name)
        self._unsaid[name.key] = None
        self._forget(name)

    def give_up(self, name: Name) -> None:
        """Who waited for it has gone without an answer: it is wanted no more, unless it was promised before."""
        if not name.promised:
            self.unwant(name.text)

    def begin(self) -> None:
        """There is a new connection, on which nothing has been said."""
        self._unsaid = dict.fromkeys(self.names)
        self._awaited = {name for name in self.names.values() if name.owed}

    def cut(self) -> None:
        """The connection has ended, and with it everything that was said and granted on it."""
        self.names = {key: name for key, name in self.names.items() if name.wanted}
        for name in self.names.values():
            name.said = name.granted = False
            name.unanswered = 0
            name.owed = name.promised
        self._unsaid.clear()
        self._alone.clear()
        self._awaited.clear()
        self._renewed.clear()

    @property
    def has_unsaid(self) -> bool:
        """Whether there may be something to say."""
        return bool(self._unsaid)

    def unsaid(self) -> list[Saying]:
        """What is to be said now; it counts as said."""
        on: list[bytes] = []
        off: list[bytes] = []
        sayings = []
        for key in self._unsaid:
            name = self.names[key]
            if name.wanted == name.said:
                continue
            name.said = name.wanted
            name.unanswered += 1
            if name.said and key in self._alone:
                sayings.append(Saying(True, [key]))
            else:
                (on if name.said else off).append(key)
        self._unsaid.clear()
        self._alone.clear()
        for is_on, keys in ((False, off), (True, on)):
            sayings += [Saying(is_on, keys[i : i + BATCH]) for i in range(0, len(keys), BATCH)]
        return sayings

    def granted(self, key: bytes, *, on: bool) -> Name | None:
        """The server says that it sends this name (`on`), or sends it no more. Returns it if it is settled by that."""
        name = self.names.get(key)
        if name is None or not name.unanswered:
            return None  # our own probe's, or nothing that we asked for
        name.unanswered -= 1
        name.granted = on
        return self._answered(name)

    def refused(self, saying: Saying) -> tuple[list[Name], list[Name]]:
        """The server refused the whole command. Returns which names are settled after all, and which are refused.

        One name that is forbidden has all of its command refused, so those in company are said again, alone. A refused
        name is wanted no more, unless it was promised: then it can be tried `again`.
        """
        settled, refused = [], []
        for key in saying.keys:
            name = self.names.get(key)
            if name is None or not name.unanswered:
                continue
            name.unanswered -= 1
            if name.unanswered or name.granted or not (name.wanted and name.said):
                if self._answered(name) is not None:
                    settled.append(name)
                continue
            name.said = False
            if len(saying.keys) > 1:
                self._unsaid[key] = None
                self._alone.add(key)
            else:
                refused.append(name)
                self._awaited.discard(name)
                self.give_up(name)
        return settled, refused

    def again(self) -> None:
        """Say once more what was promised and then refused: rights may have come back."""
        self._unsaid.update(dict.fromkeys(key for key, name in self.names.items() if name.wanted and not name.said))

    def take_renewed(self) -> list[str]:
        """Channels that were promised when a connection ended and are granted again, once it is so for all of them."""
        if self._awaited:
            return []
        renewed, self._renewed = self._renewed, []
        return [name.text for name in renewed if name.promised and self.names.get(name.key) is name]

    def _answered(self, name: Name) -> Name | None:
        if not name.is_settled:
            self._forget(name)
            return None
        name.promised = True
        if name.owed:
            name.owed = False
            self._awaited.discard(name)
            self._renewed.append(name)
        return name

    def _forget(self, name: Name) -> None:
        """Nothing is left of it."""
        if not (name.wanted or name.said or name.granted or name.unanswered):
            self.names.pop(name.key, None)
            self._unsaid.pop(name.key, None)


def texts(names: Iterable[Name]) -> str:
    """For logs: the first few."""
    listed = [name.text for name in names]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
