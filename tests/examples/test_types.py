"""What editors know of the examples: pyright in strict mode finds no mistake, and knows the type of each payload."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PYRIGHT = ROOT / "web/node_modules/pyright/index.js"

#: Of every `….data` in the examples, the expression and what it is.
PAYLOADS = {
    "chat": {("connection.data", "Any"), ("publication.data", "Message | Typing")},
    "fastapi_app": {("publication.data", "Headline")},
    "notifications": {("publication.data", "Notification")},
    "plain": {("publication.data", "Order")},
    "publish_only": set[tuple[str, str]](),  # it only publishes
    "starlette_app": {("publication.data", "Visits")},
    "wsgi_app": {("publication.data", "str")},
    "test_chat": {("publication.data", "Message"), ("publication.data", "Any")},  # clients' own words are JSON
}

#: Lines that pyright has to refuse, each marked with the word that its error must hold.
WRONG = """\
import msgspec
from hubbub import Ephemeral, Hubbub, Publication

hub = Hubbub()


class Order(msgspec.Struct):
    item: str


@hub.on("orders")  #: Awaitable
def plain(publication: Publication[Order]) -> None: ...


@hub.on("orders")
async def misread(publication: Publication[Order]) -> None:
    print(publication.data.price)  #: price


@hub.channel("room:{name}", delivrey="recent")  #: delivrey
class Room: ...


@hub.channel("hall:{name}", delivery="sometimes")  #: sometimes
class Hall: ...


async def main() -> None:
    hub.publish("orders", 1)  #: await
    async with hub.subscribe("orders", type=Order) as orders:
        async for publication in orders:
            print(publication.data.price)  #: price
    kept = await hub.history("orders", type=Order)
    print([publication.data.price for publication in kept.publications])  #: price
    hub.subscribe("orders", types=Order)  #: subscribe
    print(Ephemeral(Order("tea")).data.price)  #: price
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What pyright says, by name of file: one run for all, since most of its time goes into the libraries."""
    node = shutil.which("node")
    if node is None or not PYRIGHT.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("node and web/node_modules/pyright are missing (python3 dev.py web)", pytrace=False)
        pytest.skip("node or web/node_modules/pyright is missing (python3 dev.py web)")
    folder = tmp_path_factory.mktemp("pyright")
    for example in EXAMPLES:
        (folder / example.name).write_text(example.read_text())
        (folder / f"revealed_{example.name}").write_text(revealed(example.read_text()))
    (folder / "typing_cases.py").write_text((ROOT / "tests/examples/typing_cases.py").read_text())
    (folder / "wrong.py").write_text(WRONG)
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "extraPaths": [str(ROOT / "src"), str(ROOT)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [node, PYRIGHT, "--outputjson", "--pythonpath", sys.executable, "--project", folder]
    run = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder)
    said = json.loads(run.stdout)
    assert said["summary"]["filesAnalyzed"] == 2 * len(EXAMPLES) + 2, said["summary"]
    files: dict[str, list[dict[str, Any]]] = {path.name: [] for path in folder.glob("*.py")}
    for diagnostic in said["generalDiagnostics"]:
        files[Path(diagnostic["file"]).name].append(diagnostic)
    return files


class Revealing(ast.NodeTransformer):
    """Puts `reveal_type` around each `.data`, whose type is then not narrowed by what is asked about it."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr != "data":
            return node
        return ast.Call(ast.Name("reveal_type", ast.Load()), [node], [])


def revealed(source: str) -> str:
    """The same program, in which a type checker says what payloads are."""
    return ast.unparse(ast.fix_missing_locations(Revealing().visit(ast.parse(source))))


def lines(diagnostics: list[dict[str, Any]]) -> list[str]:
    return [f"line {each['range']['start']['line'] + 1}: {each['message']}" for each in diagnostics]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [*(path.name for path in EXAMPLES), "typing_cases.py"])
def test_pyright_finds_no_mistake(name: str, found: dict[str, list[dict[str, Any]]]) -> None:
    assert lines(found[name]) == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize("example", [path.stem for path in EXAMPLES])
def test_pyright_knows_what_payloads_are(example: str, found: dict[str, list[dict[str, Any]]]) -> None:
    said = [each["message"] for each in found[f"revealed_{example}.py"] if each["severity"] == "information"]
    types = {(part[1], part[3]) for part in (text.split('"') for text in said)}
    assert types == PAYLOADS[example]


@pytest.mark.timeout(180)
def test_pyright_refuses_what_is_wrong_and_nothing_else(found: dict[str, list[dict[str, Any]]]) -> None:
    marked = dict(_marks(WRONG))
    said: dict[int, list[str]] = {}
    for each in found["wrong.py"]:
        said.setdefault(each["range"]["start"]["line"] + 1, []).append(each["message"])
    assert sorted(said) == sorted(marked)
    for line, word in marked.items():
        assert any(word in message for message in said[line]), (line, word, said[line])


def _marks(source: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.splitlines(), 1):
        _, mark, word = line.partition("  #: ")
        if mark:
            yield number, word
