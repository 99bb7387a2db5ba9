"""`hubbub doctor` on real servers, healthy ones and such as are configured badly on purpose."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest
import redis
from tests.backends import KINDS, Kind, RedisServer, free_port
from tests.contracts.conftest import Node
from tests.integration.certificates import Certificate
from tests.integration.commands import ran
from tests.integration.redis_support import PATIENCE, connected, until
from tests.serving import ROOT

from hubbub import Hubbub
from hubbub.brokers.base import INTERCOM, Notice, StreamOptions
from hubbub.brokers.calls import Calls
from hubbub.brokers.redis import RedisBroker
from hubbub.channels import Namespaces
from hubbub.clock import SystemClock
from hubbub.doctor.examination import examine
from hubbub.doctor.findings import Finding, Part
from hubbub.doctor.redis import Server, examined
from hubbub.doctor.rights import COMMANDS, READING, Side, rule
from hubbub.model import ClientInfo, PresenceStats, Publication
from hubbub.presence.redis import RedisPresence
from hubbub.settings import load
from hubbub.source import Known

BOTH: tuple[Side, ...] = ("broker", "presence")

PAGE = (ROOT / "docs/guide/redis.md").read_text()

#: What is doubtful or wrong, by subject.
Troubles = Mapping[str, Finding]


async def findings(url: str, sides: tuple[Side, ...] = BOTH, **given: object) -> list[Finding]:
    """About one server. Those of the time that it takes are left out: a loaded machine is slow, and that is so."""
    keys: dict[str, object] = {f"broker.{key}": value for key, value in given.items()}
    settings = load(None, {}, {"broker.url": url, "channels.chat.delivery": "recent", **keys})
    namespaces = Namespaces(settings.channels)
    found = await examined(Server(url, sides, "broker.url"), settings, SystemClock(), namespaces=namespaces)
    return [each for each in found if each.subject not in ("round trip", "publishing") or each.level == "ok"]


async def troubles(url: str, **given: object) -> Troubles:
    found = await findings(url, BOTH, **given)
    return {each.subject: each for each in found if each.level in ("warning", "wrong")}


async def wrong(url: str) -> Finding:
    """The one thing that is wrong."""
    (found,) = [each for each in await findings(url) if each.level == "wrong"]
    return found


# ------------------------------------------------------------------------------------------------------------ healthy


async def test_a_server_as_it_comes_is_well_and_keeps_nothing_of_the_examination(own_backend: RedisServer) -> None:
    found = {each.subject: each for each in await findings(own_backend.url)}
    assert {each.level for each in found.values()} <= {"ok", "note"}
    assert own_backend.kind.capitalize() in found["version"].seen
    for subject in ("reachable", "role", "memory", "buffers", "clients", "clock", "rights", "hearing", "channels"):
        assert found[subject].level == "ok", found[subject]
    assert found["nodes"].seen == "no other node is up"
    assert "hubbub:" in found["name"].seen
    assert own_backend.command("DBSIZE") == 0
    assert own_backend.command("PUBSUB", "CHANNELS") == []


async def test_a_server_of_presence_alone_is_asked_for_what_presence_needs(backend: RedisServer) -> None:
    found = {each.subject: each.level for each in await findings(backend.url, ("presence",))}
    assert found["rights"] == "ok"
    assert not {"hearing", "channels", "nodes", "buffers"} & set(found)
    assert backend.command("DBSIZE") == 0


async def test_each_server_is_one_part(redis_server: RedisServer, valkey_server: RedisServer) -> None:
    async def about(**given: object) -> list[str]:
        settings = load(None, {}, {name.replace("__", "."): value for name, value in given.items()})
        parts: list[Part] = [part async for part in examine(settings, [])]
        return [part.about.partition(":")[0] for part in parts]

    one, other = redis_server.url, valkey_server.url
    assert await about(broker__url=one) == ["settings", "machine", "broker and presence"]
    assert await about(broker__url=one, presence__url=other) == ["settings", "machine", "broker", "presence"]
    assert await about(broker__url=one, presence__url="memory://") == ["settings", "machine", "broker"]
    assert await about(presence__url=other) == ["settings", "machine", "presence"]
    assert await about() == ["settings", "machine"]


# --------------------------------------------------------------------------------------------------- bad configuration


async def test_eviction_and_what_it_has_taken(own_backend: RedisServer) -> None:
    own_backend.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "4mb")
    for number in range(100):
        own_backend.command("SET", f"large:{number}", "x" * 100_000)
    found = await troubles(own_backend.url)
    assert found["memory"].level == "wrong"
    assert found["evictions"].level == "warning"
    own_backend.flushall()
    own_backend.command(*found["memory"].fix.partition("at once: ")[2].rstrip(")").split())
    assert "memory" not in await troubles(own_backend.url)


async def test_output_buffers_that_are_too_small(own_backend: RedisServer) -> None:
    for value, level in (("pubsub 16mb 4mb 60", "warning"), ("pubsub 32kb 16kb 1", "wrong")):
        own_backend.command("CONFIG", "SET", "client-output-buffer-limit", value)
        assert (await troubles(own_backend.url))["buffers"].level == level
    found = (await troubles(own_backend.url))["buffers"]
    words, value = found.fix.partition("at once: ")[2].removesuffix("')").split(" '")
    own_backend.command(*words.split(), value)
    assert "buffers" not in await troubles(own_backend.url)


async def of_hub(hub: Hubbub) -> Troubles:
    """Of an application's broker, what is doubtful or wrong."""
    parts = [part async for part in examine(hub.settings, [], hub.node.namespaces)]
    (found,) = [part.findings for part in parts if part.about.startswith("broker")]
    return {each.subject: each for each in found if each.level in ("warning", "wrong")}


