"""Settings: the only reader of the environment and of TOML.

Answers for: one frozen `Settings` out of arguments, `HUBBUB_…` variables, a TOML file and defaults, in this
order of precedence; for a mistake being an error that names place, key, what was found and what is expected;
for telling where each value came from. Refuses to know: what the settings do. Below this floor all are
keyword arguments.

- Whatever is written is checked, even where something stronger overrides it.
- A secret appears in no error and in no repr.
- The type of a field says what may be written for it: a `float` is a duration in seconds, or "5m"; a field in
  `_SIZES` is a size in bytes, or "64KiB"; a tuple is a list, or "a,b" in the environment.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

import msgspec

from hubbub.channels import DEFAULT, ChannelRules, Namespaces, PersonalChannels
from hubbub.errors import ConfigurationError

#: Never shown. Names of fields, whatever their section.
_SECRETS = frozenset({"hmac_secret", "key"})

#: Fields in bytes.
_SIZES = frozenset({"write_budget", "max_bytes"})

#: The origins of pages on one's own machine, at any port and at the default one.
LOCAL_ORIGINS = tuple(
    f"{scheme}://{host}{port}"
    for host in ("localhost", "127.0.0.1", "[::1]")
    for scheme in ("http", "https")
    for port in (":*", "")
)


class Section(msgspec.Struct, frozen=True):
    """What the sections have in common: their repr keeps secrets."""

    def __repr__(self) -> str:
        values = {name: getattr(self, name) for name in self.__struct_fields__ if name != "sources"}
        shown = ", ".join(f"{name}={'***' if name in _SECRETS else repr(values[name])}" for name in values)
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich draws in tracebacks; msgspec's own would tell secrets."""
        return [("", repr(self))]


class Server(Section, frozen=True):
    """[server]: where to listen, and whom to believe about where a request came from.

    `unix` is the path of a socket to listen on instead of `host` and `port`. `trusted_proxies` are addresses
    or networks whose X-Forwarded-* headers are believed. No `allowed_origins`: only the same origin's pages.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    allowed_origins: tuple[str, ...] = ()
    unix: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    trusted_proxies: tuple[str, ...] = ()


class Broker(Section, frozen=True):
    """[broker]: what carries publications between nodes, and the application's name there."""

    url: str = "memory://"
    name: str = "hubbub"


class Auth(Section, frozen=True):
    """[auth]: who may connect."""

    hmac_secret: str = ""
    anonymous: bool = False
    insecure: bool = False
    personal_channel: str = ""


class Api(Section, frozen=True):
    """[api]: the HTTP API; without a key it is closed."""

    key: str = ""


class Client(Section, frozen=True):
    """[client]: how long the server waits for one, and how much it does for it. Seconds and bytes."""

    ping_interval: float = 25.0
    pong_timeout: float = 8.0
    stale_timeout: float = 10.0
    stall_timeout: float = 30.0
    expired_grace: float = 25.0
    max_channels: int = 128
    write_budget: int = 1 << 20


class Settings(Section, frozen=True):
    """Everything. `channels` holds the declared namespaces; `dev` is the flag `--dev` and no setting.

    `sources` says where what is not a default came from; see `origins`.
    """

    server: Server = Server()
    broker: Broker = Broker()
    auth: Auth = Auth()
    api: Api = Api()
    client: Client = Client()
    channels: Mapping[str, ChannelRules] = msgspec.field(default_factory=dict)
    dev: bool = False
    sources: Mapping[str, str] = msgspec.field(default_factory=dict)


_SECTIONS: dict[str, type[Section]] = {
    "server": Server,
    "broker": Broker,
    "auth": Auth,
    "api": Api,
    "client": Client,
}


