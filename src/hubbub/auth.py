"""Tokens in, credentials and grants out.

Answers for: whether a JSON Web Token is to be believed, and what it says: who connects (a connection token),
or who may subscribe to what (a subscription token). Mints both, for tests, the demo and the command line. The
only module that knows `jwt`. Refuses to know: the time, which is an argument; connections; what follows.

- The signature comes first: no claim is read before it is right.
- Whatever a token holds, verifying it raises TokenInvalid or TokenExpired and nothing else.
- What leaves here as `info` or `data` went through the gate (`payload`): it is embedded in frames unparsed.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm

from hubbub import payload
from hubbub.errors import BadRequest, ConfigurationError, TokenExpired, TokenInvalid
from hubbub.model import Credentials, Grant, PersonalSubscription

log = logging.getLogger(__name__)

#: Characters. Checking that a token is base64 at all costs 60 us a KiB, whoever sent it.
MAX_TOKEN_LENGTH = 65536

#: Bytes. An HMAC key shorter than its hash is what can be guessed first (RFC 7518, 3.2).
LONG_ENOUGH = 32

#: Unix time of the year 10000. Beyond it are milliseconds by mistake, and a token that would never expire.
_END_OF_TIME = 253_402_300_800

_HMAC = {"HS256": HMACAlgorithm.SHA256, "HS384": HMACAlgorithm.SHA384, "HS512": HMACAlgorithm.SHA512}


class TokenVerifier:
    """Says whether tokens are to be believed. Without a secret it believes none.

    Asymmetric keys (RS, ES, EdDSA) will be a second pair of algorithms and key beside the HMAC one, chosen
    by configuration and never by the token, or a public key would be a forger's HMAC secret (RFC 8725, 2.1).
    """

    def __init__(self, hmac_secret: str) -> None:
        self._key = _hmac_key(hmac_secret) if hmac_secret else None
        self._jws = _hmac_signatures()
        if self._key and len(self._key) < LONG_ENOUGH:
            log.warning(
                "auth.hmac_secret is %d bytes long and can be guessed; use %d random ones or more",
                len(self._key),
                LONG_ENOUGH,
            )

    def connection(self, token: str, time: float) -> Credentials:
        """Who the bearer of a connection token is. Raises TokenInvalid or TokenExpired.

        The result's `expire_at` may be past: the claim of that name is about the connection, not the token.
        """
        claims = self._claims(token, _ConnectionClaims)
        if claims.channel:
            # A subscription token travels through more hands; it must not open a connection.
            raise TokenInvalid("claim channel: this is a subscription token, not one to connect with")
        credentials = Credentials(
            user=_text("sub", claims.sub),
            expire_at=_expiry(claims),
            info=_gated("info", claims.info, claims.b64info),
            subs=_subscriptions(claims),
        )
        _check_time(claims, time)
        return credentials

    def subscription(self, token: str, time: float) -> Grant:
        """What a subscription token grants. Raises TokenInvalid or TokenExpired.

        Whether its user and channel are those of the request is for the caller to compare.
        """
        claims = self._claims(token, _SubscriptionClaims)
        if not claims.channel:
            raise TokenInvalid("claim channel: missing, and a subscription token is for one channel")
        grant = Grant(
            channel=_text("channel", claims.channel),
            user=_text("sub", claims.sub),
            expire_at=_expiry(claims),
            info=_gated("info", claims.info, claims.b64info),
            client=_text("client", claims.client),
        )
        _check_time(claims, time)
        return grant

    def _claims(self, token: str, shape: type[_C]) -> _C:
        if self._key is None:
            raise TokenInvalid("no key to verify tokens with: auth.hmac_secret is empty")
        if len(token) > MAX_TOKEN_LENGTH:
            raise TokenInvalid(f"token of {len(token)} characters is over the limit of {MAX_TOKEN_LENGTH}")
        try:
            # PyJWS and not PyJWT: the latter reads the clock, and converts claims that we want to refuse.
            signed: bytes = self._jws.decode(token, self._key, algorithms=list(_HMAC))
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise TokenInvalid(f"token: {str(error)[:200]}") from None  # some texts quote the header
        return _read(signed, shape)


# Claims -----------------------------------------------------------------------------------------------------
# A claim that is null is a claim left out: that is what back ends send for fields they did not fill.


class _Claims(msgspec.Struct):
    sub: str | None = None
    exp: int | float | None = None
    nbf: int | float | None = None
    iat: int | float | None = None  # checked for its type only: clocks of issuers run fast
    expire_at: int | float | None = None
    info: Any = None
    b64info: str | None = None
    channel: str | None = None


class _PersonalClaims(msgspec.Struct):
    info: Any = None
    b64info: str | None = None
    data: Any = None
    b64data: str | None = None


class _ConnectionClaims(_Claims):
    channels: list[str] | None = None
    subs: dict[str, _PersonalClaims | None] | None = None


class _SubscriptionClaims(_Claims):
    client: str | None = None


_C = TypeVar("_C", bound=_Claims)


def _read(signed: bytes, shape: type[_C]) -> _C:
    try:
        # Not msgspec's parser: it refuses the lone surrogates that back ends in JavaScript do sign.
        claims = json.loads(signed.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise TokenInvalid(f"claims are not JSON: {error}") from None
    try:
        return msgspec.convert(claims, shape)
    except (msgspec.ValidationError, RecursionError) as error:
        what, _, claim = str(error).partition(" - at `$.")
        raise TokenInvalid(f"claim {claim.rstrip('`')}: {what}" if claim else f"claims: {what}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _text(claim: str, value: str | None) -> str:
    """A string that can be written in UTF-8, as users and channels are in every frame."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise TokenInvalid(f"claim {claim}: holds half of a surrogate pair") from None
    return value or ""


