"""Rooms for browsers: messages that nobody misses, who is here, and who is typing.

    hubbub serve examples.chat:hub --host localhost

A page opens it with the official client (`npm install centrifuge`):

    const client = new Centrifuge("ws://localhost:8000/connection/websocket", {data: {name: "ann"}});
    const room = client.newSubscription("room:lobby");
    room.on("publication", ({data}) => console.log(data));
    room.subscribe(); client.connect();
    room.publish({type: "message", text: "hi"});
"""

import msgspec

from hubbub import Connection, Credentials, Ephemeral, Hubbub, PermissionDenied, Publication

hub = Hubbub()


class Message(msgspec.Struct, tag="message"):
    """Kept for who comes back: {"type": "message", "text": "hi"}."""

    text: str
    author: str = ""


class Typing(msgspec.Struct, tag="typing"):
    """A hint, for who listens now: {"type": "typing"}."""

    author: str = ""


class Hello(msgspec.Struct):
    """What a page sends along when it connects."""

    name: str


@hub.authenticate
async def who(connection: Connection) -> Credentials | None:
    """A real application would look at a cookie in `connection.headers`, or verify `connection.token`."""
    try:
        return Credentials(msgspec.convert(connection.data, Hello).name)
    except msgspec.ValidationError:
        return None


@hub.channel("room:{name}", delivery="recent", history_ttl="10m", presence=True)
class Room:
    """All that clients may do in `room:…`."""

    async def subscribe(self, connection: Connection, name: str) -> None:
        """Return to let in, raise to refuse."""
        if name == "staff" and connection.user != "ann":
            raise PermissionDenied("the staff's room is for the staff")

    async def publish(self, connection: Connection, name: str, data: Message | Typing) -> Message | Ephemeral[Typing]:
        """What is returned is published in place of what came: nobody writes in another's name."""
        if isinstance(data, Typing):
            return Ephemeral(Typing(connection.user))
        return Message(data.text, connection.user)


@hub.rpc("room.people")
async def people(connection: Connection, room: str) -> list[str]:
    """`await client.rpc("room.people", "lobby")` in the page."""
    members = await hub.presence(f"room:{room}")
    return sorted({member.user for member in members.values()})


@hub.on("room:*")
async def log(publication: Publication[Message | Typing]) -> None:
    """Back-end code hears it all."""
    if isinstance(publication.data, Message):
        print(f"{publication.channel}: {publication.data.author}: {publication.data.text}", flush=True)
