"""Both codecs against what they must mean: the official Protobuf runtime, `json.loads`, and each other.

The official runtime reads and writes with the definition that centrifuge-python ships. It is brought to what
`messages` has: the two fields that are newer are added, and the one that we do not read is taken out, so that
for both sides it is an unknown field. Its maps are made the repeated messages that they are on the wire: as
maps, the C runtime drops items with an unknown field in them, which neither the format's guide nor Go does.
"""

from __future__ import annotations

import importlib
import json
from typing import Any, get_args, get_origin

import msgspec
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw, Struct, structs
from tests.wire import together

from hubbub.errors import BadRequest, ProtocolError, ReplyError
from hubbub.model import ClientInfo, Publication
from hubbub.payload import admit
from hubbub.protocol.codec import JsonCodec
from hubbub.protocol.messages import (
    PUSH_FIELDS,
    RESULT_FIELDS,
    ClientInfoMessage,
    Command,
    HistoryResult,
    Int32,
    Int64,
    Payload,
    PresenceResult,
    PresenceStatsResult,
    UInt32,
    UInt64,
)
from hubbub.protocol.protobuf import ProtobufCodec

protobuf, text_codec = ProtobufCodec(), JsonCodec()
both = pytest.mark.parametrize("codec", [protobuf, text_codec], ids=["protobuf", "json"])
AnyCodec = ProtobufCodec | JsonCodec

# --------------------------------------------------------------------------------------- the official runtime


