"""Keys that tokens are verified with, and the signatures that they make.

Answers for: what a secret, a public key in PEM or a JSON Web Key is good for, and whether a token is signed by one of
ours. The only module that knows `jwt` and `cryptography`, which take their time: import it where there is a key.
Refuses to know: claims, and where key sets come from (`jwks`).

- A key's type says which algorithms it is for, and a token's `alg` is only compared with them. A token that could
  choose would take the public key, which everybody knows, for an HMAC secret (RFC 8725, 2.1).
- Only what is listed here exists: not `none`, not even by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jwt
import msgspec
from jwt import algorithms as known

from hubbub.errors import ConfigurationError, TokenInvalid

#: Bytes. An HMAC key shorter than its hash is what can be guessed first (RFC 7518, 3.2).
LONG_ENOUGH = 32

#: Bits. Shorter ones must not be used (RFC 7518, 3.3).
RSA_BITS = 2048

#: Of one key set, each of which a token without `kid` may have to be tried with.
MAX_SET = 64

HMAC = ("HS256", "HS384", "HS512")
RSA = ("RS256", "RS384", "RS512")
CURVES = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}
EDWARDS = ("EdDSA",)

_JWK_KINDS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}

_HASHES = dict(
    zip(HMAC, (known.HMACAlgorithm.SHA256, known.HMACAlgorithm.SHA384, known.HMACAlgorithm.SHA512), strict=True)
)
_NAMES = {*HMAC, *RSA, "ES256", "ES384", "ES512", *EDWARDS}
_ALGORITHMS = {name: each for name, each in known.get_default_algorithms().items() if name in _NAMES}


class Key(msgspec.Struct, frozen=True):
    """One key, and what it may verify. `setting` is where it comes from; `id` is a JWK's `kid`, "" for none."""

    material: Any
    algorithms: tuple[str, ...]
    setting: str
    id: str = ""

    def __repr__(self) -> str:
        return f"Key({self.setting}, {', '.join(self.algorithms)})"  # never the secret

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich draws in tracebacks; msgspec's own would tell the secret."""
        return [("", repr(self))]


class KeySource(Protocol):
    """Keys that change while the server runs."""

    def find(self, kid: str) -> Sequence[Key]:
        """Those that a token with this `kid` ("": without one) may be signed with. Raises InternalError (temporary)
        while they are being fetched, TokenInvalid where there are none.
        """
        ...


class KeyRing:
    """All keys of one verifier: those of the configuration, and those of a key set elsewhere."""

    def __init__(self, keys: Iterable[Key], source: KeySource | None = None) -> None:
        self._keys = tuple(keys)
        self._source = source
        self._tokens = jwt.PyJWS()

    def open(self, token: str) -> bytes:
        """What a token says, if it is signed with one of these keys. Raises TokenInvalid, and what `find` raises."""
        try:
            parts = self._tokens.decode_complete(token, options={"verify_signature": False})  # the next lines do it
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise TokenInvalid(f"token: {str(error)[:200]}") from None  # some texts quote the header
        algorithm = parts["header"].get("alg")
        if not isinstance(algorithm, str):
            raise TokenInvalid("token: its header names no alg")
        kid: str = parts["header"].get("kid", "")
        signed, signature = token.rpartition(".")[0].encode(), parts["signature"]
        tried = [key for key in self._keys if algorithm in key.algorithms]
        if not _is_signed(tried, algorithm, signed, signature):
            found = self._fetched(algorithm, kid)
            if not _is_signed(found, algorithm, signed, signature):
                raise TokenInvalid(self._refusal(algorithm, [*tried, *found]))
        payload: bytes = parts["payload"]
        return payload

    def _fetched(self, algorithm: str, kid: str) -> list[Key]:
        if self._source is None or algorithm not in _NAMES or algorithm in HMAC:
            return []
        return [key for key in self._source.find(kid) if algorithm in key.algorithms]

    def _refusal(self, algorithm: str, tried: Sequence[Key]) -> str:
        settings = " nor ".join(dict.fromkeys(key.setting for key in tried))
        if settings:
            return f"token: the signature does not match {settings}: it was signed with another key, or changed"
        ours = {key.setting: key.algorithms for key in self._keys}
        expected = [f"{setting} is for {', '.join(names)}" for setting, names in ours.items()]
        if self._source is not None:
            expected.append("auth.jwks_url has no key for it")
        return f"token: alg is {algorithm[:40]!r}, and {', '.join(expected)}"


def _is_signed(keys: Iterable[Key], algorithm: str, signed: bytes, signature: bytes) -> bool:
    return any(_ALGORITHMS[algorithm].verify(signed, key.material, signature) for key in keys)


# Making keys ------------------------------------------------------------------------------------------------


def hmac_key(secret: str) -> Key:
    """The key of auth.hmac_secret. Raises ConfigurationError: empty, or a public key or JWK in the wrong place."""
    return Key(_hmac_bytes(secret), HMAC, "auth.hmac_secret")


