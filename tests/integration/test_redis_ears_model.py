"""Ears under random wishes while others publish, on real servers: what is wanted throughout is heard, exactly once.

What is clearly wanted: the wish was confirmed before the publication was sent, and stood when it was heard of. What is
clearly unwanted: nothing wanted it from before it was sent until after it must have come. Whatever is in between may go
either way, but never twice.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from fnmatch import fnmatchcase

import pytest
from tests.backends import RedisServer

from hubbub.clock import SystemClock
from hubbub.redis.dialing import dial
from hubbub.redis.subscription import Ears
from hubbub.redis.topology import endpoint_of
from hubbub.redis.wire import Wire

CHANNELS = ["a1", "a2", "b1", "b2"]
PATTERNS = ["a*", "*1", "?1", "b2", "*"]
ROUNDS = 150


class Model:
    """What is wanted for certain, and what may be. A wish is certain from its confirmation until it is called off."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.heard: Counter[str] = Counter()
        self.fence = asyncio.Event()
        self.ears: Ears
        self.publisher: Wire
        self.channels: set[str] = set()  # certain
        self.patterns: set[str] = set()
        self.possible: Counter[str] = Counter()  # names and patterns that are being changed
        self.ends = dict.fromkeys(CHANNELS, 0)  # times that a channel stopped being certainly wanted
        self.begins = dict.fromkeys(CHANNELS, 0)  # times that a wish for it came up
        self.must: dict[str, tuple[str, int]] = {}
        self.must_not: dict[str, tuple[str, int]] = {}
        self.number = 0

    def take(self, channel: str, data: bytes) -> None:
        if channel == "fence":
            self.fence.set()
        else:
            self.heard[f"{channel} {data.decode()}"] += 1

    def is_certain(self, channel: str) -> bool:
        return channel in self.channels or matches(channel, self.patterns)

    def is_possible(self, channel: str) -> bool:
        return self.is_certain(channel) or matches(channel, {name for name, count in self.possible.items() if count})

    def called_off(self, certain: set[str], names: set[str]) -> None:
        before = {channel for channel in CHANNELS if self.is_certain(channel)}
        certain -= names
        for channel in before:
            if not self.is_certain(channel):
                self.ends[channel] += 1

    async def wish(self) -> None:
        what, channel = self.chance.randrange(5), self.chance.choice(CHANNELS)
        if what < 2:
            self.begins[channel] += 1
            self.possible[channel] += 1
            await self.ears.subscribe(channel)
            self.channels.add(channel)
            self.possible[channel] -= 1
        elif what < 4:
            self.called_off(self.channels, {channel})
            await self.ears.unsubscribe(channel)
        else:
            await self.watch(set(self.chance.sample(PATTERNS, self.chance.randrange(3))))

    async def watch(self, patterns: set[str]) -> None:
        changing = patterns | self.patterns
        self.begins.update({each: self.begins[each] + 1 for each in CHANNELS if matches(each, patterns)})
        self.called_off(self.patterns, self.patterns - patterns)
        self.possible.update(changing)
        await self.ears.watch(patterns)
        self.patterns = patterns
        self.possible.subtract(changing)

    async def publish(self) -> None:
        channel = self.chance.choice(CHANNELS)
        self.number += 1
        text = f"{channel} {self.number}"
        is_certain, is_possible = self.is_certain(channel), self.is_possible(channel)
        ends, begins = self.ends[channel], self.begins[channel]
        await self.publisher.ask("PUBLISH", channel, str(self.number))
        if is_certain:
            self.must[text] = channel, ends
        elif not is_possible:
            self.must_not[text] = channel, begins

    async def settle(self) -> None:
        """Everything published so far has come."""
        await self.ears.subscribe("fence")
        self.fence.clear()
        await self.publisher.ask("PUBLISH", "fence", "")
        await self.fence.wait()
        for text, (channel, ends) in self.must.items():
            assert self.heard[text] == 1 or self.ends[channel] != ends, f"{text} was wanted throughout"
        for text, (channel, begins) in self.must_not.items():
            assert text not in self.heard or self.begins[channel] != begins, f"{text} was not wanted at all"
        self.must.clear()
        self.must_not.clear()

    async def run(self) -> None:
        for _ in range(ROUNDS):
            posts = [self.publish() for _ in range(self.chance.randrange(8))]
            if self.chance.random() < 0.5:
                await self.wish()
                await asyncio.gather(*posts)
                await self.settle()
            else:
                await asyncio.gather(self.wish(), *posts)
        await self.settle()


def matches(channel: str, patterns: set[str]) -> bool:
    return any(fnmatchcase(channel, pattern) for pattern in patterns)


@pytest.mark.parametrize("seed", range(4))
async def test_each_publication_is_heard_once_while_it_is_wanted(backend: RedisServer, seed: int) -> None:
    model = Model(seed)
    endpoint = endpoint_of(backend.url, client_name="model")
    model.publisher = await dial(endpoint, SystemClock())
    renewed: list[list[str]] = []
    model.ears = Ears(
        endpoint, clock=SystemClock(), on_message=model.take, on_renewed=renewed.append, deadline=20, probe_every=0.05
    )
    await model.ears.start()
    await model.run()
    assert not [text for text, count in model.heard.items() if count > 1]
    assert len(model.heard) > ROUNDS
    assert not renewed
    await model.ears.stop()
    model.publisher.sever(ConnectionAbortedError("done"))
