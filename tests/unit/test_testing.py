"""A client of `TestHub` says and hears what a real one would, in both codecs."""

from __future__ import annotations

import pytest
from tests.rooms import Note, hub

from hubbub import (
    BadRequest,
    Disconnect,
    PermissionDenied,
    ReplyError,
    UnknownChannel,
)
from hubbub.errors import MethodNotFound, TokenExpired
from hubbub.testing import ExpectationFailed, TestHub
from hubbub.testing.dialects import CodecName

CODECS: list[CodecName] = ["json", "protobuf"]


# what the introduction shows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
async def test_two_people_in_a_room(codec: CodecName) -> None:
    async with TestHub(hub) as server:
        alice = await server.connect(user="alice", codec=codec)
        bob = await server.connect(user="bob", info={"name": "Bob"}, codec=codec)
        await alice.subscribe("room:42", join_leave=True)
        await bob.subscribe("room:42")
        assert [info.user for info in alice.joins["room:42"]] == ["alice", "bob"]

        await alice.publish("room:42", {"text": "hi"})
        publication = await bob.next("room:42")
        assert publication.data == {"text": "hi"}
        assert publication.info is not None
        assert publication.info.user == "alice"
        assert publication.position is not None
        assert (await alice.next("room:42", type=Note)).data == Note("hi")
        await bob.expect_nothing("room:42")

        members = await alice.presence("room:42")
        assert members[bob.id].conn_info == b'{"name":"Bob"}'
        assert await alice.presence_stats("room:42") == (2, 2)
        history = await alice.history("room:42")
        assert [each.data for each in history.publications] == [{"text": "hi"}]
        assert history.position == publication.position
        assert (await alice.history("room:42", since=history.position)).publications == []

        await bob.unsubscribe("room:42")
        assert [info.user for info in alice.leaves["room:42"]] == ["bob"]
        await alice.publish("room:42", {"text": "anyone?"})
        await bob.expect_nothing()
        assert [each.data for each in server.published("room:42")] == [{"text": "hi"}, {"text": "anyone?"}]


@pytest.mark.parametrize("codec", CODECS)
async def test_who_was_cut_off_comes_back_with_its_positions(codec: CodecName) -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob", codec=codec)
        await bob.subscribe("room:42")
        await bob.subscribe("words:a")
        before = bob.id
        await hub.publish("room:42", {"text": "seen"})
        assert (await bob.next("room:42")).data == {"text": "seen"}
        await bob.drop()
        assert bob.closed == 1006
        await hub.publish("room:42", {"text": "missed"})
        await hub.publish("inbox:bob", "also missed")

        back = await bob.reconnect()

        assert bob.closed == 0
        assert bob.id != before
        assert {channel: [each.data for each in missed] for channel, missed in back.recovered.items()} == {
            "room:42": [{"text": "missed"}],
            "inbox:bob": ["also missed"],
        }
        assert back.lost == []
        assert back.refused == {}
        await bob.expect_nothing()  # what was missed is in the result
        await hub.publish("room:42", {"text": "new"})
        await hub.publish("words:a", "heard")
        assert (await bob.next("room:42")).data == {"text": "new"}
        assert (await bob.next("words:a")).data == "heard"


@pytest.mark.parametrize("codec", CODECS)
async def test_a_long_absence_is_recovered_in_one_piece(codec: CodecName) -> None:
    async with TestHub(
        hub, channels={"long": {"delivery": "recent", "history_size": 1000, "subscribe": "user"}}
    ) as server:
        bob = await server.connect(user="bob", codec=codec)
        await bob.subscribe("long:1")
        await bob.drop()
        for number in range(900):
            await hub.publish("long:1", {"n": number, "filling": "x" * 900})
        back = await bob.reconnect()
        assert [each.data["n"] for each in back.recovered["long:1"]] == list(range(900))
        await bob.expect_nothing()


