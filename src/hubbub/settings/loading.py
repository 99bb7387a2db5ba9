"""One frozen `Settings` out of everything that was written.

Answers for: the order of precedence (arguments, `HUBBUB_…` variables, a TOML file, `--dev`, defaults); for telling
where each value came from, and what whoever starts the server should know. Refuses to know: what the settings do.
Below this floor all are keyword arguments.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hubbub.channels import ChannelRules
from hubbub.errors import ConfigurationError
from hubbub.settings.checks import check
from hubbub.settings.layers import DEV, Layer, from_arguments, from_environment, from_file
from hubbub.settings.names import keys, plain
from hubbub.settings.sections import SECTIONS, Settings
from hubbub.settings.values import Found


def load(
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """The settings of a TOML file, the environment (None: this process's) and arguments, the strongest last.

    `overrides` has dotted keys (`server.port`; `channels.chat.` for a namespace with the default rules); None is an
    argument not given, and `dev` is the flag. Raises ConfigurationError.
    """
    arguments = dict(overrides or {})
    dev = arguments.pop("dev", None)
    dev = False if dev is None else dev
    if not isinstance(dev, bool):
        raise ConfigurationError(f"argument: dev = {dev!r}: expected true or false")
    written = from_file(path) if path is not None else {}
    given = from_arguments(arguments)
    variables = from_environment(os.environ if env is None else env, {*written, *given})
    layer: Layer = {}
    for weaker in (DEV if dev else {}, written, variables, given):
        for section, fields in weaker.items():
            layer.setdefault(section, {}).update(fields)
    settings = _build(layer, dev=dev)
    check(settings)
    return settings


def _build(layer: Layer, *, dev: bool) -> Settings:
    found = [each for fields in layer.values() for each in fields.values()]
    values = {at: {name: each.value for name, each in fields.items()} for at, fields in layer.items()}
    sections: dict[str, Any] = {name: section(**values.pop(name, {})) for name, section in SECTIONS.items()}
    return Settings(
        **sections,
        channels={at.removeprefix("channels."): _rules(at, layer[at], values[at]) for at in values},
        dev=dev,
        sources={f"{each.section}.{each.name}": each.origin for each in found},
    )


def _rules(section: str, found: Mapping[str, Found], values: Mapping[str, Any]) -> ChannelRules:
    try:
        return ChannelRules(**values)
    except ConfigurationError as error:
        where = ", ".join(dict.fromkeys(each.origin for each in found.values()))
        raise ConfigurationError(f"{where}: {plain(section)}: {error}") from None


def origins(settings: Settings) -> dict[str, str]:
    """Where each value came from, by dotted key: "default", "argument", "--dev", a path or a variable."""
    return {key: settings.sources.get(key, "default") for key in keys(settings.channels)}


def notes(settings: Settings, *, authenticates: bool = False, declares: bool = False) -> list[str]:
    """What whoever starts the server should know of these settings, each with the key that changes it.

    `authenticates`: the application itself says who somebody is; `declares`: it has channel classes.
    """
    auth, found = settings.auth, []
    if auth.insecure:
        where = settings.sources.get("auth.insecure", "argument")
        found.append(f"auth.insecure = true ({where}): no tokens asked, and everybody may do everything")
    elif not auth.has_keys and not auth.anonymous and not authenticates:
        found.append(
            "nobody may connect: set auth.hmac_secret (or auth.public_key, auth.jwks_url) or auth.anonymous, or start"
            " with --dev"
        )
    if auth.jwks_url.startswith("http://") and urlsplit(auth.jwks_url).hostname not in (
        "localhost",
        "127.0.0.1",
        "::1",
    ):
        found.append("auth.jwks_url is http: whoever is on the way there can forge tokens; use https")
    if not settings.api.key:
        found.append("the HTTP API is closed: set api.key to open it")
    if settings.dev and not settings.channels and not declares:
        found.append(
            'no [channels.*] declared: channels.default.delivery is "live", nothing is kept;'
            " a channel such as chat:1 needs [channels.chat]"
        )
    return found
