"""What one client may cost: connections of a user, commands, publications; and tokens that are revoked."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes import SECRET, Client, House
from tests.faults import UnreliableBroker
from tests.wire import encode_command

from hubbub.auth import mint
from hubbub.channels import ChannelRules
from hubbub.core.limiter import FLOOD
from hubbub.core.node import Limits
from hubbub.errors import TooManyRequests
from hubbub.rates import Rate

ANYONE: dict[str, Any] = {"subscribe": "anyone", "publish": "anyone", "read": "anyone"}
RULES = {"news": ChannelRules(delivery="recent", **ANYONE), "slow": ChannelRules(rate="2/s", **ANYONE)}


def token(user: str, **claims: Any) -> str:
    return mint(SECRET, {"sub": user, **claims})


# connections of a user ----------------------------------------------------------------------------------------------


def test_a_user_may_have_so_many_connections_and_the_next_is_refused_for_good() -> None:
    with House(RULES, limits=Limits(max_connections_per_user=2)) as house:
        first, second, third = (house.client(token=token("ann")) for _ in range(3))
        assert (first.closed_with, second.closed_with, third.closed_with) == (0, 0, 3504)
        assert third.replies == {}
        assert house.client(token=token("bob")).closed_with == 0
        house.call(first.connection.closed)
        assert house.client(token=token("ann")).closed_with == 0
        assert house.client(token=token("ann")).closed_with == 3504


def test_the_anonymous_user_is_nobody() -> None:
    with House(RULES, limits=Limits(max_connections_per_user=1)) as house:
        assert [house.client().closed_with for _ in range(3)] == [0, 0, 0]


def connecting(house: House, user: str) -> Client:
    """A client whose connect waits for its server-side subscription."""
    client = house.client(connect=False)
    house.call(lambda: client.connect(token(user, channels=["news:own"])))
    assert client.replies == {}
    return client


def holding(house: House) -> UnreliableBroker:
    broker = house.brokers[0]
    assert isinstance(broker, UnreliableBroker)
    broker.hold("subscribe")
    return broker


def test_of_two_connects_under_way_one_wins() -> None:
    limits = Limits(max_connections_per_user=1)
    with House(RULES, limits=limits, wrap=lambda broker: UnreliableBroker(broker, is_direct=True)) as house:
        broker = holding(house)
        both = [connecting(house, "ann") for _ in range(2)]
        house.begin(broker.release_all())
        assert sorted(client.closed_with for client in both) == [0, 3504]
        assert len(list(house.node.registry.of("ann"))) == 1
        assert house.node.channels() == {"news:own": 1}


def test_who_is_connecting_keeps_nobody_out() -> None:
    limits = Limits(max_connections_per_user=1)
    with House(RULES, limits=limits, wrap=lambda broker: UnreliableBroker(broker, is_direct=True)) as house:
        broker = holding(house)
        waits = connecting(house, "ann")
        other = house.client(token=token("ann"))
        assert other.closed_with == 0
        house.begin(broker.release_all())
        assert waits.closed_with == 3504
        house.call(other.connection.closed)
        assert house.client(token=token("ann")).closed_with == 0, "who was refused has left nothing behind"


def test_who_goes_while_connecting_leaves_no_place_for_one_too_many() -> None:
    limits = Limits(max_connections_per_user=1)
    with House(RULES, limits=limits, wrap=lambda broker: UnreliableBroker(broker, is_direct=True)) as house:
        broker = holding(house)
        waits = connecting(house, "ann")
        house.call(waits.connection.closed)
        house.begin(broker.release_all())
        assert [house.client(token=token("ann")).closed_with for _ in range(2)] == [0, 3504]


def test_a_refresh_is_not_one_connection_more() -> None:
    with House(RULES, limits=Limits(max_connections_per_user=1)) as house:
        client = house.client(token=token("ann"))
        house.call(lambda: client.command("refresh", token=token("ann")))
        assert client.closed_with == 0
        house.call(client.connection.closed)
        assert house.node.registry.users == 0


# commands -----------------------------------------------------------------------------------------------------------

SLOWLY = Limits(command_rate=Rate(5, 1.0))


def test_commands_beyond_the_rate_are_answered_with_a_temporary_error() -> None:
    with House(RULES, limits=SLOWLY) as house:
        client = house.client()  # the first command
        ids = [house.call(lambda: client.command("history", channel="news:1")) for _ in range(6)]
        assert [client.error(id) for id in ids] == [0, 0, 0, 0, 111, 111]
        assert client.replies[ids[-1]]["error"]["temporary"] is True
        house.pass_time(0.4)
        ids = [house.call(lambda: client.command("history", channel="news:1")) for _ in range(3)]
        assert [client.error(id) for id in ids] == [0, 0, 111]
        assert client.closed_with == 0


def test_what_comes_in_one_message_is_counted_one_by_one_and_answered_in_order() -> None:
    with House(RULES, limits=SLOWLY) as house:
        client = house.client()
        message = b"\n".join(
            encode_command(id, "publish", {"channel": "news:1", "data": id}, binary=False) for id in range(10, 18)
        )
        house.call(lambda: client.send(message))
        assert [id for id in client.replies if id >= 10] == list(range(10, 18))
        assert [client.error(id) for id in range(10, 18)] == [0] * 4 + [111] * 4


def test_a_flood_is_disconnected_and_may_come_back() -> None:
    with House(RULES, limits=SLOWLY) as house:
        client = house.client()
        commands = FLOOD * 5 - 1
        for _ in range(commands):
            house.call(lambda: client.command("history", channel="news:1"))
        assert client.closed_with == 0
        house.call(lambda: client.command("history", channel="news:1"))
        assert client.closed_with == 3013
        assert len(client.replies) == commands + 1


def test_a_send_cannot_be_refused_so_it_ends_the_connection() -> None:
    with House(RULES, limits=SLOWLY) as house:
        client = house.client()
        for _ in range(4):
            house.call(lambda: client.command("history", channel="news:1"))
        house.call(lambda: client.send(encode_command(0, "send", {"data": 1}, binary=False)))
        assert client.closed_with == 3013


def test_unsubscribe_is_never_refused() -> None:
    with House(RULES, limits=SLOWLY) as house:
        client = house.client()
        house.call(lambda: client.subscribe("news:1"))
        for _ in range(8):
            house.call(lambda: client.command("history", channel="news:1"))
        id = house.call(lambda: client.command("unsubscribe", channel="news:1"))
        assert client.error(id) == 0
        assert house.node.channels() == {}


def test_pongs_are_no_commands() -> None:
    with House(RULES, limits=Limits(command_rate=Rate(1, 3600.0))) as house:
        client = house.client()
        for _ in range(20):
            house.pass_time(25)
        assert client.pings >= 10
        assert client.closed_with == 0


def test_without_a_rate_everything_runs() -> None:
    with House(RULES) as house:
        client = house.client()
        ids = [house.call(lambda: client.command("history", channel="news:1")) for _ in range(200)]
        assert {client.error(id) for id in ids} == {0}


# publications -------------------------------------------------------------------------------------------------------


def test_publishing_has_a_rate_of_its_own_in_each_channel() -> None:
    with House(RULES) as house:
        client = house.client()

        def publish(channel: str) -> int:
            return client.error(house.call(lambda: client.command("publish", channel=channel, data=1)))

        assert [publish("slow:1") for _ in range(3)] == [0, 0, 111]
        assert [publish("slow:2") for _ in range(3)] == [0, 0, 111]
        assert {publish("news:1") for _ in range(30)} == {0}
        house.pass_time(0.5)
        assert [publish("slow:1") for _ in range(2)] == [0, 111]
        assert house.client().closed_with == 0


def test_another_connection_has_its_own() -> None:
    with House(RULES) as house:
        rate = Rate(1, 1.0)
        for _ in range(2):
            connection = house.client().connection
            connection.spend("slow:1", rate)
            with pytest.raises(TooManyRequests):
                connection.spend("slow:1", rate)


# revocation ---------------------------------------------------------------------------------------------------------


def test_revoked_tokens_close_their_connections_and_open_none() -> None:
    with House(RULES) as house:
        now = house.clock.time()
        client, nameless, bob = (
            house.client(token=each) for each in (token("ann", iat=now - 60), token("ann"), token("bob", iat=now - 60))
        )
        assert house.call(lambda: house.node.control.revoke("ann", ttl=3600)) == 2
        assert [each.closed_with for each in (client, nameless, bob)] == [3005, 3005, 0]
        for void in (token("ann", iat=now - 60), token("ann"), token("ann", iat=now)):
            refused = house.client(token=void)
            assert refused.error(1) == 109, "an SDK asks for another token"
        house.pass_time(1)
        assert house.client(token=token("ann", iat=house.clock.time())).error(1) == 0


def test_connections_with_newer_tokens_stay() -> None:
    with House(RULES) as house:
        now = house.clock.time()
        old, new = (house.client(token=token("ann", iat=now - age)) for age in (600, 10))
        assert house.call(lambda: house.node.control.revoke("ann", before=now - 300, ttl=3600)) == 1
        assert (old.closed_with, new.closed_with) == (3005, 0)


def test_a_refresh_with_a_revoked_token_ends_the_connection() -> None:
    with House(RULES) as house:
        now = house.clock.time()
        client = house.client(token=token("ann", iat=now + 5))  # the issuer's clock runs fast
        house.call(lambda: house.node.control.revoke("ann", ttl=3600))
        assert client.closed_with == 0
        house.call(lambda: client.command("refresh", token=token("ann", iat=now - 5)))
        assert client.closed_with == 3005


def test_a_connect_under_way_is_revoked_too() -> None:
    with House(RULES, wrap=lambda broker: UnreliableBroker(broker, is_direct=True)) as house:
        broker = holding(house)
        client = connecting(house, "ann")
        assert house.call(lambda: house.node.control.revoke("ann", ttl=3600)) == 1
        house.begin(broker.release_all())
        assert client.closed_with == 3005


def test_milliseconds_are_no_time_to_be_newer_than_a_revocation() -> None:
    with House(RULES) as house:
        milliseconds = house.clock.time() * 1000 + 1e6
        assert house.call(lambda: house.node.control.revoke("ann", ttl=3600)) == 0
        assert house.client(token=token("ann", iat=milliseconds)).error(1) == 109


def test_it_lasts_as_long_as_it_was_asked_to() -> None:
    with House(RULES) as house:
        old = token("ann", iat=house.clock.time())
        house.call(lambda: house.node.control.revoke("ann", ttl=60))
        house.pass_time(59)
        assert house.client(token=old).error(1) == 109
        house.pass_time(1)
        assert house.client(token=old).error(1) == 0


def test_nobody_has_no_tokens() -> None:
    with House(RULES) as house, pytest.raises(ValueError, match="anonymous"):
        house.node.control.revoke("", ttl=60)
