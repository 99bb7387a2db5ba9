"""Reading settings as a server does that starts in this directory.

Answers for: settings of a hubbub.toml, an environment and arguments, and the text that they are refused with. Refuses
to know: what the settings mean. Callers change into a directory of their own first.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hubbub.errors import ConfigurationError
from hubbub.settings import Settings, load


def read(toml: str | bytes = "", env: dict[str, str] | None = None, **arguments: object) -> Settings:
    """`server__port=1` stands for the argument server.port."""
    path = Path("hubbub.toml")
    path.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    return load(path, env or {}, {name.replace("__", "."): value for name, value in arguments.items()})


def refusal(toml: str | bytes = "", env: dict[str, str] | None = None, **arguments: object) -> str:
    """The text of the error."""
    with pytest.raises(ConfigurationError) as caught:
        read(toml, env, **arguments)
    assert caught.value.__cause__ is None
    return str(caught.value)
