"""Writes docs/reference.md: every public name, its signature and its docstring, by subject.

Answers for: the order, and for reading the source so that the page cannot drift from it (`python3 dev.py docs` writes
it, a test compares). Refuses to know: what things mean; their docstrings say that.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import msgspec

import hubbub
import hubbub.auth
import hubbub.sync
from hubbub import errors
from hubbub.channels import ChannelRules

PAGE = Path(__file__).with_name("reference.md")

#: Characters of a line of code, for pages that stay readable beside a menu.
WIDTH = 88


class Subject(NamedTuple):
    """A part of the page: a title, a sentence, and the names that it is about."""

    title: str
    introduction: str
    names: tuple[str, ...]


SUBJECTS = (
    Subject("The hub", "One object holds everything; there are no globals.", ("Hubbub",)),
    Subject(
        "What comes and goes",
        "What methods return and handlers are given. All of it is frozen.",
        ("Publication", "Published", "Position", "History", "Subscription", "Outgoing", "ClientInfo", "PresenceStats"),
    ),
    Subject(
        "Handlers",
        "What the application's own functions and channel classes are given, and may return.",
        ("Connection", "Credentials", "Ephemeral"),
    ),
    Subject(
        "Errors",
        "All that hubbub raises on purpose is a `HubbubError`. A handler that raises a `ReplyError` answers the\n"
        "client with its code and text, one that raises `Disconnect` closes the connection; Python's own\n"
        "`PermissionError` is `PermissionDenied`. Whatever else a handler raises is logged, and the client gets 100.",
        (
            "HubbubError",
            "ConfigurationError",
            "BackendError",
            "PublishFailed",
            "PositionLost",
            "ReplyError",
            "BadRequest",
            "NotAvailable",
            "PermissionDenied",
            "UnknownChannel",
            "Disconnect",
        ),
    ),
)

#: Public names without a place among the subjects.
ELSEWHERE = {"__version__"}

#: When errors are raised whose docstring is only what goes over the wire.
WHEN = {
    "BadRequest": "A name, an argument or a payload does not fit; the text says which, and names the field.",
    "NotAvailable": "The channel has none of this: history where nothing is kept, presence where nobody is counted.",
    "PermissionDenied": "For handlers to raise: this client may not. The text goes to the client.",
    "UnknownChannel": "No rules know this channel; the text says which namespace to declare.",
}

#: Methods of the hub by subject, as the decorators and calls are looked for.
METHODS = (
    ("Starting and stopping", ("start", "stop", "lifespan", "asgi", "override")),
    ("What the application says", ("channel", "on", "rpc", "authenticate")),
    ("Publishing and listening", ("publish", "publish_many", "outbox", "subscribe", "history")),
    ("Who is there", ("presence", "presence_stats", "channels", "subscribers")),
    ("What servers do to clients", ("token", "disconnect", "unsubscribe", "revoke")),
)

#: Of the hub, and for transports and `hubbub.testing` alone.
NOT_FOR_APPLICATIONS = {"notes", "connect", "max_message", "at_work", "rehearsal"}

#: Methods of the blocking hub, in the order in which they are looked for.
BLOCKING = (
    *("publish", "publish_many", "outbox", "history", "on", "start", "stop"),
    *("channels", "subscribers", "presence", "presence_stats"),
    *("token", "disconnect", "unsubscribe", "revoke"),
)

TOKENS = (hubbub.auth.connection_token, hubbub.auth.subscription_token)

HEAD = """\
# The Python API

