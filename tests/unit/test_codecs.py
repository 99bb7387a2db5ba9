"""Codecs by example: conversations as the protocol's SDKs have them, and the corners of both formats.

The other side of every conversation is centrifuge-python's own code, in both of its encodings.
"""

from __future__ import annotations

import base64
import importlib
import json
from typing import Any

import pytest
from msgspec import UNSET, Raw
from tests.wire import together

from hubbub.errors import BadRequest, InternalError, ProtocolError, ReplyError, UnsubscribeCode
from hubbub.model import ClientInfo, Publication
from hubbub.protocol.codec import Codec, JsonCodec, info_message
from hubbub.protocol.messages import (
    ClientInfoMessage,
    Command,
    ConnectRequest,
    ConnectResult,
    DisconnectPush,
    HistoryRequest,
    JoinPush,
    LeavePush,
    MessagePush,
    PresenceResult,
    PresenceStatsResult,
    PublishRequest,
    PublishResult,
    RefreshPush,
    RPCRequest,
    RPCResult,
    SendRequest,
    StreamPosition,
    SubscribePush,
    SubscribeRequest,
    SubscribeResult,
    UnsubscribePush,
    UnsubscribeResult,
)
from hubbub.protocol.protobuf import ProtobufCodec

sdk: Any = importlib.import_module("centrifuge.codecs")

text, binary = JsonCodec(), ProtobufCodec()
both = pytest.mark.parametrize("codec", [text, binary], ids=["json", "protobuf"])


def from_sdk(codec: Codec, *commands: dict[str, Any]) -> bytes:
    """Commands as centrifuge-python writes them; what it does not define cannot be told through Protobuf."""
    if not codec.binary:
        frame: str = sdk._JsonCodec.encode_commands(commands)
        return frame.encode()
    return bytes(sdk._ProtobufCodec.encode_commands(with_payloads(commands, as_base64)))


def to_sdk(codec: Codec, frame: bytes) -> list[Any]:
    """Replies as centrifuge-python reads them."""
    if not codec.binary:
        return list(sdk._JsonCodec.decode_replies(frame.decode()))
    return list(with_payloads(sdk._ProtobufCodec.decode_replies(frame), from_base64))


def as_base64(payload: Any) -> str:
    return base64.b64encode(json.dumps(payload, separators=(",", ":")).encode()).decode()


def from_base64(payload: str) -> Any:
    return json.loads(base64.b64decode(payload))