async def test_what_classes_declare_counts(own_backend: RedisServer) -> None:
    own_backend.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 512kb 512kb 60")
    url = f"redis://ann:pw@127.0.0.1:{own_backend.port}"
    own_backend.command("ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all", "&hubbub*", "&__redis__*", "&default:*")
    hub = Hubbub(url)
    found = await of_hub(hub)
    assert found["buffers"].level == "warning"
    assert "channels" not in found
    hub.channel("photo:{id}", subscribe="anyone", max_bytes="1MiB")(type("Photo", (), {}))
    found = await of_hub(hub)
    assert found["buffers"].level == "wrong"
    assert "photo:" in found["channels"].seen


async def test_a_full_server(own_backend: RedisServer) -> None:
    own_backend.command("CONFIG", "SET", "maxmemory", "1")
    found = await troubles(own_backend.url)
    assert found["memory"].level == "warning"
    assert found["writing"].level == "wrong"
    assert "raise maxmemory" in found["writing"].seen


@pytest.mark.parametrize("kind", KINDS)
async def test_a_replica(kind: Kind) -> None:
    with RedisServer(kind) as primary, RedisServer(kind, replicaof=f"127.0.0.1 {primary.port}") as replica:
        await until(lambda: "REPLICA sync: Finished" in replica.output)
        found = await wrong(replica.url)
        assert found.subject == "role"
        assert f"127.0.0.1:{primary.port}" in found.fix
        assert primary.command("DBSIZE") == 0


async def test_a_replica_that_nobody_may_ask(own_backend: RedisServer) -> None:
    own_backend.command("ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all", "-info")
    own_backend.command("REPLICAOF", "127.0.0.1", free_port())
    found = await wrong(f"redis://ann:pw@127.0.0.1:{own_backend.port}")
    assert any(word in found.seen for word in ("READONLY", "MASTERDOWN", "this is a replica"))


# ---------------------------------------------------------------------------------------------------- out of reach


async def test_a_server_that_hangs(own_backend: RedisServer) -> None:
    own_backend.pause()
    found = await wrong(own_backend.url)
    assert found.subject == "reachable"
    assert "did not answer for" in found.seen
    assert "SLOWLOG" in found.fix


