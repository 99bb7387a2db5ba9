"""A session by example: what the state machine of its docstring says, and its deadlines."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.fakes import JSON

from hubbub.errors import Disconnect, ProtocolError
from hubbub.protocol.session import Session, State, Timing


def at(seconds: float) -> Callable[[], float]:
    """A clock that stands."""
    return lambda: seconds


def connected() -> Session:
    session = Session(JSON, Timing(ping=25, pong=8, stale=10), now=0)
    session.receive(b'{"id":1,"connect":{}}', at(0))
    session.accepted(0, spread=0.5)
    return session


def test_connect_and_a_subscribe_may_come_in_one_message() -> None:
    session = Session(JSON, Timing(), now=0)
    requests = session.receive(b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"a"}}', at(0))
    assert [request.kind for request in requests] == ["connect", "subscribe"]
    assert session.state is State.CONNECTING


def test_of_several_requests_in_one_command_the_first_of_the_protocol_counts() -> None:
    requests = connected().receive(b'{"id":2,"rpc":{},"subscribe":{"channel":"a"},"publish":{}}', at(1))
    assert [request.kind for request in requests] == ["subscribe"]


def test_the_first_ping_comes_after_half_an_interval_and_the_spread() -> None:
    session = connected()
    assert session.deadline == 18.75
    assert session.due(18, unsent=False) is None
    assert session.due(18.75, unsent=False) == b"{}"


def test_the_next_ping_comes_one_interval_after_the_last() -> None:
    session = connected()
    session.due(20, unsent=False)
    session.receive(b"{}", at(21))
    assert session.deadline == 45


def test_a_missed_pong_is_3012() -> None:
    session = connected()
    session.due(20, unsent=False)
    with pytest.raises(Disconnect, match="3012"):
        session.due(28, unsent=False)


def test_the_deadline_of_a_pong_stands_still_while_data_is_unsent() -> None:
    session = connected()
    session.due(20, unsent=False)
    assert session.due(28, unsent=True) is None
    with pytest.raises(Disconnect, match="3012"):
        session.due(36, unsent=False)


def test_one_pong_a_ping() -> None:
    session = connected()
    session.due(20, unsent=False)
    session.receive(b"{}", at(21))
    with pytest.raises(ProtocolError, match="pong"):
        session.receive(b"{}", at(22))
