"""A storm: nodes, a crowd, publishers, a Redis between them and a store below, and what has to hold once it is over.

Answers for: starting and ending all of it, each way from a node to Redis through a proxy of its own; `calm`, which
waits until everybody has everything and nobody is deaf; and the verdict on a round. Refuses to know: the faults.

The nodes are `hubbub serve` processes with an application that only tells what the process holds. Everything that
blocks runs in threads that live until the end: Linux ends a server with the thread that started it.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

from tests.backends import Kind, RedisServer
from tests.databases import PostgresServer
from tests.storms.clients import Client
from tests.storms.ledger import Ledger, Place
from tests.storms.places import Alone, Guarded, Node, database_beside
from tests.storms.proxy import Proxy
from tests.storms.publishers import (
    API_KEY,
    ApiPublisher,
    Backend,
    Http,
    Publisher,
    PythonPublisher,
    Refusal,
    Unanswered,
    WebSocketPublisher,
)

from hubbub.auth import mint

T = TypeVar("T")

SECRET = "the secret of a storm, of 32 bytes"

#: Seconds within which it has to be calm again. A half-open connection is found in 10, and a loaded machine takes its
#: time; but after 40 seconds of silence a node compares heads anyway, and that may not be what helps.
BOUND = 35.0

#: Seconds in which all of it has to be there, on any machine.
BEGIN = 120.0

#: What a node may hold more than before: connections of publishers move between nodes, and timers run.
SLACK = {"tasks": 8, "files": 8}

#: Keys that go by themselves, and within how many milliseconds: names of publishes, and idempotency keys.
PASSING = {"storm:n:": 15_000, "storm:k:": 300_000}

_TIMES = """
local flat = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  flat[#flat + 1] = key
  flat[#flat + 1] = redis.call('PTTL', key)
end
return flat
"""

#: What a store can be: a server for all nodes, or the file of the only one.
Store = Literal["postgresql", "sqlite"]

#: Channels with memory, and in the store, of which a quiet one: where a node writes it sees what others have written.
#: Those without, and the one that keeps the newest.
RECENT = "recent:a", "recent:b", "recent:c"
DURABLE, QUIET = ("durable:a", "durable:b"), "durable:quiet"
LIVE, LATEST = "live:a", "latest:a"

#: How a back end speaks Python, and what its handlers listen to.
FACES = "asyncio", "sync"
HANDLED = RECENT[0], DURABLE[0]

#: Longer than any fault: what is kept may not be over when it is wanted.
HISTORY_TTL = "5m"

CONFIG = """
[broker]
url = "{url}"
name = "storm"
[store]
url = "{store}"
[server]
drain_time = 0
[auth]
hmac_secret = "{secret}"
[api]
key = "{key}"
[channels.recent]
delivery = "recent"
history_size = 100000
history_ttl = "{ttl}"
subscribe = "anyone"
publish = "anyone"
[channels.durable]
delivery = "durable"
subscribe = "anyone"
publish = "anyone"
[channels.live]
subscribe = "anyone"
publish = "anyone"
[channels.latest]
delivery = "latest"
history_ttl = "{ttl}"
subscribe = "anyone"
publish = "anyone"
"""


class Size(NamedTuple):
    """How large it is: `clients` in all, `rate` publications a second, of which `durable` of ten into the store."""

    nodes: int = 2
    clients: int = 60
    rate: float = 40.0
    durable: int = 3


class NotCalm(Exception):
    """It did not become calm in time; the text says what was missing."""


@dataclass
class Verdict:
    """One round."""

    fault: str
    kind: str
    wrong: list[str] = field(default_factory=list)
    seconds_to_calm: float = 0.0
    slowest_answer: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    durable: int = 0  # acknowledged publications in durable channels
    losses: dict[int, int] = field(default_factory=dict)
    reconnects: int = 0

    @property
    def text(self) -> str:
        """In one line, and one for each fault."""
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        losses = ", ".join(f"{count}x{losses}" for losses, count in sorted(self.losses.items()))
        head = (
            f"{'WRONG' if self.wrong else 'right'}  {self.fault} ({self.kind}): "
            f"calm after {self.seconds_to_calm:.1f} s; {outcomes}; "
            f"{self.durable} acknowledged in durable channels; slowest answer {self.slowest_answer:.1f} s; "
            f"losses told {losses}; {self.reconnects} reconnects"
        )
        return "\n    ".join([head, *self.wrong])


class Storm:
    """Use it as an async context manager; then `calm()` once, and rounds of faults."""

    def __init__(self, kind: Kind, *, size: Size, has_sentinels: bool = False, store: Store = "postgresql") -> None:
        self.kind = kind
        self.size = size if store == "postgresql" else size._replace(nodes=1)
        self.database = database_beside(kind) if store == "postgresql" else None
        self.ledger = Ledger()
        self.clients: list[Client] = []
        self.kicked: list[Client] = []
        self.nodes: list[Node] = []
        self.proxies: list[Proxy] = []  # one for each node, and the last one for the back end
        self.house: Alone | Guarded = Guarded(kind, self.thread) if has_sentinels else Alone(kind)
        self.folder = Path(tempfile.mkdtemp(prefix="hubbub-storm-"))
        self.now = "it begins"
        self._bound = BEGIN
        self.was_wrong = False  # then the logs are kept
        self._publishers: list[Publisher] = []
        self._backend: Backend | None = None
        self._doors: list[Http] = []
        self._heard: set[tuple[str, str]] = set()
        self._marks = 0
        self._stack = AsyncExitStack()
        self._threads = ThreadPoolExecutor(4)
        self._holds: list[dict[str, int]] = []
        self._keys: set[str] = set()
        self._newcomers = 0

    @property
    def redis(self) -> RedisServer:
        """The server that writes go to."""
        return self.house.primary

    @property
    def postgres(self) -> PostgresServer:
        """The server of the store."""
        assert self.database is not None, "its store is a server"
        return self.database

    @property
    def progress(self) -> str:
        """Where it stands, in some words."""
        inside = sum(client.is_in for client in self.clients)
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.ledger.outcomes.items()))
        losses = sum(follower.losses for follower in self.ledger.followers)
        return f"{self.now}: {outcomes}; {inside} of {len(self.clients)} clients are in, {losses} losses told"

    async def thread(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call what blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    # beginning and end ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            self.was_wrong = True
            sys.stderr.write(f"it could not begin; what the nodes said is in {self.folder}\n")
            await self.__aexit__()
            raise
        return self

    async def _begin(self) -> None:
        async with _beginning():
            await self._start_processes()
        await self._doors[0].ask("disconnect", user="nobody")  # an order between nodes has keys of its own
        await self.calm()
        self._holds = [await self.holds(number) for number in range(len(self.nodes))]
        self._keys = await self._lasting_keys()
        self._bound = BOUND

    async def _start_processes(self) -> None:
        await self.house.start(self.thread)
        if self.database is not None:
            await self.thread(self.database.make)
            await self.thread(self.database.start)
        urls = []
        for _ in range(self.size.nodes + 1):
            url = self.house.url
            if not url:
                proxy = await self._stack.enter_async_context(Proxy(self.redis.port))
                self.proxies.append(proxy)
                url = f"redis://127.0.0.1:{proxy.port}"
            urls.append(url)
        self.nodes = [
            Node(self.folder / f"node{number}.toml", self._config(url)) for number, url in enumerate(urls[:-1])
        ]
        await asyncio.gather(*(node.start() for node in self.nodes))
        self._doors = [Http(node.port) for node in self.nodes]
        for _ in range(self.size.clients):
            self.add_client()
        await self._crowd_is_in()
        await self._make_publishers(urls[-1])

    async def __aexit__(self, *error: object) -> None:
        await asyncio.gather(*(publisher.stop() for publisher in self._publishers))
        if self._backend is not None:
            await self._backend.stop()
        writers = [each.client for each in self._publishers if isinstance(each, WebSocketPublisher)]
        await asyncio.gather(*(client.leave() for client in (*self.clients, *self.kicked, *writers)))
        for door in self._doors:
            door.close()
        await asyncio.gather(*(node.stop() for node in self.nodes))
        await self._stack.aclose()
        await self.thread(self.house.close)
        if self.database is not None:
            await self.thread(self.database.close)
        self._threads.shutdown(wait=False)
        if not self.was_wrong:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _config(self, url: str) -> str:
        store = f"sqlite:///{self.folder / 'storm.db'}" if self.database is None else self.database.url()
        return CONFIG.format(url=url, store=store, secret=SECRET, key=API_KEY, ttl=HISTORY_TTL)

    def add_client(self) -> None:
        """One more, in all channels; the nodes in turn."""
        self._newcomers += 1
        client = self._client(f"u{self._newcomers}", self._newcomers)
        for channel in RECENT:
            client.follow(channel)
        for channel in (*DURABLE, QUIET):
            client.follow(channel, keeps_all=True)
        client.hear(LIVE, keeps_newest=False)
        client.hear(LATEST, keeps_newest=True)
        self.clients.append(client)
        client.start()

    def _client(self, user: str, number: int) -> Client:
        port = self.nodes[number % len(self.nodes)].port
        return Client(user, mint(SECRET, {"sub": user}), port, ledger=self.ledger)

    async def _make_publishers(self, url: str) -> None:
        ledger, channels = self.ledger, self._channels()
        has_backend = self.database is not None  # a file is for the one process that serves it
        pace = (2 * self.size.nodes + len(FACES) * has_backend) / self.size.rate
        for number, node in enumerate(self.nodes):
            writer = self._client(f"ws{number}", number)
            writer.start()
            self._publishers.append(WebSocketPublisher(writer, channels, ledger=ledger, pace=pace))
            ports = [each.port for each in (*self.nodes[number:], *self.nodes[:number])]
            self._publishers.append(ApiPublisher(f"api{number}", ports, channels, ledger=ledger, pace=pace))
            assert node.port in ports, "its own first"
        if has_backend:
            file = self.folder / "backend.toml"
            file.write_text(self._config(url))
            self._backend = Backend(file, on_heard=lambda face, what: self._heard.add((face, what)))
            await self._backend.start(*HANDLED)
            for face in FACES:
                self._publishers.append(PythonPublisher(face, self._backend, channels, ledger=ledger, pace=pace))
        for publisher in self._publishers:
            publisher.start()

    def _channels(self) -> list[str]:
        """To draw from, each as often as it is to be published into."""
        others, durable = (*RECENT, *RECENT, LIVE, LATEST), self.size.durable
        return [*(others * len(DURABLE) * (10 - durable)), *(DURABLE * len(others) * durable)]

    # what faults use ------------------------------------------------------------------------------------------------

    async def published(self, count: int = 25) -> None:
        """Return when so many more were acknowledged."""
        goal = self.ledger.outcomes["acknowledged"] + count
        await self.until(lambda: self.ledger.outcomes["acknowledged"] >= goal, lambda: "publishers get no answers")

    async def seconds(self, seconds: float) -> None:
        """Let it last."""
        await asyncio.sleep(seconds)

    async def durable_goes_on(self, *, within: float) -> None:
        """Publish through one node after the other in the durable channels, and return when everybody has heard all of
        it. What each node publishes is to be heard in so many seconds. Raises NotCalm.
        """
        self._marks += 1
        for number in range(len(self.nodes)):
            places: dict[str, Place] = {}
            for channel in (*DURABLE, QUIET):
                result = await self._surely(number, channel, f"mark{self._marks}-{number}-{channel}", within=within)
                places[channel] = Place(result["epoch"], result["offset"])
            await self.until(partial(self._have, places), lambda: f"not all have {places}", within=within)  # noqa: B023 - called at once

    def _have(self, places: dict[str, Place]) -> bool:
        return all(client.following[channel].has(place) for client in self.clients for channel, place in places.items())

    async def redis_command(self, *command: str | bytes | int) -> Any:
        """Say it to Redis, past the proxies."""
        return await self.thread(self.redis.command, *command)

    def forget_data(self) -> None:
        """What the Redis that has ended had written down is gone."""
        shutil.rmtree(self.redis.folder / "appendonlydir")

    async def kick(self, clients: list[Client], *, through: int) -> None:
        """Disconnect their users for good, by the HTTP API of one node, again until that is accepted."""
        for client in clients:
            self.clients.remove(client)
            self.kicked.append(client)
            while True:
                try:
                    await self._doors[through].ask("disconnect", user=client.user)
                    break
                except (Refusal, Unanswered):
                    await asyncio.sleep(0.2)

    def of_node(self, number: int) -> list[Client]:
        """Its clients."""
        return [client for client in self.clients if client.port == self.nodes[number].port]

    async def until(self, condition: Callable[[], bool], what: Callable[[], str], *, within: float = 0.0) -> None:
        """Wait for the thing, for so many seconds or as long as calm may take. Raises NotCalm."""
        bound = within or self._bound
        end = time.monotonic() + bound
        while not condition():
            if time.monotonic() > end:
                raise NotCalm(f"not within {bound:g} s: {what()}")
            await asyncio.sleep(0.05)

    # calm -----------------------------------------------------------------------------------------------------------

    async def calm(self) -> None:
        """Return when every call is answered, everybody has everything, and nobody is deaf. Raises NotCalm."""
        await asyncio.gather(*(publisher.pause() for publisher in self._publishers))
        await self._crowd_is_in()
        await self._fresh_ones_arrive()
        await self._kicked_are_gone()

    async def _crowd_is_in(self) -> None:
        def missing() -> list[str]:
            return [f"{each.user} ({each.goodbye}: {sorted(each.inside)})" for each in self.clients if not each.is_in]

        await self.until(lambda: not missing(), lambda: f"not subscribed: {missing()[:8]} of {len(missing())}")

    async def _fresh_ones_arrive(self) -> None:
        """Published through each node in turn, and heard by everybody."""
        self._marks += 1
        marks: dict[str, str] = {}
        places: dict[str, Place] = {}
        for channel in (*RECENT, *DURABLE, QUIET, LATEST):
            for number in range(len(self.nodes)):
                mark = marks[channel] = f"mark{self._marks}-{number}-{channel}"
                result = await self._surely(number, channel, mark)
                places[channel] = Place(result["epoch"], result["offset"])

        def behind() -> Iterator[str]:
            for client in self.clients:
                for channel, follower in client.following.items():
                    if follower.place != places[channel]:
                        yield f"{client.user} in {channel}: {follower.place}, not {places[channel]}"
                if client.hearing[LATEST].last != marks[LATEST]:
                    yield f"{client.user} in {LATEST}: {client.hearing[LATEST].last}, not {marks[LATEST]}"
            yield from self._deaf_handlers(marks)

        await self.until(lambda: not any(behind()), lambda: "; ".join(list(behind())[:8]))
        await asyncio.gather(*(self._live_arrives(number) for number in range(len(self.nodes))))

    def _deaf_handlers(self, marks: dict[str, str]) -> Iterator[str]:
        for face, channel in itertools.product(FACES, HANDLED) if self._backend is not None else ():
            if (face, marks[channel]) not in self._heard:
                yield f"the handler of the back end ({face}) in {channel}"

    async def _live_arrives(self, number: int) -> None:
        """What nothing keeps is published again and again, until each has heard one of these."""
        waiting = set(self.clients)
        end = time.monotonic() + self._bound
        tries = 0
        while waiting:
            tries += 1
            begin = f"mark{self._marks}-{number}-live-"
            await self._surely(number, LIVE, f"{begin}{tries}")
            for _ in range(20):
                waiting = {
                    each for each in waiting if not any(what.startswith(begin) for what in each.hearing[LIVE].seen)
                }
                if not waiting:
                    return
                await asyncio.sleep(0.05)
            if time.monotonic() > end:
                raise NotCalm(f"deaf in {LIVE}: {sorted(each.user for each in waiting)[:8]} of {len(waiting)}")

    async def _surely(self, number: int, channel: str, what: str, *, within: float = 0.0) -> dict[str, Any]:
        end = time.monotonic() + (within or self._bound)
        while True:
            try:
                return await self._doors[number].ask("publish", channel=channel, data=what, idempotency_key=what)
            except (Refusal, Unanswered) as error:
                if time.monotonic() > end:
                    raise NotCalm(f"node {number} does not publish: {error}") from error
                await asyncio.sleep(0.2)

    async def _kicked_are_gone(self) -> None:
        def here() -> list[str]:
            return [client.user for client in self.kicked if client.goodbye != 3503]

        await self.until(lambda: not here(), lambda: f"kicked, and still here: {here()}")

    # the verdict ----------------------------------------------------------------------------------------------------

    async def round(self, name: str, fault: Callable[[Storm], Awaitable[None]], *, losses: range) -> Verdict:
        """Let it blow once. `losses`: how many each follower may be told of."""
        verdict = Verdict(name, self.kind)
        self.now = name
        ledger = self.ledger
        await self._crowd_is_in()  # who has come in the place of those who were kicked, too
        ledger.begin()
        ledger.outcomes.clear()
        ledger.slowest = 0.0
        connects = {client.user: client.connects for client in self.clients}
        for publisher in self._publishers:
            publisher.resume()
        try:
            await self.published()
            await fault(self)
            began = time.monotonic()
            await self.published()
            await self.calm()
            verdict.seconds_to_calm = time.monotonic() - began
        except NotCalm as error:
            verdict.wrong.append(str(error))
        verdict.wrong += ledger.close(
            [follower for client in self.clients for follower in client.following.values()], may_lose=losses.stop > 1
        )
        verdict.wrong += self._wrong_losses(losses)
        if not verdict.wrong:
            verdict.wrong += [*await self._leaks(), *await self._surplus_keys()]
        verdict.slowest_answer, verdict.outcomes = ledger.slowest, dict(ledger.outcomes)
        verdict.durable = ledger.acknowledged()
        verdict.losses = dict(ledger.losses())
        verdict.reconnects = sum(client.connects - connects[client.user] for client in self.clients)
        if verdict.wrong:
            self.was_wrong = True
            verdict.wrong.append(f"what the nodes said is in {self.folder}")
        for _ in self.kicked:
            self.add_client()
        gone = {id(follower) for client in self.kicked for follower in client.following.values()}
        ledger.followers = [follower for follower in ledger.followers if id(follower) not in gone]
        self.kicked.clear()
        return verdict

    def _wrong_losses(self, losses: range) -> list[str]:
        followers = [each for client in self.clients for each in client.following.values()]
        wrong = [each for each in followers if not each.stream.keeps_all and each.losses not in losses]
        sent_away = [f"{client.user} was sent away with {client.goodbye}" for client in self.clients if client.goodbye]
        if wrong:
            told = Counter(each.losses for each in wrong)
            sent_away.append(f"told of losses {dict(told)} times, expected {list(losses)}; such as {wrong[0].who}")
        return sent_away

    async def holds(self, number: int) -> dict[str, int]:
        """What the process of a node holds."""
        result = await self._doors[number].ask("rpc", method="holds")
        info = await self._doors[number].ask("info")
        return {**result["data"], "clients": info["nodes"][0]["num_clients"]}

    async def _leaks(self) -> list[str]:
        """Nodes that hold more than at the start, and go on doing so."""
        leaks: list[str] = []
        for number, node in enumerate(self.nodes):
            before, now = self._holds[number], await self.holds(number)
            wanted = len(self.of_node(number)) + sum(
                isinstance(each, WebSocketPublisher) and each.client.port == node.port for each in self._publishers
            )
            end = time.monotonic() + self._bound
            while (leak := _leak(before, now, wanted)) and time.monotonic() < end:
                await asyncio.sleep(0.2)
                now = await self.holds(number)
            if leak:
                leaks.append(f"node {number}: {leak}")
        return leaks

    async def _times(self) -> dict[str, int]:
        """All keys, and how many milliseconds each has left; -1: for ever."""
        flat = await self.redis_command("EVAL", _TIMES, 0)
        return {_text(key): int(left) for key, left in zip(flat[::2], flat[1::2], strict=True)}

    async def _lasting_keys(self) -> set[str]:
        """The keys that stay. Names of publishes go by themselves, within 15 s; idempotency keys within 5 minutes."""
        return {key for key in await self._times() if not key.startswith(tuple(PASSING))}

    async def _surplus_keys(self) -> list[str]:
        times = await self._times()
        wrong = [f"key {key} has no TTL" for key, left in times.items() if left == -1]
        for prefix, most in PASSING.items():
            wrong += [f"key {key} lives for {left} ms" for key, left in times.items() if left > most and prefix in key]
        surplus = await self._lasting_keys() - self._keys
        return wrong + [f"there are more keys than at the start: {sorted(surplus)}"] * bool(surplus)


@cache
def _beginning() -> asyncio.Semaphore:
    """Storms of one process begin one after the other: all at once would take each of them too long."""
    return asyncio.Semaphore(1)


def _leak(before: dict[str, int], now: dict[str, int], clients: int) -> str:
    over = [name for name, slack in SLACK.items() if now[name] > before[name] + slack]
    if now["clients"] != clients:
        over.append("clients")
    return f"holds {now}, at the start {before}, and has {clients} clients" if over else ""


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)