async def test_the_server_sees_who_was_cut_off() -> None:
    async with TestHub(hub) as server:
        alice, bob = await server.connect(user="alice"), await server.connect(user="bob")
        await alice.subscribe("room:42", join_leave=True)
        await bob.subscribe("room:42")
        await bob.drop()
        assert [info.user for info in alice.leaves["room:42"]] == ["bob"]
        assert list(await alice.presence("room:42")) == [alice.id]
        with pytest.raises(Disconnect):
            await bob.publish("room:42", {"text": "nobody hears this"})
        assert server.published() == []


@pytest.mark.parametrize("codec", CODECS)
async def test_a_server_puts_a_client_into_a_channel_for_as_long_as_it_is_connected(codec: CodecName) -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob", codec=codec)
        assert await hub.node.control.subscribe("bob", "news:1") == 1
        await hub.publish("news:1", "hi")
        publication = await bob.next("news:1")
        assert publication.data == "hi"
        assert bob.positions["news:1"] == publication.position
        await bob.drop()
        await hub.publish("news:1", "missed")
        assert "news:1" not in (await bob.reconnect()).recovered
        assert hub.node.control.refresh("bob", expire_at=server.clock.time() + 60) == 1
        await server.settle()
        assert bob.received[-1].startswith("refresh: ")


async def test_a_new_client_begins_where_another_stood() -> None:
    async with TestHub(hub) as server:
        alice = await server.connect(user="alice")
        start = (await alice.subscribe("news:1")).position
        for number in range(100):
            await hub.publish("news:1", {"n": number, "filling": "x" * 9000})
        bob = await server.connect(user="bob")
        entered = await bob.subscribe("news:1", since=start)
        assert entered.recovered is True
        assert [each.data["n"] for each in entered.publications] == list(range(100))
        assert entered.position == (await alice.history("news:1", limit=0)).position
        await bob.expect_nothing()


async def test_who_was_unsubscribed_may_subscribe_again() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob")
        await bob.subscribe("news:1")
        assert await hub.unsubscribe("bob", "news:1") == 1
        await server.settle()
        assert bob.unsubscribed == {"news:1": 2000}
        await hub.publish("news:1", "missed")
        again = await bob.subscribe("news:1", since=bob.positions["news:1"])
        assert [each.data for each in again.publications] == ["missed"]
        assert bob.unsubscribed == {}
        await hub.publish("news:1", "new")
        assert (await bob.next("news:1")).data == "new"


async def test_what_is_published_on_the_return_is_new_and_not_missed() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob")
        await bob.subscribe("room:greeted")
        assert (await bob.next("room:greeted")).data == {"text": "bob is here"}
        await bob.drop()
        await hub.publish("room:greeted", {"text": "missed"})
        back = await bob.reconnect()
        assert [each.data for each in back.recovered["room:greeted"]] == [{"text": "missed"}]
        assert (await bob.next("room:greeted")).data == {"text": "bob is here"}


async def test_what_cannot_be_recovered_is_told_as_lost() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob")
        await bob.subscribe("room:42")
        await hub.publish("room:42", {"text": "seen"})
        await bob.drop()
        await hub.publish("room:42", {"text": "missed"})
        await server.pass_time(301)  # longer than history_ttl
        back = await bob.reconnect()
        assert "room:42" in back.lost
        assert back.recovered == {}
        assert "subscribed to room:42, NOT recovered" in bob.received


async def test_who_may_no_longer_subscribe_is_told_so_on_the_return() -> None:
    async with TestHub(hub) as server:
        grant = hub.token("bob", channel="secret:1", ttl=60)
        bob = await server.connect(user="bob")
        await bob.subscribe("secret:1", token=grant)
        await bob.drop()
        await server.pass_time(61)
        back = await bob.reconnect()
        assert isinstance(back.refused["secret:1"], TokenExpired)