def _hmac_bytes(secret: str) -> bytes:
    try:
        return known.HMACAlgorithm(known.HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.PyJWTError as error:  # its texts do not repeat the secret
        raise ConfigurationError(f"auth.hmac_secret: {error}") from None
    except ValueError:
        raise ConfigurationError("auth.hmac_secret: cannot be written in UTF-8") from None


def public_key(text: str) -> Key:
    """The key of auth.public_key: a public key or certificate in PEM, or the path of a file with one.

    Raises ConfigurationError.
    """
    require_cryptography("auth.public_key")
    pem = _pem(text)
    if b"PRIVATE KEY-----" in pem:
        raise ConfigurationError(
            "auth.public_key: is a private key, which is for the issuer of tokens alone;"
            " `openssl pkey -in private.pem -pubout` writes its public key"
        )
    if pem.count(b"-----BEGIN ") != 1:
        raise ConfigurationError("auth.public_key: expected one key in one text or file; several of them in a list")
    material = _loaded(pem)
    algorithms = _algorithms(material)
    if not algorithms:
        raise ConfigurationError(
            f"auth.public_key: expected RSA of {RSA_BITS} bits or more, P-256, P-384, P-521 or Ed25519, found"
            f" {_described(material)}"
        )
    return Key(material, algorithms, "auth.public_key")


def require_cryptography(setting: str) -> None:
    """Raises ConfigurationError where the package for public keys is not installed."""
    if not known.has_crypto:
        raise ConfigurationError(f'{setting}: needs the package cryptography: pip install "hubbub[keys]"')


def _pem(text: str) -> bytes:
    if "-----BEGIN" in text:
        return text.replace("\\n", "\n").encode(errors="replace")  # as .env files write ends of lines
    try:
        pem = Path(text).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"auth.public_key: {text[:80]!r} cannot be read: {reason};"
            " expected the path of a PEM file, or its text, with -----BEGIN PUBLIC KEY-----"
        ) from None
    if b"-----BEGIN" not in pem:
        raise ConfigurationError(f"auth.public_key: {text!r} is no PEM file: it has no -----BEGIN PUBLIC KEY-----")
    return pem


def _loaded(pem: bytes) -> Any:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        if b"-----BEGIN CERTIFICATE-----" in pem:
            return x509.load_pem_x509_certificate(pem).public_key()
        return load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError("auth.public_key: holds no public key that can be read; is it cut off?") from None


def _algorithms(material: Any) -> tuple[str, ...]:
    """What a public key may verify; nothing for kinds that we do not take."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if isinstance(material, RSAPublicKey):
        return RSA if material.key_size >= RSA_BITS else ()
    if isinstance(material, EllipticCurvePublicKey):
        return CURVES.get(material.curve.name, ())
    return EDWARDS if isinstance(material, Ed25519PublicKey) else ()


def _described(material: Any) -> str:
    kind = type(material).__name__.removesuffix("PublicKey")
    size = getattr(material, "key_size", 0)
    return f"{kind} of {size} bits" if size else kind


# Key sets ---------------------------------------------------------------------------------------------------


def key_set(document: bytes) -> tuple[Key, ...]:
    """The keys of a JSON Web Key Set (RFC 7517) that are for signatures and that we take; others are left out.

    Raises ValueError with a text for the log where it is none, or where no key is left.
    """
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        raise ValueError("what it answers is not JSON") from None
    items = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(items, list):
        raise ValueError('what it answers is no key set: expected {"keys": [...]}')
    if len(items) > MAX_SET:
        raise ValueError(f"its set of {len(items)} keys is over the limit of {MAX_SET}")
    keys = tuple(key for key in map(_jwk, items) if key is not None)
    if not keys:
        raise ValueError(f"none of its {len(items)} keys is of RSA, P-256, P-384, P-521 or Ed25519, and for signatures")
    return keys


def _jwk(item: Any) -> Key | None:
    """One key of a set; None if it is not for us: a published secret or private key is everybody's."""
    if not isinstance(item, dict) or "d" in item or item.get("use", "sig") != "sig":
        return None
    kind, operations, kid = item.get("kty"), item.get("key_ops", ["verify"]), item.get("kid", "")
    if not isinstance(kind, str) or not isinstance(operations, list) or not isinstance(kid, str):
        return None
    if kind not in _JWK_KINDS or "verify" not in operations:
        return None
    try:
        material = _ALGORITHMS[_JWK_KINDS[kind]].from_jwk(item)
        algorithms = _algorithms(material)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    if "alg" in item:
        algorithms = tuple(name for name in algorithms if name == item["alg"])
    return Key(material, algorithms, "auth.jwks_url", kid) if algorithms else None


# Signing ----------------------------------------------------------------------------------------------------


def sign(body: bytes, secret: str, algorithm: str) -> str:
    """A token of `body`, signed with an HMAC secret. Raises ConfigurationError for a bad secret or algorithm."""
    if algorithm not in HMAC:
        raise ConfigurationError(f"algorithm = {algorithm!r}: expected one of {', '.join(HMAC)}")
    signatures = jwt.PyJWS(algorithms=[])
    signatures.register_algorithm(algorithm, _QuietHmac(_HASHES[algorithm]))
    return signatures.encode(body, _hmac_bytes(secret), algorithm)


class _QuietHmac(known.HMACAlgorithm):
    """Without a warning of a short secret: TokenVerifier gives it, once and with the name of the setting."""

    def check_key_length(self, key: bytes) -> str | None:
        return None
