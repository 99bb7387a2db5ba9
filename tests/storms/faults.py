"""What happens to a storm's Redis, its PostgreSQL, its nodes and the ways between them: one function each.

Answers for: the faults, how much may be lost by each, and what it needs. Refuses to know: what has to hold afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tests.storms.places import Guarded
from tests.storms.settings import Store
from tests.storms.storm import Storm

#: How many losses each subscriber of a `recent` channel is told of; in a durable one it is never any, or one where the
#: store itself lost its last writes.
NONE, ONE, AT_MOST_ONE = range(0, 1), range(1, 2), range(0, 2)

Run = Callable[[Storm], Awaitable[None]]


class Fault(NamedTuple):
    """`seconds`: about how long it takes. With `is_guarded` it needs a Redis with Sentinels and a PostgreSQL that a
    standby can follow, else both alone; with `needs_disk` such a PostgreSQL on a small disk, for which it takes rights.
    `is_durable`: it is one of those that durable channels are tried with when they are tried alone.
    """

    run: Run
    losses: range
    seconds: float
    is_guarded: bool = False
    needs_disk: bool = False
    store: Store = "postgresql"
    is_durable: bool = False

    @property
    def name(self) -> str:
        return getattr(self.run, "__name__", "")


#: Ends every connection but the one that asks.
_CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""

#: By name, in the order in which they stand here.
FAULTS: dict[str, Fault] = {}


def fault(
    losses: range = NONE,
    *,
    seconds: float = 1,
    is_guarded: bool = False,
    needs_disk: bool = False,
    store: Store = "postgresql",
    is_durable: bool = False,
) -> Callable[[Run], Run]:
    """Make it known by its name."""

    def register(run: Run) -> Run:
        made = Fault(run, losses, seconds, is_guarded, needs_disk, store, is_durable)
        FAULTS[made.name] = made
        return run

    return register


async def _down(storm: Storm, seconds: float, *, forgets: bool = False) -> None:
    await storm.thread(storm.redis.kill)
    if forgets:
        storm.forget_data()
    await storm.seconds(seconds)
    await storm.thread(storm.redis.start)


@fault(seconds=2)
async def redis_down_2s(storm: Storm) -> None:
    await _down(storm, 2)


@fault(ONE, seconds=2, is_durable=True)
async def redis_down_2s_data_gone(storm: Storm) -> None:
    await _down(storm, 2, forgets=True)


@fault(seconds=12)
async def redis_down_12s(storm: Storm) -> None:
    await _down(storm, 12)


@fault(ONE, seconds=12)
async def redis_down_12s_data_gone(storm: Storm) -> None:
    await _down(storm, 12, forgets=True)


@fault(seconds=60, is_durable=True)
async def redis_out_of_reach_60s(storm: Storm) -> None:
    for proxy in storm.proxies:
        proxy.refuse()
    end = time.monotonic() + 60
    await storm.durable_goes_on(within=20)
    await storm.seconds(30)
    await storm.durable_goes_on(within=20)
    await storm.seconds(end - time.monotonic())
    for proxy in storm.proxies:
        proxy.mend()


@fault(is_durable=True)
async def subscriptions_killed(storm: Storm) -> None:
    for _ in range(3):
        await storm.redis_command("CLIENT", "KILL", "TYPE", "pubsub")
        await storm.published()


@fault(ONE, is_durable=True)
async def everything_flushed(storm: Storm) -> None:
    await storm.thread(storm.redis.flushall)


@fault(seconds=10, is_durable=True)
async def redis_stopped_10s(storm: Storm) -> None:
    storm.redis.pause()
    await storm.seconds(10)
    storm.redis.resume()


@fault(seconds=10, is_durable=True)
async def node_on_half_open_connections(storm: Storm) -> None:
    """What the node had open swallows everything; what it opens anew is whole."""
    storm.proxies[0].stall()
    await storm.published()


@fault(seconds=10, is_durable=True)
async def node_hears_nothing_more(storm: Storm) -> None:
    """It can speak to Redis, and is not answered; nor does anything arrive."""
    storm.proxies[0].stall("server")
    await storm.published()


@fault()
async def answers_cut_in_mid_frame(storm: Storm) -> None:
    for after in (1, 7, 40, 300, 1000):
        for proxy in storm.proxies:
            proxy.cut_in_answer(after)
        await storm.published()
    for proxy in storm.proxies:
        proxy.mend()


@fault(AT_MOST_ONE, seconds=8, is_guarded=True, is_durable=True)
async def failover_loses_the_last_writes(storm: Storm) -> None:
    assert isinstance(storm.house, Guarded), "it has Sentinels"
    await storm.house.lose_the_last_writes(2)


@fault(seconds=3, is_durable=True)
async def node_killed(storm: Storm) -> None:
    storm.nodes[0].kill()
    await storm.published()
    await storm.nodes[0].start()


@fault(seconds=10, is_durable=True)
async def node_stopped_10s(storm: Storm) -> None:
    """It is no fault of Redis, which sends to it all the while."""
    storm.nodes[0].pause()
    await storm.seconds(10)
    storm.nodes[0].resume()


@fault(seconds=3)
async def redis_is_far_away(storm: Storm) -> None:
    """Every answer takes half a second; then it is near again."""
    for proxy in storm.proxies:
        proxy.delay = 0.25
    await storm.published()
    for proxy in storm.proxies:
        proxy.mend()


@fault()
async def stranger_publishes_33_mb(storm: Storm) -> None:
    """More than Redis holds for a subscriber: it ends all who listen to that channel."""
    await storm.redis_command("PUBLISH", "recent:a", b'"' + b"x" * 33_000_000 + b'"')


@fault(seconds=3)
async def kicks_while_a_node_is_cut_off(storm: Storm) -> None:
    storm.proxies[0].refuse()
    await storm.seconds(1)
    some = [*storm.of_node(0)[:3], *storm.of_node(1)[:3]]
    await storm.kick(some, through=1)
    await storm.published()
    storm.proxies[0].mend()


@fault(seconds=3)
async def kicks_through_a_node_that_is_cut_off(storm: Storm) -> None:
    storm.proxies[0].refuse()
    some = [*storm.of_node(0)[:2], *storm.of_node(1)[:2]]
    kicking = asyncio.ensure_future(storm.kick(some, through=0))
    await storm.seconds(2)
    storm.proxies[0].mend()
    await kicking


@fault(seconds=2, is_durable=True)
async def postgres_restarted(storm: Storm) -> None:
    await storm.thread(storm.postgres.stop)
    await storm.thread(storm.postgres.start)


@fault(seconds=3, is_durable=True)
async def postgres_killed(storm: Storm) -> None:
    await storm.thread(storm.postgres.kill)
    await storm.seconds(1)
    await storm.thread(storm.postgres.start)


@fault(seconds=8, is_durable=True)
async def postgres_stopped_8s(storm: Storm) -> None:
    storm.postgres.pause()
    await storm.seconds(8)
    storm.postgres.resume()


@fault(seconds=2, is_durable=True)
async def postgres_cuts_everybody(storm: Storm) -> None:
    """Three times: in the middle of commits, too."""
    for _ in range(3):
        await storm.thread(storm.postgres.query, _CUT)
        await storm.published()


@fault(seconds=8, is_durable=True)
async def postgres_killed_while_redis_is_down(storm: Storm) -> None:
    await storm.thread(storm.redis.kill)
    await storm.thread(storm.postgres.kill)
    await storm.seconds(1)
    await storm.thread(storm.postgres.start)
    await storm.durable_goes_on(within=25)
    await storm.thread(storm.redis.start)


@fault(seconds=10, is_durable=True)
async def all_nodes_killed(storm: Storm) -> None:
    for node in storm.nodes:
        node.kill()
    await asyncio.gather(*(node.start() for node in storm.nodes))


@fault(seconds=12, store="sqlite", is_durable=True)
async def sqlite_node_killed_again_and_again(storm: Storm) -> None:
    for _ in range(3):
        storm.nodes[0].kill()
        await storm.nodes[0].start()
        await storm.published()


@fault(seconds=8, is_guarded=True, is_durable=True)
async def postgres_failover_loses_the_last_writes(storm: Storm) -> None:
    """What the old primary acknowledged in its last two seconds is nowhere any more."""
    assert storm.succession is not None, "it is guarded"
    ledger = storm.ledger
    await storm.succession.lose_the_last_writes(2, before=ledger.may_lose_from_now, after=ledger.has_lost)


@fault(seconds=8, is_guarded=True, needs_disk=True, is_durable=True)
async def postgres_disk_full(storm: Storm) -> None:
    assert storm.succession is not None, "it is guarded"
    disk = storm.succession.disk
    assert disk is not None, "it is on a small disk"
    await storm.thread(disk.fill)
    await storm.durable_is_refused("disk is full")
    await storm.others_go_on(within=20)
    await storm.publishers_are_refused()
    await storm.thread(disk.free)
    while not await storm.thread(storm.postgres.answers):
        if not storm.postgres.is_running:  # without room for its write-ahead log it ends, and somebody starts it again
            await storm.thread(storm.postgres.kill)
            await storm.thread(storm.postgres.start)


@fault(seconds=6, store="sqlite", is_durable=True)
async def sqlite_disk_full(storm: Storm) -> None:
    await storm.thread(storm.fill_disk)
    await storm.durable_is_refused("disk is full" if storm.has_disk else "disk")
    await storm.others_go_on(within=20)
    await storm.publishers_are_refused()
    await storm.thread(storm.free_disk)


async def _killed_after_commit(storm: Storm) -> None:
    """Node 0 commits, and is gone before anybody hears of it."""
    places = await storm.die_after_commit(0)
    others = [client for client in storm.clients if client not in storm.of_node(0)]
    await storm.until(lambda: storm.have(others, places), lambda: f"not all others have {places}")
    await storm.nodes[0].start()
    await storm.published()


@fault(seconds=12, is_durable=True)
async def node_killed_between_commit_and_broadcast(storm: Storm) -> None:
    """Again and again; the clients of the other node hear of it while this one is away."""
    for _ in range(3):
        await _killed_after_commit(storm)


@fault(seconds=8, store="sqlite", is_durable=True)
async def sqlite_node_killed_between_commit_and_broadcast(storm: Storm) -> None:
    for _ in range(2):
        await _killed_after_commit(storm)
