"""What can be read back: the streams of brokers, and the logs of stores. The docstrings here are the specification.

Answers for: `Source`, which gives offsets and is the truth about them; a `Page` of it; and `Stored`, what of a stream
can be read without waiting. Refuses to know: who writes, who announces, and who listens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from hubbub.model import Position, Publication


class Page(NamedTuple):
    """A piece of a stream, and where the stream stood in the same instant."""

    publications: Sequence[Publication]
    head: Position


class Source(Protocol):
    """A place that gives offsets and can be read back.

    - S1. Offsets of one epoch are contiguous from 1 and never reused; a stream that lost anything gets another epoch.
    - S2. A stream exists from the first time that anybody asks for it: its epoch is made then, and stays while anybody
      listens. One that nothing was ever published in may be forgotten after a minute without listeners.
    - S3. `read` is one atomic look: its publications and its head belong to the same instant.
    - S4. Reading forward, publications are contiguous among themselves. The first one may lie beyond `after` + 1: what
      is missing was trimmed. Forward pages end early only at `limit`, at `max_bytes`, or at the head.
    - S5. `replace_epoch` gives the stream another epoch if it still has the one that is named: of many calls that name
      one epoch, one does. Offsets, what is kept, versions and idempotency keys stay. Nothing is announced.
    - S6. `altered` names a channel if its stream has this epoch and ends before that offset, or holds another
      publication there: a failover lost the end, and others were published since. What is not kept any more says
      nothing.
    """

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Where each of these streams stands. Raises BackendError."""
        ...

    async def read(
        self, channel: str, after: int, limit: int, max_bytes: int = 1 << 20, *, reverse: bool = False
    ) -> Page:
        """Publications with an offset above `after`, oldest first; reversed: below `after` (0: all), newest first.

        At most `limit` of them (0: only the head) and about `max_bytes`, but always one if there is one. Raises
        BackendError.
        """
        ...

    async def altered(self, known: Mapping[str, Known]) -> set[str]:
        """Which of these channels lost what somebody holds, under the same epoch (S6). Raises BackendError."""
        ...

    async def replace_epoch(self, channel: str, epoch: str) -> Position:
        """The source lost the end of this stream under `epoch`: nobody shall mistake the offsets to come (S5).

        Returns the head, whoever replaced the epoch. Raises BackendError.
        """
        ...


class Known(NamedTuple):
    """What somebody holds for the publication at its offset, in this life of a stream."""

    epoch: str
    publication: Publication


class Stored(Protocol):
    """What can be read of a stream without waiting: the ring of a feed, or a stream that lives in this process."""

    def range(self, after: int, upto: int) -> Sequence[Publication] | None:
        """Publications after + 1 to upto, all of them; None if `after` + 1 is not kept (any more)."""
        ...


def is_altered(known: Known, page: Page) -> bool:
    """S6 for one channel. `page` begins right before the offset that is known."""
    epoch, publication = known
    if page.head.epoch != epoch:
        return False
    if page.head.offset < publication.offset:
        return True
    return any(each.offset == publication.offset and each != publication for each in page.publications[:1])


async def altered_by_reading(source: Source, known: Mapping[str, Known]) -> set[str]:
    """S6 for a source that is near: one read for each channel."""
    found = set()
    for channel, each in known.items():
        if is_altered(each, await source.read(channel, each.publication.offset - 1, 1)):
            found.add(channel)
    return found
