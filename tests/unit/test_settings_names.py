"""Settings: names that nobody knows, files that are none, and the lines of their tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.reading import read, refusal

from hubbub.errors import ConfigurationError
from hubbub.settings import Settings, line_of, load


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a directory of its own, where its file is hubbub.toml."""
    monkeypatch.chdir(tmp_path)


# Unknown things ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "key", "nearest"),
    [
        ("[server]\nprot = 1", "server.prot", "server.port"),
        ('[server]\nhmac_secret = "x"', "server.hmac_secret", "auth.hmac_secret"),
        ("port = 1", "port", "server.port"),
        ("[servers]\nport = 1", "[servers]", "[server]"),
        ("[channel.chat]\n", "[channel]", "[channels.<namespace>]"),
        ("[channels.chat]\nhistory = 5", "channels.chat.history", "channels.chat.history_ttl"),
        ("[channels.chat.room]\n", "channels.chat.room", "channels.chat.read"),
        ("dev = true", "dev", "server.unix"),
        ('[server]\n"po\\nrt" = 1', "server.'po\\nrt'", "server.port"),
        ('["web server"]\nport = 1', "['web server']", "[server]"),
    ],
)
def test_unknown_keys_of_the_file(toml: str, key: str, nearest: str) -> None:
    text = refusal(toml)
    assert text.startswith(f"hubbub.toml: unknown setting {key}; the nearest known one is ")
    if key != "dev":
        assert text.endswith(f" {nearest}")


@pytest.mark.parametrize(
    ("variable", "key", "nearest"),
    [
        ("HUBBUB_SERVER_PROT", "server.prot", "HUBBUB_SERVER_PORT (server.port)"),
        ("HUBBUB_HMAC_SECRET", "hmac_secret", "HUBBUB_AUTH_HMAC_SECRET (auth.hmac_secret)"),
        ("HUBBUB_CLIENT_PING", "client.ping", "HUBBUB_CLIENT_PING_INTERVAL (client.ping_interval)"),
        (
            "HUBBUB_CHANNELS_CHAT_DELIVRY",
            "channels.chat_delivry",
            "HUBBUB_CHANNELS_CHAT_DELIVERY (channels.chat.delivery)",
        ),
        (
            "HUBBUB_CHANNELS_MY_ROOM_DELIVRY",
            "channels.my_room_delivry",
            "HUBBUB_CHANNELS_MY_ROOM_DELIVERY (channels.my-room.delivery)",
        ),
        ("HUBBUB_server_port", "server.port", "HUBBUB_SERVER_PORT (server.port)"),
    ],
)
def test_unknown_variables(variable: str, key: str, nearest: str) -> None:
    text = refusal("[channels.my-room]\n", {variable: "hunter2"})
    assert text == f"{variable}: unknown setting {key}; the nearest known one is {nearest}"


@pytest.mark.parametrize("variable", ["HUBBUB_", "HUBBUB_CHANNELS_", "HUBBUB_CHANNELS__READ", "HUBBUB_DEV", "HUBBUB_É"])
def test_odd_variables_are_unknown_as_well(variable: str) -> None:
    assert refusal("", {variable: "1"}).startswith(f"{variable}: unknown setting ")


