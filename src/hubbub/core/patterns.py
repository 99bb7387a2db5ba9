"""Back-end code that listens to whole families of channels, by glob.

Answers for: hearing from the broker what the patterns of this node's listeners match, and calling each listener for
each publication. Refuses to know: clients, history and order: a pattern is a megaphone (at most once, nothing is made
good). For the one channel that must not miss anything there is `reader`.

It costs nothing where nobody listens: feeds look at one attribute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from hubbub.brokers.base import Broker, is_nodes_own
from hubbub.brokers.globs import Matcher, matcher
from hubbub.core.feeds import Feeds
from hubbub.core.tasks import Tasks
from hubbub.errors import BackendError, BadRequest
from hubbub.model import Publication

log = logging.getLogger(__name__)

#: Characters of a pattern: as many as a channel may have.
MAX_PATTERN = 255

#: Channels whose listeners are remembered, so that busy ones are not matched again for each publication.
REMEMBERED = 10_000

#: Channel, publication, and the epoch of its stream ("" where it has no offset). Neither waits nor keeps the loop.
Callback = Callable[[str, Publication, str], object]


class Listener:
    """One callback for one pattern, until `close`."""

    def __init__(self, patterns: Patterns, pattern: str, *, callback: Callback) -> None:
        self.pattern = pattern
        self.matches: Matcher = matcher(pattern)
        self.callback = callback
        self._patterns = patterns

    def close(self) -> None:
        """Call it no more, from now on. Idempotent."""
        self._patterns.forget(self)


class Patterns:
    """The listeners of one node."""

    def __init__(self, feeds: Feeds, broker: Broker, *, tasks: Tasks) -> None:
        self._feeds = feeds
        self._broker = broker
        self._tasks = tasks
        self._listeners: dict[Listener, None] = {}
        self._of: dict[str, tuple[Listener, ...]] = {}  # by channel; as many as are remembered

    async def listen(self, pattern: str, callback: Callback) -> Listener:
        """From the return on, `callback` is called for every publication whose channel matches `pattern`.

        Whatever node published it, kept or ephemeral, also where nobody else listens; once, however many other patterns
        match. What a callback raises is logged, and harms nobody else. All listeners are forgotten when the node stops.
        Raises BadRequest (107) for an empty or too long pattern, BackendError.
        """
        if not 0 < len(pattern) <= MAX_PATTERN:
            raise BadRequest(f"a pattern has 1 to {MAX_PATTERN} characters; * matches every channel")
        listener = Listener(self, pattern, callback=callback)
        self._listeners[listener] = None
        self._changed()
        try:
            await self._broker.watch(self._wanted())
        except BaseException:
            listener.close()
            raise
        return listener

    def forget(self, listener: Listener) -> None:
        """Call it no more."""
        if listener not in self._listeners:
            return
        del self._listeners[listener]
        self._changed()
        if listener.pattern not in self._wanted():
            self._tasks.begin(self._want_less(), f"forget pattern {listener.pattern}")

    def stop(self) -> None:
        """Forget all of them: the broker does too."""
        self._listeners.clear()
        self._changed()

    def heard(self, channel: str, publication: Publication, epoch: str) -> None:
        """A publication was announced. Never raises."""
        listeners = self._of.get(channel)
        if listeners is None:
            if len(self._of) >= REMEMBERED:
                self._of.clear()
            heard_by = () if is_nodes_own(channel) else self._listeners
            listeners = self._of[channel] = tuple(each for each in heard_by if each.matches(channel))
        for listener in listeners:
            if listener not in self._listeners:
                continue  # the one before has closed it
            try:
                listener.callback(channel, publication, epoch)
            except Exception:
                log.exception("a listener of pattern %r failed on channel %r", listener.pattern, channel)

    def _wanted(self) -> list[str]:
        return list({listener.pattern: None for listener in self._listeners})

    async def _want_less(self) -> None:
        try:
            await self._broker.watch(self._wanted())
        except BackendError as error:  # what is heard beyond our wishes finds no listener
            log.warning("the broker still sends what nobody listens to: %s", error)

    def _changed(self) -> None:
        self._of.clear()
        self._feeds.overhear = self.heard if self._listeners else None
