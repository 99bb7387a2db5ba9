"""Answers on their way out: in order with publications, several in a frame, large ones at once."""

from __future__ import annotations

from collections import deque

import pytest
from tests.fakes import Client, House
from tests.wire import encode_command

from hubbub.channels import ChannelRules
from hubbub.core.connection import FRAME_ANSWERS

RULES = {"news": ChannelRules(delivery="recent", subscribe="anyone", publish="anyone")}


def write(house: House, client: Client, ids: range, channel: str = "news:1") -> list[bytes]:
    """Publish once for each id, all in one turn of the loop; returns the frames that came of it."""
    client.frames.clear()
    commands = [encode_command(id, "publish", {"channel": channel, "data": id}, binary=client.binary) for id in ids]
    house.call(lambda: deque(map(client.send, commands), maxlen=0))
    return client.frames


@pytest.mark.parametrize("binary", [False, True])
def test_answers_of_one_turn_share_a_frame(*, binary: bool) -> None:
    with House(RULES) as house:
        client = house.client(binary=binary)
        assert len(write(house, client, range(100, 150))) == 1
        assert [id for id in client.replies if id >= 100] == list(range(100, 150))


def test_a_frame_has_its_bounds() -> None:
    with House(RULES) as house:
        client = house.client()
        assert len(write(house, client, range(1000, 1000 + 3 * FRAME_ANSWERS))) == 3
        assert [id for id in client.replies if id >= 1000] == list(range(1000, 1000 + 3 * FRAME_ANSWERS))


def test_what_stands_between_answers_stays_between_them() -> None:
    """The answer to a subscribe closes the open batch: publications before it and behind it are not the same."""
    with House(RULES) as house:
        client = house.client()
        client.subscribe("news:1")
        house.settle()
        said: list[str] = []
        client.frames.clear()
        message = b"\n".join(
            encode_command(id, kind, {"channel": channel} | ({"data": id} if kind == "publish" else {}), binary=False)
            for id, kind, channel in [
                (10, "publish", "news:1"),
                (11, "subscribe", "news:2"),
                (12, "publish", "news:2"),
                (13, "unsubscribe", "news:2"),
                (14, "publish", "news:1"),
            ]
        )
        house.call(lambda: client.send(message))
        for frame in client.frames:
            said += [line[:9].decode() for line in frame.split(b"\n")]
        assert sorted(id for id in client.replies if id >= 10) == [10, 11, 12, 13, 14]
        assert said.index('{"id":11,') < said.index('{"id":13,')
        assert client.data("news:1") == [10, 14]


def test_nothing_is_left_of_answers_that_could_not_be_written() -> None:
    with House(RULES) as house:
        client = house.client()

        def go() -> None:
            client.send(encode_command(50, "publish", {"channel": "news:1", "data": 1}, binary=False))
            client.connection.closed()
            client.connection.raw(b"{}")

        client.frames.clear()
        house.call(go)
        assert client.frames == []
        assert client.connection.outbox == []
