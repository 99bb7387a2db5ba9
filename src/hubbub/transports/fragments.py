"""One message out of several frames (RFC 6455, 5.4), and whether text is text.

Answers for: keeping the fragments within the limits, and checking UTF-8. Refuses to know: frames, and what a peer is
told that broke a limit (`rfc6455`).
"""

from __future__ import annotations

#: Fragments of one message. More are an attack: each costs a call, whatever its size.
MAX_FRAGMENTS = 4096


class Fragments:
    """What has come of a message whose last frame is still to come."""

    __slots__ = ("_parts", "_size", "is_binary")

    def __init__(self, first: bytes, *, is_binary: bool) -> None:
        self.is_binary = is_binary
        self._parts = [first]
        self._size = len(first)

    def add(self, fragment: bytes, *, limit: int) -> bool:
        """Whether there was room for it: in `limit` bytes, and in a number of fragments that has its limit too."""
        self._size += len(fragment)
        if self._size > limit or len(self._parts) >= MAX_FRAGMENTS:
            return False
        self._parts.append(fragment)
        return True

    def joined(self) -> bytes:
        """The whole message."""
        return b"".join(self._parts)


def is_utf8(text: bytes) -> bool:
    """Whether these bytes may be a text message. Whoever asks often asks `isascii` first."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
