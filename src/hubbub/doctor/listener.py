"""A connection that listens, as nodes have one: whether it hears, and what it may listen to.

Answers for: the proof that publications arrive, and each way of subscribing tried once. Refuses to know: what is heard.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from hubbub.clock import Clock
from hubbub.doctor.findings import Finding
from hubbub.doctor.rights import channels_of, is_about_names
from hubbub.errors import BackendError
from hubbub.redis.line import Line
from hubbub.redis.pipeline import Pipeline
from hubbub.redis.topology import Endpoint
from hubbub.redis.wanted import Saying
from hubbub.redis.wire import RedisError

#: Seconds for one subscription, as nodes have it.
DEADLINE: Final = 2.0

_MESSAGE, _PATTERN = b"message", b"pmessage"


class Listener:
    """One line, from `open` to `close`. Probes go out through `pipeline`, as publications do."""

    def __init__(
        self, endpoint: Endpoint, pipeline: Pipeline, *, clock: Clock, on_message: Callable[[bytes, bytes], object]
    ) -> None:
        async def publish(channel: bytes, data: bytes) -> None:
            await pipeline.call("PUBLISH", channel, data)

        self._line = Line(endpoint, clock, publish=publish)
        self._on_message = on_message

    async def open(self) -> None:
        """Connect, and prove that it hears. Raises BackendError."""
        await self._line.open(self._push)

    def close(self) -> None:
        """End it. Idempotent."""
        self._line.close()

    async def subscribe(self, name: bytes, *, on: bool = True, is_pattern: bool = False) -> None:
        """Say one of the four commands. Raises RedisError when it is refused, BackendError when nobody answers."""
        try:
            async with asyncio.timeout(DEADLINE):
                await self._line.say(Saying(on, [name]), is_pattern=is_pattern)
        except TimeoutError:
            raise BackendError(f"{self._line.name}: a subscription was not confirmed within {DEADLINE:g} s") from None

    def _push(self, push: Sequence[Any]) -> None:
        if push[0] == _MESSAGE:
            self._line.probed(push[1], push[2])
            self._on_message(push[1], push[2])
        elif push[0] != _PATTERN:
            self._line.answered()


async def hearing(listener: Listener) -> Finding:
    """Whether what is published comes back on a subscription."""
    try:
        await listener.open()
    except BackendError as error:
        return Finding("hearing", "wrong", f"subscriptions hear nothing: {error}")
    return Finding("hearing", "ok", "what is published comes back on a subscription")


async def subscribing(
    listener: Listener, namespaces: Iterable[str], *, prefix: str, user: str, allow: str
) -> list[Finding]:
    """Whether this user may subscribe to the channels of the application and to patterns. Raises BackendError.

    `allow` is the command that lets `user`.
    """
    nonce = secrets.token_hex(8)
    refused: dict[str, None] = {}
    for namespace in namespaces:
        error = await _there_and_back(listener, f"{prefix}{namespace}:{nonce}", is_pattern=False)
        if error is not None:
            what = f"to channels such as {prefix}{namespace}:…" if is_about_names(error) else f"({error})"
            refused[what] = None
    findings = []
    if refused:
        seen = f"this user may not subscribe and unsubscribe {', '.join(refused)}"
        findings.append(Finding("channels", "wrong", seen, allow))
    error = await _there_and_back(listener, f"{prefix}{nonce}*", is_pattern=True)
    if error is not None:
        # What Redis asks for is this very pattern among those allowed, or all channels: `&app:*` is not enough.
        fix = f"if there are such handlers: ACL SETUSER {user} &* +psubscribe +punsubscribe"
        seen = f"handlers of patterns (`@hub.on` with a glob) and `hubbub sub` with one cannot listen: {error}"
        findings.append(Finding("patterns", "warning", seen, fix))
    return findings or [Finding("channels", "ok", f"this user may listen to {', '.join(channels_of(prefix))}")]


async def _there_and_back(listener: Listener, name: str, *, is_pattern: bool) -> RedisError | None:
    """Subscribe, and unsubscribe: what was refused."""
    try:
        await listener.subscribe(name.encode(), is_pattern=is_pattern)
        await listener.subscribe(name.encode(), on=False, is_pattern=is_pattern)
    except RedisError as error:
        return error
    return None
