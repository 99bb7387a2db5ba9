"""Presence in Redis where time passes, nodes die, and Redis or its keys are not as they should be, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.backends import RedisServer
from tests.contracts.conftest import AGE
from tests.contracts.test_presence import somebody
from tests.integration.redis_support import until

from hubbub.clock import SystemClock
from hubbub.errors import BackendError
from hubbub.model import ClientInfo, PresenceStats
from hubbub.presence import redis as presence_module
from hubbub.presence.redis import RedisPresence

WHO, UNTIL, USERS = (f"app:p:{{room}}:{what}" for what in ("who", "until", "users"))


@asynccontextmanager
async def running(server: RedisServer, name: str = "app") -> AsyncIterator[RedisPresence]:
    presence = RedisPresence(server.url, name=name, clock=SystemClock())
    await presence.start()
    try:
        yield presence
    finally:
        await presence.stop()


@pytest.fixture
async def presence(backend: RedisServer) -> AsyncIterator[RedisPresence]:
    async with running(backend) as presence:
        yield presence


def grow_older(server: RedisServer, seconds: float) -> None:
    server.command("EVAL", AGE, 0, int(seconds * 1000))


async def test_who_is_not_added_again_is_gone_after_a_minute(presence: RedisPresence, backend: RedisServer) -> None:
    await presence.add("room", somebody("c1"))
    grow_older(backend, 40)
    await presence.add("room", somebody("c2"))
    await presence.add("room", somebody("c3", user="bob"))
    grow_older(backend, 19)
    assert await presence.stats("room") == PresenceStats(3, 2)
    grow_older(backend, 1)
    assert await presence.stats("room") == PresenceStats(2, 2)
    assert set(await presence.members("room")) == {"c2", "c3"}
    assert backend.command("HLEN", WHO) == 2  # it was removed, and not only not counted


async def test_who_is_added_again_stays(presence: RedisPresence, backend: RedisServer) -> None:
    await presence.add("room", somebody("c1"))
    await presence.add("room", somebody("dead"))
    for _ in range(5):
        grow_older(backend, 30)
        await presence.add("room", somebody("c1"))
    assert list(await presence.members("room")) == ["c1"]
    assert await presence.stats("room") == PresenceStats(1, 1)


@pytest.mark.parametrize("ask", ["members", "stats", "add", "remove"])
async def test_whatever_is_asked_removes_who_is_gone(presence: RedisPresence, backend: RedisServer, ask: str) -> None:
    for number in range(50):
        await presence.add("room", somebody(f"c{number}", user=f"u{number}"))
    grow_older(backend, 59)
    await presence.add("room", somebody("last", user="u0"))
    grow_older(backend, 2)
    if ask == "members":
        await presence.members("room")
    elif ask == "stats":
        await presence.stats("room")
    elif ask == "add":
        await presence.add("room", somebody("last", user="u0"))
    else:
        await presence.remove("room", "nobody")
    assert [backend.command("HLEN", WHO), backend.command("ZCARD", UNTIL), backend.command("HLEN", USERS)] == [1, 1, 1]
    assert backend.command("HGETALL", USERS) == {b"u0": b"1"} or backend.command("HGET", USERS, "u0") == b"1"


async def test_keys_are_the_applications_and_end(presence: RedisPresence, backend: RedisServer) -> None:
    await presence.add("room", somebody("c1"))
    await presence.members("empty")
    await presence.stats("empty")
    await presence.remove("empty", "c1")
    keys = {key.decode() for key in backend.command("KEYS", "*")}
    assert keys == {WHO, UNTIL, USERS}
    assert all(59 < backend.command("PTTL", key) / 1000 <= 60 for key in keys)
    await presence.remove("room", "c1")
    assert backend.command("DBSIZE") == 0
    await presence.add("room", somebody("c1"))
    grow_older(backend, 60)
    assert backend.command("DBSIZE") == 0


async def test_applications_do_not_meet(presence: RedisPresence, backend: RedisServer) -> None:
    async with running(backend, "other") as other:
        await presence.add("room", somebody("c1"))
        assert await other.members("room") == {}


async def test_anything_may_be_in_names_and_infos(presence: RedisPresence) -> None:
    infos = [
        ClientInfo("", "c1", b"", b""),
        ClientInfo("12:34:", "c2", b"\x00\xff", b'{"a":1}'),
        ClientInfo("ünï¢ode☃", "c☃", b"\r\n", b"\xc1"),
        ClientInfo("u\x00:", "c:3", b"x" * 10_000, b""),
    ]
    for info in infos:
        await presence.add("{room}:who", info)
    assert await presence.members("{room}:who") == {info.client: info for info in infos}
    assert await presence.stats("{room}:who") == PresenceStats(4, 4)


@pytest.mark.parametrize("lost", [WHO, UNTIL, USERS])
async def test_an_evicted_key_heals_by_who_is_still_there(
    presence: RedisPresence, backend: RedisServer, lost: str
) -> None:
    for client, user in (("c1", "ann"), ("c2", "ann"), ("c3", "bob")):
        await presence.add("room", somebody(client, user))
    backend.command("DEL", lost)
    for client, user in (("c1", "ann"), ("c3", "bob")):
        await presence.add("room", somebody(client, user))
    assert set(await presence.members("room")) == {"c1", "c3"}
    assert await presence.stats("room") == PresenceStats(2, 2)
    await presence.remove("room", "c1")
    assert await presence.stats("room") == PresenceStats(1, 1)


async def test_a_strangers_entry_harms_nobody(presence: RedisPresence, backend: RedisServer) -> None:
    await presence.add("room", somebody("c1"))
    await presence.add("room", somebody("c2"))
    backend.command("HSET", WHO, "c2", "nonsense")
    assert list(await presence.members("room")) == ["c1"]
    assert presence.counts() == {"presence_unreadable": 1}
    await presence.add("room", somebody("c2", user="bob"))
    assert set(await presence.members("room")) == {"c1", "c2"}


async def test_a_node_that_stops_without_a_word_leaves_its_own_for_a_minute(
    presence: RedisPresence, backend: RedisServer
) -> None:
    async with running(backend) as other:
        await other.add("room", somebody("theirs"))
    await presence.add("room", somebody("ours"))
    assert len(await presence.members("room")) == 2
    grow_older(backend, 30)
    await presence.add("room", somebody("ours"))
    grow_older(backend, 30)
    assert list(await presence.members("room")) == ["ours"]


async def test_a_thousand_at_once_from_two_nodes(presence: RedisPresence, backend: RedisServer) -> None:
    async with running(backend) as other:
        nodes = (presence, other)
        await asyncio.gather(*(nodes[n % 2].add("room", somebody(f"c{n}", user=f"u{n % 100}")) for n in range(1000)))
        assert await presence.stats("room") == PresenceStats(1000, 100)
        grow_older(backend, 40)
        await asyncio.gather(*(presence.add("room", somebody(f"c{n}", user=f"u{n % 100}")) for n in range(0, 1000, 2)))
        grow_older(backend, 20)
        assert await other.stats("room") == PresenceStats(500, 50)
        assert set(await other.members("room")) == {f"c{number}" for number in range(0, 1000, 2)}


async def test_a_restarted_server_is_waited_out(own_backend: RedisServer) -> None:
    async with running(own_backend) as presence:
        await presence.add("room", somebody("c1"))
        own_backend.kill()
        asking = asyncio.create_task(presence.add("room", somebody("c2")))
        await asyncio.sleep(0)  # it has been sent, or waits: either is fine
        own_backend.start()
        await asking
        assert set(await presence.members("room")) == {"c2"}


#: Seconds that no test lives.
FOR_EVER = 600.0


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls wait for ever, but for the patience of those who ask."""
    monkeypatch.setattr(presence_module, "DEADLINE", FOR_EVER)


