r"""Lone surrogate escapes: what browsers send when a string was cut in the middle of an emoji.

Answers for: getting JSON text with escapes such as "\ud83d" (legal by RFC 8259, section 8.2, though no character) past
a parser that refuses them, so that payloads come out as they went in, but for the case of a hexadecimal digit. Refuses
to know: what the text says.

While the parser looks, each lone surrogate wears the mask of a private-use character of the same length; `unmask` takes
it off.
"""

from __future__ import annotations

import re

#: Every escape in its turn, so that an escaped backslash before a `u` is none; pairs before halves.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD]([89a-fA-F])([0-9a-fA-F]{2})|\\.", re.DOTALL
)

#: The masks, U+E000 to U+E7FF and U+F000 to U+F7FF, and how to find them in a text.
_MASKS = {letter: re.compile(rb"\\u[%b]([0-7])([0-9a-fA-F]{2})" % (letter + letter.upper())) for letter in (b"e", b"f")}


def mask(text: bytes) -> tuple[bytes, bytes] | None:
    """`text` with its lone surrogates masked, and the mask; None if it has none, or if it uses all masks itself."""
    for letter, used in _MASKS.items():
        if not used.search(text):
            masked = _ESCAPE.sub(lambda escape, letter=letter: _put_on(escape, letter), text)  # type: ignore[misc]  # bound now
            return (masked, letter) if masked != text else None
    return None


def unmask(text: bytes, letter: bytes) -> bytes:
    """What `mask` was given, for any part of it."""
    return _MASKS[letter].sub(lambda found: b"\\ud%x%b" % (int(found[1]) + 8, found[2]), text)


def _put_on(escape: re.Match[bytes], letter: bytes) -> bytes:
    if escape[1] is None:
        return escape[0]
    return b"\\u%b%d%b" % (letter, int(escape[1], 16) - 8, escape[2])
