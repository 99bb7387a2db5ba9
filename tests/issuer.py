"""An issuer of tokens, with real keys of every kind, and a server for its key set.

Answers for: keys, what they look like in PEM and as a JWK, tokens signed by another library's face, and an HTTP server
on this machine whose answers a test chooses. Refuses to know: hubbub.
"""

from __future__ import annotations

import base64
import datetime
import json
import threading
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

FAMILIES = {
    "RS256": "rsa",
    "RS384": "rsa",
    "RS512": "rsa",
    "ES256": "p256",
    "ES384": "p384",
    "ES512": "p521",
    "EdDSA": "ed25519",
}


def private(kind: str, number: int = 0) -> Any:
    """A key of a kind; another one for each number. RSA keys take a while, so all tests share them."""
    return made(kind, number)


@cache
def made(kind: str, number: int) -> Any:
    make: dict[str, Callable[[], Any]] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "short": lambda: rsa.generate_private_key(65537, 1024),
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ed448": ed448.Ed448PrivateKey.generate,
        "dsa": lambda: dsa.generate_private_key(2048),
    }
    return make[kind]()


def pem(kind: str, number: int = 0) -> str:
    public = private(kind, number).public_key()
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def private_pem(kind: str) -> str:
    return str(private(kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def certificate(kind: str) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private(kind).public_key())
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = builder.serial_number(1).not_valid_before(day).not_valid_after(day + datetime.timedelta(days=1))
    return builder.sign(private(kind), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def signed(algorithm: str, number: int = 0, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """By another library's face, as issuers do."""
    return jwt.encode({"sub": "42", **claims}, private(FAMILIES[algorithm], number), algorithm, headers)


def jwk(kind: str, number: int = 0, **more: Any) -> dict[str, Any]:
    algorithm = {"rsa": "RS256", "ed25519": "EdDSA", "ed448": "EdDSA", "short": "RS256"}.get(kind, "ES256")
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(private(kind, number).public_key(), as_dict=True)
    return {**made, **more}


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def key_set(*keys: dict[str, Any]) -> bytes:
    """The document that an issuer publishes."""
    return json.dumps({"keys": keys}).encode()


class KeyServer:
    """Answers every GET with `status`, `headers` and `body`, once `gate` is open. `hits` counts what was asked."""

    def __init__(self, body: bytes = b"") -> None:
        self.status, self.body = 200, body
        self.headers: dict[str, str] = {}
        self.hits = 0
        self.seen: dict[str, str] = {}  # the headers of the last request
        self.gate = threading.Event()
        self.gate.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """Where the key set stands."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/jwks.json"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answers.hits += 1
                answers.seen = dict(self.headers)
                answers.gate.wait()
                self.send_response(answers.status)
                for name, value in {"Content-Length": str(len(answers.body)), **answers.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answers.body)

            def log_message(self, *_: object) -> None:
                """Nowhere."""

        return Handler
