"""The shape of the code: budgets, docstrings, and what may not stand in a file of this repository.

Which file may import which is import-linter's business (pyproject.toml). Here are the rules that no linter
has. They keep every part readable by one person in one sitting; who raises a budget says why in docs/design.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "hubbub"

FILE_LINES = 600
FUNCTION_LINES = 60
PROTOCOL_METHODS = 8
STRUCT_FIELDS = 10
PARAMETERS = 10
POSITIONAL_PARAMETERS = 2

#: Structs of options that users write: a second one would only be a second place to look.
OPTIONS = {"ChannelRules": 12}

#: Structs that mirror somebody else's table field by field, as the wire's messages do, have its size.
MIRRORS = {PACKAGE / "protocol" / "messages.py"}

#: Methods whose contract is a library's: asyncio's protocols, picows' listeners.
CALLBACKS = {
    *(
        "connection_made",
        "connection_lost",
        "data_received",
        "eof_received",
        "pause_writing",
        "resume_writing",
    ),
    *("on_ws_connected", "on_ws_disconnected", "on_ws_frame"),
}

#: Where packages come from and where a checkout lies are facts of one machine, not of the project.
#: The character classes keep this file from naming what it forbids.
PLACES = re.compile(
    r"python[h]osted|pypi[.]org|registry[.]npm|npm[j]s|debian[.]org|crates[.]io"
    r"|(?<![\w.])/(?:work|farm|root|(?:home|Users)/\w+)/"
)

#: A comment carries its reason: a number tells nothing to those who cannot open the list that it counts in.
NUMBERS = re.compile(r"\bissue\s+#\d|\(#\d+\)|\bGH-\d", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


# ------------------------------------------------------------------------------------------------ the budgets


def test_files_are_short() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in files(".py")}
    nothing_in(f"{name(path)}: {size} lines" for path, size in sizes.items() if size > FILE_LINES)


def test_functions_are_short() -> None:
    sizes = ((path, node, length(node)) for path, node in functions())
    nothing_in(f"{place(path, node)}: {size} lines" for path, node, size in sizes if size > FUNCTION_LINES)


def test_protocols_are_small() -> None:
    sizes = ((path, node, len(public(node))) for path, node in classes("Protocol"))
    nothing_in(f"{place(path, node)}: {size} methods" for path, node, size in sizes if size > PROTOCOL_METHODS)


def test_structs_are_small() -> None:
    sizes = ((path, node, fields(node)) for path, node in classes("Struct") if path not in MIRRORS)
    nothing_in(
        f"{place(path, node)}: {size} fields"
        for path, node, size in sizes
        if size > OPTIONS.get(node.name, STRUCT_FIELDS)
    )


def test_constructors_take_few_things_and_by_name() -> None:
    def faults() -> Iterator[str]:
        for path, node in functions():
            if node.name != "__init__":
                continue
            positional = len(node.args.posonlyargs) + len(node.args.args) - 1
            count = positional + len(node.args.kwonlyargs)
            if count > PARAMETERS:
                yield f"{place(path, node)}: {count} parameters"
            if positional > POSITIONAL_PARAMETERS:
                yield f"{place(path, node)}: {positional} parameters can be given by position"

    nothing_in(faults())


# --------------------------------------------------------------------------------------------- the docstrings


def test_modules_say_what_they_answer_for() -> None:
    # A package is introduced by one line: its files say the rest.
    texts = {path: ast.get_docstring(tree) or "" for path, tree in parsed() if path.name != "__init__.py"}
    nothing_in(f"{name(path)}: docstring of fewer than 2 lines" for path, text in texts.items() if "\n" not in text)


def test_public_names_have_a_contract() -> None:
    nothing_in(
        f"{place(path, node)}: no docstring"
        for path, tree in parsed()
        for node in public(tree)
        if ast.get_docstring(node) is None
    )


def test_public_methods_have_a_contract_of_their_own_or_of_a_protocol() -> None:
    named = {node.name: node for _, node in classes()}
    protocols = [node for _, node in classes("Protocol")]

    def has_contract(owner: ast.ClassDef, method: str) -> bool:
        givers = [owner, *protocols, *(named[base] for base in bases(owner) if base in named)]
        return method in CALLBACKS or any(method in documented(giver) for giver in givers)

    nothing_in(
        f"{place(path, method)}: no docstring, nor has {owner.name} one from a Protocol or a base"
        for path, tree in parsed()
        for owner in public(tree)
        if isinstance(owner, ast.ClassDef)
        for method in public(owner)
        if not has_contract(owner, method.name)
    )


# ---------------------------------------------------------------------------------------- words in any file


def test_no_file_names_the_machine_it_was_written_on() -> None:
    nothing_in(lines_with(PLACES))


def test_no_file_sends_its_reader_to_a_number() -> None:
    nothing_in(lines_with(NUMBERS))


# ------------------------------------------------------------------------------------------------- reading it


@cache
def files(suffix: str = "") -> list[Path]:
    """The files of this repository, committed or about to be."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = {ROOT / name for name in names if name.endswith(suffix)}
    return sorted(path for path in paths if path.is_file())


@cache
def parsed() -> list[tuple[Path, ast.Module]]:
    """Each module of the package, as a tree."""
    return [(path, ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


def functions() -> Iterator[tuple[Path, Function]]:
    """Every function of the package, nested ones too, with its file."""
    return ((path, node) for path, tree in parsed() for node in ast.walk(tree) if isinstance(node, Function))


def classes(base: str = "") -> Iterator[tuple[Path, ast.ClassDef]]:
    """Every class of the package, or those that name a base, with its file."""
    found = ((path, node) for path, tree in parsed() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return ((path, node) for path, node in found if not base or base in bases(node))


def bases(node: ast.ClassDef) -> list[str]:
    """The last part of each base's name: `Struct` for `msgspec.Struct`, `Protocol` for `Protocol[T]`."""
    return [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]


def public(scope: ast.Module | ast.ClassDef) -> list[Function | ast.ClassDef]:
    """What a module or class defines for others; setters and overloads are covered by what they belong to."""
    defined = [node for node in scope.body if isinstance(node, Function | ast.ClassDef)]
    companions = ("overload", "setter", "deleter")
    return [
        node
        for node in defined
        if not node.name.startswith("_")
        and not any(ast.unparse(decorator).endswith(companions) for decorator in node.decorator_list)
    ]


def documented(node: ast.ClassDef) -> set[str]:
    """The methods that a class gives a docstring."""
    return {method.name for method in public(node) if ast.get_docstring(method)}


def fields(node: ast.ClassDef) -> int:
    """How many fields a struct has."""
    annotated = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    return sum("ClassVar" not in ast.unparse(item.annotation) for item in annotated)


def length(node: Function) -> int:
    """How many lines a function has without its docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is None:
        return lines
    docstring = node.body[0]
    return lines - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def lines_with(pattern: re.Pattern[str]) -> Iterator[str]:
    """Where a pattern stands in the text files of this repository."""
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if found := pattern.search(line):
                yield f"{name(path)}:{number}: {found[0]}"


def name(path: Path) -> str:
    """A path as one would type it in the repository."""
    return path.relative_to(ROOT).as_posix()


def place(path: Path, node: Function | ast.ClassDef) -> str:
    """Where something is defined, as editors jump to it, and its name."""
    return f"{name(path)}:{node.lineno} {node.name}"


def nothing_in(faults: Iterable[str]) -> None:
    """Fail with one line for each fault."""
    if found := list(faults):
        pytest.fail("\n  ".join([f"{len(found)} to mend:", *found]), pytrace=False)
