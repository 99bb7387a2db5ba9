"""WebSocket frames as a server writes them (RFC 6455, section 5.2): unmasked and unfragmented.

Answers for: bytes of one frame. Made here, not by the WebSocket library, so that a frame is built once for a thousand
subscribers. Refuses to know: connections, and what stands in the payload.
"""

from __future__ import annotations

from collections.abc import Callable

TEXT, BINARY = 0x81, 0x82  # FIN and the opcode


#: Payloads of fewer bytes, which most are, find the head of their frame made.
KNOWN_HEADS = 1024


def _framer(first_byte: int) -> Callable[[bytes], bytes]:
    heads = [bytes((first_byte, length)) for length in range(126)]
    heads += [bytes((first_byte, 126, length >> 8, length & 0xFF)) for length in range(126, KNOWN_HEADS)]

    def frame(payload: bytes) -> bytes:
        """`payload` in one frame."""
        length = len(payload)
        if length < KNOWN_HEADS:
            return heads[length] + payload
        if length < 65536:
            return bytes((first_byte, 126, length >> 8, length & 0xFF)) + payload
        return bytes((first_byte, 127)) + length.to_bytes(8, "big") + payload

    return frame


#: A payload in one text frame, and in one binary frame.
text_frame, binary_frame = _framer(TEXT), _framer(BINARY)
