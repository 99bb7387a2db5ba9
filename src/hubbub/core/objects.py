"""The variant of what listens in this process: publications as they are.

Answers for: giving the hub's readers in Python what clients get encoded. Refuses to know: who they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hubbub.brokers.base import Notice
from hubbub.model import Publication


class Heard(NamedTuple):
    """A publication, and the epoch where it is the first of its stream."""

    publication: Publication
    epoch: str


class Objects:
    """The variant of back-end code: no encoding at all."""

    def prepare(self, channel: str) -> None:
        """Nothing is needed."""

    def encode(self, prepared: None, publication: Publication, epoch: str) -> Heard:
        """As it is."""
        return Heard(publication, epoch)

    def notice(self, channel: str, notice: Notice) -> None:
        """Not asked for."""

    def frame(self, message: Heard, /) -> list[Heard]:
        """As it is."""
        return [message]

    def pack(self, messages: list[Any]) -> list[Heard]:
        """As they are."""
        return messages


#: One for all: the hub tells variants apart by identity.
OBJECTS = Objects()
