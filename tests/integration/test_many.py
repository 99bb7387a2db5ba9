"""Many clients of two servers on one Redis: all hear one sequence, and all know who is there, also after a crash."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from benchmarks.clients import Client, Crowd, command_frame, hello
from tests.backends import KINDS, Kind, RedisServer
from tests.serving import Served

from hubbub.auth import connection_token
from hubbub.brokers import envelope
from hubbub.brokers.base import INTERCOM, Announcement
from hubbub.core import orders

#: Clients on each of the two servers, and what each of four publishers says.
HALF, EACH = 500, 50

#: Seconds. A node that died has left nothing behind after this, by presence.redis.TTL; and for a loaded machine.
A_MINUTE, SLACK = 60.0, 30.0

CHANNEL, ROOM = "news:all", "room:1"

SECRET = "a secret of these tests, long enough for HMAC"

CONFIG = f"""
[server]
allowed_origins = ["*"]
[broker]
url = "{{url}}"
[client]
ping_interval = "10m"
[auth]
hmac_secret = "{SECRET}"
anonymous = true
[api]
key = "k"
[channels.news]
delivery = "recent"
history_size = 1000
subscribe = "anyone"
publish = "anyone"
[channels.room]
presence = true
subscribe = "user"
"""


class Mortal(Served):
    """A server that can crash."""

    def crash(self) -> None:
        """End with no chance to say so."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@contextmanager
def two_servers(url: str, folder: Path) -> Iterator[list[Mortal]]:
    """Two nodes of one application, which know each other."""
    with ExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (folder / name).mkdir(parents=True)
            servers.append(stack.enter_context(Mortal(CONFIG.format(url=url), folder / name)))
        for server in servers:
            until(lambda: len(ask(server, "info")["nodes"]) == 2, "they know each other")  # noqa: B023 - called at once
        yield servers


def ask(server: Served, operation: str, **request: object) -> Any:
    """An operation of the server API. The result; fails on an error."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SLACK)
    try:
        connection.request("POST", f"/api/{operation}", json.dumps(request), {"X-API-Key": "k"})
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return answer["result"]


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + SLACK
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


# one sequence --------------------------------------------------------------------------------------------------------


class Publisher:
    """Says EACH numbers in its own name: at most eight of them are under way, as from somebody who types fast."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.said = 0
        self.answered = 0
        self.client = Client(hello(), self._on_lines)

    def say(self, most: int = 8) -> None:
        """The next ones."""
        while self.said < EACH and self.said - self.answered < most:
            self.said += 1
            data = {"by": self.name, "number": self.said}
            publish = {"id": 1 + self.said, "publish": {"channel": CHANNEL, "data": data}}
            self.client.send(command_frame(publish))

    def _on_lines(self, client: Client, lines: list[bytes]) -> None:
        for reply in map(json.loads, lines):
            assert "error" not in reply, reply
            if "publish" in reply:
                self.answered += 1
                self.say()


@pytest.mark.timeout(180)
def test_a_thousand_subscribers_of_two_servers_see_one_sequence(redis_url: str, tmp_path: Path) -> None:
    heard: dict[Client, list[bytes]] = {}

    def hear(client: Client, lines: list[bytes]) -> None:
        heard[client] += [line for line in lines if line.startswith(b'{"push"')]

    with two_servers(redis_url, tmp_path) as servers, Crowd() as crowd:
        publishers = [Publisher(name) for name in ("a", "b", "c", "d")]
        for place, server in enumerate(servers):
            subscribers = [Client(hello(CHANNEL), hear) for _ in range(HALF)]
            heard |= {client: [] for client in subscribers}
            crowd.open(server.port, [*subscribers, *(one.client for one in publishers[place::2])])
        for publisher in publishers:
            publisher.say()

        total = EACH * len(publishers)
        crowd.until(lambda: all(len(lines) >= total for lines in heard.values()), "all have all", SLACK + A_MINUTE)
        crowd.until(lambda: all(one.answered == EACH for one in publishers), "each publish has its answer")
        crowd.during(0.2)  # and nothing comes twice

    sequences = {tuple(lines) for lines in heard.values()}
    assert len(heard) == 2 * HALF
    assert len(sequences) == 1, "all have the same bytes in the same order"
    publications = [json.loads(line)["push"]["pub"] for line in sequences.pop()]
    assert [publication["offset"] for publication in publications] == list(range(1, total + 1))
    for one in publishers:
        by = [publication["data"]["number"] for publication in publications if publication["data"]["by"] == one.name]
        assert by == list(range(1, EACH + 1)), "what one connection says keeps its order"
    changes = sum(a["data"]["by"] != b["data"]["by"] for a, b in itertools.pairwise(publications))
    assert changes >= 2 * len(publishers), "they spoke at the same time"


