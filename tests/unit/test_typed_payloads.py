"""Payloads as types: what may be asked for, and what is refused when it is asked for and not with the first payload."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import msgspec
import pytest
from pydantic import BaseModel

from hubbub.errors import BadRequest, ConfigurationError
from hubbub.handlers.typed import Reader


class Size(enum.Enum):
    SMALL = "small"


class Tree(msgspec.Struct):
    name: str
    branches: list[Tree] = []


@dataclass
class Order:
    at: datetime.datetime
    size: Size
    id: uuid.UUID
    price: decimal.Decimal
    kind: Literal["tea", "cake"]
    tree: dict[str, Tree | None]


class Row(TypedDict):
    name: str


class Model(BaseModel):
    name: str


class Plain:
    """Nobody said what it is made of."""


class Holder(msgspec.Struct):
    parts: dict[str, list[Plain | None]]


@pytest.mark.parametrize(
    "type", [int, str | None, list[Tree], Tree, Order, Row, Model, dict[str, Any], tuple[int, str]]
)
def test_what_has_a_form_in_json_can_be_asked_for(type: Any) -> None:
    Reader(type)


@pytest.mark.parametrize("type", [Plain, Holder, list[Plain], Plain | None, dict[str, Holder]])
def test_a_class_that_nobody_described_is_refused_at_once(type: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read as Plain: make it a dataclass, a msgspec.Struct or"):
        Reader(type)


@pytest.mark.parametrize(
    ("type", "data", "text"),
    [
        (Tree, b'{"name":"a","branches":[{}]}', "payload does not fit Tree: branches[0]: Object missing required"),
        (Model, b'{"name":1}', "payload does not fit Model: name: Input should be a valid string"),
        (Row, b"[]", "payload does not fit Row: Expected `object`, got `array`"),
        (int, b"1.5", "payload does not fit int: Expected `int`, got `float`"),
    ],
)
def test_what_does_not_fit_is_told_with_its_field(type: Any, data: bytes, text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        Reader(type).json(data)
    assert refused.value.message.startswith(text)
