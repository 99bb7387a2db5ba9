"""A running server, asked over its HTTP API by a process that may wait.

Answers for: where the server is and with which key (options, else the settings that hold here), TCP, TLS and Unix
sockets, and one line that names the fix for each way in which it does not answer. Refuses to know: what is asked.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import SplitResult, urlsplit

from hubbub.cli.arguments import Failure, add_config, settings_of, shown
from hubbub.errors import ConfigurationError

if TYPE_CHECKING:
    from hubbub.settings import Settings

#: Seconds to wait for an answer.
PATIENCE = 10.0

#: Seconds after which a connection that was not used is not used again: servers close such ones, ours after 5.
_FRESH = 1.0

#: Codes of errors that pass: internal, not available, too many requests.
_TEMPORARY = (100, 108, 111)

#: The media type of lines without end.
LINES = "application/x-ndjson"

#: Bytes of an answer that is no answer of ours.
_MOST = 1 << 24


class Unreachable(Failure):
    """Nobody answers there, or not any more. Later somebody may."""


class Refused(Failure):
    """The server answered, and no."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--url`, `--key` and `--config`."""
    parser.add_argument("--url", help="the server: http://…, https://… or unix:/path (as the settings here say)")
    parser.add_argument(
        "--key", help="its API key (api.key of the settings here; a variable shows in no list: HUBBUB_API_KEY)"
    )
    add_config(parser)


def server_of(options: argparse.Namespace) -> Remote:
    """The server that the options and the settings here mean."""
    settings = None if options.url and options.key else settings_of(options)
    if options.key or settings is None:
        return Remote(options.url or _url(settings), options.key)
    key_from = settings.sources.get("api.key", "")
    return Remote(options.url or _url(settings), settings.api.key, key_from=key_from)


def _url(settings: Settings | None) -> str:
    """Where a server with these settings can be reached from here."""
    assert settings is not None, "there is a --url otherwise"
    server = settings.server
    if server.unix:
        return f"unix:{server.unix}"
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if server.tls_key else 'http'}://{host}:{server.port}"


class Remote:
    """A server. `key_from` says where the key came from, for whoever has to change it."""

    def __init__(self, url: str, key: str, *, key_from: str = "--key") -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._key_from = key_from
        self._parts = _parts(self.url)
        self._path = "" if self._parts.scheme == "unix" else self._parts.path
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0
        if not (key.isascii() and key.isprintable()):
            raise ConfigurationError(f"api.key ({key_from}): an API key is printable ASCII")

    def call(self, operation: str, body: bytes, *, about: str) -> dict[str, Any]:
        """The result of `POST /api/OPERATION`. Raises Unreachable or Refused, with a text that begins with `about`."""
        if self._connection is None or time.monotonic() - self._used > _FRESH:
            self.close()
            self._connection = self._new()
        with self._troubles():
            self._connection.request("POST", f"{self._path}/api/{operation}", body, self._headers)
            response = self._connection.getresponse()
            answer = response.read(_MOST)
        self._used = time.monotonic()
        return self._result(response.status, answer, operation, about)

    @contextmanager
    def tail(self, asked: dict[str, Any], silence: float) -> Iterator[Iterator[bytes]]:
        """The lines of `POST /api/tail`, as they come. Raises Unreachable, also after `silence` seconds of nothing."""
        connection = self._new()
        try:
            with self._troubles():
                connection.request("POST", f"{self._path}/api/tail", json.dumps(asked).encode(), self._headers)
                waiting = connection.sock  # which the connection gives away with the response
                response = connection.getresponse()
                answer = b"" if response.headers.get_content_type() == LINES else response.read(_MOST)
            if answer or response.status != 200:
                self._result(response.status, answer, "tail", "")
                self._not_ours("there is no /api/tail")
            waiting.settimeout(silence)
            yield self._lines(response)
        finally:
            connection.close()

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        with self._troubles():
            yield from response  # ends with the server's side of the connection

    def _new(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "localhost", self._parts.port
        if self._parts.scheme == "unix":
            return _UnixConnection(self._parts.path)
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=PATIENCE)
        return http.client.HTTPConnection(host, port, timeout=PATIENCE)

    @property
    def _headers(self) -> dict[str, str]:
        return {"X-API-Key": self._key, "Content-Type": "application/json"}

    def _result(self, status: int, answer: bytes, operation: str, about: str) -> dict[str, Any]:
        """What is in an answer. Raises Refused, or Unreachable where asking again may help."""
        self._judge(status, answer, operation)
        try:
            found = json.loads(answer)
            error, result = found.get("error"), found.get("result", {})
            if error:
                code, text = int(error.get("code", 0)), str(error.get("message", ""))
                raise (Unreachable if code in _TEMPORARY else Refused)(f"{about}{text} ({code})")
            return dict(result)
        except (ValueError, AttributeError, TypeError):
            self._not_ours(f"POST /api/{operation} is not answered in JSON")

    def _judge(self, status: int, body: bytes, operation: str) -> None:
        """Go on only if the request was accepted."""
        text = body[:300].decode(errors="replace").strip()
        if status == 401 and "closed" in text:
            raise Refused(f"the HTTP API of {self.url} is closed: start that server with api.key set")
        if status == 401:
            raise Refused(f"{self.url} refuses {self._whose_key()}")
        if status in (404, 405):
            self._not_ours(f"there is no /api/{operation}")
        if status in (502, 503, 504):
            raise Unreachable(f"{self.url} is not there at the moment: HTTP {status}")
        if status != 200:
            raise Refused(f"{self.url} answers {status}: {text}")

    def _whose_key(self) -> str:
        if not self._key:
            return "a request without an API key: give it by --key, HUBBUB_API_KEY or api.key in hubbub.toml"
        return f"the API key of {self._key_from}: it is not that server's api.key"

    def _not_ours(self, found: str) -> NoReturn:
        raise Failure(f"{self.url} answers, and is no hubbub: {found}; name the server by --url")

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        """What goes wrong on the way, as one line each."""
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            why = f"{error.verify_message}; name it as its certificate does, or point SSL_CERT_FILE at who signed that"
            raise Failure(f"{self.url}: its certificate is not believed: {why}") from None
        except ssl.SSLError as error:
            self.close()
            raise Unreachable(f"{self.url} speaks no TLS ({error.reason}): perhaps http://…") from None
        except (ConnectionRefusedError, FileNotFoundError):
            text = f"no hubbub answers at {self.url}: start one with `hubbub serve`, or name it by --url"
            raise Unreachable(text) from None
        except socket.gaierror as error:
            raise Unreachable(f"{self.url}: {error.strerror}: name the server by --url") from None
        except TimeoutError:
            raise Unreachable(f"{self.url} does not answer") from None
        except (http.client.HTTPException, OSError) as error:
            self.close()
            raise Unreachable(
                f"{self.url} broke the connection: {str(error) or type(error).__name__}{self._hint()}"
            ) from None

    def _hint(self) -> str:
        return "; perhaps https://…" if self._parts.scheme == "http" and not self._used else ""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._at = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._at)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme == "unix" or bool(parts.hostname)
        if parts.scheme in ("http", "https", "unix") and known and (parts.port or 1) > 0:
            return parts
    except ValueError:
        pass
    raise ConfigurationError(f"--url {shown(url)}: expected such as http://127.0.0.1:8000, https://… or unix:/path")
