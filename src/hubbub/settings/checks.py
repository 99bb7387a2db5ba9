"""What values have to fit besides their own shape: ranges, and each other.

Answers for: an error with place, key and value for each that does not fit. Refuses to know: how they were read.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NoReturn
from urllib.parse import urlsplit

from hubbub.channels import DEFAULT, PersonalChannels
from hubbub.errors import ConfigurationError
from hubbub.rates import parse_rate
from hubbub.settings.names import shown
from hubbub.settings.sections import Client, Settings


def check(settings: Settings) -> None:
    """Raises ConfigurationError for the first thing that does not fit. The rules of channels check themselves."""
    _check_server(settings)
    _check_broker(settings)
    _check_store(settings)
    _check_auth(settings)
    _check_channels(settings)
    _check_client(settings)


def _refuse(settings: Settings, key: str, text: str) -> NoReturn:
    section, _, name = key.partition(".")
    value = getattr(getattr(settings, section), name)
    raise ConfigurationError(f"{settings.sources.get(key, 'default')}: {key} = {shown(name, value)}: {text}")


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", re.IGNORECASE)


def _check_workers(settings: Settings) -> None:
    server = settings.server
    if server.workers < 1:
        _refuse(settings, "server.workers", "expected 1 or more")
    if server.workers > 1 and settings.broker.url.startswith("memory:"):
        text = 'more than one needs a shared broker, such as broker.url = "redis://localhost"; memory:// is none'
        _refuse(settings, "server.workers", text)
    if server.workers > 1 and settings.presence.url.startswith("memory:"):
        _refuse(settings, "server.workers", "more than one needs a shared presence.url; memory:// is none")


def _check_server(settings: Settings) -> None:
    server = settings.server
    if not 0 <= server.port <= 65535:
        _refuse(settings, "server.port", "expected 0 to 65535; 0 lets the system choose")
    _check_workers(settings)
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


#: What a broker and presence may be.
_SCHEMES = ("memory", "redis", "rediss", "unix", "redis+sentinel")


def _check_broker(settings: Settings) -> None:
    _check_url(settings, "broker.url", settings.broker.url)
    if settings.presence.url:
        _check_url(settings, "presence.url", settings.presence.url)
    for name, pattern in (("name", r"[!-~]+"), ("prefix", r"[!-~]*")):
        if not re.fullmatch(pattern, getattr(settings.broker, name)):
            _refuse(settings, f"broker.{name}", f"expected a {name} of printable ASCII characters without spaces")


def _check_store(settings: Settings) -> None:
    url = settings.store.url
    if url.startswith(("postgresql://", "postgres://")):
        return
    if url and url != "memory://" and not re.fullmatch(r"sqlite:///[^?#]*[^/?#]", url):
        expected = "expected sqlite:///app.db, sqlite:////var/lib/app.db, postgresql://user@host/name or memory://"
        # Never the whole URL: it may hold a password.
        raise ConfigurationError(f"{settings.sources['store.url']}: store.url: {expected}")
    if url and settings.server.workers > 1:
        _refuse(settings, "server.workers", f"one process owns {url}: more workers need postgresql://")


def _check_url(settings: Settings, key: str, url: str) -> None:
    scheme, colon, _ = url.partition("://")
    if scheme in _SCHEMES and colon:
        return
    # Never the whole URL: it may hold a password.
    found = f"the scheme {scheme[:40]!r}" if colon else "a URL without a scheme"
    later = " ('redis+cluster' comes with a later version)" if scheme == "redis+cluster" else ""
    expected = f"expected {', '.join(f'{each}://' for each in _SCHEMES)}{later}"
    raise ConfigurationError(f"{settings.sources.get(key, 'default')}: {key}: {expected}; found {found}")


def _check_auth(settings: Settings) -> None:
    url = settings.auth.jwks_url
    if not url:
        return
    if re.match(r"[^/]*//[^/?#]*@", url):  # first, for every other text shows the value
        where = settings.sources.get("auth.jwks_url", "default")
        raise ConfigurationError(f"{where}: auth.jwks_url: expected a URL without a user or password")
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 443) > 0
    except ValueError:
        is_right = False
    if not is_right or not re.fullmatch(r"[!-~]+", url):
        _refuse(settings, "auth.jwks_url", 'expected a URL such as "https://example.com/.well-known/jwks.json"')


def _check_channels(settings: Settings) -> None:
    for name, rules in settings.channels.items():
        if rules.is_durable and not settings.store.url:
            where = settings.sources.get(f"channels.{name}.delivery", "default")
            raise ConfigurationError(
                f"{where}: channels.{name}.delivery = 'durable': needs a store: store.url = 'sqlite:///app.db'"
                " (HUBBUB_STORE_URL)"
            )
    template = settings.auth.personal_channel
    try:
        PersonalChannels(template)
    except ConfigurationError as error:
        raise ConfigurationError(f"{settings.sources['auth.personal_channel']}: auth.{error}") from None
    namespace = template.partition(":")[0] if ":" in template else DEFAULT
    if template and namespace not in {*settings.channels, DEFAULT}:
        text = f"its namespace is not declared; add [channels.{namespace}]"
        _refuse(settings, "auth.personal_channel", text)


#: Fields of [client] for which 0 has a meaning.
_MAY_BE_ZERO = {"expired_grace", "max_connections", "max_connections_per_user"}


def _check_client(settings: Settings) -> None:
    client = settings.client
    for name in Client.__struct_fields__:
        value = getattr(client, name)
        if name in _MAY_BE_ZERO and value < 0:
            _refuse(settings, f"client.{name}", "expected 0 or more")
        if name not in {*_MAY_BE_ZERO, "command_rate"} and value <= 0:
            _refuse(settings, f"client.{name}", "expected more than 0")
    if client.pong_timeout >= client.ping_interval:
        text = f"expected less than client.ping_interval, which is {client.ping_interval:g} seconds"
        _refuse(settings, "client.pong_timeout", text)
    try:
        parse_rate(client.command_rate)
    except ConfigurationError as error:
        _refuse(settings, "client.command_rate", str(error))