def load(
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """The settings of a TOML file, the environment (None: this process's) and arguments, the strongest last.

    `overrides` has dotted keys (`server.port`); None is an argument not given, and `dev` is the flag. Raises
    ConfigurationError.
    """
    arguments = {key: value for key, value in (overrides or {}).items() if value is not None}
    dev = arguments.pop("dev", False)
    if not isinstance(dev, bool):
        raise ConfigurationError(f"argument: dev = {dev!r}: expected true or false")
    written = _from_file(path) if path is not None else {}
    given = _from_arguments(arguments)
    variables = _from_environment(os.environ if env is None else env, {*written, *given})
    layer: _Layer = {}
    for weaker in (_DEV if dev else {}, written, variables, given):
        for section, fields in weaker.items():
            layer.setdefault(section, {}).update(fields)
    settings = _build(layer, dev=dev)
    _check_server(settings)
    _check_broker(settings)
    _check_channels(settings)
    _check_client(settings)
    return settings


def origins(settings: Settings) -> dict[str, str]:
    """Where each value came from, by dotted key: "default", "argument", "--dev", a path or a variable."""
    return {key: settings.sources.get(key, "default") for key in _keys(settings.channels)}


def notes(settings: Settings) -> list[str]:
    """What whoever starts the server should know of these settings, each with the key that changes it."""
    auth, found = settings.auth, []
    if auth.insecure:
        where = settings.sources.get("auth.insecure", "argument")
        found.append(f"auth.insecure = true ({where}): no tokens asked, and everybody may do everything")
    elif not auth.hmac_secret and not auth.anonymous:
        found.append("nobody may connect: set auth.hmac_secret or auth.anonymous, or start with --dev")
    if not settings.api.key:
        found.append("the HTTP API is closed: set api.key to open it")
    if settings.dev and not settings.channels:
        found.append(
            'no [channels.*] declared: channels.default.delivery is "live", nothing is kept;'
            " a channel such as chat:1 needs [channels.chat]"
        )
    return found


# Layers -----------------------------------------------------------------------------------------------------
# One for each place that settings are written in: sections ("server", "channels.chat") to fields.


class _Found(NamedTuple):
    """A value as somebody wrote it. `is_text`: in the environment or on a command line, where all is text."""

    section: str
    name: str
    value: Any
    origin: str
    is_text: bool = False

    def is_wrong(self, expected: str) -> NoReturn:
        found = "" if self.is_text else f", found {_named(self.value)}"
        key = f"{_plain(self.section)}.{self.name} = {_shown(self.name, self.value)}"
        raise ConfigurationError(f"{self.origin}: {key}: expected {expected}{found}")


_Layer = dict[str, dict[str, _Found]]


def _put(layer: _Layer, found: _Found) -> None:
    layer.setdefault(found.section, {})[found.name] = found._replace(value=_read(found))


#: What --dev stands for; it gives way to whatever is said explicitly.
_DEV = {
    "auth": {"insecure": _Found("auth", "insecure", True, "--dev")},
    "server": {"allowed_origins": _Found("server", "allowed_origins", LOCAL_ORIGINS, "--dev")},
}


def _from_file(path: Path) -> _Layer:
    layer: _Layer = {}
    for section, table in _tables(str(path), _document(path)):
        layer[section] = {}  # an empty table declares its namespace, too
        for name, value in table.items():
            if name not in _kind(section).__struct_fields__:
                _unknown(str(path), f"{section}.{_plain(name)}", _nearest(f"{section}.{name}", section))
            _put(layer, _Found(section, name, value, str(path)))
    return layer


def _document(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        place = _place(data[: error.start].decode(errors="replace"))
        raise ConfigurationError(f"{path}, {place}: not UTF-8, which TOML has to be") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        what, at, position = str(error).partition(" (at ")
        place = position.rstrip(")") if at and position.startswith("line") else _place(text)
        raise ConfigurationError(f"{path}, {place}: not TOML: {what}") from None


def _place(before: str) -> str:
    """The place that `before` leads up to, in the words of tomllib."""
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def _tables(origin: str, document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section, table in document.items():
        if section not in _SECTIONS and section != "channels":
            if not isinstance(table, dict):
                _unknown(origin, _plain(section), _nearest(section))
            near = difflib.get_close_matches(section, [*_SECTIONS, "channels"], 1, 0)[0]
            near = near.replace("channels", "channels.<namespace>")
            _unknown(origin, f"[{_plain(section)}]", f"[{near}]")
        if not isinstance(table, dict):
            raise ConfigurationError(f"{origin}: {section}: expected a table, [{section}], found {_named(table)}")
        if section != "channels":
            yield section, table
            continue
        for namespace, rules in table.items():
            if not isinstance(rules, dict):
                raise ConfigurationError(
                    f"{origin}: channels.{_plain(namespace)}: expected a table of a namespace,"
                    f" such as [channels.default], found {_named(rules)}"
                )
            yield f"channels.{namespace}", rules


def _from_arguments(arguments: Mapping[str, object]) -> _Layer:
    layer: _Layer = {}
    for key, value in arguments.items():
        section, _, name = key.rpartition(".")
        if not _is_section(section) or name not in _kind(section).__struct_fields__:
            _unknown("argument", _plain(key), _nearest(key, section))
        _put(layer, _Found(section, name, value, "argument", is_text=isinstance(value, str)))
    return layer


#: What Kubernetes puts into every pod beside a service called hubbub or hubbub-server: none of it is ours.
_SERVICE_LINK = re.compile(r"HUBBUB_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_SERVICE_PORT = re.compile(r"(tcp|udp|sctp)://")


def _from_environment(env: Mapping[str, str], sections: Iterable[str]) -> _Layer:
    layer: _Layer = {}
    known = {_variable(key): key for key in _keys(())}
    declared = sorted(section for section in sections if section.startswith("channels."))
    for variable, text in sorted(env.items()):
        if not variable.startswith("HUBBUB_") or variable.startswith("HUBBUB_TEST_"):
            continue
        if _SERVICE_LINK.fullmatch(variable) or (variable.endswith("_PORT") and _SERVICE_PORT.match(text)):
            continue
        key = known.get(variable) or _channel_key(variable, declared)
        if key is None:
            _unknown_variable(variable, declared)
        section, _, name = key.rpartition(".")
        _put(layer, _Found(section, name, text, variable, is_text=True))
    return layer


def _variable(key: str) -> str:
    return "HUBBUB_" + re.sub(r"[-.]", "_", key).upper()


def _channel_key(variable: str, declared: list[str]) -> str | None:
    """Cuts a variable of channels in two: declared namespaces win, for variables show no case, - or dots."""
    for field in ChannelRules.__struct_fields__:
        section, cut, rest = variable.rpartition("_" + field.upper())
        if not cut or rest or not section.startswith("HUBBUB_CHANNELS_"):
            continue
        meant = [name for name in declared if _variable(name) == section]
        if len(meant) > 1:
            raise ConfigurationError(f"{variable}: could mean each of {', '.join(meant)}")
        namespace = section.removeprefix("HUBBUB_CHANNELS_").lower()
        return f"{meant[0] if meant else f'channels.{namespace}'}.{field}" if namespace else None
    return None


def _unknown_variable(variable: str, declared: list[str]) -> NoReturn:
    rest = variable.removeprefix("HUBBUB_").lower()
    section, _, name = rest.partition("_")
    guessed = [*declared, f"channels.{name.partition('_')[0]}"] if section == "channels" else declared
    namespaces = {each.removeprefix("channels.") for each in guessed} - {""}
    known = {_variable(key): key for key in _keys(sorted(namespaces))}
    near = difflib.get_close_matches(variable.upper(), known, 1, 0)[0]
    key = f"{section}.{name}" if section in {*_SECTIONS, "channels"} else rest
    _unknown(variable, key, f"{near} ({known[near]})")


# Values -----------------------------------------------------------------------------------------------------


def _read(found: _Found) -> Any:
    kind = get_type_hints(_kind(found.section))[found.name]
    if get_origin(kind) is Literal:
        return _choice(found, get_args(kind))
    if found.name in _SIZES:
        return _size(found)
    return _READERS[get_origin(kind) or kind](found)


def _choice(found: _Found, choices: tuple[str, ...]) -> str:
    if isinstance(found.value, str) and found.value in choices:
        return found.value
    later = " ('durable' comes with a later version)" if found.value == "durable" else ""
    found.is_wrong(f"one of {', '.join(choices)}{later}")


def _string(found: _Found) -> str:
    if isinstance(found.value, str):
        return found.value
    found.is_wrong("a string")


_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def _bool(found: _Found) -> bool:
    value = found.value
    if found.is_text and isinstance(value, str):
        value = _BOOLS.get(value.strip().lower(), value)
    if isinstance(value, bool):
        return value
    found.is_wrong("true or false")


def _integer(found: _Found) -> int:
    value = found.value
    if found.is_text and isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found.is_wrong("an integer")


def _strings(found: _Found) -> tuple[str, ...]:
    value = found.value
    if found.is_text and isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    found.is_wrong("a list of strings" + (", with commas between them" if found.is_text else ""))


_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def _duration(found: _Found) -> float:
    seconds = _measure(found.value, _SECONDS)
    if seconds is None:
        found.is_wrong('seconds, or a duration such as "500ms", "30s", "5m", "2h" or "1d"')
    return float(seconds)


def _size(found: _Found) -> int:
    size = _measure(found.value, _BYTES)
    if size is None or size != int(size):
        found.is_wrong('bytes, or a size such as "64KiB" or "1MiB"')
    return int(size)


def _measure(value: object, units: Mapping[str, float]) -> float | None:
    """A number, or a number with one of the units; None for anything else. Never negative, never infinite."""
    factor: float = 1
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([a-z]*)\s*", value.lower())
        if match is None or (match[2] and match[2] not in units):
            return None
        value, factor = float(match[1]), units.get(match[2], 1)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value * factor if 0 <= value < math.inf else None


_READERS: dict[object, Callable[[_Found], object]] = {str: _string, bool: _bool, int: _integer}
_READERS |= {float: _duration, tuple: _strings}


# Building and checking --------------------------------------------------------------------------------------


def _build(layer: _Layer, *, dev: bool) -> Settings:
    found = [each for fields in layer.values() for each in fields.values()]
    values = {at: {name: each.value for name, each in fields.items()} for at, fields in layer.items()}
    sections: dict[str, Any] = {name: kind(**values.pop(name, {})) for name, kind in _SECTIONS.items()}
    return Settings(
        **sections,
        channels={at.removeprefix("channels."): _rules(at, layer[at], values[at]) for at in values},
        dev=dev,
        sources={f"{each.section}.{each.name}": each.origin for each in found},
    )


def _rules(section: str, found: Mapping[str, _Found], values: Mapping[str, Any]) -> ChannelRules:
    try:
        rules = ChannelRules(**values)
        Namespaces({section.removeprefix("channels."): rules})  # which judges the name
    except ConfigurationError as error:
        where = ", ".join(dict.fromkeys(each.origin for each in found.values()))
        raise ConfigurationError(f"{where}: {_plain(section)}: {error}" if where else str(error)) from None
    return rules


def _refuse(settings: Settings, key: str, text: str) -> NoReturn:
    section, _, name = key.partition(".")
    value = getattr(getattr(settings, section), name)
    raise ConfigurationError(f"{settings.sources.get(key, 'default')}: {key} = {_shown(name, value)}: {text}")


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", re.IGNORECASE)


def _check_server(settings: Settings) -> None:
    server = settings.server
    if not 0 <= server.port <= 65535:
        _refuse(settings, "server.port", "expected 0 to 65535; 0 lets the system choose")
    if server.workers < 1:
        _refuse(settings, "server.workers", "expected 1 or more")
    if server.workers > 1 and settings.broker.url == "memory://":
        _refuse(settings, "server.workers", "more than one needs a shared broker, which memory:// is not")
    if server.tls_certificate and not server.tls_key:
        _refuse(settings, "server.tls_certificate", "needs server.tls_key as well")
    if server.tls_key and not server.tls_certificate:
        _refuse(settings, "server.tls_key", "needs server.tls_certificate as well")
    for origin in server.allowed_origins:
        if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
            text = f'{origin!r} is no origin; expected such as "https://example.com", or "*" for any'
            _refuse(settings, "server.allowed_origins", text)
    for proxy in server.trusted_proxies:
        if proxy != "*" and not _is_network(proxy):
            text = f'{proxy!r} is no address; expected such as "10.0.0.1" or "10.0.0.0/8", or "*" for any'
            _refuse(settings, "server.trusted_proxies", text)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _check_broker(settings: Settings) -> None:
    where = settings.sources.get("broker.url", "default")
    if settings.broker.url != "memory://":
        # Never the whole URL: it may hold a password.
        scheme, colon, _ = settings.broker.url.partition("://")
        found = f"the scheme {scheme[:40]!r}" if colon else "a URL without a scheme"
        expected = "expected memory://, redis:// and its kin come with a later version"
        raise ConfigurationError(f"{where}: broker.url: {expected}; found {found}")
    if not re.fullmatch(r"[!-~]+", settings.broker.name):
        _refuse(settings, "broker.name", "expected a name of printable ASCII characters without spaces")


def _check_channels(settings: Settings) -> None:
    template = settings.auth.personal_channel
    try:
        PersonalChannels(template)
    except ConfigurationError as error:
        raise ConfigurationError(f"{settings.sources['auth.personal_channel']}: auth.{error}") from None
    namespace = template.partition(":")[0] if ":" in template else DEFAULT
    if template and namespace not in {*settings.channels, DEFAULT}:
        text = f"its namespace is not declared; add [channels.{namespace}]"
        _refuse(settings, "auth.personal_channel", text)


def _check_client(settings: Settings) -> None:
    client = settings.client
    for name in set(Client.__struct_fields__) - {"expired_grace"}:
        if getattr(client, name) <= 0:
            _refuse(settings, f"client.{name}", "expected more than 0")
    if client.pong_timeout >= client.ping_interval:
        text = f"expected less than client.ping_interval, which is {client.ping_interval:g} seconds"
        _refuse(settings, "client.pong_timeout", text)


# Names ------------------------------------------------------------------------------------------------------


def _is_section(section: str) -> bool:
    return section in _SECTIONS or (section.startswith("channels.") and section != "channels.")


def _kind(section: str) -> type[Section] | type[ChannelRules]:
    return _SECTIONS.get(section, ChannelRules)


def _keys(namespaces: Iterable[str]) -> list[str]:
    sections = [*_SECTIONS, *(f"channels.{namespace}" for namespace in namespaces)]
    return [f"{section}.{field}" for section in sections for field in _kind(section).__struct_fields__]


def _nearest(key: str, section: str = "") -> str:
    """What `key` was meant to be: the key of that name in another section, or else the most similar one."""
    _, _, namespace = section.partition("channels.")
    keys = _keys([namespace or DEFAULT])
    name = "." + key.rpartition(".")[2]
    return next((k for k in keys if k.endswith(name)), difflib.get_close_matches(key, keys, 1, 0)[0])


def _unknown(origin: str, key: str, nearest: str) -> NoReturn:
    raise ConfigurationError(f"{origin}: unknown setting {key}; the nearest known one is {nearest}")


def _plain(key: str) -> str:
    """A key for an error message: as it is, or quoted if it holds what no key holds."""
    return key if re.fullmatch(r"[-\w.]{1,80}", key) else repr(key[:80])


def _shown(name: str, value: object) -> str:
    if name in _SECRETS:
        return "***"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


def _named(value: object) -> str:
    """The kind of a value, in the words of TOML."""
    return _NAMES.get(type(value), f"a {type(value).__name__}")


_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
}