# errors are those of the server ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
async def test_errors_are_the_exceptions_that_the_server_raised(codec: CodecName) -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob", codec=codec)
        with pytest.raises(PermissionDenied, match="bob may not enter"):
            await bob.subscribe("room:closed")
        with pytest.raises(PermissionDenied):
            await bob.subscribe("secret:1")
        with pytest.raises(UnknownChannel) as unknown:
            await bob.publish("nowhere:1", {})
        assert unknown.value.wire_code == 102
        with pytest.raises(MethodNotFound):
            await bob.rpc("rooms.remove")
        with pytest.raises(ReplyError, match="the room is full") as own:
            await bob.rpc("rooms.refuse")
        assert own.value.wire_code == 1200
        await bob.subscribe("room:42")
        with pytest.raises(BadRequest, match="text"):
            await bob.publish("room:42", {"txt": "hi"})
        assert server.published() == []
        assert bob.closed == 0


@pytest.mark.parametrize("codec", CODECS)
async def test_rpcs_answer(codec: CodecName) -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob", codec=codec)
        assert await bob.rpc("rooms.rename", {"name": "kitchen"}) == {"by": "bob", "name": "kitchen"}
        assert await bob.rpc("rooms.nothing") is None


async def test_a_close_is_the_disconnect_that_caused_it() -> None:
    async with TestHub(hub) as server:
        with pytest.raises(Disconnect) as invalid:
            await server.connect(token="nonsense")
        assert invalid.value.code == 3500
        with pytest.raises(Disconnect) as nobody:
            await server.connect()
        assert nobody.value.code == 3501
        bob = await server.connect(user="bob")
        assert await hub.disconnect("bob", code=4500, reason="be gone") == 1
        assert (bob.closed, bob.close_reason) == (4500, "be gone")
        with pytest.raises(Disconnect, match="4500 be gone"):
            await bob.publish("news:1", {})
        with pytest.raises(ExpectationFailed, match="SDKs stay away after 4500"):
            await bob.reconnect()


# payloads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
async def test_every_format_comes_out_as_it_went_in(codec: CodecName) -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob", codec=codec)
        for channel, value in (("blob:1", b"\x00\xff"), ("words:1", 'say "hi"'), ("news:1", {"a": [1, None, "ü"]})):
            await bob.subscribe(channel)
            await hub.publish(channel, value, tags={"k": "v"})
            publication = await bob.next(channel)
            assert publication.data == value
            assert publication.tags == {"k": "v"}
        assert [each.data for each in (await bob.history("blob:1")).publications] == [b"\x00\xff"]


async def test_a_protobuf_client_publishes_bytes_and_text() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob", codec="protobuf")
        await bob.publish("blob:1", b"\x00\xff")
        await bob.publish("words:1", "hi")
        assert [each.data for each in server.published()] == [b"\x00\xff", "hi"]


async def test_the_newest_of_a_noticeboard_comes_with_the_subscription() -> None:
    async with TestHub(hub) as server:
        await hub.publish("score:1", 1)
        await hub.publish("score:1", 2)
        bob = await server.connect(user="bob")
        entered = await bob.subscribe("score:1")
        assert [each.data for each in entered.publications] == [2]
        await bob.expect_nothing()


async def test_a_class_decides_what_is_published() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob")
        await bob.subscribe("room:loud")
        await bob.publish("room:loud", {"text": "hi"})
        await bob.publish("room:loud", {"text": "typing"})
        assert (await bob.next("room:loud")).data == {"text": "HI"}
        ephemeral = await bob.next("room:loud")
        assert (ephemeral.data, ephemeral.position) == ({"text": "typing"}, None)


async def test_a_message_beyond_all_limits_ends_the_connection() -> None:
    async with TestHub(hub) as server:
        bob = await server.connect(user="bob")
        with pytest.raises(Disconnect):
            await bob.publish("news:1", "x" * hub.max_message)
        assert bob.closed == 1009


async def test_too_many_clients_are_refused() -> None:
    async with TestHub(hub, client={"max_connections": 1}) as server:
        await server.connect(user="alice")
        with pytest.raises(ConnectionRefusedError, match="too many"):
            await server.connect(user="bob")