Written by `python3 dev.py docs` from the docstrings; edit those. Settings are in [configuration.md](configuration.md),
the tests' own hub in [testing-your-app.md](testing-your-app.md), the command line in [commands.md](commands.md).
"""


def page() -> str:
    """The whole page."""
    return (
        "\n".join([*_paragraphs(HEAD.rstrip()), *_subjects(), *_blocking(), *_rules(), *_codes(), *_tokens()]).rstrip()
        + "\n"
    )


def _paragraphs(*texts: str) -> Iterator[str]:
    for text in texts:
        yield text
        yield ""


def _subjects() -> Iterator[str]:
    for subject in SUBJECTS:
        yield from _paragraphs(f"## {subject.title}", subject.introduction)
        if subject.title == "Errors":
            yield from _errors(subject.names)
            continue
        for name in subject.names:
            yield from _class(getattr(hubbub, name))


def _blocking() -> Iterator[str]:
    of = hubbub.sync.Hubbub
    yield from _paragraphs(
        "## The blocking hub",
        "`from hubbub.sync import Hubbub`. What its methods take, return and raise is what those of the hub do;\n"
        "[guide/sync.md](guide/sync.md) shows it at work.",
        *_code(_constructor(of)),
        *_prose(of),
    )
    for name in BLOCKING:
        yield from _function(getattr(of, name), "sync")


def _class(of: type) -> Iterator[str]:
    yield from _paragraphs(f"### {of.__name__}", *_code(_constructor(of)), *_prose(of))
    if of is hubbub.Hubbub:
        for title, names in METHODS:
            yield from _paragraphs(f"### Hubbub: {title.lower()}")
            for name in names:
                yield from _function(getattr(of, name), of.__name__.lower())
        return
    for name, member in vars(of).items():
        if not name.startswith("_") and isinstance(member, FunctionType):
            yield from _function(member, of.__name__)


def _function(function: Callable[..., Any], owner: str) -> Iterator[str]:
    called = inspect.unwrap(function)
    title = f"{owner.replace('hubbub', 'hub')}.{called.__name__}" if owner else called.__name__
    shapes = typing.get_overloads(called) or [called]
    signatures = "\n".join(_signature(shape) for shape in shapes)
    if called is not function:  # the only decorator among them
        signatures = f"@asynccontextmanager\n{signatures}"
    yield from _paragraphs(f"#### {title}", *_code(signatures), *_prose(called))


def _constructor(of: type) -> str:
    """How it is made; for a struct, its fields."""
    if issubclass(of, msgspec.Struct):
        lines = [f"    {field.name}: {_annotation(of, field.name)}{_default(field)}" for field in _fields(of)]
        return "\n".join([f"class {of.__name__}:", *lines])
    if hasattr(of, "_fields"):  # a named tuple
        lines = [f"    {name}: {_annotation(of, name)}" for name in of._fields]
        return "\n".join([f"class {of.__name__}(NamedTuple):", *lines])
    if of is hubbub.Subscription:  # made by `subscribe` alone
        return "class Subscription(Generic[T]):\n    channel: str"
    return _signature(of.__init__, name=f"class {of.__name__}")


def _fields(of: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(of)


def _annotation(of: type, name: str) -> str:
    """As the source has it, without the module where it is at home."""
    written = of.__annotations__[name]
    text = written.__forward_arg__ if isinstance(written, typing.ForwardRef) else str(written)
    return re.sub(r"\bmodel\.", "", text)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        shown = "{}" if repr(field.default).startswith("mappingproxy") else repr(field.default).replace("'", '"')
        return f" = {shown}"
    if field.default_factory is not msgspec.NODEFAULT:
        return f" = {field.default_factory()!r}"
    return ""


def _signature(function: Callable[..., Any], name: str = "") -> str:
    """`async def publish(channel: str, …) -> Published`, on as many lines as it takes."""
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    texts: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in texts:
            texts.append("*")
        texts.append(_parameter(parameter))
    verb = "async def" if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function) else "def"
    head = name or f"{verb} {function.__name__}"
    tail = "" if name or signature.return_annotation is signature.empty else f" -> {signature.return_annotation}"
    line = f"{head}({', '.join(texts)}){tail}"
    if len(line) <= WIDTH:
        return line
    rows = "".join(f"    {text},\n" for text in texts)
    return f"{head}(\n{rows}){tail}"


def _parameter(parameter: inspect.Parameter) -> str:
    text = f"{'**' if parameter.kind is parameter.VAR_KEYWORD else ''}{parameter.name}: {parameter.annotation}"
    if parameter.default is parameter.empty:
        return text
    default = "Any" if parameter.default is Any else repr(parameter.default).replace("'", '"')
    return f"{text} = {default}"


def _code(text: str) -> tuple[str, ...]:
    return (f"```python\n{text}\n```",)


def _prose(of: object) -> Iterator[str]:
    """Its docstring; what is indented in it is code."""
    for paragraph in _parts(of):
        if paragraph.startswith("    "):
            yield from _code(inspect.cleandoc(paragraph))
        else:
            yield paragraph


def examples(of: object) -> list[str]:
    """The code in a docstring."""
    return [inspect.cleandoc(paragraph) for paragraph in _parts(of) if paragraph.startswith("    ")]


def _parts(of: object) -> list[str]:
    """Paragraphs; code is one, whatever empty lines are in it."""
    return re.split(r"\n{2,}(?! )|\n{2,}(?=    )", inspect.getdoc(of) or "")


def _errors(names: tuple[str, ...]) -> Iterator[str]:
    yield "| error | base | code | |"
    yield "|---|---|---:|---|"
    for name in names:
        of = getattr(hubbub, name)
        code = str(of.code) if issubclass(of, errors.ReplyError) and of is not errors.ReplyError else ""
        meaning = WHEN.get(name) or " ".join((inspect.getdoc(of) or "").split())
        yield f"| `{name}` | `{of.__base__.__name__}` | {code} | {meaning} |"
    yield ""
    for name in ("ReplyError", "Disconnect"):
        yield from _code(_signature(getattr(hubbub, name).__init__, name=f"class {name}"))
        yield ""


def _rules() -> Iterator[str]:
    yield from _paragraphs(
        "## Rules of channels",
        "What `hub.channel(pattern, …)` takes, and `[channels.NAME]` in TOML; [configuration.md](configuration.md)\n"
        'says what each means. Durations and sizes may also be text: `"5m"`, `"64KiB"`.',
    )
    yield "| rule | default | values |"
    yield "|---|---|---|"
    hints = typing.get_type_hints(ChannelRules)
    for field in _fields(ChannelRules):
        values = typing.get_args(hints[field.name])
        shown = " · ".join(f"`{value}`" for value in values) or f"{hints[field.name].__name__}"
        default = f"{field.default:g}" if isinstance(field.default, float) else repr(field.default).replace("'", '"')
        yield f"| `{field.name}` | `{default}` | {shown} |"
    yield ""


def _codes() -> Iterator[str]:
    yield from _paragraphs("## Codes", "What clients are told, as all Centrifuge servers say it.")
    yield from _paragraphs("### Errors: the answer to one command")
    yield "| code | text | temporary: the SDK tries again |"
    yield "|---:|---|---|"
    for of in sorted(errors.ReplyError.__subclasses__(), key=lambda each: each.code):
        yield f"| {of.code} | {of.__doc__} | {'yes' if of.temporary else ''} |"
    yield ""
    for title, codes in (
        ("Disconnects: the end of a connection", errors.DisconnectCode),
        ("Unsubscribes: the end of a subscription", errors.UnsubscribeCode),
    ):
        yield from _paragraphs(f"### {title}", *_prose(codes))
        yield "| code | reason |"
        yield "|---:|---|"
        yield from (f"| {code.value} | {code.reason} |" for code in codes)
        yield ""


def _tokens() -> Iterator[str]:
    yield from _paragraphs(
        "## Tokens without a hub",
        "`hubbub.auth` signs tokens where no hub is, as any JWT library does. Where there is a hub, use `hub.token`.",
    )
    for function in TOKENS:
        yield from _function(function, "")


if __name__ == "__main__":
    PAGE.write_text(page())
