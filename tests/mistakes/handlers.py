"""Mistakes in what an application registers: handlers, channel classes, RPCs."""

from __future__ import annotations

from tests.mistakes.mistake import InPython, Mistake

MISTAKES: list[Mistake] = [
    InPython(
        title="A handler that is not async",
        code="""\
hub = Hubbub()

@hub.on("news")
def show(publication):
    print(publication.data)""",
        sees=(
            "hubbub.errors.ConfigurationError: show (app.py, line 3) is a plain function, and would hold up all "
            "others: write `async def show`"
        ),
        means="All connections share one thread: a plain function that waits would hold up all of them.",
        write="""\
hub = Hubbub()

@hub.on("news")
async def show(publication):
    print(publication.data)""",
    ),
    InPython(
        title="A handler with too many parameters",
        code="""\
hub = Hubbub()

@hub.on("news")
async def show(channel, data):
    print(channel, data)""",
        sees=(
            "hubbub.errors.ConfigurationError: show (app.py, line 3) takes (channel, data); a handler takes "
            "(publication)"
        ),
        means="The channel is in the publication.",
        write="""\
hub = Hubbub()

@hub.on("news")
async def show(publication):
    print(publication.channel, publication.data)""",
    ),
    InPython(
        title="`@hub.on` without a channel",
        code="""\
hub = Hubbub()

@hub.on
async def show(publication):
    print(publication.data)""",
        sees=(
            "hubbub.errors.ConfigurationError: show (app.py, line 3): expected a name in the brackets of the "
            'decorator: @hub.on("...")'
        ),
        means="The decorator takes the name of a channel, or a pattern.",
        write="""\
hub = Hubbub()

@hub.on("news")
async def show(publication):
    print(publication.data)""",
    ),
    InPython(
        title="A handler of a channel that nobody declared",
        code="""\
hub = Hubbub()

@hub.on("news:sports")
async def show(publication):
    print(publication.data)

async with hub:
    ...""",
        sees=(
            "hubbub.errors.UnknownChannel: show (app.py, line 3): unknown channel: namespace 'news' is not "
            "declared; add [channels.news]"
        ),
        means="What stands before the colon is a namespace, and namespaces are declared.",
        write="""\
hub = Hubbub(channels={"news": {"delivery": "live"}})

@hub.on("news:sports")
async def show(publication):
    print(publication.data)

async with hub:
    ...""",
    ),
    InPython(
        title="A type that payloads cannot be read as",
        code="""\
hub = Hubbub()

class Order:
    item: str

@hub.on("orders")
async def show(order: Order):
    print(order.item)""",
        sees=(
            "hubbub.errors.ConfigurationError: payloads cannot be read as Order: make it a dataclass, a "
            "msgspec.Struct or a pydantic model"
        ),
        means="Payloads are read as msgspec structs, dataclasses, pydantic models, TypedDicts and built-in types.",
        write="""\
hub = Hubbub()

@dataclass
class Order:
    item: str

@hub.on("orders")
async def show(order: Order):
    print(order.item)""",
    ),
    InPython(
        title="An option of `hub.channel` is misspelt",
        code="""\
hub = Hubbub()

@hub.channel("room:{name}", delivrey="recent")
class Room:
    async def subscribe(self, connection, name): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: Room (app.py, line 3): unknown setting channels.room.delivrey; the "
            "nearest known one is channels.room.delivery"
        ),
        means="The options are those of `[channels.…]` in `hubbub.toml`.",
        write="""\
hub = Hubbub()

@hub.channel("room:{name}", delivery="recent")
class Room:
    async def subscribe(self, connection, name): ...""",
    ),
    InPython(
        title="A class that does not say who may subscribe",
        code="""\
hub = Hubbub()

@hub.channel("room:{name}")
class Room:
    async def publish(self, connection, name, data): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: Room (app.py, line 3) does not say who may subscribe to "
            "'room:{name}': give it `async def subscribe(self, connection, ...)`, or hub.channel(..., "
            "subscribe='anyone' | 'user' | 'owner' | 'token' | 'nobody')"
        ),
        means="Who may listen is decided on purpose, never by leaving it out.",
        write="""\
hub = Hubbub()

@hub.channel("room:{name}", subscribe="anyone")
class Room:
    async def publish(self, connection, name, data): ...""",
    ),
    InPython(
        title="A method is misspelt",
        code="""\
hub = Hubbub()

@hub.channel("room:{name}", subscribe="anyone")
class Room:
    async def publsh(self, connection, name, data): ...""",
        sees="hubbub.errors.ConfigurationError: Room (app.py, line 3) has a method publsh: is it publish?",
        means="A class has subscribe, publish, join and leave; others may be there, but not with nearly such a name.",
        write="""\
hub = Hubbub()

@hub.channel("room:{name}", subscribe="anyone")
class Room:
    async def publish(self, connection, name, data): ...""",
    ),
    InPython(
        title="A capture has another name in the method",
        code="""\
hub = Hubbub()

@hub.channel("room:{room_id}")
class Room:
    async def subscribe(self, connection, room): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: Room.subscribe (app.py, line 5) takes (connection, room); for "
            "'room:{room_id}' it is (connection, room_id)"
        ),
        means="Captures are given by name, as path parameters are in FastAPI.",
        write="""\
hub = Hubbub()

@hub.channel("room:{room_id}")
class Room:
    async def subscribe(self, connection, room_id): ...""",
    ),
    InPython(
        title="A capture of a type that it cannot have",
        code="""\
hub = Hubbub()

@hub.channel("room:{room_id}")
class Room:
    async def subscribe(self, connection, room_id: float): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: Room.subscribe (app.py, line 5): room_id is annotated float; a "
            "capture is str or int"
        ),
        means="A capture is a piece of the channel's name: a text, or an integer.",
        write="""\
hub = Hubbub()

@hub.channel("room:{room_id}")
class Room:
    async def subscribe(self, connection, room_id: int): ...""",
    ),
    InPython(
        title="A method that is not async",
        code="""\
hub = Hubbub()

@hub.channel("room:{name}")
class Room:
    def subscribe(self, connection, name): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: Room.subscribe (app.py, line 5) is a plain function, and would "
            "hold up all others: write `async def subscribe`"
        ),
        means="All connections share one thread: a plain function that waits would hold up all of them.",
        write="""\
hub = Hubbub()

@hub.channel("room:{name}")
class Room:
    async def subscribe(self, connection, name): ...""",
    ),
    InPython(
        title="`data` is missing",
        code="""\
hub = Hubbub()

@hub.channel("room:{name}", subscribe="anyone")
class Room:
    async def publish(self, connection, name): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: Room.publish (app.py, line 5) takes (connection, name); for "
            "'room:{name}' it is (connection, name, data)"
        ),
        means="`publish` is asked about a payload.",
        write="""\
hub = Hubbub()

@hub.channel("room:{name}", subscribe="anyone")
class Room:
    async def publish(self, connection, name, data): ...""",
    ),
    InPython(
        title="A class that cannot be made",
        code="""\
hub = Hubbub()

@hub.channel("room:{name}")
class Room:
    def __init__(self, database): ...
    async def subscribe(self, connection, name): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: Room (app.py, line 3): the hub makes its one instance, without "
            "arguments: Room.__init__() missing 1 required positional argument: 'database'; give each a default"
        ),
        means="There is one instance of each class, which the hub makes.",
        write="""\
hub = Hubbub()
database = object()

@hub.channel("room:{name}")
class Room:
    async def subscribe(self, connection, name):
        print(database)""",
    ),
    InPython(
        title="A function in place of a class",
        code="""\
hub = Hubbub()

@hub.channel("room:{name}", subscribe="anyone")
async def room(connection, name): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: room (app.py, line 3) is no class: hub.channel decorates the class "
            "that speaks for its channels"
        ),
        means="A class, since it answers several questions. For back-end code that only listens there is `hub.on`.",
        write="""\
hub = Hubbub()

@hub.channel("room:{name}")
class Room:
    async def subscribe(self, connection, name): ...""",
    ),
    InPython(
        title="Two classes for the same channels",
        code="""\
hub = Hubbub()

@hub.channel("room:{name}")
class Room:
    async def subscribe(self, connection, name): ...

@hub.channel("room:{number}")
class NumberedRoom:
    async def subscribe(self, connection, number): ...""",
        sees="hubbub.errors.ConfigurationError: 'room:{name}' and 'room:{number}' are the same channels: keep one",
        means="What a capture is called tells no channels apart; something literal does.",
        write="""\
hub = Hubbub()

@hub.channel("room:{name}")
class Room:
    async def subscribe(self, connection, name): ...

@hub.channel("room:number:{number}")
class NumberedRoom:
    async def subscribe(self, connection, number): ...""",
    ),
    InPython(
        title="Rules in the file and in Python",
        files={"hubbub.toml": '[server]\nport = 9000\n\n[channels.room]\ndelivery = "recent"\n'},
        code="""\
hub = Hubbub(config="hubbub.toml")

@hub.channel("room:{name}", delivery="latest")
class Room:
    async def subscribe(self, connection, name): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: 'room:{name}' has its rules in [channels.room] of hubbub.toml, "
            "line 4, and in Room (app.py, line 3): keep one"
        ),
        means="The rules of a namespace stand in one place, so that nobody reads the wrong one.",
        write_files={"hubbub.toml": "[server]\nport = 9000\n"},
        write="""\
hub = Hubbub(config="hubbub.toml")

@hub.channel("room:{name}", delivery="latest")
class Room:
    async def subscribe(self, connection, name): ...""",
    ),
    InPython(
        title="A pattern without a namespace",
        code="""\
hub = Hubbub()

@hub.channel("{name}")
class Room:
    async def subscribe(self, connection, name): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: channel pattern '{name}': it begins with its namespace, as in "
            "'room:{room_id}'"
        ),
        means="A class has a namespace of channels, not all channels there are.",
        write="""\
hub = Hubbub()

@hub.channel("room:{name}")
class Room:
    async def subscribe(self, connection, name): ...""",
    ),
    InPython(
        title="Two RPCs of one name",
        code="""\
hub = Hubbub()

@hub.rpc("rename")
async def rename(connection, request): ...

@hub.rpc("rename")
async def rename_again(connection, request): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: rename_again (app.py, line 6): RPC 'rename' is rename (app.py, "
            "line 3) already"
        ),
        means="A method has one answer.",
        write="""\
hub = Hubbub()

@hub.rpc("rename")
async def rename(connection, request): ...

@hub.rpc("rename.again")
async def rename_again(connection, request): ...""",
    ),
    InPython(
        title="An RPC named `publish`",
        code="""\
hub = Hubbub()

@hub.rpc("publish")
async def publish(connection, request): ...""",
        sees=(
            "hubbub.errors.ConfigurationError: publish (app.py, line 3): RPC 'publish' is hubbub's own; choose "
            "another name"
        ),
        means="That one is built in: pages publish with options by it.",
        write="""\
hub = Hubbub()

@hub.rpc("articles.publish")
async def publish(connection, request): ...""",
    ),
    InPython(
        title="An RPC without the connection",
        code="""\
hub = Hubbub()

@hub.rpc("now")
async def now(): ...""",
        sees="hubbub.errors.ConfigurationError: now (app.py, line 3) takes (); an RPC takes (connection, request)",
        means="A method is told who asks, and then what is asked.",
        write="""\
hub = Hubbub()

@hub.rpc("now")
async def now(connection): ...""",
    ),
]
