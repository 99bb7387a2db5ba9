"""`TestHub`: an application's own hub, started in memory and on a clock that stands still, for as long as one test.

Answers for: giving the hub another house and giving it back as it was; when everything has happened that can happen;
virtual time; clients; and what was published. Refuses to know: what a client says and hears (`client`), and pytest.

Why the hub itself and not a copy of it. A hub is mostly a global of the application's module, and its handlers call
`hub.publish(…)` on that global. A copy with the same handlers would have them publish into another house than the one
that is tested. So the object stays and everything in it is exchanged (`Hubbub.rehearsal`): the node, the settings, the
clock, and the instances of the channel classes, so that nothing that one test left there is found by the next.

Virtual and real time. Whatever hubbub waits for goes by `clock`, which stands still until the test moves it: pings,
expiry, the time to live of history, patience with slow readers, draining. The application's own code runs on the event
loop as always: `asyncio.sleep` in a handler sleeps, a query takes what it takes, and so `client.handler_timeout` is in
real seconds, too. To see a handler time out, set it low: `TestHub(hub, client={"handler_timeout": "20ms"})`. `settle`
waits for the handlers that run, and names the one that does not end; nothing else here waits for real time, unless a
test expects what does not come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from hubbub import model
from hubbub.app import Hubbub
from hubbub.assembly import overrides
from hubbub.clock import ManualClock, TimerWheel
from hubbub.core.hooks import Caller, Guard, Handlers, Handshake
from hubbub.errors import HubbubError
from hubbub.handlers.caller import Credentials, credentials_of
from hubbub.handlers.publication import Publication, decoded
from hubbub.handlers.typed import Reader
from hubbub.settings import Settings
from hubbub.testing.client import Client, Identity
from hubbub.testing.dialects import CodecName, Dialect
from hubbub.testing.expecting import ExpectationFailed
from hubbub.testing.line import Line

#: Turns of the event loop after which it is not coming to rest.
RESTLESS = 10_000

#: Turns that are enough on an event loop that does not show whether it has something to do.
TURNS = 100

#: Real seconds between two looks at handlers that wait for something outside.
GLANCE = 0.001

#: Virtual seconds that pass besides: timers are late by one tick of their wheel, and clocks have rounding errors.
BLINK = 2 * TimerWheel.RESOLUTION


class TestHub:
    """A hub on trial: `async with TestHub(hub) as server`.

    `sections` are settings as `Hubbub` takes them, for this test: `client={"ping_interval": 5}`. `patience` is for how
    many real seconds a client waits for what a test expects before it fails, and `settle` for handlers. `clock` stands
    still, at the present time, until it is moved. Raises HubbubError where the hub is started already.
    """

    __test__ = False  # for pytest: a class of this name is no collection of tests

    def __init__(self, hub: Hubbub, *, patience: float = 5.0, **sections: Mapping[str, object]) -> None:
        self.hub = hub
        self.patience = patience
        self.clock = ManualClock(time=float(int(time.time())))
        self.clients: list[Client] = []
        self._settings = overrides(None, sections)
        self._stack = ExitStack()
        self._published: list[Publication[Any]] = []
        self._vouched: _Vouching | None = None

    async def __aenter__(self) -> Self:
        for key, value in _alone(self.hub.settings).items():
            self._settings.setdefault(key, value)
        with ExitStack() as stack:
            stack.enter_context(self.hub.rehearsal(self.clock, self._settings))
            self._published.clear()
            self.clients.clear()
            node = self.hub.node
            node.handlers = self._vouched = _Vouching(node.handlers)
            await self.hub.start()
            await node.patterns.listen("*", self._announced)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            await self.hub.stop()

    # clients --------------------------------------------------------------------------------------------------------

    async def connect(
        self,
        *,
        user: str | None = None,
        info: object = None,
        channels: Sequence[str] = (),
        ttl: float | None = None,
        token: str = "",
        data: object = None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        codec: CodecName = "json",
    ) -> Client:
        """A client that has connected.

        With `user` the test vouches for who it is, as the application's `authenticate` would, with `info` for others to
        see, subscribed to `channels` at once, for `ttl` seconds (None: for ever). Without `user` everything is real:
        the `token`, what the application's `authenticate` says to `data`, `headers` and `query`, and who may come
        without any.

        Raises ReplyError (109: the token has expired), Disconnect (3500: it is wrong; 3501: nobody may come without
        one), ConnectionRefusedError where there are too many.
        """
        self._require_start()
        if user is None and (info is not None or channels or ttl is not None):
            raise ValueError("info, channels and ttl go with user: without it the token or the application says them")
        if user is not None and token:
            raise ValueError("give user or token: a token says who the user is")
        who = Identity(
            user=user,
            info=info,
            channels=channels,
            ttl=ttl,
            token=token,
            data=data,
            headers=headers or {},
            query=query,
        )
        client = Client(self, who, codec=codec, name=user or f"client {len(self.clients) + 1}")
        self.clients.append(client)
        await client.connect()
        return client

    def join(self, line: Line, dialect: Dialect, identity: Identity) -> None:
        """Put a connection at the server's end of `line`; clients call this. Raises ConnectionRefusedError."""
        self._require_start()
        refusal = self.hub.node.refusal()
        if refusal:
            raise ConnectionRefusedError(refusal)
        line.connection = self.hub.connect(line, dialect.codec)
        if identity.user is not None and self._vouched is not None:
            expire_at = None if identity.ttl is None else self.clock.time() + identity.ttl
            self._vouched.known[line.connection.id] = Credentials(
                identity.user, identity.info, channels=identity.channels, expire_at=expire_at
            )

    def published(self, channel: str = "") -> list[Publication[Any]]:
        """Everything that was published so far, by whomever, in the channel, or in all if it is empty."""
        return [publication for publication in self._published if channel in ("", publication.channel)]

    def _announced(self, channel: str, publication: model.Publication, epoch: str) -> None:
        self._published.append(decoded(channel, publication, epoch, _ANYTHING))

    # time -----------------------------------------------------------------------------------------------------------

    async def pass_time(self, seconds: float) -> None:
        """Let virtual time pass, step by step: all that is due happens at its time, and what follows from it.

        (`clock.move` and `settle` is a jump, as when a machine was asleep: what is due happens once, and late.)
        """
        end = self.clock.now() + seconds + BLINK
        await self.settle()
        while (now := self.clock.now()) < end:
            due = self.hub.node.timers.next_deadline()
            self.clock.move(min(end, due if due is not None else end) - now)
            await self.settle()

    async def settle(self) -> None:
        """Let everything happen that can happen now, handlers included, without virtual time passing.

        Raises ExpectationFailed, naming them, if handlers have not ended within `patience`.
        """
        __tracebackhide__ = True
        self._require_start()
        until = time.monotonic() + self.patience
        await self.rest()
        while running := self.hub.at_work:
            if time.monotonic() > until:
                names = ", ".join(running)
                raise ExpectationFailed(f"handlers have not ended within {self.patience:g} s, still running: {names}")
            await asyncio.sleep(GLANCE)
            await self.rest()

    async def rest(self) -> None:
        """Let everything happen that can happen now, but without waiting for what handlers wait for outside."""
        while True:
            await _until_idle()
            if not self.hub.node.timers.advance():
                return

    def _require_start(self) -> None:
        if self._vouched is None or not self.hub.node.is_running:
            raise HubbubError("the test hub is not started: use `async with TestHub(hub) as server`")


