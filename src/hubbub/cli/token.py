"""`hubbub token`: make one for a client, or say what is in one.

Answers for: claims out of options, secrets that are seen in no list of processes, and in words why a token is not
believed. Refuses to know: signatures.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from hubbub.cli.arguments import Failure, add_config, duration, secret_of, settings_of
from hubbub.cli.terminal import Colours
from hubbub.errors import ConfigurationError, HubbubError

if TYPE_CHECKING:
    from hubbub.settings import Auth

EXAMPLE = """\
  hubbub token --user ann --ttl 1h
  hubbub token --user ann --channel room:42
  hubbub token --user ann | hubbub token --decode -"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    parser.add_argument("--user", default="", help="whose it is; without it nobody's: the anonymous user's")
    parser.add_argument("--channel", help="to subscribe to this channel with, and not to connect")
    parser.add_argument(
        "--ttl", type=_ttl, default=3600.0, metavar="TIME", help='until it expires: "1h", or never (1h)'
    )
    parser.add_argument("--info", type=_json, metavar="JSON", help="what others see about the client")
    parser.add_argument(
        "--channels", type=_list, default=[], metavar="A,B", help="what it is subscribed to on connecting"
    )
    parser.add_argument(
        "--claims", type=_object, default={}, metavar="JSON", help="more claims, stronger than the above"
    )
    parser.add_argument("--secret-file", metavar="FILE", help="holds the secret; - for stdin (auth.hmac_secret)")
    parser.add_argument("--decode", metavar="TOKEN", help="print what is in a token, and whether it holds; - for stdin")
    parser.add_argument("--json", action="store_true", help="with --decode: an object")
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Print a token, or what is in one."""
    if options.decode is not None:
        return _decode(options)
    print(_made(options))
    return 0


def _made(options: argparse.Namespace) -> str:
    from hubbub.auth import mint

    if options.channel is not None and options.channels:
        raise Failure(
            "--channels is for a token to connect with, --channel for one to subscribe with: give one of them"
        )
    auth = settings_of(options).auth
    now = int(time.time())
    claims = {
        "sub": options.user,
        "iat": now,
        "exp": None if options.ttl is None else now + max(1, int(options.ttl)),
        "channel": options.channel,
        "info": options.info,
        "channels": options.channels or None,
        **auth.own_claims,
        **options.claims,
    }
    return mint(_secret(options, auth), claims)


def _secret(options: argparse.Namespace, auth: Auth) -> str:
    if options.secret_file is not None:
        return secret_of(options.secret_file, "--secret-file")
    if auth.signing_secret:
        return auth.signing_secret
    if auth.has_keys:
        text = "cannot sign: public keys only verify, and whoever holds the private one signs; or set auth.hmac_secret"
        raise ConfigurationError(text)
    text = "nothing to sign with: set auth.hmac_secret (hubbub.toml, HUBBUB_AUTH_HMAC_SECRET), or give --secret-file"
    raise ConfigurationError(text)


# What options take ------------------------------------------------------------------------------------------


def _ttl(text: str) -> float | None:
    return None if text == "never" else duration(text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f'{text[:80]!r}: expected JSON, such as \'{{"name": "Ann"}}\'') from None


def _object(text: str) -> dict[str, Any]:
    claims = _json(text)
    if not isinstance(claims, dict):
        raise argparse.ArgumentTypeError(f"{text[:80]!r}: expected an object in JSON")
    return claims


def _list(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


# What is in one ---------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """A token taken apart. `why_not` is empty if it holds."""

    header: dict[str, Any]
    claims: dict[str, Any]
    why_not: str


def _decode(options: argparse.Namespace) -> int:
    token = sys.stdin.read().strip() if options.decode == "-" else options.decode.strip()
    header, claims = _parts(token)
    found = _Found(header, claims, _why_not(options, token, claims))
    if options.json:
        holds = {"valid": not found.why_not, "why_not": found.why_not}
        print(json.dumps({**holds, "header": header, "claims": claims}, indent=2, ensure_ascii=False))
    else:
        print(json.dumps(claims, indent=2, ensure_ascii=False))
        colours = Colours(sys.stdout)
        print(colours.warning(f"not valid: {found.why_not}") if found.why_not else f"valid: {_holds(claims)}")
    return 1 if found.why_not else 0


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, believed or not."""
    try:
        head, body, _ = token.split(".")
        header, claims = (json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in (head, body))
    except (ValueError, binascii.Error, RecursionError):
        raise Failure(
            "--decode: this is no JSON Web Token: expected three parts in base64 with dots between them"
        ) from None
    if not (isinstance(header, dict) and isinstance(claims, dict)):
        raise Failure("--decode: this is no JSON Web Token: header and claims have to be objects")
    return header, claims


def _why_not(options: argparse.Namespace, token: str, claims: dict[str, Any]) -> str:
    """Why a server with the settings here does not believe it; empty if it does."""
    import asyncio

    now = time.time()
    try:
        asyncio.run(_verify(options, token, is_subscription=bool(claims.get("channel")), now=now))
    except ConfigurationError:
        raise
    except HubbubError as error:
        return _clearly(str(error), claims, now)
    return ""


async def _verify(options: argparse.Namespace, token: str, *, is_subscription: bool, now: float) -> None:
    """As the server does, which may fetch keys first. Raises HubbubError."""
    from hubbub.auth import TokenVerifier

    auth = settings_of(options).auth
    secret = auth.hmac_secret
    if options.secret_file is not None:
        secret = secret_of(options.secret_file, "--secret-file")
    verifier = TokenVerifier(
        secret,
        public_key=auth.public_key,
        jwks_url=auth.jwks_url,
        issuer=auth.issuer,
        audience=auth.audience,
    )
    await verifier.start()
    try:
        if is_subscription:
            verifier.subscription(token, now)
        else:
            verifier.connection(token, now)
    finally:
        await verifier.stop()


def _clearly(reason: str, claims: dict[str, Any], now: float) -> str:
    """The server's reason, with what this one token makes of it."""
    if reason == "token expired":
        return f"it expired {_span(now - claims['exp'])} ago"
    if reason == "token not valid yet":
        return f"it is not valid for another {_span(claims['nbf'] - now)} (nbf)"
    return reason.removeprefix("token: ")


def _holds(claims: dict[str, Any]) -> str:
    """What a token that is believed is good for."""
    user = f"user {claims['sub']!r}" if claims.get("sub") else "the anonymous user"
    what = f"lets {user} subscribe to {claims['channel']!r}" if claims.get("channel") else f"lets {user} connect"
    return f"{what}, {'for another ' + _span(claims['exp'] - time.time()) if claims.get('exp') else 'for ever'}"


def _span(seconds: float) -> str:
    """A time for people: "59 minutes"."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}s"
    return f"{max(1, round(seconds))} second{'' if round(seconds) <= 1 else 's'}"
