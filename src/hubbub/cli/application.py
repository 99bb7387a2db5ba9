"""`module:hub`: somebody's application, by name.

Answers for: importing it as from the folder one stands in, and for what is said when that fails: one line for a
mistake in the name, the application's own traceback for a mistake in the application. Refuses to know: what is done
with the hub.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from types import ModuleType
from typing import TYPE_CHECKING

from hubbub.cli.arguments import Failure, nearest, shown
from hubbub.errors import ConfigurationError

if TYPE_CHECKING:
    from hubbub.app import Hubbub


def hub_of(target: str) -> Hubbub:
    """The hub that `module:name` is. Raises ConfigurationError; Failure once a traceback was printed."""
    from hubbub.app import Hubbub

    name, colon, attribute = target.partition(":")
    if target.endswith(".py") or os.sep in target:
        dotted = target.partition(":")[0].removesuffix(".py").replace(os.sep, ".").strip(".")
        raise ConfigurationError(f"{shown(target)} is a file; name the module and the hub, such as {dotted}:hub")
    if not name or (colon and not attribute):
        raise ConfigurationError(f"{shown(target)}: expected a module and a hub, such as main:hub")
    module = _module(name)
    if not colon:
        hubs = [each for each, value in vars(module).items() if isinstance(value, Hubbub)]
        which = f"such as {name}:{hubs[0]}" if hubs else "such as main:hub"
        raise ConfigurationError(f"{shown(target)}: expected a module and a hub, {which}")
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [each for each in vars(found) if not each.startswith("_")] if hasattr(found, "__dict__") else []
            near = f"; the nearest is {nearest(part, known)}" if known else ""
            raise ConfigurationError(f"{shown(target)}: the module {name} has no {shown(attribute)}{near}")
        found = getattr(found, part)
    if not isinstance(found, Hubbub):
        hubs = [each for each, value in vars(module).items() if isinstance(value, Hubbub)]
        which = f", such as {name}:{hubs[0]}" if hubs else ""
        raise ConfigurationError(f"{shown(target)} is a {type(found).__name__}; expected a Hubbub{which}")
    return found


def _module(name: str) -> ModuleType:
    folder = os.getcwd()
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ConfigurationError as error:
        place = _place(error)
        raise ConfigurationError(str(error) if f"({place})" in str(error) else f"{place}: {error}") from None
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):
            text = f"there is no module {shown(missing)} in {folder} nor among what is installed"
            raise ConfigurationError(text) from None
        _show(error)
        raise Failure(f"the module {name} cannot be imported: no module {shown(missing)}; is it installed?") from None
    except (Exception, SystemExit) as error:
        _show(error)
        raise Failure(f"the module {name} cannot be imported: {type(error).__name__}") from None


def _show(error: BaseException) -> None:
    """The traceback, from the application's first line on: how it came to be imported explains nothing."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames)


def _place(error: BaseException) -> str:
    """Where in the application an error of ours came from: a line of it, as editors read it."""
    lines = [line for line in traceback.extract_tb(error.__traceback__) if not _is_ours(line.filename)]
    return f"{os.path.relpath(lines[-1].filename)}, line {lines[-1].lineno}" if lines else "application"


def _is_ours(filename: str) -> bool:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return filename.startswith((package + os.sep, "<frozen importlib")) or filename == importlib.__file__
