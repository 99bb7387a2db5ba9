"""Publishing and reading for who may block: the half of the Redis broker that needs no event loop.

Answers for: B1 to B3, B6 and S3 to S4 as `redis` has them, with the same words, the same deadline for a call with its
repetitions, and the same errors, over a bounded pool of connections. Refuses to know: who listens, rules and clients.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from hubbub.brokers import batches, calls
from hubbub.brokers.base import StreamOptions
from hubbub.brokers.batches import Batches, Each
from hubbub.brokers.calls import PAUSE, WHY, Call
from hubbub.brokers.envelope import Unreadable
from hubbub.clock import Clock
from hubbub.errors import BackendError
from hubbub.model import Publication, Published
from hubbub.redis.dialing import Refused
from hubbub.redis.pool import Pool
from hubbub.redis.wire import ConnectionLost, RedisError
from hubbub.source import Page
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)

#: Part of the time that is left, which an attempt leaves for the next one.
SECOND_CHANCE = 0.4


class BlockingRedis:
    """For the threads of one process: a forked child makes its own. `deadline` is what each call has, in seconds."""

    def __init__(self, pool: Pool, *, name: str, prefix: str, clock: Clock, deadline: float) -> None:
        self.pool = pool
        self._calls = Batches(name, prefix)
        self._clock = clock
        self._deadline = deadline
        self._sparing = SparingLog(log)

    def publish(self, channel: str, publication: Publication, options: StreamOptions) -> Published:
        """Keep (if so asked) and announce; as `RedisBroker.publish`. Raises PublishFailed."""
        call = self._calls.publish(channel, publication, options)
        try:
            reply, is_first = self._persist(call)
        except BackendError as error:
            raise calls.publish_failed(error, call.once) from error
        return calls.published(call, reply, is_first=is_first)

    def publish_many(self, publications: Sequence[Each]) -> list[Published]:
        """The same for many without idempotency keys, in their order, a batch at a time.

        A batch is one step of the server and has one deadline: asked again after a cut it does nothing twice, and what
        a publication is refused for holds up all after it. Raises PublishFailed, with how many are published.
        """
        done: list[Published] = []
        for batch in self._calls.publish_many(publications):
            refused: BackendError | None
            try:
                replies, is_first = self._persist(batch.call)
                more, refused = batches.published_many(batch, replies, is_first=is_first)
                done += more
            except BackendError as error:
                refused = error
            if refused is not None:
                asked, of = len(batch.parts), len(publications)
                raise batches.many_failed(refused, done=len(done), asked=asked, of=of) from refused
        return done

    def read(self, channel: str, after: int, limit: int, max_bytes: int, *, reverse: bool = False) -> Page:
        """A page and the head, of the same instant; as `Source.read`. Raises BackendError."""
        reply, _ = self._persist(self._calls.read(channel, after, limit, max_bytes, reverse=reverse))
        return calls.page(channel, reply, reverse=reverse, refuse=self._refuse)

    def nodes(self) -> int:
        """How many nodes hear each other. Raises BackendError."""
        (_, count), _ = self._persist(self._calls.nodes())
        return int(count)

    def _persist(self, call: Call) -> tuple[Any, bool]:
        """Ask until there is an answer, or asking again is too late or could do it twice."""
        now, pool = self._clock.now, self.pool
        end = now() + self._deadline
        was_sent, is_first = False, True
        while True:
            # A connection may be open and lead nowhere: what may be repeated leaves time for another one.
            until = end - (end - now()) * SECOND_CHANCE if call.is_repeatable else end
            try:
                if call.script is None:
                    return pool.call(call.words, until), is_first
                return pool.run(call.script, call.keys, call.words, until), is_first
            except (ConnectionLost, RedisError) as error:
                was_sent = calls.go_on(
                    error, was_sent=was_sent, is_repeatable=call.is_repeatable, is_late=now() + PAUSE >= end
                )
            except Refused as error:
                if was_sent:  # by an attempt before: that this one was refused says nothing of it
                    raise ConnectionLost(str(error), was_sent=True) from error
                raise
            is_first = False
            time.sleep(PAUSE)

    def _refuse(self, channel: str, error: Unreadable) -> None:
        self._sparing.warning(
            error.reason, self._clock.now(), "what is kept in %r is left out: %s", channel, WHY[error.reason]
        )
