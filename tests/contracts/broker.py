"""Small steps that the suites of sources and brokers share."""

from __future__ import annotations

from hubbub.brokers.base import Broker, StreamOptions
from hubbub.model import Position, Publication, Published

LIVE = StreamOptions()
KEPT = StreamOptions(size=100, ttl=60)


async def fill(broker: Broker, channel: str, count: int, options: StreamOptions = KEPT) -> None:
    """Publish `count` publications whose data is the number of each in this call."""
    for number in range(1, count + 1):
        await broker.publish(channel, Publication(b"%d" % number), options)


async def kept(broker: Broker, channel: str, after: int = 0) -> list[int]:
    """The offsets that can be read."""
    return [publication.offset for publication in (await broker.read(channel, after, 1000)).publications]


def position(published: Published) -> Position:
    assert published.position is not None
    return published.position
