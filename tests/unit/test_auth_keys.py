"""Tokens that are signed with RSA, EC and Ed25519 keys, several keys at once, issuer, audience, and clocks."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from tests.issuer import FAMILIES, certificate, jwk, part, pem, private, private_pem, signed

from hubbub.auth import TokenVerifier, connection_token, subscription_token
from hubbub.errors import ConfigurationError, TokenExpired, TokenInvalid
from hubbub.keys import Key, key_set

NOW = 1_700_000_000.0
SECRET = "a secret that is longer than thirty-two bytes"
OLD_SECRET = "the secret of last year, just as long as this year's"


def refusal(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(TokenInvalid) as caught:
        verifier.connection(token, NOW)
    return str(caught.value)


# What is believed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", FAMILIES)
def test_tokens_of_a_key_are_believed(algorithm: str) -> None:
    verifier = TokenVerifier(public_key=pem(FAMILIES[algorithm]))
    assert verifier.has_keys
    assert verifier.connection(signed(algorithm), NOW).user == "42"
    assert verifier.connection(signed(algorithm, headers={"kid": "any"}), NOW).user == "42"
    assert verifier.subscription(signed(algorithm, channel="news"), NOW).channel == "news"
    other = signed(algorithm, number=1)
    assert refusal(verifier, other) == (
        "token: the signature does not match auth.public_key: it was signed with another key, or changed"
    )
    head, _, tail = signed(algorithm).partition(".")
    changed = f"{head}.{part(b'{}')}.{tail.partition('.')[2]}"
    assert "the signature does not match auth.public_key" in refusal(verifier, changed)


def test_a_key_may_be_a_text_a_file_or_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("public.pem").write_text(pem("p256"))
    Path("certificate.pem").write_text(certificate("p256"))
    text = pem("p256")
    for each in (text, text.strip().replace("\n", "\\n"), certificate("p256"), "public.pem", "certificate.pem"):
        assert TokenVerifier(public_key=each).connection(signed("ES256"), NOW).user == "42"


def test_all_keys_of_a_rotation_verify() -> None:
    verifier = TokenVerifier([SECRET, OLD_SECRET], public_key=[pem("rsa"), pem("rsa", 1), pem("ed25519")])
    for secret in (SECRET, OLD_SECRET):
        assert verifier.connection(connection_token(secret, "42"), NOW).user == "42"
    for token in (signed("RS256"), signed("RS512", 1), signed("EdDSA")):
        assert verifier.connection(token, NOW).user == "42"
    assert "does not match auth.public_key" in refusal(verifier, signed("EdDSA", 1))
    assert "does not match auth.hmac_secret" in refusal(verifier, connection_token(SECRET + "!", "42"))
    assert refusal(verifier, signed("ES256")).startswith("token: alg is 'ES256', and auth.hmac_secret is for HS256, ")
    only_new = TokenVerifier([SECRET], public_key=[pem("rsa")])
    assert "does not match auth.hmac_secret" in refusal(only_new, connection_token(OLD_SECRET, "42"))
    assert "does not match auth.public_key" in refusal(only_new, signed("RS512", 1))


def test_without_keys_there_is_nothing_to_believe_by() -> None:
    assert not TokenVerifier("", public_key="").has_keys
    assert not TokenVerifier((), public_key=[]).has_keys
    assert TokenVerifier(SECRET).has_keys


# Attacks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa", "p256", "ed25519"])
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_nobodys_secret(kind: str, algorithm: str) -> None:
    """RFC 8725, 2.1: everybody knows the public key, so nobody may sign with it."""
    hash_name = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    der = private(kind).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = pem(kind)
    message = part(json.dumps({"alg": algorithm}).encode()) + "." + part(b'{"sub":"admin"}')
    for verifier in (TokenVerifier(public_key=text), TokenVerifier(SECRET, public_key=text)):
        for secret in (text.encode(), text.strip().encode(), der, b""):
            forged = f"{message}.{part(hmac.digest(secret, message.encode(), hash_name))}"
            assert refusal(verifier, forged).startswith("token: ")


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": ""},
        {"alg": None},
        {"alg": ["RS256"]},
        {"alg": {}},
        {"alg": "rs256"},
        {"alg": "PS256"},
        {"alg": "ES256K"},
        {"alg": "HS256"},
        {"alg": "RS256\n"},
        {},
    ],
)
def test_algorithms_that_are_none_of_ours(header: dict[str, Any]) -> None:
    genuine = signed("RS256")
    body = genuine.split(".")[1]
    for signature in ("", genuine.split(".")[2]):
        for keys in ({"public_key": pem("rsa")}, {"public_key": pem("rsa"), "hmac_secret": SECRET}):
            text = refusal(TokenVerifier(**keys), f"{part(json.dumps(header).encode())}.{body}.{signature}")
            assert text.startswith("token: ")


@pytest.mark.parametrize("algorithm", FAMILIES)
def test_the_key_chooses_the_algorithm_and_not_the_token(algorithm: str) -> None:
    head, body, signature = signed(algorithm).split(".")
    verifier = TokenVerifier(public_key=pem(FAMILIES[algorithm]))
    for other in {*FAMILIES, "HS256"} - {algorithm}:
        assert refusal(verifier, f"{part(json.dumps({'alg': other}).encode())}.{body}.{signature}")
    for kind in set(FAMILIES.values()) - {FAMILIES[algorithm]}:
        text = refusal(TokenVerifier(public_key=pem(kind)), f"{head}.{body}.{signature}")
        assert text.startswith(f"token: alg is '{algorithm}', and auth.public_key is for ")


def test_a_key_in_the_token_is_not_looked_at() -> None:
    own = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private("rsa", 1).public_key()))
    for headers in ({"jwk": own}, {"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}, {"x5c": ["a"]}):
        assert refusal(TokenVerifier(public_key=pem("rsa")), signed("RS256", 1, headers=headers))


@given(st.sampled_from(sorted(FAMILIES)), st.binary(max_size=200))
def test_no_signature_makes_it_fail(algorithm: str, signature: bytes) -> None:
    token = signed(algorithm).rpartition(".")[0]
    assert refusal(TokenVerifier(public_key=pem(FAMILIES[algorithm])), f"{token}.{part(signature)}")


# What is no key ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["short", "k256", "ed448", "dsa"])
def test_kinds_of_keys_that_are_refused(kind: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^auth\.public_key: expected RSA of 2048 bits or more, P-256, "):
        TokenVerifier(public_key=pem(kind))


def test_a_private_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    text = private_pem("p256")
    (tmp_path / "private.pem").write_text(text)
    for each in (text, str(tmp_path / "private.pem")):
        with pytest.raises(ConfigurationError, match=r"^auth\.public_key: is a private key, which is for ") as caught:
            TokenVerifier(public_key=each)
        assert not any(line in str(caught.value) for line in text.splitlines())


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("nowhere.pem", "'nowhere.pem' cannot be read: No such file or directory; expected the path of a PEM file"),
        ("\0", "'\\x00' cannot be read: "),
        ("empty.pem", "'empty.pem' is no PEM file: it has no -----BEGIN PUBLIC KEY-----"),
        ("-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n", "holds no public key that can be read"),
        ("-----BEGIN CERTIFICATE-----\nMFkw\n-----END CERTIFICATE-----\n", "holds no public key that can be read"),
        ("-----BEGIN PUBLIC KEY-----\n\ud83d\n", "holds no public key that can be read"),
    ],
)
def test_what_is_no_public_key(key: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.pem").write_text("")
    with pytest.raises(ConfigurationError) as caught:
        TokenVerifier(public_key=key)
    assert str(caught.value).startswith(f"auth.public_key: {text}")


def test_several_keys_are_a_list() -> None:
    with pytest.raises(ConfigurationError, match="expected one key in one text or file; several of them in a list"):
        TokenVerifier(public_key=pem("p256") + pem("p384"))


def test_without_cryptography_the_error_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from hubbub.auth import TokenVerifier, connection_token\n"
        "secret = 'x' * 32\n"
        "assert TokenVerifier(secret).connection(connection_token(secret, '42'), 0).user == '42'\n"
        "for setting in ('public_key', 'jwks_url'):\n"
        "    try: TokenVerifier(**{setting: 'http://127.0.0.1:1/'})\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [
        f'ConfigurationError auth.{name}: needs the package cryptography: pip install "hubbub[keys]"'
        for name in ("public_key", "jwks_url")
    ]


def test_who_has_no_keys_does_not_load_cryptography() -> None:
    script = (
        "import sys; from hubbub.auth import TokenVerifier; TokenVerifier()\n"
        "print(sorted({'jwt', 'cryptography', 'urllib.request'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.strip() == b"[]"


def test_a_key_does_not_show_its_secret() -> None:
    key = Key(b"hunter2", ("HS256",), "auth.hmac_secret")
    assert repr(key) == "Key(auth.hmac_secret, HS256)"
    assert "hunter2" not in str(key.__rich_repr__())


# Key sets ---------------------------------------------------------------------------------------------------


def test_a_key_set() -> None:
    keys = key_set(
        json.dumps(
            {
                "keys": [
                    jwk("rsa", kid="a", use="sig", alg="RS256"),
                    jwk("rsa", 1, kid="b"),
                    jwk("p384", kid="c", key_ops=["verify", "encrypt"]),
                    jwk("ed25519"),
                ]
            }
        ).encode()
    )
    assert [(key.id, key.algorithms) for key in keys] == [
        ("a", ("RS256",)),
        ("b", ("RS256", "RS384", "RS512")),
        ("c", ("ES384",)),
        ("", ("EdDSA",)),
    ]


USELESS: list[Any] = [
    None,
    5,
    [],
    {},
    {"kty": "oct", "k": part(SECRET.encode())},
    {"kty": ["RSA"]},
    {"kty": "RSA"},
    {"kty": "RSA", "n": 5, "e": None},
    {"kty": "EC", "crv": "P-256", "x": part(b"1" * 32), "y": part(b"1" * 32)},
    {"kty": "EC", "crv": "P-0", "x": "", "y": ""},
    {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
    lambda: jwk("rsa", use="enc"),
    lambda: jwk("rsa", key_ops=["encrypt"]),
    lambda: jwk("rsa", key_ops="verify"),
    lambda: jwk("rsa", alg="PS256"),
    lambda: jwk("rsa", alg="HS256"),
    lambda: jwk("rsa", alg=["RS256"]),
    lambda: jwk("rsa", alg="ES256"),
    lambda: jwk("rsa", kid=5),
    lambda: jwk("p256", alg="ES384"),
    lambda: jwk("short"),
    lambda: jwk("k256"),
    lambda: jwk("ed448"),
    lambda: {**jwk("p256"), "d": part(b"1" * 32)},
]


@pytest.mark.parametrize("useless", USELESS, ids=range(len(USELESS)))
def test_keys_of_a_set_that_are_left_out(useless: Any) -> None:
    item = useless() if callable(useless) else useless
    keys = key_set(json.dumps({"keys": [item, jwk("p256", kid="good")]}).encode())
    assert [key.id for key in keys] == ["good"]
    with pytest.raises(ValueError, match="none of its 1 keys is of RSA"):
        key_set(json.dumps({"keys": [item]}).encode())


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b"", "what it answers is not JSON"),
        (b"<html>", "what it answers is not JSON"),
        (b"\xff", "what it answers is not JSON"),
        (b"[" * 100_000, "what it answers is not JSON"),
        (b"[]", "what it answers is no key set"),
        (b"null", "what it answers is no key set"),
        (b'{"keys":{}}', "what it answers is no key set"),
        (b'{"keys":[]}', "none of its 0 keys"),
        (b'{"keys":[' + b"0," * 64 + b"0]}", "its set of 65 keys is over the limit of 64"),
    ],
)
def test_what_is_no_key_set(document: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        key_set(document)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["kty", "crv", "n", "e", "x", "y", "alg", "use", "kid", "key_ops"]),
            st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "AA", "", "sig", "é"])
            | st.integers()
            | st.none()
            | st.lists(st.text(max_size=3), max_size=2),
        ),
        max_size=3,
    )
)
def test_any_key_set_is_read_or_refused(items: list[Any]) -> None:
    try:
        keys = key_set(json.dumps({"keys": items}).encode())
    except ValueError:
        return
    assert all(key.algorithms for key in keys)


# Issuer and audience ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "claims"),
    [
        ({"issuer": "us"}, {"iss": "us"}),
        ({"issuer": ("us", "them")}, {"iss": "them"}),
        ({"audience": "chat"}, {"aud": "chat"}),
        ({"audience": "chat"}, {"aud": ["feed", "chat"]}),
        ({"audience": ("chat", "feed")}, {"aud": "feed"}),
        ({"audience": "chat"}, {"aud": [5, "chat"]}),
        ({"issuer": "us", "audience": "chat"}, {"iss": "us", "aud": "chat"}),
        ({}, {"iss": 5, "aud": {"a": [1]}}),
    ],
)
def test_issuers_and_audiences_that_are_asked_for(settings: dict[str, Any], claims: dict[str, Any]) -> None:
    verifier = TokenVerifier(public_key=pem("p256"), **settings)
    token = jwt.api_jws.encode(json.dumps(claims).encode(), private("p256"), "ES256")
    assert verifier.connection(token, NOW).user == ""
    with_channel = json.dumps({**claims, "channel": "a"}).encode()
    assert verifier.subscription(jwt.api_jws.encode(with_channel, private("p256"), "ES256"), NOW).channel == "a"


@pytest.mark.parametrize(
    ("settings", "claims", "text"),
    [
        ({"issuer": "us"}, {}, "claim iss: missing, but the token has to be for auth.issuer (us)"),
        ({"issuer": "us"}, {"iss": None}, "claim iss: missing"),
        ({"issuer": "us"}, {"iss": "them"}, "claim iss: is 'them', which is not auth.issuer (us)"),
        ({"issuer": "us"}, {"iss": "US"}, "claim iss: is 'US'"),
        ({"issuer": "us"}, {"iss": ["us"]}, "claim iss: is "),
        ({"issuer": "us"}, {"iss": "u"}, "claim iss: is 'u'"),
        ({"issuer": ("us", "them")}, {"iss": "you"}, "claim iss: is 'you', which is not auth.issuer (us, them)"),
        ({"audience": "chat"}, {}, "claim aud: missing, but the token has to be for auth.audience (chat)"),
        ({"audience": "chat"}, {"aud": "feed"}, "claim aud: is 'feed', which is not auth.audience (chat)"),
        ({"audience": "chat"}, {"aud": []}, "claim aud: missing"),
        ({"audience": "chat"}, {"aud": ["feed", 5]}, "claim aud: is 'feed, 5', which is not auth.audience (chat)"),
        ({"audience": "chat"}, {"aud": {"chat": 1}}, "claim aud: is "),
        ({"audience": "chat"}, {"aud": [["chat"]]}, "claim aud: is "),
        ({"issuer": "us", "audience": "chat"}, {"aud": "chat"}, "claim iss: missing"),
        ({"issuer": "us"}, {"iss": "them", "exp": 1}, "claim iss: is 'them'"),  # wrong is said before expired
        ({"audience": "chat"}, {"aud": "x" * 10_000}, "claim aud: is 'xxx"),
    ],
)
def test_issuers_and_audiences_that_are_not(settings: dict[str, Any], claims: dict[str, Any], text: str) -> None:
    verifier = TokenVerifier(SECRET, **settings)
    said = refusal(verifier, jwt.api_jws.encode(json.dumps(claims).encode(), SECRET, "HS256"))
    assert said.startswith(text)
    assert len(said) < 500


def test_our_own_tokens_can_name_them() -> None:
    verifier = TokenVerifier(SECRET, issuer="us", audience="chat")
    assert verifier.connection(connection_token(SECRET, "42", issuer="us", audience="chat"), NOW).user == "42"
    token = subscription_token(SECRET, "news", issuer="us", audience="chat")
    assert verifier.subscription(token, NOW).channel == "news"
    assert "claim aud: missing" in refusal(verifier, connection_token(SECRET, "42", issuer="us"))


# The log ----------------------------------------------------------------------------------------------------


def test_the_log_says_why_a_token_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hubbub.auth")
    verifier = TokenVerifier(SECRET)
    token = connection_token(OLD_SECRET, "42")
    for now in (NOW, NOW + 59, NOW + 60):
        with pytest.raises(TokenInvalid):
            verifier.connection(token, now)
    with pytest.raises(TokenInvalid):
        verifier.subscription(token, NOW)
    text = (
        "is refused: token: the signature does not match auth.hmac_secret: it was signed with another key, or changed"
    )
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", f"a token to connect with {text}"),
        ("INFO", f"a token to connect with {text}"),
        ("WARNING", f"a token to connect with {text}"),
        ("WARNING", f"a subscription token {text}"),
    ]


# Clocks -----------------------------------------------------------------------------------------------------


def late(verifier: TokenVerifier, user: str, exp: float, now: float) -> None:
    with pytest.raises(TokenExpired):
        verifier.connection(connection_token(SECRET, user, expire_at=exp), now)


def test_a_token_from_the_future_names_the_seconds(caplog: pytest.LogCaptureFixture) -> None:
    verifier = TokenVerifier(SECRET)
    token = jwt.encode({"sub": "42", "nbf": NOW + 12.5}, SECRET)
    caplog.set_level(logging.INFO, "hubbub.auth")
    text = "a token of user '42' is not valid yet, but in {} seconds: the clock of its issuer is ahead of ours"
    for now in (NOW, NOW + 1, NOW - 61):
        with pytest.raises(TokenExpired, match="token not valid yet"):
            verifier.connection(token, now)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", text.format(12.5)),
        ("INFO", text.format(11.5)),  # warnings come once a minute
        ("WARNING", text.format(73.5)),
    ]


def test_the_same_expired_token_over_and_over_is_somebody_s_mistake(caplog: pytest.LogCaptureFixture) -> None:
    verifier = TokenVerifier(SECRET)
    for seconds in range(10):
        late(verifier, "42", NOW - 30, NOW + seconds)
    assert caplog.messages == [
        "user '42' brings the same expired token again, 32.0 seconds too late: getToken has to fetch a new one"
    ]
    caplog.clear()


def test_an_expired_token_is_everyday_life(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hubbub.auth")
    verifier = TokenVerifier(SECRET)
    for seconds in range(2):
        late(verifier, "42", NOW - 30, NOW + seconds)
    late(verifier, "43", NOW - 20, NOW)
    late(verifier, "43", NOW - 19, NOW + 0.01)  # of another tab
    late(verifier, "43", NOW - 10, NOW + 1)
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert caplog.records[0].message == "a token of user '42' expired 30.0 seconds ago"


def test_new_tokens_that_have_expired_are_a_matter_of_clocks(caplog: pytest.LogCaptureFixture) -> None:
    verifier = TokenVerifier(SECRET)
    late(verifier, "42", NOW - 3600, NOW)  # an old one
    late(verifier, "42", NOW - 30, NOW + 0.5)  # a new one
    assert not caplog.records
    late(verifier, "42", NOW - 28, NOW + 2)  # a newer one
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.message == (
        "user '42' brings one new token after the other that has expired, this one 30.0 seconds ago:"
        " the clock of their issuer is behind ours, or they live too short"
    )


def test_the_memory_of_late_users_is_bounded() -> None:
    verifier = TokenVerifier(SECRET)
    for user in range(1100):
        late(verifier, str(user), NOW - 1, NOW)
    assert len(verifier._late) <= 1000


@pytest.mark.parametrize("margin", [0.001, 1])
def test_there_is_no_leeway(margin: float) -> None:
    verifier = TokenVerifier(public_key=pem("p256"))
    assert verifier.connection(signed("ES256", exp=NOW + margin, nbf=NOW), NOW).user == "42"
    for token in (signed("ES256", exp=NOW), signed("ES256", exp=NOW - margin), signed("ES256", nbf=NOW + margin)):
        with pytest.raises(TokenExpired):
            verifier.connection(token, NOW)
