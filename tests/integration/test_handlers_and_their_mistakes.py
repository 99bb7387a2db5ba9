"""What applications return, annotate and forget; and clients that try to make use of it."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

import pytest
from msgspec import Meta
from tests.unplugged import Talk, connected

from hubbub import BadRequest, ConfigurationError, Connection, Credentials, Hubbub, Publication
from hubbub.clock import ManualClock
from hubbub.handlers import consumers

SECRET = "a secret of more than thirty-two bytes"


def code(reply: dict[str, Any]) -> tuple[int, str]:
    return reply["error"]["code"], reply["error"]["message"]


async def test_constraints_in_annotations_hold() -> None:
    hub = Hubbub(auth={"anonymous": True})

    @hub.channel("short:{number}", subscribe="anyone", publish="anyone")
    class Short:
        async def publish(
            self, connection: Connection, number: Annotated[int, "any"], data: list[Annotated[str, Meta(max_length=3)]]
        ) -> None: ...

    @hub.rpc("count")
    async def count(connection: Connection, request: Annotated[int, Meta(ge=0)]) -> int:
        return request

    @hub.on("three")
    async def three(word: Annotated[str, Meta(max_length=3)]) -> None: ...

    async with hub:
        talk = await connected(hub)
        assert await talk.ask("publish", channel="short:1", data=["abc"]) == {}
        assert code(await talk.ask("publish", channel="short:1", data=["abcd"]))[0] == 107
        assert code(await talk.ask("rpc", method="count", data=-1))[0] == 107
        with pytest.raises(BadRequest, match="payload does not fit str: Expected `str` of length <= 3"):
            await hub.publish("three", "four")


async def test_constraints_of_pydantic_hold() -> None:
    pydantic = pytest.importorskip("pydantic")
    hub = Hubbub()

    async def large(number: int) -> None: ...

    large.__annotations__["number"] = Annotated[int, pydantic.Field(gt=5)]
    hub.on("large")(large)
    async with hub:
        await hub.publish("large", 6)
        with pytest.raises(BadRequest, match="payload does not fit int: Input should be greater than 5"):
            await hub.publish("large", 5)


async def test_one_number_has_one_channel() -> None:
    hub = Hubbub(auth={"anonymous": True})

    @hub.channel("room:{number}")
    class Room:
        async def subscribe(self, connection: Connection, number: int) -> None: ...

    async with hub:
        talk = await connected(hub)
        await talk.ask("subscribe", channel="room:42")
        for other in ("042", "4_2", "+42", "٤٢", " 42"):
            assert code(await talk.ask("subscribe", channel=f"room:{other}"))[0] == 107, other


async def test_a_client_s_idempotency_keys_are_its_own() -> None:
    hub = Hubbub(auth={"anonymous": True}, channels={"chat": {"delivery": "recent", "publish": "anyone"}})
    async with hub:
        note = {"channel": "chat:1", "data": "junk", "idempotency_key": "order-1"}
        talk, another = await connected(hub), await connected(hub)
        await another.ask("rpc", method="publish", data={**note, "ephemeral": True})
        await talk.ask("rpc", method="publish", data=note)
        done = await hub.publish("chat:1", {"order": 1}, idempotency_key="order-1")
        assert (done.duplicate, done.position and done.position.offset) == (False, 2)
        assert code(await talk.ask("rpc", method="publish", data={**note, "idempotency_key": "k" * 257}))[0] == 107


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (Credentials(None), "user = None: expected text, as in Credentials(str(user.id))"),  # type: ignore[arg-type]
        (Credentials(42), "user = 42: expected text, as in Credentials(str(user.id))"),  # type: ignore[arg-type]
        (Credentials("ann", channels="room:1"), "channels = 'room:1': expected a list of names"),
        (Credentials("ann", expire_at="soon"), "expire_at = 'soon': expected Unix time"),  # type: ignore[arg-type]
        (Credentials("ann", info=object()), "payload cannot be written as JSON: objects of type object"),
        ("ann", "returned 'ann'; expected hubbub.Credentials, or None"),
    ],
)
async def test_nobody_is_let_in_by_mistake(said: Any, told: str, caplog: pytest.LogCaptureFixture) -> None:
    hub = Hubbub(channels={"room": {}})

    @hub.authenticate
    async def who(connection: Connection) -> Any:
        return said

    async with hub:
        with caplog.at_level(logging.ERROR):
            assert code(await Talk(hub).ask("connect"))[0] == 100
    (line,) = caplog.messages
    assert line.startswith("who (test_handlers_and_their_mistakes.py, line ")
    assert told in line
    caplog.clear()


async def test_what_a_client_sends_along_has_to_be_json() -> None:
    hub = Hubbub()

    @hub.authenticate
    async def who(connection: Connection) -> Credentials:
        return Credentials("ann")

    async with hub:
        talk = Talk(hub)
        unchecked: Any = _Unchecked(talk.connection.session.codec)
        talk.connection.session.codec = unchecked  # as bytes of Protobuf would
        assert code(await talk.ask("connect", data={"page": 1}))[0] == 107


class _Unchecked:
    """A codec whose connect requests carry what is no JSON."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def decode(self, message: bytes) -> Any:
        from msgspec import Raw

        commands = self._codec.decode(message)
        for command in commands:
            if command.connect is not None:
                command.connect.data = Raw(b"\xff{")
        return commands


