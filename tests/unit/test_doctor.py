"""`hubbub doctor`: how what it sees is judged, and how findings are shown."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from hubbub import Hubbub
from hubbub.brokers import scripts
from hubbub.channels import ChannelRules, Delivery, Namespaces
from hubbub.cli import main
from hubbub.cli.terminal import Colours
from hubbub.doctor import figures, neighbours, sentinels, trials
from hubbub.doctor.configured import configured, is_this_machine
from hubbub.doctor.examination import examine
from hubbub.doctor.findings import Finding, Part
from hubbub.doctor.machine import descriptors, machine
from hubbub.doctor.rights import COMMANDS, Side, channels_of, rule
from hubbub.presence import redis as presence
from hubbub.redis.pipeline import Script
from hubbub.settings import Settings, load, notes
from hubbub.version import VERSION

Output = pytest.CaptureFixture[str]

SECRET = "0123456789abcdef0123456789abcdef"
QUIET = {"maxmemory_policy": "noeviction", "maxmemory": "0", "used_memory": "1000000"}


def seen(found: list[Finding]) -> list[tuple[str, str]]:
    return [(each.subject, each.level) for each in found]


# ---------------------------------------------------------------------------------------------------- INFO and CONFIG


@pytest.mark.parametrize(
    ("info", "level", "words"),
    [
        ({"redis_version": "7.0.15"}, "ok", "Redis 7.0.15"),
        ({"redis_version": "8.10.0"}, "ok", "Redis 8.10.0"),
        ({"redis_version": "6.2.14"}, "wrong", "too old"),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.1"}, "ok", "Valkey 9.0.1"),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.9"}, "wrong", "Valkey 7.2.9 is too old"),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.30"}, "warning", "Dragonfly"),
        ({}, "warning", "not tested"),
    ],
)
def test_versions(info: dict[str, str], level: str, words: str) -> None:
    found = figures.version(info)
    assert found.level == level
    assert words in found.seen
    assert bool(found.fix) == (level != "ok")


def test_a_replica_and_a_cluster_are_wrong() -> None:
    assert figures.role({"role": "master", "connected_slaves": "2"}).seen == "primary, 2 replicas"
    replica = figures.role({"role": "slave", "master_host": "10.0.0.1", "master_port": "6379"})
    assert replica.level == "wrong"
    assert "10.0.0.1:6379" in replica.fix
    assert figures.role({"role": "master", "cluster_enabled": "1"}).level == "wrong"


@pytest.mark.parametrize(
    ("policy", "limit", "level"),
    [
        ("noeviction", 0, "ok"),
        ("noeviction", 100, "ok"),
        ("noeviction", 11, "warning"),  # nearly full
        ("allkeys-lru", 0, "note"),
        ("allkeys-lru", 100, "wrong"),
        ("volatile-lru", 100, "wrong"),  # every key of hubbub has a TTL
        ("volatile-ttl", 100, "wrong"),
        ("allkeys-random", 100, "wrong"),
    ],
)
def test_eviction(policy: str, limit: int, level: str) -> None:
    found = list(figures.memory({"maxmemory_policy": policy, "maxmemory": str(limit), "used_memory": "10"}))
    assert seen(found) == [("memory", level)]
    if policy != "noeviction":
        assert "maxmemory-policy noeviction" in found[0].fix


def test_what_has_happened_since_the_start_of_the_server_is_told() -> None:
    info = QUIET | {"evicted_keys": "12", "connected_clients": "90", "maxclients": "100", "evicted_clients": "3"}
    info["client_output_buffer_limit_disconnections"] = "4"
    found = [*figures.memory(info), *figures.clients(info)]
    assert seen(found) == [
        ("memory", "ok"),
        *(("evictions", "warning"), ("clients", "warning"), ("clients", "warning"), ("buffers", "warning")),
    ]
    assert ["12 keys" in found[1].seen, "3 clients" in found[3].seen, "4 clients" in found[4].seen] == [True] * 3
    calm = QUIET | {"evicted_keys": "0", "connected_clients": "10", "maxclients": "100"}
    assert seen([*figures.memory(calm), *figures.clients(calm)]) == [("memory", "ok"), ("clients", "ok")]


@pytest.mark.parametrize(
    ("pubsub", "level"),
    [
        ("33554432 8388608 60", "ok"),
        ("67108864 0 0", "warning"),
        ("268435456 67108864 60", "ok"),
        ("33554432 8388608 5", "warning"),
        ("1048576 524288 60", "warning"),
        ("65536 0 0", "wrong"),
        ("33554432 1000 60", "wrong"),
        ("0 0 0", "note"),
    ],
)
def test_output_buffers(pubsub: str, level: str) -> None:
    value = f"normal 0 0 0 slave 268435456 67108864 60 pubsub {pubsub}"
    found = figures.buffers(value, largest=65536)
    assert found.level == level
    assert bool(found.fix) == (level != "ok")
    assert figures.buffers("", largest=65536).level == "note"


def test_a_server_that_cannot_save_is_doubtful_and_one_that_does_not_is_none() -> None:
    assert figures.saved({}).level == figures.saved({"aof_enabled": "1"}).level == "note"
    assert figures.saved({"rdb_last_bgsave_status": "err"}).level == "warning"


def test_info_is_read_as_it_is_written() -> None:
    text = "# Server\r\nredis_version:7.0.15\r\nexecutable:/a:b\r\n\r\n# Memory\r\nmaxmemory:0\r\n"
    assert figures.parse_info(text) == {"redis_version": "7.0.15", "executable": "/a:b", "maxmemory": "0"}


# ------------------------------------------------------------------------------------------------------------- trials


@pytest.mark.parametrize(
    ("times", "level"),
    [([0.001] * 9, "ok"), ([0.02] * 9, "warning"), ([0.001] * 8 + [0.3], "warning"), ([0.6] * 9, "wrong")],
)
def test_round_trips(times: list[float], level: str) -> None:
    assert trials.judged("round trip", "9 PINGs", times).level == level


@pytest.mark.parametrize(
    ("ahead", "trip", "level"),
    [(0.9, 0, "ok"), (-0.9, 0, "ok"), (1.4, 1, "ok"), (2, 0.1, "warning"), (-2, 1, "warning")],
)
def test_clocks(ahead: float, trip: float, level: str) -> None:
    assert trials.compared(ahead, trip).level == level


def test_the_rights_are_those_of_every_command_in_every_script() -> None:
    ours: dict[Side, Any] = {"broker": scripts, "presence": presence}
    for side, module in ours.items():
        found = [value for value in vars(module).values() if isinstance(value, Script)]
        assert len(found) >= 4
        called = {word.lower() for script in found for word in re.findall(r"redis\.p?call\('(\w+)'", script.source)}
        assert called - set(COMMANDS[side]) == set()


def test_the_rule_names_keys_channels_and_commands_of_the_sides_that_are_there() -> None:
    both = rule(["broker", "presence"], name="shop", prefix="s:", user="ann")
    assert both.startswith("ACL SETUSER ann ~shop:* &hubbub:probe:* &s:* +ping +publish ")
    assert both.count("+ping") == both.count("+eval ") == 1
    alone = rule(["presence"], name="shop", prefix="s:")
    assert "&" not in alone
    assert "+publish" not in alone
    assert channels_of("") == ["*"]


# -------------------------------------------------------------------------------------------------- nodes, sentinels


def test_nodes() -> None:
    assert seen(neighbours.judged([], 0, 0)) == seen(neighbours.judged([], 0, None)) == [("nodes", "note")]
    alike = neighbours.judged([VERSION, VERSION], 1204, 2)
    assert seen(alike) == [("nodes", "ok")]
    assert "2 up with 1,204 clients" in alike[0].seen
    assert seen(neighbours.judged(["0.0.1"], 0, 1)) == [("nodes", "note")]
    mixed = neighbours.judged([VERSION, "0.0.1"], 0, 2)
    assert seen(mixed) == [("nodes", "warning")]
    assert "1 of 0.0.1" in mixed[0].seen
    assert seen(neighbours.judged([VERSION], 0, 2)) == [("nodes", "ok"), ("nodes", "warning")]
    assert seen(neighbours.judged([], 0, 1)) == [("nodes", "warning")]


def test_sentinels_are_asked_at_their_own_addresses() -> None:
    url = "rediss+sentinel://ann:pw@a,b:1,[::1]:2/shop/3?sentinel_password=s%2F&ssl_cert_reqs=none&socket_connect_timeout=1"
    urls, group = sentinels.addresses(url)
    assert group == "shop"
    access = "rediss://:s%2F@"
    assert urls == [f"{access}{where}?ssl_cert_reqs=none" for where in ("a:26379", "b:1", "[::1]:2")]
    assert sentinels.addresses("redis+sentinel://a/shop") == (["redis://a:26379"], "shop")


def test_sentinels() -> None:
    def found(*answers: sentinels.Answer) -> list[str]:
        return [each.level for each in sentinels.judged(list(answers), "shop")]

    right = sentinels.Answer("a:1", "p:1")
    away = sentinels.Answer("b:1", trouble="b:1 cannot be reached")
    assert found(right, right, right) == ["ok"]
    assert found(right, right, away) == ["warning", "ok"]
    assert found(right) == ["warning"]
    assert found(right, right, sentinels.Answer("c:1", "q:1")) == ["warning", "ok"]
    assert found(right, right, sentinels.Answer("c:1", "p:1", no_quorum="NOQUORUM")) == ["wrong"]
    assert found(away) == ["warning", "wrong"]


# ------------------------------------------------------------------------------------------------ settings, machine


def judged(**given: object) -> list[tuple[str, str]]:
    settings = load(None, {}, {name.replace("__", "."): value for name, value in given.items()})
    first, *found, last = seen(configured(settings, notes(settings), Namespaces(settings.channels)))
    assert (first, last) == (("settings", "ok"), ("channels", "ok"))
    return found


def about(hub: Hubbub) -> dict[str, Finding]:
    """The settings of an application, by subject; of several on one subject the last."""
    return {each.subject: each for each in configured(hub.settings, hub.notes(), hub.node.namespaces)}


def declaring(hub: Hubbub, pattern: str, delivery: Delivery = "live") -> Hubbub:
    hub.channel(pattern, subscribe="anyone", delivery=delivery)(type("Room", (), {}))
    return hub


def test_settings_that_are_right() -> None:
    assert judged(auth__hmac_secret=SECRET, api__key=SECRET, broker__url="redis://there") == []


def test_settings_that_are_doubtful_or_wrong() -> None:
    redis = {"broker__url": "redis://there", "api__key": SECRET}
    fine = {**redis, "auth__hmac_secret": SECRET}
    assert judged(**redis) == [("settings", "warning")]  # nobody may connect
    assert judged(**redis, auth__hmac_secret="short") == [("access", "warning")]
    assert judged(**redis, auth__hmac_secret=["change-me" * 5, SECRET]) == [("access", "warning")]
    assert judged(**{**fine, "api__key": "abc"}) == [("api", "warning")]
    assert judged(**{**fine, "api__key": ""}) == [("settings", "note")]
    assert judged(**fine, server__trusted_proxies=["10.0.0.0/8"]) == []
    for everybody in ("*", "0.0.0.0/0", "::/0"):
        assert judged(**fine, server__trusted_proxies=[everybody]) == [("proxies", "warning")]
    assert judged(**fine, presence__url="memory://") == [("presence", "warning")]
    assert judged(**{**fine, "broker__url": "memory://"}) == [("broker", "note")]


def test_where_settings_are_from_is_always_said() -> None:
    def where(env: dict[str, str], **given: object) -> str:
        settings = load(None, env, {name.replace("__", "."): value for name, value in given.items()})
        return configured(settings, notes(settings), Namespaces(settings.channels))[0].seen

    assert where({}) == "no value is set in hubbub.toml, in HUBBUB_… variables or in arguments"
    said = where({"HUBBUB_API_KEY": SECRET, "HUBBUB_BROKER_NAME": "shop"}, server__port=9000)
    assert said == "read from HUBBUB_… variables, arguments of the program; all others are defaults"


def test_what_to_set_is_the_remedy_and_no_part_of_what_was_seen() -> None:
    settings = load(None, {})
    fixes = {each.seen: each.fix for each in configured(settings, notes(settings), Namespaces())}
    assert fixes["nobody may connect"].startswith("set auth.hmac_secret ")
    assert fixes["the HTTP API is closed"] == "set api.key to open it"


# -------------------------------------------------------------------------------------- channels declared by classes


def test_channels_of_settings_and_of_classes_are_all_seen(folder: Path) -> None:
    hub = Hubbub(store="sqlite:///app.db", channels={"chat": {"delivery": "recent"}})
    assert about(hub)["channels"].seen == "live: default; recent: chat"
    declaring(hub, "order:{id}", delivery="durable")
    assert about(hub)["channels"].seen == "live: default; recent: chat; durable: order:{id}"
    for number in range(20):
        declaring(hub, f"room{number}:{{id}}")
    assert re.match(r"live: default(, room\d+:\{id\}){9} and 11 more; recent", about(hub)["channels"].seen)


def test_what_is_durable_in_a_class_needs_a_store(folder: Path) -> None:
    hub = declaring(Hubbub(store="sqlite:///app.db"), "order:{id}", delivery="durable")
    assert "store" not in about(hub)
    assert "channels that are not durable" in about(hub)["broker"].seen
    hub.override({"store.url": ""})
    found = about(hub)["store"]
    assert (found.level, "the class of 'order:{id}'" in found.seen) == ("wrong", True)
    assert "store.url" in found.fix


def test_settings_that_an_application_made_itself_need_a_store_too(folder: Path) -> None:
    hub = Hubbub(settings=Settings(channels={"orders": ChannelRules(delivery="durable")}))
    assert about(hub)["store"].level == "wrong"
    assert "channels.orders.delivery" in about(hub)["store"].seen


async def parts_of(hub: Hubbub, *, is_whole: bool = True) -> list[Part]:
    namespaces = hub.node.namespaces if is_whole else None
    return [part async for part in examine(hub.settings, hub.notes(), namespaces)]


async def test_a_store_that_nothing_uses_is_told_of(folder: Path) -> None:
    hub = Hubbub(store="sqlite:///app.db")
    use = (await parts_of(hub))[-1].findings[0]
    assert (use.subject, use.level) == ("use", "note")
    assert "main:hub" not in use.fix
    use = (await parts_of(hub, is_whole=False))[-1].findings[0]
    assert "hubbub doctor main:hub" in use.fix
    declaring(hub, "order:{id}", delivery="durable")
    assert "use" not in {each.subject for each in (await parts_of(hub))[-1].findings}
    assert "use" in {each.subject for each in (await parts_of(hub, is_whole=False))[-1].findings}


def test_everything_allowed_is_for_this_machine_only() -> None:
    given = {"auth__insecure": True, "broker__url": "redis://there", "api__key": SECRET}
    assert ("access", "wrong") in judged(**given, server__host="0.0.0.0")
    assert ("access", "wrong") in judged(**given, server__host="example.com")
    for host in ("127.0.0.1", "::1", "localhost"):
        assert judged(**given, server__host=host) == [("settings", "note")]
    assert judged(**given, server__host="0.0.0.0", server__unix="/run/h.sock") == [("settings", "note")]


def test_this_machine() -> None:
    assert [is_this_machine(host) for host in ("127.8.0.1", "[::1]", "localhost")] == [True] * 3
    assert [is_this_machine(host) for host in ("", "0.0.0.0", "::", "10.0.0.1", "redis")] == [False] * 5


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "level"),
    [
        (1024, 4096, 0, "warning"),
        (1_000_000, 1_000_000, 0, "ok"),
        (float("inf"), float("inf"), 0, "ok"),
        (20_000, 20_000, 19_000, "ok"),
        (20_000, 20_000, 20_000, "wrong"),
    ],
)
def test_descriptors(soft: float, hard: float, wanted: int, level: str) -> None:
    found = descriptors(soft, hard, wanted)
    assert found.level == level
    if level == "wrong":
        assert f"LimitNOFILE={wanted + 64}" in found.fix


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = {each.subject: each for each in machine(max_connections=0, uses_redis=True)}
    assert found["packages"].level == "wrong"
    assert "hubbub[redis]" in found["packages"].fix
    assert found["event loop"].level == "warning"
    assert "packages" not in {each.subject for each in machine(max_connections=0, uses_redis=False)}


# ------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hubbub.toml").write_text(f'[auth]\nhmac_secret = "{SECRET}"\n')
    return tmp_path


def test_findings_as_text(folder: Path, capsys: Output) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0] == "settings"
    assert "  ok       settings     read from hubbub.toml; all others are defaults" in lines
    assert "  note     broker       memory://: one process only." in said
    assert '                        → broker.url = "redis://…" joins many processes' in lines
    assert "machine" in lines
    assert "\x1b" not in said
    assert lines[-1].startswith("Nothing is wrong")


def test_findings_as_json_and_the_exit_code(folder: Path, capsys: Output) -> None:
    (folder / "hubbub.toml").write_text('[auth]\ninsecure = true\n[server]\nhost = "0.0.0.0"\n')
    assert main(["doctor", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["wrong"] == 1
    (wrong,) = [each for each in said["findings"] if each["level"] == "wrong"]
    assert (wrong["about"], wrong["subject"]) == ("settings", "access")
    assert "127.0.0.1" in wrong["fix"]
    assert all(set(each) == {"about", "subject", "level", "seen", "fix"} for each in said["findings"])


def test_an_application_s_own_hub(folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "doctored.py").write_text(
        "from hubbub import Hubbub\nhub = Hubbub(auth={'anonymous': True}, api={'key': 'k'})\n"
    )
    assert main(["doctor", "doctored:hub", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["level"] for each in said["findings"] if each["subject"] == "api"] == ["warning"]
    assert main(["doctor", "doctored:hub", "--config", "hubbub.toml"]) == 2


def test_classes_of_an_application_are_seen(folder: Path, capsys: Output) -> None:
    (folder / "declaring.py").write_text(
        "from hubbub import Hubbub\nhub = Hubbub(store='sqlite:///app.db')\n"
        "@hub.channel('order:{id}', delivery='durable', subscribe='anyone')\nclass Order: ...\n"
    )
    assert main(["doctor", "declaring:hub"]) == 0
    said = capsys.readouterr().out
    assert "  ok       channels     live: default; durable: order:{id}\n" in said
    assert "store: sqlite:///app.db" in said
    (folder / "hubbub.toml").write_text("")
    (folder / "homeless.py").write_text((folder / "declaring.py").read_text() + "hub.override({'store.url': ''})\n")
    assert main(["doctor", "homeless:hub"]) == 1
    assert "the class of 'order:{id}' is 'durable', and there is no store" in capsys.readouterr().out


def test_a_class_that_is_refused_is_one_line_that_names_its_place_once(folder: Path, capsys: Output) -> None:
    (folder / "refused.py").write_text(
        "from hubbub import Hubbub\nhub = Hubbub()\n"
        "@hub.channel('order:{id}', delivery='durable', subscribe='anyone')\nclass Order: ...\n"
    )
    assert main(["doctor", "refused:hub"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("hubbub: Order (refused.py, line 3): channels.order.delivery = 'durable': needs a store")
    assert said.count("refused.py") == 1


def test_settings_that_cannot_be_read_are_one_line(folder: Path, capsys: Output) -> None:
    (folder / "hubbub.toml").write_text('[broker]\nurl = "reddis://x"\n')
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_colours_are_for_those_who_look(folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    (folder / "hubbub.toml").write_text('[auth]\ninsecure = true\n[server]\nhost = "0.0.0.0"\n')
    main(["doctor"])
    assert Colours(sys.stdout).wrong("  wrong    access")[:9] in capsys.readouterr().out
