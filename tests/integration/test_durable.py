"""Durable channels of a real server, as clients see them: what was acknowledged is there, once and in order."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving import ROOT, leashed
from tests.talking import Refused, Talker, talker
from websockets.exceptions import ConnectionClosed

CONFIG = """
[store]
url = "sqlite:///{folder}/app.db"
[auth]
anonymous = true
[channels.chat]
delivery = "durable"
subscribe = "anyone"
publish = "anyone"
read = "anyone"
"""

#: Serves, and dies by its own hand right after the commit of a publication that says so, before anybody hears of it.
DIES = """
import os, signal, sys
from hubbub import Hubbub
from hubbub.core.mailbox import Mailbox
from hubbub.server import Server

on_committed = Mailbox.on_committed

def die(self, channel, publication, epoch):
    if b"die" in publication.data:
        os.kill(os.getpid(), signal.SIGKILL)
    on_committed(self, channel, publication, epoch)

Mailbox.on_committed = die

async def ready(server):
    print("listens on", server.address, flush=True)

hub = Hubbub(config=sys.argv[1])
hub.override({"server.port": 0})
Server(hub, on_ready=ready).run()
"""

NORMAL = [sys.executable, "-m", "hubbub", "serve", "--port", "0", "--config"]


class House:
    """One server after the other on the same file."""

    def __init__(self, folder: Path) -> None:
        self._config = folder / "hubbub.toml"
        self._config.write_text(CONFIG.format(folder=folder))
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def start(self, command: list[str] | None = None) -> int:
        """Another one; returns its port."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")}
        self._process = subprocess.Popen(
            leashed(*(command or NORMAL), self._config), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "listens on" in line:
                self.port = int(line.rpartition(":")[2])
                return self.port
        raise AssertionError("it does not listen")

    def kill(self) -> None:
        """With -9."""
        if self._process is not None:
            with self._process as process:
                process.send_signal(signal.SIGKILL)
            self._process = None


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.kill()


async def connected(person: Talker) -> Talker:
    await person.call("connect")
    return person


async def history(port: int) -> list[Any]:
    """All that the channel holds, read in pages as clients do."""
    found: list[Any] = []
    async with talker(port) as reader:
        await connected(reader)
        since: dict[str, Any] = {"offset": 0, "epoch": ""}
        while True:
            page = await reader.call("history", channel="chat:1", limit=-1, since=since)
            if not page.get("publications"):
                return found
            for publication in page["publications"]:
                assert publication["offset"] == len(found) + 1
                found.append(publication["data"])
            since = {"offset": len(found), "epoch": page["epoch"]}


async def test_a_batch_shares_commits_and_keeps_its_order(house: House) -> None:
    port = house.start()
    async with talker(port) as ann:
        await connected(ann)
        await ann.call("subscribe", channel="chat:1")
        commands = [{"id": 100 + n, "publish": {"channel": "chat:1", "data": n}} for n in range(200)]
        await ann.socket.send("\n".join(map(json.dumps, commands)))
        heard = [(await ann.push())["pub"] for _ in range(200)]
    assert [(each["offset"], each["data"]) for each in heard] == [(n + 1, n) for n in range(200)]
    assert await history(port) == list(range(200))


async def test_killed_between_commit_and_broadcast_it_is_heard_once(house: House, tmp_path: Path) -> None:
    port = house.start([sys.executable, "-c", DIES])
    async with talker(port) as ann, talker(port) as bob:
        await connected(bob)
        joined = await bob.call("subscribe", channel="chat:1")
        await connected(ann)
        await ann.call("publish", channel="chat:1", data="before")
        assert (await bob.push())["pub"]["data"] == "before"
        with pytest.raises(ConnectionClosed):
            await ann.call("publish", channel="chat:1", data="die")
        with pytest.raises(ConnectionClosed):
            await bob.push()
    house.kill()
    port = house.start()
    async with talker(port) as bob:
        await connected(bob)
        back = await bob.call("subscribe", channel="chat:1", recover=True, offset=1, epoch=joined["epoch"])
        assert back["recovered"] is True
        assert [each["data"] for each in back["publications"]] == ["die"]
        await bob.call("publish", channel="chat:1", data="after")
        assert (await bob.push())["pub"] == {"data": "after", "offset": 3, "info": await own_info(bob)}


async def own_info(person: Talker) -> Any:
    """What others see of it."""
    page = await person.call("history", channel="chat:1", limit=1, reverse=True)
    return page["publications"][0]["info"]


class Listener:
    """Comes back with its position, and writes down what it hears."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.epoch = ""
        self.is_lost = False
        self.is_in = asyncio.Event()
        self._has_heard = asyncio.Event()

    async def until(self, count: int) -> None:
        """Return once it has heard so many."""
        while len(self.log) < count:
            self._has_heard.clear()
            await self._has_heard.wait()

    async def listen(self, port: int) -> None:
        try:
            async with talker(port) as person:
                await connected(person)
                at = {"recover": True, "offset": len(self.log), "epoch": self.epoch}
                reply = await person.call("subscribe", channel="chat:1", **at)
                self.is_lost |= bool(self.epoch) and not reply["recovered"]
                self.epoch = reply["epoch"]
                for publication in reply.get("publications", ()):
                    self._hear(publication)
                self.is_in.set()
                while True:
                    self._hear((await person.push())["pub"])
        except (ConnectionClosed, OSError):
            self.is_in.clear()

    def _hear(self, publication: dict[str, Any]) -> None:
        assert publication["offset"] == len(self.log) + 1
        self.log.append(publication["data"])
        self._has_heard.set()


class Speaker:
    """Says its numbers one after the other, and knows which were acknowledged."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.acknowledged: list[Any] = []
        self._number = 0

    async def speak(self, port: int, *, until: asyncio.Event) -> None:
        try:
            async with talker(port) as person:
                await connected(person)
                while not until.is_set():
                    self._number += 1
                    said = [self.name, self._number]
                    await person.call("publish", channel="chat:1", data=said)
                    self.acknowledged.append(said)
        except (ConnectionClosed, OSError, Refused):
            pass


async def test_killed_again_and_again_nothing_acknowledged_is_lost_or_doubled(house: House) -> None:
    listeners = [Listener() for _ in range(3)]
    speakers = [Speaker(name) for name in "abcdef"]
    for _ in range(4):
        port = await asyncio.to_thread(house.start)
        ending = asyncio.Event()
        listening = [asyncio.create_task(each.listen(port)) for each in listeners]
        for each in listeners:
            await each.is_in.wait()
        speaking = [asyncio.create_task(each.speak(port, until=ending)) for each in speakers]
        await listeners[0].until(len(listeners[0].log) + random.randint(20, 200))
        await asyncio.to_thread(house.kill)
        await asyncio.gather(*speaking, *listening)
    port = await asyncio.to_thread(house.start)
    log = await history(port)
    listening = [asyncio.create_task(each.listen(port)) for each in listeners]
    for each in listeners:
        await each.is_in.wait()
        await each.until(len(log))  # more than a page comes in several
        assert each.log == log
        assert not each.is_lost
    for speaker in speakers:
        mine = [said for said in log if said[0] == speaker.name]
        assert [number for _, number in mine] == sorted({number for _, number in mine})  # in order, none twice
        assert [said for said in speaker.acknowledged if said not in mine] == []
        assert len(mine) <= len(speaker.acknowledged) + 4  # one at most was under way at each kill
    await asyncio.to_thread(house.kill)
    await asyncio.gather(*listening)
