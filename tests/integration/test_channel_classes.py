"""Channel classes, RPCs and authentication in Python, as clients meet them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.unplugged import Talk, connected

from hubbub import (
    BadRequest,
    ConfigurationError,
    Connection,
    Credentials,
    Disconnect,
    Ephemeral,
    Hubbub,
    HubbubError,
    PermissionDenied,
    ReplyError,
)
from hubbub.brokers.base import is_nodes_own
from hubbub.clock import ManualClock


class Note(msgspec.Struct):
    text: str
    stars: int = 0


class Rename(msgspec.Struct):
    room: int
    name: str


class Diary:
    """What the application was told."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, object]] = []
        self.news = asyncio.Event()

    def write(self, what: str, who: str, about: object) -> None:
        self.entries.append((what, who, about))
        self.news.set()

    async def until(self, count: int) -> list[tuple[str, str, object]]:
        async with asyncio.timeout(5):
            while len(self.entries) < count:
                self.news.clear()
                await self.news.wait()
        return self.entries


REFUSED = {
    13: PermissionDenied("room 13 is closed"),
    14: PermissionError(),
    15: ZeroDivisionError(),
    17: Disconnect(4500, "go away"),
    18: ReplyError("room 18 is full", code=418),
}


def made_of(note: Note) -> Note | Ephemeral[Note] | None:
    if note.text == "typing":
        return Ephemeral(note)
    if note.text == "huge":
        return Note("x" * 2000)
    return Note(note.text.upper()) if note.stars else None


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
async def hub(diary: Diary) -> AsyncIterator[Hubbub]:
    hub = Hubbub(auth={"anonymous": True}, client={"handler_timeout": 0.2})
    add_rooms(hub, diary)
    add_rpcs(hub)
    hub.authenticate(who)
    async with hub:
        yield hub


def add_rooms(hub: Hubbub, diary: Diary) -> None:
    @hub.channel("room:{room_id}", delivery="recent", presence=True, history_ttl="10m", max_bytes="1KiB")
    class Room:
        async def subscribe(self, connection: Connection, room_id: int) -> None:
            if room_id == 16:
                await asyncio.Event().wait()
            if room_id in REFUSED:
                raise REFUSED[room_id]

        async def publish(self, connection: Connection, room_id: int, data: Note) -> Note | Ephemeral[Note] | None:
            diary.write("publish", connection.user, (room_id, data))
            return made_of(data)

        async def join(self, connection: Connection, room_id: int) -> None:
            await asyncio.sleep(0)  # the leave has to wait for this
            diary.write("join", connection.user, room_id)
            if room_id == 99:
                raise PermissionDenied("too late")

        async def leave(self, connection: Connection, room_id: int) -> None:
            diary.write("leave", connection.user, room_id)


def add_rpcs(hub: Hubbub) -> None:
    @hub.rpc("rooms.rename")
    async def rename(connection: Connection, request: Rename) -> dict[str, object]:
        return {"by": connection.user, "room": request.room, "name": request.name}

    @hub.rpc("whoami")
    async def whoami(connection: Connection) -> str:
        return connection.user

    @hub.rpc("broken")
    async def broken(connection: Connection) -> object:
        return object()


async def who(connection: Connection) -> Credentials | None:
    if connection.token == "open sesame" or "ann" in connection.headers.get("cookie", ""):
        return Credentials("ann", info={"name": "Ann"}, data=connection.data, channels=["room:1"])
    if connection.query == "user=mallory":
        raise Disconnect(3501, detail="not you")
    return None


def code(reply: dict[str, object]) -> tuple[object, object]:
    error = reply["error"]
    assert isinstance(error, dict)
    return error["code"], error["message"]


