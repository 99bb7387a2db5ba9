"""The order of one connection's commands."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hubbub.core.lanes import LIMIT, SUBSCRIBES_AT_ONCE, Lanes, lane_of
from hubbub.protocol import messages as wire
from hubbub.protocol.session import Request


def request(kind: str, channel: str = "", id: int = 1) -> Request:
    body = {
        "connect": wire.ConnectRequest(),
        "subscribe": wire.SubscribeRequest(channel),
        "unsubscribe": wire.UnsubscribeRequest(channel),
        "publish": wire.PublishRequest(channel),
        "rpc": wire.RPCRequest(),
        "send": wire.SendRequest(),
    }
    return Request(id, kind, body[kind])


def test_commands_on_one_channel_keep_their_order() -> None:
    lanes = Lanes()
    first, second = request("subscribe", "a"), request("publish", "a")
    assert lanes.enter(first)
    assert not lanes.enter(second)
    assert lanes.leave(first) == [second]


def test_channels_do_not_wait_for_each_other() -> None:
    lanes = Lanes()
    assert lanes.enter(request("subscribe", "a"))
    assert lanes.enter(request("subscribe", "b"))


def test_rpcs_run_one_after_the_other() -> None:
    lanes = Lanes()
    assert lanes.enter(request("rpc"))
    assert not lanes.enter(request("rpc", id=2))
    assert lanes.enter(request("publish", "a"))


def test_everything_waits_for_connect() -> None:
    lanes = Lanes()
    connect = request("connect")
    assert lanes.enter(connect)
    waiting = [request("subscribe", "a"), request("rpc"), request("send")]
    assert not any(lanes.enter(each) for each in waiting)
    assert lanes.leave(connect) == waiting


def test_eight_subscribes_run_at_once() -> None:
    lanes = Lanes()
    started = [request("subscribe", f"c{number}") for number in range(SUBSCRIBES_AT_ONCE)]
    assert all(lanes.enter(each) for each in started)
    ninth = request("subscribe", "ninth")
    assert not lanes.enter(ninth)
    assert lanes.enter(request("publish", "other"))
    assert lanes.leave(started[3]) == [ninth]


def test_what_waits_is_not_overtaken_in_its_lane() -> None:
    lanes = Lanes()
    started = [request("subscribe", f"c{number}") for number in range(SUBSCRIBES_AT_ONCE)]
    for each in started:
        lanes.enter(each)
    lanes.enter(request("subscribe", "x"))
    assert not lanes.enter(request("publish", "x")), "it would come before the subscribe that permits it"


def test_sixty_four_are_full() -> None:
    lanes = Lanes()
    for number in range(LIMIT - 1):
        lanes.enter(request("rpc", id=number))
    assert not lanes.is_full
    lanes.enter(request("rpc"))
    assert lanes.is_full


KINDS = st.sampled_from(["subscribe", "publish", "unsubscribe", "rpc", "leave"])


@given(st.lists(st.tuples(KINDS, st.sampled_from("abcdefghijkl")), max_size=80))
def test_every_command_starts_once_and_in_the_order_of_its_lane(steps: list[tuple[str, str]]) -> None:
    lanes = Lanes()
    came: list[Request] = []
    started: list[Request] = []
    running: list[Request] = []

    def leave() -> None:
        done = running.pop(0)
        following = lanes.leave(done)
        started.extend(following)
        running.extend(following)

    for kind, channel in steps:
        if kind == "leave":
            if running:
                leave()
            continue
        one = request(kind, channel, id=len(came) + 1)
        came.append(one)
        if lanes.enter(one):
            started.append(one)
            running.append(one)
        assert len({lane_of(each) for each in running}) == len(running)
        assert sum(each.kind == "subscribe" for each in running) <= SUBSCRIBES_AT_ONCE
    while running:
        leave()
    assert len(lanes) == 0
    for lane in {lane_of(each) for each in came}:
        assert [each for each in started if lane_of(each) == lane] == [each for each in came if lane_of(each) == lane]