def with_payloads(value: Any, change: Any) -> Any:
    """Protobuf's own mapping to dicts has payloads as Base64 and 64-bit integers as strings."""
    if isinstance(value, list | tuple):
        return [with_payloads(inner, change) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, inner in value.items():
        if key in ("data", "conn_info", "chan_info"):
            found[key] = change(inner)
        else:
            found[key] = int(inner) if key == "offset" else with_payloads(inner, change)
    return found


# ---------------------------------------------------------------------------------------------- conversations


@both
def test_connect_and_subscribe_in_one_frame(codec: Codec) -> None:
    frame = from_sdk(
        codec,
        {"id": 1, "connect": {"name": "js"}},
        {"id": 2, "subscribe": {"channel": "test", "flag": 1}},
    )
    assert codec.decode(frame) == [
        Command(1, connect=ConnectRequest(name="js")),
        Command(2, subscribe=SubscribeRequest("test", flag=1)),
    ]
    answer = together(
        codec,
        [
            codec.reply(1, ConnectResult(client="b1", version="x", ping=25, pong=True)),
            codec.reply(2, SubscribeResult(recoverable=True, epoch="kQzA", positioned=True)),
        ],
    )
    assert to_sdk(codec, answer) == [
        {"id": 1, "connect": {"client": "b1", "version": "x", "ping": 25, "pong": True}},
        {"id": 2, "subscribe": {"recoverable": True, "epoch": "kQzA", "positioned": True}},
    ]


@both
def test_publish(codec: Codec) -> None:
    frame = from_sdk(codec, {"id": 3, "publish": {"channel": "test", "data": {"n": 1}}})
    (command,) = codec.decode(frame)
    assert command.id == 3
    assert command.publish is not None
    assert command.publish.channel == "test"
    assert json.loads(bytes(command.publish.data)) == {"n": 1}  # type: ignore[arg-type]

    publication = Publication(b'{"n":1}', offset=1, info=ClientInfo("42", "b1"))
    pushed = codec.publication_push(codec.channel_prefix("test"), publication)
    assert to_sdk(codec, together(codec, [pushed, codec.reply(3, PublishResult())])) == [
        {
            "push": {
                "channel": "test",
                "pub": {"data": {"n": 1}, "info": {"user": "42", "client": "b1"}, "offset": 1},
            }
        },
        {"id": 3, "publish": {}},
    ]


def test_first_publication_of_a_stream_carries_the_epoch() -> None:
    publication = Publication(b'{"n":1}', offset=1, tags={"a": "b"})
    assert json.loads(text.publication(publication, "kQzA")) == {
        "data": {"n": 1},
        "offset": 1,
        "tags": {"a": "b"},
        "epoch": "kQzA",
    }
    # centrifuge-python does not define the field yet: the bytes that the definition asks for.
    assert binary.publication(publication, "kQzA") == (
        b'\x22\x07{"n":1}' + b"\x30\x01" + b"\x3a\x06\x0a\x01a\x12\x01b" + b"\x72\x04kQzA"
    )


def test_new_credentials_of_a_client_show_at_once() -> None:
    codec = JsonCodec()
    for user in ("before", "after"):
        push = codec.publication_push(codec.channel_prefix("a"), Publication(b"1", info=ClientInfo(user, "same")))
        assert json.loads(push)["push"]["pub"]["info"]["user"] == user


@both
def test_recovery(codec: Codec) -> None:
    frame = from_sdk(
        codec,
        {"id": 1, "connect": {}},
        {"id": 2, "subscribe": {"channel": "test", "recover": True, "epoch": "kQzA", "offset": 1}},
    )
    assert codec.decode(frame) == [
        Command(1, connect=ConnectRequest()),
        Command(2, subscribe=SubscribeRequest("test", recover=True, epoch="kQzA", offset=1)),
    ]
    result = SubscribeResult(
        recoverable=True,
        epoch="kQzA",
        publications=[
            Raw(codec.publication(Publication(b'{"n":2}', offset=2))),
            Raw(codec.publication(Publication(b'{"n":3}', offset=3))),
        ],
        recovered=True,
        offset=1,
        positioned=True,
        was_recovering=True,
    )
    assert to_sdk(codec, codec.reply(2, result)) == [
        {
            "id": 2,
            "subscribe": {
                "recoverable": True,
                "epoch": "kQzA",
                "publications": [{"data": {"n": 2}, "offset": 2}, {"data": {"n": 3}, "offset": 3}],
                "recovered": True,
                "offset": 1,
                "positioned": True,
                "was_recovering": True,
            },
        }
    ]


@both
def test_server_side_subscription_restored_on_reconnect(codec: Codec) -> None:
    frame = from_sdk(
        codec,
        {
            "id": 1,
            "connect": {
                "token": "t",
                "subs": {"#42": {"recover": True, "epoch": "e", "offset": 7}},
                "headers": {"a": "b"},
            },
        },
    )
    subs = {"#42": SubscribeRequest(recover=True, epoch="e", offset=7)}
    assert codec.decode(frame) == [Command(1, connect=ConnectRequest(token="t", subs=subs, headers={"a": "b"}))]
    restored = {
        "#42": SubscribeResult(recoverable=True, epoch="e", offset=7, recovered=True),
        "empty": SubscribeResult(),
    }
    (reply,) = to_sdk(codec, codec.reply(1, ConnectResult(client="c", subs=restored)))
    assert reply["connect"]["subs"] == {
        "#42": {"recoverable": True, "epoch": "e", "offset": 7, "recovered": True},
        "empty": {},
    }


@both
def test_history_rpc_and_send(codec: Codec) -> None:
    frame = from_sdk(
        codec,
        {"id": 1, "history": {"channel": "c", "limit": -1, "since": {"offset": 3}, "reverse": True}},
        {"id": 2, "history": {"channel": "c", "since": {}}},
        {"id": 3, "rpc": {"method": "m", "data": [1]}},
        {"send": {"data": 1}},
    )
    assert codec.decode(frame) == [
        Command(1, history=HistoryRequest("c", limit=-1, since=StreamPosition(3), reverse=True)),
        Command(2, history=HistoryRequest("c", since=StreamPosition())),
        Command(3, rpc=RPCRequest("m", Raw(b"[1]"))),
        Command(send=SendRequest(Raw(b"1"))),
    ]
    assert to_sdk(codec, codec.reply(3, RPCResult(Raw(b'"done"')))) == [{"id": 3, "rpc": {"data": "done"}}]


@both
def test_presence(codec: Codec) -> None:
    nobody = {} if codec.binary else {"user": "", "client": ""}  # upstream's JSON says these zeros
    info = info_message(ClientInfo("42", "c1", conn_info=b'{"name":"Ann"}'))
    here = {"c1": info, "c2": ClientInfoMessage()}
    answer = together(
        codec, [codec.reply(1, PresenceResult(here)), codec.reply(2, PresenceStatsResult(2, 1)), codec.ping]
    )
    assert to_sdk(codec, answer) == [
        {
            "id": 1,
            "presence": {
                "presence": {"c1": {"user": "42", "client": "c1", "conn_info": {"name": "Ann"}}, "c2": nobody}
            },
        },
        {"id": 2, "presence_stats": {"num_clients": 2, "num_users": 1}},
        {},
    ]


@both
def test_pushes(codec: Codec) -> None:
    somebody = ClientInfoMessage("42", "c1")
    nobody = {} if codec.binary else {"user": "", "client": ""}
    code = UnsubscribeCode.SERVER
    answer = together(
        codec,
        [
            codec.push("c", JoinPush(somebody)),
            codec.push("c", LeavePush(ClientInfoMessage())),
            codec.push("c", UnsubscribePush(code, code.reason)),
            codec.push("c", SubscribePush(recoverable=True, epoch="x")),
            codec.push("", MessagePush(Raw(b"null"))),
            codec.push("", RefreshPush(True, 60)),
            codec.push("", RefreshPush()),
            codec.push("", DisconnectPush(3001, "shutdown", True)),
        ],
    )
    assert [reply["push"] for reply in to_sdk(codec, answer)] == [
        {"channel": "c", "join": {"info": {"user": "42", "client": "c1"}}},
        {"channel": "c", "leave": {"info": nobody}},
        {"channel": "c", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}},
        {"channel": "c", "subscribe": {"recoverable": True, "epoch": "x"}},
        {"message": {"data": None}},
        {"refresh": {"expires": True, "ttl": 60}},
        {"refresh": {}},
        {"disconnect": {"code": 3001, "reason": "shutdown", "reconnect": True}},
    ]


