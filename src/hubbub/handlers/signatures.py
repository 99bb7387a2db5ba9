"""What a handler's signature says, and whether it can be called.

Answers for: refusing what could never be called, when it is registered and not when the first client comes, in one line
that says where it stands and what it should look like. Refuses to know: what handlers are called for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from hubbub.captures import ChannelPattern
from hubbub.errors import BadRequest, ConfigurationError
from hubbub.handlers.typed import unannotated

#: What a capture may be converted to.
_CAPTURED: dict[Any, Callable[[str], Any]] = {}


class Signature(NamedTuple):
    """A handler that can be called: `parameters` by name, each with its annotation (resolved, or `empty`)."""

    where: str
    parameters: dict[str, Any]


def where(target: Callable[..., Any] | type) -> str:
    """`show (app.py, line 12)`, for errors and logs."""
    name = getattr(target, "__qualname__", repr(target)).rpartition("<locals>.")[2]
    code = getattr(inspect.unwrap(target), "__code__", None)
    if code is not None:
        return f"{name} ({Path(code.co_filename).name}, line {code.co_firstlineno})"
    try:
        return f"{name} ({Path(inspect.getfile(target)).name}, line {inspect.getsourcelines(target)[1]})"
    except (OSError, TypeError):
        return name


def require_name(given: object, decorator: str) -> None:
    """Refuse a decorator that was written without its brackets, and would swallow what stands below it."""
    if not isinstance(given, str):
        place = where(given) if callable(given) else repr(given)
        raise ConfigurationError(f'{place}: expected a name in the brackets of the decorator: @{decorator}("...")')


def signature_of(function: Callable[..., Any]) -> Signature:
    """Its parameters, without `self` where it is bound. Raises ConfigurationError for what is no async function."""
    place = where(function)
    if not callable(function):
        raise ConfigurationError(f"{function!r} is no function")
    if not inspect.iscoroutinefunction(function):
        name = getattr(function, "__name__", "it")
        raise ConfigurationError(f"{place} is a plain function, and would hold up all others: write `async def {name}`")
    try:
        hints = get_type_hints(function, include_extras=True)  # Annotated carries constraints
    except Exception as error:
        raise ConfigurationError(f"{place}: its annotations cannot be resolved: {error}") from None
    parameters: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigurationError(f"{place} takes *{parameter.name}: name each parameter")
        parameters[parameter.name] = hints.get(parameter.name, inspect.Parameter.empty)
    return Signature(place, parameters)


class Captures:
    """The captures that one handler takes, converted as it annotated them."""

    __slots__ = ("_converters", "_pattern")

    def __init__(self, signature: Signature, pattern: ChannelPattern, *, first: str, also: Sequence[str] = ()) -> None:
        """`first` is its first parameter, `also` are those that it has besides captures. Raises ConfigurationError."""
        names = list(signature.parameters)
        rest = names[1:]
        if names[:1] != [first] or not set(also) <= set(rest) or not set(rest) <= {*pattern.names, *also}:
            expected = ", ".join([first, *pattern.names, *also])
            raise ConfigurationError(
                f"{signature.where} takes ({', '.join(names)}); for {pattern.text!r} it is ({expected})"
            )
        self._pattern = pattern
        self._converters: dict[str, Callable[[str], Any]] = {}
        for name in rest:
            annotation = unannotated(signature.parameters[name])
            if name in also:
                continue
            if annotation not in _CAPTURED:
                said = getattr(annotation, "__name__", annotation)
                raise ConfigurationError(f"{signature.where}: {name} is annotated {said}; a capture is str or int")
            self._converters[name] = _CAPTURED[annotation]

    def of(self, channel: str) -> dict[str, Any]:
        """The keyword arguments. Raises BadRequest (107) where one cannot be converted."""
        found = self._pattern.match(channel) or {}
        return {name: _converted(name, found[name], convert) for name, convert in self._converters.items()}


def _integer(text: str) -> int:
    """One spelling for each number, or a channel would have many names for the class that guards it."""
    number = int(text)
    if str(number) != text:
        raise ValueError(text)
    return number


_CAPTURED |= {str: str, int: _integer, inspect.Parameter.empty: str, Any: str}


def _converted(name: str, text: str, convert: Callable[[str], Any]) -> Any:
    try:
        return convert(text)
    except ValueError:
        raise BadRequest(f"channel name: {name} = {text[:40]!r} is no integer") from None
