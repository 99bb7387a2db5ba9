"""What a type checker knows of the Python API: read by pyright (strict) and mypy (strict), never run.

Answers for: one `assert_type` for each way in which a payload gets its type. Refuses to know: what it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_type

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette

from hubbub import (
    ClientInfo,
    Connection,
    Credentials,
    Ephemeral,
    History,
    Hubbub,
    Position,
    PresenceStats,
    Publication,
    Published,
    Subscription,
)

hub = Hubbub(auth={"anonymous": True}, channels={"orders": {"delivery": "recent", "history_size": 10}})


class Order(msgspec.Struct):
    item: str


@dataclass
class Note:
    text: str


class Headline(BaseModel):
    title: str


async def subscribing(since: Position) -> None:
    assert_type(hub.subscribe("a"), Subscription[Any])
    assert_type(hub.subscribe("a", type=Order, history=5), Subscription[Order])
    async with hub.subscribe("a", type=Order) as orders:
        assert_type(orders, Subscription[Order])
        assert_type(await anext(orders), Publication[Order])
        async for publication in orders:
            assert_type(publication, Publication[Order])
            assert_type(publication.data, Order)
            assert_type(publication.data.item, str)
            assert_type(publication.position, Position | None)
            assert_type(publication.info, ClientInfo | None)
            assert_type(publication.tags, Mapping[str, str])
    async with hub.subscribe("a", type=Note, since=since) as notes:
        async for note in notes:
            assert_type(note.data.text, str)
    async with hub.subscribe("a", type=Order | Note) as either:
        assert_type((await anext(either)).data, Order | Note)
    async with hub.subscribe("a", type=list[int]) as numbers:
        async for number in numbers:
            assert_type(number.data, list[int])
    async with hub.subscribe("a", history=3) as anything:
        async for publication_of_anything in anything:
            assert_type(publication_of_anything.data, Any)


async def reading() -> None:
    assert_type(await hub.history("a"), History[Any])
    kept = await hub.history("a", type=Headline, limit=3, reverse=True)
    assert_type(kept, History[Headline])
    assert_type(kept.position, Position)
    assert_type([publication.data.title for publication in kept.publications], list[str])
    assert_type(await hub.presence("a"), dict[str, ClientInfo])
    assert_type(await hub.presence_stats("a"), PresenceStats)
    assert_type(await hub.channels("a*"), dict[str, int])
    assert_type(await hub.subscribers("a"), int)


async def publishing() -> None:
    published = await hub.publish("a", Order("tea"), tags={"a": "b"}, idempotency_key="k", version=3)
    assert_type(published, Published)
    assert_type(published.position, Position | None)
    assert_type(await hub.publish_many([("a", Order("tea")), ("b", 1)]), list[Published])


async def servers() -> None:
    assert_type(hub.token("ann", ttl=60, info={"name": "Ann"}, channels=["a"]), str)
    assert_type(await hub.disconnect("ann", code=4000, reason="bye"), int)
    assert_type(await hub.unsubscribe("ann", "a"), int)
    assert_type(await hub.revoke("ann"), int)


@hub.on("orders:*")
async def with_its_publication(publication: Publication[Order]) -> None:
    assert_type(publication.data, Order)


@hub.on("orders:1")
async def with_its_payload(order: Order) -> int:
    return len(order.item)


async def decorated_functions_stay_what_they_are(order: Order) -> None:
    assert_type(await with_its_payload(order), int)
    assert_type(await rename(Connection("id"), Note("new")), Order)
    assert_type(await who(Connection("id")), Credentials | None)
    assert_type(Room(), Room)
    assert_type(await Room().publish(Connection("id"), 1, Note("hi")), Note | Ephemeral[Order] | None)


@hub.channel("room:{number}", delivery="recent", history_ttl="10m", max_bytes="4KiB", presence=True, rate="5/s")
class Room:
    async def subscribe(self, connection: Connection, number: int) -> None:
        assert_type(connection.user, str)
        assert_type(connection.headers, Mapping[str, str])

    async def publish(self, connection: Connection, number: int, data: Note) -> Note | Ephemeral[Order] | None:
        if not data.text:
            ephemeral = Ephemeral(Order("typing"))
            assert_type(ephemeral, Ephemeral[Order])
            return ephemeral
        return data if number else None

    async def join(self, connection: Connection, number: int) -> None: ...
    async def leave(self, connection: Connection, number: int) -> None: ...


@hub.rpc("rename")
async def rename(connection: Connection, request: Note) -> Order:
    return Order(request.text)


@hub.authenticate
async def who(connection: Connection) -> Credentials | None:
    return Credentials("ann", info={"name": "Ann"}, channels=["a"]) if connection.token else None


def mounted() -> tuple[FastAPI, Starlette]:
    fast, star = FastAPI(lifespan=hub.lifespan), Starlette(lifespan=hub.lifespan)
    fast.mount("/", hub.asgi())
    star.mount("/rt", hub.asgi(fallback=fast))
    return fast, star