def test_json_says_even_zero_codes_and_reasons() -> None:
    # centrifuge-python takes them without asking whether they are there.
    unsubscribed = json.loads(text.push("c", UnsubscribePush(0, "")))["push"]["unsubscribe"]
    assert unsubscribed == {"code": 0, "reason": ""}
    disconnected = json.loads(text.push("", DisconnectPush(0, "", False)))["push"]["disconnect"]
    assert disconnected == {"code": 0, "reason": "", "reconnect": False}


@both
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BadRequest(), {"code": 107, "message": "bad request"}),
        (InternalError(), {"code": 100, "message": "internal server error", "temporary": True}),
        (BadRequest("payload is empty"), {"code": 107, "message": "payload is empty"}),
        (BadRequest(temporary=True), {"code": 107, "message": "bad request", "temporary": True}),
        (ReplyError("not yours", code=1999), {"code": 1999, "message": "not yours"}),
    ],
)
def test_errors(codec: Codec, error: ReplyError, said: dict[str, Any]) -> None:
    assert to_sdk(codec, codec.error(2, error)) == [{"id": 2, "error": said}]


@both
def test_empty_result_is_said(codec: Codec) -> None:
    assert to_sdk(codec, codec.reply(7, UnsubscribeResult())) == [{"id": 7, "unsubscribe": {}}]


@both
def test_ping_is_an_empty_reply(codec: Codec) -> None:
    assert to_sdk(codec, codec.ping) == [{}]


@both
def test_pong_is_an_empty_command(codec: Codec) -> None:
    assert codec.decode(from_sdk(codec, {})) == [Command()]


@both
def test_pong_may_stand_among_commands(codec: Codec) -> None:
    commands = codec.decode(from_sdk(codec, {}, {"id": 1, "connect": {}}, {}))
    assert commands == [Command(), Command(1, connect=ConnectRequest()), Command()]


@both
def test_one_message_joined_is_itself(codec: Codec) -> None:
    assert together(codec, [codec.ping]) == codec.ping


# ------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("frame", [b"", b"\n", b" \n\n"], ids=["empty", "a line break", "blanks"])
def test_json_frame_without_a_command(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="without a command"):
        text.decode(frame)


