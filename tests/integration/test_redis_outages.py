"""redis/outages.py with real connections to real servers: an outage that lasts is told once, however many notice it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.backends import RedisServer
from tests.contracts.broker import KEPT, LIVE
from tests.contracts.conftest import Node
from tests.integration.redis_support import PATIENCE, outcome, until

from hubbub.brokers.redis import RedisBroker
from hubbub.clock import SystemClock
from hubbub.errors import PublishFailed
from hubbub.model import Publication
from hubbub.redis import outages as outages_module
from hubbub.redis.outages import Outages
from hubbub.redis.pipeline import Pipeline
from hubbub.redis.subscription import Ears
from hubbub.redis.topology import endpoint_of


class Both:
    """A pipeline and a subscriber that share what they know of their server."""

    def __init__(self, url: str) -> None:
        self.counts: Counter[str] = Counter()
        self.outages = Outages(clock=SystemClock(), count=self.count)
        self.commands = Pipeline(endpoint_of(url, client_name="c"), clock=SystemClock(), outages=self.outages)
        self.ears = Ears(
            endpoint_of(url, client_name="e"),
            clock=SystemClock(),
            on_message=lambda channel, data: None,
            on_renewed=lambda channels: None,
            outages=self.outages,
            publish=lambda channel, data: self.commands.call("PUBLISH", channel, data),
            probe_every=0.1,
        )

    def count(self, event: str) -> None:
        self.counts[event] += 1
        if event == "redis_connect_failed":
            raise ValueError("an observer that fails")

    @property
    def is_whole(self) -> bool:
        return self.commands.is_connected and self.ears.is_connected


@asynccontextmanager
async def both(server: RedisServer) -> AsyncIterator[Both]:
    tied = Both(server.url)
    await tied.commands.start()
    await tied.ears.start()
    try:
        yield tied
    finally:
        await tied.ears.stop()
        await tied.commands.stop()


async def test_an_outage_that_lasts_raises_one_alert_and_one_line_when_it_is_over(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outages_module, "ALERT_AFTER", 0.3)
    async with both(own_backend) as tied:
        assert tied.outages.seconds == 0
        for outage in (1, 2):
            own_backend.kill()
            await until(lambda: tied.counts["redis_unreachable"] == outage)  # noqa: B023 - called at once
            failed = tied.counts["redis_connect_failed"]
            await until(lambda: tied.counts["redis_connect_failed"] > failed + 3)  # noqa: B023 - called at once
            assert tied.outages.seconds >= 1
            own_backend.start()
            await until(lambda: tied.is_whole)
            assert tied.outages.seconds == 0
            assert tied.counts["redis_unreachable"] == outage
            assert tied.counts["redis_reconnect"] == 2 * outage
    name = f"redis://127.0.0.1:{own_backend.port}/0"
    alerts = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    alerts = [alert for alert in alerts if "unreachable" in alert]
    assert len(alerts) == 2
    assert all(alert.startswith(f"{name}: unreachable for ") for alert in alerts)
    assert all("s, for commands and subscriptions: " in alert for alert in alerts)
    assert "cannot be reached" in alerts[0]
    over = [record.getMessage() for record in caplog.records if "reachable again" in record.msg]
    assert len(over) == 2
    assert over[0].startswith(f"{name}: reachable again, after ")
    assert f"{name}: no connection for commands (attempt 1, after 0." in caplog.text


async def test_a_hiccup_raises_no_alert(own_backend: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with both(own_backend) as tied:
        own_backend.command("CLIENT", "KILL", "TYPE", "pubsub")
        own_backend.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: tied.counts["redis_reconnect"] == 2 and tied.is_whole)
        assert await tied.commands.call("PING", deadline=PATIENCE) == b"PONG"
    assert tied.counts == {"redis_reconnect": 2}
    assert "reachable again" not in caplog.text
    assert "connected for subscriptions again (attempt 1, after 0." in caplog.text


async def test_a_stop_ends_the_outage_without_a_word(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outages_module, "ALERT_AFTER", 0.2)
    async with both(own_backend) as tied:
        own_backend.kill()
        await until(lambda: not tied.commands.is_connected and not tied.ears.is_connected)
        waiting = asyncio.ensure_future(outcome(tied.commands.call("PING", deadline=PATIENCE)))
    assert tied.outages.seconds == 0
    assert isinstance(await waiting, Exception)
    await asyncio.sleep(0.4)  # past the alert that must not come
    assert tied.counts["redis_unreachable"] == 0
    assert "reachable again" not in caplog.text


@asynccontextmanager
async def broker_on(server: RedisServer) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(server.url, name="app", clock=SystemClock())
    await broker.start(Node(broker).heard)
    try:
        yield broker
    finally:
        await broker.stop()


async def test_a_publish_that_finds_the_outbox_full_fails_at_once_and_says_that_a_retry_is_safe(
    own_backend: RedisServer,
) -> None:
    async with broker_on(own_backend) as broker:
        broker._commands._max_waiting = 8 << 20
        own_backend.pause()
        data = b'"%b"' % (b"x" * ((1 << 20) - 1000))
        tasks = [
            asyncio.ensure_future(broker.publish(f"c{number}", Publication(data), options))
            for number in range(30)
            for options in (KEPT, LIVE)
        ]
        refused, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert len(refused) > 30, "all of them in one turn"
        for task in refused:
            error = task.exception()
            assert isinstance(error, PublishFailed)
            assert error.is_retry_safe
            assert "not published, publish again: " in str(error)
            assert "KiB of commands wait already" in str(error)
        assert broker.counts()["redis_outbox_full"] == len(refused), "nobody tried again"
        own_backend.resume()
        published = await asyncio.gather(*waiting)
        assert {result.position.offset for result in published if result.position} == {1}
        await broker.publish("c0", Publication(data), KEPT)


async def test_the_figures_of_a_broker_tell_that_it_is_down_now(
    own_backend: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outages_module, "ALERT_AFTER", 0.3)
    async with broker_on(own_backend) as broker:
        assert broker.counts()["redis_down_seconds"] == 0
        own_backend.kill()
        await until(lambda: broker.counts().get("redis_unreachable", 0) == 1)
        assert broker.counts()["redis_down_seconds"] >= 1
        own_backend.start()
        await until(lambda: broker.counts()["redis_down_seconds"] == 0)
        await broker.publish("c", Publication(b"1"), KEPT)
        assert broker.counts()["redis_unreachable"] == 1, "one alert, although two connections were lost"
        assert caplog.text.count("reachable again, after") == 1
