"""docs/reference.md is what docs/reference.py makes of the docstrings, and leaves nothing out."""

from __future__ import annotations

import importlib.util
import inspect
from contextlib import chdir
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from tests.docs.pages import ROOT

import hubbub
import hubbub.sync


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The program that writes the page."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_up_to_date(reference: ModuleType) -> None:
    assert (ROOT / "docs/reference.md").read_text() == reference.page(), "write it anew: python3 dev.py docs"


def test_every_public_name_is_there_once(reference: ModuleType) -> None:
    named = [name for subject in reference.SUBJECTS for name in subject.names]
    assert sorted(named) == sorted(set(hubbub.__all__) - reference.ELSEWHERE)


def test_every_public_method_of_the_hub_is_there_once(reference: ModuleType) -> None:
    named = [name for _, names in reference.METHODS for name in names]
    public = {name for name in vars(hubbub.Hubbub) if not name.startswith("_")}
    assert sorted(named) == sorted(public - reference.NOT_FOR_APPLICATIONS)


def test_everything_in_it_has_a_docstring(reference: ModuleType) -> None:
    methods = [getattr(hubbub.Hubbub, name) for _, names in reference.METHODS for name in names]
    classes = [getattr(hubbub, name) for subject in reference.SUBJECTS for name in subject.names]
    assert [each for each in [*methods, *classes] if not inspect.getdoc(each)] == []


class Anything(msgspec.Struct):
    """What examples call Order, Note and Rename."""

    name: str = ""


def test_the_examples_of_the_docstrings_run(reference: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "hubbub.toml").write_text("")
    public: dict[str, Any] = {name: getattr(hubbub, name) for name in hubbub.__all__}
    namespace = public | dict.fromkeys(("Order", "Note", "Rename"), Anything)
    count = 0
    for name in ["__doc__", *(name for _, names in reference.METHODS for name in names)]:
        of = hubbub.Hubbub if name == "__doc__" else getattr(hubbub.Hubbub, name)
        for text in reference.examples(of):
            with chdir(tmp_path):
                namespace["hub"] = hubbub.Hubbub()
                exec(compile(text, f"docstring of {name}", "exec"), namespace)
            count += 1
    assert count >= 4


def test_every_public_method_of_the_blocking_hub_is_there_once(reference: ModuleType) -> None:
    public = {name for name in vars(hubbub.sync.Hubbub) if not name.startswith("_")}
    assert sorted(reference.BLOCKING) == sorted(public)
