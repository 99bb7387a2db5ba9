"""One Redis or Valkey, examined as hubbub would use it.

Answers for: in which order it is asked, and that a question which is refused costs its own answer only. Refuses to
know: how answers are judged.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from hubbub.channels import DEFAULT, Namespaces
from hubbub.clock import Clock
from hubbub.doctor.configured import is_this_machine
from hubbub.doctor.figures import buffers, from_info, parse_info, unreadable
from hubbub.doctor.findings import Finding
from hubbub.doctor.listener import Listener, hearing, subscribing
from hubbub.doctor.neighbours import Neighbours
from hubbub.doctor.rights import READING, Side, rights, rule
from hubbub.doctor.sentinels import is_sentinel, sentinels
from hubbub.doctor.trials import answering, clocks, publishing
from hubbub.errors import BackendError, ConfigurationError
from hubbub.redis.dialing import dial
from hubbub.redis.pipeline import Pipeline
from hubbub.redis.topology import Endpoint, endpoint_of
from hubbub.redis.wire import RedisError
from hubbub.settings import Broker, Settings
from hubbub.settings.sections import without_password

_CLIENT = "hubbub-doctor"

_LIMIT = "client-output-buffer-limit"


class Server(NamedTuple):
    """What the settings name, for which sides, and in which setting."""

    url: str
    sides: tuple[Side, ...]
    setting: str

    @property
    def user(self) -> str:
        """As which user of the server."""
        return unquote(urlsplit(self.url).username or "") or "default"

    @property
    def about(self) -> str:
        """For people."""
        return f"{' and '.join(self.sides)}: {without_password(self.url)}"


async def examined(server: Server, settings: Settings, clock: Clock, *, namespaces: Namespaces) -> list[Finding]:
    """Everything about one server, for these channels. Never raises BackendError: that is a finding."""
    try:
        endpoint = endpoint_of(server.url, client_name=_CLIENT)
    except ConfigurationError as error:
        return [Finding("url", "wrong", str(error), f"correct {server.setting}")]
    found = await sentinels(server.url, clock) if is_sentinel(server.url) else []
    try:
        async with _connected(endpoint, clock) as pipeline:
            found += [Finding("reachable", "ok", endpoint.name), *_encryption(server.url)]
            await _ask(pipeline, endpoint, found, server, settings=settings, namespaces=namespaces, clock=clock)
    except BackendError as error:
        found.append(Finding("reachable", "wrong", str(error), _remedy(error, server.setting)))
    return found


@asynccontextmanager
async def _connected(endpoint: Endpoint, clock: Clock) -> AsyncIterator[Pipeline]:
    """One attempt first, which says at once what is wrong; a pipeline would try for some seconds."""
    (await dial(endpoint, clock)).sever(ConnectionAbortedError("it was only to see"))
    pipeline = Pipeline(endpoint, clock=clock)
    await pipeline.start()
    try:
        yield pipeline
    finally:
        await pipeline.stop()


def _remedy(error: BackendError, setting: str) -> str:
    """What to do, beside what the error itself says."""
    text = str(error)
    if "did not answer for" in text or "did not answer in time" in text or "no answer for" in text:
        return "see whether it is stopped, swapping or busy: its log, and SLOWLOG GET once it answers"
    if "cannot be reached" in text and "TLS" not in text:
        return next((fix for sign, fix in _FOR_NOW if sign in text), _START_IT).format(setting)
    return f"correct {setting}, or the server"


#: What is in the text, for everybody's system has other words, and what that asks for.
_FOR_NOW = (
    (
        f"[Errno {errno.ECONNREFUSED}]",
        "nothing listens there: start Redis or Valkey on that host and port, or correct {}",
    ),
    (f"[Errno {socket.EAI_NONAME}]", "no machine has that name: correct the host in {}, or what resolves names here"),
    (f"[Errno {socket.EAI_AGAIN}]", "names are not resolved here: mend that, or give an address in {}"),
    ("no connection within", "nobody answers there: a firewall, or a machine that is down; else correct {}"),
)
_START_IT = "start it, correct {}, or open the way to it"


def _encryption(url: str) -> list[Finding]:
    parts = urlsplit(url)
    hosts = [urlsplit(f"//{host}").hostname or "" for host in parts.netloc.rpartition("@")[2].split(",")]
    if parts.scheme.startswith(("rediss", "unix")) or all(map(is_this_machine, hosts)):
        return []
    fix = "nothing in a network of your own; else rediss:// (TLS)"
    return [Finding("encryption", "note", "whoever is on the way reads publications and the password", fix)]


async def _ask(
    pipeline: Pipeline,
    endpoint: Endpoint,
    found: list[Finding],
    server: Server,
    *,
    settings: Settings,
    namespaces: Namespaces,
    clock: Clock,
) -> None:
    """Adds to what was found, so that an end in the middle leaves it. Raises BackendError."""
    is_broker = "broker" in server.sides
    name = settings.broker.name
    found += await _figures(pipeline)
    if is_broker:
        found.append(await _buffers(pipeline, namespaces.max_bytes))
    found.append(await answering(pipeline, clock))
    found.append(await clocks(pipeline, clock))
    if any((finding.subject, finding.level) == ("role", "wrong") for finding in found):
        return  # what would write is refused here, which says nothing of the right server
    greeting = [str(command[0]).lower() for command in endpoint.hello() if command[0] != "HELLO"]
    allow = rule(server.sides, name=name, prefix=settings.broker.prefix, more=greeting, user=server.user)
    found += (rightly := await rights(pipeline, server.sides, name=name, allow=allow))
    if is_broker:
        if all(finding.level == "ok" for finding in rightly):
            found.append(await publishing(pipeline, clock, name=name))
        named = dict.fromkeys(each.namespace for each in namespaces if each.namespace != DEFAULT)
        listening = Listening(settings.broker, list(named) or [DEFAULT], server.user, allow)
        found += await _listening(pipeline, endpoint, listening, clock=clock)
        found.append(_name(settings))


async def _figures(pipeline: Pipeline) -> list[Finding]:
    try:
        return from_info(parse_info((await pipeline.call("INFO")).decode(errors="replace")))
    except RedisError as error:
        what = "version, role, maxmemory-policy, evicted_keys; or let hubbub's user read them: "
        return [unreadable("figures", str(error), what + " ".join(f"+{command}" for command in READING))]


async def _buffers(pipeline: Pipeline, largest: int) -> Finding:
    try:
        reply = await pipeline.call("CONFIG", "GET", _LIMIT)
    except RedisError as error:
        return unreadable("buffers", str(error), f"{_LIMIT} pubsub, which should be 32mb 8mb 60 or more")
    return buffers(reply.get(_LIMIT.encode(), b"").decode(), largest=largest)


class Listening(NamedTuple):
    """What is to be listened to, as which user, and the command that lets it."""

    broker: Broker
    namespaces: list[str]
    user: str
    allow: str


async def _listening(pipeline: Pipeline, endpoint: Endpoint, wanted: Listening, *, clock: Clock) -> list[Finding]:
    """What needs a connection that listens."""
    prefix = wanted.broker.prefix
    neighbours = Neighbours(name=wanted.broker.name, prefix=prefix)
    listener = Listener(endpoint, pipeline, clock=clock, on_message=neighbours.hear)
    try:
        heard = await hearing(listener)
        if heard.level != "ok":
            return [heard]
        may = await subscribing(listener, wanted.namespaces, prefix=prefix, user=wanted.user, allow=wanted.allow)
        return [heard, *may, *await neighbours.find(pipeline, listener)]
    finally:
        listener.close()


def _name(settings: Settings) -> Finding:
    name, prefix = settings.broker.name, settings.broker.prefix
    seen = f"keys begin with {name}:, channels with {repr(prefix) if prefix else 'nothing before their name'}"
    return Finding(
        *("name", "note", f"{seen}: whatever here has the same is this application"),
        "another application here needs its own broker.name, and a broker.prefix unless both are to hear the same",
    )
