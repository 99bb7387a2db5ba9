"""Servers that are killed while they move what applications have committed: it is heard once, and in its order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.databases import Servers, postgres_servers, shared
from tests.serving import ROOT, leashed
from tests.talking import talker
from websockets.exceptions import ConnectionClosed

from hubbub import Hubbub

__all__ = ["postgres_servers"]

CONFIG = """
[store]
url = "{url}"
[auth]
anonymous = true
[channels.chat]
delivery = "durable"
subscribe = "anyone"
read = "anyone"
"""

#: Serves, and dies by its own hand with a row that says so: before the commit, or after it and before anybody hears.
DIES = """
import os, signal, sys
from hubbub import Hubbub
from hubbub.core.mailbox import Mailbox
from hubbub.server import Server
from hubbub.stores import postgresql_table

settle, on_committed = postgresql_table.settle, Mailbox.on_committed

async def before(connection, moved):
    await settle(connection, moved)
    if any(b"die before" in draft.publication.data for draft in moved.drafts):
        os.kill(os.getpid(), signal.SIGKILL)

def after(self, channel, publication, epoch):
    if b"die after" in publication.data:
        os.kill(os.getpid(), signal.SIGKILL)
    on_committed(self, channel, publication, epoch)

postgresql_table.settle, Mailbox.on_committed = before, after

async def ready(server):
    print("listens on", server.address, flush=True)

hub = Hubbub(config=sys.argv[1])
hub.override({"server.port": 0})
Server(hub, on_ready=ready).run()
"""

NORMAL = [sys.executable, "-m", "hubbub", "serve", "--port", "0", "--config"]


class House:
    """Servers on one database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.hub = Hubbub(store=url, channels={"chat": {"delivery": "durable"}})  # never started: it knows the rules
        self._config = folder / "hubbub.toml"
        self._config.write_text(CONFIG.format(url=url))
        self._processes: dict[int, subprocess.Popen[str]] = {}

    def start(self, command: list[str] | None = None) -> int:
        """One more; returns its port."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")}
        process = subprocess.Popen(
            leashed(*(command or NORMAL), self._config), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "listens on" in line:
                port = int(line.rpartition(":")[2])
                self._processes[port] = process
                return port
        raise AssertionError("it does not listen")

    def kill(self, port: int) -> None:
        """With -9."""
        with self._processes.pop(port) as process:
            process.send_signal(signal.SIGKILL)

    async def ended(self, port: int) -> None:
        """Return once that one has, by itself."""
        await asyncio.to_thread(self._processes[port].wait)

    def close(self) -> None:
        """All of them."""
        for port in list(self._processes):
            self.kill(port)

    async def write(self, connection: asyncpg.Connection[Any], *said: object) -> None:
        """One transaction."""
        async with connection.transaction():
            for each in said:
                await connection.execute(*self.hub.outbox("chat:1", each).asyncpg)


@pytest.fixture
def house(tmp_path: Path, postgres_servers: Servers) -> Iterator[House]:
    house = House(tmp_path, shared(postgres_servers, "postgres15").database())
    yield house
    house.close()


class Listener:
    """Comes back with its position to whichever server there is, and writes down what it hears."""

    def __init__(self, port: Callable[[], int]) -> None:
        self.log: list[Any] = []
        self._port = port
        self._epoch = ""
        self._changed = asyncio.Condition()

    async def until(self, count: int) -> None:
        """Return once it has heard so many."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.log) >= count)

    async def listen(self) -> None:
        """For ever."""
        while True:
            with contextlib.suppress(ConnectionClosed, OSError):
                await self._stay(self._port())
            await asyncio.sleep(0.05)

    async def _stay(self, port: int) -> None:
        async with talker(port) as person:
            await person.call("connect")
            at = {"recover": True, "offset": len(self.log), "epoch": self._epoch}
            reply = await person.call("subscribe", channel="chat:1", **at)
            assert reply["recovered"] or not self._epoch
            self._epoch = reply["epoch"]
            for publication in reply.get("publications", ()):
                await self._hear(publication)
            while True:
                await self._hear((await person.push())["pub"])

    async def _hear(self, publication: dict[str, Any]) -> None:
        assert publication["offset"] == len(self.log) + 1
        async with self._changed:
            self.log.append(publication["data"])
            self._changed.notify_all()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_around_the_commit_it_is_heard_once(house: House, when: str) -> None:
    port = await asyncio.to_thread(house.start, [sys.executable, "-c", DIES])
    listener = Listener(lambda: port)
    connection = await asyncpg.connect(house.url)
    async with asyncio.TaskGroup() as group:
        listening = group.create_task(listener.listen())
        await house.write(connection, "one", "two")
        await listener.until(2)
        await house.write(connection, "three", f"die {when}", "five")
        await house.ended(port)
        left = await connection.fetchval("SELECT count(*) FROM hubbub_outbox")
        assert left == (3 if when == "before" else 0)
        port = await asyncio.to_thread(house.start)
        await house.write(connection, "six")
        await listener.until(6)
        listening.cancel()
    assert listener.log == ["one", "two", "three", f"die {when}", "five", "six"]
    await connection.close()


@pytest.mark.timeout(240)
async def test_two_servers_killed_in_turn_lose_nothing_and_double_nothing(house: House) -> None:
    ports = [await asyncio.to_thread(house.start) for _ in range(2)]
    listeners = [Listener(lambda: random.choice(ports)) for _ in range(3)]
    committed: dict[str, list[Any]] = {name: [] for name in "abcd"}
    is_over = asyncio.Event()

    async def application(name: str) -> None:
        connection = await asyncpg.connect(house.url)
        number = 0
        while not is_over.is_set():
            said = [[name, number + each] for each in range(random.randint(1, 5))]
            number += len(said)
            with contextlib.suppress(ZeroDivisionError):
                async with connection.transaction():
                    for each in said:
                        await connection.execute(*house.hub.outbox("chat:1", each).asyncpg)
                    await asyncio.sleep(random.random() * 0.02)
                    if random.random() < 0.2:
                        raise ZeroDivisionError
                committed[name] += said
        await connection.close()

    async with asyncio.TaskGroup() as group:
        listening = [group.create_task(each.listen()) for each in listeners]
        applications = [group.create_task(application(name)) for name in committed]
        for turn in range(4):
            await listeners[turn % 3].until(len(listeners[turn % 3].log) + random.randint(20, 100))
            victim = ports[turn % 2]
            await asyncio.to_thread(house.kill, victim)
            ports[turn % 2] = await asyncio.to_thread(house.start)
        is_over.set()
        await asyncio.gather(*applications)
        total = sum(map(len, committed.values()))
        for each in listeners:
            await each.until(total)
        for task in listening:
            task.cancel()
    for each in listeners:
        assert each.log == listeners[0].log
        assert len(each.log) == total
    for name, said in committed.items():
        assert [each for each in listeners[0].log if each[0] == name] == said
