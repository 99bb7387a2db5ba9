"""Publish and subscribe in one process, without a server: back-end code that talks to back-end code.

Run it with `python examples/plain.py`.
"""

import asyncio

import msgspec

from hubbub import BadRequest, Hubbub, Publication

hub = Hubbub(channels={"orders": {"delivery": "recent"}})


class Order(msgspec.Struct):
    """What is published in `orders:…`; a dataclass or a pydantic model does as well."""

    item: str
    price: float


takings: list[float] = []


@hub.on("orders:*")
async def count(order: Order) -> None:
    """A handler that asks for the payload gets it as its type."""
    takings.append(order.price)


@hub.on("orders:kitchen")
async def cook(publication: Publication[Order]) -> None:
    """One that asks for the publication also learns where it stands."""
    if publication.position is not None:
        print(f"kitchen: {publication.data.item} is order {publication.position.offset}")


async def main() -> None:
    """Everything between start and stop; all handlers have finished when the block ends."""
    async with hub:
        first = await hub.publish("orders:kitchen", Order("soup", 4.5))
        await hub.publish("orders:kitchen", {"item": "bread", "price": 2})

        # The last two, then whatever comes, without a hole in between.
        async with hub.subscribe("orders:kitchen", type=Order, history=2) as orders:
            await hub.publish("orders:kitchen", Order("cake", 3.5))
            async for publication in orders:
                print(f"waiter: {publication.data.item}")
                if publication.data.item == "cake":
                    break

        # Who knows its last position gets what it has missed since.
        async with hub.subscribe("orders:kitchen", type=Order, since=first.position) as orders:
            publication = await anext(orders)
            print(f"after the soup: {publication.data.item}")

        kept = await hub.history("orders:kitchen", type=Order)
        print(f"all: {', '.join(publication.data.item for publication in kept.publications)}")

        try:
            await hub.publish("orders:kitchen", {"item": "wine", "price": "a lot"})
        except BadRequest as error:
            print(f"refused: {error}")
    print(f"takings: {sum(takings):.2f}")


if __name__ == "__main__":
    asyncio.run(main())
