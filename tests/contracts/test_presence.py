"""What every `Presence` must do: P1 to P5 of `hubbub.presence.base`, one or more tests each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hubbub.model import ClientInfo, PresenceStats

if TYPE_CHECKING:
    from tests.contracts.conftest import PresenceFactory


def somebody(client: str, user: str = "ann", info: bytes = b"") -> ClientInfo:
    return ClientInfo(user, client, conn_info=info)


async def test_p1_added_is_counted_by_every_node(presence_factory: PresenceFactory) -> None:
    one, two = await presence_factory(2)
    await one.add("room", somebody("c1", info=b'{"name":"Ann"}'))
    for presence in (one, two):
        assert await presence.members("room") == {"c1": somebody("c1", info=b'{"name":"Ann"}')}
        assert await presence.stats("room") == PresenceStats(1, 1)


async def test_p1_removed_is_gone_on_every_node(presence_factory: PresenceFactory) -> None:
    one, two = await presence_factory(2)
    await one.add("room", somebody("c1"))
    await one.add("room", somebody("c2"))
    await one.remove("room", "c1")
    assert list(await two.members("room")) == ["c2"]
    assert await two.stats("room") == PresenceStats(1, 1)


async def test_p1_removed_by_another_node_than_added(presence_factory: PresenceFactory) -> None:
    one, two = await presence_factory(2)
    await one.add("room", somebody("c1"))
    await two.remove("room", "c1")
    assert await one.members("room") == {}


async def test_p1_channels_do_not_mix(presence_factory: PresenceFactory) -> None:
    (presence,) = await presence_factory(1)
    await presence.add("a", somebody("c1"))
    await presence.add("b", somebody("c1"))
    await presence.remove("a", "c1")
    assert await presence.stats("a") == PresenceStats(0, 0)
    assert await presence.stats("b") == PresenceStats(1, 1)


async def test_p1_what_members_returns_is_a_copy(presence_factory: PresenceFactory) -> None:
    (presence,) = await presence_factory(1)
    await presence.add("room", somebody("c1"))
    (await presence.members("room")).clear()
    assert await presence.stats("room") == PresenceStats(1, 1)
    assert list(await presence.members("room")) == ["c1"]


async def test_p1_crowd_comes_and_goes_at_once(presence_factory: PresenceFactory) -> None:
    nodes = await presence_factory(3)

    async def visit(number: int) -> None:
        presence = nodes[number % 3]
        await presence.add("room", somebody(f"c{number}", user=f"u{number % 10}"))
        if number % 2:
            await presence.remove("room", f"c{number}")

    await asyncio.gather(*(visit(number) for number in range(200)))
    for presence in nodes:
        assert await presence.stats("room") == PresenceStats(100, 5)
        assert set(await presence.members("room")) == {f"c{number}" for number in range(0, 200, 2)}


async def test_p1_what_a_stopped_node_leaves_does_not_stay(presence_factory: PresenceFactory) -> None:
    one, two = await presence_factory(2)
    await one.add("room", somebody("c1"))
    await two.add("room", somebody("c2", user="bob"))
    await one.remove("room", "c1")
    await one.stop()
    await one.stop()  # idempotent
    assert list(await two.members("room")) == ["c2"]
    assert await two.stats("room") == PresenceStats(1, 1)


async def test_p2_added_again_is_renewed_not_counted_twice(presence_factory: PresenceFactory) -> None:
    one, two = await presence_factory(2)
    await one.add("room", somebody("c1", info=b"1"))
    await one.add("room", somebody("c1", info=b"2"))
    assert await two.members("room") == {"c1": somebody("c1", info=b"2")}
    assert await two.stats("room") == PresenceStats(1, 1)


async def test_p2_added_again_under_another_user(presence_factory: PresenceFactory) -> None:
    (presence,) = await presence_factory(1)
    await presence.add("room", somebody("c1", user="ann"))
    await presence.add("room", somebody("c2", user="ann"))
    await presence.add("room", somebody("c1", user="bob"))
    assert await presence.stats("room") == PresenceStats(2, 2)
    await presence.remove("room", "c1")
    assert await presence.stats("room") == PresenceStats(1, 1)


async def test_p3_removing_nobody_is_no_error(presence_factory: PresenceFactory) -> None:
    (presence,) = await presence_factory(1)
    await presence.remove("empty", "c1")
    await presence.add("room", somebody("c1"))
    await presence.remove("room", "c2")
    await presence.remove("room", "c1")
    await presence.remove("room", "c1")
    assert await presence.stats("room") == PresenceStats(0, 0)


async def test_p4_different_users_are_counted(presence_factory: PresenceFactory) -> None:
    (presence,) = await presence_factory(1)
    for client, user in [("c1", "ann"), ("c2", "ann"), ("c3", "bob"), ("c4", ""), ("c5", "")]:
        await presence.add("room", somebody(client, user))
    assert await presence.stats("room") == PresenceStats(clients=5, users=3)
    await presence.remove("room", "c1")
    assert await presence.stats("room") == PresenceStats(clients=4, users=3)
    await presence.remove("room", "c2")
    await presence.remove("room", "c4")
    assert await presence.stats("room") == PresenceStats(clients=2, users=2)


async def test_p4_nobody_is_zero(presence_factory: PresenceFactory) -> None:
    (presence,) = await presence_factory(1)
    assert await presence.stats("room") == PresenceStats(0, 0)
    assert await presence.members("room") == {}


async def test_p5_channel_is_as_new_once_everybody_left(presence_factory: PresenceFactory) -> None:
    (presence,) = await presence_factory(1)
    for _ in range(3):
        await presence.add("room", somebody("c1"))
        await presence.remove("room", "c1")
    assert await presence.members("room") == {}
    await presence.add("room", somebody("c2", user="bob"))
    assert await presence.stats("room") == PresenceStats(1, 1)
