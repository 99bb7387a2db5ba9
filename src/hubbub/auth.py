"""Tokens in, credentials and grants out.

Answers for: whether a JSON Web Token is to be believed, and what it says: who connects (a connection token),
or who may subscribe to what (a subscription token). Mints both, for tests, the demo and the command line.
Refuses to know: the time, which is an argument; signatures (`keys`); connections; what follows.

- The signature comes first: no claim is read before it is right.
- Whatever a token holds, verifying it raises TokenInvalid or TokenExpired and nothing else.
- Time is compared without a leeway, as upstream: the log says by how many seconds a token is early or late.
- What leaves here as `info` or `data` went through the gate (`payload`): it is embedded in frames unparsed.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec

from hubbub import payload
from hubbub.errors import BadRequest, TokenExpired, TokenInvalid
from hubbub.model import Credentials, Grant, PersonalSubscription
from hubbub.sparing import SparingLog

if TYPE_CHECKING:
    from hubbub.jwks import RemoteKeys
    from hubbub.keys import KeyRing

log = logging.getLogger(__name__)

#: Characters. Checking that a token is base64 at all costs 60 us a KiB, whoever sent it.
MAX_TOKEN_LENGTH = 65536

#: Users of whom is remembered which expired token they brought.
MAX_LATE = 1000

#: Times that one expired token comes before somebody is told that it is always the same.
AGAIN = 3

#: Seconds until an SDK is back that was told to get a new token.
SOONEST = 0.2

#: Unix time of the year 10000. Beyond it are milliseconds by mistake, and a token that would never expire.
_END_OF_TIME = 253_402_300_800


class TokenVerifier:
    """Says whether tokens are to be believed. Without a key it believes none.

    `hmac_secret` is for HS256, HS384 and HS512; `public_key` (PEM, or the path of a PEM file) for RS256, RS384, RS512,
    ES256, ES384, ES512 or EdDSA (Ed25519), as the key is. Each may be several: all of them verify. The keys of
    `jwks_url` are fetched between `start` and `stop`. With `issuer` or `audience` a token has to name it, or one of
    them. Raises ConfigurationError.
    """

    def __init__(
        self,
        hmac_secret: str | Sequence[str] = "",
        *,
        public_key: str | Sequence[str] = (),
        jwks_url: str = "",
        issuer: str | Sequence[str] = (),
        audience: str | Sequence[str] = (),
    ) -> None:
        self._issuers, self._audiences = _several(issuer), _several(audience)
        self._remote: RemoteKeys | None = None
        self._ring = self._keys(_several(hmac_secret), _several(public_key), jwks_url)
        # Users: when the refused token expired, when it came last, and how often.
        self._late: dict[str, tuple[float, float, int]] = {}
        self._sparing = SparingLog(log)

    def _keys(self, secrets: Sequence[str], public_keys: Sequence[str], jwks_url: str) -> KeyRing | None:
        if not secrets and not public_keys and not jwks_url:
            return None
        # Imported where there are keys: cryptography takes a tenth of a second, which a publisher need not wait for.
        from hubbub import keys

        ours = [*map(keys.hmac_key, secrets), *map(keys.public_key, public_keys)]
        for secret in ours[: len(secrets)]:
            if len(secret.material) < keys.LONG_ENOUGH:
                text = "auth.hmac_secret is %d bytes long and can be guessed; use %d random ones or more"
                log.warning(text, len(secret.material), keys.LONG_ENOUGH)
        if jwks_url:
            from hubbub.jwks import RemoteKeys

            keys.require_cryptography("auth.jwks_url")
            self._remote = RemoteKeys(jwks_url)
        return keys.KeyRing(ours, self._remote)

    @property
    def has_keys(self) -> bool:
        """Whether there is anything to believe a token by."""
        return self._ring is not None

    async def start(self) -> None:
        """Fetch the keys of `jwks_url`, now and from now on. Waits some seconds at most, and never fails."""
        if self._remote is not None:
            await self._remote.start()

    async def stop(self) -> None:
        """End fetching. Idempotent."""
        if self._remote is not None:
            await self._remote.stop()

    def connection(self, token: str, time: float) -> Credentials:
        """Who the bearer of a connection token is. Raises TokenInvalid, TokenExpired, or InternalError (temporary)
        while keys are being fetched.

        The result's `expire_at` may be past: the claim of that name is about the connection, not the token.
        """
        with self._logged("token to connect with", time):
            claims = self._claims(token, _ConnectionClaims)
            if claims.channel:
                # A subscription token travels through more hands; it must not open a connection.
                raise TokenInvalid("claim channel: this is a subscription token, not one to connect with")
            credentials = Credentials(
                user=_text("sub", claims.sub),
                expire_at=_expiry(claims),
                info=_gated("info", claims.info, claims.b64info),
                subs=_subscriptions(claims),
                issued_at=_issued(claims),
            )
        self._check_time(claims, time)
        return credentials

    def subscription(self, token: str, time: float) -> Grant:
        """What a subscription token grants. Raises as `connection` does.

        Whether its user and channel are those of the request is for the caller to compare.
        """
        with self._logged("subscription token", time):
            claims = self._claims(token, _SubscriptionClaims)
            if not claims.channel:
                raise TokenInvalid("claim channel: missing, and a subscription token is for one channel")
            grant = Grant(
                channel=_text("channel", claims.channel),
                user=_text("sub", claims.sub),
                expire_at=_expiry(claims),
                info=_gated("info", claims.info, claims.b64info),
                client=_text("client", claims.client),
                issued_at=_issued(claims),
            )
        self._check_time(claims, time)
        return grant

    def _claims(self, token: str, shape: type[_C]) -> _C:
        if self._ring is None:
            raise TokenInvalid(
                "no key to verify tokens with: auth.hmac_secret is empty, and so are auth.public_key and auth.jwks_url"
            )
        if len(token) > MAX_TOKEN_LENGTH:
            raise TokenInvalid(f"token of {len(token)} characters is over the limit of {MAX_TOKEN_LENGTH}")
        claims = _read(self._ring.open(token), shape)
        if self._issuers:
            _require("iss", [claims.iss], self._issuers, "auth.issuer")
        if self._audiences:
            found = claims.aud if isinstance(claims.aud, list) else [claims.aud]
            _require("aud", found, self._audiences, "auth.audience")
        return claims

    def _check_time(self, claims: _Claims, time: float) -> None:
        """Comes last: a token that never was right is called wrong, not expired, which would invite a retry."""
        if claims.exp is not None and claims.exp <= time:
            self._log_late(claims.sub or "", claims.exp, time)
            raise TokenExpired
        if claims.nbf is not None and claims.nbf > time:
            text = "a token of user %r is not valid yet, but in %.1f seconds: the clock of its issuer is ahead of ours"
            self._sparing.warning("early", time, text, claims.sub or "", claims.nbf - time)
            raise TokenExpired("token not valid yet")

    def _log_late(self, user: str, exp: float, time: float) -> None:
        """Tokens expire every day. But where the next one has expired as well, and is as much newer as time has passed,
        they are new when they come: the clocks differ, or tokens live too short. And who brings the same one over and
        over does not fetch another. (Two old tabs are none of that.)
        """
        late = time - exp
        before, last, times = self._late.pop(user, (exp, time, 0))
        if len(self._late) >= MAX_LATE:
            self._late.clear()
        times = times + 1 if exp == before else 1
        self._late[user] = exp, time, times
        if exp > before and time - last >= SOONEST and abs((exp - before) - (time - last)) <= 1:
            text = "user %r brings one new token after the other that has expired, this one %.1f seconds ago: the clock"
            text += " of their issuer is behind ours, or they live too short"
            self._sparing.warning("late", time, text, user, late)
        elif times >= AGAIN:
            text = "user %r brings the same expired token again, %.1f seconds too late: getToken has to fetch a new one"
            self._sparing.warning("again", time, text, user, late)
        else:
            log.info("a token of user %r expired %.1f seconds ago", user, late)

    @contextmanager
    def _logged(self, what: str, time: float) -> Iterator[None]:
        """What is wrong with a token is said here, for the client is not told."""
        try:
            yield
        except TokenInvalid as error:
            self._sparing.warning(what, time, "a %s is refused: %s", what, error)
            raise


def _several(values: str | Sequence[str]) -> tuple[str, ...]:
    """One text, "" for none, or several."""
    return tuple([values] if isinstance(values, str) else values) if values else ()


def _require(claim: str, found: Sequence[Any], wanted: Sequence[str], setting: str) -> None:
    """One of the wanted values, exactly."""
    if any(isinstance(value, str) and value in wanted for value in found):
        return
    is_there = any(value is not None for value in found)
    names = ", ".join(str(value)[:80] for value in found[:5])
    said = f"is {names!r}, which is not" if is_there else "missing, but the token has to be for"
    raise TokenInvalid(f"claim {claim}: {said} {setting} ({', '.join(wanted)})")


# Claims -----------------------------------------------------------------------------------------------------
# A claim that is null is a claim left out: that is what back ends send for fields they did not fill.


class _Claims(msgspec.Struct):
    sub: str | None = None
    exp: int | float | None = None
    nbf: int | float | None = None
    iss: Any = None  # looked at where auth.issuer is set, and as freely as it was signed elsewhere
    aud: Any = None
    iat: int | float | None = None  # not compared with the time: clocks of issuers run fast
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


def _issued(claims: _Claims) -> float:
    """When it was issued, 0 where it does not say so in earnest: milliseconds would be later than any revocation."""
    return claims.iat if claims.iat is not None and 0 < claims.iat < _END_OF_TIME else 0


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
    issued_at: float | None = None,
    info: object = None,
    channels: Sequence[str] = (),
    issuer: str = "",
    audience: str = "",
    algorithm: str = "HS256",
) -> str:
    """A token for `user` to connect with; "" is anonymous. Times are Unix times; without `expire_at` it holds for ever.

    Without `issued_at` it cannot be told from tokens that were revoked before it was made.
    """
    claims = {
        "sub": user,
        "iat": _whole(issued_at),
        "exp": _whole(expire_at),
        "info": info,
        "channels": list(channels) or None,
    }
    return mint(secret, claims | _places(issuer, audience), algorithm=algorithm)


def subscription_token(
    secret: str,
    channel: str,
    user: str = "",
    *,
    expire_at: float | None = None,
    issued_at: float | None = None,
    info: object = None,
    issuer: str = "",
    audience: str = "",
    algorithm: str = "HS256",
) -> str:
    """A token for `user` to subscribe to `channel`. Times are Unix times; without `expire_at` it holds for ever."""
    claims = {"sub": user, "channel": channel, "iat": _whole(issued_at), "exp": _whole(expire_at), "info": info}
    return mint(secret, claims | _places(issuer, audience), algorithm=algorithm)


def mint(secret: str, claims: Mapping[str, object], *, algorithm: str = "HS256") -> str:
    """A signed token of any claims; those that are None are left out.

    Raises ConfigurationError for a bad secret or algorithm, BadRequest for claims that JSON cannot hold.
    """
    from hubbub.keys import sign  # see TokenVerifier

    body = payload.encode({name: value for name, value in claims.items() if value is not None})
    return sign(body, secret, algorithm)


def _places(issuer: str, audience: str) -> dict[str, object]:
    return {"iss": issuer or None, "aud": audience or None}


def _whole(time: float | None) -> float | None:
    """Whole seconds as an integer, which more libraries read than a fraction."""
    return int(time) if time is not None and time == int(time) else time
