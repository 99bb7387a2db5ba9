"""The delivery machine over a real Redis or Valkey, and what only such a one does to its clients.

Answers for: connections that the server closes, and a server that forgets everything or comes back with less. Refuses
to know: what must hold, which is `delivery_machine`.
"""

from __future__ import annotations

import asyncio
import json

from hypothesis import strategies as st
from hypothesis.stateful import rule
from tests.backends import RedisServer
from tests.contracts.stores import StoreBackend
from tests.property.delivery_durable import DurableDelivery
from tests.property.delivery_grounds import STEP, ServerBackend
from tests.property.delivery_terms import DURABLE, channels, nodes, streams
from tests.property.delivery_unreliable import UnreliableDelivery

from hubbub.errors import BackendError
from hubbub.redis.backoff import CAP

#: Steps of the manual clock in which a connection must be renewed: twice the longest pause between two attempts.
RENEWED = int(2 * CAP / STEP)
#: Seconds after which the next attempt to renew one is due, in all likelihood.
LATE = 0.20001


class ServerDelivery(DurableDelivery):
    """Over two Redis brokers as they are."""

    def __init__(self, server: RedisServer, stores: StoreBackend | None = None, count: int = 2) -> None:
        self.server = ServerBackend(server)
        super().__init__(self.server, stores, count)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.server.close()

    @rule()
    def kill_ears(self) -> None:
        """CLIENT KILL TYPE pubsub."""
        self.server.kill_ears()
        self.rest()

    @rule(channel=channels, count=st.integers(0, 4), node=nodes)
    def miss_some_while_deaf(self, channel: str, count: int, node: int) -> None:
        """What is published while the ears are renewed is there as soon as they are, without a check after silence."""
        self.server.kill_ears()
        self.send(channel, count, node, 1)
        self.rest()
        self.renewed()
        self.nobody_lags()

    @rule(channel=channels, before=st.integers(0, 3), count=st.integers(1, 12), node=nodes)
    def publish_while_they_are_renewed(self, channel: str, before: int, count: int, node: int) -> None:
        """Confirmations, heads and reads cross with announcements, as the server sends them."""
        self.server.kill_ears()
        self.send(channel, before, node, 1)
        self.house.clock.move(LATE)
        self.send(channel, count, node, 1)
        self.rest()
        self.renewed()
        self.nobody_lags()

    @rule(node=nodes)
    def kill_commands(self, node: int) -> None:
        """CLIENT KILL of the other connection."""
        self.server.kill_commands(node % len(self.house.nodes))
        self.rest()

    @rule(channel=channels, count=st.integers(1, 5), node=nodes, turns=st.sampled_from([0, 2, 2, 2, 3, 5]))
    def kill_while_publishing(self, channel: str, count: int, node: int, turns: int) -> None:
        """Publishes are on their way when the connection goes. Each is done once, and its publisher gets its place.

        After two turns they have left, and their answers have not been read.
        """
        wire = self.server.brokers[node % len(self.house.nodes)].commands

        async def work() -> None:
            sending = [asyncio.ensure_future(self.sending_at_once(channel, node)) for _ in range(count)]
            for _ in range(turns):
                await asyncio.sleep(0)
            if wire is not None:
                self.server.cut(wire)
            await asyncio.gather(*sending)

        self.house.run(work())
        self.server.see_the_end([wire])
        self.rest()

    async def sending_at_once(self, channel: str, node: int) -> None:
        self.number += 1
        number = self.number
        try:
            done = await self.node(node).publish(channel, json.dumps([number, ""]).encode())
        except BackendError as error:
            if channel in DURABLE:
                self.refused(channel, node, error)
            else:
                assert channel.startswith("live"), "what is kept can be tried again"
                self.published(channel, number, None)
        else:
            self.published(channel, number, done.position)

    @rule(channel=streams)
    def forget_head(self, channel: str) -> None:
        """One of the two keys is evicted."""
        self.server.forget_head(channel)
        self.rest()

    @rule(renews=st.booleans())
    def flush(self, renews: bool) -> None:
        """FLUSHALL, or a server that has crashed and comes back empty."""
        self.server.flush()
        if renews:
            self.server.kill_all()
            self.renewed()
        self.rest()

    @rule(channel=streams, lost=st.integers(1, 3), node=nodes)
    def lose_the_newest(self, channel: str, lost: int, node: int) -> None:
        """A failover to a replica that had not got them."""
        self.roll_back(channel, lost, node)

    @rule()
    def wait_for_the_check(self) -> None:
        self.house.pass_time(41, step=5)
        self.rest()

    def renew_all(self) -> None:
        self.server.kill_all()
        self.renewed()
        self.house.pass_time(1.1)  # who could not ask a moment ago waits for a second
        self.rest()

    def renewed(self) -> None:
        """Wait until both connections of both nodes are up again."""
        for _ in range(RENEWED):
            if all(broker.is_whole for broker in self.server.brokers):
                return
            self.house.pass_time(STEP)
            self.rest()
        raise AssertionError("a connection is not renewed")

    def nobody_lags(self) -> None:
        """Who has the epoch has everything. (Another one is found when it is announced, or by the check.)"""
        self.house.pass_time(1.1)  # who could not ask a moment ago waits for a second
        self.rest()
        for node in self.house.nodes:
            for name, channel in node.hub.channels.items():
                if name in DURABLE:  # what was not announced is found within ten seconds, by those who hear
                    continue
                position = channel.feed.position if channel.feed is not None else None
                head = self.look(name).head
                if position is not None and position.epoch == head.epoch:
                    assert position == head, f"{name} lags"


class UnreliableServerDelivery(ServerDelivery, UnreliableDelivery):
    """Over brokers that lose, repeat, reorder, delay and fail, and a server that does its part."""

    def renew_all(self) -> None:
        for node in (0, 1):
            self.let_calls_pass(node)
        super().renew_all()

    def nobody_lags(self) -> None:
        """Calls may be held."""
