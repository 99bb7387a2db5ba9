"""Patterns of channel names with captures: `room:{room_id}`.

Answers for: reading a pattern, matching names against it, and which of several patterns is the most literal. Refuses to
know: what a capture is converted to, and what is declared for the pattern.

A capture takes at least one character and stops at ":"; the last one of a pattern takes the rest.
"""

from __future__ import annotations

import re

from hubbub.errors import ConfigurationError

_CAPTURE = re.compile(r"\{([^{}]*)\}")
_NAMESPACE = re.compile(r"[-\w.]{2,}", re.ASCII)


class ChannelPattern:
    """One pattern. `names` are its captures in their order, `namespace` what stands before the first ":" ("" if none).

    `rank` orders patterns that match the same name: the most literal has the highest.
    """

    __slots__ = ("_regex", "names", "namespace", "rank", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: list[str] = []
        literals = _CAPTURE.split(text)[::2]
        self.names = _CAPTURE.split(text)[1::2]
        self._require_sense(literals)
        self.namespace = text.partition(":")[0] if ":" in text else ""
        parts = [re.escape(literals[0])]
        for number, literal in enumerate(literals[1:], 1):
            parts.append("(.+)" if number == len(self.names) else "([^:]+)")
            parts.append(re.escape(literal))
        self._regex = re.compile("".join(parts), re.DOTALL)
        self.rank = (sum(map(len, literals)), len(literals[0]))

    def match(self, channel: str) -> dict[str, str] | None:
        """The captures of `channel` by name; None if it does not match."""
        match = self._regex.fullmatch(channel)
        return dict(zip(self.names, match.groups(), strict=True)) if match is not None else None

    def collides(self, other: ChannelPattern) -> bool:
        """Whether both match the very same names."""
        return self._regex.pattern == other._regex.pattern

    def __repr__(self) -> str:
        return f"ChannelPattern({self.text!r})"

    def _require_sense(self, literals: list[str]) -> None:
        if any("{" in literal or "}" in literal for literal in literals):
            self._refuse("a brace is not closed; a capture is {name}")
        for name in self.names:
            if not name.isidentifier():
                self._refuse(f"{{{name}}} is no name that a parameter can have")
            if self.names.count(name) > 1:
                self._refuse(f"{{{name}}} comes twice")
        if self.names and not _NAMESPACE.fullmatch(self.text.partition(":")[0]):
            self._refuse("it begins with its namespace, as in 'room:{room_id}'")
        if any(not literal for literal in literals[1:-1]):
            self._refuse("two captures need something between them, such as ':'")

    def _refuse(self, what: str) -> None:
        raise ConfigurationError(f"channel pattern {self.text!r}: {what}")
