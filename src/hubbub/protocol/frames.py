"""WebSocket frames as a server writes them (RFC 6455, section 5.2): unmasked and unfragmented.

Answers for: bytes of one frame. Made here, not by the WebSocket library, so that a frame is built once for a thousand
subscribers. Refuses to know: connections, and what stands in the payload.
"""

from __future__ import annotations

TEXT, BINARY = 0x81, 0x82  # FIN and the opcode


def text_frame(payload: bytes) -> bytes:
    """`payload` in one text frame."""
    length = len(payload)
    if length < 126:
        return _SHORT_TEXT[length] + payload
    return frame(payload, TEXT)


#: Headers of the frames that most pushes and replies fit in.
_SHORT_TEXT = [bytes((TEXT, length)) for length in range(126)]


def frame(payload: bytes, first_byte: int) -> bytes:
    """`payload` in one frame."""
    length = len(payload)
    if length < 126:
        return bytes((first_byte, length)) + payload
    if length < 65536:
        return bytes((first_byte, 126, length >> 8, length & 0xFF)) + payload
    return bytes((first_byte, 127)) + length.to_bytes(8, "big") + payload
