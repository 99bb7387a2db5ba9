"""The floor: what the kernel alone costs when the same bytes are sent to as many sockets.

Answers for: one plain blocking loop, in a process of its own, that no server can beat: for each order, one non-blocking
`send` of a prepared buffer on every connection. No event loop, no protocol, no WebSocket. Refuses to know: what is
measured; whoever started it looks at its CPU time from outside.

It prints its port. Numbers of four bytes come on the first connection: how many others to accept (answered with a dot
when they are there), and from then on the size of each round. The end of that connection ends the process.
"""

from __future__ import annotations

import socket


def main() -> None:
    """Accept, then send in rounds."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(f"floor listens on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    control, _ = listener.accept()
    peers = [_accept(listener) for _ in range(int.from_bytes(control.recv(4), "big"))]
    sends = [peer.send for peer in peers]
    control.send(b".")
    buffer = b""
    while order := control.recv(4):
        size = int.from_bytes(order, "big")
        if size != len(buffer):
            buffer = b"x" * size
        for send in sends:
            send(buffer)


def _accept(listener: socket.socket) -> socket.socket:
    peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setblocking(False)
    return peer


if __name__ == "__main__":
    main()