async def test_servers_that_cannot_be_reached_or_will_not_have_us() -> None:
    with RedisServer("redis", requirepass="secret") as server:
        address = f"127.0.0.1:{server.port}"
        for url, words in (
            (f"redis://127.0.0.1:{free_port()}", "cannot be reached"),
            ("redis://nobody.invalid", "cannot be reached"),
            (f"redis://{address}", "put the password in the URL"),
            (f"redis://:wr0ng@{address}", "correct user and password"),
            (f"redis://:secret@{address}/99", "no such database"),
            (f"redis://:secret@{address}?colour=red", "colour"),
            (f"rediss://:secret@{address}?ssl_cert_reqs=none&socket_connect_timeout=0.5", "without TLS"),
        ):
            found = await wrong(url)
            assert found.subject in ("reachable", "url")
            assert words in found.seen
            assert "broker.url" in found.fix
            assert not {"secret", "wr0ng"} & set(found.seen.replace(":", " ").replace("@", " ").split())


async def test_what_is_to_be_done_depends_on_why_it_cannot_be_reached() -> None:
    assert "nothing listens there" in (await wrong(f"redis://127.0.0.1:{free_port()}")).fix
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, closing(socket.socket()) as first:
        first.connect(deaf.getsockname())  # the only one that is let in unasked
        url = f"redis://127.0.0.1:{deaf.getsockname()[1]}?socket_connect_timeout=0.5"
        assert "firewall" in (await wrong(url)).fix


async def test_tls_and_its_certificate(certificate: Certificate) -> None:
    port = str(free_port())
    with RedisServer(
        "redis",
        tls_port=port,
        tls_auth_clients="no",
        tls_cert_file=certificate.file,
        tls_key_file=certificate.key,
        tls_ca_cert_file=certificate.file,
    ):
        assert await troubles(f"rediss://localhost:{port}?ssl_ca_certs={certificate.file}") == {}
        assert "ssl_ca_certs" in (await wrong(f"rediss://localhost:{port}")).seen
        assert (await wrong(f"redis://localhost:{port}")).subject == "reachable"


# ----------------------------------------------------------------------------------------------------------- rights


def user_of(server: RedisServer, *rights: str) -> str:
    """The URL of a user with just these rights."""
    server.command("ACL", "SETUSER", "ann", "reset", "on", ">pw", *rights)
    return f"redis://ann:pw@127.0.0.1:{server.port}"


def allow(server: RedisServer, found: Finding) -> None:
    """Do what a finding says."""
    server.command(*found.fix[found.fix.index("ACL SETUSER ann ") :].split())


async def test_what_a_user_lacks_is_said_and_the_fix_is_one(own_backend: RedisServer) -> None:
    url = user_of(own_backend, "~hubbub:*", "&hubbub:probe:*", "+ping", "+publish", "+subscribe", "+set", "+del")
    found = await troubles(url, prefix="app:")
    assert found["rights"].level == found["channels"].level == "wrong"
    for command in ("EVALSHA", "RPUSH", "ZADD", "HINCRBY"):
        assert command in found["rights"].seen.split(" use ")[1]
    assert "SET" not in found["rights"].seen.replace("HSET", "").split(" use ")[1].split(", ")
    assert "app:chat:" in found["channels"].seen
    assert found["patterns"].level == "warning"
    assert own_backend.command("DBSIZE") == 0
    allow(own_backend, found["rights"])
    assert set(await troubles(url, prefix="app:")) == {"patterns"}
    allow(own_backend, found["patterns"])
    assert await troubles(url, prefix="app:") == {}


async def test_a_user_of_another_application(own_backend: RedisServer) -> None:
    found = await troubles(user_of(own_backend, "~other:*", "&other:*", "+@all"))
    assert "keys such as hubbub:" in found["rights"].seen
    assert found["hearing"].level == "wrong"
    assert "&hubbub:probe:*" in found["hearing"].seen
    found = await troubles(user_of(own_backend, "~*", "&*", "+@all", "-set"))
    assert "may not use SET; more was not tried" in found["rights"].seen


