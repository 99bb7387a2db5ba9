"""Layers: one for each place that settings are written in, from sections ("server", "channels.chat") to fields.

Answers for: what a TOML file, the environment, arguments and `--dev` say, each value read and checked by itself, even
where something stronger overrides it; for a name that is no setting being an error. Refuses to know: which layer wins.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hubbub.channels import DEFAULT, ChannelRules, Namespaces
from hubbub.errors import ConfigurationError
from hubbub.settings.document import read_document
from hubbub.settings.names import is_section, keys, kind, named, nearest, nearest_section, plain, unknown
from hubbub.settings.sections import LOCAL_ORIGINS, SECTIONS
from hubbub.settings.values import Found, read

Layer = dict[str, dict[str, Found]]

#: What --dev stands for; it gives way to whatever is said explicitly.
DEV: Layer = {
    "auth": {"insecure": Found("auth", "insecure", True, "--dev")},
    "server": {"allowed_origins": Found("server", "allowed_origins", LOCAL_ORIGINS, "--dev")},
}


def _put(layer: Layer, found: Found) -> None:
    _declare(layer, found.section, found.origin)
    layer[found.section][found.name] = found._replace(value=read(found))


def _declare(layer: Layer, section: str, origin: str) -> None:
    """A section without a word: one of channels declares its namespace, with the default rules."""
    if section not in SECTIONS:
        try:
            Namespaces({section.removeprefix("channels."): ChannelRules()})  # which judges the name
        except ConfigurationError as error:
            raise ConfigurationError(f"{origin}: {error}") from None
    layer.setdefault(section, {})


# The file ---------------------------------------------------------------------------------------------------


def from_file(path: Path) -> Layer:
    """What a TOML file says. Raises ConfigurationError."""
    layer: Layer = {}
    for section, table in _tables(str(path), read_document(path)):
        _declare(layer, section, str(path))
        for name, value in table.items():
            if name not in kind(section).__struct_fields__:
                unknown(str(path), f"{section}.{plain(name)}", nearest(f"{section}.{name}", section))
            _put(layer, Found(section, name, value, str(path)))
    return layer


def _tables(origin: str, document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section, table in document.items():
        if section not in SECTIONS and section != "channels":
            if not isinstance(table, dict):
                unknown(origin, plain(section), nearest(section))
            near = nearest_section(section).replace("channels", "channels.<namespace>")
            unknown(origin, f"[{plain(section)}]", f"[{near}]")
        if not isinstance(table, dict):
            raise ConfigurationError(f"{origin}: {section}: expected a table, [{section}], found {named(table)}")
        if section != "channels":
            yield section, table
            continue
        for namespace, rules in table.items():
            if not isinstance(rules, dict):
                raise ConfigurationError(
                    f"{origin}: channels.{plain(namespace)}: expected a table of a namespace,"
                    f" such as [channels.default], found {named(rules)}"
                )
            yield f"channels.{namespace}", rules


# Arguments --------------------------------------------------------------------------------------------------


_ARGUMENT = "argument"


def from_arguments(arguments: Mapping[str, object]) -> Layer:
    """What arguments with dotted keys say; None is one that is not given. Raises ConfigurationError.

    A table without keys is a key that ends with its dot: `channels.chat.` declares a namespace by its defaults.
    """
    layer: Layer = {}
    for key, value in arguments.items():
        section, dot, name = key.rpartition(".")
        if dot and not name and value == {}:
            _put_empty(layer, section)
        elif is_section(section) and name in kind(section).__struct_fields__:
            if value is not None:
                _put(layer, Found(section, name, value, _ARGUMENT, is_text=isinstance(value, str)))
        elif key not in {*SECTIONS, "channels"}:
            _no_setting(section, name, value)
        elif value is not None:
            field = 'channels={"chat": {}}' if key == "channels" else f'{key}={{"{_first(key)}": …}}'
            raise ConfigurationError(f"{_ARGUMENT}: {key}: expected a table, such as {field}, found {named(value)}")
    return layer


def _put_empty(layer: Layer, table: str) -> None:
    """A table without keys, where there may be one."""
    section, _, name = table.rpartition(".")
    if table.startswith("channels.") or table in SECTIONS:
        _declare(layer, table, _ARGUMENT)
    elif is_section(section) and name in kind(section).__struct_fields__:
        read(Found(section, name, {}, _ARGUMENT))  # which no table can be
    elif table != "channels":  # nothing is declared by an application that declares nothing
        unknown(_ARGUMENT, plain(table), nearest(table, section) if section else nearest_section(table))


def _no_setting(section: str, name: str, value: object) -> NoReturn:
    if section == "channels" and name not in {"", *ChannelRules.__struct_fields__}:
        expected = f'expected a table of a namespace, such as {{"{name}": {{}}}} for the default rules'
        raise ConfigurationError(f"{_ARGUMENT}: channels.{plain(name)}: {expected}, found {named(value)}")
    key = f"{section}.{name}" if section else name
    unknown(_ARGUMENT, plain(key), nearest(key, section))


def _first(section: str) -> str:
    return kind(section).__struct_fields__[0]


# The environment --------------------------------------------------------------------------------------------

#: What Kubernetes puts into every pod beside a service called hubbub or hubbub-server: none of it is ours.
_SERVICE_LINK = re.compile(r"HUBBUB_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_SERVICE_PORT = re.compile(r"(tcp|udp|sctp)://")


def from_environment(env: Mapping[str, str], sections: Iterable[str]) -> Layer:
    """What variables say; `sections` are those declared elsewhere. Raises ConfigurationError."""
    layer: Layer = {}
    known = {_variable(key): key for key in keys(())}
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
        _put(layer, Found(section, name, text, variable, is_text=True))
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
    if rest in SECTIONS or rest == "channels":
        field = "CHAT_DELIVERY" if rest == "channels" else _first(rest).upper()
        raise ConfigurationError(f"{variable}: names a section and no setting of it, such as {variable}_{field}")
    guess = DEFAULT if name in ChannelRules.__struct_fields__ else name.partition("_")[0]
    if section == "channels" and (guess == name != "" or variable in map(_variable, declared)):
        declares = f"{variable}_DELIVERY=live declares it with the defaults"
        raise ConfigurationError(f"{variable}: names a namespace and no rule of it; {declares}")
    guessed = [*declared, f"channels.{guess}"] if section == "channels" else declared
    namespaces = {each.removeprefix("channels.") for each in guessed} - {""}
    known = {_variable(key): key for key in keys(sorted(namespaces))}
    near = difflib.get_close_matches(variable.upper(), known, 1, 0)[0]
    key = f"{section}.{name}" if section in {*SECTIONS, "channels"} else rest
    unknown(variable, key, f"{near} ({known[near]})")