# who is there --------------------------------------------------------------------------------------------------------


class Spy:
    """Overhears what the nodes say to each other. Use it as a context manager."""

    def __init__(self, url: str) -> None:
        self.heard: list[orders.AnyOrder] = []
        self._ears: Any = redis.Redis.from_url(url).pubsub()  # type: ignore[no-untyped-call]
        self._thread: Any = None

    def __enter__(self) -> Spy:
        self._ears.psubscribe(**{f"{INTERCOM}*": self._hear})
        self._thread = self._ears.run_in_thread(sleep_time=0.05, daemon=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.stop()  # which closes its connection, too
        self._thread.join()

    def kinds(self) -> set[type]:
        """Of all orders so far."""
        return {type(order) for order in self.heard}

    def _hear(self, message: dict[str, Any]) -> None:
        said = envelope.read(message["data"])
        assert isinstance(said, Announcement)
        self.heard.append(orders.decode(said.publication.data))


class House:
    """Two servers on one Redis, and half of the users on each."""

    def __init__(self, kind: Kind, folder: Path, crowd: Crowd, stack: ExitStack) -> None:
        backend = stack.enter_context(RedisServer(kind))
        self.living, self.dying = self.servers = stack.enter_context(two_servers(backend.url, folder / kind))
        self.spy = stack.enter_context(Spy(backend.url))
        self.users: list[set[str]] = []
        for place, server in enumerate(self.servers):
            users = [f"user-{place}-{number}" for number in range(HALF)]
            crowd.open(server.port, [Client(greeting(user)) for user in users])
            self.users.append(set(users))

    def here(self, server: Served) -> set[str]:
        """Users, as that server knows them; each has one connection."""
        found = [info["user"] for info in ask(server, "presence", channel=ROOM)["presence"].values()]
        assert len(found) == len(set(found))
        stats = ask(server, "presence_stats", channel=ROOM)
        assert stats["num_users"] == stats["num_clients"]
        return set(found)

    def overhears_surveys(self) -> bool:
        """Whether the spy hears it when all nodes are asked."""
        ask(self.living, "channels")
        return {orders.Survey, orders.Tally} <= self.spy.kinds()

    def is_right(self) -> bool:
        """Whether those whom the crash has taken are gone. Those of the other server never are."""
        found = self.here(self.living)
        assert self.users[0] <= found <= self.users[0] | self.users[1]
        return found == self.users[0]


def greeting(user: str) -> bytes:
    """Of somebody who comes into the room."""
    connect = {"id": 1, "connect": {"token": connection_token(SECRET, user)}}
    return command_frame(connect, {"id": 2, "subscribe": {"channel": ROOM}})


@pytest.mark.timeout(300)
def test_presence_of_a_thousand_users_is_right_a_minute_after_a_crash_and_nobody_is_asked(tmp_path: Path) -> None:
    """On Redis and on Valkey at once: it is a minute that one has to wait, not one that costs anything."""
    with ExitStack() as stack:
        crowd = stack.enter_context(Crowd())
        houses = [House(kind, tmp_path, crowd, stack) for kind in KINDS]
        for house in houses:
            until(house.overhears_surveys, "the spy hears what nodes ask each other")
            house.spy.heard.clear()
            for server in house.servers:
                assert house.here(server) == house.users[0] | house.users[1]
        for house in houses:
            house.dying.crash()
            assert house.here(house.living) == house.users[0] | house.users[1], "nobody knows yet"
        end = time.monotonic() + A_MINUTE + SLACK
        waiting = list(houses)
        while waiting:
            assert time.monotonic() < end, "who died is still there"
            time.sleep(1.0)
            waiting = [house for house in waiting if not house.is_right()]
        for house in houses:
            assert len(ask(house.living, "info")["nodes"]) == 1
            assert house.spy.kinds() == {orders.Alive}, "nobody was asked"
