"""The settings by themselves: what is open that should be closed, and what belongs to one process only.

Answers for: findings about them. Refuses to know: whether what they name is there, and who reads them from where; a
setting that cannot be right at all is refused when it is read.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from hubbub.channels import Delivery, Namespaces
from hubbub.doctor.findings import Finding
from hubbub.settings import Settings

#: Bytes. Shorter ones can be guessed (RFC 7518, 3.2), and so can a key of the API.
LONG_SECRET, LONG_KEY = 32, 16

#: What stands in examples.
_EXAMPLES = re.compile(r"change.?me|^(secret|password|example)\b", re.IGNORECASE)

#: Where settings come from, in words.
_PLACES = {"argument": "arguments of the program"}

#: Names of namespaces in one line, for each delivery.
_SHOWN = 10

#: How those of the settings' own notes begin that tell of something doubtful.
_DOUBTFUL = ("nobody may connect", "auth.jwks_url is http")

_NEW_SECRET = "python3 -c 'import secrets; print(secrets.token_hex(32))' makes one"


def configured(settings: Settings, notes: Iterable[str], namespaces: Namespaces) -> list[Finding]:
    """Everything about the settings, and the channels that are declared here and by classes.

    `notes` are those that the start of a server prints, see `settings.notes`.
    """
    findings = [_noted(note) for note in notes]
    findings += [*_insecure(settings), *_secrets(settings), *_api_key(settings), *_proxies(settings)]
    findings += [*_homeless(settings, namespaces), *_workers(settings), *_kept_here(settings, namespaces)]
    return [Finding("settings", "ok", _where(settings)), *findings, _declared(namespaces)]


def _declared(namespaces: Namespaces) -> Finding:
    """Which channels there are, by what becomes of a publication: so that one sees what was not seen."""
    names: dict[str, list[str]] = {}
    for each in namespaces:
        names.setdefault(each.rules.delivery, []).append(each.name)
    found = [f"{delivery}: {_few(names[delivery])}" for delivery in get_args(Delivery) if delivery in names]
    return Finding("channels", "ok", "; ".join(found))


def _few(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _where(settings: Settings) -> str:
    origins = {"HUBBUB_… variables" if each.startswith("HUBBUB_") else each for each in settings.sources.values()}
    if not origins:
        return "no value is set in hubbub.toml, in HUBBUB_… variables or in arguments"
    return f"read from {', '.join(sorted(_PLACES.get(each, each) for each in origins))}; all others are defaults"


def _noted(note: str) -> Finding:
    seen, colon, fix = note.partition(": set ")
    return Finding("settings", "warning" if note.startswith(_DOUBTFUL) else "note", seen, f"set {fix}" if colon else "")


def _insecure(settings: Settings) -> Iterator[Finding]:
    server = settings.server
    if settings.auth.insecure and not server.unix and not is_this_machine(server.host):
        yield Finding(
            "access",
            "wrong",
            f"auth.insecure, and server.host = {server.host!r}: whoever reaches the port may do everything",
            "remove auth.insecure (--dev) and set auth.hmac_secret, or listen on 127.0.0.1",
        )


def is_this_machine(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host in ("", "localhost"):
        return host == "localhost"
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _secrets(settings: Settings) -> Iterator[Finding]:
    given = settings.auth.hmac_secret
    secrets: Sequence[str] = [given] if isinstance(given, str) else given
    for number, secret in enumerate(secrets, 1):
        key = "auth.hmac_secret" + (f", the {number}. of {len(secrets)}," if len(secrets) > 1 else "")
        if _EXAMPLES.search(secret):
            yield Finding("access", "warning", f"{key} is an example's, which everybody knows", _NEW_SECRET)
        elif secret and len(secret.encode()) < LONG_SECRET:
            seen = f"{key} has {len(secret.encode())} bytes: under {LONG_SECRET} can be guessed"
            yield Finding("access", "warning", seen, _NEW_SECRET)


def _api_key(settings: Settings) -> Iterator[Finding]:
    key = settings.api.key
    if _EXAMPLES.search(key):
        yield Finding("api", "warning", "api.key is an example's, which everybody knows", _NEW_SECRET)
    elif key and len(key.encode()) < LONG_KEY:
        yield Finding("api", "warning", f"api.key has {len(key.encode())} bytes and opens everything", _NEW_SECRET)


def _proxies(settings: Settings) -> Iterator[Finding]:
    everybody = [proxy for proxy in settings.server.trusted_proxies if proxy == "*" or proxy.endswith("/0")]
    if everybody:
        yield Finding(
            "proxies",
            "warning",
            f"server.trusted_proxies has {everybody[0]!r}: whoever connects can claim any address and https",
            "name the addresses of your proxies, such as 10.0.0.0/8",
        )


def _homeless(settings: Settings, namespaces: Namespaces) -> Iterator[Finding]:
    """What is read from files and given as arguments was refused by now; an application may make settings itself."""
    if namespaces.durable and not settings.store.url:
        yield Finding(
            "store",
            "wrong",
            f"{namespaces.durable} is 'durable', and there is no store: no server starts",
            "store.url = 'sqlite:///app.db' (HUBBUB_STORE_URL)",
        )


def _workers(settings: Settings) -> Iterator[Finding]:
    workers, cores = settings.server.workers, os.cpu_count() or 1
    if workers > cores:
        yield Finding(
            "workers",
            "warning",
            f"server.workers = {workers} on {cores} cores: each is busy on one",
            f"server.workers = {cores}, or fewer where others work on this machine",
        )


def _kept_here(settings: Settings, namespaces: Namespaces) -> Iterator[Finding]:
    if settings.broker.url.startswith("memory:"):
        kept = "what channels that are not durable keep" if namespaces.durable else "what channels keep"
        yield Finding(
            "broker",
            "note",
            f"memory://: one process only. Other servers and back-end processes hear nothing of it, and {kept}, and who"
            " is there, ends with it",
            'broker.url = "redis://…" joins many processes',
        )
        return
    if settings.presence.url.startswith("memory:"):
        yield Finding(
            "presence",
            "warning",
            "presence.url is memory:// beside a shared broker: each process shows only its own clients",
            'remove presence.url, or name a Redis: presence.url = "redis://…"',
        )
