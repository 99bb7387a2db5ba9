"""A storm: nodes, a crowd, publishers, a Redis between them and a store below, and what has to hold once it is over.

Answers for: starting and ending all of it, each way from a node to Redis through a proxy of its own; `calm`, which
waits until everybody has everything and nobody is deaf; and the verdict on a round. Refuses to know: the faults.

The nodes are `hubbub serve` processes with an application that only tells what the process holds. Everything that
blocks runs in threads that live until the end: Linux ends a server with the thread that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.backends import Kind, RedisServer
from tests.databases import PostgresServer
from tests.storms.clients import Client
from tests.storms.disk import Disk, largest_file, limit_files, may_mount
from tests.storms.ledger import Ledger, Place
from tests.storms.places import Alone, Guarded, Node, Succession, database_beside
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
from tests.storms.remains import lasting_keys, leak, surplus_keys
from tests.storms.settings import (
    CONFIG,
    DURABLE,
    FACES,
    HANDLED,
    HISTORY_TTL,
    LATEST,
    LIVE,
    QUIET,
    RECENT,
    SECRET,
    Size,
    Store,
)
from tests.storms.verdict import Verdict

from hubbub.auth import mint

T = TypeVar("T")

#: Seconds within which it has to be calm again. A half-open connection is found in 10, and a loaded machine takes its
#: time; but after 40 seconds of silence a node compares heads anyway, and that may not be what helps.
BOUND = 35.0

#: Seconds that everybody has to come into the epoch of what was published last, before something else is published.
AGAIN = 5.0

#: Megabytes for the file of a store, and what else its folder holds.
FILE_DISK = 64

#: Seconds in which all of it has to be there, on any machine.
BEGIN = 120.0


class NotCalm(Exception):
    """It did not become calm in time; the text says what was missing."""


class Storm:
    """Use it as an async context manager; then `calm()` once, and rounds of faults."""

    def __init__(self, kind: Kind, *, size: Size, is_guarded: bool = False, store: Store = "postgresql") -> None:
        self.kind = kind
        self.size = size if store == "postgresql" else size._replace(nodes=1)
        self.has_file = store == "sqlite"
        self.succession = Succession(kind, self.thread) if is_guarded else None
        self._database = None if is_guarded or self.has_file else database_beside(kind)
        self._disk = Disk(FILE_DISK) if self.has_file and may_mount() else None
        self.ledger = Ledger()
        self.clients: list[Client] = []
        self.kicked: list[Client] = []
        self.nodes: list[Node] = []
        self.proxies: list[Proxy] = []  # one for each node, and the last one for the back end
        self.house: Alone | Guarded = Guarded(kind, self.thread) if is_guarded else Alone(kind)
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
        database = self.succession.server if self.succession is not None else self._database
        assert database is not None, "its store is a server"
        return database

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
        self._keys = await lasting_keys(self.redis_command)
        self._bound = BOUND

    async def _start_processes(self) -> None:
        await self.house.start(self.thread)
        if self._database is not None:
            await self.thread(self._database.make)
            await self.thread(self._database.start)
        if self.succession is not None:
            await self.succession.start()
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
        if self._database is not None:
            await self.thread(self._database.close)
        if self.succession is not None:
            await self.succession.close()
        if self._disk is not None:
            self._disk.close()
        self._threads.shutdown(wait=False)
        if not self.was_wrong:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _config(self, url: str) -> str:
        return CONFIG.format(url=url, store=self._store, secret=SECRET, key=API_KEY, ttl=HISTORY_TTL)

    @property
    def _store(self) -> str:
        if self.has_file:
            return f"sqlite:///{self._file_folder / 'storm.db'}"
        return self.succession.url if self.succession is not None else self.postgres.url()

    @property
    def _file_folder(self) -> Path:
        return self._disk.folder if self._disk is not None else self.folder

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
        has_backend = not self.has_file  # which is for the one process that serves it
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
            await self._all_have(places, within=within)

    async def others_go_on(self, *, within: float) -> None:
        """The same in the channels that the store has no part in."""
        self._marks += 1
        for number in range(len(self.nodes)):
            places: dict[str, Place] = {}
            for channel in RECENT:
                result = await self._surely(number, channel, f"mark{self._marks}-{number}-{channel}", within=within)
                places[channel] = Place(result["epoch"], result["offset"])
            await self._all_have(places, within=within)
            await self._live_arrives(number)

    async def durable_is_refused(self, why: str = "") -> None:
        """Publish in a durable channel until that is refused, and the node has said why: now, or not long ago, since it
        says it once a minute. Raises NotCalm.
        """
        told = "it is published"
        end = time.monotonic() + self._bound
        for number in itertools.count(1):
            what = f"mark{self._marks}-refused{number}-{'x' * 20_000}"  # it takes room
            try:
                await self._doors[0].ask("publish", channel=DURABLE[0], data=what)
            except Refusal as refusal:
                told = str(refusal)
                if "not published" in told and why in self.nodes[0].output:
                    return
            except Unanswered as error:
                told = str(error)
            if time.monotonic() > end:
                raise NotCalm(f"publishing is to be refused ({why}), and at last {told}")

    async def publishers_are_refused(self, count: int = 10) -> None:
        """Return when they were refused so many more."""

        def refused() -> int:
            return sum(self.ledger.outcomes[name] for name in ("refused", "repeated", "perhaps"))

        goal = refused() + count
        await self.until(lambda: refused() >= goal, lambda: "publishers are not refused")

    async def die_after_commit(self, number: int) -> dict[str, Place]:
        """Let a node end right after its next commit. Returns what it has committed, and told nobody."""
        node = self.nodes[number]
        while not node.has_ended:  # it may have no time for an answer; or what we asked on led to its former life
            with contextlib.suppress(Unanswered):
                await self._doors[number].ask("rpc", method="die_after_commit")
                break
            await asyncio.sleep(0.02)
        await self.until(lambda: node.has_ended, lambda: f"node {number} commits nothing")
        node.kill()
        channel, epoch, offset = node.output.rpartition("dies after the commit of ")[2].split()[:3]
        return {channel: Place(epoch, int(offset))}

    def have(self, clients: Iterable[Client], places: dict[str, Place]) -> bool:
        """Whether each of them got what stands at each of these."""
        return all(client.following[channel].has(place) for client in clients for channel, place in places.items())

    async def _all_have(self, places: dict[str, Place], *, within: float) -> None:
        await self.until(lambda: self.have(self.clients, places), lambda: f"not all have {places}", within=within)

    @property
    def has_disk(self) -> bool:
        """Whether the file of its store is on a small disk; else only the size of its node's files can be limited."""
        return self._disk is not None

    def fill_disk(self) -> None:
        """Leave no room where the file of the store is."""
        if self._disk is not None:
            self._disk.fill()
        else:
            limit_files(self.nodes[0].pid, largest_file(self._file_folder))

    def free_disk(self) -> None:
        """There is room again."""
        if self._disk is not None:
            self._disk.free()
        else:
            limit_files(self.nodes[0].pid)

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
        """Published through each node in turn, and heard by everybody. Once more where an epoch has changed since: what
        is published before a node finds out that its source was rolled back is told the old one.
        """
        end = time.monotonic() + self._bound
        while not await self._have_arrived(*await self._publish_marks(), end=end):
            pass
        await asyncio.gather(*(self._live_arrives(number) for number in range(len(self.nodes))))

    async def _publish_marks(self) -> tuple[dict[str, str], dict[str, Place]]:
        """The last one in each channel, and where its publisher was told that it is."""
        self._marks += 1
        marks: dict[str, str] = {}
        places: dict[str, Place] = {}
        for channel in (*RECENT, *DURABLE, QUIET, LATEST):
            for number in range(len(self.nodes)):
                mark = marks[channel] = f"mark{self._marks}-{number}-{channel}"
                result = await self._surely(number, channel, mark)
                places[channel] = Place(result["epoch"], result["offset"])
        return marks, places

    async def _have_arrived(self, marks: dict[str, str], places: dict[str, Place], *, end: float) -> bool:
        """Whether everybody stands there; False if somebody is in another epoch. Raises NotCalm."""

        def behind() -> Iterator[str]:
            for client in self.clients:
                for channel, follower in client.following.items():
                    if follower.place != places[channel]:
                        yield f"{client.user} in {channel}: {follower.place}, not {places[channel]}"
                if client.hearing[LATEST].last != marks[LATEST]:
                    yield f"{client.user} in {LATEST}: {client.hearing[LATEST].last}, not {marks[LATEST]}"
            yield from self._deaf_handlers(marks)

        def is_elsewhere() -> bool:
            followers = [(each.place, channel) for client in self.clients for channel, each in client.following.items()]
            return any(place is not None and place.epoch != places[channel].epoch for place, channel in followers)

        since = time.monotonic()
        while any(behind()):
            if time.monotonic() > end:
                raise NotCalm(f"not within {self._bound:g} s: {'; '.join(list(behind())[:8])}")
            if time.monotonic() > since + AGAIN and is_elsewhere():
                return False
            await asyncio.sleep(0.05)
        return True

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
        began_at = {channel: self.clients[0].following[channel].place for channel in (*DURABLE, QUIET)}
        for publisher in self._publishers:
            publisher.resume()
        try:
            await self.published()
            await fault(self)
            began = time.monotonic()
            await self.published()
            await self.calm()
            verdict.seconds_to_calm = time.monotonic() - began
            await self._read_store(began_at)
        except NotCalm as error:
            verdict.wrong.append(str(error))
        verdict.wrong += ledger.close(
            [follower for client in self.clients for follower in client.following.values()], may_lose=losses.stop > 1
        )
        verdict.wrong += self._wrong_losses(losses)
        if not verdict.wrong:
            verdict.wrong += [*await self._leaks(), *await surplus_keys(self.redis_command, self._keys)]
        verdict.slowest_answer, verdict.outcomes = ledger.slowest, dict(ledger.outcomes)
        verdict.durable, verdict.lost = ledger.acknowledged(), ledger.lost()
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

    async def _read_store(self, since: dict[str, Place | None]) -> None:
        """What durable channels hold beyond that, into the ledger: as any server reads it."""
        for channel, begin in since.items():
            now = self.clients[0].following[channel].place
            assert begin is not None and now is not None, "everybody was subscribed"  # noqa: PT018 - for the type
            since_then: dict[Place, str] = {}
            place = Place(now.epoch, begin.offset)
            while page := await self._page(channel, place):
                for publication in page:
                    place = Place(place.epoch, publication["offset"])
                    since_then[place] = publication["data"]
            self.ledger.keeps(channel, since_then)

    async def _page(self, channel: str, since: Place) -> list[dict[str, Any]]:
        try:
            result = await self._doors[-1].ask("history", channel=channel, limit=-1, since=since._asdict())
        except (Refusal, Unanswered) as error:
            raise NotCalm(f"the history of {channel} cannot be read: {error}") from error
        return list(result["publications"])

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
            while (surplus := leak(before, now, wanted)) and time.monotonic() < end:
                await asyncio.sleep(0.2)
                now = await self.holds(number)
            if surplus:
                leaks.append(f"node {number}: {surplus}")
        return leaks


@cache
def _beginning() -> asyncio.Semaphore:
    """Storms of one process begin one after the other: all at once would take each of them too long."""
    return asyncio.Semaphore(1)