async def test_who_may_subscribe_is_the_class_s_affair(hub: Hubbub, caplog: pytest.LogCaptureFixture) -> None:
    talk = await connected(hub)
    assert (await talk.ask("subscribe", channel="room:1"))["recoverable"] is True
    assert code(await talk.ask("subscribe", channel="room:13")) == (103, "room 13 is closed")
    assert code(await talk.ask("subscribe", channel="room:14")) == (103, "permission denied")
    assert code(await talk.ask("subscribe", channel="room:18")) == (418, "room 18 is full")
    assert code(await talk.ask("subscribe", channel="room:x")) == (107, "channel name: room_id = 'x' is no integer")
    assert not caplog.records
    with caplog.at_level(logging.ERROR):
        assert code(await talk.ask("subscribe", channel="room:15")) == (100, "internal server error")
        assert code(await talk.ask("subscribe", channel="room:16")) == (100, "internal server error")
    failed, late = caplog.messages
    assert failed.startswith("subscribe of Room (test_channel_classes.py, line ")
    assert failed.endswith(") failed")
    assert late.endswith("did not answer within 0.2 s (client.handler_timeout)")
    assert list(talk.connection.subscriptions) == ["room:1"]
    kept = [name for name in hub.node.hub.channels if not is_nodes_own(name)]
    assert kept == ["room:1"], "a name that was refused is not kept"
    assert hub.node.observer.counts["handler_failed"] == 2
    caplog.clear()


async def test_a_class_may_end_the_connection(hub: Hubbub) -> None:
    talk = await connected(hub)
    talk.connection.receive(b'{"id":9,"subscribe":{"channel":"room:17"}}')
    assert await talk.goodbye() == (4500, "go away")


async def test_what_is_published_is_what_the_class_makes_of_it(hub: Hubbub, diary: Diary) -> None:
    talk = await connected(hub)
    assert code(await talk.ask("publish", channel="room:1", data={"text": "early"})) == (
        103,
        "permission denied: publish = 'subscriber' in the rules of this channel",
    )
    await talk.ask("subscribe", channel="room:1")
    assert await talk.ask("publish", channel="room:1", data={"text": "hi"}) == {}
    first = (await talk.push())["pub"]
    assert (first["data"], first["offset"]) == ({"text": "hi"}, 1), "as it came"
    await talk.ask("publish", channel="room:1", data={"text": "hi", "stars": 1})
    second = (await talk.push())["pub"]
    assert (second["data"], second["offset"]) == ({"text": "HI", "stars": 0}, 2)
    await talk.ask("publish", channel="room:1", data={"text": "typing"})
    assert "offset" not in (await talk.push())["pub"]
    assert len((await hub.history("room:1")).publications) == 2, "typing is kept nowhere"
    published = [about for what, _, about in diary.entries if what == "publish"]
    assert published[0] == (1, Note("hi"))


async def test_a_payload_that_does_not_fit_is_refused_and_the_field_is_named(hub: Hubbub, diary: Diary) -> None:
    talk = await connected(hub)
    await talk.ask("subscribe", channel="room:1")
    refused = await talk.ask("publish", channel="room:1", data={"text": 1})
    assert code(refused) == (107, "payload does not fit Note: text: Expected `str`, got `int`")
    refused = await talk.ask("publish", channel="room:1", data={})
    assert code(refused) == (107, "payload does not fit Note: Object missing required field `text`")
    assert code(await talk.ask("publish", channel="room:1", data="x" * 2000))[0] == 107, "the gate comes first"
    assert code(await talk.ask("publish", channel="room:1", data={"text": "huge"}))[0] == 107, "and last"
    assert [what for what, *_ in diary.entries] == ["join", "publish"]
    assert (await hub.history("room:1")).publications == []


async def test_server_side_publications_do_not_ask_the_class(hub: Hubbub, diary: Diary) -> None:
    await hub.publish("room:1", {"any": "shape"})
    assert diary.entries == []


async def test_join_and_leave_come_once_each_and_in_order(hub: Hubbub, diary: Diary) -> None:
    talk = await connected(hub, token="open sesame")
    await talk.ask("subscribe", channel="room:2")
    talk.connection.closed()
    entries = await diary.until(4)
    for room in (1, 2):
        assert [what for what, who, about in entries if about == room] == ["join", "leave"]
    assert {who for _, who, _ in entries} == {"ann"}


async def test_who_was_refused_never_came(hub: Hubbub, diary: Diary) -> None:
    talk = await connected(hub)
    await talk.ask("subscribe", channel="room:13")
    await talk.ask("subscribe", channel="room:1")
    await talk.ask("unsubscribe", channel="room:1")
    assert await diary.until(2) == [("join", "", 1), ("leave", "", 1)]