async def test_who_the_application_let_in_for_a_while_comes_again_and_is_asked_again() -> None:
    hub, clock = Hubbub(clock=ManualClock(), client={"expired_grace": "1s"}), None

    @hub.authenticate
    async def who(connection: Connection) -> Credentials:
        return Credentials("ann", expire_at=hub.node.clock.time() + 60)

    async with hub:
        talk = Talk(hub)
        reply = await talk.ask("connect")
        assert "expires" not in reply, "there is no token that SDKs could refresh"
        clock = hub.node.clock
        assert isinstance(clock, ManualClock)
        clock.move(62)
        hub.node.timers.advance()
        assert (await talk.goodbye())[0] == 3005


async def test_revoked_users_do_not_subscribe_with_old_tokens() -> None:
    hub = Hubbub(clock=ManualClock(), auth={"hmac_secret": SECRET}, channels={"news": {"subscribe": "token"}})
    async with hub:
        old = hub.token("ann", channel="news:1")
        await hub.revoke("ann")
        assert isinstance(hub.node.clock, ManualClock)
        hub.node.clock.move(2)
        talk = await connected(hub, token=hub.token("ann"))
        assert code(await talk.ask("subscribe", channel="news:1", token=old))[0] == 109
        assert "error" not in await talk.ask("subscribe", channel="news:1", token=hub.token("ann", channel="news:1"))


async def test_a_result_that_json_cannot_hold_is_told_to_the_server_and_not_to_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = Hubbub(auth={"anonymous": True})

    @hub.channel("room:{id}", subscribe="anyone", publish="anyone")
    class Room:
        async def publish(self, connection: Connection, data: Any) -> Any:
            return object()

    async with hub:
        talk = await connected(hub)
        with caplog.at_level(logging.ERROR):
            assert code(await talk.ask("publish", channel="room:1", data=1))[0] == 100
    assert "what it returned: payload cannot be written as JSON" in caplog.messages[0]
    caplog.clear()


async def test_types_fit_what_channels_carry() -> None:
    hub = Hubbub(channels={"words": {"data": "text"}, "bytes": {"data": "binary"}})
    with pytest.raises(ConfigurationError, match=r"data is str in a channel of text$"):

        @hub.channel("text:{id}", subscribe="anyone", data="text")
        class Wrong:
            async def publish(self, connection: Connection, data: int) -> None: ...

    @hub.on("words:1")
    async def number(word: int) -> None: ...

    async with hub:
        with pytest.raises(BadRequest, match="payload does not fit int"):
            await hub.publish("words:1", "one")


async def test_bytes_are_not_given_to_who_wants_something_else(caplog: pytest.LogCaptureFixture) -> None:
    hub, got = Hubbub(channels={"bytes": {"data": "binary"}}), []

    @hub.on("bytes:*")
    async def note(note: dict[str, int]) -> None:
        got.append(note)

    with caplog.at_level(logging.ERROR):
        async with hub:
            await hub.publish("bytes:1", b"\xff")
    assert got == []
    assert "payload does not fit dict: it is bytes" in caplog.text
    caplog.clear()


async def test_a_handler_may_stop_the_hub() -> None:
    hub = Hubbub()

    @hub.on("off")
    async def off(publication: Publication[Any]) -> None:
        await hub.stop()

    await hub.start()
    await hub.publish("off", 1)
    async with asyncio.timeout(5):
        while hub.node.is_running:  # noqa: ASYNC110 - turns of the loop, and nobody tells
            await asyncio.sleep(0)


async def test_who_lost_its_place_is_given_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    hub, got, gate = Hubbub(channels={"log": {"delivery": "recent", "history_size": 5}}), [], asyncio.Event()

    @hub.on("log:1")
    async def slow(number: int) -> None:
        await gate.wait()
        got.append(number)

    count = 3 * consumers.QUEUE_LIMIT
    with caplog.at_level(logging.ERROR):
        async with hub:
            await hub.publish_many(("log:1", number) for number in range(count))
            gate.set()
            async with asyncio.timeout(5):
                while not got or got[-1] != count - 1:  # noqa: ASYNC110 - turns of the loop, and nobody tells
                    await asyncio.sleep(0)
    assert got[-5:] == list(range(count - 5, count))
    assert got == sorted(set(got)), "in order, and nothing twice"
    assert "missed publications" in caplog.text
    caplog.clear()


async def test_who_listens_to_a_live_channel_too_slowly_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with Hubbub() as hub:
        with caplog.at_level(logging.WARNING):
            async with hub.subscribe("live"):
                await hub.publish_many(("live", number) for number in range(3 * consumers.QUEUE_LIMIT))
    assert caplog.messages == ["who listens to live is too slow: in a live channel what comes is dropped"]
    caplog.clear()


async def test_nobody_is_asked_for_who_has_gone() -> None:
    hub, cancelled = Hubbub(), asyncio.Event()

    @hub.authenticate
    async def who(connection: Connection) -> Credentials:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    async with hub:
        talk = Talk(hub)
        talk.connection.receive(b'{"id":1,"connect":{}}')
        await asyncio.sleep(0)
        talk.connection.closed()
        async with asyncio.timeout(5):
            await cancelled.wait()
        assert not hub.at_work


async def test_codes_that_are_no_disconnect_codes_are_refused() -> None:
    async with Hubbub() as hub:
        for wrong in (5, 1005, 99_999):
            with pytest.raises(BadRequest, match=f"disconnect code = {wrong}: expected 3000 to 4999"):
                await hub.disconnect("ann", code=wrong)
