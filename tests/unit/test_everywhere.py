"""Orders between the nodes of one application: carried out on all, missed by none; what nodes know of each other."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import Client, House
from tests.faults import UnreliableBroker

from hubbub.auth import TokenVerifier, connection_token
from hubbub.brokers.base import INTERCOM, StreamOptions
from hubbub.channels import ChannelRules, Namespaces
from hubbub.core import everywhere as everywhere_module
from hubbub.core import intercom as intercom_module
from hubbub.core import orders
from hubbub.core.access import Access
from hubbub.core.everywhere import DEADLINE, HEARTBEAT
from hubbub.core.hub import Subscription
from hubbub.errors import BackendError
from hubbub.model import Publication

SECRET = "a secret of more than thirty-two bytes"
RULES = {"news": ChannelRules(delivery="recent", subscribe="anyone", presence=True)}


@pytest.fixture
def house() -> Iterator[House]:
    with House(RULES, nodes=3, access=verifying) as house:
        yield house


def verifying(namespaces: Namespaces) -> Access:
    """Tokens say who somebody is."""
    return Access(namespaces, TokenVerifier(SECRET))


def there(house: House, node: int, user: str = "ann") -> Client:
    """A client on one of the nodes, in a channel."""
    token = connection_token(SECRET, user, issued_at=house.nodes[node].clock.time())
    client = house.client(node=node, token=token)
    house.call(lambda: client.subscribe("news:1"))
    return client


def test_a_user_is_sent_away_from_all_nodes(house: House) -> None:
    clients = [there(house, node) for node in range(3)]
    other = there(house, 1, "bob")
    assert house.run(house.nodes[0].everywhere.disconnect("ann", code=4500, reason="out")) == 1
    house.settle()
    assert [client.closed_with for client in clients] == [4500] * 3
    assert other.closed_with == 0


def test_subscriptions_begin_and_end_on_all_nodes(house: House) -> None:
    clients = [there(house, node) for node in range(3)]
    house.run(house.nodes[2].everywhere.unsubscribe("ann", "news:1"))
    house.settle()
    assert [client.log("news:1")[-1].kind for client in clients] == ["unsubscribed"] * 3
    house.run(house.nodes[1].everywhere.subscribe("ann", "news:2", data=b'{"n":1}'))
    house.settle()
    house.publish("news:2", b"1")
    assert [client.data("news:2") for client in clients] == [[1]] * 3


def test_tokens_are_void_on_all_nodes(house: House) -> None:
    clients = [there(house, node) for node in range(3)]
    assert house.run(house.nodes[0].everywhere.revoke("ann", ttl=3600)) == 1
    house.settle()
    assert [client.closed_with for client in clients] == [3005] * 3
    for node in house.nodes:
        assert node.access.revocations.refuses("ann", node.clock.time(), node.clock.time())


def test_an_order_that_was_given_is_not_missed_by_who_could_not_hear() -> None:
    wrapped: list[UnreliableBroker] = []

    def wrap(broker: object) -> UnreliableBroker:
        wrapped.append(UnreliableBroker(broker, is_direct=True))  # type: ignore[arg-type]  # a broker
        return wrapped[-1]

    with House(RULES, nodes=2, wrap=wrap, access=verifying) as house:
        deaf = there(house, 1)
        wrapped[1].is_direct = False  # announcements wait, and are lost
        house.run(house.nodes[0].everywhere.disconnect("ann"))
        house.settle()
        wrapped[1].drop_all()
        assert deaf.closed_with == 0
        wrapped[1].is_direct = True
        house.call(wrapped[1].renew)
        house.settle()
        assert deaf.closed_with == 3503


def test_an_order_that_cannot_be_given_says_so_and_is_carried_out_here(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [there(house, node) for node in range(2)]

    async def down(channel: str, publication: Publication, options: StreamOptions) -> None:
        raise BackendError("it is down")

    intercom = house.nodes[0].everywhere._intercom
    monkeypatch.setattr(intercom, "_broker", type("Down", (), {"publish": staticmethod(down)})())
    with pytest.raises(BackendError, match="it is down"):
        house.run(house.nodes[0].everywhere.disconnect("ann"))
    assert [client.closed_with for client in clients] == [3503, 0]


def test_nodes_know_of_each_other_while_they_give_signs_of_life(house: House) -> None:
    there(house, 1)
    house.pass_time(HEARTBEAT + 1, step=1)
    for node in house.nodes:
        found = node.everywhere.nodes()
        assert found[0]["uid"] == node.id
        assert {each["uid"] for each in found} == {each.id for each in house.nodes}
        assert sum(each["num_clients"] for each in found) == 1
    house.run(house.nodes[2].stop())
    house.settle()
    assert len(house.nodes[0].everywhere.nodes()) == 2, "who stops says so"
    house.nodes[1].everywhere._intercom.stop()
    monologue = house.nodes[1].everywhere._beat
    assert monologue is not None
    monologue.cancel()  # as if it was killed
    house.forgives = True  # it is logged
    house.pass_time(DEADLINE + 1, step=1)
    assert len(house.nodes[0].everywhere.nodes()) == 1


def test_channels_of_all_nodes_are_counted_together(house: House) -> None:
    for node in (0, 1, 1):
        there(house, node)
    there(house, 2, "bob")
    house.pass_time(1)
    counted = house.begin(house.nodes[0].everywhere.channels("news:*"))
    house.settle()
    assert counted.result() == {"news:1": 4}
    assert house.nodes[0].channels() == {"news:1": 1}, "the nodes' own channel is nobody's affair"


def test_nobody_hears_the_nodes_by_a_pattern(house: House) -> None:
    heard: list[str] = []
    listening = house.nodes[0].patterns.listen("*", lambda channel, publication, epoch: heard.append(channel))
    house.run(listening)
    house.run(house.nodes[1].everywhere.disconnect("ann"))
    house.publish("news:1", b"1")
    assert heard == ["news:1"]


def test_what_is_no_order_harms_nobody(house: House) -> None:
    client = there(house, 1)
    house.forgives = True  # it is logged
    for junk in (b"", b"{}", b'{"order":"dance","sender":"x"}', b'{"order":"disconnect"}', b"\xff", b"[" * 5000):
        house.run(house.nodes[0].broker.publish(INTERCOM, Publication(junk), StreamOptions(10, 60)))
    house.settle()
    assert house.nodes[1].observer.counts["order_unreadable"] == 6
    house.run(house.nodes[0].everywhere.disconnect("ann"))
    house.settle()
    assert client.closed_with == 3503


anything = st.one_of(
    *(
        st.builds(kind, sender=st.text(), **fields)
        for kind, fields in (
            (orders.Disconnect, {"user": st.text(), "whitelist": st.lists(st.text())}),
            (orders.Subscribe, {"user": st.text(), "channel": st.text(), "info": st.binary(), "data": st.binary()}),
            (orders.Refresh, {"user": st.text(), "expire_at": st.floats(0, 1e12)}),
            (orders.Revoke, {"user": st.text(), "before": st.floats(0, 1e12), "ttl": st.floats(0, 1e9)}),
            (orders.Tally, {"to": st.text(), "number": st.integers(0, 1 << 60), "channels": st.just({"a": 1})}),
            (orders.Gone, {}),
        )
    )
)


@given(anything)
def test_orders_are_read_back_as_they_were_given(order: orders.AnyOrder) -> None:
    assert orders.decode(orders.encode(order)) == order


def test_bytes_in_orders_are_base64_for_whoever_reads_along() -> None:
    order = orders.Subscribe(sender="n", user="u", channel="c", info=b'{"n":1}')
    assert base64.b64encode(b'{"n":1}') in orders.encode(order)


def muffled(brokers: list[UnreliableBroker]) -> Callable[[object], UnreliableBroker]:
    def wrap(broker: object) -> UnreliableBroker:
        brokers.append(UnreliableBroker(broker, is_direct=True))  # type: ignore[arg-type]  # a broker
        return brokers[-1]

    return wrap


def test_orders_beyond_the_memory_are_lost_which_is_said_and_the_next_ones_are_carried_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intercom_module, "KEPT", StreamOptions(3, 600.0))
    brokers: list[UnreliableBroker] = []
    with House(RULES, nodes=2, wrap=muffled(brokers), access=verifying) as house:
        clients = {user: there(house, 1, user) for user in ("u0", "u1", "u2", "u3", "u4", "later")}
        house.forgives = True  # it is logged as an error
        brokers[1].is_direct = False
        for user in ("u0", "u1", "u2", "u3", "u4"):
            house.run(house.nodes[0].everywhere.disconnect(user))
        house.settle()
        brokers[1].drop_all()
        brokers[1].is_direct = True
        house.call(brokers[1].renew)
        house.pass_time(5, step=1)
        assert house.nodes[1].observer.counts["orders_lost"] == 1
        assert any("orders of other nodes are lost" in line for line in house.errors.records)
        house.run(house.nodes[0].everywhere.disconnect("later"))
        house.settle()
        assert clients["later"].closed_with == 3503
        assert [clients[user].closed_with for user in ("u0", "u1", "u2", "u3", "u4")] == [0] * 5


def test_who_listens_again_when_the_node_stops_listens_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    brokers: list[UnreliableBroker] = []
    with House(RULES, nodes=2, wrap=muffled(brokers), access=verifying) as house:
        house.forgives = True  # it is logged as an error
        intercom = house.nodes[1].everywhere._intercom
        subscription = intercom._subscription
        assert subscription is not None
        house.pass_time(10)
        brokers[1].hold("subscribe", "heads")
        house.call(lambda: intercom.lost(subscription))
        house.pass_time(10)  # the channel is let go of, so that it has to be opened again
        house.call(intercom.stop)
        house.run(brokers[1].release_all())
        house.settle()
        assert intercom._subscription is None
        assert not intercom.is_ready
        brokers[1].resume()
        assert not house.loop.errors


def test_who_cannot_listen_again_tries_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    brokers: list[UnreliableBroker] = []
    with House(RULES, nodes=2, wrap=muffled(brokers), access=verifying) as house:
        house.forgives = True  # it is logged as an error
        client = there(house, 1)
        intercom = house.nodes[1].everywhere._intercom
        real, failures = intercom._doorkeeper.hear, [BackendError("down"), RuntimeError("a bug")]

        async def failing(subscription: Subscription) -> None:
            if failures:
                intercom._doorkeeper.leave(intercom, subscription)
                raise failures.pop()
            await real(subscription)

        monkeypatch.setattr(intercom._doorkeeper, "hear", failing)
        subscription = intercom._subscription
        assert subscription is not None
        house.call(lambda: intercom.lost(subscription))
        house.pass_time(5, step=0.5)
        assert not failures
        house.run(house.nodes[0].everywhere.disconnect("ann"))
        house.settle()
        assert client.closed_with == 3503


def test_a_dead_node_is_forgotten_though_nobody_asks(house: House) -> None:
    house.pass_time(HEARTBEAT + 1, step=1)
    monologue = house.nodes[2].everywhere._beat
    assert monologue is not None
    monologue.cancel()  # as if it was killed
    house.nodes[2].everywhere._intercom.stop()
    assert len(house.nodes[0].everywhere._peers) == 2
    house.forgives = True  # it is logged
    house.pass_time(DEADLINE + HEARTBEAT, step=1)
    assert set(house.nodes[0].everywhere._peers) == {house.nodes[1].id}


def test_many_channels_are_told_in_pages(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everywhere_module, "PAGE", 100)
    told: list[orders.AnyOrder] = []
    for client in [there(house, node) for node in (1, 2)]:
        for number in range(2, 100):
            house.call(lambda: client.subscribe(f"news:{number}"))  # noqa: B023 - called at once
    house.pass_time(1)
    monkeypatch.setattr(everywhere_module._Survey, "answered", listening_in(everywhere_module._Survey.answered, told))
    counted = house.begin(house.nodes[0].everywhere.channels())
    house.settle()
    assert counted.result() == {f"news:{number}": 2 for number in range(1, 100)}
    pages = [order for order in told if isinstance(order, orders.Tally) and order.sender == house.nodes[1].id]
    assert [page.page for page in pages] == list(range(len(pages)))
    assert len(pages) > 5
    assert max(sum(map(len, page.channels)) for page in pages) < 120
    counted = house.begin(house.nodes[0].everywhere.channels("nobody:*"))
    house.settle()
    assert counted.result() == {}


def test_an_answer_that_misses_a_page_is_not_taken_for_whole(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(everywhere_module, "PAGE", 20)
    client = there(house, 1)
    for number in range(10):
        house.call(lambda: client.subscribe(f"news:a{number}"))  # noqa: B023 - called at once
    house.pass_time(1)
    real = everywhere_module._tallies
    monkeypatch.setattr(everywhere_module, "_tallies", lambda *asked: real(*asked)[:1] + real(*asked)[2:])
    counted = house.begin(house.nodes[0].everywhere.channels())
    house.settle()
    assert not counted.done()
    house.pass_time(everywhere_module.SURVEY_TIMEOUT)
    assert counted.done()
    assert 0 < len(counted.result()) < 11
    assert "1 of 2 nodes did not say all their channels" in caplog.text


def test_nobody_waits_for_a_node_that_goes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    there(house, 1)
    house.pass_time(1)
    monkeypatch.setattr(everywhere_module, "_tallies", lambda sender, survey, channels: [])  # nobody answers
    counted = house.begin(house.nodes[0].everywhere.channels())
    for node in house.nodes[1:]:
        house.run(node.stop())
    house.settle()
    assert counted.result() == {}


def test_an_order_that_cannot_be_carried_out_here_is_a_line_in_the_log(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    there(house, 1)
    order = orders.Subscribe(sender="another node", user="ann", channel="nowhere:1")
    house.call(lambda: house.nodes[1].everywhere.obey(order))
    assert "'ann' cannot be subscribed to 'nowhere:1', as another node wants" in caplog.text


def listening_in(real: Callable[..., None], told: list[orders.AnyOrder]) -> Callable[..., None]:
    def answered(self: object, tally: orders.Tally) -> None:
        told.append(tally)
        real(self, tally)

    return answered
