"""A web application that blocks, as Flask's and Django's do, publishes through Redis; and a handler hears all of it.

Run it with `HUBBUB_BROKER_URL=redis://localhost python examples/wsgi_app.py`, then

    curl -d 'hello' http://localhost:8001/say/lobby
    curl http://localhost:8001/said/lobby

Start it twice, or `hubbub serve` beside it with the same channels: each hears what the others publish.
"""

import argparse
from collections.abc import Iterable
from wsgiref.simple_server import WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from hubbub import BackendError, Publication
from hubbub.sync import Hubbub

hub = Hubbub(channels={"room": {"delivery": "recent", "subscribe": "anyone"}}, pool_max=4, deadline=2)


@hub.on("room:*")
def show(publication: Publication[str]) -> None:
    """In a thread of its own, whoever published: it may take its time."""
    print(f"{publication.channel}: {publication.data}", flush=True)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """POST /say/ROOM publishes, GET /said/ROOM tells what was published last."""
    _, verb, room = environ["PATH_INFO"].split("/", 2)
    try:
        if verb == "say":
            text = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0)).decode()
            done = hub.publish(f"room:{room}", text)
            answer = f"number {done.position.offset}\n" if done.position else ""
        else:
            kept = hub.history(f"room:{room}", type=str)
            answer = "".join(f"{publication.data}\n" for publication in kept.publications)
    except BackendError as error:  # Redis is away; a PublishFailed among them says whether to try again
        start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
        return [f"{error}\n".encode()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]


def main() -> None:
    """Handlers hear between start and stop; publishing needs neither."""
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, default=8001)
    with hub, make_server("127.0.0.1", options.parse_args().port, application) as server:
        serve(server)


def serve(server: WSGIServer) -> None:
    """Until Ctrl-C."""
    print(f"running on http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
