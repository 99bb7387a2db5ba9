"""What a test expected, and what came instead.

Answers for: the one exception, the text that says both, and turning an error on the wire into the exception that the
server raised. Refuses to know: clients, and how long they waited.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubbub import errors
from hubbub.errors import ReplyError

#: Lines of what was received that a failure shows: the last ones.
SHOWN = 20


class ExpectationFailed(AssertionError):
    """What a test waited for did not come, or what it excluded came. The text has all that the client received."""


def failure(who: str, expected: str, instead: str, received: Sequence[str]) -> ExpectationFailed:
    """`alice expected …, but …`, and below it what `alice` has received so far."""
    lines = [f"{who} expected {expected}, but {instead}"]
    if not received:
        lines.append(f"{who} has received nothing at all")
    else:
        left_out = len(received) - SHOWN
        lines.append(f"{who} has received, in this order{f' (and {left_out} before)' if left_out > 0 else ''}:")
        lines += [f"  {line}" for line in received[-SHOWN:]]
    return ExpectationFailed("\n".join(lines))


_KINDS = {kind.code: kind for kind in ReplyError.__subclasses__() if kind.__module__ == errors.__name__}


def error_of(reply: dict[str, Any]) -> ReplyError:
    """The exception that an error on the wire stands for: PermissionDenied for 103, ReplyError for a code of theirs."""
    code, message, temporary = reply["code"], reply["message"], reply.get("temporary", False)
    return _KINDS.get(code, ReplyError)(message, code=code, temporary=temporary)
