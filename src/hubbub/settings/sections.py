"""The sections of the settings: what may be set, and what holds where nothing is said.

Answers for: one frozen struct for each section, with its defaults; which fields are secrets, and that no repr shows
them. Refuses to know: where values come from, and whether they fit together.

The type of a field says what may be written for it: a `float` is a duration in seconds, or "5m"; a field in `SIZES` is
a size in bytes, or "64KiB"; a tuple is a list, or "a,b" in the environment; a string or tuple is one text, or a list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from hubbub.channels import ChannelRules

#: Never shown. Names of fields, whatever their section.
SECRETS = frozenset({"hmac_secret", "key"})

Durability = Literal["full", "relaxed"]

#: Fields in bytes.
SIZES = frozenset({"write_budget", "max_bytes"})

#: The origins of pages on one's own machine, at any port and at the default one.
LOCAL_ORIGINS = tuple(
    f"{scheme}://{host}{port}"
    for host in ("localhost", "127.0.0.1", "[::1]")
    for scheme in ("http", "https")
    for port in (":*", "")
)


def without_password(url: str) -> str:
    """A URL that may be shown."""
    return re.sub(r"([?&]password=)[^&]*", r"\1***", re.sub(r"(://[^/@]*?):[^/]*@", r"\1:***@", url))


def _shown(name: str, value: object) -> str:
    if name in SECRETS:
        return "***"
    return repr(without_password(value) if name == "url" and isinstance(value, str) else value)


class Section(msgspec.Struct, frozen=True):
    """What the sections have in common: their repr keeps secrets."""

    def __repr__(self) -> str:
        values = {name: getattr(self, name) for name in self.__struct_fields__ if name != "sources"}
        shown = ", ".join(f"{name}={_shown(name, values[name])}" for name in values)
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich draws in tracebacks; msgspec's own would tell secrets."""
        return [("", repr(self))]


class Server(Section, frozen=True):
    """[server]: where to listen, whom to believe about where a request came from, and how to leave.

    `unix` is the path of a socket to listen on instead of `host` and `port`. `trusted_proxies` are addresses
    or networks whose X-Forwarded-* headers are believed. No `allowed_origins`: only the same origin's pages.
    `drain_time` is in seconds: over how long clients are sent away; 0 sends all of them at once.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    allowed_origins: tuple[str, ...] = ()
    unix: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    trusted_proxies: tuple[str, ...] = ()
    drain_time: float = 5.0


class Broker(Section, frozen=True):
    """[broker]: what carries publications between nodes, and the application's name there.

    `name` stands before every key, `prefix` before every channel: empty, so that any program can PUBLISH in them.
    """

    url: str = "memory://"
    name: str = "hubbub"
    prefix: str = ""


class Store(Section, frozen=True):
    """[store]: the log of durable channels.

    `url` is `sqlite:///app.db` (relative), `sqlite:////var/lib/app.db` (absolute), `postgresql://user@host/name` for
    several servers, or `memory://`, which forgets. With `durability` "relaxed" the last moments before a power cut may
    be lost (or before a crash of PostgreSQL), not those before a crash of this process.
    """

    url: str = ""
    durability: Durability = "full"


class Presence(Section, frozen=True):
    """[presence]: who is in a channel; with the broker, or in another Redis."""

    url: str = ""


class Auth(Section, frozen=True):
    """[auth]: who may connect.

    `hmac_secret` and `public_key` (PEM, or the path of a PEM file) may be several while keys are exchanged: the first
    secret signs, all verify. A token has to name the `issuer` and the `audience`, or one of them.
    """

    hmac_secret: str | tuple[str, ...] = ""
    public_key: str | tuple[str, ...] = ""
    jwks_url: str = ""
    issuer: str | tuple[str, ...] = ""
    audience: str | tuple[str, ...] = ""
    anonymous: bool = False
    insecure: bool = False
    personal_channel: str = ""

    @property
    def has_keys(self) -> bool:
        """Whether there is anything to believe tokens by."""
        return bool(self.hmac_secret or self.public_key or self.jwks_url)

    @property
    def signing_secret(self) -> str:
        """What our own tokens are signed with; "" for nothing."""
        return _first(self.hmac_secret)

    @property
    def own_claims(self) -> dict[str, str]:
        """What our own tokens have to say to be believed here: `iss` and `aud`, where they are asked for."""
        claims = {"iss": _first(self.issuer), "aud": _first(self.audience)}
        return {name: value for name, value in claims.items() if value}


def _first(values: str | tuple[str, ...]) -> str:
    return values if isinstance(values, str) else next(iter(values), "")


class Api(Section, frozen=True):
    """[api]: the HTTP API; without a key it is closed."""

    key: str = ""


class Client(Section, frozen=True):
    """[client]: how long the server waits for one, and how much it does for it. Seconds and bytes.

    The connections that are counted are those of this process; 0 is no limit. `command_rate` is a text such as
    "100/s" (see `rates`), "" for no limit. `handler_timeout` is for the application's own handlers.
    """

    ping_interval: float = 25.0
    pong_timeout: float = 8.0
    stale_timeout: float = 10.0
    stall_timeout: float = 30.0
    expired_grace: float = 25.0
    max_channels: int = 128
    write_budget: int = 1 << 20
    max_connections: int = 0
    max_connections_per_user: int = 0
    command_rate: str = ""
    handler_timeout: float = 10.0


class Settings(Section, frozen=True):
    """Everything. `channels` holds the declared namespaces; `dev` is the flag `--dev` and no setting.

    `sources` says where what is not a default came from; see `origins`.
    """

    server: Server = Server()
    broker: Broker = Broker()
    store: Store = Store()
    presence: Presence = Presence()
    auth: Auth = Auth()
    api: Api = Api()
    client: Client = Client()
    channels: Mapping[str, ChannelRules] = msgspec.field(default_factory=dict)
    dev: bool = False
    sources: Mapping[str, str] = msgspec.field(default_factory=dict)


#: By the names that files and variables have for them. `channels.<namespace>` is not here: its kind is ChannelRules.
SECTIONS: dict[str, type[Section]] = {
    "server": Server,
    "broker": Broker,
    "store": Store,
    "presence": Presence,
    "auth": Auth,
    "api": Api,
    "client": Client,
}
