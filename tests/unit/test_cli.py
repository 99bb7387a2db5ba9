"""The command line itself: which command is meant, and one line for each mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hubbub.cli import main
from hubbub.cli.arguments import duration
from hubbub.cli.program import COMMANDS
from hubbub.version import VERSION

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without settings."""
    monkeypatch.chdir(tmp_path)


def refused(output: Output, *arguments: str) -> str:
    """The one line that a mistake in arguments gives."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    return line(output)


def line(output: Output) -> str:
    """The one line on stderr."""
    said = output.readouterr()
    assert not said.out
    assert said.err.count("\n") == 1, said.err
    return said.err.rstrip()


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_help_names_every_command(arguments: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert f"example:\n  {'hubbub' if name != 'sub' else 'hubbub sub'}" in capsys.readouterr().out


def test_help_is_a_command_too(capsys: Output) -> None:
    with pytest.raises(SystemExit):
        main(["help", "pub"])
    assert capsys.readouterr().out.startswith("usage: hubbub pub ")


def test_the_version(capsys: Output) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"hubbub {VERSION}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serv"], "hubbub: there is no command 'serv'; the nearest is `hubbub serve`"),
        (["publish"], "hubbub: there is no command 'publish'; the nearest is `hubbub pub`"),
        (["--verison"], "hubbub: there is no option --verison; the nearest is --version"),
        (["serve", "--prot", "9"], "hubbub serve: there is no option --prot; the nearest is --port"),
        (["serve", "--por=9"], "hubbub serve: there is no option --por; the nearest is --port"),
        (["serve", "--port", "x"], "hubbub serve: argument --port: 'x': expected 0 to 65535; 0 takes a free one"),
        (["serve", "--port", "65536"], "hubbub serve: argument --port: '65536': expected 0 to 65535"),
        (["demo", "--port", "-1"], "hubbub demo: argument --port: '-1': expected 0 to 65535"),
        (["pub", "room"], "hubbub pub: the following arguments are required: DATA"),
        (["pub", "room", "so", "many"], "hubbub pub: 'many' is one argument too many; put quotes around"),
        (["pub", "room", "hi", "--tag", "x"], "hubbub pub: argument --tag: 'x': expected NAME=VALUE"),
        (["sub"], "hubbub sub: the following arguments are required: CHANNEL"),
        (["sub", "a", "--history", "301"], "hubbub sub: argument --history: '301': expected 0 to 300"),
        (["bench", "--clients", "0"], "hubbub bench: argument --clients: '0': expected 1 or more"),
        (["bench", "--url", "http://a"], "hubbub bench: argument --url: 'http://a': expected such as ws://"),
        (["token", "--ttl", "soon"], "hubbub token: argument --ttl: 'soon': expected seconds, or such as"),
    ],
)
def test_mistakes_in_arguments(arguments: list[str], expected: str, capsys: Output) -> None:
    assert refused(capsys, *arguments).startswith(expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve", "--config", "no.toml"], "hubbub: no.toml: cannot be read: No such file or directory"),
        (["config", "--config", "no.toml"], "hubbub: no.toml: cannot be read: No such file or directory"),
        (["pub", "a", "b", "--url", "localhost:8000"], "hubbub: --url 'localhost:8000': expected such as http://"),
        (["pub", "a", "b", "--url", "http://a:b"], "hubbub: --url 'http://a:b': expected such as http://"),
        (
            ["sub", "a", "--url", "http://a", "--key", "schlüssel"],
            "hubbub: api.key (--key): an API key is printable ASCII",
        ),
        (["token"], "hubbub: nothing to sign with: set auth.hmac_secret (hubbub.toml, HUBBUB_AUTH_HMAC_SECRET)"),
        (["token", "--secret-file", "no"], "hubbub: --secret-file no: cannot be read: No such file or directory"),
        (["bench", "--token-file", "no"], "hubbub: --token-file no: cannot be read: No such file or directory"),
    ],
)
def test_mistakes_in_settings(arguments: list[str], expected: str, capsys: Output) -> None:
    assert main(arguments) == 2
    assert line(capsys).startswith(expected)


def test_what_cannot_be_published_as_it_was_asked_for(capsys: Output) -> None:
    assert main(["pub", "a", "b", "--lines"]) == 1
    assert line(capsys) == "hubbub: --lines reads stdin: give - for DATA"
    assert main(["pub", "a", "-", "--lines", "--idempotency-key", "k"]) == 1
    assert line(capsys) == "hubbub: --idempotency-key is for one publication, and --lines makes many"


def test_words_too_long_are_shown_in_part(capsys: Output) -> None:
    assert len(refused(capsys, "x" * 10_000)) < 300
    assert len(refused(capsys, "serve", "--" + "x" * 10_000)) < 300


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("30s", 30), ("1.5h", 5400), ("7D", 604800)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


def test_a_module_runs_as_the_command_does() -> None:
    said = subprocess.run([sys.executable, "-m", "hubbub", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"hubbub {VERSION}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_disk_that_is_full_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "hubbub", "config"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "hubbub: the output cannot be written: No space left on device\n")
