"""A script that only publishes: through the HTTP API of a running server, with nothing but Python.

    HUBBUB_API_KEY=secret hubbub serve --dev
    HUBBUB_API_KEY=secret python examples/publish_only.py news '{"title": "It rains"}'

`hubbub pub` does the same on the command line, and `cent` is a library for it.
"""

import json
import os
import sys
import urllib.request

URL = os.environ.get("HUBBUB_URL", "http://localhost:8000")
KEY = os.environ.get("HUBBUB_API_KEY", "")


def publish(channel: str, data: object) -> str:
    """Returns what the server says to it: {"result": …}, or {"error": …}, which is HTTP 200 as well."""
    body = json.dumps({"channel": channel, "data": data}).encode()
    request = urllib.request.Request(f"{URL}/api/publish", body, {"X-API-Key": KEY})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read(), "utf-8")


if __name__ == "__main__":
    print(publish(sys.argv[1], json.loads(sys.argv[2])))
