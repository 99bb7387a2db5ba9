"""Mistakes of back-end code that publishes and listens."""

from __future__ import annotations

from tests.mistakes.mistake import InPython, Mistake

MISTAKES: list[Mistake] = [
    InPython(
        title="`await` is forgotten",
        code="""\
async with Hubbub() as hub:
    hub.publish("news", "hello")""",
        sees="app.py:2: RuntimeWarning: coroutine 'Hubbub.publish' was never awaited",
        means="Nothing was published: an async function that is called has not begun. Type checkers tell, too.",
        write="""\
async with Hubbub() as hub:
    await hub.publish("news", "hello")""",
    ),
    InPython(
        title="A payload that JSON has no form for",
        code="""\
async with Hubbub() as hub:
    await hub.publish("news", {"tags": {"a", "b"}, "by": object()})""",
        sees=(
            "hubbub.errors.BadRequest: payload cannot be written as JSON: objects of type object have no place "
            "there; give text, numbers, lists, dicts, dataclasses, structs or models"
        ),
        means="Sets and dates, structs, dataclasses and pydantic models have a form in JSON; other objects have none.",
        write="""\
async with Hubbub() as hub:
    await hub.publish("news", {"tags": {"a", "b"}, "at": datetime.datetime.now()})""",
    ),
    InPython(
        title="A number that JSON does not have",
        code="""\
async with Hubbub() as hub:
    await hub.publish("temperature", {"celsius": math.nan})""",
        sees="hubbub.errors.BadRequest: payload cannot be written as JSON: it holds NaN or an infinity; give None",
        means="NaN and the infinities are no JSON: a browser could not read the message.",
        write="""\
async with Hubbub() as hub:
    await hub.publish("temperature", {"celsius": None})""",
    ),
    InPython(
        title="A payload that is too large",
        code="""\
async with Hubbub() as hub:
    await hub.publish("news", "x" * 100_000)""",
        sees="hubbub.errors.BadRequest: payload of 100002 bytes is over the channel's max_bytes of 65536",
        means="Every subscriber gets a copy: what is large goes elsewhere, and its address is published.",
        write="""\
async with Hubbub(channels={"default": {"max_bytes": "128KiB"}}) as hub:
    await hub.publish("news", "x" * 100_000)""",
    ),
    InPython(
        title="A payload that does not fit its handler",
        code="""\
hub = Hubbub()

@dataclass
class Order:
    amount: int

@hub.on("orders")
async def show(order: Order): ...

async with hub:
    await hub.publish("orders", {"amount": "three"})""",
        sees="hubbub.errors.BadRequest: payload does not fit Order: amount: Expected `int`, got `str`",
        means="Who publishes is told, and not who listens: nobody has to handle what nobody can read.",
        write="""\
hub = Hubbub()

@dataclass
class Order:
    amount: int

@hub.on("orders")
async def show(order: Order): ...

async with hub:
    await hub.publish("orders", Order(3))""",
    ),
    InPython(
        title="Bytes in a channel of JSON",
        code="""\
async with Hubbub() as hub:
    await hub.publish("image", b"\\x89PNG")""",
        sees=(
            "hubbub.errors.BadRequest: payload is bytes, and this channel carries json: decode it, or set its "
            "data = 'binary'"
        ),
        means="A channel carries JSON, text or bytes, as its rules say.",
        write="""\
async with Hubbub(channels={"default": {"data": "binary"}}) as hub:
    await hub.publish("image", b"\\x89PNG")""",
    ),
    InPython(
        title="A dictionary in a channel of text",
        code="""\
async with Hubbub(channels={"log": {"data": "text"}}) as hub:
    await hub.publish("log:1", {"line": "started"})""",
        sees="hubbub.errors.BadRequest: payload is dict, and this channel carries text: give str",
        means="A channel carries JSON, text or bytes, as its rules say.",
        write="""\
async with Hubbub(channels={"log": {"data": "json"}}) as hub:
    await hub.publish("log:1", {"line": "started"})""",
    ),
    InPython(
        title="A channel of a namespace that nobody declared",
        code="""\
async with Hubbub() as hub:
    await hub.publish("news:sports", "hello")""",
        sees="hubbub.errors.UnknownChannel: unknown channel: namespace 'news' is not declared; add [channels.news]",
        means="What stands before the colon is a namespace; a misspelt one would be a room where nobody is.",
        write="""\
async with Hubbub(channels={"news": {"subscribe": "anyone"}}) as hub:
    await hub.publish("news:sports", "hello")""",
    ),
    InPython(
        title="A channel without a name",
        code="""\
async with Hubbub() as hub:
    await hub.publish("", "hello")""",
        sees="hubbub.errors.BadRequest: channel name is empty",
        means="Perhaps a variable that is empty.",
        write="""\
async with Hubbub() as hub:
    await hub.publish("news", "hello")""",
    ),
    InPython(
        title="A channel name with a space",
        code="""\
async with Hubbub() as hub:
    await hub.publish("breaking news", "hello")""",
        sees="hubbub.errors.BadRequest: channel name contains white space or control characters",
        means="Names are made of visible characters.",
        write="""\
async with Hubbub() as hub:
    await hub.publish("breaking-news", "hello")""",
    ),
    InPython(
        title="A channel name that is too long",
        code="""\
async with Hubbub() as hub:
    await hub.publish("news-" * 60, "hello")""",
        sees="hubbub.errors.BadRequest: channel name of 300 characters is over the limit of 255",
        means="The name travels with every publication; details belong into the payload.",
        write="""\
async with Hubbub() as hub:
    await hub.publish("news", {"about": "news-" * 60})""",
    ),
    InPython(
        title="`async for` over a subscription that was not opened",
        code="""\
async with Hubbub() as hub:
    async for publication in hub.subscribe("news"):
        print(publication.data)""",
        sees=(
            "hubbub.errors.HubbubError: this subscription is not open: use `async with hub.subscribe(...) as "
            "subscription`"
        ),
        means="A subscription has an end, and `async with` is what ends it, whatever happens inside.",
        write="""\
async with Hubbub() as hub:
    async with hub.subscribe("news") as news:
        print(news.channel)""",
    ),
    InPython(
        title="`history` and `since` together",
        code="""\
async with Hubbub() as hub:
    position = (await hub.publish("news", "hello")).position or Position("", 0)
    async with hub.subscribe("news", history=10, since=position) as news:
        print(news.channel)""",
        sees="ValueError: give history or since: both say where to begin",
        means="The last ten, or all since then: one of them.",
        write="""\
async with Hubbub(channels={"default": {"delivery": "recent"}}) as hub:
    position = (await hub.publish("news", "hello")).position
    async with hub.subscribe("news", since=position) as news:
        print(news.channel)""",
    ),
    InPython(
        title="History of a channel that keeps none",
        code="""\
async with Hubbub(channels={"news": {"subscribe": "anyone"}}) as hub:
    print(await hub.history("news:1"))""",
        sees=(
            "hubbub.errors.NotAvailable: not available: this channel keeps nothing, its delivery is 'live'; "
            "'recent' keeps the last publications"
        ),
        means="`live` is a megaphone: who was not there has missed it.",
        write="""\
async with Hubbub(channels={"news": {"subscribe": "anyone", "delivery": "recent"}}) as hub:
    print(await hub.history("news:1"))""",
    ),
    InPython(
        title="Who is in a channel that does not count",
        code="""\
async with Hubbub(channels={"room": {"subscribe": "anyone"}}) as hub:
    print(await hub.presence("room:1"))""",
        sees=(
            "hubbub.errors.NotAvailable: not available: nobody is counted in this channel; presence = true in its "
            "rules does"
        ),
        means="Presence costs a little for each subscriber, and is off unless it is asked for.",
        write="""\
async with Hubbub(channels={"room": {"subscribe": "anyone", "presence": True}}) as hub:
    print(await hub.presence("room:1"))""",
    ),
    InPython(
        title="A position of another life of the channel",
        code="""\
async with Hubbub(channels={"news": {"delivery": "recent"}}) as hub:
    async with hub.subscribe("news:1", since=Position("before", 7)) as news:
        print(news.channel)""",
        sees=(
            "hubbub.core.reader.PositionLost: channel news:1 does not reach back to Position(epoch='before', "
            "offset=7) any more: read the state anew, and subscribe without since"
        ),
        means="What was missed cannot be had any more. That is said, and not passed over: read the state anew.",
        write="""\
async with Hubbub(channels={"news": {"delivery": "recent"}}) as hub:
    async with hub.subscribe("news:1", history=100) as news:
        print(news.channel)""",
    ),
    InPython(
        title="A token without a secret",
        code="""\
hub = Hubbub()
token = hub.token("ann")""",
        sees="hubbub.errors.ConfigurationError: auth.hmac_secret is empty: set it to sign tokens with",
        means="Tokens are signed, or anybody could make them.",
        write="""\
hub = Hubbub(auth={"hmac_secret": SECRET})
token = hub.token("ann")""",
    ),
]