async def test_refusing_in_join_is_too_late_and_logged(
    hub: Hubbub, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    talk = await connected(hub)
    with caplog.at_level(logging.WARNING):
        await talk.ask("subscribe", channel="room:99")
        await diary.until(1)
        await talk.ask("unsubscribe", channel="room:99")
        await diary.until(2)
    (line,) = caplog.messages
    assert line.endswith("raised PermissionDenied('too late'), which nobody hears: refuse in subscribe")
    caplog.clear()


async def test_rpc(hub: Hubbub, caplog: pytest.LogCaptureFixture) -> None:
    talk = await connected(hub, token="open sesame")
    renamed = await talk.ask("rpc", method="rooms.rename", data={"room": 1, "name": "Attic"})
    assert renamed == {"data": {"by": "ann", "room": 1, "name": "Attic"}}
    assert await talk.ask("rpc", method="whoami") == {"data": "ann"}
    refused = await talk.ask("rpc", method="rooms.rename", data={"room": "x", "name": ""})
    assert code(refused) == (107, "payload does not fit Rename: room: Expected `int`, got `str`")
    assert code(await talk.ask("rpc", method="nonsense"))[0] == 104
    with caplog.at_level(logging.ERROR):
        assert code(await talk.ask("rpc", method="broken"))[0] == 100
    assert "its result: payload cannot be written as JSON: objects of type object have no place there" in caplog.text
    caplog.clear()


async def test_the_built_in_rpc_publishes_with_the_rights_of_the_command(hub: Hubbub) -> None:
    talk = await connected(hub)
    note = {"channel": "room:1", "data": {"text": "hi"}}
    assert code(await talk.ask("rpc", method="publish", data=note))[0] == 103
    epoch = (await talk.ask("subscribe", channel="room:1"))["epoch"]
    assert await talk.ask("rpc", method="publish", data=note) == {"data": {"offset": 1, "epoch": epoch}}
    assert (await talk.push())["pub"]["offset"] == 1
    assert await talk.ask("rpc", method="publish", data={**note, "ephemeral": True}) == {"data": {}}
    assert "offset" not in (await talk.push())["pub"]
    once = {**note, "idempotency_key": "k"}
    first = await talk.ask("rpc", method="publish", data=once)
    assert first["data"]["offset"] == 2
    assert await talk.ask("rpc", method="publish", data=once) == first, "a retry publishes nothing, also here"
    for wrong in ({"channel": "room:1"}, {**note, "ephemeral": 1}, {**note, "epehmeral": True}, None):
        number, message = code(await talk.ask("rpc", method="publish", data=wrong))
        assert number == 107
        assert str(message).startswith("RPC publish takes {channel, data, ephemeral, idempotency_key}: ")


async def test_the_application_says_who_it_is_where_no_token_does(hub: Hubbub) -> None:
    ann = Talk(hub, headers={"cookie": "session=ann"})
    reply = await ann.ask("connect", data={"page": 7})
    assert reply["data"] == {"page": 7}
    assert list(reply["subs"]) == ["room:1"]
    assert ann.transport.head == ({}, ""), "nobody asks again"
    await ann.ask("publish", channel="room:1", data={"text": "hi"})
    assert (await ann.push())["pub"]["info"]["conn_info"] == {"name": "Ann"}
    nobody = await connected(hub, token="")
    assert nobody.connection.user == "", "whom the application does not know is anonymous, where that is allowed"
    mallory = Talk(hub, query="user=mallory")
    mallory.connection.receive(b'{"id":1,"connect":{}}')
    assert (await mallory.goodbye())[0] == 3501


async def test_a_token_is_verified_and_not_shown_to_the_application() -> None:
    hub = Hubbub(auth={"hmac_secret": "a secret of more than thirty-two bytes"})
    asked: list[str] = []

    @hub.authenticate
    async def who(connection: Connection) -> Credentials | None:
        asked.append(connection.token)
        return Credentials("guest")

    async with hub:
        assert (await connected(hub, token=hub.token("ann"))).connection.user == "ann"
        assert (await connected(hub)).connection.user == "guest"
    assert asked == [""]


class Anything:
    """A class that speaks for nothing in particular."""

    async def subscribe(self, connection: Connection) -> None: ...


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"delivry": "recent"},
            "unknown setting channels.room.delivry; the nearest known one is channels.room.delivery",
        ),
        ({"delivery": "reliable"}, "channels.room.delivery = 'reliable': expected one of live, latest, recent"),
        ({"join_leave": "always"}, "join_leave = 'always' needs presence = true"),
        ({"rate": "fast"}, "rate"),
    ],
)
def test_options_are_read_like_settings(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Hubbub().channel("room:{room_id}", **options)(Anything)  # type: ignore[arg-type]  # mistakes on purpose
    assert str(caught.value).startswith("Anything (test_channel_classes.py, line ")
    assert says in str(caught.value)


def test_rules_stand_in_one_place(tmp_path: Path) -> None:
    config = tmp_path / "hubbub.toml"
    config.write_text('[server]\nport = 1\n\n[channels.room]\ndelivery = "recent"\n')
    with pytest.raises(ConfigurationError) as caught:
        Hubbub(config=config).channel("room:{room_id}")(Anything)
    found = str(caught.value)
    assert found.startswith(
        f"'room:{{room_id}}' has its rules in [channels.room] of {config}, line 4, and in Anything ("
    )
    assert found.endswith("): keep one")


async def test_a_class_for_one_channel_and_rules_that_decide_alone() -> None:
    hub = Hubbub(auth={"anonymous": True})

    @hub.channel("lobby", subscribe="anyone", publish="anyone", delivery="latest")
    class Lobby:
        """Nothing to say: the rules decide."""

    @hub.channel("vault", subscribe="user")
    class Vault(Anything):
        """Both have to agree."""

    async with hub:
        talk = await connected(hub)
        await talk.ask("subscribe", channel="lobby")
        assert await talk.ask("publish", channel="lobby", data=1) == {}
        assert code(await talk.ask("subscribe", channel="vault"))[0] == 103
        with pytest.raises(BadRequest):
            await hub.publish("lobby", object())


async def test_text_and_bytes_as_clients_of_json_write_them() -> None:
    hub = Hubbub(auth={"anonymous": True})
    seen: list[object] = []

    @hub.channel("words:{id}", subscribe="anyone", delivery="recent", data="text")
    class Words:
        async def publish(self, connection: Connection, data: str) -> str | None:
            seen.append(data)
            return data.upper() if data == "shout" else None

    @hub.channel("bytes:{id}", subscribe="anyone", delivery="recent", data="binary")
    class Bytes:
        async def publish(self, connection: Connection, data: bytes) -> bytes | None:
            seen.append(data)
            return None

    async with hub:
        talk = await connected(hub)
        for channel in ("words:1", "bytes:1"):
            await talk.ask("subscribe", channel=channel)
        for said, heard in (("hi", "hi"), ("shout", "SHOUT")):
            assert await talk.ask("publish", channel="words:1", data=said) == {}
            assert (await talk.push())["pub"]["data"] == heard
        assert await talk.ask("publish", channel="bytes:1", data="AP8=") == {}
        assert (await talk.push())["pub"]["data"] == "AP8="
        assert seen == ["hi", "shout", b"\x00\xff"]
        assert [each.data for each in (await hub.history("words:1")).publications] == ["hi", "SHOUT"]
        assert (await hub.history("bytes:1")).publications[0].data == b"\x00\xff"
        refused = await talk.ask("publish", channel="words:1", data=1)
        assert code(refused) == (107, "payload is no string, and this channel carries text")
        refused = await talk.ask("rpc", method="publish", data={"channel": "bytes:1", "data": "no base64!"})
        assert code(refused) == (107, "payload is not base64, in which JSON carries bytes")


SECRET = "a secret of more than thirty-two bytes"


async def test_tokens_of_the_hub_open_it_until_they_are_revoked() -> None:
    auth = {"hmac_secret": SECRET, "issuer": "here"}
    hub = Hubbub(clock=ManualClock(), auth=auth, channels={"news": {"subscribe": "token"}})
    async with hub:
        token = hub.token("ann", info={"n": 1}, channels=["news:all"])
        talk = Talk(hub)
        reply = await talk.ask("connect", token=token)
        assert (list(reply["subs"]), reply["ttl"]) == (["news:all"], 3600)
        assert talk.connection.credentials.info == b'{"n":1}'
        assert (await talk.ask("subscribe", channel="news:1", token=hub.token("ann", channel="news:1")))["ttl"] == 3600
        assert code(await talk.ask("subscribe", channel="news:2"))[0] == 103
        assert await hub.revoke("ann") == 1
        assert (await talk.goodbye())[0] == 3005
        again = await Talk(hub).ask("connect", token=token)
        assert code(again)[0] == 109, "SDKs ask for a new one"
        assert (await Talk(hub).ask("connect", token=hub.token("bob")))["expires"] is True


async def test_who_has_no_secret_cannot_sign() -> None:
    with pytest.raises(ConfigurationError, match=r"auth.hmac_secret is empty: set it to sign tokens with$"):
        Hubbub().token("ann")


async def test_servers_end_subscriptions_and_connections() -> None:
    async with Hubbub(auth={"insecure": True}) as hub:
        talk, other = await connected(hub), await connected(hub)
        for channel in ("a", "b"):
            await talk.ask("subscribe", channel=channel)
        assert await hub.channels() == {"a": 1, "b": 1}
        await talk.ask("subscribe", channel="odd[*]?")
        assert [await hub.subscribers(channel) for channel in ("a", "*", "odd[*]?", "odd")] == [1, 0, 1, 0]
        await talk.ask("unsubscribe", channel="odd[*]?")
        assert await hub.unsubscribe("", "a") == 1
        assert await talk.push() == {"channel": "a", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}
        assert await hub.channels("[ab]") == {"b": 1}
        assert await hub.disconnect("", client=talk.connection.id, code=4000, reason="later") == 1
        assert await talk.goodbye() == (4000, "later")
        assert await hub.disconnect("", whitelist=[other.connection.id]) == 0


async def test_stronger_settings_before_the_start_keep_what_is_registered() -> None:
    hub = Hubbub(channels={"news": {"delivery": "recent"}})

    @hub.channel("room:{id}", delivery="recent")
    class Room(Anything):
        """The one from above."""

    hub.override({"auth.anonymous": True, "server.port": 9000})
    assert hub.settings.server.port == 9000
    assert hub.settings.channels["news"].delivery == "recent"
    async with hub:
        talk = await connected(hub)
        assert (await talk.ask("subscribe", channel="room:1"))["recoverable"] is True
        with pytest.raises(HubbubError, match="the hub is started: settings are given before"):
            hub.override({"server.port": 1})
    with pytest.raises(ConfigurationError, match=r"argument: unknown setting server.prot"):
        hub.override({"server.prot": 1})


async def test_nobody_publishes_or_reads_on_the_strength_of_a_subscribe_that_is_not_decided() -> None:
    hub, decide = Hubbub(auth={"anonymous": True}), asyncio.Event()

    @hub.channel("chat:{id}", delivery="recent", publish="subscriber", presence=True)
    class Chat:
        async def subscribe(self, connection: Connection, id: str) -> None:
            await decide.wait()
            raise PermissionDenied

    async with hub:
        talk = await connected(hub)
        waiting = asyncio.ensure_future(talk.ask("subscribe", channel="chat:1"))
        await asyncio.sleep(0)
        note = {"channel": "chat:1", "data": 1}
        assert code(await talk.ask("rpc", method="publish", data=note))[0] == 103
        decide.set()
        assert code(await waiting)[0] == 103
        assert (await hub.history("chat:1")).publications == []


async def test_an_rpc_that_waited_for_something_cancelled_has_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hubbub(auth={"anonymous": True})

    @hub.rpc("odd")
    async def odd(connection: Connection) -> None:
        somebody_elses = asyncio.create_task(asyncio.Event().wait())
        somebody_elses.cancel()
        await somebody_elses

    async with hub:
        talk = await connected(hub)
        with caplog.at_level(logging.ERROR):
            assert code(await talk.ask("rpc", method="odd"))[0] == 100
    assert caplog.messages[0].endswith(" failed: what it waited for was cancelled")
    caplog.clear()
