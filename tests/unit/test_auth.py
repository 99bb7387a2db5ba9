"""Tokens: what is believed, what is refused and why, and that nothing else ever comes out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.auth import MAX_TOKEN_LENGTH, TokenVerifier, connection_token, mint, subscription_token
from hubbub.errors import ConfigurationError, TokenExpired, TokenInvalid
from hubbub.model import Credentials, Grant, PersonalSubscription

SECRET = "a secret that is longer than thirty-two bytes"
NOW = 1_700_000_000.0
verifier = TokenVerifier(SECRET)


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(body: bytes, header: bytes = b'{"alg":"HS256","typ":"JWT"}', secret: str = SECRET) -> str:
    """A token of any bytes, made without the library under test."""
    signed = f"{part(header)}.{part(body)}"
    return f"{signed}.{part(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


def claims(**values: object) -> str:
    return sign(json.dumps(values).encode())


def connection(**values: object) -> Credentials:
    return verifier.connection(claims(**values), NOW)


# What is believed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("secret", [SECRET, "secret", "пароль"])
def test_minted_tokens_are_believed(algorithm: str, secret: str) -> None:
    own = TokenVerifier(secret)
    token = connection_token(
        secret, "42", expire_at=NOW + 60, info={"name": "Zoë"}, channels=["a", "b"], algorithm=algorithm
    )
    assert own.connection(token, NOW) == Credentials(
        user="42",
        expire_at=NOW + 60,
        info='{"name":"Zoë"}'.encode(),
        subs={"a": PersonalSubscription(), "b": PersonalSubscription()},
    )
    assert "iss" not in jwt.decode(token, options={"verify_signature": False})
    token = subscription_token(secret, "room:1", "42", expire_at=NOW + 60, info=[1], algorithm=algorithm)
    assert own.subscription(token, NOW) == Grant("room:1", "42", NOW + 60, b"[1]")


def test_tokens_of_other_libraries_are_believed() -> None:
    assert connection(sub="42").user == "42"
    token = jwt.encode({"sub": "7", "aud": "us", "iss": "them", "jti": "1"}, SECRET, "HS256")
    assert verifier.connection(token, NOW).user == "7"


def test_a_token_of_nothing_is_the_anonymous_user_for_ever() -> None:
    assert connection() == Credentials()
    assert verifier.connection(connection_token(SECRET, ""), NOW) == Credentials()
    assert verifier.subscription(subscription_token(SECRET, "news"), NOW) == Grant("news")


def test_null_claims_are_claims_left_out() -> None:
    names = ("sub", "exp", "nbf", "iat", "expire_at", "info", "b64info", "channel", "channels", "subs")
    assert connection(**dict.fromkeys(names)) == Credentials()
    assert connection(subs={"a": None}).subs == {"a": PersonalSubscription()}


@pytest.mark.parametrize(
    ("values", "info"),
    [
        ({"info": {"a": [1, 2.5, None, True]}}, b'{"a":[1,2.5,null,true]}'),
        ({"info": "é\n"}, '"é\\n"'.encode()),
        ({"info": False}, b"false"),
        ({"info": ""}, b'""'),
        ({"info": {}}, b"{}"),
        ({"info": 2**80}, str(2**80).encode()),
        ({"info": {"a": "\ud83d", "b": "é"}}, b'{"a":"\\ud83d","b":"\\u00e9"}'),  # JSON.stringify does this
        ({"b64info": "eyJhIjoKMX0="}, b'{"a":1}'),
        ({"b64info": "MQ==", "info": 2}, b"1"),
        ({"b64info": "", "info": 2}, b"2"),
    ],
)
def test_info_becomes_compact_json(values: dict[str, Any], info: bytes) -> None:
    assert connection(**values).info == info
    assert verifier.subscription(claims(channel="x", **values), NOW).info == info


def test_info_is_compact_however_it_was_written() -> None:
    assert verifier.connection(sign(b'{ "info" :\r\n{ "a" : 1 } }'), NOW).info == b'{"a":1}'


def test_subs_carry_info_and_data_and_win_over_channels() -> None:
    got = connection(
        channels=["a", "b"],
        subs={
            "b": {"info": {"x": 1}, "data": [], "override": {"presence": {"value": True}}},
            "c": {"b64info": "MQ==", "b64data": "eyJhIjoxfQ=="},
        },
    )
    assert got.subs == {
        "a": PersonalSubscription(),
        "b": PersonalSubscription(info=b'{"x":1}', data=b"[]"),
        "c": PersonalSubscription(info=b"1", data=b'{"a":1}'),
    }


def test_a_grant_names_its_client() -> None:
    assert verifier.subscription(claims(channel="x", client="abc"), NOW).client == "abc"


# Time -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "expired"),
    [
        ({"exp": NOW + 0.5}, False),
        ({"exp": NOW}, True),
        ({"exp": int(NOW)}, True),
        ({"exp": NOW - 1}, True),
        ({"exp": 0}, True),
        ({"exp": -1e9}, True),
        ({"nbf": NOW}, False),
        ({"nbf": NOW + 1}, True),
        ({"nbf": NOW - 1, "exp": NOW + 1}, False),
        ({"iat": NOW + 1e6}, False),  # the clock of an issuer may be fast
        ({"exp": NOW - 1, "expire_at": 0}, True),
        ({"exp": NOW + 1, "expire_at": NOW - 1}, False),
    ],
)
def test_time(times: dict[str, float], expired: bool) -> None:
    for verify, extra in ((verifier.connection, {}), (verifier.subscription, {"channel": "x"})):
        token = claims(**times, **extra)
        if not expired:
            verify(token, NOW)
            continue
        with pytest.raises(TokenExpired) as caught:
            verify(token, NOW)
        assert caught.value.wire_code == 109
        assert not caught.value.is_temporary


@pytest.mark.parametrize(
    ("times", "expire_at"),
    [
        ({}, 0),
        ({"exp": NOW + 60}, NOW + 60),
        ({"exp": NOW + 60, "expire_at": None}, NOW + 60),
        ({"exp": NOW + 60, "expire_at": 0}, 0),
        ({"exp": NOW + 60, "expire_at": NOW + 3600.5}, NOW + 3600.5),
        ({"expire_at": NOW + 3600}, NOW + 3600),
        ({"expire_at": NOW - 1}, NOW - 1),
    ],
)
def test_expire_at_overrides_exp(times: dict[str, float | None], expire_at: float) -> None:
    assert connection(**times).expire_at == expire_at
    assert verifier.subscription(claims(channel="x", **times), NOW).expire_at == expire_at


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"sub": 42}, "claim sub: Expected `str | null`, got `int`"),
        ({"sub": {"id": 1}}, "claim sub"),
        ({"sub": "\ud83d"}, "claim sub: holds half of a surrogate pair"),
        ({"exp": "1700000060"}, "claim exp: Expected `int | float | null`, got `str`"),
        ({"exp": True}, "claim exp"),
        ({"exp": [1]}, "claim exp"),
        ({"exp": 10**400}, "claim exp"),
        ({"exp": -(10**400)}, "claim exp"),
        ({"exp": 1e300}, "claim exp"),
        ({"exp": int(NOW) * 1000}, r"claim exp: is no Unix time in seconds \(milliseconds\?\)"),
        ({"nbf": "soon"}, "claim nbf"),
        ({"nbf": 1e15}, "claim nbf"),
        ({"iat": "then"}, "claim iat"),
        ({"expire_at": "never"}, "claim expire_at"),
        ({"expire_at": -1}, "claim expire_at: is negative"),
        ({"expire_at": 1e15}, "claim expire_at"),
        ({"info": ["\ud83d"] * 2, "b64info": 1}, "claim b64info: Expected"),
        ({"b64info": "!"}, "claim b64info: "),
        ({"b64info": "MQ"}, "claim b64info: Incorrect padding"),
        ({"b64info": "é"}, "claim b64info: "),
        ({"b64info": base64.b64encode(b"\xff").decode()}, "claim b64info: payload is not valid UTF-8"),
        (
            {"b64info": base64.b64encode(b'1},{"x":2').decode()},
            "claim b64info: payload is not one JSON value",
        ),
        ({"info": json.loads("[" * 129 + "]" * 129)}, "claim info: payload is nested deeper than 128"),
        ({"channels": "a"}, "claim channels: Expected `array | null`, got `str`"),
        ({"channels": ["a", 1]}, r"claim channels\[1\]: Expected `str`"),
        ({"channels": ["\ud83d"]}, "claim channels"),
        ({"subs": ["a"]}, "claim subs"),
        ({"subs": {"a": "b"}}, r"claim subs\[...\]"),
        ({"subs": {"a": {"b64info": 5}}}, r"claim subs\[...\].b64info"),
        ({"subs": {"a": {"b64data": "?"}}}, r"claim subs\[...\].b64data: "),
        ({"subs": {"\ud83d": {}}}, "claim subs"),
        ({"channel": "a"}, "claim channel: this is a subscription token"),
        ({"channel": 5}, "claim channel"),
        ({"channel": "a", "exp": 1}, "claim channel"),  # wrong is said before expired
    ],
)
def test_claims_that_are_wrong_are_named(body: dict[str, Any], text: str) -> None:
    with pytest.raises(TokenInvalid, match=text):
        connection(**body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "claim channel: missing"),
        ({"sub": "42", "exp": 1}, "claim channel: missing"),
        ({"channel": ""}, "claim channel: missing"),
        ({"channel": None}, "claim channel: missing"),
        ({"channel": 5}, "claim channel"),
        ({"channel": ["a"]}, "claim channel"),
        ({"channel": "\ud83d"}, "claim channel"),
        ({"channel": "a", "client": 5}, "claim client"),
        ({"channel": "a", "sub": 5}, "claim sub"),
        ({"channel": "a", "expire_at": -5}, "claim expire_at"),
    ],
)
def test_subscription_claims_that_are_wrong_are_named(body: dict[str, Any], text: str) -> None:
    with pytest.raises(TokenInvalid, match=text):
        verifier.subscription(claims(**body), NOW)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"5",
        b'"sub"',
        b"{",
        b'{"exp":NaN}',
        b'{"exp":Infinity}',
        b'{"exp":1e400}',
        b'{"exp":' + b"9" * 10_000 + b"}",
        b'{"info":1e400,"exp":-1e400}',
        b'{"info":[NaN]}',
        b'{"info":"\xff"}',
        b'\xef\xbb\xbf{"sub":"42"}',
        b'{"info":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"info":' + b'{"a":' * 8_000 + b"1" + b"}" * 8_000 + b"}",
        b'{"info":["\\ud83d",' + b"[" * 900 + b"]" * 900 + b"]}",
    ],
)
def test_signed_bytes_that_are_no_claims(body: bytes) -> None:
    with pytest.raises(TokenInvalid):
        verifier.connection(sign(body), NOW)
    with pytest.raises(TokenInvalid):
        verifier.subscription(sign(body), NOW)


def altered(token: str, at: int) -> str:
    parts = token.split(".")
    parts[at] = parts[at][:-3] + ("AAA" if parts[at][-3:] != "AAA" else "BBB")
    return ".".join(parts)


GOOD = claims(sub="42")


REFUSED = [
    "",
    ".",
    "..",
    "...",
    "a.b",
    "not a token",
    "токен",
    "\ud83d",
    "\0",
    GOOD[:-1],
    GOOD + ".",
    GOOD + "\n",
    " " + GOOD,
    GOOD.rpartition(".")[0],
    GOOD.rpartition(".")[0] + ".",
    altered(GOOD, 0),
    altered(GOOD, 1),
    altered(GOOD, 2),
    sign(b'{"sub":"42"}', secret="another secret, as long as the first one"),
    sign(b'{"sub":"42"}', secret=""),
    sign(b'{"sub":"42"}', b'{"alg":"none"}'),
    sign(b'{"sub":"42"}', b'{"alg":"None"}'),
    sign(b'{"sub":"42"}', b'{"alg":"hs256"}'),
    sign(b'{"sub":"42"}', b'{"alg":"RS256"}'),
    sign(b'{"sub":"42"}', b'{"alg":"HS512"}'),
    sign(b'{"sub":"42"}', b'{"alg":""}'),
    sign(b'{"sub":"42"}', b'{"alg":null}'),
    sign(b'{"sub":"42"}', b'{"alg":["HS256"]}'),
    sign(b'{"sub":"42"}', b'{"alg":{}}'),
    sign(b'{"sub":"42"}', b"{}"),
    sign(b'{"sub":"42"}', b"[]"),
    sign(b'{"sub":"42"}', b"\xff"),
    sign(b'{"sub":"42"}', b""),
    sign(b'{"sub":"42"}', b"[" * 20_000),
    sign(b'{"sub":"42"}', b'{"alg":"HS256","kid":5}'),
    sign(b'{"sub":"42"}', b'{"alg":"HS256","crit":["x"]}'),
    sign(b'{"sub":"42"}', b'{"alg":"HS256","crit":5}'),
    sign(b'{"sub":"42"}', b'{"alg":"HS256","b64":false}'),
    sign(b'{"sub":"42"}', b'{"alg":"HS256","b64":false,"crit":["b64"]}'),
    sign(b'{"sub":"42"}', b'{"alg":"HS256","x":' + b"9" * 5_000 + b"}"),
    sign(b'{"sub":"42"}', b'{"alg":"none"}').rpartition(".")[0] + ".",
    "a" * MAX_TOKEN_LENGTH,
    "." * MAX_TOKEN_LENGTH,
]


@pytest.mark.parametrize("token", REFUSED, ids=range(len(REFUSED)))
def test_tokens_that_are_not_to_be_believed(token: str) -> None:
    with pytest.raises(TokenInvalid):
        verifier.connection(token, NOW)
    with pytest.raises(TokenInvalid):
        verifier.subscription(token, NOW)


def test_the_signature_comes_first() -> None:
    forged = sign(b'{"sub":42,"exp":1}', secret="of somebody else, who wants to know more")
    with pytest.raises(TokenInvalid, match=r"^token: the signature does not match auth\.hmac_secret: "):
        verifier.connection(forged, NOW)


def test_a_token_is_not_read_beyond_its_limit() -> None:
    token = connection_token(SECRET, "x" * MAX_TOKEN_LENGTH)
    with pytest.raises(TokenInvalid, match=f"of {len(token)} characters is over the limit of 65536"):
        verifier.connection(token, NOW)


def test_the_text_of_a_refusal_is_short() -> None:
    long = sign(b"{}", b'{"alg":"HS256","crit":["' + b"x" * 10_000 + b'"]}')
    with pytest.raises(TokenInvalid) as caught:
        verifier.connection(long, NOW)
    assert len(str(caught.value)) < 300


NUMBERS = st.integers() | st.floats() | st.just(NOW)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
NAMES = ["sub", "exp", "nbf", "iat", "expire_at", "info", "b64info", "channel", "channels", "subs", "client"]


@given(st.dictionaries(st.sampled_from(NAMES), JSON_VALUES), st.booleans())
def test_any_signed_claims_are_believed_or_refused(values: dict[str, Any], ascii: bool) -> None:
    body = json.dumps(values, ensure_ascii=ascii).encode(errors="surrogatepass")
    for verify in (verifier.connection, verifier.subscription):
        try:
            got = verify(sign(body), NOW)
        except (TokenInvalid, TokenExpired):
            continue
        got.user.encode()
        if got.info:
            json.loads(got.info)


@given(st.text() | st.lists(st.binary(max_size=40), min_size=2, max_size=4))
def test_any_unsigned_token_is_refused(parts: str | list[bytes]) -> None:
    token = parts if isinstance(parts, str) else ".".join(map(part, parts))
    with pytest.raises(TokenInvalid):
        verifier.connection(token, NOW)


# Secrets ----------------------------------------------------------------------------------------------------


def test_without_a_secret_no_token_is_believed() -> None:
    for token in ("", GOOD, sign(b"{}", secret="")):
        with pytest.raises(TokenInvalid, match=r"auth\.hmac_secret is empty"):
            TokenVerifier("").connection(token, NOW)


def test_a_short_secret_works_and_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    own = TokenVerifier("secret")
    for _ in range(3):
        assert own.connection(connection_token("secret", "42"), NOW).user == "42"
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "hubbub.auth"
    assert record.message.startswith("auth.hmac_secret is 6 bytes long")
    assert "secret" not in record.message.replace("hmac_secret", "")


def test_a_long_secret_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    TokenVerifier(SECRET)
    TokenVerifier("")
    assert not caplog.records


PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----
"""