def _expiry(claims: _Claims) -> float:
    """When that to which the token entitles ends: `expire_at` if it is there, 0 for never; else `exp`."""
    for claim, value in (("exp", claims.exp), ("nbf", claims.nbf), ("expire_at", claims.expire_at)):
        if value is not None and not -_END_OF_TIME < value < _END_OF_TIME:  # so that infinity fails too
            raise TokenInvalid(f"claim {claim}: is no Unix time in seconds (milliseconds?)")
    if claims.expire_at is None:
        return claims.exp or 0
    if claims.expire_at < 0:
        raise TokenInvalid("claim expire_at: is negative; 0 means never")
    return claims.expire_at


def _check_time(claims: _Claims, time: float) -> None:
    """Comes last: a token that never was right is called wrong, not expired, which would invite a retry."""
    if claims.exp is not None and claims.exp <= time:
        raise TokenExpired
    if claims.nbf is not None and claims.nbf > time:
        raise TokenExpired("token not valid yet")


def _subscriptions(claims: _ConnectionClaims) -> dict[str, PersonalSubscription]:
    subs = {_text("channels", channel): PersonalSubscription() for channel in claims.channels or ()}
    for channel, options in (claims.subs or {}).items():
        options = options or _PersonalClaims()
        subs[_text("subs", channel)] = PersonalSubscription(
            info=_gated("info", options.info, options.b64info, within="subs[...]."),
            data=_gated("data", options.data, options.b64data, within="subs[...]."),
        )
    return subs


def _gated(claim: str, value: Any, encoded: str | None, within: str = "") -> bytes:
    """The claim as compact JSON, empty if it is not there. The base64 form wins, as upstream.

    What base64 hides must be JSON as well: it will stand unparsed in the frames of JSON clients.
    """
    try:
        if encoded:
            return payload.json_value(base64.b64decode(encoded, validate=True))
        return b"" if value is None else payload.json_value(_compact(value))
    except (BadRequest, ValueError, RecursionError) as error:
        raise TokenInvalid(f"claim {within}{'b64' if encoded else ''}{claim}: {error}") from None


def _compact(value: Any) -> bytes:
    try:
        return payload.encode(value)
    except BadRequest:
        # A lone surrogate, which only survives as an escape.
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


# Minting ----------------------------------------------------------------------------------------------------


def connection_token(
    secret: str,
    user: str,
    *,
    expire_at: float | None = None,
    info: object = None,
    channels: Sequence[str] = (),
    algorithm: str = "HS256",
) -> str:
    """A token for `user` to connect with; "" is anonymous. `expire_at` is Unix time, None for never."""
    claims = {"sub": user, "exp": _whole(expire_at), "info": info, "channels": list(channels) or None}
    return mint(secret, claims, algorithm=algorithm)


def subscription_token(
    secret: str,
    channel: str,
    user: str = "",
    *,
    expire_at: float | None = None,
    info: object = None,
    algorithm: str = "HS256",
) -> str:
    """A token for `user` to subscribe to `channel`. `expire_at` is Unix time, None for never."""
    claims = {"sub": user, "channel": channel, "exp": _whole(expire_at), "info": info}
    return mint(secret, claims, algorithm=algorithm)


def mint(secret: str, claims: Mapping[str, object], *, algorithm: str = "HS256") -> str:
    """A signed token of any claims; those that are None are left out.

    Raises ConfigurationError for a bad secret or algorithm, BadRequest for claims that JSON cannot hold.
    """
    if algorithm not in _HMAC:
        raise ConfigurationError(f"algorithm = {algorithm!r}: expected one of {', '.join(_HMAC)}")
    body = payload.encode({name: value for name, value in claims.items() if value is not None})
    return _hmac_signatures().encode(body, _hmac_key(secret), algorithm)


def _whole(time: float | None) -> float | None:
    """Whole seconds as an integer, which more libraries read than a fraction."""
    return int(time) if time is not None and time == int(time) else time


# Keys -------------------------------------------------------------------------------------------------------


class _HmacAlgorithm(HMACAlgorithm):
    """HMAC whose key was judged once, by `_hmac_key`, and not again with every token.

    Nor does PyJWT warn of a short one, which TokenVerifier does, once and with the name of the setting.
    """

    def prepare_key(self, key: str | bytes) -> bytes:
        return key if isinstance(key, bytes) else super().prepare_key(key)

    def check_key_length(self, key: bytes) -> str | None:
        return None


def _hmac_signatures() -> jwt.PyJWS:
    """Knows the HMAC algorithms and no other: not even `none` by name."""
    signatures = jwt.PyJWS(algorithms=[])
    for name, hash_algorithm in _HMAC.items():
        signatures.register_algorithm(name, _HmacAlgorithm(hash_algorithm))
    return signatures


def _hmac_key(secret: str) -> bytes:
    """The secret as bytes, refused if it is empty, or a public key or JWK in the wrong place."""
    try:
        return HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.PyJWTError as error:  # its texts do not repeat the secret
        raise ConfigurationError(f"auth.hmac_secret: {error}") from None
    except ValueError:
        raise ConfigurationError("auth.hmac_secret: cannot be written in UTF-8") from None