@pytest.mark.usefixtures("endless")
async def test_who_asks_while_the_server_is_away_is_told_and_who_comes_or_goes_waits(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "PATIENCE", 0.2)
    async with running(own_backend) as presence:
        await presence.add("room", somebody("c1"))
        own_backend.kill()
        await until(lambda: not presence._commands.is_connected)
        coming = asyncio.create_task(presence.add("room", somebody("c2", user="bob")))
        going = asyncio.create_task(presence.remove("room", "c1"))
        for _ in range(2):  # and who asks again
            for ask in (presence.members, presence.stats):
                with pytest.raises(BackendError, match="no connection"):
                    await ask("room")
        assert not coming.done()
        assert not going.done()
        own_backend.start()
        await asyncio.gather(coming, going)
        assert set(await presence.members("room")) == {"c2"}
        assert await presence.stats("room") == PresenceStats(1, 1)


@pytest.mark.usefixtures("endless")
async def test_who_has_asked_when_the_server_dies_is_told(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "PATIENCE", 0.2)
    async with running(own_backend) as presence:
        await presence.add("room", somebody("c1"))
        own_backend.pause()
        asking = [asyncio.create_task(ask("room")) for ask in (presence.members, presence.stats)]
        await until(lambda: presence._commands._wire is not None and presence._commands._wire.in_flight == 2)
        own_backend.kill()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(answer, BackendError) and "no connection" in str(answer) for answer in answers), answers


@pytest.mark.usefixtures("endless")
async def test_who_asks_waits_out_a_server_that_was_only_just_lost(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "PATIENCE", FOR_EVER)
    async with running(own_backend) as presence:
        own_backend.kill()
        await until(lambda: not presence._commands.is_connected)
        asking = [asyncio.create_task(ask("room")) for ask in (presence.members, presence.stats)]
        await asyncio.sleep(0)
        own_backend.start()
        assert await asyncio.gather(*asking) == [{}, PresenceStats(0, 0)]


async def test_a_server_that_is_gone_is_an_error(own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "DEADLINE", 0.3)
    async with running(own_backend) as presence:
        own_backend.kill()
        for call in (presence.add("room", somebody("c1")), presence.members("room"), presence.stats("room")):
            with pytest.raises(BackendError):
                await call
