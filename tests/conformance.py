"""Autobahn's cases, put to our WebSocket door: `python tests/conformance.py [--json]`.

Answers for: an echo behind the door as it is served, the cases of sections 1 to 7 and 10, and a verdict: it fails if
one case failed. Refuses to know: the client protocol. Left out: 9 (limits and speed: our limit is lower by intent), 12
and 13 (compression, which the door does not offer).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import kosoku
import uvicorn
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from hubbub.protocol.codec import Codec
from hubbub.protocol.frames import binary_frame, text_frame
from hubbub.transports.handshake import Gate
from hubbub.transports.upgrade import Http
from hubbub.transports.websocket import Socket, WebSocketDoor

LEFT_OUT = ["9.*", "12.*", "13.*"]

#: Autobahn's words for results that the RFC allows.
FINE = ("OK", "NON-STRICT", "INFORMATIONAL")


class Echo:
    """An endpoint that sends back what it gets."""

    def __init__(self, transport: Socket, codec: Codec) -> None:
        self._transport = transport

    def receive(self, message: bytes) -> None:
        self._transport.write([(binary_frame if self._transport.is_binary else text_frame)(message)])

    def paused(self) -> None:
        self._transport.pause_reading()

    def resumed(self) -> None:
        self._transport.resume_reading()

    def closed(self) -> None:
        pass


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """The door with an echo behind it; yields its port."""
    door = WebSocketDoor(Echo, path="/", gate=Gate(), max_message=16 << 20, write_budget=1 << 20, close_timeout=1)
    config = uvicorn.Config(
        _nothing,
        port=0,
        ws=door.upgrade,  # type: ignore[arg-type]  # as in hubbub.server
        http=Http,
        lifespan="off",
        log_config=None,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        for client in list(door.sockets):
            client.abort()
        await server.shutdown()


async def results() -> list[tuple[str, str, str]]:
    """Every case with what it and its close came to."""
    async with echoing() as port:
        try:
            cases = await kosoku.run_fuzzingclient(f"ws://127.0.0.1:{port}/", exclude_cases=LEFT_OUT, concurrency=4)
        except kosoku.FailureError as failure:
            cases = failure.results
    return [(case.case_id, case.behavior.value, case.behavior_close.value) for case in cases]


async def _nothing(scope: object, receive: object, send: object) -> None:
    raise NotImplementedError("there is nothing here but WebSockets")


def failed(found: Sequence[tuple[str, str, str]]) -> list[str]:
    """The cases that failed."""
    return [case for case, behavior, close in found if behavior not in FINE or close not in FINE]


def _table(found: Sequence[tuple[str, str, str]]) -> str:
    sections: dict[str, Counter[str]] = {}
    for case, behavior, _ in found:
        sections.setdefault(case.partition(".")[0], Counter())[behavior] += 1
    lines = [f"{'section':<8}" + "".join(f"{word:>15}" for word in (*FINE, "FAILED"))]
    for section, counts in sections.items():
        others = sum(counts.values()) - sum(counts[word] for word in FINE)
        lines.append(f"{section:<8}" + "".join(f"{counts[word]:>15}" for word in FINE) + f"{others:>15}")
    for case, behavior, close in found:
        if (behavior, close) != ("OK", "OK"):
            lines.append(f"{case:<8} {behavior}, its close {close}")
    return "\n".join([*lines, f"{len(found)} cases, {len(failed(found))} failed"])


def main(arguments: Sequence[str]) -> int:
    """Run all cases; returns the exit code."""
    logging.basicConfig(level=logging.WARNING)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the loop that is served on
        found = runner.run(results())
    print(json.dumps(found) if "--json" in arguments else _table(found))
    return 1 if failed(found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
