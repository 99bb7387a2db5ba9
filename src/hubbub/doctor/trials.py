"""Trials of a Redis: how soon it answers, and what time it has.

Answers for: findings from commands that leave nothing behind. Refuses to know: which server it is, and its settings.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any, Final

from hubbub.brokers import scripts
from hubbub.clock import Clock
from hubbub.doctor.figures import unreadable
from hubbub.doctor.findings import Finding
from hubbub.redis.pipeline import Pipeline
from hubbub.redis.sieve import PROBES
from hubbub.redis.wire import RedisError

#: How often each is asked.
PINGS, PUBLISHES = 50, 20

#: Seconds, in the middle. In one data centre it is a thousandth; above this, clients wait noticeably: a publish takes a
#: round trip, a first subscription two or three.
SLOW: Final = 0.010
#: A subscription has two seconds for its round trips, a recovery five: above this they begin to fail.
TOO_SLOW: Final = 0.5
#: Seconds, the worst: the server was busy with something else for that long, and so were all that wait for it.
HELD_UP: Final = 0.250

#: Seconds. Tokens are compared with this machine's clock without a leeway, and have whole seconds.
CLOCK_OFF: Final = 1.0

#: Milliseconds that the stream of the trial lives, should nobody delete it.
_LIFE: Final = 15_000


async def answering(pipeline: Pipeline, clock: Clock) -> Finding:
    """How long a round trip takes."""
    return judged("round trip", f"{PINGS} PINGs", await _times(lambda: pipeline.call("PING"), PINGS, clock))


async def publishing(pipeline: Pipeline, clock: Clock, *, name: str) -> Finding:
    """How long the script of a publish takes, into a stream that is deleted then. Raises BackendError."""
    nonce = secrets.token_hex(8)
    channel = PROBES + nonce.encode()
    stream = channel.decode()
    keys = [f"{name}:m:{{{stream}}}", f"{name}:l:{{{stream}}}", f"{name}:n:{{{stream}}}:{nonce}"]
    arguments = (b"\x00{}", 1, _LIFE, channel, nonce, _LIFE // 1000, 1, "", "")

    try:
        times = await _times(lambda: pipeline.run(scripts.PUBLISH, keys, arguments), PUBLISHES, clock)
    finally:
        await pipeline.call("DEL", *keys)
    return judged("publishing", f"{PUBLISHES} publishes with history", times)


async def _times(ask: Callable[[], Awaitable[Any]], count: int, clock: Clock) -> list[float]:
    times = []
    for _ in range(count):
        before = clock.now()
        await ask()
        times.append(clock.now() - before)
    return times


def judged(subject: str, what: str, times: list[float]) -> Finding:
    """From how long each took, in seconds."""
    middle, worst = median(times), max(times)
    seen = f"{what}: median {middle * 1000:.2f} ms, worst {worst * 1000:.2f} ms"
    if middle >= TOO_SLOW:
        return Finding(subject, "wrong", f"{seen}: subscriptions and recoveries will run out of time", _NEARER)
    if middle >= SLOW:
        return Finding(subject, "warning", f"{seen}: whoever subscribes or publishes waits for it", _NEARER)
    if worst >= HELD_UP:
        fix = "look at SLOWLOG GET and LATENCY DOCTOR there; KEYS, large values and saving on a small machine do this"
        return Finding(subject, "warning", f"{seen}: something holds it up", fix)
    return Finding(subject, "ok", seen)


_NEARER = "a Redis in the same data centre as the nodes; if it is there, see how busy its CPU is"


async def clocks(pipeline: Pipeline, clock: Clock) -> Finding:
    """This machine's clock beside the server's."""
    before, monotonic = clock.time(), clock.now()
    try:
        seconds, micros = await pipeline.call("TIME")
    except RedisError as error:
        return unreadable("clock", str(error), "whether machines have the same time (NTP)")
    trip = clock.now() - monotonic
    return compared(int(seconds) + int(micros) / 1e6 - (before + trip / 2), trip)


def compared(ahead: float, trip: float) -> Finding:
    """Judge by how many seconds the server's clock is ahead of ours, as seen over a round trip of so many."""
    if abs(ahead) <= CLOCK_OFF + trip / 2:
        return Finding("clock", "ok", "the server's and this machine's agree")
    way = "ahead of" if ahead > 0 else "behind"
    return Finding(
        *("clock", "warning", f"the server's is {abs(ahead):.1f} s {way} this machine's: one of them is wrong"),
        "run NTP on both. By a node's clock tokens expire and revocations hold; presence goes by the server's alone",
    )
