"""The laws of a session: whatever comes, in whatever pieces and order, it is requests or a ProtocolError."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.fakes import JSON, PROTOBUF
from tests.wire import encode_command

from hubbub.errors import Disconnect, DisconnectCode, ProtocolError
from hubbub.protocol.messages import REQUEST_FIELDS
from hubbub.protocol.session import Request, Session, State, Timing

TIMING = Timing(ping=25, pong=8, stale=10)
KINDS = (*REQUEST_FIELDS, "ping")


def at(seconds: float) -> Callable[[], float]:
    """A clock that stands."""
    return lambda: seconds


def session(*, binary: bool = False) -> Session:
    return Session(PROTOBUF if binary else JSON, TIMING, now=0)


def connected(*, binary: bool = False) -> Session:
    new = session(binary=binary)
    new.receive(encode_command(1, "connect", {}, binary=binary), at(0))
    new.accepted(0, 0)
    return new


@given(st.booleans(), st.booleans(), st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_are_requests_or_a_protocol_error(binary: bool, is_connected: bool, messages: list[bytes]) -> None:
    one = connected(binary=binary) if is_connected else session(binary=binary)
    for message in messages:
        try:
            requests = one.receive(message, at(1))
        except ProtocolError:
            return
        assert all(isinstance(request, Request) for request in requests)
        assert all(request.kind in REQUEST_FIELDS for request in requests)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
commands = st.dictionaries(st.sampled_from(["id", *KINDS, "other"]), json_values, max_size=3)


@given(st.booleans(), st.lists(commands, min_size=1, max_size=3))
def test_any_json_is_requests_or_a_protocol_error(is_connected: bool, objects: list[Any]) -> None:

    one = connected() if is_connected else session()
    message = "\n".join(json.dumps(item) for item in objects).encode()
    try:
        one.receive(message, at(1))
    except ProtocolError:
        pass


@given(st.booleans(), st.lists(st.sampled_from(REQUEST_FIELDS[1:]), min_size=1, max_size=6), st.data())
def test_splitting_into_messages_changes_nothing(binary: bool, kinds: list[str], data: st.DataObject) -> None:
    parts = [encode_command(number + 2, kind, {}, binary=binary) for number, kind in enumerate(kinds)]
    cut = data.draw(st.integers(0, len(parts)))
    joint = b"" if binary else b"\n"
    whole = connected(binary=binary).receive(joint.join(parts), at(1))
    split = connected(binary=binary)
    pieces = [piece for piece in (parts[:cut], parts[cut:]) if piece]
    assert [request for piece in pieces for request in split.receive(joint.join(piece), at(1))] == whole


def expected(state: State, kind: str, id: int) -> bool:
    """Whether a command may pass: section 4 of the client protocol."""
    if kind == "ping" or (not id and kind != "send"):
        return False
    if kind == "connect":
        return state is State.NEW
    return state in (State.CONNECTING, State.CONNECTED)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "protobuf"])
@pytest.mark.parametrize("id", [0, 7], ids=["without id", "with id"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name.lower())
def test_every_command_in_every_state(state: State, kind: str, id: int, binary: bool) -> None:
    one = session(binary=binary)
    if state is not State.NEW:
        one.receive(encode_command(1, "connect", {}, binary=binary), at(0))
    if state is State.CONNECTED:
        one.accepted(0, 0)
    if state is State.REFUSED:
        one.refused()
    message = encode_command(id, kind, {}, binary=binary)
    if expected(state, kind, id):
        assert [(request.id, request.kind) for request in one.receive(message, at(1))] == [(id, kind)]
    else:
        with pytest.raises(ProtocolError):
            one.receive(message, at(1))


class Deadlines(RuleBasedStateMachine):
    """Time passes, pings and pongs cross, data waits: what `due` says, against a model in plain words."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.session = connected()
        self.pinged_at: float | None = None

    @initialize(spread=st.floats(0, 1, exclude_max=True))
    def begin(self, spread: float) -> None:
        self.session.accepted(0, spread)
        assert 12.5 <= self.session.deadline <= 25

    @rule(unsent=st.booleans(), late=st.floats(0, 3))
    def the_deadline_passes(self, unsent: bool, late: float) -> None:
        assert self.session.deadline > self.now, "a deadline in the past is a busy loop"
        self.now = self.session.deadline + late
        ping = None
        try:
            ping = self.session.due(self.now, unsent=unsent)
        except Disconnect as error:
            code = error.code
        else:
            code = 0
        if code:
            assert code == DisconnectCode.NO_PONG
            assert not unsent
            assert self.pinged_at is not None
            assert self.now >= self.pinged_at + TIMING.pong
            self.session = connected()
            self.session.accepted(self.now, 0)
            self.pinged_at = None
            return
        if unsent:
            assert ping is None, "no ping while there is unsent data"
        else:
            assert ping == b"{}"
            assert self.pinged_at is None, "one ping at a time"
            self.pinged_at = self.now

    @rule(part=st.floats(0, 0.9))
    def too_early(self, part: float) -> None:
        self.now += (self.session.deadline - self.now) * part
        assert self.session.due(self.now, unsent=False) is None

    @precondition(lambda self: self.pinged_at is not None)
    @rule()
    def pong(self) -> None:
        assert self.session.receive(b"{}", at(self.now)) == []
        self.pinged_at = None
        with pytest.raises(ProtocolError):
            self.session.receive(b"{}", at(self.now))


TestDeadlines = Deadlines.TestCase


@given(st.floats(0, 9.9), st.booleans())
def test_who_does_not_connect_in_time_is_stale(late: float, is_refused: bool) -> None:
    one = session()
    if is_refused:
        one.receive(encode_command(1, "connect", {}, binary=False), at(0))
        one.refused()
    assert one.due(late, unsent=False) is None
    with pytest.raises(Disconnect) as raised:
        one.due(10, unsent=True)
    assert raised.value.code == DisconnectCode.STALE