def test_an_ambiguous_variable() -> None:
    toml = '[channels.my-chat]\n[channels."my.chat"]\n'
    text = refusal(toml, {"HUBBUB_CHANNELS_MY_CHAT_READ": "nobody"})
    assert text == "HUBBUB_CHANNELS_MY_CHAT_READ: could mean each of channels.my-chat, channels.my.chat"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("server.prot", "server.port"),
        ("port", "server.port"),
        ("channels.read", "channels.default.read"),
        ("sever.", "server"),
        ("channels.chat.histroy_ttl", "channels.chat.history_ttl"),
        ("", ""),
        (".", ""),
        ("channels..read", "channels.default.read"),
        ("settings.sources", ""),
        ("sources", ""),
    ],
)
def test_unknown_arguments(key: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^argument: unknown setting ") as caught:
        load(None, {}, {key: 1})
    assert nearest in str(caught.value)


def test_variables_of_others_are_left_alone() -> None:
    foreign = {
        "PATH": "/bin",
        "HUBBUBS": "1",
        "hubbub_server_port": "1",
        "HUBBUB_TEST_VALKEY": "/usr/bin/valkey-server",
        # What Kubernetes sets in a pod beside the services hubbub, hubbub-server and hubbub-redis.
        "HUBBUB_SERVICE_HOST": "10.0.0.1",
        "HUBBUB_SERVICE_PORT": "8000",
        "HUBBUB_SERVICE_PORT_HTTP": "8000",
        "HUBBUB_PORT": "tcp://10.0.0.1:8000",
        "HUBBUB_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "HUBBUB_PORT_8000_TCP_ADDR": "10.0.0.1",
        "HUBBUB_SERVER_PORT": "tcp://10.0.0.1:8000",
        "HUBBUB_REDIS_SERVICE_HOST": "10.0.0.2",
        "HUBBUB_REDIS_PORT_6379_TCP_PROTO": "tcp",
    }
    assert read("", foreign) == Settings()
    assert refusal("", {"HUBBUB_PORT": "9000"}).endswith("HUBBUB_SERVER_PORT (server.port)")


# Files that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "place"),
    [
        ("[server]\nport = \n", "line 2, column 8"),
        ("[server]\nport 8000\n", "line 2, column 6"),
        ("[server\n", "line 1, column 8"),
        ("[server]\nport = 1\n[server]\n", "line 3, column 8"),
        ("a = 1\na = 2\n", "line 2, column 6"),
        ("[server]\nallowed_origins = [", "line 2, column 20"),
        ("host = 'x", "line 1, column 10"),
        (b"[server]\nhost = '\xe9'\n", "line 2, column 9"),
        (b"\xff\xfe[\0", "line 1, column 1"),
        ("a = " + "9" * 5000, "line 1, column "),
        ("a = " + "[" * 100_000, "line 1, column "),
    ],
)
def test_what_is_not_toml(toml: str | bytes, place: str) -> None:
    text = refusal(toml)
    assert text.startswith(f"hubbub.toml, {place}")
    assert re.search(r", column \d+: not (TOML|UTF-8)", text)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match=r"^nowhere\.toml: cannot be read: No such file"):
        load(Path("nowhere.toml"), {})
    with pytest.raises(ConfigurationError, match=r"^\.: cannot be read: "):
        load(Path(), {})


# Lines ------------------------------------------------------------------------------------------------------

TABLES = '''# [server] is not here
[server] # nor is [auth]
host = """
[channels.text]
"""
allowed_origins = [
  "a",
]

  [ channels . room ]
[channels."a.b"]
["channels".'a-c']
[channels]
inline = { presence = true }
dotted.presence = true
[[channels.list]]
[broken
'''


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("server", 2),
        ("channels.room", 10),
        ("channels.a.b", 11),
        ("channels.a-c", 12),
        ("channels", 13),
        ("auth", None),
        ("channels.text", None),
        ("channels.inline", None),
        ("channels.dotted", None),
        ("channels.list", None),
        ("channels.a", None),
        ("broken", None),
        ("", None),
    ],
)
def test_the_line_of_a_table(section: str, line: int | None, tmp_path: Path) -> None:
    path = tmp_path / "tables.toml"
    for text in (TABLES, "\ufeff" + TABLES, TABLES.replace("\n", "\r\n")):
        path.write_bytes(text.encode())
        assert line_of(path, section) == line
        assert line_of(str(path), section) == line


def test_a_file_that_cannot_be_read_has_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "tables.toml"
    assert line_of(path, "server") is None
    path.write_bytes(b"\xff\n[server]\n")
    assert line_of(path, "server") is None
    assert line_of(tmp_path, "server") is None
