"""Servers of several workers, as processes of their own, and people who stay with them while workers come and go.

Answers for: knowing the workers of a server, who is with which of them, and what readers have missed. Refuses to know:
what is tested.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import queue
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
from tests.integration.commands import Running, running
from tests.integration.support import Client, client
from tests.serving import websocket_url
from tests.talking import Talker, talker
from websockets.exceptions import ConnectionClosed, InvalidHandshake

WORKERS = 4

#: Enough that each of four workers has some: without luck once in ten million runs.
CROWD = 64

#: Seconds for what must come, on any machine: the command is loaded once more than there are workers.
PATIENCE = 100.0

CONFIG = """
[server]
drain_time = {drain_time}
[broker]
url = "{url}"
[auth]
anonymous = true
[client]
ping_interval = 600
[api]
key = "k"
[channels.default]
delivery = "recent"
history_size = 10000
subscribe = "anyone"
"""


class Serving:
    """A running server of several workers."""

    def __init__(self, command: Running) -> None:
        self.command = command
        self.notes: list[str] = []
        while " listens on " not in (line := self._line()):
            self.notes.append(line)
        found = re.fullmatch(r"hubbub \S+ listens on (\S+) with (\d+) workers", line)
        assert found, line
        self.url, self.count = found[1], int(found[2])
        self.port = int(self.url.rpartition(":")[2]) if self.url.startswith("http") else 0

    def _line(self) -> str:
        """The next line, as soon as there is one; or what it says about why there is none."""
        for _ in range(int(PATIENCE)):
            try:
                return self.command.out.get(timeout=1)
            except queue.Empty:
                if self.command.process.poll() is not None:
                    break
        raise AssertionError(f"it does not listen: {self.notes}, {''.join(self.command.errors)}")

    def workers(self) -> set[int]:
        """The processes that serve."""
        return {each.pid for each in psutil.Process(self.command.process.pid).children(recursive=True)}

    def of(self, ports: set[int]) -> dict[int, set[int]]:
        """Which worker has which of these clients, told by the ports on the clients' side."""
        held: dict[int, set[int]] = {}
        for worker in self.workers():
            try:
                ends = psutil.Process(worker).net_connections("tcp")
            except psutil.NoSuchProcess:
                continue
            if mine := {end.raddr.port for end in ends if end.raddr} & ports:
                held[worker] = mine
        return held

    async def warned(self, text: str) -> str:
        """The next line on stderr with this text."""
        while True:
            line = await asyncio.to_thread(self.command.err.get, timeout=PATIENCE)
            if text in line:
                return line

    def send(self, number: int) -> None:
        self.command.process.send_signal(number)

    async def exit_code(self) -> int:
        return await asyncio.to_thread(self.command.process.wait, PATIENCE)

    async def publish(self, data: int) -> None:
        """Through whichever worker the system chooses; another one where that one is just killed."""
        body = json.dumps({"channel": "news", "data": data, "idempotency_key": str(data)})
        await asyncio.to_thread(self._publish, body)

    def _publish(self, body: str) -> None:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            try:
                connection.request("POST", "/api/publish", body, {"X-API-Key": "k"})
                answer = json.loads(connection.getresponse().read())
            except (http.client.HTTPException, OSError):
                continue
            finally:
                connection.close()
            assert "result" in answer, answer
            return


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Serving]:
    with running(folder, "serve", "--port", "0", *arguments) as command:
        yield Serving(command)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)


def have_ended(workers: set[int]) -> bool:
    """Also those that nobody has buried: who does that where their parent was killed is up to the machine."""
    for worker in workers:
        try:
            if psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            pass
    return True


def port_of(someone: Talker | Client) -> int:
    return int(someone.socket.local_address[1])


async def crowd(stack: AsyncExitStack, server: Serving, count: int = CROWD) -> list[Client]:
    """Clients that are subscribed."""
    clients = [await stack.enter_async_context(client(websocket_url(server.port))) for _ in range(count)]
    for each in clients:
        await each.call("subscribe", channel="news")
    return clients


class Reader:
    """Somebody who stays subscribed, comes back when sent away or cut, and says where it was.

    A `patient` one does not mind being refused on its way back.
    """

    def __init__(self, server: Serving, *, patient: bool) -> None:
        self.data: list[int] = []
        self.returns = 0
        self.port = 0
        self._server = server
        self._errors = (OSError, InvalidHandshake) if patient else ()
        self._since: dict[str, Any] = {}

    async def read(self) -> None:
        while True:
            try:
                async with talker(self._server.port) as talking:
                    await self._listen(talking)
            except ConnectionClosed:
                self.returns += 1
            except self._errors:
                await asyncio.sleep(0.05)

    async def _listen(self, talking: Talker) -> None:
        self.port = port_of(talking)
        await talking.call("connect")
        found = await talking.call("subscribe", channel="news", **self._since)
        assert not self._since or found["recovered"], found
        self._since = {
            "recover": True,
            "epoch": found["epoch"],
            "offset": self._since.get("offset", found.get("offset", 0)),
        }
        for publication in found.get("publications", ()):
            self._take(publication)
        while True:
            push = await talking.push()
            if "pub" in push:
                self._take(push["pub"])

    def _take(self, publication: dict[str, Any]) -> None:
        self._since["offset"] = publication["offset"]
        self.data.append(publication["data"])


@asynccontextmanager
async def readers(server: Serving, count: int, *, patient: bool = False) -> AsyncIterator[list[Reader]]:
    """Subscribed, for as long as this lasts; what goes wrong with one goes wrong here."""
    found = [Reader(server, patient=patient) for _ in range(count)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.read()) for each in found]
        await until(lambda: all(each._since for each in found))
        yield found
        for task in tasks:
            task.cancel()
