"""Settings: what is read from where, and what is said about every mistake."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from tests.reading import read, refusal

from hubbub.channels import ChannelRules
from hubbub.settings import LOCAL_ORIGINS, Api, Auth, Client, Server, Settings, load, notes, origins

HUBBUB_TOML = """
[server]
port = 8000
[auth]
hmac_secret = "secret"
insecure = true
[api]
key = "test-api-key"
[channels.default]
delivery = "recent"
presence = true
[channels.recovery]
delivery = "recent"
subscribe = "anyone"
publish = "subscriber"
[channels.smallhistory]
delivery = "recent"
subscribe = "anyone"
publish = "subscriber"
history_size = 2
[channels.fast]
delivery = "live"
subscribe = "anyone"
publish = "anyone"
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a directory of its own, where its file is hubbub.toml."""
    monkeypatch.chdir(tmp_path)


# Reading ----------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    settings = load(None, {})
    assert settings == load(None, {}, {}) == read() == Settings()
    assert settings.server == Server("127.0.0.1", 8000, 1, (), "", "", "", (), 5)
    assert settings.auth == Auth("", anonymous=False, insecure=False, personal_channel="")
    assert settings.client == Client(25, 8, 10, 30, 25, 128, 1024 * 1024, 0, 0, "", 10)
    assert settings.channels == {}
    assert set(origins(settings).values()) == {"default"}


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBBUB_SERVER_PORT", "9001")
    assert load().server.port == 9001
    assert load(env={}).server.port == 8000


def test_the_file_of_the_conformance_suites() -> None:
    settings = read(HUBBUB_TOML)
    assert settings.server.port == 8000
    assert settings.auth == Auth(hmac_secret="secret", insecure=True)
    assert settings.api == Api(key="test-api-key")
    assert settings.channels == {
        "default": ChannelRules(delivery="recent", presence=True),
        "recovery": ChannelRules(delivery="recent", subscribe="anyone", publish="subscriber"),
        "smallhistory": ChannelRules(delivery="recent", subscribe="anyone", publish="subscriber", history_size=2),
        "fast": ChannelRules(delivery="live", subscribe="anyone", publish="anyone"),
    }


def test_the_stronger_place_wins() -> None:
    toml = "[server]\nport = 1\n"
    env = {"HUBBUB_SERVER_PORT": "2"}
    for settings, port, origin in (
        (read(), 8000, "default"),
        (read(toml), 1, "hubbub.toml"),
        (read(toml, env), 2, "HUBBUB_SERVER_PORT"),
        (read(toml, env, server__port=3), 3, "argument"),
        (read(toml, env, server__port=None), 2, "HUBBUB_SERVER_PORT"),
        (read("", env), 2, "HUBBUB_SERVER_PORT"),
    ):
        assert settings.server.port == port
        assert origins(settings)["server.port"] == origin


def test_places_add_up_within_a_namespace() -> None:
    settings = read(
        '[channels.chat]\ndelivery = "recent"\n',
        {"HUBBUB_CHANNELS_CHAT_HISTORY_TTL": "1h"},
        channels__chat__history_size=5,
    )
    assert settings.channels["chat"] == ChannelRules(delivery="recent", history_ttl=3600, history_size=5)
    assert {key: origin for key, origin in origins(settings).items() if origin != "default"} == {
        "channels.chat.delivery": "hubbub.toml",
        "channels.chat.history_ttl": "HUBBUB_CHANNELS_CHAT_HISTORY_TTL",
        "channels.chat.history_size": "argument",
    }


def test_origins_name_every_key_once() -> None:
    keys = origins(read("[channels.chat]\n"))
    assert len(keys) == 9 + 3 + 2 + 1 + 8 + 1 + 11 + 12
    assert {"server.port", "broker.name", "auth.hmac_secret", "api.key", "channels.chat.delivery"} < set(keys)


def test_an_empty_table_declares_its_namespace() -> None:
    assert read("[channels.chat]\n").channels == {"chat": ChannelRules()}


def test_a_namespace_may_have_dots_and_dashes() -> None:
    toml = '[channels."a.b-C"]\npresence = true\n'
    assert read(toml).channels == {"a.b-C": ChannelRules(presence=True)}
    assert read(toml, {"HUBBUB_CHANNELS_A_B_C_PRESENCE": "0"}).channels == {"a.b-C": ChannelRules()}
    settings = load(None, {}, {"channels.a.b-C.presence": True})
    assert settings.channels == {"a.b-C": ChannelRules(presence=True)}


def test_a_file_may_begin_with_a_byte_order_mark() -> None:
    assert read(b"\xef\xbb\xbf[server]\nport = 1\n").server.port == 1


# Values -----------------------------------------------------------------------------------------------------

CASES: list[tuple[str, str, str | None, Any]] = [
    # key, in TOML, in the environment, value
    ("server.host", '"::1"', "::1", "::1"),
    ("server.port", "0", " 0 ", 0),
    ("server.allowed_origins", "[]", "", ()),
    ("server.allowed_origins", '["*"]', "*", ("*",)),
    (
        "server.allowed_origins",
        '["https://a.example", "http://b:8080"]',
        "https://a.example, http://b:8080,",
        ("https://a.example", "http://b:8080"),
    ),
    ("server.allowed_origins", '["https://*.a.example", "null"]', None, ("https://*.a.example", "null")),
    ("server.trusted_proxies", '["10.0.0.1", "fd00::/8", "*"]', None, ("10.0.0.1", "fd00::/8", "*")),
    ("server.unix", '"/run/hubbub.sock"', "/run/hubbub.sock", "/run/hubbub.sock"),
    ("broker.url", '"memory://"', "memory://", "memory://"),
    ("broker.name", '"my:app"', "my:app", "my:app"),
    ("auth.hmac_secret", '" a,b "', " a,b ", " a,b "),
    ("auth.hmac_secret", '["new", "old"]', None, ("new", "old")),
    ("auth.public_key", '"keys/public.pem"', "keys/public.pem", "keys/public.pem"),
    ("auth.public_key", '["a.pem", "b.pem"]', None, ("a.pem", "b.pem")),
    ("auth.jwks_url", '"https://id.example/jwks.json"', "https://id.example/jwks.json", "https://id.example/jwks.json"),
    ("auth.jwks_url", '"http://[::1]:8080/jwks?a=b"', None, "http://[::1]:8080/jwks?a=b"),
    ("auth.issuer", '"https://id.example"', "https://id.example", "https://id.example"),
    ("auth.audience", '["chat", "feed"]', None, ("chat", "feed")),
    ("auth.anonymous", "true", "true", True),
    ("auth.anonymous", "true", "1", True),
    ("auth.anonymous", "false", "False", False),
    ("auth.anonymous", "false", "0", False),
    ("client.ping_interval", "30", "30", 30),
    ("client.ping_interval", "29.5", "29.5", 29.5),
    ("client.ping_interval", '"30s"', "30s", 30),
    ("client.ping_interval", '"9500ms"', "9500 ms", 9.5),
    ("client.ping_interval", '"5m"', "5M", 300),
    ("client.ping_interval", '"1.5h"', "1.5h", 5400),
    ("client.ping_interval", '"1d"', "1d", 86400),
    ("client.expired_grace", "0", "0", 0),
    ("client.max_channels", "1000", "1000", 1000),
    ("client.write_budget", "4096", "4096", 4096),
    ("client.write_budget", '"64KiB"', "64kib", 65536),
    ("client.write_budget", '"1.5MiB"', "1.5 MiB", 3 << 19),
    ("client.write_budget", '"1GiB"', "1GiB", 1 << 30),
    ("channels.chat.delivery", '"latest"', "latest", "latest"),
    ("channels.chat.history_ttl", '"5m"', "5m", 300),
    ("channels.chat.max_bytes", '"1KiB"', "1KiB", 1024),
    ("channels.chat.data", '"binary"', "binary", "binary"),
    ("channels.chat.rate", '"20/s"', "20/s", "20/s"),
    ("server.drain_time", "0", "0", 0),
    ("server.drain_time", '"1m"', "1m", 60),
    ("client.max_connections", "0", "0", 0),
    ("client.max_connections_per_user", "5", "5", 5),
    ("client.command_rate", '""', "", ""),
    ("client.command_rate", '"100/m"', "100/m", "100/m"),
    ("client.handler_timeout", '"500ms"', "500ms", 0.5),
]


def value_of(settings: Settings, key: str) -> Any:
    section, _, name = key.rpartition(".")
    if section.startswith("channels."):
        return getattr(settings.channels[section.removeprefix("channels.")], name)
    return getattr(getattr(settings, section), name)


@pytest.mark.parametrize(("key", "toml", "variable", "value"), CASES)
def test_values(key: str, toml: str, variable: str | None, value: Any) -> None:
    section, _, name = key.rpartition(".")
    got = [value_of(read(f"[{section}]\n{name} = {toml}\n"), key), value_of(read(**{key: value}), key)]
    if variable is not None:
        text = {"HUBBUB_" + key.upper().replace(".", "_"): variable}
        got += [value_of(read("", text), key), value_of(load(None, {}, {key: variable}), key)]
    assert all(each == value and type(each) is type(got[0]) for each in got)


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        ('[server]\nport = "8000"', "server.port = '8000': expected an integer, found a string"),
        ("[server]\nport = true", "server.port = true: expected an integer, found a boolean"),
        ("[server]\nport = 80.5", "server.port = 80.5: expected an integer, found a number"),
        ("[server]\nport = 65536", "server.port = 65536: expected 0 to 65535; 0 lets the system choose"),
        ("[server]\nport = -1", "server.port = -1: expected 0 to 65535; 0 lets the system choose"),
        ("[server]\nworkers = 0", "server.workers = 0: expected 1 or more"),
        (
            "[server]\nworkers = 2",
            'server.workers = 2: more than one needs a shared broker, such as broker.url = "redis://localhost"; '
            "memory:// is none",
        ),
        ("[server]\nhost = 1", "server.host = 1: expected a string, found an integer"),
        (
            '[server]\nallowed_origins = "*"',
            "server.allowed_origins = '*': expected a list of strings, found a string",
        ),
        (
            "[server]\nallowed_origins = [1]",
            "server.allowed_origins = [1]: expected a list of strings, found a list",
        ),
        (
            '[server]\nallowed_origins = ["a.example"]',
            "server.allowed_origins = ('a.example',): 'a.example' is no origin;"
            ' expected such as "https://example.com", or "*" for any',
        ),
        (
            '[server]\nallowed_origins = ["https://a.example/"]',
            "server.allowed_origins = ('https://a.example/',): 'https://a.example/' is no origin;"
            ' expected such as "https://example.com", or "*" for any',
        ),
        (
            '[server]\ntrusted_proxies = ["nginx"]',
            "server.trusted_proxies = ('nginx',): 'nginx' is no address;"
            ' expected such as "10.0.0.1" or "10.0.0.0/8", or "*" for any',
        ),
        (
            '[server]\ntls_certificate = "c.pem"',
            "server.tls_certificate = 'c.pem': needs server.tls_key as well",
        ),
        ('[server]\ntls_key = "k.pem"', "server.tls_key = 'k.pem': needs server.tls_certificate as well"),
        ("[auth]\nissuer = []", "auth.issuer = []: expected a string, or a list of strings that are not empty"),
        ('[auth]\naudience = [""]', "auth.audience = ['']: expected a string, or a list of strings that are not empty"),
        ("[auth]\nhmac_secret = [1]", "auth.hmac_secret = ***: expected a string, or a list"),
        (
            '[auth]\npublic_key = ["-----BEGIN PRIVATE KEY-----", 1]',
            "auth.public_key = ***: expected a string, or a list",
        ),
        ("[auth]\ninsecure = 1", "auth.insecure = 1: expected true or false, found an integer"),
        ('[auth]\ninsecure = "true"', "auth.insecure = 'true': expected true or false, found a string"),
        (
            '[auth]\npersonal_channel = "user"',
            "auth.personal_channel = 'user': expected exactly one {user}, as in 'user:{user}'",
        ),
        (
            '[auth]\npersonal_channel = "user:{user}"',
            "auth.personal_channel = 'user:{user}': its namespace is not declared; add [channels.user]",
        ),
        (
            '[client]\nping_interval = "soon"',
            "client.ping_interval = 'soon': expected seconds, or a duration"
            ' such as "500ms", "30s", "5m", "2h" or "1d", found a string',
        ),
        ("[client]\nstale_timeout = 0", "client.stale_timeout = 0.0: expected more than 0"),
        ('[client]\nstall_timeout = "0s"', "client.stall_timeout = 0.0: expected more than 0"),
        ("[client]\nmax_channels = 0", "client.max_channels = 0: expected more than 0"),
        ("[client]\nmax_connections = -1", "client.max_connections = -1: expected 0 or more"),
        ("[client]\nmax_connections_per_user = -1", "client.max_connections_per_user = -1: expected 0 or more"),
        ("[client]\nhandler_timeout = 0", "client.handler_timeout = 0.0: expected more than 0"),
        (
            '[client]\ncommand_rate = "100"',
            'client.command_rate = \'100\': expected a rate such as "20/s", "100/m" or "5000/h", or "" for no limit',
        ),
        ("[client]\ncommand_rate = 100", "client.command_rate = 100: expected a string, found an integer"),
        (
            '[channels.chat]\nrate = "20 a second"',
            "channels.chat: rate = '20 a second': expected a rate such as",
        ),
        ("[server]\ndrain_time = -1", "server.drain_time = -1: expected seconds, or a duration"),
        (
            "[client]\npong_timeout = 25",
            "client.pong_timeout = 25.0: expected less than client.ping_interval, which is 25 seconds",
        ),
        (
            '[client]\nwrite_budget = "1MB"',
            'client.write_budget = \'1MB\': expected bytes, or a size such as "64KiB" or "1MiB", found a string',
        ),
        (
            "[client]\nwrite_budget = 1.5",
            'client.write_budget = 1.5: expected bytes, or a size such as "64KiB" or "1MiB", found a number',
        ),
        (
            "[broker]\nname = ''",
            "broker.name = '': expected a name of printable ASCII characters without spaces",
        ),
        (
            '[channels.chat]\ndelivery = "durable"',
            "channels.chat.delivery = 'durable': needs a store: store.url = 'sqlite:///app.db' (HUBBUB_STORE_URL)",
        ),
        (
            '[channels.chat]\ndelivery = "Recent"',
            "channels.chat.delivery = 'Recent': expected one of live, latest, recent, durable, found a string",
        ),
        (
            "[channels.chat]\njoin_leave = true",
            "channels.chat.join_leave = true: expected one of off, asked, always, found a boolean",
        ),
        (
            '[channels.chat]\njoin_leave = "always"',
            "channels.chat: join_leave = 'always' needs presence = true",
        ),
        (
            "[channels.chat]\nhistory_size = 0",
            "channels.chat: history_size = 0: expected more than 0; delivery = 'live' keeps nothing",
        ),
        ("[channels.x]\npresence = true", "[channels.x]: a namespace has two or more"),
        ("server = 5", "server: expected a table, [server], found an integer"),
        ("[[server]]\nport = 1", "server: expected a table, [server], found a list"),
        (
            '[channels]\ndelivery = "live"',
            "channels.delivery: expected a table of a namespace, such as [channels.default], found a string",
        ),
        ("channels = 1979-05-27", "channels: expected a table, [channels], found a date"),
    ],
)
def test_wrong_values_in_the_file(toml: str, text: str) -> None:
    assert refusal(toml).startswith(f"hubbub.toml: {text}")


@pytest.mark.parametrize("seconds", ["inf", "nan", "-1", "true", "[]", '"-1s"', '"1w"', '"5 m s"', '""', '"１s"'])
def test_what_is_no_duration(seconds: str) -> None:
    assert "client.stale_timeout" in refusal(f"[client]\nstale_timeout = {seconds}")


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("HUBBUB_SERVER_PORT", "http", "server.port = 'http': expected an integer"),
        ("HUBBUB_SERVER_PORT", "", "server.port = '': expected an integer"),
        ("HUBBUB_SERVER_PORT", "8_000", "server.port = '8_000': expected an integer"),
        ("HUBBUB_SERVER_PORT", "٨٠", "server.port = '٨٠': expected an integer"),
        ("HUBBUB_SERVER_PORT", "9" * 5000, f"server.port = '{'9' * 199}…: expected an integer"),
        ("HUBBUB_SERVER_PORT", "99999", "server.port = 99999: expected 0 to 65535; 0 lets the system choose"),
        ("HUBBUB_AUTH_INSECURE", "yes", "auth.insecure = 'yes': expected true or false"),
        (
            "HUBBUB_CHANNELS_CHAT_DELIVERY",
            "durable",
            "channels.chat.delivery = 'durable': needs a store: store.url = 'sqlite:///app.db' (HUBBUB_STORE_URL)",
        ),
        ("HUBBUB_CHANNELS_CHAT_MAX_BYTES", "0", "channels.chat: max_bytes = 0: expected more than 0"),
        ("HUBBUB_CHANNELS_X_PRESENCE", "1", "[channels.x]: a namespace has two or more"),
    ],
)
def test_wrong_values_in_the_environment(variable: str, value: str, text: str) -> None:
    assert refusal("", {variable: value}).startswith(f"{variable}: {text}")


def test_wrong_arguments() -> None:
    assert refusal(server__port="x") == "argument: server.port = 'x': expected an integer"
    assert refusal(server__port=[1]) == "argument: server.port = [1]: expected an integer, found a list"
    assert refusal(server__port=b"1") == "argument: server.port = b'1': expected an integer, found a bytes"
    assert refusal(server__trusted_proxies=[1]).startswith("argument: server.trusted_proxies = [1]: expected a list")
    assert refusal(dev="yes") == "argument: dev = 'yes': expected true or false"


def test_what_is_overridden_is_checked_all_the_same() -> None:
    assert "server.port" in refusal('[server]\nport = "x"', {"HUBBUB_SERVER_PORT": "1"}, server__port=2)


@pytest.mark.parametrize(
    "url",
    [
        "id.example",
        "ftp://id.example/",
        "file:///etc/passwd",
        "https://",
        "https://[::1/",
        "https://a:b/",
        "https://a b/",
    ],
)
def test_what_is_no_url_of_keys(url: str) -> None:
    assert refusal(f'[auth]\njwks_url = "{url}"') == (
        f"hubbub.toml: auth.jwks_url = '{url}': expected a URL such as \"https://example.com/.well-known/jwks.json\""
    )


def test_a_password_in_the_url_of_keys_is_refused_and_not_shown() -> None:
    text = refusal("", {"HUBBUB_AUTH_JWKS_URL": "https://me:hunter2@id.example/"})
    assert text == "HUBBUB_AUTH_JWKS_URL: auth.jwks_url: expected a URL without a user or password"


def test_the_first_secret_signs() -> None:
    assert read().auth.signing_secret == ""
    assert not read().auth.has_keys
    assert read('[auth]\nhmac_secret = "a,b"').auth.signing_secret == "a,b"
    auth = read('[auth]\nhmac_secret = ["new", "old"]\nissuer = ["me", "them"]\naudience = "us"').auth
    assert auth.signing_secret == "new"
    assert auth.own_claims == {"iss": "me", "aud": "us"}
    assert auth.has_keys
    assert Auth(public_key="x").has_keys
    assert Auth(jwks_url="x").own_claims == {}


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "redis+sentinel"])
def test_brokers_between_processes(scheme: str) -> None:
    settings = read("", {"HUBBUB_BROKER_URL": f"{scheme}://me:hunter2@host/0"})
    assert settings.broker.url == f"{scheme}://me:hunter2@host/0"
    assert "hunter2" not in repr(settings)
    assert f"{scheme}://me:***@host/0" in repr(settings)


def test_workers_share_what_is_kept() -> None:
    shared = '[server]\nworkers = 2\n[broker]\nurl = "redis://host"\n'
    assert read(shared).server.workers == 2
    assert read(shared + '[presence]\nurl = "redis://other"').server.workers == 2
    text = "server.workers = 2: more than one needs a shared presence.url; memory:// is none"
    assert refusal(shared + '[presence]\nurl = "memory://"') == f"hubbub.toml: {text}"


@pytest.mark.parametrize("key", ["broker", "presence"])
def test_other_brokers_come_later(key: str) -> None:
    for scheme, later in (("redis+cluster", " ('redis+cluster' comes with a later version)"), ("postgresql", "")):
        assert refusal("", {f"HUBBUB_{key.upper()}_URL": f"{scheme}://:hunter2@host"}) == (
            f"HUBBUB_{key.upper()}_URL: {key}.url: expected memory://, redis://, rediss://, unix://, redis+sentinel://"
            f"{later}; found the scheme '{scheme}'"
        )
    assert refusal('[broker]\nurl = "hunter2@host"').endswith("; found a URL without a scheme")


@pytest.mark.parametrize("template", ["user:{user}", "#{user}", "user:#{user}", "{user}"])
def test_personal_channels_of_declared_namespaces(template: str) -> None:
    toml = f'[auth]\npersonal_channel = "{template}"\n[channels.user]\n'
    assert read(toml).auth.personal_channel == template


# --dev and notes --------------------------------------------------------------------------------------------


def test_dev_opens_the_door_to_this_machine() -> None:
    settings = read(dev=True)
    assert settings.dev
    assert settings.auth.insecure
    assert settings.server.allowed_origins == LOCAL_ORIGINS
    assert {"http://localhost:*", "https://127.0.0.1:*", "http://[::1]:*"} < set(LOCAL_ORIGINS)
    assert {key for key, origin in origins(settings).items() if origin == "--dev"} == {
        "auth.insecure",
        "server.allowed_origins",
    }
    for without in (read(), read(dev=False), read(dev=None)):
        assert without == Settings()


def test_dev_gives_way_to_what_is_explicit() -> None:
    toml = '[auth]\ninsecure = false\n[server]\nallowed_origins = ["https://a.example"]\n'
    settings = read(toml, dev=True)
    assert not settings.auth.insecure
    assert settings.server.allowed_origins == ("https://a.example",)
    assert not read("", {"HUBBUB_AUTH_INSECURE": "0"}, dev=True).auth.insecure
    assert read(dev=True, server__allowed_origins=[]).server.allowed_origins == ()


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("", ["nobody may connect", "the HTTP API is closed"]),
        ("[auth]\nanonymous = true", ["the HTTP API is closed"]),
        ('[auth]\npublic_key = "x.pem"', ["the HTTP API is closed"]),
        ('[auth]\njwks_url = "https://a/"', ["the HTTP API is closed"]),
        ('[auth]\njwks_url = "http://localhost:80/"', ["the HTTP API is closed"]),
        ('[auth]\njwks_url = "http://a/"', ["auth.jwks_url is http: whoever is on the way", "the HTTP API is closed"]),
        ('[auth]\nhmac_secret = "x"\n[api]\nkey = "y"', []),
        (HUBBUB_TOML, ["auth.insecure = true (hubbub.toml)"]),
    ],
)
def test_notes(toml: str, said: list[str]) -> None:
    found = notes(read(toml))
    assert len(found) == len(said)
    assert all(note.startswith(start) for note, start in zip(found, said, strict=True))


def test_notes_of_dev_and_of_settings_made_by_hand() -> None:
    assert notes(read(dev=True))[0].startswith("auth.insecure = true (--dev)")
    assert "channels.default.delivery" in notes(read(dev=True))[-1]
    assert "delivery" not in "".join(notes(read("[channels.chat]\n", dev=True)))
    assert notes(Settings(auth=Auth(insecure=True)))[0].startswith("auth.insecure = true (argument)")


# Secrets ----------------------------------------------------------------------------------------------------


def test_secrets_are_not_in_reprs() -> None:
    settings = read('[auth]\nhmac_secret = "hunter2"\n[api]\nkey = "hunter2"\n')
    assert settings.auth.hmac_secret == settings.api.key == "hunter2"
    for value in (settings, settings.auth, settings.api):
        assert "hunter2" not in repr(value)
        assert "hunter2" not in str(value)
        assert "hunter2" not in str(value.__rich_repr__())
    assert repr(settings.api) == "Api(key=***)"
    assert repr(settings).startswith("Settings(server=Server(host='127.0.0.1', port=8000, ")
    assert "port=8000" in io.StringIO(str(settings)).read()


@pytest.mark.parametrize(
    ("toml", "env"),
    [
        ("[auth]\nhmac_secret = 20242024", {}),
        ('[auth]\nhmac_secret = ["20242024", ""]', {}),
        ('[auth]\njwks_url = "https://20242024@[/"', {}),
        ('[api]\nkey = ["20242024"]', {}),
        ('auth = "20242024"', {}),
        ('[auth]\nhmac_secrets = "20242024"', {}),
        ('hmac_secret = "20242024"', {}),
        ("[auth]\nhmac_secret = x20242024", {}),
        ("", {"HUBBUB_HMAC_SECRET": "20242024"}),
        ("", {"HUBBUB_API_KEYS": "20242024"}),
        ("", {"HUBBUB_BROKER_URL": "kafka://:20242024@host"}),
    ],
)
def test_secrets_are_not_in_errors(toml: str, env: dict[str, str]) -> None:
    assert "2024" not in refusal(toml, env)


def test_a_secret_of_the_wrong_type_is_named_without_its_value() -> None:
    expected = "expected a string, or a list of strings that are not empty, found an integer"
    assert refusal("[auth]\nhmac_secret = 5") == f"hubbub.toml: auth.hmac_secret = ***: {expected}"


def test_settings_are_frozen() -> None:
    settings = Settings()
    for target, name in ((settings, "dev"), (settings.server, "port")):
        with pytest.raises(AttributeError):
            setattr(target, name, 1)
