"""A back-end process of a storm: `python -m tests.storms.backend CONFIG CHANNEL...`.

Answers for: publishing what it is told on stdin ([face, what, channel, idempotency key], a line each, many at a time),
with `hubbub.Hubbub` or from a thread with `hubbub.sync.Hubbub`, and telling on stdout what came of it and what
handlers of the channels hear on each. Refuses to know: why.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from hubbub import BackendError, Hubbub, Publication, Published, sync

_saying = threading.Lock()


def say(**words: object) -> None:
    """One line, in one piece: there are threads, and a pipe takes apart what is longer than a page."""
    line = json.dumps(words).encode() + b"\n"
    with _saying:
        while line:
            line = line[os.write(1, line) :]


class Faces:
    """Both of them on the same settings, each with a handler of every one of `channels`."""

    def __init__(self, config: str, channels: Sequence[str]) -> None:
        self.asyncio = Hubbub(config=config)
        self.sync = sync.Hubbub(config=config)
        for channel in channels:
            self.asyncio.on(channel)(self.hear)
            self.sync.on(channel)(self.hear_in_a_thread)

    async def hear(self, publication: Publication[Any]) -> None:
        say(face="asyncio", heard=publication.data)

    def hear_in_a_thread(self, publication: Publication[Any]) -> None:
        say(face="sync", heard=publication.data)

    async def publish(self, face: str, what: str, channel: str, key: str) -> None:
        try:
            published = await self._publish(face, what, channel, key)
        except BackendError as error:
            say(what=what, error=str(error), is_retry_safe=getattr(error, "is_retry_safe", None))
        else:
            position = published.position
            say(what=what, epoch=position.epoch if position else "", offset=position.offset if position else 0)

    async def _publish(self, face: str, what: str, channel: str, key: str) -> Published:
        if face == "asyncio":
            return await self.asyncio.publish(channel, what, idempotency_key=key)
        return await asyncio.to_thread(self.sync.publish, channel, what, idempotency_key=key)


async def main(config: str, *channels: str) -> None:
    faces = Faces(config, channels)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await asyncio.to_thread(faces.sync.start)
    async with faces.asyncio, asyncio.TaskGroup() as calls:
        say(ready=True)
        async for line in reader:
            calls.create_task(faces.publish(*json.loads(line)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
