"""`TestHub`: the application's own hub on trial, in memory and in virtual time, and given back as it was."""

from __future__ import annotations

import asyncio

import pytest
from tests.rooms import hub

from hubbub import (
    Connection,
    Credentials,
    Disconnect,
    Hubbub,
    HubbubError,
)
from hubbub.errors import InternalError, TokenExpired
from hubbub.testing import Client, ExpectationFailed, TestHub
from hubbub.testing.dialects import CodecName

CODECS: list[CodecName] = ["json", "protobuf"]


# who somebody is ------------------------------------------------------------------------------------------------------


async def test_a_token_is_verified_by_the_real_code() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(token=hub.token("bob", ttl=60, info={"name": "Bob"}, channels=["news:1"]))
        await hub.publish("news:1", "for all")
        await hub.publish("inbox:bob", "for bob")
        assert (await bob.next("news:1")).data == "for all"
        assert (await bob.next("inbox:bob")).data == "for bob"
        await bob.refresh(hub.token("bob", ttl=3600, channels=["news:1"]))
        await server.pass_time(120)
        assert bob.closed == 0
        await server.pass_time(3600)
        assert bob.closed == 3005
        with pytest.raises(TokenExpired):
            await bob.reconnect()
        back = await bob.reconnect(token=hub.token("bob", channels=["news:1"]))
        assert bob.closed == 0
        assert sorted(back.recovered) == ["inbox:bob", "news:1"]


async def test_the_application_authenticates_where_the_test_does_not_vouch() -> None:
    asked = Hubbub(channels={"news": {"subscribe": "user"}})

    @asked.authenticate
    async def who(connection: Connection) -> Credentials | None:
        if connection.headers.get("cookie") != "session=7" or connection.query != "v=1":
            return None
        return Credentials("carol", data={"hello": connection.data})

    async with TestHub(asked) as server:
        carol = await server.connect(headers={"Cookie": "session=7"}, query="v=1", data="it is me")
        assert carol.data == {"hello": "it is me"}
        await carol.subscribe("news:1")
        with pytest.raises(Disconnect):
            await server.connect(headers={"Cookie": "session=8"}, query="v=1")
        await (await server.connect(user="dave")).subscribe("news:1")


async def test_contradictions_are_refused() -> None:
    async with TestHub(hub) as server:
        with pytest.raises(ValueError, match="give user or token"):
            await server.connect(user="bob", token="t")
        with pytest.raises(ValueError, match="go with user"):
            await server.connect(info={})


# time -----------------------------------------------------------------------------------------------------------------


async def test_time_stands_still_until_it_is_moved() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob", ttl=60)
        began = server.clock.now()
        await server.settle()
        assert server.clock.now() == began
        await server.pass_time(60 + 24)  # the grace for clients that refresh late is 25
        assert bob.closed == 0
        await server.pass_time(1)
        assert bob.closed == 3005


async def test_pings_come_in_their_time_and_who_does_not_answer_is_closed() -> None:
    async with TestHub(hub, client={"ping_interval": 20, "pong_timeout": 5}) as server:
        alice = await server.connect(user="alice")
        bob = await server.connect(user="bob")
        await server.pass_time(3600)
        assert alice.closed == 0
        bob.answers_pings = False
        await server.pass_time(25)
        assert (alice.closed, bob.closed) == (0, 3012)
        bob.answers_pings = True
        await bob.reconnect()
        await server.pass_time(3600)
        assert bob.closed == 0


async def test_a_jump_is_seen_by_settle() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob", ttl=60)
        server.clock.move(3600)
        await server.settle()
        assert bob.closed == 3005


async def test_history_expires() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob")
        await bob.subscribe("room:42")
        await bob.publish("room:42", {"text": "hi"})
        await server.pass_time(299)
        assert len((await bob.history("room:42")).publications) == 1
        await server.pass_time(2)
        assert (await bob.history("room:42")).publications == []


# slow readers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
async def test_a_slow_reader_is_caught_up(codec: CodecName) -> None:
    async with TestHub(hub, client={"write_budget": 4096}) as server:
        slow = await server.connect(user="slow", codec=codec)
        await slow.subscribe("news:1")
        slow.stop_reading()
        for number in range(90):
            await hub.publish("news:1", {"n": number, "filling": "x" * 200})
            await server.settle()  # each by itself: all at once would be one frame, which is sent whole
        await slow.expect_nothing("news:1")
        await slow.start_reading()
        assert [(await slow.next("news:1")).data["n"] for _ in range(90)] == list(range(90))
        await slow.expect_nothing()


async def test_a_reader_that_takes_nothing_at_all_is_closed_and_recovers() -> None:
    async with TestHub(hub, client={"write_budget": 4096}) as server:
        stuck = await server.connect(user="stuck")
        await stuck.subscribe("news:1")
        stuck.stop_reading()
        for number in range(30):
            await hub.publish("news:1", {"n": number, "filling": "x" * 200})
        await server.pass_time(31)
        assert stuck.closed == 3008
        back = await stuck.reconnect()
        assert [each.data["n"] for each in back.recovered["news:1"]] == list(range(30))


# handlers -------------------------------------------------------------------------------------------------------------


