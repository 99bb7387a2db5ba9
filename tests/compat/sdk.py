"""Official clients, all held the same way: one scenario runs with each of them.

Answers for: the words that scenarios use (`Client`, `Subscription`), waiting for what a client tells, and the drivers
that make an SDK do it: centrifuge-js in Node and in a browser, centrifuge-python in this process. Refuses to know:
servers, and what is right.

An SDK speaks JSON or Protobuf. In Protobuf payloads are bytes; scenarios hand over JSON in both, drivers encode.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import centrifuge
from playwright.async_api import Page
from tests.serving import leashed

HERE = Path(__file__).parent

Context = dict[str, Any]
Emit = Callable[[str, str, str, Context], None]  # client, channel, event, context

#: Seconds. What is waited for comes within milliseconds, or on a loaded machine within a few seconds, or never.
PATIENCE = 8.0

#: Milliseconds between attempts to come back: least and most.
DELAYS = (20, 200)


class Refused(Exception):
    """A call was answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Log:
    """What one client told about itself, or about one channel."""

    def __init__(self, whose: str) -> None:
        self.all: list[tuple[str, Context]] = []
        self._whose = whose
        self._queues: defaultdict[str, asyncio.Queue[Context]] = defaultdict(asyncio.Queue)

    def add(self, event: str, context: Context) -> None:
        """It told this."""
        self.all.append((event, context))
        self._queues[event].put_nowait(context)

    async def next(self, event: str) -> Context:
        """The next event of this kind that nobody took yet."""
        try:
            return await asyncio.wait_for(self._queues[event].get(), PATIENCE)
        except TimeoutError:
            told = "\n  ".join(f"{kind} {context}" for kind, context in self.all) or "nothing"
            raise AssertionError(f"{self._whose}: no {event!r} came; what came:\n  {told}") from None

    async def take(self, event: str, count: int) -> list[Context]:
        """The next `count` of them."""
        return [await self.next(event) for _ in range(count)]

    def told(self, event: str) -> list[Context]:
        """All events of this kind so far."""
        return [context for kind, context in self.all if kind == event]


class Driver(Protocol):
    """Makes an SDK do something. Raises Refused."""

    async def call(self, operation: str, **args: Any) -> Any:
        """Do it; see driver.js for the operations."""
        ...


class Logs:
    """The logs of all clients, wherever they live."""

    def __init__(self) -> None:
        self._logs: dict[tuple[str, str], Log] = {}

    def of(self, client: str, channel: str = "") -> Log:
        """The log of a client, or of its subscription to a channel."""
        return self._logs.setdefault((client, channel), Log(f"{client} {channel}".strip()))

    def emit(self, client: str, channel: str, event: str, context: Context) -> None:
        """A driver was told something."""
        self.of(client, channel).add(event, context)


class Sdk(NamedTuple):
    """One official client library, in one of its protocols."""

    name: str
    driver: Driver
    logs: Logs
    protobuf: bool

    @property
    def is_javascript(self) -> bool:
        """centrifuge-js, wherever it runs."""
        return not self.name.startswith("python")


_numbers = itertools.count(1)


class Client:
    """One client of an SDK."""

    def __init__(self, sdk: Sdk) -> None:
        self.sdk = sdk
        self.name = f"{sdk.name}-{next(_numbers)}"
        self.log = sdk.logs.of(self.name)
        self.id = ""

    async def call(self, operation: str, **args: Any) -> Any:
        """One operation of the driver."""
        return await self.sdk.driver.call(operation, client=self.name, **args)

    async def open(self, url: str, *, payload: str = "", **options: Any) -> Client:
        """Make it, without connecting."""
        payload = payload or ("text" if self.sdk.protobuf else "json")
        await self.call("open", url=url, protobuf=self.sdk.protobuf, payload=payload, delays=DELAYS, **options)
        return self

    async def connect(self) -> Context:
        """Connect, and wait until it has."""
        await self.call("connect")
        connected = await self.log.next("connected")
        self.id = connected["client"]
        return connected

    async def back(self) -> Context:
        """Wait until it is connected again."""
        connected = await self.log.next("connected")
        self.id = connected["client"]
        return connected

    async def disconnect(self) -> None:
        """Leave."""
        await self.call("disconnect")

    def subscription(self, channel: str) -> Subscription:
        """A channel, not subscribed to yet."""
        return Subscription(self, channel)

    async def subscribe(self, channel: str, **options: Any) -> Subscription:
        """Subscribe, and wait until it is."""
        subscription = self.subscription(channel)
        await subscription.subscribe(**options)
        await subscription.log.next("subscribed")
        return subscription

    async def publish(self, channel: str, data: Any) -> None:
        """Publish, and wait for the answer."""
        await self.call("publish", channel=channel, data=data)

    async def history(
        self, channel: str, *, limit: int = 0, since: Context | None = None, reverse: bool = False
    ) -> Any:
        """A page and the position."""
        return await self.call("history", channel=channel, limit=limit, since=since, reverse=reverse)

    async def presence(self, channel: str) -> Any:
        """Who is there."""
        return await self.call("presence", channel=channel)

    async def presence_stats(self, channel: str) -> Any:
        """How many."""
        return await self.call("presence_stats", channel=channel)

    async def refused(self, operation: str, **args: Any) -> int:
        """The code that an operation is refused with."""
        try:
            answer = await self.call(operation, **args)
        except Refused as refusal:
            return refusal.code
        raise AssertionError(f"{operation} was not refused but answered: {answer}")

    async def lives(self) -> None:
        """It is connected, and the server answers it."""
        assert await self.call("state") == "connected"
        assert await self.refused("rpc", method="nothing", data={}) == 108