async def test_a_server_of_presence_alone_needs_less(own_backend: RedisServer) -> None:
    rights = rule(["presence"], name="hubbub", prefix="").split()[3:]
    found = {each.subject: each for each in await findings(user_of(own_backend, *rights), ("presence",))}
    assert found["rights"].level == "ok"
    for missing in ("+hset", "+zadd", "+hincrby", "+evalsha"):
        fewer = [each for each in rights if each != missing]
        found = {each.subject: each for each in await findings(user_of(own_backend, *fewer), ("presence",))}
        assert found["rights"].seen == f"this user may not use {missing[1:].upper()}"
    own_backend.command("CONFIG", "SET", "maxmemory", "1")
    found = {each.subject: each for each in await findings(user_of(own_backend, *rights), ("presence",))}
    assert found["writing"].level == "wrong"
    own_backend.command("CONFIG", "SET", "maxmemory", "0")
    assert own_backend.command("DBSIZE") == 0


def granted(*more: str, prefix: str = "", name: str = "hubbub") -> list[str]:
    """What the rule gives a user."""
    return rule(BOTH, name=name, prefix=prefix, more=more).split()[3:]


async def test_what_may_not_be_read_is_never_wrong(own_backend: RedisServer) -> None:
    found = {each.subject: each for each in await findings(user_of(own_backend, *granted()))}
    assert {each.level for each in found.values()} <= {"ok", "note"}
    assert all("could not be read" in found[subject].seen for subject in ("figures", "buffers"))
    assert "maxmemory-policy" in found["figures"].fix
    more = {each.subject: each for each in await findings(user_of(own_backend, *granted(*READING)))}
    assert {"version", "memory", "role"} <= set(more)
    assert more["buffers"].level == "ok"


#: What the test itself says to the server, and what every user may say.
OTHERS = {"acl|log", "acl|setuser", "client|setinfo", "config|resetstat", "info", "hello", "auth"}


@pytest.mark.parametrize("prefix", ["", "app:"])
async def test_the_rule_is_enough_for_all_that_hubbub_does_and_has_nothing_that_it_never_does(
    own_backend: RedisServer, prefix: str
) -> None:
    url = user_of(own_backend, *granted(prefix=prefix, name="shop"))
    own_backend.command("CONFIG", "RESETSTAT")
    async with brokers(url, prefix) as (one, other):
        await streams(one, other)
        await who_is_there(url)
        if not prefix:  # else a user needs &*, see the finding about patterns
            await other.broker.watch(["chat:*"])
            await one.broker.publish("chat:9", Publication(b"{}"), StreamOptions())
            await until(lambda: "chat:9" in channels(other))
            await other.broker.watch([])
    await orders_of_nodes(url, prefix)
    async with connected(url) as pipeline:
        await pipeline.call(*Calls("shop", prefix).nodes().words)  # as `hubbub.sync`
    assert own_backend.command("ACL", "LOG") == []
    used = {name.removeprefix("cmdstat_") for name in own_backend.command("INFO", "commandstats")}
    patterns = {"psubscribe", "punsubscribe"} if prefix else set()
    assert used - OTHERS == {word[1:] for word in granted() if word[0] == "+"} - patterns


@asynccontextmanager
async def brokers(url: str, prefix: str) -> AsyncIterator[list[Node]]:
    """Two of one application."""
    nodes = [Node(RedisBroker(url, name="shop", prefix=prefix, clock=SystemClock())) for _ in range(2)]
    async with AsyncExitStack() as stack:
        for node in nodes:
            await node.broker.start(node.heard)
            stack.push_async_callback(node.broker.stop)
        yield nodes


def channels(node: Node) -> list[str]:
    """Where something was heard."""
    return [channel for channel, found in node.heard.announced.items() for _ in found]


