"""A rolling restart: a process told to end, the next one on its port, and 500 clients that lose nothing silently.

With `memory://` streams end with their process: the next one has others, with another epoch, and every client that
comes back with a position is told that plainly. What was published before is another matter: whoever was still there
has all of it. (Two nodes with the same streams, where all recover: tests/unit/test_porter.py.)
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.clients import Client, Crowd, hello
from tests.serving import Served

CROWD = 500

#: Seconds from the signal until everybody is connected again. On an idle machine it takes four.
BOUND = 40

#: Seconds between two publications: the processes that start and leave shall have some of the machine, too.
PACE = 0.01

#: Publications, at least, between which they leave.
SPREAD = 20

CONFIG = """
[server]
drain_time = 3
allowed_origins = ["*"]
[auth]
anonymous = true
[api]
key = "k"
[channels.default]
delivery = "recent"
subscribe = "anyone"
"""


class Traveller:
    """One user of an SDK: here first, and when it is sent away, there."""

    def __init__(self) -> None:
        self.data: list[int] = []
        self.epoch = ""
        self.offset = 0
        self.subscribed: dict[str, Any] = {}
        self.client = Client(hello("news"), self._on_lines)

    def leave(self, crowd: Crowd) -> None:
        """Close, and be ready to come back with a position."""
        crowd.drop([self.client])
        self.client = Client(hello("news", recover=True, epoch=self.epoch, offset=self.offset), self._on_lines)

    def _on_lines(self, client: Client, lines: list[bytes]) -> None:
        for line in lines:
            message = json.loads(line)
            assert "error" not in message, message
            if "subscribe" in message:
                self.subscribed = message["subscribe"]
                self.epoch, self.offset = self.subscribed["epoch"], self.subscribed.get("offset", 0)
            elif "push" in message:
                publication = message["push"]["pub"]
                assert publication["offset"] == self.offset + 1
                self.offset = publication["offset"]
                self.data.append(publication["data"])


class Publisher:
    """Publishes 0, 1, 2 … over one keep-alive connection, which it never opens again."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port)
        self._http.auto_open = False
        self._http.connect()
        self.acknowledged = 0

    def publish(self) -> bool:
        """One more. False when the process is gone: that one was not acknowledged."""
        body = json.dumps({"channel": "news", "data": self.acknowledged})
        try:
            answer = self._ask("POST", "/api/publish", body)
        except (http.client.HTTPException, OSError):
            return False
        assert "result" in json.loads(answer.read()), "it is served until the end"
        self.acknowledged += 1
        return True

    def is_ready(self) -> bool:
        """What a load balancer asks."""
        answer = self._ask("GET", "/ready", None)
        answer.read()
        return answer.status == 200

    def clients(self) -> int:
        """How many the process has."""
        answer = json.loads(self._ask("POST", "/api/info", "{}").read())
        return int(answer["result"]["nodes"][0]["num_clients"])

    def close(self) -> None:
        self._http.close()

    def _ask(self, method: str, path: str, body: str | None) -> http.client.HTTPResponse:
        self._http.request(method, path, body, {"X-API-Key": "k"})
        return self._http.getresponse()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Successor:
    """The next process on the port, which starts as soon as the port is free."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        self.port = port
        self._served = Served(CONFIG, folder, port=port)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        """From start to end, since processes on a leash die with the thread that started them."""
        while is_listening(self.port) and not self._is_over.is_set():
            time.sleep(0.005)
        with self._served:
            self._is_over.wait()

    def __enter__(self) -> Successor:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def is_up(self) -> bool:
        """Whether it listens."""
        return bool(self._served.port)


@pytest.fixture
def crowds() -> Iterator[tuple[Crowd, Crowd]]:
    with Crowd() as here, Crowd() as there:
        yield here, there


def read_all(crowd: Crowd) -> None:
    """Everything that has come so far."""
    while crowd.epoll.poll(0):
        crowd.poll(0)


@pytest.mark.timeout(90)
def test_five_hundred_clients_go_to_the_next_process(tmp_path: Path, crowds: tuple[Crowd, Crowd]) -> None:
    here, there = crowds
    travellers = [Traveller() for _ in range(CROWD)]
    with Served(CONFIG, tmp_path) as first:
        here.open(first.port, [each.client for each in travellers])
        publisher = Publisher(first.port)
        assert publisher.is_ready()
        publisher.publish()
        here.until(lambda: all(each.data == [0] for each in travellers), "everybody has what there is")
        epoch = travellers[0].epoch

        with Successor(tmp_path / "next", first.port) as successor:
            assert first._process is not None
            os.kill(first._process.pid, signal.SIGTERM)
            left_after = leave(travellers, publisher, here, there, successor)
            assert first._process.wait(10) == 0
            publisher.close()

            assert len(set(left_after)) >= SPREAD, "they left at so many different times"
            for each in travellers:
                assert each.data == list(range(len(each.data)))
                assert each.subscribed["was_recovering"]
                assert not each.subscribed.get("recovered")
                assert each.epoch != epoch

            publisher = Publisher(successor.port)
            assert publisher.clients() == CROWD
            before = {each: list(each.data) for each in travellers}
            publisher.publish()
            there.until(lambda: all(each.data == [*before[each], 0] for each in travellers), "they listen again")
            publisher.close()


def leave(
    travellers: list[Traveller], publisher: Publisher, here: Crowd, there: Crowd, successor: Successor
) -> list[int]:
    """Publish until the first process is gone, and let everybody whom it sends away go to the second.

    Returns after how many publications each of them was seen to go.
    """
    staying = dict.fromkeys(travellers, publisher.acknowledged)  # with what was acknowledged when last seen here
    waiting: list[Traveller] = []
    left_after: list[int] = []
    deadline = time.monotonic() + BOUND
    is_published = True
    while staying or waiting or is_published:
        assert time.monotonic() < deadline, f"{len(staying)} are still here, {len(waiting)} not yet there"
        is_published = is_published and publisher.publish()
        time.sleep(PACE)
        read_all(here)
        for each in list(staying):
            if not each.client.close_code:
                staying[each] = publisher.acknowledged
                continue
            assert each.client.close_code == 3001
            assert len(each.data) >= staying.pop(each), "it has all that was acknowledged before it went"
            left_after.append(publisher.acknowledged)
            if len(left_after) == 1:
                assert not publisher.is_ready()
            each.leave(here)
            waiting.append(each)
        if successor.is_up and waiting:
            there.open(successor.port, [each.client for each in waiting])
            waiting.clear()
    return left_after
