"""Which of the pushes of one connection are publications that we want, each once. Pure.

Answers for: handing over a publication once, although the server sends it for its channel and once more for each
pattern that matches. Refuses to know: globs (the server has matched already), and what a publication means.

The server sends all copies of one publication without anything in between: first the channel's, then one for each
pattern, in an order that may change. So copies belong together as long as the channel stays the same and no pattern
comes twice; whatever else is pushed ends such a run, confirmations too, which are where the set of copies can change.
Nothing but this order tells two equal publications from two copies of one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from hubbub.redis.wanted import Wanted

log = logging.getLogger(__name__)

#: Channels that begin so carry probes, of this process and of others: no publications.
PROBES = b"hubbub:probe:"

_ANSWERS = {b"subscribe": (False, True), b"unsubscribe": (False, False)} | {
    b"psubscribe": (True, True),
    b"punsubscribe": (True, False),
}


class Sieve:
    """What a connection pushes, sorted: publications to `on_message`, probes to `on_probe`, answers to `on_answer`.

    `on_answer` gets whether it is about a pattern, the name, and whether it is sent from now on. Never raises; what
    `on_message` raises is logged and counted as "redis_message_failed", and harms no other publication.
    """

    def __init__(
        self,
        channels: Wanted,
        patterns: Wanted,
        *,
        on_message: Callable[[str, bytes], object],
        on_probe: Callable[[bytes, bytes], object],
        on_answer: Callable[[bool, bytes, bool], object],
        count: Callable[[str], object],
    ) -> None:
        self._channels = channels
        self._patterns = patterns
        self._on_message = on_message
        self._on_probe = on_probe
        self._on_answer = on_answer
        self._count = count
        self._channel: bytes | None = None  # of the run
        self._by: list[bytes] | None = None  # patterns of the run so far
        self._is_handed_over = False

    def push(self, push: Sequence[bytes]) -> None:
        """Take the next push."""
        kind = push[0]
        if kind == b"message":
            channel = push[1]
            self._channel = channel
            self._by = None
            name = self._channels.names.get(channel)
            if name is not None and name.wanted:
                self._is_handed_over = True
                self._hand_over(name.text, push[2])
            else:
                self._is_handed_over = False
                if channel.startswith(PROBES):
                    self._on_probe(channel, push[2])
        elif kind == b"pmessage":
            self._matched(push[1], push[2], push[3])
        else:
            self._channel = None
            answer = _ANSWERS.get(kind)
            if answer is not None and push[1] is not None:
                self._on_answer(answer[0], push[1], answer[1])

    def _matched(self, pattern: bytes, channel: bytes, data: bytes) -> None:
        """A copy that is sent for a pattern."""
        if channel != self._channel or (self._by is not None and pattern in self._by):
            self._channel = channel
            self._by = None
            self._is_handed_over = False
        if self._by is None:
            self._by = []
        self._by.append(pattern)
        name = self._patterns.names.get(pattern)
        if self._is_handed_over or name is None or not name.wanted or channel.startswith(PROBES):
            return
        try:
            text = channel.decode()
        except UnicodeDecodeError:
            self._count("redis_unreadable_channel")  # a stranger's: no channel of ours has such a name
            return
        self._is_handed_over = True
        self._hand_over(text, data)

    def _hand_over(self, channel: str, data: bytes) -> None:
        try:
            self._on_message(channel, data)
        except Exception:
            self._count("redis_message_failed")
            log.exception("what was heard in channel %r could not be taken", channel)