async def streams(one: Node, other: Node) -> None:
    """Every method of a broker, where the server has something to do."""
    kept = StreamOptions(size=2, ttl=60)
    await other.broker.subscribe("chat:1")
    published = await one.broker.publish("chat:1", Publication(b"{}"), kept)
    for _ in range(2):
        await one.broker.publish("chat:1", Publication(b"{}"), kept)
    for options in (StreamOptions(), StreamOptions(idempotency_key="k"), StreamOptions(2, 60, "k", version=7)):
        await one.broker.publish("chat:1", Publication(b"{}"), options)
    await one.broker.notify("chat:1", Notice("join", ClientInfo("ann", "c1")))
    await until(lambda: len(channels(other)) >= 5)
    assert published.position is not None
    assert (await one.broker.heads(["chat:1", "chat:2"]))["chat:1"].offset >= 3
    assert await one.broker.heads(["chat:2"])
    assert len((await other.broker.read("chat:1", 0, 10)).publications) == 2
    assert len((await other.broker.read("chat:1", 0, 10, reverse=True)).publications) == 2
    page = await one.broker.read("chat:1", 0, 1)
    await one.broker.altered({"chat:1": Known(page.head.epoch, Publication(b"another", max(1, page.head.offset)))})
    assert (await one.broker.replace_epoch("chat:1", published.position.epoch)).epoch != published.position.epoch
    await one.broker.remove_history("chat:1")
    await other.broker.unsubscribe("chat:1")


async def who_is_there(url: str) -> None:
    """Every method of a presence."""
    presence = RedisPresence(url, name="shop", clock=SystemClock())
    await presence.start()
    try:
        for info in (b"", b"{}"):
            await presence.add("chat:1", ClientInfo("ann", "c1", conn_info=info))
        assert await presence.stats("chat:1") == PresenceStats(1, 1)
        assert set(await presence.members("chat:1")) == {"c1"}
        await presence.remove("chat:1", "c1")
    finally:
        await presence.stop()


async def orders_of_nodes(url: str, prefix: str) -> None:
    """Two hubs know each other, obey each other, and hear each other."""
    async with node(url, name="shop", prefix=prefix) as one, node(url, name="shop", prefix=prefix) as other:
        await until(lambda: len(one.node.everywhere.nodes()) == 2)
        await one.disconnect("ann")
        async with other.subscribe("chat:1") as subscription:
            await one.publish("chat:1", {"n": 1})
            async with asyncio.timeout(PATIENCE):
                async for publication in subscription:
                    assert publication.data == {"n": 1}
                    break
        async with other.subscribe("chat:5"):
            assert "chat:5" in await one.channels()


async def test_every_key_is_on_the_page_and_lives_as_long_as_is_said_there(own_backend: RedisServer) -> None:
    async with brokers(own_backend.url, "") as (one, other):
        await streams(one, other)
        await one.broker.publish("chat:1", Publication(b"{}"), StreamOptions(2, 60))
    presence = RedisPresence(own_backend.url, name="shop", clock=SystemClock())
    await presence.start()
    await presence.add("chat:1", ClientInfo("ann", "c1"))
    await presence.stop()
    lives = {"m": 30 * 86400, "l": 60, "k": 300, "n": 15, "p": 60}  # of `l`: the history_ttl of this test
    keys = [key.decode() for key in own_backend.command("KEYS", "*")]
    assert {key.split(":")[1] for key in keys} == set(lives)
    for key in keys:
        left = own_backend.command("PTTL", key)
        assert key.startswith("shop:")
        assert left == -2 or 0 <= left <= lives[key.split(":")[1]] * 1000  # -2: it has gone meanwhile
    for form in ("shop:m:{CHANNEL}", "shop:l:{CHANNEL}", "shop:k:LENGTH:{CHANNEL}:KEY", "shop:n:{CHANNEL}:NONCE"):
        assert f"| `{form}` |" in PAGE


