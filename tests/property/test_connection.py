"""The laws of a connection: any bytes and any order of commands lead to an answer or to a close, and harm nobody else.

The table below is section 4 of the client protocol, for every state, command and codec. The rest throws at a
connection what the table leaves out: arbitrary bytes, batches, hostile payloads, and time.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fakes import SECRET, Client, House, open_access
from tests.faults import UnreliableBroker
from tests.wire import encode_command, varint

from hubbub.auth import TokenVerifier, connection_token, subscription_token
from hubbub.channels import ChannelRules
from hubbub.core.access import Access
from hubbub.core.hooks import Caller, NoHandlers
from hubbub.core.node import Limits
from hubbub.model import Position
from hubbub.protocol.messages import REQUEST_FIELDS

ANYONE: dict[str, Any] = {"subscribe": "anyone", "publish": "anyone", "read": "anyone"}
RULES = {
    "news": ChannelRules(delivery="recent", **ANYONE),
    "live": ChannelRules(**ANYONE),
    "text": ChannelRules(data="text", **ANYONE),
    "room": ChannelRules(presence=True, join_leave="always", **ANYONE),
}
KINDS = (*REQUEST_FIELDS, "ping")
STATES = ("new", "connecting", "connected", "refused", "closed")


class Application(NoHandlers):
    """Handlers that echo; `hold` makes them wait."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.gate: asyncio.Event | None = None

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        if self.gate is not None:
            await self.gate.wait()
        return data or b"{}"

    async def send(self, caller: Caller, data: bytes) -> None:
        self.sent.append(data)


def body_of(kind: str) -> dict[str, Any]:
    """A sensible body."""
    if kind == "publish":
        return {"channel": "news:1", "data": 1}
    if kind in ("refresh", "sub_refresh"):
        token = connection_token(SECRET, "") if kind == "refresh" else subscription_token(SECRET, "news:1", "")
        return {"token": token, "channel": "news:1"} if kind == "sub_refresh" else {"token": token}
    if kind == "rpc":
        return {"method": "echo"}
    return {"channel": "news:1"} if kind in _IN_CHANNELS else {}


_IN_CHANNELS = ("subscribe", "unsubscribe", "presence", "presence_stats", "history")

#: What a connected client is answered; 0 is success. Presence is off in that channel, and it is not subscribed to it.
ANSWERS = {"presence": 108, "presence_stats": 108, "sub_refresh": 103}


def token_in(state: str) -> str:
    return connection_token(SECRET, "", channels=["live:own"] if state == "connecting" else [])


def client_in(house: House, state: str, *, binary: bool) -> Client:
    client = house.client(connect=False, binary=binary)
    if state == "new":
        return client
    if state == "connecting":
        broker = house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        broker.hold("subscribe")
        token = token_in(state)
    elif state == "refused":
        token = connection_token(SECRET, "", expire_at=1_600_000_000)
    else:
        token = connection_token(SECRET, "")
    house.call(lambda: client.connect(token))
    if state == "closed":
        house.call(client.connection.closed)
    return client


def expected_close(state: str, kind: str, id: int) -> int:
    if state == "closed":
        return 0
    if kind == "ping" or (not id and kind != "send"):
        return 3501
    if kind == "connect":
        return 0 if state == "new" else 3501
    return 3501 if state in ("new", "refused") else 0