class Subscription:
    """A client's subscription to one channel."""

    def __init__(self, client: Client, channel: str) -> None:
        self.client = client
        self.channel = channel
        self.log = client.sdk.logs.of(client.name, channel)

    async def subscribe(self, *, connect: bool = False, **options: Any) -> None:
        """Begin, and wait for nothing. `connect`: connect the client in the same breath."""
        given: Context = {
            "token": "",
            "tokens": None,
            "join_leave": False,
            "recoverable": False,
            "since": None,
        } | options
        operation = "connect_and_subscribe" if connect else "subscribe"
        await self.client.call(operation, channel=self.channel, delays=DELAYS, **given)

    async def unsubscribe(self) -> None:
        """End it."""
        await self.client.call("unsubscribe", channel=self.channel)

    async def data(self, count: int) -> list[Any]:
        """What the next publications hold."""
        return [publication["data"] for publication in await self.log.take("publication", count)]


# centrifuge-js ------------------------------------------------------------------------------------------------------


class NodeDriver:
    """centrifuge-js in a Node process, which all its clients share."""

    def __init__(self, logs: Logs, node: str) -> None:
        self._logs = logs
        self._node = node
        self._waiting: dict[int, asyncio.Future[Context]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start Node."""
        self._process = await asyncio.create_subprocess_exec(
            *leashed(self._node, HERE / "node" / "main.mjs"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        self._reader = asyncio.create_task(self._read(self._process))

    async def stop(self) -> None:
        """End it: it ends by itself when nobody calls any more."""
        assert self._process is not None, "started"
        assert self._process.stdin is not None, "it was asked for"
        assert self._reader is not None, "started"
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), PATIENCE)
        await self._reader

    async def call(self, operation: str, **args: Any) -> Any:
        assert self._process is not None, "started"
        assert self._process.stdin is not None, "it was asked for"
        id = next(_numbers)
        future = self._waiting[id] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"id": id, "operation": operation, "args": args}).encode() + b"\n")
        return _result(await asyncio.wait_for(future, PATIENCE))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None, "it was asked for"
        async for line in process.stdout:
            said = json.loads(line)
            if "event" in said:
                self._logs.emit(**said["event"])
            else:
                self._waiting.pop(said["id"]).set_result(said)
        for future in self._waiting.values():
            future.set_exception(RuntimeError("Node has ended; its stderr says why"))


class PageDriver:
    """centrifuge-js in a page of a browser."""

    def __init__(self, logs: Logs, page: Page) -> None:
        self._logs = logs
        self._page = page

    async def start(self, script: Path) -> None:
        """Fill the page: `script` is the SDK as pages load it."""
        await self._page.expose_function("emit", lambda event: self._logs.emit(**event))
        for file in (script, HERE / "node" / "driver.js", HERE / "node" / "page.js"):
            await self._page.add_script_tag(path=file)

    async def call(self, operation: str, **args: Any) -> Any:
        return _result(await self._page.evaluate("([operation, args]) => call(operation, args)", [operation, args]))


def _result(answer: Context) -> Any:
    if "error" in answer:
        raise Refused(answer["error"]["code"], answer["error"]["message"])
    return answer["result"]


# centrifuge-python --------------------------------------------------------------------------------------------------


class PythonDriver:
    """centrifuge-python, on this event loop."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._clients: dict[str, PythonClient] = {}

    async def call(self, operation: str, **args: Any) -> Any:
        client = args.pop("client")
        if operation == "open":
            self._clients[client] = PythonClient(client, self._logs, **args)
            return None
        try:
            return await getattr(self._clients[client], operation)(**args)
        except centrifuge.ReplyError as error:
            raise Refused(error.code, error.message) from None


class PythonClient:
    """One centrifuge.Client; its methods are the operations."""

    def __init__(self, name: str, logs: Logs, *, url: str, protobuf: bool, payload: str, **options: Any) -> None:
        self._name = name
        self._logs = logs
        self._payload = payload
        self._dispenser("", options)
        low, high = options.pop("delays")
        data = options.pop("data", None)
        self._client = centrifuge.Client(
            url,
            use_protobuf=protobuf,
            min_reconnect_delay=low / 1000,
            max_reconnect_delay=high / 1000,
            data=None if data is None else self._encode(data),
            proxy=None,
            **options,
        )
        self._listen(self._client.events, "")

    async def connect(self) -> None:
        await self._client.connect()

    async def disconnect(self) -> None:
        await self._client.disconnect()

    async def set_token(self, token: str) -> None:
        self._client.set_token(token)

    async def state(self) -> str:
        return str(self._client.state.value)

    async def subscribe(self, channel: str, **options: Any) -> None:
        subscription = self._client.get_subscription(channel)
        if subscription is None:
            assert options.pop("since") is None, "this SDK has no `since`"
            low, high = options.pop("delays")
            self._dispenser(channel, options)
            subscription = self._client.new_subscription(
                channel, min_resubscribe_delay=low / 1000, max_resubscribe_delay=high / 1000, **options
            )
            self._listen(subscription.events, channel)
        await subscription.subscribe()

    async def connect_and_subscribe(self, channel: str, **options: Any) -> None:
        await self.subscribe(channel, **options)
        await self.connect()

    async def unsubscribe(self, channel: str) -> None:
        await self._client.get_subscription(channel).unsubscribe()

    async def flap(self, channel: str, times: int) -> None:
        subscription = self._client.get_subscription(channel)
        for _ in range(times):
            await subscription.unsubscribe()
            await subscription.subscribe()

    async def publish(self, channel: str, data: Any) -> None:
        await self._client.publish(channel, self._encode(data))

    async def batch(self, channel: str, data: list[Any]) -> None:
        await asyncio.gather(*(self.publish(channel, item) for item in data))

    async def rpc(self, method: str, data: Any) -> Any:
        return self._decode((await self._client.rpc(method, self._encode(data))).data)

    async def history(self, channel: str, limit: int, since: Context | None, reverse: bool) -> Context:
        position = centrifuge.StreamPosition(since["offset"], since["epoch"]) if since is not None else None
        page = await self._client.history(channel, limit=limit, since=position, reverse=reverse)
        publications = [self._publication(item) for item in page.publications]
        return {"publications": publications, "offset": page.offset, "epoch": page.epoch}

    async def presence(self, channel: str) -> Context:
        return {id: self._info(info) for id, info in (await self._client.presence(channel)).clients.items()}

    async def presence_stats(self, channel: str) -> Context:
        stats = await self._client.presence_stats(channel)
        return {"clients": stats.num_clients, "users": stats.num_users}

    def _dispenser(self, channel: str, options: Context) -> None:
        """As in driver.js."""
        tokens = options.pop("tokens", None)
        if tokens is None:
            return

        async def get_token(channel: str = channel) -> str:
            self._logs.emit(self._name, channel, "get_token", {})
            if not tokens:
                raise LookupError("no token is left")
            return str(tokens.pop(0))

        options["get_token"] = get_token

    def _listen(self, events: Any, channel: str) -> None:
        for event in (name.removeprefix("on_") for name in dir(events) if name.startswith("on_")):

            async def told(context: Any, event: str = event) -> None:
                self._logs.emit(self._name, channel, event, {"channel": channel} | self._context(context))

            setattr(events, f"on_{event}", told)

    def _context(self, context: Any) -> Context:
        found = dict(vars(context))
        if "pub" in found:
            found |= self._publication(found.pop("pub"))
        if "info" in found and not isinstance(found["info"], dict):
            found["info"] = self._info(found["info"])
        if "stream_position" in found:
            position = found.pop("stream_position") or centrifuge.StreamPosition(0, "")
            found |= {"offset": position.offset, "epoch": position.epoch}
        if "error" in found:
            error = found.pop("error")
            found = {"code": getattr(error, "code", found["code"]), "message": str(error)}
        return found

    def _publication(self, publication: Any) -> Context:
        return {
            "data": self._decode(publication.data),
            "offset": publication.offset,
            "info": self._info(publication.info),
            "tags": publication.tags or {},
        }

    def _info(self, info: Any) -> Context | None:
        if info is None:
            return None
        inner = {"conn_info": self._decode(info.conn_info), "chan_info": self._decode(info.chan_info)}
        return {"client": info.client, "user": info.user} | inner

    def _encode(self, data: Any) -> Any:
        if self._payload == "json":
            return data
        return json.dumps(data).encode() if self._payload == "text" else base64.b64decode(data)

    def _decode(self, data: Any) -> Any:
        if data is None or self._payload == "json":
            return data
        if not data:
            return None
        return json.loads(data) if self._payload == "text" else base64.b64encode(data).decode()
