"""The peer: what the WebSocket library alone costs when the same bytes come in and go out.

Answers for: a server of picows and uvloop that takes the place of ours in rows `one-to-one` and `echo`. It looks for
the channel where the load is known to write it, sends the publication to who subscribed last and the reply to who
wrote. No JSON, no rules, no rights, no batches, no history, no bound on anything: what any server on this library pays
before it has done something. Refuses to know: what is measured; whoever started it looks at its CPU time from outside.
"""

from __future__ import annotations

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

PUBLISH, SUBSCRIBE = b'{"id":7,"publish":{"channel":"', b'"subscribe":{"channel":"'

#: As long as what our server says of a publisher.
INFO = b',"info":{"user":"","client":"00000000-0000-4000-8000-000000000000"}}}}'

subscribers: dict[bytes, WSTransport] = {}


class Peer(WSListener):
    """One connection."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A publication; or the greeting, with a subscription perhaps."""
        if frame.msg_type != WSMsgType.TEXT:
            return
        message = frame.get_payload_as_bytes()
        if message.startswith(PUBLISH):
            end = message.index(b'"', len(PUBLISH))
            channel, data = message[len(PUBLISH) : end], message[end + len(b'","data":') - 1 : -2]
            transport.send(WSMsgType.TEXT, b'{"id":7,"publish":{}}')
            push = b'{"push":{"channel":"' + channel + b'","pub":{"data":' + data + INFO
            subscribers[channel].send(WSMsgType.TEXT, push)
            return
        transport.send(WSMsgType.TEXT, b'{"id":1,"connect":{}}')
        _, asked, rest = message.partition(SUBSCRIBE)
        if asked:
            subscribers[rest.partition(b'"')[0]] = transport
            transport.send(WSMsgType.TEXT, b'{"id":2,"subscribe":{}}')


def accept(request: WSUpgradeRequest) -> Peer:
    """Whoever comes."""
    return Peer()


async def main() -> None:
    """Serve until killed."""
    server = await ws_create_server(accept, "127.0.0.1", 0)
    print(f"bare listens on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
