"""Mistakes that pages and servers make together: connecting, rights, and what clients send."""

from __future__ import annotations

from tests.mistakes.mistake import InPage, Mistake

#: Verifies tokens.
SIGNED = 'hub = Hubbub(auth={"hmac_secret": SECRET}, channels={"news": {"delivery": "recent", "subscribe": "user"}})'

#: Everybody may come in.
OPEN = 'hub = Hubbub(auth={"anonymous": True}, channels={"news": {"delivery": "live", "subscribe": "anyone"}})'

LISTEN = """\
const client = new Centrifuge(url);
client.newSubscription("news:1").subscribe();
client.connect();"""

PUBLISH = """\
const client = new Centrifuge(url);
client.connect();
await client.publish("news:1", {text: "hi"});"""

MISTAKES: list[Mistake] = [
    InPage(
        title="A page without a token",
        server=SIGNED,
        code="new Centrifuge(url).connect();",
        page="3501 bad request",
        sees=(
            "WARNING hubbub.core.access: a client without a token is refused: auth.anonymous = true would let "
            "such clients in, with what the rules allow anyone"
        ),
        means="Only users that a token names may connect.",
        write="new Centrifuge(url, {token}).connect();",
    ),
    InPage(
        title="A token of another secret",
        server=SIGNED,
        code="new Centrifuge(url, {token: foreignToken}).connect();",
        page="3500 invalid token",
        sees=(
            "WARNING hubbub.auth: a token to connect with is refused: token: the signature does not match "
            "auth.hmac_secret: it was signed with another key, or changed"
        ),
        means="Who makes the tokens and who verifies them have to know the same secret.",
        write="new Centrifuge(url, {token}).connect();",
    ),
    InPage(
        title="Tokens on a server without a secret",
        server="hub = Hubbub()",
        code="new Centrifuge(url, {token}).connect();",
        page="3500 invalid token",
        sees=(
            "WARNING hubbub.auth: a token to connect with is refused: no key to verify tokens with: "
            "auth.hmac_secret is empty, and so are auth.public_key and auth.jwks_url"
        ),
        means="There is nothing to verify a token with.",
        write_server='hub = Hubbub(auth={"hmac_secret": SECRET})',
    ),
    InPage(
        title="A token that is over",
        server=SIGNED,
        code="new Centrifuge(url, {token: oldToken, getToken: async () => oldToken}).connect();",
        page="109 token expired",
        sees=(
            "WARNING hubbub.auth: user 'ann' brings the same expired token again, SECONDS seconds too late: "
            "getToken has to fetch a new one"
        ),
        means="`getToken` has to fetch a new one each time it is called; else it is the clocks that differ.",
        write="new Centrifuge(url, {token: oldToken, getToken: async () => token}).connect();",
    ),
    InPage(
        title="A token that is not valid yet",
        server=SIGNED,
        code="new Centrifuge(url, {getToken: async () => earlyToken}).connect();",
        page="109 token not valid yet",
        sees=(
            "WARNING hubbub.auth: a token of user 'ann' is not valid yet, but in SECONDS seconds: the clock of "
            "its issuer is ahead of ours"
        ),
        means="The clock of the machine that makes the tokens is ahead; set both by NTP.",
        write="new Centrifuge(url, {getToken: async () => token}).connect();",
    ),
    InPage(
        title="A token whose time is in milliseconds",
        server=SIGNED,
        code="new Centrifuge(url, {token: millisecondsToken}).connect();",
        page="3500 invalid token",
        sees=(
            "WARNING hubbub.auth: a token to connect with is refused: claim exp: is no Unix time in seconds "
            "(milliseconds?)"
        ),
        means="`Date.now()` counts milliseconds, and a token's `exp` seconds.",
        write="new Centrifuge(url, {token}).connect();",
    ),
    InPage(
        title="A subscription token to connect with",
        server=SIGNED,
        code="new Centrifuge(url, {token: tokenForNews1}).connect();",
        page="3500 invalid token",
        sees=(
            "WARNING hubbub.auth: a token to connect with is refused: claim channel: this is a subscription "
            "token, not one to connect with"
        ),
        means="A token with a `channel` is for that channel alone.",
        write="new Centrifuge(url, {token}).connect();",
    ),
    InPage(
        title="A subscription token of another channel",
        server=SIGNED,
        code="""\
const client = new Centrifuge(url, {token});
client.newSubscription("news:1", {token: tokenForNews2}).subscribe();
client.connect();""",
        page="3500 invalid token",
        sees=(
            "WARNING hubbub.core.access: a subscription token is refused: it is for channel 'news:2' of user "
            "'ann', and came with channel 'news:1' of user 'ann'"
        ),
        means="A subscription token names one channel and one user.",
        write="""\
const client = new Centrifuge(url, {token});
client.newSubscription("news:1", {token: tokenForNews1}).subscribe();
client.connect();""",
    ),
    InPage(
        title="A page of another site",
        server=OPEN,
        origin="https://example.com",
        code="new Centrifuge(url).connect();",
        page="2 transport closed",
        sees=(
            "WARNING hubbub.transports.handshake: refused a connection from 127.0.0.1, from a page of origin "
            "https://example.com to host localhost:PORT; server.allowed_origins = ['https://example.com'] would "
            "allow it"
        ),
        means="Pages of other addresses may connect where they are named: browsers send cookies along from everywhere.",
        write_server='hub = Hubbub(auth={"anonymous": True}, server={"allowed_origins": ["https://example.com"]})',
    ),
    InPage(
        title="A channel of a namespace that nobody declared",
        server=OPEN,
        code="""\
const client = new Centrifuge(url);
client.newSubscription("nwes:1").subscribe();
client.connect();""",
        page="102 unknown channel: namespace 'nwes' is not declared; add [channels.nwes]",
        sees="102 unknown channel: namespace 'nwes' is not declared; add [channels.nwes]",
        means="What stands before the colon is a namespace, and namespaces are declared.",
        write=LISTEN,
    ),
    InPage(
        title="Nobody said who may subscribe",
        server='hub = Hubbub(auth={"anonymous": True}, channels={"news": {"delivery": "live"}})',
        code=LISTEN,
        page="103 permission denied: subscribe = 'token' in the rules of this channel",
        sees="103 permission denied: subscribe = 'token' in the rules of this channel",
        means="Without a rule, a subscription needs a token that names its channel.",
        write_server=OPEN,
    ),
    InPage(
        title="Nobody said who may publish",
        server=OPEN,
        code=PUBLISH,
        page="103 permission denied: publish = 'nobody' in the rules of this channel",
        sees="103 permission denied: publish = 'nobody' in the rules of this channel",
        means="Pages may publish where a rule says so, or a channel class has a method `publish`.",
        write_server="""\
hub = Hubbub(auth={"anonymous": True}, channels={"news": {"subscribe": "anyone", "publish": "anyone"}})""",
    ),
    InPage(
        title="Publishing without being subscribed",
        server="""\
hub = Hubbub(auth={"anonymous": True}, channels={"news": {"subscribe": "anyone", "publish": "subscriber"}})""",
        code=PUBLISH,
        page="103 permission denied: publish = 'subscriber' in the rules of this channel",
        sees="103 permission denied: publish = 'subscriber' in the rules of this channel",
        means="`subscriber` means who is in the channel. A channel class with `publish` means the same.",
        write="""\
const client = new Centrifuge(url);
const news = client.newSubscription("news:1");
news.subscribe();
client.connect();
await news.publish({text: "hi"});""",
    ),
    InPage(
        title="Subscribing to what the server has subscribed to already",
        server="""\
hub = Hubbub(
    auth={"hmac_secret": SECRET, "personal_channel": "user:{user}"}, channels={"user": {"delivery": "recent"}}
)""",
        code="""\
const client = new Centrifuge(url, {token});
client.newSubscription("user:ann").subscribe();
client.connect();""",
        page="105 already subscribed: the server has done it; listen with client.on('publication')",
        sees="105 already subscribed: the server has done it; listen with client.on('publication')",
        means="Each connection is in its personal channel from the start; what comes there is the client's to hear.",
        write="""\
const client = new Centrifuge(url, {token});
client.on("publication", ({channel, data}) => console.log(channel, data));
client.connect();""",
    ),
    InPage(
        title="History of a channel that keeps none",
        server=OPEN,
        code="""\
const client = new Centrifuge(url);
const news = client.newSubscription("news:1");
news.subscribe();
client.connect();
await news.history({limit: 10});""",
        page=(
            "108 not available: this channel keeps nothing, its delivery is 'live'; 'recent' keeps the last "
            "publications"
        ),
        sees=(
            "108 not available: this channel keeps nothing, its delivery is 'live'; 'recent' keeps the last "
            "publications"
        ),
        means="`live` is a megaphone: who was not there has missed it.",
        write_server="""\
hub = Hubbub(auth={"anonymous": True}, channels={"news": {"delivery": "recent", "subscribe": "anyone"}})""",
    ),
    InPage(
        title="Who is in a channel that does not count",
        server=OPEN,
        code="""\
const client = new Centrifuge(url);
const news = client.newSubscription("news:1");
news.subscribe();
client.connect();
await news.presence();""",
        page="108 not available: nobody is counted in this channel; presence = true in its rules does",
        sees="108 not available: nobody is counted in this channel; presence = true in its rules does",
        means="Presence costs a little for each subscriber, and is off unless it is asked for.",
        write_server="""\
hub = Hubbub(auth={"anonymous": True}, channels={"news": {"subscribe": "anyone", "presence": True}})""",
    ),
    InPage(
        title="An RPC where there are none",
        server=OPEN,
        code="""\
const client = new Centrifuge(url);
client.connect();
await client.rpc("now", {});""",
        page="108 not available: no RPC is registered; @hub.rpc(...) does",
        sees="108 not available: no RPC is registered; @hub.rpc(...) does",
        means="Methods are what the application registers with `@hub.rpc`.",
        write_server="""\
hub = Hubbub(auth={"anonymous": True})

@hub.rpc("now")
async def now(connection):
    return "noon\"""",
    ),
    InPage(
        title="An RPC is misspelt",
        server="""\
hub = Hubbub(auth={"anonymous": True})

@hub.rpc("now")
async def now(connection):
    return "noon\"""",
        code="""\
const client = new Centrifuge(url);
client.connect();
await client.rpc("nwo", {});""",
        page="104 method not found: no @hub.rpc('nwo') is registered",
        sees="104 method not found: no @hub.rpc('nwo') is registered",
        means="Methods are what the application registers with `@hub.rpc`.",
        write="""\
const client = new Centrifuge(url);
client.connect();
await client.rpc("now", {});""",
    ),
    InPage(
        title="A request that the RPC cannot read",
        server="""\
hub = Hubbub(auth={"anonymous": True})

@dataclass
class Rename:
    name: str

@hub.rpc("rename")
async def rename(connection, request: Rename):
    return request.name""",
        code="""\
const client = new Centrifuge(url);
client.connect();
await client.rpc("rename", {nmae: "lobby"});""",
        page="107 payload does not fit Rename: Object missing required field `name`",
        sees="107 payload does not fit Rename: Object missing required field `name`",
        means="The request is read as the type of the method's second parameter.",
        write="""\
const client = new Centrifuge(url);
client.connect();
await client.rpc("rename", {name: "lobby"});""",
    ),
    InPage(
        title="A payload that the channel class cannot read",
        server="""\
hub = Hubbub(auth={"anonymous": True})

class Note(msgspec.Struct):
    text: str

@hub.channel("room:{name}", subscribe="anyone", publish="anyone")
class Room:
    async def publish(self, connection, name, data: Note): ...""",
        code="""\
const client = new Centrifuge(url);
client.connect();
await client.publish("room:lobby", {txt: "hi"});""",
        page="107 payload does not fit Note: Object missing required field `text`",
        sees="107 payload does not fit Note: Object missing required field `text`",
        means="The payload is read as the type of the parameter `data`.",
        write="""\
const client = new Centrifuge(url);
client.connect();
await client.publish("room:lobby", {text: "hi"});""",
    ),
    InPage(
        title="A channel name that is no number where one is asked for",
        server="""\
hub = Hubbub(auth={"anonymous": True})

@hub.channel("room:{number}")
class Room:
    async def subscribe(self, connection, number: int): ...""",
        code="""\
const client = new Centrifuge(url);
client.newSubscription("room:lobby").subscribe();
client.connect();""",
        page="107 channel name: number = 'lobby' is no integer",
        sees="107 channel name: number = 'lobby' is no integer",
        means="The capture is annotated `int`.",
        write="""\
const client = new Centrifuge(url);
client.newSubscription("room:12").subscribe();
client.connect();""",
    ),
    InPage(
        title="A payload of a page that is too large",
        server="""\
hub = Hubbub(auth={"anonymous": True}, channels={"news": {"publish": "anyone", "max_bytes": "1KiB"}})""",
        code="""\
const client = new Centrifuge(url);
client.connect();
await client.publish("news:1", {text: "x".repeat(2000)});""",
        page="107 payload of 2011 bytes is over the channel's max_bytes of 1024",
        sees="107 payload of 2011 bytes is over the channel's max_bytes of 1024",
        means="Every subscriber gets a copy: what is large goes elsewhere, and its address is published.",
        write_server="""\
hub = Hubbub(auth={"anonymous": True}, channels={"news": {"publish": "anyone", "max_bytes": "4KiB"}})""",
    ),
    InPage(
        title="`client.send`",
        server=OPEN,
        code="""\
const client = new Centrifuge(url);
client.on("connected", () => client.send({text: "hi"}));
client.connect();
await new Promise(() => {});""",
        page="3508 not available",
        sees=(
            "WARNING hubbub.handlers.application: user '': client.send() has no handler here; use client.rpc(), "
            "and @hub.rpc(...)"
        ),
        means="Messages without an answer have no handler here: an RPC has, and says whether it arrived.",
        write_server="""\
hub = Hubbub(auth={"anonymous": True})

@hub.rpc("say")
async def say(connection, request): ...""",
        write="""\
const client = new Centrifuge(url);
client.connect();
await client.rpc("say", {text: "hi"});""",
    ),
    InPage(
        title="`authenticate` returns a name",
        server="""\
hub = Hubbub()

@hub.authenticate
async def who(connection):
    return "ann\"""",
        code="new Centrifuge(url).connect();",
        page="100 internal server error",
        sees=(
            "ERROR hubbub.handlers.application: who (app.py, line 3) returned 'ann'; expected hubbub.Credentials, "
            "or None"
        ),
        means="Who somebody is, is more than a name: what others see of it, when it expires.",
        write_server="""\
hub = Hubbub()

@hub.authenticate
async def who(connection):
    return Credentials("ann")""",
    ),
]
