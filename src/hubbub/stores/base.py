"""What keeps the publications of durable channels. The docstrings here are the specification.

Answers for: `Store`, the log of a channel that is written before anything is announced; `Draft`, what is to be written;
and what a publisher is told that could not be written. Refuses to know: who listens, what carries announcements, and
what rules a channel has.

A store is a `Source`: offsets are contiguous from 1 in each epoch, and never reused (S1 to S5). The epoch of a channel
that was never written is that of the whole store, so that asking writes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, NamedTuple, Protocol

from hubbub.errors import BackendError
from hubbub.model import Position, Publication, Published
from hubbub.source import Source


class Draft(NamedTuple):
    """A publication that has no offset yet. The same `key` in the same channel is written once."""

    channel: str
    publication: Publication
    key: str = ""

    @property
    def size(self) -> int:
        """Bytes that it costs while it waits, roughly."""
        return self.publication.size + len(self.channel) + len(self.key)


class Written(NamedTuple):
    """A draft's place in the log. `is_duplicate`: its key was there, and this is the place of the first."""

    position: Position
    is_duplicate: bool = False

    @property
    def published(self) -> Published:
        """As publishers are told."""
        return Published(self.position, None, self.is_duplicate)


def epoch_of(store: str, life: int) -> str:
    """A channel's epoch: that of its whole store, until the end of this one channel was lost."""
    return f"{store}.{life}" if life else store


#: What a publisher is told whose publication has no answer.
IN_DOUBT = "perhaps published, and publishing again may do it twice (give an idempotency key)"


class Away(BackendError):
    """The store is out of reach for now, and has said so in the log."""


class Unwritable(BackendError):
    """The log does not take one of these drafts, whoever tries: one poisons the transaction of all."""


class StoreEvents(Protocol):
    """What a store says upward, on the event loop. These never block and never raise."""

    def on_committed(self, channel: str, publication: Publication, epoch: str) -> None:
        """A publication of this process is in the log, at its offset (D4)."""
        ...


class Store(Source, Protocol):
    """The log.

    - D1. `append` returns after the commit: what it has returned for survives the end of this process, and of the
      machine where durability is "full".
    - D2. Publications of one channel get their offsets in the order in which this process called `append`.
    - D3. A draft whose key is in the log of its channel writes nothing, and gets the place of the first.
    - D4. `on_committed` is called for each publication that this process has written, before its `append` returns; not
      for duplicates. Those that were given to `append` come in the order of their offsets in each channel, and so do
      those that were moved from an outbox. A moved one and an appended one may come in either order, as those of two
      processes do: whoever is told puts them in order.
    - D5. What waits is bounded, in drafts and bytes: beyond it `append` raises PublishFailed at once, and it is safe to
      try again.
    - D6. A draft that cannot be written harms no other. Where a commit has no answer, the log is asked whether it was
      written before anybody is told.
    - D7. A caller that is cancelled does not cancel the write. `stop` writes everything that waits.
    - D8. Once `trim` has returned, nothing up to the given offset can be read. The head stays, and so do offsets.
    - D9. `sweep` lets go of the oldest publications of channels that keep none for ever, as `trim` does, in slices:
      writing goes on in between.
    """

    #: Whether other processes may write there, too.
    is_shared: ClassVar[bool]

    async def start(self, events: StoreEvents) -> None:
        """Open, and bring the schema up to date. Raises BackendError, ConfigurationError for what is not ours."""
        ...

    async def stop(self) -> None:
        """Write what waits, and close (D7). Idempotent."""
        ...

    def append(self, draft: Draft) -> Awaitable[Published]:
        """Write one publication (D1). It waits in the order of the calls, whether it is awaited or not."""
        ...

    async def trim(self, channel: str, upto: int) -> None:
        """Let go of what is kept up to this offset (D8). Raises BackendError."""
        ...

    async def sweep(self, keeps: Callable[[str], float]) -> int:
        """Let go of what is older than `keeps` says (D9): seconds for a channel's name; 0 for ever.

        Returns how many publications that were. Raises BackendError.
        """
        ...

    def counts(self) -> dict[str, int]:
        """What happened so far, by name; `store_queue` is what waits now, `store_bytes` what the log takes there."""
        ...


class Table(Protocol):
    """What the writer needs of a database: one transaction for many drafts."""

    async def commit(self, drafts: Sequence[Draft], patience: float) -> Sequence[Written]:
        """Write all of them in one transaction, or none; their places, in their order.

        A database that is away is tried for `patience` seconds. A key may come twice among them. Raises Unwritable
        where one of them is at fault, PublishFailed for everything else, once it is known that nothing was written, or
        once nobody can say.
        """
        ...