@pytest.mark.parametrize("secret", [PUBLIC_KEY, '{"kty":"oct","k":"c2VjcmV0"}', "half a pair \ud83d"])
def test_what_is_no_hmac_secret_is_refused_at_start(secret: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^auth\.hmac_secret: ") as caught:
        TokenVerifier(secret)
    assert secret not in str(caught.value)


def test_what_cannot_be_minted() -> None:
    with pytest.raises(ConfigurationError, match="algorithm = 'RS256': expected one of HS256, HS384, HS512"):
        mint(SECRET, {}, algorithm="RS256")
    with pytest.raises(ConfigurationError, match=r"auth\.hmac_secret: HMAC key must not be empty"):
        mint("", {})


def test_minted_times_are_whole_where_they_can_be() -> None:
    def exp(expire_at: float) -> object:
        return jwt.decode(connection_token(SECRET, "", expire_at=expire_at), options={"verify_signature": False})

    token = connection_token(SECRET, "42", issued_at=NOW)
    assert jwt.decode(token, options={"verify_signature": False}) == {"sub": "42", "iat": NOW}
    assert verifier.connection(token, NOW).issued_at == NOW
    assert json.dumps(exp(4e9)) == '{"sub": "", "exp": 4000000000}'
    assert json.dumps(exp(4e9 + 0.5)) == '{"sub": "", "exp": 4000000000.5}'
