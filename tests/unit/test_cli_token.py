"""`hubbub token`: what it makes is believed by a server with the same settings, and what it says about tokens is so."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from hubbub.auth import mint
from hubbub.cli import main

SECRET = "a secret of more than thirty-two bytes"
OTHER = "another secret of more than thirty-two bytes"

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hubbub.toml").write_text(f'[auth]\nhmac_secret = "{SECRET}"\n')


def made(output: Output, *arguments: str) -> str:
    """The token, alone on its line."""
    assert main(["token", *arguments]) == 0
    said = output.readouterr()
    assert not said.err
    return said.out.removesuffix("\n")


def decoded(output: Output, token: str, *arguments: str) -> dict[str, Any]:
    """What `--decode --json` says of it."""
    code = main(["token", "--decode", token, "--json", *arguments])
    found: dict[str, Any] = json.loads(output.readouterr().out)
    assert code == (0 if found["valid"] else 1)
    return found


def test_to_connect_with(capsys: Output) -> None:
    before = int(time.time())
    found = decoded(capsys, made(capsys, "--user", "ann", "--info", '{"name": "Ann"}', "--channels", "news,room:1"))
    claims = found["claims"]
    assert found["valid"], found
    assert before <= claims["iat"] <= time.time()
    assert claims["exp"] == claims["iat"] + 3600
    assert (claims["sub"], claims["info"], claims["channels"]) == ("ann", {"name": "Ann"}, ["news", "room:1"])


def test_to_subscribe_with(capsys: Output) -> None:
    claims = decoded(capsys, made(capsys, "--user", "ann", "--channel", "room:1", "--ttl", "never"))["claims"]
    assert (claims["sub"], claims["channel"]) == ("ann", "room:1")
    assert "exp" not in claims


def test_more_claims(capsys: Output) -> None:
    claims = decoded(capsys, made(capsys, "--claims", '{"sub": "bob", "expire_at": 0}'))["claims"]
    assert (claims["sub"], claims["expire_at"]) == ("bob", 0)


def test_a_secret_of_a_file_or_of_stdin(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other").write_text(OTHER + "\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(OTHER + "\n"))
    by_file, by_stdin = made(capsys, "--secret-file", "other"), made(capsys, "--secret-file", "-")
    assert decoded(capsys, by_file, "--secret-file", "other")["valid"]
    assert decoded(capsys, by_stdin, "--secret-file", "other")["valid"]
    assert not decoded(capsys, by_file)["valid"]


@pytest.mark.parametrize(
    ("secret", "claims", "why_not"),
    [
        (OTHER, {}, "the signature does not match auth.hmac_secret: it was signed with another key, or changed"),
        (SECRET, {"exp": -400}, "it expired 7 minutes ago"),
        (SECRET, {"nbf": 3 * 86400 + 5}, "it is not valid for another 3 days (nbf)"),
        (SECRET, {"sub": 5}, "claim sub: Expected `str | null`, got `int`"),
    ],
)
def test_why_a_token_does_not_hold(secret: str, claims: dict[str, Any], why_not: str, capsys: Output) -> None:
    now = int(time.time())
    moved = {name: now + value if name in ("exp", "nbf") else value for name, value in claims.items()}
    found = decoded(capsys, mint(secret, moved))
    assert (found["valid"], found["why_not"]) == (False, why_not)
    assert found["claims"] == moved


def test_a_token_names_the_issuer_and_audience_that_are_asked_for(capsys: Output) -> None:
    Path("hubbub.toml").write_text(f'[auth]\nhmac_secret = "{SECRET}"\nissuer = "us"\naudience = ["app", "web"]\n')
    claims = decoded(capsys, made(capsys, "--user", "ann"))["claims"]
    assert (claims["iss"], claims["aud"]) == ("us", "app")
    found = decoded(capsys, made(capsys, "--claims", '{"iss": "them"}'))
    assert not found["valid"]
    assert "iss" in found["why_not"]


def test_the_first_of_several_secrets_signs(capsys: Output) -> None:
    Path("hubbub.toml").write_text(f'[auth]\nhmac_secret = ["{OTHER}", "{SECRET}"]\n')
    token = made(capsys)
    assert decoded(capsys, mint(SECRET, {}))["valid"]
    Path("hubbub.toml").write_text(f'[auth]\nhmac_secret = "{OTHER}"\n')
    assert decoded(capsys, token)["valid"]


def test_public_keys_cannot_sign(capsys: Output) -> None:
    Path("hubbub.toml").write_text('[auth]\npublic_key = "key.pem"\n')
    assert main(["token"]) == 2
    assert capsys.readouterr().err.startswith("hubbub: cannot sign: public keys only verify")


def test_in_words(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    token = made(capsys, "--user", "ann", "--channel", "room:1")
    monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
    assert main(["token", "--decode", "-"]) == 0
    *claims, words = capsys.readouterr().out.splitlines()
    assert json.loads("".join(claims))["sub"] == "ann"
    assert words.startswith("valid: lets user 'ann' subscribe to 'room:1', for another ")


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "....", "W10.W10.x", "\udcff.b.c"])
def test_what_is_no_token_at_all(token: str, capsys: Output) -> None:
    assert main(["token", f"--decode={token}"]) == 1
    assert capsys.readouterr().err.startswith("hubbub: --decode: this is no JSON Web Token: ")


def test_a_token_is_of_one_kind(capsys: Output) -> None:
    assert main(["token", "--channel", "a", "--channels", "b"]) == 1
    assert capsys.readouterr().err.endswith("give one of them\n")


def test_no_secret_is_ever_shown(capsys: Output) -> None:
    for arguments in (["token", "--decode", mint(OTHER, {})], ["token"], ["config"], ["config", "--json"]):
        main(arguments)
        said = capsys.readouterr()
        assert SECRET not in said.out + said.err