def official_classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto()
    importlib.import_module("centrifuge.protocol.client_pb2").DESCRIPTOR.CopyToProto(file)
    messages = {message.name: message for message in file.message_type}
    kind = descriptor_pb2.FieldDescriptorProto
    for owner, name, number, type_ in (
        ("Publication", "epoch", 14, kind.TYPE_STRING),
        ("SubscribeRequest", "type", 15, kind.TYPE_INT32),
    ):
        messages[owner].field.add(name=name, number=number, type=type_, label=kind.LABEL_OPTIONAL)
    for message in messages.values():
        for entry in message.nested_type:
            entry.options.map_entry = False
    fields = messages["SubscribeRequest"].field
    fields.remove(next(field for field in fields if field.name == "tf"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = message_factory.GetMessageClassesForFiles([file.name], pool)
    return {name.removeprefix(f"{file.package}."): class_ for name, class_ in classes.items()}


OFFICIAL = official_classes()


def to_official(value: Struct, message: Any) -> Any:
    """`message` filled from a struct, by the names of the fields."""
    for info in structs.fields(value):
        item = getattr(value, info.name)
        if isinstance(item, Struct):
            getattr(message, info.name).SetInParent()
            to_official(item, getattr(message, info.name))
        elif isinstance(item, dict):
            for key, inner in item.items():
                entry = getattr(message, info.name).add(key=key)
                if isinstance(inner, Struct):
                    entry.value.SetInParent()
                    to_official(inner, entry.value)
                else:
                    entry.value = inner
        elif item is not None and item is not UNSET:
            setattr(message, info.name, bytes(item) if isinstance(item, Raw) else item)
    return message


def from_official(shape: type[Struct], message: Any) -> Any:
    """A struct from an official message, by the names of the fields. Publications are compared apart."""

    def value(annotation: Any, name: str) -> Any:
        item = getattr(message, name)
        if annotation == Payload:
            return Raw(item) if item else UNSET
        if get_origin(annotation) is dict:
            inner = get_args(annotation)[1]
            return {e.key: e.value if inner is str else from_official(inner, e.value) for e in item}
        if get_origin(annotation) is list:
            return []
        struct = struct_of(annotation)
        if struct is None:
            return item
        return from_official(struct, item) if message.HasField(name) else None

    return shape(**{info.name: value(info.type, info.name) for info in structs.fields(shape)})


def struct_of(annotation: Any) -> type[Struct] | None:
    """The struct of a field of type `T` or `T | None`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Struct):
            return candidate
    return None


def framed(*messages: bytes) -> bytes:
    return b"".join(varint(len(message)) + message for message in messages)


def varint(value: int) -> bytes:
    return bytes((value,)) if value < 128 else bytes((value & 127 | 128,)) + varint(value >> 7)


def replies(frame: bytes) -> list[Any]:
    """The replies of a Protobuf frame, read by the official runtime."""
    found = []
    while frame:
        size = shift = 0
        while frame[0] >= 128:
            size, shift, frame = size | (frame[0] & 127) << shift, shift + 7, frame[1:]
        size, frame = size | frame[0] << shift, frame[1:]
        assert len(frame) >= size
        found.append(OFFICIAL["Reply"].FromString(frame[:size]))
        frame = frame[size:]
    return found


def names(message: Any) -> set[str]:
    return {field.name for field, _ in message.ListFields()}


# ---------------------------------------------------------------------------------------------- what there is

texts = st.text(max_size=20)
opaque = st.binary(min_size=1, max_size=30)
json_values: st.SearchStrategy[bytes] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
).map(msgspec.json.encode)

INTEGERS = {
    UInt32: st.integers(0, 2**32 - 1),
    Int32: st.integers(-(2**31), 2**31 - 1),
    UInt64: st.integers(0, 2**63 - 1),
    Int64: st.integers(-(2**63), 2**63 - 1),
}


def values(annotation: Any, payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[Any]:
    """Values of a field, as its annotation says."""
    if annotation in INTEGERS:
        return INTEGERS[annotation]
    if annotation in (str, bool):
        return texts if annotation is str else st.booleans()
    if annotation == Payload:
        return st.just(UNSET) | payload.map(Raw)
    if get_origin(annotation) is dict:
        return st.dictionaries(texts, values(get_args(annotation)[1], payload), max_size=3)
    if get_origin(annotation) is list:
        return st.just([])
    struct = struct_of(annotation)
    assert struct is not None
    return some(struct, payload)


def some(shape: type[Struct], payload: st.SearchStrategy[bytes] = opaque) -> st.SearchStrategy[Any]:
    """Structs with any subset of the fields that may be missing."""
    required = {i.name: values(i.type, payload) for i in structs.fields(shape) if i.required}
    optional = {i.name: values(i.type, payload) for i in structs.fields(shape) if not i.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: shape(**fields))


def publications(payload: st.SearchStrategy[bytes], info: st.SearchStrategy[bytes]) -> st.SearchStrategy[Any]:
    """Publications with the epoch that comes along, as they go to `publication`."""
    infos = st.builds(ClientInfo, texts, texts, st.just(b"") | info, st.just(b"") | info)
    tags = st.dictionaries(texts, texts, min_size=1, max_size=3)
    publication = st.builds(
        Publication,
        data=payload,
        offset=st.integers(0, 2**63 - 1),
        info=st.none() | infos,
        tags=st.none() | tags,
        binary=st.just(payload is opaque),
    )
    return st.tuples(publication, st.just("") | texts)


def answers(payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[Any]:
    return st.sampled_from(sorted(RESULT_FIELDS, key=str)).flatmap(lambda shape: some(shape, payload))


def pushes(payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[Any]:
    return st.sampled_from(sorted(PUSH_FIELDS, key=str)).flatmap(lambda shape: some(shape, payload))


ids = st.integers(1, 2**32 - 1)
requests = pytest.mark.parametrize("request_field", [i.name for i in structs.fields(Command) if i.name != "id"])


# ------------------------------------------------------------------------------------------- reading Protobuf


@requests
@given(data=st.data())
@settings(max_examples=25)
def test_reads_what_the_official_runtime_wrote(request_field: str, data: st.DataObject) -> None:
    shape = next(info.type for info in structs.fields(Command) if info.name == request_field)
    meant = Command(id=data.draw(ids), **{request_field: data.draw(values(shape, opaque))})
    written = to_official(meant, OFFICIAL["Command"]()).SerializeToString()
    assert protobuf.decode(framed(written)) == [meant]


@given(meant=st.lists(some(Command), min_size=1, max_size=4))
@settings(max_examples=40)
def test_reads_several_commands_in_their_order(meant: list[Command]) -> None:
    written = [to_official(command, OFFICIAL["Command"]()).SerializeToString() for command in meant]
    assert protobuf.decode(framed(*written)) == meant


@given(parts=st.lists(some(Command), min_size=2, max_size=3))
@settings(max_examples=60)
def test_merges_what_is_concatenated(parts: list[Command]) -> None:
    written = b"".join(to_official(part, OFFICIAL["Command"]()).SerializeToString() for part in parts)
    assert protobuf.decode(framed(written)) == [from_official(Command, OFFICIAL["Command"].FromString(written))]


# ------------------------------------------------------------------------------------- any bytes, as Protobuf

tags = st.builds(lambda number, wire: varint(number << 3 | wire), st.integers(0, 18), st.integers(0, 7))
numbers = st.integers(0, 2**64 - 1).map(varint) | st.sampled_from([b"\xff" * 9 + b"\x01", b"\x80\x00"])


def fields(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Fields of every wire type; most fit the definition, as its numbers are small."""
    number = st.integers(1, 18) | st.sampled_from([1, 3, 4, 5, 7, 2000, 2**29 - 1])
    long = inner | texts.map(str.encode) | st.binary(max_size=8)

    def field(number: int, wire: int, value: bytes) -> bytes:
        return varint(number << 3 | wire) + value

    def group(number: int, value: bytes) -> bytes:
        return field(number, 3, value + varint(number << 3 | 4))

    long_field = st.builds(field, number, st.just(2), long.map(framed))
    one = st.one_of(
        st.builds(field, number, st.just(0), numbers),
        long_field,
        long_field,
        st.builds(field, number, st.just(1), st.binary(min_size=8, max_size=8)),
        st.builds(field, number, st.just(5), st.binary(min_size=4, max_size=4)),
        st.builds(group, number, inner),
    )
    return st.lists(one, max_size=5).map(b"".join)


soups = st.recursive(st.just(b""), fields, max_leaves=6)
#: Well-formed most of the time, and then cut, overwritten, or followed by anything.
bytes_near_commands = st.one_of(
    soups,
    st.builds(lambda soup, end: soup[:end], soups, st.integers(0, 40)),
    st.builds(lambda soup, at, byte: soup[:at] + byte + soup[at + 1 :], soups, st.integers(0, 40), opaque),
    st.builds(lambda soup, tag, value: soup + tag + value, soups, tags, st.binary(max_size=12)),
    st.builds(
        lambda command, at, byte: command[:at] + byte + command[at + len(byte) :],
        some(Command).map(lambda command: to_official(command, OFFICIAL["Command"]()).SerializeToString()),
        st.integers(0, 40),
        st.binary(max_size=2),
    ),
)


@given(message=st.binary() | bytes_near_commands.map(framed) | bytes_near_commands)
@settings(max_examples=200)
def test_protobuf_reads_any_bytes_or_says_so(message: bytes) -> None:
    try:
        assert protobuf.decode(message)
    except ProtocolError:
        pass


@given(message=st.binary() | bytes_near_commands)
@settings(max_examples=200)
def test_agrees_with_the_official_runtime_about_any_bytes(message: bytes) -> None:
    try:
        read = protobuf.decode(framed(message))
        official = from_official(Command, OFFICIAL["Command"].FromString(message))
    except (ProtocolError, DecodeError):
        return
    assert read == [official]


@given(message=soups)
@settings(max_examples=200)
def test_refuses_of_well_formed_messages_only_what_the_official_runtime_refuses(message: bytes) -> None:
    def refused(read: Any, error: type[Exception]) -> bool:
        try:
            read()
        except error:
            return True
        return False

    try:
        protobuf.decode(framed(message))
    except ProtocolError as error:
        if "63 bits" in str(error):  # see tests/unit/test_codecs.py
            return
    ours = refused(lambda: protobuf.decode(framed(message)), ProtocolError)
    assert ours == refused(lambda: OFFICIAL["Command"].FromString(message), DecodeError)


# ------------------------------------------------------------------------------------------- writing Protobuf


def as_written(publication: Publication, epoch: str) -> tuple[Publication, str]:
    """What of a publication travels in Protobuf: not whether it is binary."""
    return msgspec.structs.replace(publication, binary=False), epoch


def as_read(message: Any) -> tuple[Publication, str]:
    info = message.info
    return Publication(
        data=message.data,
        offset=message.offset,
        info=ClientInfo(info.user, info.client, info.conn_info, info.chan_info) if message.HasField("info") else None,
        tags={entry.key: entry.value for entry in message.tags} or None,
    ), message.epoch


@given(id=ids, result=answers(opaque), kept=st.lists(publications(opaque, opaque), max_size=3))
@settings(max_examples=100)
def test_official_runtime_reads_replies(id: int, result: Any, kept: list[Any]) -> None:
    name = RESULT_FIELDS[type(result)]
    sent = result
    if hasattr(result, "publications"):
        encoded = [Raw(protobuf.publication(*each)) for each in kept]
        sent = structs.replace(result, publications=encoded)
    (reply,) = replies(protobuf.reply(id, sent))
    assert reply.id == id
    assert names(reply) == {"id", name}  # C4: the result is there, even empty
    assert from_official(type(result), getattr(reply, name)) == result
    if hasattr(result, "publications"):
        found = [as_read(each) for each in getattr(reply, name).publications]
        assert found == [as_written(*each) for each in kept]


@given(id=ids, code=st.integers(1, 2**32 - 1), message=texts, temporary=st.booleans())
@settings(max_examples=50)
def test_official_runtime_reads_errors(id: int, code: int, message: str, temporary: bool) -> None:
    error = ReplyError(message, code=code, temporary=temporary)
    (reply,) = replies(protobuf.error(id, error))
    assert (reply.id, names(reply)) == (id, {"id", "error"})
    assert (reply.error.code, reply.error.message) == (code, error.message)
    assert reply.error.temporary == temporary


@given(channel=texts, push=pushes(opaque))
@settings(max_examples=100)
def test_official_runtime_reads_pushes(channel: str, push: Any) -> None:
    (reply,) = replies(protobuf.push(channel, push))
    name = PUSH_FIELDS[type(push)]
    assert names(reply) == {"push"}
    assert names(reply.push) == {name} | ({"channel"} if channel else set())
    assert reply.push.channel == channel
    assert from_official(type(push), getattr(reply.push, name)) == push


@given(channel=texts, kept=publications(st.binary(max_size=300), opaque))
@settings(max_examples=100)
def test_official_runtime_reads_publications(channel: str, kept: Any) -> None:
    pushed = protobuf.publication_push(protobuf.channel_prefix(channel), *kept)
    (reply,) = replies(pushed)
    assert reply.push.channel == channel
    assert as_read(reply.push.pub) == as_written(*kept)


# ------------------------------------------------------------------------------------------------------- JSON


def as_json(value: Any) -> Any:
    """What `json.loads` makes of a struct: zero values are missing, save where a field has no default, and in the
    messages whose zeros upstream writes.
    """
    if isinstance(value, Raw):
        return json.loads(bytes(value))
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    if not isinstance(value, Struct):
        return value
    found = {info.name: (getattr(value, info.name), info.required) for info in structs.fields(value)}
    says_zeros = type(value) in SAY_ZEROS
    return {
        name: as_json(v)
        for name, (v, required) in found.items()
        if required or is_given(v) or (says_zeros and v is not UNSET)
    }


SAY_ZEROS = {ClientInfoMessage, PresenceResult, PresenceStatsResult, HistoryResult}


def is_given(value: Any) -> bool:
    return isinstance(value, Raw) or bool(value)


def publication_as_json(publication: Publication, epoch: str) -> dict[str, Any]:
    found: dict[str, Any] = {"data": json.loads(publication.data)}
    if publication.info is not None:
        info = publication.info
        found["info"] = {"user": info.user, "client": info.client}
        found["info"] |= {key: json.loads(v) for key in ("conn_info", "chan_info") if (v := getattr(info, key))}
    rest = {"offset": publication.offset, "tags": publication.tags, "epoch": epoch}
    return found | {key: value for key, value in rest.items() if value}


@given(id=ids, result=answers(json_values), kept=st.lists(publications(json_values, json_values), max_size=3))
@settings(max_examples=100)
def test_json_replies_say_what_was_meant(id: int, result: Any, kept: list[Any]) -> None:
    meant = as_json(result)
    if kept and hasattr(result, "publications"):
        encoded = [Raw(text_codec.publication(*each)) for each in kept]
        result = structs.replace(result, publications=encoded)
        meant["publications"] = [publication_as_json(*each) for each in kept]
    reply = text_codec.reply(id, result)
    assert b"\n" not in reply
    assert json.loads(reply) == {"id": id, RESULT_FIELDS[type(result)]: meant}


@given(id=ids, code=st.integers(1, 2**32 - 1), message=texts, temporary=st.booleans())
@settings(max_examples=50)
def test_json_errors_say_what_was_meant(id: int, code: int, message: str, temporary: bool) -> None:
    error = ReplyError(message, code=code, temporary=temporary)
    meant = {"code": code, "message": error.message} | ({"temporary": True} if temporary else {})
    assert json.loads(text_codec.error(id, error)) == {"id": id, "error": meant}


@given(channel=texts, push=pushes(json_values))
@settings(max_examples=100)
def test_json_pushes_say_what_was_meant(channel: str, push: Any) -> None:
    pushed = text_codec.push(channel, push)
    meant = {"channel": channel} if channel else {}
    assert b"\n" not in pushed
    assert json.loads(pushed) == {"push": meant | {PUSH_FIELDS[type(push)]: as_json(push)}}


@given(channel=texts, kept=publications(json_values, json_values))
@settings(max_examples=100)
def test_json_publications_say_what_was_meant(channel: str, kept: Any) -> None:
    pushed = text_codec.publication_push(text_codec.channel_prefix(channel), *kept)
    assert b"\n" not in pushed
    assert json.loads(pushed) == {"push": {"channel": channel, "pub": publication_as_json(*kept)}}


commands_as_json = some(Command, json_values).map(msgspec.json.encode)
bytes_near_json = st.builds(
    lambda text, at, length, patch: text[:at] + patch + text[at + length :],
    st.lists(commands_as_json, max_size=3).map(b"\n".join),
    st.integers(0, 120),
    st.integers(0, 20),
    st.binary(max_size=3) | st.sampled_from([b"\n", b'"', b"{", b"}", b"null", b"1e999", b"-1", b"\\ud800"]),
)


@given(message=st.binary() | st.text().map(str.encode) | bytes_near_json)
@settings(max_examples=150)
def test_json_reads_any_bytes_or_says_so(message: bytes) -> None:
    try:
        assert text_codec.decode(message)
    except ProtocolError:
        pass


@given(
    payload=json_values,
    at=st.integers(0, 60),
    length=st.integers(0, 3),
    patch=st.binary(max_size=2)
    | st.sampled_from([b'"', b"{", b"]", b",", b"\\", b"1e999", b"-", b"\\ud800", b"\r", b""]),
)
@settings(max_examples=300)
def test_payloads_that_json_lets_through_need_not_be_read_again(
    payload: bytes, at: int, length: int, patch: bytes
) -> None:
    near = payload[:at] + patch + payload[at + length :]
    try:
        commands = text_codec.decode(b'{"id":1,"publish":{"channel":"c","data":' + near + b"}}")
    except ProtocolError:
        return
    for command in commands:
        if command.publish is not None and command.publish.data is not UNSET:
            data = bytes(command.publish.data)
            assert admitted(data, is_json=text_codec.checks_json) == admitted(data, is_json=False)


def admitted(data: bytes, *, is_json: bool) -> bytes | str:
    try:
        return admit(data, "json", 1 << 20, is_json=is_json)
    except BadRequest as error:
        return error.message


# ------------------------------------------------------------------------------------------------------- both


@given(meant=st.lists(some(Command, json_values), min_size=1, max_size=3))
@settings(max_examples=60)
def test_both_codecs_read_the_same_commands(meant: list[Command]) -> None:
    written = [to_official(command, OFFICIAL["Command"]()).SerializeToString() for command in meant]
    lines = b"\n".join(msgspec.json.encode(command) for command in meant)
    assert protobuf.decode(framed(*written)) == text_codec.decode(lines) == meant


@both
@given(data=st.data())
@settings(max_examples=40)
def test_joined_messages_are_read_back_in_their_order(codec: AnyCodec, data: st.DataObject) -> None:
    payload = json_values if codec is text_codec else opaque
    message = st.one_of(
        st.just(codec.ping),
        st.builds(codec.reply, ids, answers(payload)),
        st.builds(codec.push, texts, pushes(payload)),
        st.builds(
            lambda channel, kept: codec.publication_push(codec.channel_prefix(channel), *kept),
            texts,
            publications(payload, payload),
        ),
    )
    messages = data.draw(st.lists(message, min_size=1, max_size=5))
    joined = together(codec, messages)
    if codec is text_codec:
        assert [json.loads(line) for line in joined.split(b"\n")] == [json.loads(each) for each in messages]
    else:
        assert replies(joined) == [replies(each)[0] for each in messages]


@both
def test_empty_results_are_there(codec: AnyCodec) -> None:
    for shape, name in RESULT_FIELDS.items():
        reply = codec.reply(1, shape())  # type: ignore[arg-type]
        if codec is text_codec:
            assert json.loads(reply) == {"id": 1, name: as_json(shape())}
        else:
            assert names(replies(reply)[0]) == {"id", name}
