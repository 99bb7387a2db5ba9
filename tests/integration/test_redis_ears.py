"""The subscriber against real servers that are killed, stalled, cut off and configured badly: it is never deaf."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from tests.backends import RedisServer, free_port
from tests.integration.redis_support import PATIENCE

from hubbub.clock import SystemClock
from hubbub.core import eager
from hubbub.errors import BackendError
from hubbub.redis.line import Line
from hubbub.redis.subscription import Ears
from hubbub.redis.topology import endpoint_of

Publish = Callable[[bytes, bytes], Awaitable[object]]


class Listener:
    """Ears, and what they were told."""

    def __init__(self, url: str, *, publish: Publish | None = None, deadline: float = 10.0) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.renewed: list[list[str]] = []
        self.counts: Counter[str] = Counter()
        self.ears = Ears(
            endpoint_of(url, client_name="ears"),
            clock=SystemClock(),
            on_message=self.take,
            on_renewed=self.renewed.append,
            count=lambda event: self.counts.update([event]),
            publish=publish,
            deadline=deadline,
            probe_every=0.2,
        )

    def take(self, channel: str, data: bytes) -> None:
        self.heard.append((channel, data))
        if data == b"poison":
            raise RuntimeError("poisoned")

    async def hears(self, server: RedisServer, channel: str, data: str = "again") -> None:
        """Return when a publication of now has come."""
        await said(server, "PUBLISH", channel, data)
        await until(lambda: (channel, data.encode()) in self.heard)


@contextlib.asynccontextmanager
async def listening(url: str, *channels: str, **options: Any) -> AsyncIterator[Listener]:
    listener = Listener(url, **options)
    await listener.ears.start()
    try:
        await asyncio.gather(*map(listener.ears.subscribe, channels))
        yield listener
    finally:
        await listener.ears.stop()


async def until(happened: Callable[[], object]) -> None:
    """The test's own timeout is the limit."""
    while not happened():  # noqa: ASYNC110  # conditions of many kinds, each seen by looking
        await asyncio.sleep(0.01)


async def said(server: RedisServer, *command: str | bytes | int | float) -> Any:
    return await asyncio.to_thread(server.command, *command)


class Cable:
    """What lies between client and server. `freeze`: open connections carry nothing more. `mute`: no publications."""

    PUBLICATION = re.compile(rb">3\r\n\$7\r\nmessage\r\n\$\d+\r\n[^\r]*\r\n\$\d+\r\n[^\r]*\r\n")

    def __init__(self, port: int) -> None:
        self.port = port
        self.frozen: set[int] = set()
        self.muted: set[int] = set()
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_server = await asyncio.open_connection("127.0.0.1", self.port)
        self.connections += 1
        for pair in ((reader, to_server, False), (upstream, writer, True)):
            task = asyncio.create_task(self._carry(*pair, number=self.connections))
            self._tasks.add(task)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_down: bool, *, number: int
    ) -> None:
        try:
            while data := await reader.read(65536):
                if number in self.frozen:
                    await asyncio.Event().wait()
                if is_down and number in self.muted:
                    data = self.PUBLICATION.sub(b"", data)
                writer.write(data)
        finally:
            writer.close()


async def test_what_is_published_is_heard_until_unsubscribed(backend: RedisServer) -> None:
    async with listening(backend.url, "a", "smörgås:☃") as listener:
        await said(backend, "PUBLISH", "a", b"\x00\xff\r\n")
        await said(backend, "PUBLISH", "b", "not asked for")
        await said(backend, "PUBLISH", "smörgås:☃", "2")
        await until(lambda: len(listener.heard) == 2)
        await listener.ears.unsubscribe("a")
        await said(backend, "PUBLISH", "a", "gone")
        await listener.hears(backend, "smörgås:☃", "3")
    assert listener.heard == [("a", b"\x00\xff\r\n"), ("smörgås:☃", b"2"), ("smörgås:☃", b"3")]
    assert listener.renewed == []
    assert not listener.counts


async def test_channels_of_one_turn_share_commands(own_backend: RedisServer) -> None:
    async with listening(own_backend.url, *(f"c{number}" for number in range(1100))) as listener:
        calls = (await said(own_backend, "INFO", "commandstats"))["cmdstat_subscribe"]["calls"]
        assert calls == 1 + 3  # the probe's, and 512 names a command
        await listener.hears(own_backend, "c1099")


