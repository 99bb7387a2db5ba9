"""A publication as Python code gets it.

Answers for: the public noun, and making it of what is kept. Refuses to know: how it came here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec

from hubbub import model
from hubbub.handlers.typed import Reader

T = TypeVar("T")


class Publication(msgspec.Struct, Generic[T], frozen=True):
    """`data` is the payload, as the type that was asked for (bytes in binary channels).

    `position` is None for what is kept nowhere; `info` is the publishing client's, None for a server's publication.
    """

    channel: str
    data: T
    position: model.Position | None = None
    info: model.ClientInfo | None = None
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)


def decoded(channel: str, kept: model.Publication, epoch: str, reader: Reader) -> Publication[T]:
    """What was kept under `epoch`, read by `reader`. Raises BadRequest where the payload does not fit."""
    position = model.Position(epoch, kept.offset) if kept.offset else None
    return Publication(channel, reader.publication(kept), position, kept.info, kept.tags or {})
