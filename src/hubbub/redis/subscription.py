"""The subscriber that cannot go deaf without anybody noticing.

Answers for: hearing what is published in the channels and patterns that are wanted, whatever happens to the connection:
it is made again without end, everything wanted is subscribed again, and for each channel that may have missed something
there is word. A connection must prove all the time that publications arrive on it. Refuses to know: what a publication
means, and how a missed one is made good.

The order of the server is the only truth: see `wanted` (answers) and `sieve` (publications). One task, `_supervise`,
owns the connection; nothing but `stop` ends it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection

from hubbub.clock import Clock
from hubbub.errors import BackendError
from hubbub.redis.backoff import Backoff
from hubbub.redis.line import Deaf, Line, Publish
from hubbub.redis.outages import Outages
from hubbub.redis.sieve import Sieve
from hubbub.redis.topology import Endpoint
from hubbub.redis.wanted import Name, Saying, Wanted, texts
from hubbub.redis.wire import RedisError
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)

#: What the log calls a subscriber's connection.
PART = "subscriptions"


def _ignore(event: str) -> None:
    """Count nothing."""


def _no_cut() -> None:
    """Nobody wants to know."""


class Ears:
    """One supervised connection for subscriptions. Everything on one event loop.

    `on_message(channel, data)` is called once per publication, in the server's order, however many patterns match. It
    must not block; what it raises is logged and counted. `on_cut()` is called when the connection is lost, before
    anything else can be heard. `on_renewed(channels)` is called after every reconnection, once all of them are
    confirmed again, with exactly those that a subscribe had returned for before the cut.

    `publish(channel, data)` sends probes the way that publishers send (`Pipeline.call`): it finds a connection that
    hangs on the wrong server, too. Without it, or where it fails, they go out on this connection.

    `deadline` is for subscribe and watch; the connection is probed every `probe_every` seconds. Counted: redis_deaf,
    redis_refused, redis_message_failed, redis_unreadable_channel, and what `outages` count, unless those are shared
    with other connections to this server.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Clock,
        on_message: Callable[[str, bytes], object],
        on_renewed: Callable[[list[str]], object],
        on_cut: Callable[[], object] = _no_cut,
        count: Callable[[str], object] = _ignore,
        publish: Publish | None = None,
        outages: Outages | None = None,
        deadline: float = 2.0,
        probe_every: float = 5.0,
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._on_message = on_message
        self._on_renewed = on_renewed
        self._on_cut = on_cut
        self._count = count
        self._publish = publish
        self._outages = outages or Outages(clock=clock, count=count)
        self._deadline = deadline
        self._probe_every = probe_every
        self._channels = Wanted()
        self._patterns = Wanted()
        self._waiting: dict[Name, list[asyncio.Future[None]]] = {}
        self._watching = asyncio.Lock()
        self._watched: frozenset[str] = frozenset()  # the patterns of the last watch that returned
        self._line: Line | None = None
        self._is_flushing = False
        self._backoff = Backoff()
        self._trouble = "it is not started"
        self._task: asyncio.Task[None] | None = None
        self._sparing = SparingLog(log)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that has proved to hear."""
        return self._line is not None

    async def start(self) -> None:
        """Connect, and prove that publications are heard. Raises BackendError."""
        assert self._task is None, "started once"
        line = await self._connect()
        self._take(line)
        self._task = asyncio.create_task(self._supervise(line), name=f"hear {self._endpoint.name}")

    async def stop(self) -> None:
        """End, and forget all wishes. Who waits gets BackendError. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._outages.leave(PART)
        self._trouble = "it is stopped"
        for name in list(self._waiting):
            self._fail(name, self._not_confirmed(name.text))
        self._channels = Wanted()
        self._patterns = Wanted()
        self._watched = frozenset()

    # wishes ---------------------------------------------------------------------------------------------------------

    async def subscribe(self, channel: str) -> None:
        """From the return on, hear what is published in `channel`, until `unsubscribe`; the last call wins.

        Raises BackendError when the server refuses or has not confirmed within the deadline. Then, as after a
        cancellation, nothing is left of this call: the channel is not wanted, unless another one has returned or waits.
        """
        self._check_running()
        name = self._channels.want(channel)
        if not name.is_settled:
            self._touch()
            await self._confirmed([name], self._channels)

    async def unsubscribe(self, channel: str) -> None:
        """Hear it no more, from now on. A subscribe that still waits returns."""
        name = self._channels.names.get(channel.encode())
        if name is not None:
            self._channels.unwant(channel)
            self._settle(name)
            self._touch()

    async def watch(self, patterns: Collection[str]) -> None:
        """From the return on, hear what is published in channels that match one of `patterns` (globs of Redis).

        They replace those of the last call, which are heard until the new ones are confirmed; one that stays misses
        nothing. Keep them few: the server tries each with every publication. Raises BackendError when the server
        refuses one or has not confirmed within the deadline; then those of the call before are heard.
        """
        self._check_running()
        watching = asyncio.ensure_future(self._watch(frozenset(patterns)))
        try:
            await asyncio.wait([watching], timeout=self._deadline)
            if not watching.done():
                raise self._not_confirmed("patterns")
        finally:
            watching.cancel()
            await asyncio.wait([watching])  # what it wanted is taken back
        watching.result()

    async def _watch(self, wanted: frozenset[str]) -> None:
        async with self._watching:
            self._check_running()
            try:
                names = [self._patterns.want(pattern) for pattern in sorted(wanted)]
                self._touch()
                await self._confirmed([name for name in names if not name.is_settled], self._patterns)
                self._watched = wanted
            finally:
                for name in list(self._patterns.names.values()):
                    if name.text not in self._watched:
                        self._patterns.unwant(name.text)
                self._touch()

    async def _confirmed(self, names: list[Name], kind: Wanted) -> None:
        """Return once all are settled, or not wanted any more.

        No asyncio.timeout: it wants a task, and commands of clients begin without one (`core.eager`).
        """
        loop = asyncio.get_running_loop()
        waits = {name: loop.create_future() for name in names}
        for name, future in waits.items():
            self._waiting.setdefault(name, []).append(future)
        try:
            if waits:
                done, late = await asyncio.wait(
                    waits.values(), timeout=self._deadline, return_when=asyncio.FIRST_EXCEPTION
                )
                for future in done:
                    future.result()
                if late:
                    raise self._not_confirmed(texts(waits))
        finally:
            for name, future in waits.items():
                others = self._waiting.get(name, [])
                if future in others:
                    others.remove(future)
                    if not others:
                        del self._waiting[name]
                        kind.give_up(name)
                        self._touch()
                elif future.done() and not future.cancelled():
                    future.exception()  # another one's failure was raised: this one is known

    def _settle(self, name: Name) -> None:
        for future in self._waiting.pop(name, ()):
            if not future.done():
                future.set_result(None)

    def _fail(self, name: Name, error: BackendError) -> None:
        for future in self._waiting.pop(name, ()):
            if not future.done():
                future.set_exception(error)

    def _check_running(self) -> None:
        if self._task is None:
            raise BackendError(f"{self._endpoint.name}: nothing can be heard, {self._trouble}")

    def _not_confirmed(self, what: str) -> BackendError:
        return BackendError(
            f"{self._endpoint.name}: the subscription to {what} was not confirmed within {self._deadline:g} s: "
            + ("the server is slow" if self._line is not None else self._trouble)
        )

    # what is said and answered --------------------------------------------------------------------------------------

    def _touch(self) -> None:
        """Something is to be said: all of this turn of the loop together."""
        if self._line is not None and not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        line = self._line
        if line is None:
            return
        for kind in (self._patterns, self._channels):
            for saying in kind.unsaid():
                reply = line.say(saying, is_pattern=kind is self._patterns)
                reply.add_done_callback(functools.partial(self._said, line, kind, saying))
        self._tell_renewed()

    def _said(self, line: Line, kind: Wanted, saying: Saying, reply: asyncio.Future[None]) -> None:
        """A command has its answers, each of which was taken when it came, or it was refused."""
        error = None if reply.cancelled() else reply.exception()
        if line is not self._line or not isinstance(error, RedisError):
            return
        settled, refused = kind.refused(saying)
        for name in settled:
            self._settle(name)
        for name in refused:
            self._count("redis_refused")
            text = f"{self._endpoint.name} refuses the subscription to {name.text!r}: {error}"
            self._sparing.warning(f"refused {name.text}", self._clock.now(), "%s", text)
            self._fail(name, BackendError(text))
        self._touch()

    def _answered(self, is_pattern: bool, key: bytes, on: bool) -> None:
        name = (self._patterns if is_pattern else self._channels).granted(key, on=on)
        if name is not None:
            self._settle(name)
        if not is_pattern:
            self._tell_renewed()

    def _tell_cut(self) -> None:
        try:
            self._on_cut()
        except Exception:
            self._count("redis_message_failed")
            log.exception("%s: word of the cut could not be taken", self._endpoint.name)

    def _tell_renewed(self) -> None:
        renewed = self._channels.take_renewed()
        if renewed:
            log.info("%s: %d channels are heard again", self._endpoint.name, len(renewed))
            try:
                self._on_renewed(renewed)
            except Exception:
                self._count("redis_message_failed")
                log.exception("%s: word of renewed channels could not be taken", self._endpoint.name)

    # the connection -------------------------------------------------------------------------------------------------

    async def _connect(self) -> Line:
        """A new connection that has proved to hear. Raises BackendError."""
        line = Line(self._endpoint, self._clock, publish=self._publish)

        def answered(is_pattern: bool, key: bytes, on: bool) -> None:
            self._answered(is_pattern, key, on)
            line.answered()

        sieve = Sieve(
            self._channels,
            self._patterns,
            on_message=self._on_message,
            on_probe=line.probed,
            on_answer=answered,
            count=self._count,
        )
        try:
            await line.open(sieve.push)
        except BaseException:
            line.close()
            raise
        return line

    def _take(self, line: Line) -> None:
        self._line = line
        self._channels.begin()
        self._patterns.begin()
        self._flush()

    async def _supervise(self, line: Line) -> None:
        while True:
            try:
                if line is not self._line:
                    self._take(line)
                async with line.guarded():
                    await self._live(line)
            except Exception as error:
                self._failed(error)
            finally:
                self._line = None
                line.close()
                self._channels.cut()
                self._patterns.cut()
            self._tell_cut()
            self._outages.lost(PART, self._endpoint.name, self._trouble)
            line = await self._reconnected()

    async def _live(self, line: Line) -> None:
        """Probe the connection until it fails the test. Raises BackendError, always."""
        while True:
            await line.rest(self._probe_every)
            await line.prove()
            self._backoff.reset()
            self._channels.again()
            self._touch()

    async def _reconnected(self) -> Line:
        while True:
            await asyncio.sleep(self._backoff.next())
            try:
                line = await self._connect()
            except Exception as error:  # whatever it is: nobody else would make the next attempt
                self._failed(error)
                self._outages.failed(PART, self._endpoint.name, self._backoff.attempt, self._trouble)
            else:
                self._outages.back(PART, self._endpoint.name, self._backoff.attempt)
                return line

    def _failed(self, error: Exception) -> None:
        """A connection has failed, or could not be made."""
        self._trouble = str(error) if isinstance(error, BackendError) else repr(error)
        if isinstance(error, Deaf):
            self._count("redis_deaf")
            log.error("%s", error)
        elif not isinstance(error, BackendError):
            log.error("%s: the subscription failed, and is renewed", self._endpoint.name, exc_info=error)