def test_the_page_has_the_rule_and_what_is_printed_for_a_server_as_it_comes(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    words = rule(BOTH, name="shop", prefix="", user="hubbub on >PASSWORD")
    assert f"\n{words}\n" in PAGE
    presence = [f"+{command}" for command in COMMANDS["presence"]]
    assert f"`{' '.join(presence)}`" in PAGE
    assert f"`{' '.join(f'+{command}' for command in READING)}`" in PAGE
    said = ran(tmp_path, "doctor", HUBBUB_BROKER_URL=redis_server.url).stdout.decode()
    written = PAGE.split("$ hubbub doctor\n")[1].split("```")[0].splitlines()
    for line in written:
        subject = line[11:24].strip()
        assert line == "…" or not line.startswith("  ") or not subject or f" {subject} " in said, line
    assert said.count("\n                        → nothing if that is meant") == 1


# ------------------------------------------------------------------------------------------------------------ others


@asynccontextmanager
async def node(url: str, **broker: str) -> AsyncIterator[Hubbub]:
    hub = Hubbub(url, broker=broker, channels={"chat": {"delivery": "recent"}})
    async with hub:
        yield hub


async def test_two_nodes_are_seen_and_see_nothing_of_it(backend: RedisServer) -> None:
    async with node(backend.url) as one, node(backend.url) as other:
        await until(lambda: len(one.node.everywhere.nodes()) == len(other.node.everywhere.nodes()) == 2)
        (found,) = [each for each in await findings(backend.url) if each.subject == "nodes"]
        assert found.level == "ok"
        assert found.seen.startswith("2 up with 0 clients")
        await until(lambda: len(one.node.everywhere.nodes()) == len(other.node.everywhere.nodes()) == 2)


async def test_who_listens_to_orders_and_does_not_answer_is_doubtful(backend: RedisServer) -> None:
    with redis.Redis.from_url(backend.url) as client, client.pubsub() as stranger:
        stranger.subscribe(Calls("hubbub").target(INTERCOM))
        found = (await troubles(backend.url))["nodes"]
    assert found.level == "warning"
    assert found.seen.startswith("1 more")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", KINDS)
async def test_sentinels(kind: Kind) -> None:
    with ExitStack() as stack:
        primary = stack.enter_context(RedisServer(kind))
        config = f"sentinel monitor house 127.0.0.1 {primary.port} 2\nsentinel down-after-milliseconds house 500\n"
        guards = [stack.enter_context(RedisServer(kind, config=config, is_sentinel=True)) for _ in range(3)]
        url = f"redis+sentinel://{','.join(f'127.0.0.1:{guard.port}' for guard in guards)}/house"
        await until(lambda: all(_others(guard) == 2 for guard in guards))
        found = {each.subject: each for each in await findings(url)}
        assert found["sentinels"].level == found["reachable"].level == found["rights"].level == "ok"
        assert f"3 of 3 name 127.0.0.1:{primary.port}" in found["sentinels"].seen
        guards[0].kill()
        guards[1].kill()
        await until(lambda: "NOQUORUM" in _quorum(guards[2]))
        levels = [each.level for each in await findings(url) if each.subject == "sentinels"]
        assert levels == ["warning", "warning", "wrong"]
        assert (await troubles(url.replace("/house", "/castle")))["sentinels"].level == "wrong"


def _others(guard: RedisServer) -> int:
    return len(guard.command("SENTINEL", "SENTINELS", "house"))


def _quorum(guard: RedisServer) -> str:
    try:
        return str(guard.command("SENTINEL", "CKQUORUM", "house"))
    except redis.ResponseError as error:
        return str(error)


# ------------------------------------------------------------------------------------------------------- the command


@pytest.mark.timeout(90)
def test_the_exit_code_and_what_programs_read(own_backend: RedisServer, tmp_path: Path) -> None:
    well = ran(tmp_path, "doctor", "--json", HUBBUB_BROKER_URL=own_backend.url)
    assert well.returncode == 0, well
    assert json.loads(well.stdout)["wrong"] == 0
    own_backend.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru", "maxmemory", "100mb")
    ill = ran(tmp_path, "doctor", HUBBUB_BROKER_URL=own_backend.url)
    assert ill.returncode == 1
    assert re.findall(rb"^  wrong    (\w+) ", ill.stdout, re.MULTILINE) == [b"memory"]
    assert not ill.stderr