async def test_settle_waits_for_handlers_that_wait_for_the_world() -> None:
    async with TestHub(hub) as server:
        alice = await server.connect(user="alice")
        await alice.subscribe("room:42")
        await alice.publish("room:42", {"text": "hi"})
        await server.settle()
        assert [each.data for each in server.published("audit")] == [{"of": "room:42", "text": "hi"}]


async def test_settle_names_the_handler_that_does_not_end() -> None:
    async with TestHub(hub, patience=0.01) as server:
        alice = await server.connect(user="alice")
        with pytest.raises(ExpectationFailed, match="no answer came; still running: hang "):
            await alice.rpc("hang")
        with pytest.raises(ExpectationFailed, match=r"still running: hang \(rooms\.py, line \d+\)"):
            await server.settle()


async def test_a_handler_times_out_in_real_time() -> None:
    async with TestHub(hub, client={"handler_timeout": "20ms"}) as server:
        alice = await server.connect(user="alice")
        with pytest.raises(InternalError):
            await alice.rpc("hang")


# the hub afterwards ---------------------------------------------------------------------------------------------------


async def test_the_hub_is_as_it_was_and_the_next_test_finds_nothing() -> None:
    before = dict(vars(hub))
    server = TestHub(hub, client={"max_channels": 3})
    for _ in range(2):
        async with server:
            assert hub.settings.client.max_channels == 3
            alice = await server.connect(user="alice")
            await alice.subscribe("room:counted")
            assert [each.data for each in server.published("audit")] == [{"visits": 1}]  # a new instance of the class
            assert (await alice.history("room:counted")).publications == []
            await alice.publish("room:counted", {"text": "hi"})
        assert alice.closed == 3001  # it was sent away as by a server that stops
    assert vars(hub) == before
    with pytest.raises(HubbubError, match="the test hub is not started"):
        await server.connect(user="alice")


async def test_the_hub_is_as_it_was_after_a_failure() -> None:
    before = dict(vars(hub))
    with pytest.raises(ZeroDivisionError):
        async with TestHub(hub):
            raise ZeroDivisionError
    assert vars(hub) == before


async def test_a_test_hub_can_be_used_again() -> None:
    server = TestHub(hub)
    for _ in range(2):
        async with server:
            assert server.published() == []
            assert server.clients == []
            await hub.publish("news:1", 1)
            await server.connect(user="bob")


async def test_a_hub_that_runs_is_not_taken() -> None:
    async with TestHub(hub):
        with pytest.raises(HubbubError, match="the hub is started"):
            async with TestHub(hub):
                pass


async def test_before_the_start_it_says_how_to_start() -> None:
    with pytest.raises(HubbubError, match="use `async with TestHub"):
        await TestHub(hub).connect(user="bob")


async def test_two_side_by_side_do_not_notice_each_other() -> None:
    other = Hubbub(auth={"anonymous": True}, channels={"news": {"delivery": "recent", "subscribe": "anyone"}})
    async with TestHub(hub) as here, TestHub(other) as there:
        alice, carol = await here.connect(user="alice"), await there.connect()
        for client in (alice, carol):
            await client.subscribe("news:1")
        await here.pass_time(100)
        assert there.clock.now() != here.clock.now()
        await hub.publish("news:1", "here")
        assert (await alice.next("news:1")).data == "here"
        await carol.expect_nothing()
        assert there.published() == []


async def test_no_keys_are_fetched() -> None:
    fetching = Hubbub(auth={"jwks_url": "https://keys.invalid/jwks.json", "anonymous": True})
    async with TestHub(fetching) as server:
        await server.connect()
        assert fetching.settings.auth.jwks_url == ""
    assert fetching.settings.auth.jwks_url == "https://keys.invalid/jwks.json"


async def test_a_client_says_what_it_is() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob")
        assert repr(bob) == "<Client bob, connected>"
        await bob.close()
        assert repr(bob) == "<Client bob, closed with 1000>"
        assert isinstance(bob, Client)


def test_it_works_on_an_event_loop_that_hides_what_it_has_to_do() -> None:
    async def scenario() -> None:
        async with TestHub(hub) as server:
            alice, bob = await server.connect(user="alice"), await server.connect(user="bob", ttl=60)
            for client in (alice, bob):
                await client.subscribe("room:42")
            await alice.publish("room:42", {"text": "hi"})
            assert (await bob.next("room:42")).data == {"text": "hi"}
            await server.settle()
            assert len(server.published("audit")) == 1
            await server.pass_time(90)
            assert bob.closed == 3005

    with asyncio.Runner(loop_factory=pytest.importorskip("uvloop").new_event_loop) as runner:
        runner.run(scenario())


async def test_an_application_of_many_servers_is_tested_alone_and_in_memory() -> None:
    hub = Hubbub(
        "redis://127.0.0.1:1",  # where nobody is
        store="postgresql://127.0.0.1:1/nowhere",
        server={"workers": 4},
        channels={"room": {"delivery": "durable"}, "news": {"delivery": "recent"}},
    )
    async with TestHub(hub) as t:
        for channel in ("room:1", "news:1"):
            published = await t.hub.publish(channel, {"text": "hi"})
            assert published.position is not None
            assert published.position.offset == 1
            assert len((await t.hub.history(channel, limit=5)).publications) == 1
    assert hub.settings.broker.url == "redis://127.0.0.1:1"
