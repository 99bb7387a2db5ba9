"""The documentation names what exists: settings, rooms, and the commands of the README."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from hubbub.channels import ChannelRules
from hubbub.settings import Settings

ROOT = Path(__file__).parents[2]


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    missing = []
    for section in msgspec.structs.fields(Settings):
        if section.name in {"channels", "dev", "sources"}:
            continue
        keys = {field.name for field in msgspec.structs.fields(section.type)}
        part = text.split(f"## [{section.name}]")[1].split("\n## ")[0]
        missing += [f"{section.name}.{key}" for key in keys if f"`{key}`" not in part]
    rules = text.split("## [channels.NAME]")[1]
    missing += [
        f"channels.*.{field.name}" for field in msgspec.structs.fields(ChannelRules) if f"`{field.name}`" not in rules
    ]
    assert not missing, f"docs/configuration.md leaves out: {missing}"


def test_the_plan_of_the_house_names_every_room() -> None:
    plan = (ROOT / "docs/architecture.md").read_text()
    rooms = {path.stem for path in (ROOT / "src/hubbub").rglob("*.py") if path.stem not in {"__init__", "room"}}
    unnamed = sorted(room for room in rooms if not re.search(rf"\b{re.escape(room)}\b", plan))
    assert not unnamed, f"docs/architecture.md does not say where these are: {unnamed}"