async def test_who_leaves_and_returns_at_once_hears(backend: RedisServer) -> None:
    async with listening(backend.url) as listener:
        for number in range(30):
            first = asyncio.create_task(listener.ears.subscribe("c"))
            if number % 2:
                await asyncio.sleep(0)
            await listener.ears.unsubscribe("c")
            if number % 3:
                await asyncio.sleep(0)
            await asyncio.gather(first, listener.ears.subscribe("c"))
            assert await said(backend, "PUBLISH", "c", f"{number}") == 1
            await until(lambda: len(listener.heard) > number)  # noqa: B023  # awaited within the turn
        assert len(listener.heard) == 30


async def test_pubsub_clients_killed_are_back_and_every_channel_gets_word(own_backend: RedisServer) -> None:
    names = [f"c{number}" for number in range(600)]
    async with listening(own_backend.url, *names, "left") as listener:
        await listener.ears.unsubscribe("left")
        for round in range(3):
            await said(own_backend, "CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: len(listener.renewed) == round + 1)  # noqa: B023  # awaited within the turn
            assert sorted(listener.renewed[-1]) == sorted(names)
            await listener.hears(own_backend, "c599", f"{round}")
        assert listener.counts["redis_reconnect"] == 3


async def test_a_publication_of_33_megabytes_deafens_nobody(own_backend: RedisServer) -> None:
    async with listening(own_backend.url, "big", "small") as listener:
        await said(own_backend, "PUBLISH", "big", b"x" * (33 << 20))
        # Redis cuts its listeners off; Valkey does not count what it sends without copying.
        await until(lambda: listener.renewed or listener.heard)
        if own_backend.kind == "redis":
            assert sorted(*listener.renewed) == ["big", "small"]
        await listener.hears(own_backend, "small")


async def test_a_server_that_restarts_is_heard_again(own_backend: RedisServer) -> None:
    async with listening(own_backend.url, "a", "b", deadline=0.3) as listener:
        own_backend.stop()
        await until(lambda: not listener.ears.is_connected)
        for subscribe in (listener.ears.subscribe("late"), listener.ears.watch(["l*"])):
            with pytest.raises(BackendError, match=r"not confirmed within 0\.3 s"):
                await subscribe
        with pytest.raises(BackendError):
            await listener.ears.subscribe("a")  # what was promised stays promised
        await listener.ears.unsubscribe("b")
        own_backend.start()
        await until(lambda: listener.renewed)
        assert listener.renewed == [["a"]]
        await listener.hears(own_backend, "a")
        assert await said(own_backend, "PUBLISH", "late", "x") == 0
        assert await said(own_backend, "PUBLISH", "b", "x") == 0


async def test_a_stalled_server_is_left_and_found_again(own_backend: RedisServer) -> None:
    async with listening(own_backend.url, "a") as listener:
        own_backend.pause()
        await until(lambda: not listener.ears.is_connected)
        own_backend.resume()
        await until(lambda: listener.renewed)
        await listener.hears(own_backend, "a")
        assert listener.counts["redis_deaf"] == 0


async def test_a_half_open_connection_is_found(backend: RedisServer) -> None:
    cable = Cable(backend.port)
    async with cable as url, listening(url, "a") as listener:
        cable.frozen.add(1)
        await until(lambda: listener.renewed)
        assert listener.renewed == [["a"]]
        await listener.hears(backend, "a")


async def test_a_connection_that_answers_and_carries_no_publications_is_found(backend: RedisServer) -> None:
    cable = Cable(backend.port)
    async with cable as url, listening(url, "a") as listener:
        cable.muted.add(1)
        await until(lambda: listener.renewed)
        assert listener.renewed == [["a"]]
        assert listener.counts["redis_deaf"] == 1
        await listener.hears(backend, "a")


async def test_a_connection_to_another_server_than_the_publishers_is_found(
    redis_server: RedisServer, own_backend: RedisServer
) -> None:
    target = own_backend

    async def publish(channel: bytes, data: bytes) -> None:
        await said(target, "PUBLISH", channel, data)

    async with listening(own_backend.url, "a", publish=publish) as listener:
        target = redis_server
        await until(lambda: listener.counts["redis_deaf"])
        target = own_backend
        await until(lambda: listener.renewed)
        await listener.hears(own_backend, "a")


async def test_where_publishers_cannot_publish_the_connection_probes_itself(backend: RedisServer) -> None:
    tries = 0

    async def publish(channel: bytes, data: bytes) -> None:
        nonlocal tries
        tries += 1
        raise BackendError("down")

    async with listening(backend.url, "a", publish=publish) as listener:
        await until(lambda: tries > 3)
        assert listener.ears.is_connected
        assert not listener.counts


async def test_a_forbidden_channel_is_refused_and_takes_nobody_with_it(own_backend: RedisServer) -> None:
    rights = ("ACL", "SETUSER", "ann", "on", ">secret", "+@all", "~*", "resetchannels", "&ok*", "&hubbub:probe:*")
    await said(own_backend, *rights)
    url = own_backend.url.replace("://", "://ann:secret@")
    async with listening(url) as listener:
        names = ["ok1", "no1", "ok2", "no2"]
        ends = await asyncio.gather(*map(listener.ears.subscribe, names), return_exceptions=True)
        assert [end is None for end in ends] == [True, False, True, False]
        assert isinstance(ends[1], BackendError)
        assert "refuses the subscription to 'no1': NOPERM" in str(ends[1])
        assert listener.counts["redis_refused"] == 2
        await listener.ears.watch(["ok*"])
        with pytest.raises(BackendError, match="NOPERM"):
            await listener.ears.watch(["n*"])
        await listener.hears(own_backend, "ok3")  # the patterns of the call before
        await listener.hears(own_backend, "ok2")


async def test_a_channel_forbidden_later_comes_back_with_word_when_it_is_allowed_again(
    own_backend: RedisServer,
) -> None:
    async with listening(own_backend.url, "a", "b") as listener:
        await said(own_backend, "ACL", "SETUSER", "default", "resetchannels", "&b", "&hubbub:probe:*")
        await until(lambda: listener.renewed)
        assert listener.renewed == [["b"]]
        assert listener.counts["redis_refused"] >= 1
        await said(own_backend, "ACL", "SETUSER", "default", "allchannels")
        await until(lambda: len(listener.renewed) == 2)
        assert listener.renewed[1] == ["a"]
        await listener.hears(own_backend, "a")


async def test_a_user_who_may_not_probe_is_told_at_the_start(own_backend: RedisServer) -> None:
    await said(own_backend, "ACL", "SETUSER", "ann", "on", ">secret", "+@all", "~*", "resetchannels", "&ok*")
    listener = Listener(own_backend.url.replace("://", "://ann:secret@"))
    with pytest.raises(BackendError, match=r"ACL SETUSER <user> &hubbub:probe:\*"):
        await listener.ears.start()


async def test_no_server_is_an_error_at_the_start_and_nothing_is_left(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(BackendError):
        await listener.ears.start()
    await listener.ears.stop()
    with pytest.raises(BackendError, match="it is not started"):
        await listener.ears.subscribe("a")


async def test_what_the_listener_raises_harms_no_other_publication(
    backend: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(backend.url, "a", "b") as listener:
        await said(backend, "PUBLISH", "a", "poison")
        await listener.hears(backend, "b")
        await listener.hears(backend, "a")
        assert listener.counts == {"redis_message_failed": 1}
        assert "what was heard in channel 'a' could not be taken" in caplog.text
        assert listener.renewed == []


async def test_patterns_are_replaced_and_bring_each_publication_once(backend: RedisServer) -> None:
    async with listening(backend.url, "a1") as listener, listening(backend.url) as other:
        await listener.ears.watch(["a*", "*1", "[ab]?"])
        for channel in ("a1", "a1", "b1", "b1", "c2", "a1"):
            await said(backend, "PUBLISH", channel, "same")
        await listener.hears(backend, "a1", "end")
        assert [channel for channel, _ in listener.heard] == ["a1", "a1", "b1", "b1", "a1", "a1"]
        await listener.ears.unsubscribe("a1")
        await listener.ears.watch(["*1"])
        await asyncio.gather(listener.ears.watch([]), listener.ears.watch(["x*"]), listener.ears.watch(["c*"]))
        for channel in ("a1", "x1"):
            await said(backend, "PUBLISH", channel, "unwanted")
        await listener.hears(backend, "c2", "end")
        assert not [data for _, data in listener.heard if data == b"unwanted"]
        await listener.ears.watch(["*"])
        await other.ears.watch(["*"])
        await listener.hears(backend, "z", "end")
        assert not [channel for channel, _ in listener.heard + other.heard if channel.startswith("hubbub:")]


async def test_stopping_ends_all_waits(own_backend: RedisServer) -> None:
    async with listening(own_backend.url, "a") as listener:
        own_backend.pause()
        waits = [asyncio.create_task(listener.ears.subscribe(f"c{number}")) for number in range(3)]
        await asyncio.sleep(0)
        await listener.ears.stop()
        own_backend.resume()
        ends = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(end) for end in ends] == [BackendError] * 3
        await listener.ears.stop()


async def test_a_cancelled_subscribe_leaves_nothing(backend: RedisServer) -> None:
    async with listening(backend.url, "b") as listener:
        wait = asyncio.create_task(listener.ears.subscribe("a"))
        await asyncio.sleep(0)
        wait.cancel()
        await asyncio.gather(wait, return_exceptions=True)
        await listener.ears.subscribe("c")
        assert await said(backend, "PUBLISH", "a", "x") == 0


async def test_wishes_need_no_task(backend: RedisServer) -> None:
    """Commands of clients begin without one, and asyncio.timeout would refuse."""
    async with listening(backend.url) as listener:
        ears = listener.ears
        for wish in (ears.subscribe("a"), ears.watch(["b*"]), ears.unsubscribe("none"), ears.watch(["b*", "c*"])):
            await begun(wish)
        await listener.hears(backend, "a")
        await listener.hears(backend, "b1")


def begun(wish: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
    """The end of a wish that is begun in a callback of the loop, where there is no current task."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()

    def begin() -> None:
        try:
            _, rest = eager.begin(wish)
        except Exception as error:
            end.set_exception(error)
            return
        ending = asyncio.ensure_future(rest) if rest is not None else loop.create_future()
        if rest is None:
            ending.set_result(None)
        ending.add_done_callback(lambda done: end.set_result(done.result()))

    loop.call_soon(begin)
    return end


async def test_stopping_ends_watches_that_wait_for_each_other(own_backend: RedisServer) -> None:
    async with listening(own_backend.url, deadline=2 * PATIENCE) as listener:
        own_backend.pause()
        waits = [asyncio.create_task(listener.ears.watch([f"{number}*"])) for number in range(3)]
        await asyncio.sleep(0.05)
        await listener.ears.stop()
        ends = await asyncio.gather(*waits, return_exceptions=True)  # the test's own timeout is shorter
        own_backend.resume()
        assert [type(end) for end in ends] == [BackendError] * 3


async def test_who_starts_again_has_forgotten_the_wishes_of_before(backend: RedisServer) -> None:
    async with listening(backend.url, "a") as listener:
        await listener.ears.watch(["p*"])
        await listener.ears.stop()
        assert await said(backend, "PUBLISH", "a", "nobody") == 0
        await listener.ears.start()
        await listener.ears.subscribe("b")
        await listener.hears(backend, "b")
        assert await said(backend, "PUBLISH", "a", "nobody") == 0
        assert await said(backend, "PUBLISH", "p1", "nobody") == 0
        await said(backend, "CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: listener.renewed)
        assert listener.renewed == [["b"]]


async def test_a_stop_at_any_moment_of_a_reconnection_leaves_nothing(
    own_backend: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    for moment in range(12):
        async with listening(own_backend.url, "a") as listener:
            await said(own_backend, "CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: listener.counts["redis_reconnect"])
            await asyncio.sleep(moment * 0.005)
        assert not listener.ears.is_connected
        assert not [task for task in asyncio.all_tasks() if "redis://" in task.get_name()]
    gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_start_that_is_cancelled_leaves_nothing(own_backend: RedisServer) -> None:
    def clients() -> int:
        count: int = own_backend.command("INFO", "clients")["connected_clients"]
        return count

    before = clients()
    for turns in range(20):
        listener = Listener(own_backend.url)
        starting = asyncio.create_task(listener.ears.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        await listener.ears.stop()
    await until(lambda: clients() == before)


async def test_a_cut_is_seen_while_the_publishers_way_hangs(own_backend: RedisServer) -> None:
    """A probe that waits for the pipeline, which waits for its server, must not keep a dead connection alive."""
    hanging = asyncio.Event()
    is_stuck = False

    async def publish(channel: bytes, data: bytes) -> None:
        if not is_stuck:
            await said(own_backend, "PUBLISH", channel, data)
        elif not hanging.is_set():
            hanging.set()
            await asyncio.Event().wait()
        else:
            raise BackendError("it is down")

    async with listening(own_backend.url, "a", publish=publish) as listener:
        is_stuck = True
        await hanging.wait()
        await said(own_backend, "CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: listener.renewed)
        await listener.hears(own_backend, "a")


async def test_a_failure_of_our_own_renews_the_connection(
    backend: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever fails, the task that owns the connection goes on: nobody else would notice that it is gone."""
    async with listening(backend.url, "a") as listener:
        real, failures = Ears._take, [ValueError("a bug"), ValueError("another")]

        def failing(ears: Ears, line: Line) -> None:
            if failures:
                raise failures.pop()
            real(ears, line)

        monkeypatch.setattr(Ears, "_take", failing)
        await said(backend, "CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: listener.renewed)
        assert not failures
        assert listener.renewed == [["a"]]
        await listener.hears(backend, "a")
    assert "the subscription failed, and is renewed" in caplog.text