@pytest.mark.parametrize("binary", [False, True], ids=["json", "protobuf"])
@pytest.mark.parametrize("id", [0, 7], ids=["without id", "with id"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", STATES)
def test_every_command_in_every_state(state: str, kind: str, id: int, binary: bool) -> None:
    application = Application()
    with House(RULES, handlers=application, wrap=lambda broker: UnreliableBroker(broker, is_direct=True)) as house:
        client = client_in(house, state, binary=binary)
        body = {"token": token_in(state)} if kind in ("connect", "refresh") else body_of(kind)
        house.call(lambda: client.send(encode_command(id, kind, body, binary=binary)))
        assert client.closed_with == expected_close(state, kind, id)
        if client.closed_with or state == "closed":
            assert id not in client.replies
            return
        if state == "connecting":
            assert id not in client.replies, "everything waits for connect"
            broker = house.brokers[0]
            assert isinstance(broker, UnreliableBroker)
            broker.resume()
            house.run(broker.release_all())
            house.settle()
        if kind == "send":
            assert len(application.sent) == 1
        else:
            assert client.error(id) == ANSWERS.get(kind, 0)
            assert client.error(id) or kind in client.replies[id]
        assert not client.connection.outbox


@pytest.mark.parametrize("binary", [False, True], ids=["json", "protobuf"])
@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history"])
def test_a_command_without_its_channel_is_3501(kind: str, binary: bool) -> None:
    with House(RULES) as house:
        client = house.client(binary=binary)
        house.call(lambda: client.command(kind))
        assert client.closed_with == 3501


@pytest.mark.parametrize("kind", ["refresh", "sub_refresh"])
def test_a_refresh_without_a_token_is_3501(kind: str) -> None:
    with House(RULES) as house:
        client = house.client()
        house.call(lambda: client.subscribe("news:1"))
        house.call(lambda: client.command(kind, **({"channel": "news:1"} if kind == "sub_refresh" else {})))
        assert client.closed_with == 3501


def test_a_pong_that_nobody_asked_for_is_3501() -> None:
    with House() as house:
        client = house.client()
        house.call(client.pong)
        assert client.closed_with == 3501


def test_a_send_without_a_handler_is_3508() -> None:
    with House() as house:
        client = house.client()
        house.call(lambda: client.send(b'{"send":{"data":1}}'))
        assert client.closed_with == 3508


# Bytes --------------------------------------------------------------------------------------------------------------

some_commands = st.builds(
    lambda kind, id, channel: (kind, id, body_of(kind) | ({"channel": channel} if kind in _IN_CHANNELS else {})),
    st.sampled_from(REQUEST_FIELDS),
    st.integers(0, 40),
    st.sampled_from(["news:1", "live:1", "room:1", "nothing:1", "a b", "x" * 256, "news:1"]),
)


@given(st.booleans(), st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_any_bytes_end_in_a_close_or_an_answer(binary: bool, messages: list[bytes]) -> None:
    with House(RULES, handlers=Application()) as house:
        client = house.client(binary=binary)
        witness = house.client()
        house.call(lambda: witness.subscribe("news:1"))
        for message in messages:
            house.call(partial(client.send, message))
        assert client.closed_with in (0, 3501)
        house.publish("news:1", b"1")
        assert witness.data("news:1") == [1]


@given(st.booleans(), st.booleans(), st.lists(some_commands, min_size=1, max_size=12), st.data())
def test_any_order_of_commands_is_answered_or_closed(
    binary: bool, is_slow: bool, commands: list[tuple[str, int, dict[str, Any]]], data: st.DataObject
) -> None:
    wrap = (lambda broker: UnreliableBroker(broker, is_direct=True)) if is_slow else (lambda broker: broker)
    with House(RULES, handlers=Application(), wrap=wrap) as house:
        client = house.client(binary=binary, connect=data.draw(st.booleans()))
        broker = house.brokers[0]
        if isinstance(broker, UnreliableBroker):
            broker.hold("subscribe", "publish", "read", "heads")
        numbered = [(kind, number + 2 if id else 0, body) for number, (kind, id, body) in enumerate(commands)]
        parts = [encode_command(id, kind, body, binary=binary) for kind, id, body in numbered]
        cut = data.draw(st.integers(0, len(parts)))
        for piece in (parts[:cut], parts[cut:]):
            if piece:
                message = (b"" if binary else b"\n").join(piece)
                house.call(partial(client.send, message))
        for _ in range(3 * len(commands)):
            if isinstance(broker, UnreliableBroker):
                house.run(broker.release_all())
                house.settle()
        if client.closed_with:
            assert client.closed_with in (3500, 3501)
            return
        for kind, id, _ in numbered:
            assert kind == "send" or id in client.replies, f"{kind} was never answered"
        assert client.connection._lanes is None
        assert not client.connection.outbox


# Payloads that attack the frames of others --------------------------------------------------------------------------

hostile = st.one_of(
    st.binary(max_size=30),
    st.text(max_size=30).map(str.encode),
    st.lists(
        st.sampled_from([*(b"%c" % byte for byte in b'{}[]"\n\r\\1,: \xff'), b"\\ud83d"]),
        max_size=12,
    ).map(b"".join),
    st.integers(1, 400).map(lambda depth: b"[" * depth + b"]" * depth),
    st.integers(1, 6000).map(lambda digits: b"9" * digits),
    st.just(b"1e999"),
    st.just(b'{"a":1}\n{"push":{"channel":"news:1","pub":{"data":"forged"}}}'),
    st.just(b'1}}}\n{"push":{"channel":"news:1","pub":{"data":"forged"'),
)


@example("news:1", b'"\\ud83d"')
@example("news:1", b'{"a":\n1}')
@given(st.sampled_from(["news:1", "live:1", "text:1"]), hostile)
def test_no_payload_breaks_the_frames_of_a_subscriber(channel: str, payload: bytes) -> None:
    with House(RULES) as house:
        attacker = house.client()
        speakers = [house.client(binary=binary) for binary in (False, True)]
        for client in speakers:
            house.call(partial(client.subscribe, channel))
        message = b'{"id":2,"publish":{"channel":"%s","data":%s}}' % (channel.encode(), payload)
        house.call(lambda: attacker.send(message))
        if attacker.closed_with == 0 and channel != "text:1":
            house.call(lambda: speakers[0].command("history", channel=channel, limit=-1))
        late = house.client()
        house.call(lambda: late.subscribe(channel))
        for client in (*speakers, late):  # every frame was decoded when it came: that is the first test
            assert client.closed_with == 0
            assert "forged" not in [entry.data for entry in client.log(channel)]
            assert len(client.data(channel)) <= 1
        assert attacker.closed_with in (0, 3501)


@given(hostile)
def test_no_payload_of_a_protobuf_client_breaks_the_frames_of_a_json_one(payload: bytes) -> None:
    with House(RULES) as house:
        attacker = house.client(binary=True)
        victim = house.client()
        house.call(lambda: victim.subscribe("news:1"))
        field = b"\x0a\x06news:1" + (b"\x12" + varint(len(payload)) + payload)
        command = b"\x08\x02" + b"\x3a" + varint(len(field)) + field
        house.call(lambda: attacker.send(varint(len(command)) + command))
        assert victim.closed_with == attacker.closed_with == 0
        assert len(victim.data("news:1")) == (attacker.error(2) == 0)


# Limits -------------------------------------------------------------------------------------------------------------


def batch(kind: str, count: int, body: dict[str, Any]) -> bytes:
    return b"\n".join(encode_command(number, kind, body, binary=False) for number in range(2, count + 2))


def test_commands_behind_a_refused_connect_do_not_run() -> None:
    with House(RULES) as house:
        client = house.client(connect=False)
        token = connection_token(SECRET, "bob", expire_at=1_600_000_000)
        first = encode_command(1, "connect", {"token": token}, binary=False)
        house.call(lambda: client.send(first + b"\n" + batch("publish", 1, {"channel": "news:1", "data": 1})))
        assert client.error(1) == 109
        assert set(client.replies) == {1}
        assert house.exchange.stream("news:1", house.clock.now()).top == 0


def test_a_thousand_commands_behind_a_slow_connect_are_all_answered() -> None:
    with House(RULES, wrap=lambda broker: UnreliableBroker(broker, is_direct=True)) as house:
        broker = house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        broker.hold("subscribe")
        client = house.client(connect=False)
        token = connection_token(SECRET, "bob", channels=["live:own"])
        first = encode_command(1, "connect", {"token": token}, binary=False)
        house.call(lambda: client.send(first + b"\n" + batch("rpc", 900, {"method": "x"})))
        house.run(broker.release_all())
        house.settle()
        assert len(client.replies) == 901
        assert client.connection._lanes is None


def test_answers_to_one_message_keep_to_the_budget() -> None:
    with House(RULES) as house:
        house.publish("news:1", *[b'"%s"' % (b"x" * 2000)] * 100)
        client = house.client()
        client.transport.kernel = 0
        house.call(lambda: client.send(batch("history", 900, {"channel": "news:1", "limit": -1})))
        assert client.transport.most_unsent < 5 << 20

        def drain() -> None:
            client.transport.kernel = None

        for _ in range(200):
            house.call(drain)
        assert len(client.replies) == 901


def test_what_was_read_already_when_the_connection_filled_up_is_not_forgotten() -> None:
    with House(RULES) as house:
        house.publish("news:1", *[b'"%s"' % (b"x" * 2000)] * 100)
        client = house.client()
        client.transport.kernel = 0
        first = batch("history", 30, {"channel": "news:1", "limit": -1})
        house.call(lambda: client.connection.receive(first))
        assert client.connection.is_paused
        for id in (100, 101):  # these frames came in the same read of the socket
            message = encode_command(id, "rpc", {"method": "x"}, binary=False)
            house.call(partial(client.connection.receive, message))

        def drain() -> None:
            client.transport.kernel = None

        house.call(drain)
        assert len(client.replies) == 33


def test_a_subscription_that_begins_while_the_connection_is_full_waits() -> None:
    wrap = lambda broker: UnreliableBroker(broker, is_direct=True)  # noqa: E731
    with House(RULES, wrap=wrap, limits=Limits(write_budget=1000)) as house:
        broker = house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        client = house.client()
        house.call(lambda: client.subscribe("live:1"))
        broker.hold("subscribe")
        house.call(lambda: client.subscribe("live:2"))
        client.transport.kernel = 0
        house.publish("live:1", *[b'"%s"' % (b"x" * 100)] * 20)
        house.run(broker.release_all())
        house.settle()
        full = client.transport.unsent
        house.publish("live:2", *[b'"%s"' % (b"x" * 100)] * 100)
        assert client.transport.unsent == full


# Deadlines ----------------------------------------------------------------------------------------------------------


def test_who_does_not_connect_is_closed_3502() -> None:
    with House() as house:
        client = house.client(connect=False)
        house.pass_time(9.9)
        assert client.closed_with == 0
        house.pass_time(0.2)
        assert client.closed_with == 3502


def test_who_was_refused_is_closed_3502() -> None:
    with House() as house:
        client = house.client(token=connection_token(SECRET, "bob", expire_at=1_600_000_000))
        house.pass_time(10.1)
        assert client.closed_with == 3502


def test_who_answers_pings_stays() -> None:
    with House() as house:
        client = house.client()
        house.pass_time(300, step=1)
        assert client.closed_with == 0
        assert 10 <= client.pings <= 13


def test_who_does_not_answer_is_closed_3012() -> None:
    with House() as house:
        client = house.client()
        client.auto_pong = False
        while not client.pings:
            house.pass_time(0.1)
        house.pass_time(7.8)
        assert client.closed_with == 0
        house.pass_time(0.4)
        assert client.closed_with == 3012


def test_no_ping_is_sent_and_none_is_missed_while_data_is_unsent() -> None:
    with House(RULES) as house:
        client = house.client()
        house.call(lambda: client.subscribe("live:1"))
        client.transport.kernel = 0
        house.publish("live:1", b'"%s"' % (b"x" * 1000))
        for _ in range(100):  # a very slow link: it takes a byte a second

            def take() -> None:
                client.transport.kernel = 1

            house.call(take)
            house.pass_time(1)
        assert (client.pings, client.closed_with) == (0, 0)


def test_who_takes_no_byte_is_closed_3008() -> None:
    with House(RULES, limits=Limits(write_budget=500)) as house:
        client = house.client()
        house.call(lambda: client.subscribe("live:1"))
        client.transport.kernel = 0
        house.publish("live:1", b'"%s"' % (b"x" * 1000))
        house.pass_time(29.9, step=1)
        assert client.closed_with == 0
        house.pass_time(0.3)
        assert client.closed_with == 3008


def test_a_pong_that_we_do_not_read_is_not_missed() -> None:
    application = Application()
    application.gate = asyncio.Event()
    with House(RULES, handlers=application) as house:
        client = house.client()
        house.call(lambda: client.send(batch("rpc", 64, {"method": "x"})))
        assert not client.transport.is_reading
        house.pass_time(60, step=1)
        assert client.closed_with == 0
        house.call(application.gate.set)
        house.pass_time(60, step=1)
        assert client.closed_with == 0


def expiring(house: House, seconds: float) -> str:
    return connection_token(SECRET, "bob", expire_at=house.clock.time() + seconds)


def test_an_expired_connection_is_closed_3005_after_its_grace() -> None:
    with House() as house:
        client = house.client(token=expiring(house, 60))
        house.pass_time(84, step=1)
        assert client.closed_with == 0
        house.pass_time(1.2)
        assert client.closed_with == 3005


def test_a_refreshed_connection_lives_on() -> None:
    with House() as house:
        client = house.client(token=expiring(house, 60))
        house.pass_time(70, step=1)
        token = expiring(house, 60)
        house.call(lambda: client.command("refresh", token=token))
        house.pass_time(60, step=1)
        assert client.closed_with == 0
        house.pass_time(40, step=1)
        assert client.closed_with == 3005


def test_an_expired_subscription_ends_with_2501() -> None:
    with House(RULES) as house:
        client = house.client()
        token = subscription_token(SECRET, "news:1", "", expire_at=house.clock.time() + 60)
        house.call(lambda: client.subscribe("news:1", token=token))
        house.pass_time(84, step=1)
        assert client.is_subscribed["news:1"]
        house.pass_time(1.2)
        assert client.log("news:1")[-1].code == 2501
        assert client.closed_with == 0


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_when_the_wall_clock_jumps_expiry_follows_it(jump: float) -> None:
    with House() as house:
        client = house.client(token=expiring(house, 60))
        house.clock.jump(jump)
        house.pass_time(30, step=1)
        assert client.closed_with == (3005 if jump > 0 else 0)
        if jump < 0:
            house.pass_time(120, step=1)
            assert client.closed_with == 0
            house.clock.jump(-jump)
            house.pass_time(30, step=1)
            assert client.closed_with == 3005


def test_in_insecure_mode_nothing_expires() -> None:
    def insecure(namespaces: Any) -> Access:
        return Access(namespaces, TokenVerifier(SECRET), insecure=True)

    with House(access=insecure) as house:
        client = house.client(token=expiring(house, 5))
        house.pass_time(100, step=1)
        assert client.closed_with == 0


# Kicks --------------------------------------------------------------------------------------------------------------


def test_a_kick_while_connecting_is_not_missed() -> None:
    with House(RULES, wrap=lambda broker: UnreliableBroker(broker, is_direct=True), access=open_access) as house:
        broker = house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        broker.hold("subscribe")
        token = connection_token(SECRET, "bob", channels=["live:own"])
        client = house.client(token=token)
        assert house.call(lambda: house.node.control.disconnect("bob")) == 1
        house.run(broker.release_all())
        house.settle()
        assert client.closed_with == 3503


def test_a_subscription_ended_by_a_server_before_its_answer_does_not_begin() -> None:
    with House(RULES, wrap=lambda broker: UnreliableBroker(broker, is_direct=True)) as house:
        broker = house.brokers[0]
        assert isinstance(broker, UnreliableBroker)
        house.publish("news:1", b"1", b"2")
        client = house.client(token=connection_token(SECRET, "bob"))
        broker.hold("read")
        client.is_subscribed["news:1"] = True  # or the push would be taken for a mistake
        asked = house.call(lambda: client.subscribe("news:1", Position("", 0)))
        assert house.call(lambda: house.node.control.unsubscribe("bob", "news:1")) == 1
        house.run(broker.release_all())
        house.settle()
        house.publish("news:1", b"3")
        assert client.error(asked) == 103
        assert client.data("news:1") == []
        assert not house.node.hub.channels["news:1"].audiences


def test_frames_are_json_that_a_strict_reader_takes() -> None:
    with House(RULES) as house:
        client = house.client()
        house.call(lambda: client.subscribe("room:1"))
        house.publish("news:1", b'{"a":[1,2]}')
        assert all(json.loads(line) is not None for frame in client.frames for line in frame.split(b"\n"))
