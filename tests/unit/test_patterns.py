"""Listeners by glob: who is called, how often, and what their failures cost others."""

from __future__ import annotations

import pytest
from tests.fakes import House
from tests.faults import UnreliableBroker

from hubbub.channels import ChannelRules
from hubbub.core.patterns import MAX_PATTERN, REMEMBERED, Listener
from hubbub.errors import BackendError, BadRequest
from hubbub.model import Publication

RULES = {
    "default": ChannelRules(subscribe="anyone"),
    "log": ChannelRules(delivery="recent", subscribe="anyone"),
}


class Ear:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes, int, bool]] = []

    def __call__(self, channel: str, publication: Publication, epoch: str) -> None:
        self.heard.append((channel, publication.data, publication.offset, bool(epoch)))


def listen(house: House, pattern: str, ear: Ear, node: int = 0) -> Listener:
    listener = house.run(house.nodes[node].patterns.listen(pattern, ear))
    house.settle()
    return listener


def test_it_hears_channels_that_nobody_else_listens_to_and_those_that_somebody_does() -> None:
    with House(RULES, nodes=2) as house:
        client, ear = house.client(), Ear()
        client.subscribe("log:2")
        listen(house, "log:*", ear)
        house.publish("log:1", b"1", node=1)
        house.publish("log:1", b"2", ephemeral=True)
        house.publish("log:2", b"3", node=1)
        house.publish("other", b"4")
        assert ear.heard == [("log:1", b"1", 1, True), ("log:1", b"2", 0, False), ("log:2", b"3", 1, True)]
        assert client.offsets("log:2") == [1]


def test_each_listener_is_called_once_however_many_patterns_match() -> None:
    with House(RULES) as house:
        ears = [Ear() for _ in range(4)]
        for pattern, ear in zip(("a.*", "*", "a.*", "b.*"), ears, strict=True):
            listen(house, pattern, ear)
        house.publish("a.1", b"1")
        assert [len(ear.heard) for ear in ears] == [1, 1, 1, 0]


def test_closing_ends_it_at_once_and_only_it() -> None:
    with House(RULES) as house:
        one, two = Ear(), Ear()
        first, second = listen(house, "a.*", one), listen(house, "a.*", two)
        first.close()
        first.close()
        house.publish("a.1", b"1")
        assert (one.heard, len(two.heard)) == ([], 1)
        assert house.node.feeds.overhear is not None
        second.close()
        house.publish("a.1", b"2")
        assert len(two.heard) == 1
        assert house.node.feeds.overhear is None


def test_one_that_closes_another_in_its_callback() -> None:
    with House(RULES) as house:
        ear = Ear()
        others: list[Listener] = []
        house.run(house.node.patterns.listen("a.*", lambda *heard: others[0].close()))
        others.append(listen(house, "a.*", ear))
        house.publish("a.1", b"1")
        assert ear.heard == []


def test_one_that_raises_harms_nobody_else() -> None:
    with House(RULES) as house:
        house.forgives = True
        ear, client = Ear(), house.client()
        client.subscribe("log:1")
        house.run(house.node.patterns.listen("log:*", lambda *heard: 1 / 0))
        listen(house, "log:*", ear)
        house.publish("log:1", b"1", b"2")
        assert [data for _, data, _, _ in ear.heard] == [b"1", b"2"]
        assert client.offsets("log:1") == [1, 2]
        assert sum("a listener of pattern 'log:*' failed" in record for record in house.errors.records) == 2


@pytest.mark.parametrize("pattern", ["", "x" * (MAX_PATTERN + 1)])
def test_patterns_have_a_length(pattern: str) -> None:
    with House(RULES) as house:
        with pytest.raises(BadRequest):
            listen(house, pattern, Ear())
        assert house.node.feeds.overhear is None


def test_what_is_remembered_is_bounded() -> None:
    with House(RULES) as house:
        ear = Ear()
        listen(house, "*", ear)
        patterns = house.node.patterns
        for number in range(REMEMBERED + 10):
            patterns.heard(f"c{number}", Publication(b""), "")
        assert len(ear.heard) == REMEMBERED + 10
        assert len(patterns._of) <= REMEMBERED


def test_a_broker_that_cannot_be_asked() -> None:
    brokers: list[UnreliableBroker] = []

    def wrap(broker: object) -> UnreliableBroker:
        brokers.append(UnreliableBroker(broker, is_direct=True))  # type: ignore[arg-type]  # it is a MemoryBroker
        return brokers[0]

    with House(RULES, wrap=wrap) as house:
        one, two = Ear(), Ear()
        first = listen(house, "a.*", one)
        brokers[0].refuse("watch")
        with pytest.raises(BackendError):
            listen(house, "b.*", two)
        first.close()  # it is closed here, whatever the broker goes on to send
        house.publish("a.1", b"1")
        house.publish("b.1", b"1")
        assert one.heard == two.heard == []
        brokers[0].accept()
        listen(house, "b.*", two)
        house.publish("a.1", b"2")
        house.publish("b.1", b"2")
        assert (one.heard, len(two.heard)) == ([], 1)


def test_a_stop_forgets_them() -> None:
    with House(RULES) as house:
        ear = Ear()
        listener = listen(house, "*", ear)
        house.run(house.node.stop())
        listener.close()
        house.run(house.node.start())
        house.publish("a.1", b"1")
        assert ear.heard == []
        listen(house, "*", ear)
        house.publish("a.1", b"2")
        assert len(ear.heard) == 1