@pytest.mark.parametrize(
    "frame",
    [
        b"null",
        b"[]",
        b"1",
        b"{",
        b"{}}",
        b"\xff",
        b'{"id":-1}',
        b'{"id":4294967296}',
        b'{"id":"1"}',
        b'{"id":1.5}',
        b'{"id":1,"connect":[]}',
        b'{"id":1,"subscribe":{"channel":1}}',
        b'{"id":1,"subscribe":{"channel":"\xff"}}',
        b'{"id":1,"publish":{"data":"\n"}}',
        b'{"id":1,"rpc":{"data":' + b"[" * 100_000,
        b'{"id":1,"unknown":' + b"[" * 100_000,
    ],
    ids=lambda frame: frame[:40],
)
def test_json_that_is_no_command(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="not commands in JSON"):
        text.decode(frame)


def test_json_trailing_line_break_and_unknown_fields_are_ignored() -> None:
    assert text.decode(b'{"id":1,"x":[{}],"publish":{"channel":"c","y":1}}\n') == [
        Command(1, publish=PublishRequest("c"))
    ]


def test_json_null_is_a_payload_and_absence_is_none() -> None:
    commands = text.decode(b'{"publish":{"data":null}}\n{"publish":{}}')
    assert [command.publish and command.publish.data for command in commands] == [Raw(b"null"), UNSET]


def test_binary_publication_is_base64_in_json() -> None:
    publication = Publication(b"\x00\xff", offset=1, binary=True)
    assert text.publication(publication) == b'{"data":"AP8=","offset":1}'
    assert text.publication(Publication(b"", binary=True)) == b'{"data":""}'
    assert binary.publication(publication) == b"\x22\x02\x00\xff\x30\x01"


# --------------------------------------------------------------------------------------------------- Protobuf


def framed(command: bytes) -> bytes:
    return bytes((len(command) & 127 | 128, len(command) >> 7)) + command


def test_protobuf_frame_without_a_command() -> None:
    with pytest.raises(ProtocolError, match="without a command"):
        binary.decode(b"")


def test_protobuf_pongs() -> None:
    assert binary.decode(b"\x00") == [Command()]
    assert binary.decode(b"\x00\x00\x02\x08\x05\x00") == [Command(), Command(), Command(5), Command()]


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        pytest.param(b"\x08\x01\x08\x02", Command(2), id="the last value wins"),
        pytest.param(b"\x88\x80\x00\x05", Command(5), id="a tag longer than it needs to be"),
        pytest.param(b"\x08\x85\x80\x80\x80\x10", Command(5), id="uint32 is cut"),
        pytest.param(b"\x08" + b"\xff" * 9 + b"\x7f", Command(2**32 - 1), id="a varint of 10 bytes is cut"),
        pytest.param(b"\x52\x0b\x38" + b"\xff" * 9 + b"\x01", Command(history=HistoryRequest(limit=-1)), id="-1"),
        pytest.param(
            b"\x52\x06\x38\xff\xff\xff\xff\x0f",
            Command(history=HistoryRequest(limit=-1)),
            id="-1 in 32 bits",
        ),
        pytest.param(
            b"\x2a\x06\x18\x80\x80\x80\x80\x10",
            Command(subscribe=SubscribeRequest(recover=True)),
            id="any number but zero is true",
        ),
        pytest.param(
            b"\x3a\x03\x0a\x01a\x3a\x03\x12\x01b",
            Command(publish=PublishRequest("a", Raw(b"b"))),
            id="messages merge",
        ),
        pytest.param(b"\x3a\x05\x12\x01b\x12\x00", Command(publish=PublishRequest()), id="an empty payload is absent"),
        pytest.param(
            b"\x22\x02\x1a\x00",
            Command(connect=ConnectRequest(subs={"": SubscribeRequest()})),
            id="an empty item of a map",
        ),
        pytest.param(
            b"\x22\x0f\x1a\x0d\x0a\x01a\x12\x02\x18\x01\x12\x04\x0a\x02zz",
            Command(connect=ConnectRequest(subs={"a": SubscribeRequest("zz", recover=True)})),
            id="the values of one item of a map merge",
        ),
        pytest.param(
            b"\x22\x0e\x32\x05\x0a\x01a\x12\x00\x32\x05\x0a\x01a\x08\x07",
            Command(connect=ConnectRequest(headers={"a": ""})),
            id="the later item of a map wins",
        ),
        pytest.param(b"\x0a\x01\x05\x21" + b"8" * 8 + b"\x2d4444", Command(), id="other wire types"),
        pytest.param(b"\x78\x01\x80\x7d\x01\x82\x7d\x01x\xfd\xff\xff\xff\x0f4444", Command(), id="unknown"),
        pytest.param(b"\x0b\x08\x01\x13\x0a\x01x\x14\x0c\x08\x03", Command(3), id="groups"),
        pytest.param(b"\x0b" * 100 + b"\x0c" * 100, Command(), id="100 groups"),
    ],
)
def test_protobuf_is_read_as_the_official_runtime_reads_it(command: bytes, meant: Command) -> None:
    assert binary.decode(framed(command)) == [meant]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(b"\x00\x01", id="field 0"),
        pytest.param(b"\x80\x00\x01", id="field 0 in two bytes"),
        pytest.param(b"\x80\x80\x80\x80\x10\x01", id="field 2**29"),
        pytest.param(b"\x08", id="no value"),
        pytest.param(b"\x08\x80", id="half a varint"),
        pytest.param(b"\x80", id="half a tag"),
        pytest.param(b"\x08" + b"\xff" * 10 + b"\x01", id="a varint of 11 bytes"),
        pytest.param(b"\x3a", id="no length"),
        pytest.param(b"\x3a\x02\x0a", id="a message that is cut off"),
        pytest.param(b"\x3a\x02\x0a\x01a", id="a string that outgrows its message"),
        pytest.param(b"\x3a\x02\x0a\x80\x00", id="a length that outgrows its message"),
        pytest.param(b"\x3a\x01\x80\x00", id="a tag that outgrows its message"),
        pytest.param(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="a length of 2**64 - 1"),
        pytest.param(b"\x2a\x0b\x38\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", id="a subscription from offset 2**63"),
        pytest.param(b"\x52\x0d\x42\x0b\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", id="history since 2**63"),
        pytest.param(b"\x09\x01", id="64 bits that are cut off"),
        pytest.param(b"\x0d\x01", id="32 bits that are cut off"),
        pytest.param(b"\x0e", id="wire type 6"),
        pytest.param(b"\x0f", id="wire type 7"),
        pytest.param(b"\x0c", id="the end of no group"),
        pytest.param(b"\x0b", id="a group without an end"),
        pytest.param(b"\x0b\x14", id="a group that ends as another"),
        pytest.param(b"\x0b\x3a\x01\x0c", id="a group around a message that is cut off"),
        pytest.param(b"\x0b" * 101 + b"\x0c" * 101, id="101 groups"),
        pytest.param(b"\x3a\x03\x0a\x01\xff", id="a string that is not UTF-8"),
        pytest.param(b"\x3a\x05\x0a\x03\xed\xa0\x80", id="half a surrogate pair"),
        pytest.param(b"\x22\x05\x32\x03\x0a\x01\xff", id="a key that is not UTF-8"),
    ],
)
def test_protobuf_that_is_no_command(command: bytes) -> None:
    with pytest.raises(ProtocolError):
        binary.decode(framed(command))


