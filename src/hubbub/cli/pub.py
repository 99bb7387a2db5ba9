"""`hubbub pub`: publish into a channel of a running server.

Answers for: what the words on the command line or on stdin become (JSON as it stands, else text), and for saying what
became of each publication. Refuses to know: how the server is reached.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from hubbub.cli.arguments import Failure, shown
from hubbub.cli.remote import add_arguments, server_of

EXAMPLE = """\
  hubbub pub room:42 '{"text": "hi"}'
  tail -f app.log | hubbub pub logs - --lines"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    parser.add_argument("channel", metavar="CHANNEL", help="such as room:42")
    parser.add_argument("data", metavar="DATA", help="JSON, else it is text; - reads stdin")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--text", action="store_true", help="DATA is text, also where it could be JSON")
    kind.add_argument("--raw", action="store_true", help="DATA as it is, for channels of text or binary data")
    parser.add_argument("--lines", action="store_true", help="each line of stdin is a publication (with -)")
    parser.add_argument("--ephemeral", action="store_true", help="to whoever listens now, kept nowhere")
    parser.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE", type=_tag, help="may be repeated")
    parser.add_argument("--idempotency-key", metavar="KEY", help="publish once, however often this is run (5 minutes)")
    parser.add_argument("--json", action="store_true", help="print what the server answered, an object a publication")
    add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Publish, one after the other."""
    if options.lines and options.data != "-":
        raise Failure("--lines reads stdin: give - for DATA")
    if options.lines and options.idempotency_key:
        raise Failure("--idempotency-key is for one publication, and --lines makes many")
    server = server_of(options)
    told = _Progress(options)
    for place, payload in _payloads(options):
        try:
            result = server.call("publish", _body(options, payload), about=f"{shown(options.channel)}: ")
        except Failure as error:
            told.done()
            raise Failure(f"{place}{error}") from None
        told.one(result)
    told.done()
    return 0


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE")
    return name, value


def _payloads(options: argparse.Namespace) -> Iterator[tuple[str, bytes]]:
    """What to publish, with where it stood if that helps: "line 3: "."""
    if options.data != "-":
        yield "", options.data.encode(errors="surrogateescape")  # as it was typed
    elif not options.lines:
        payload = sys.stdin.buffer.read()
        yield "", payload if options.raw else payload.rstrip(b"\r\n")
    else:
        for number, line in enumerate(sys.stdin.buffer, 1):
            if line.strip():
                yield f"line {number}: ", line.rstrip(b"\r\n")


def _body(options: argparse.Namespace, payload: bytes) -> bytes:
    request: dict[str, Any] = {"channel": options.channel}
    if options.tag:
        request["tags"] = dict(options.tag)
    if options.ephemeral:
        request["skip_history"] = True
    if options.idempotency_key:
        request["idempotency_key"] = options.idempotency_key
    if options.raw:
        request["b64data"] = base64.b64encode(payload).decode()
        return _encoded(request)
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise Failure(f"byte {error.start + 1} of the data is not UTF-8: send bytes by --raw") from None
    # JSON goes out as it came in: reading it into Python and writing it again would change numbers.
    return (
        _encoded(request)[:-1] + b',"data":' + (text if _is_json(options, text) else json.dumps(text)).encode() + b"}"
    )


def _encoded(request: dict[str, Any]) -> bytes:
    try:
        return json.dumps(request, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Failure("CHANNEL and options have to be UTF-8") from None


def _is_json(options: argparse.Namespace, text: str) -> bool:
    if options.text:
        return False
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is Python's, not JSON")


class _Progress:
    """Tells of each publication, or of how many there were."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._count = 0
        self._next = time.monotonic() + 1

    def one(self, result: dict[str, Any]) -> None:
        """One more was published."""
        self._count += 1
        if self._options.json:
            print(json.dumps(result, ensure_ascii=False, separators=(",", ":")), flush=True)
        elif not self._options.lines:
            print(_sentence(self._options.channel, result))
        if self._options.lines and time.monotonic() >= self._next:
            self._next = time.monotonic() + 1
            self._say()

    def done(self) -> None:
        """No more will be."""
        if self._options.lines:
            self._say()

    def _say(self) -> None:
        print(f"published {self._count:,}", file=sys.stderr, flush=True)


def _sentence(channel: str, result: dict[str, Any]) -> str:
    where = f"{channel}, offset {result['offset']}" if result.get("offset") else f"{channel}, kept nowhere"
    return f"published to {where}" + (" before: nothing new was sent" if result.get("duplicate") else "")