_ANYTHING = Reader(Any)


async def _until_idle() -> None:
    """Until the event loop has nothing to do."""
    ready = getattr(asyncio.get_running_loop(), "_ready", None)  # asyncio's own loops have it; there is no public way
    for _ in range(RESTLESS if ready is not None else TURNS):
        await asyncio.sleep(0)
        if ready is not None and not ready:
            return


def _alone(settings: Settings) -> dict[str, object]:
    """What makes a house of these settings one in memory that asks nobody, where it is not."""
    said = {
        "auth.jwks_url": (settings.auth.jwks_url, ""),
        "broker.url": (settings.broker.url, "memory://"),
        "presence.url": (settings.presence.url, ""),
        "server.workers": (settings.server.workers, 1),
        "store.url": (settings.store.url, "memory://" if settings.store.url else ""),
    }
    return {key: alone for key, (value, alone) in said.items() if value != alone}


class _Vouching:
    """Implements Handlers: the application's own, but for clients whose user the test has named."""

    def __init__(self, application: Handlers) -> None:
        self.known: dict[str, Credentials] = {}
        self._application = application

    def authenticate(
        self, caller: Caller, handshake: Handshake
    ) -> Coroutine[Any, Any, model.Credentials | None] | None:
        """What the test said, or else the application."""
        said = self.known.pop(caller.id, None)
        return self._application.authenticate(caller, handshake) if said is None else _made(said)

    def guard(self, channel: str) -> Guard | None:
        """The application's."""
        return self._application.guard(channel)

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        """The application's."""
        return await self._application.rpc(caller, method, data)

    async def send(self, caller: Caller, data: bytes) -> None:
        """The application's."""
        await self._application.send(caller, data)


async def _made(said: Credentials) -> model.Credentials:
    return credentials_of(said)