@pytest.mark.parametrize("frame", [b"\x80", b"\x01", b"\x02\x08", b"\x02\x08\x01\x05\x08", b"\xff" * 10])
def test_protobuf_frame_that_is_cut_off(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        binary.decode(frame)


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(b"\x00" * 50_000, id="pongs"),
        pytest.param(framed(b"\x08\x01") * 20_000, id="commands"),
        pytest.param(b"\xa0\x8d\x06" + b"\x0b" * 99_999 + b"\x0c", id="groups in groups"),
        pytest.param(b"\xa0\x8d\x06" + b"\x0b\x0c" * 50_000, id="groups after groups"),
        pytest.param(b"\xa0\x8d\x06" + b"\x22\x02\x1a\x00" * 25_000, id="one message in parts"),
        pytest.param(b"\xa0\x8d\x06" + b"\x80" * 100_000, id="a varint"),
    ],
)
def test_protobuf_bombs_take_linear_time(bomb: bytes) -> None:
    # Quadratic, each of them would take minutes and the suite's time limit would end it.
    try:
        assert binary.decode(bomb)
    except ProtocolError:
        pass


def test_protobuf_leaves_out_zero_values_but_not_the_result() -> None:
    assert binary.reply(1, SubscribeResult()) == b"\x04\x08\x01\x32\x00"
    assert binary.reply(1, ConnectResult(subs={"": SubscribeResult()})) == b"\x08\x08\x01\x2a\x04\x32\x02\x12\x00"
    assert binary.push("", DisconnectPush(0, "", False)) == b"\x04\x22\x02\x5a\x00"


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_383, 16_384, 2_097_152])
def test_protobuf_lengths_of_any_size(size: int) -> None:
    publication = Publication(b'"' + b"x" * size + b'"')
    (reply,) = to_sdk(binary, binary.publication_push(binary.channel_prefix("c"), publication))
    assert reply == {"push": {"channel": "c", "pub": {"data": "x" * size}}}
