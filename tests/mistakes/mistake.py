"""One mistake that a newcomer makes: how it is made, what is seen then, what it means, and what to write instead.

Answers for: the shape of an entry, and comparing the line that it promises with the one that was seen. Refuses to know:
which mistakes there are (the modules beside this one), and how they are made to happen (`stage`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

#: What a promised line may leave open, and what stands there in truth.
PLACEHOLDERS = {
    "PORT": r"\d+",
    "SECONDS": r"\d+\.\d",
    "FOLDER": r"/\S+",
}


#: One that the system chooses, one where somebody listens or nobody does, one that only root may listen on, or that of
#: a running hubbub whose API has the key "secret".
Port = Literal["any", "taken", "free", "low", "served"]


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """`sees` is the one line, `write` is what to do instead: code of the same kind, which is run as well.

    `files` lie in the folder, by name; `environment` is set.
    """

    title: str
    sees: str
    means: str
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def is_seen_in(self, line: str) -> bool:
        """Whether a line is the promised one."""
        pattern = re.escape(self.sees)
        for name, stands_for in PLACEHOLDERS.items():
            pattern = stands_for.join(re.split(rf"\b{name}\b", pattern))
        return re.fullmatch(pattern, line) is not None


@dataclass(frozen=True, kw_only=True)
class InPython(Mistake):
    """A program, `await` at its top level as in `python -m asyncio`. What is seen is an exception or a line of the log.

    `write` is the program that does it right; with `write_files` in place of `files`, where they are what is wrong.
    """

    code: str
    write: str
    write_files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class InShell(Mistake):
    """A command. What is seen is on stderr, and it ends with `exit`; with `exit` None it goes on, and the first line of
    stdout is meant.

    `port` is what PORT stands for in the command. `write` is words: what is right depends on what was wanted.
    """

    command: str
    write: str
    exit: int | None = 2
    port: Port = "any"


@dataclass(frozen=True, kw_only=True)
class InPage(Mistake):
    """JavaScript with the official client, against the hub of a Python program; a page of `origin` if that is given.

    `page` is what is seen there. `sees` is the line of the server's log that says what to do, and the same as `page`
    where the page is told it. `write` is the corrected page, `write_server` the corrected program: one or both.
    """

    server: str
    code: str
    page: str
    write: str = ""
    write_server: str = ""
    origin: str = ""
