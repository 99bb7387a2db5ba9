"""From a URL to the server that is to be asked now.

Answers for: what a URL means, its TLS options included, and connecting, on an event loop or blocking: to an address,
through a Unix socket, or to the primary that Sentinels name at this moment. Refuses to know: what is said on the
connection but for the greeting, and trying again. Cluster will be one more kind of endpoint.

    redis://[user[:password]@]host[:port][/db]            rediss:// for TLS
    unix://[user[:password]@]/path/to/socket[?db=0]
    redis+sentinel://[user[:password]@]host[:port],…/name[/db]     rediss+sentinel:// for TLS everywhere

Options after `?` are those of redis-py: db, socket_connect_timeout, ssl_ca_certs, ssl_cert_reqs (none, optional,
required) and the other ssl_…; behind Sentinel also sentinel_username and sentinel_password. redis-py parses and asks
the Sentinels; commands of ours never go through it.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable
from urllib.parse import SplitResult, urlsplit

from hubbub.errors import BackendError, ConfigurationError

try:
    import redis
    import redis.asyncio.connection
    import redis.retry
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as missing:
    raise ConfigurationError("Redis needs two more packages: pip install 'hubbub[redis]'") from missing

P = TypeVar("P", bound=asyncio.BaseProtocol)

#: Seconds until a connection must stand, TLS included, and until one Sentinel must have answered.
CONNECT_DEADLINE = 3.0
SENTINEL_DEADLINE = 1.0

#: Seconds between two questions whether the primary is still the same. After a planned failover the old one takes
#: writes, which will be lost, until the Sentinels get round to it: ten seconds, unless we leave it first.
SENTINEL_EVERY = 1.0

PORT = 6379
SENTINEL_PORT = 26379

_SCHEMES = "redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://"
_TLS_OPTIONS = frozenset(
    {"keyfile", "certfile", "cert_reqs", "ca_certs", "ca_data", "ca_path", "check_hostname", "min_version", "ciphers"}
    | {"password", "include_verify_flags", "exclude_verify_flags"}
)


class Endpoint(Protocol):
    """Where to connect, and how to introduce oneself. `name` is for logs, and never holds a password."""

    @property
    def name(self) -> str:
        """As `redis://host:6379/0`."""
        ...

    async def open(self, factory: Callable[[], P]) -> P:
        """A connected protocol. Raises BackendError when that fails or takes longer than its deadline."""
        ...

    def hello(self) -> list[list[bytes | str | int | float]]:
        """What to say first, in one go."""
        ...


class Address(Endpoint, Protocol):
    """An endpoint that can also be reached by who may block."""

    def connect(self, deadline: float) -> socket.socket:
        """A connected socket, in `deadline` seconds at most. Raises BackendError."""
        ...


@runtime_checkable
class Moving(Protocol):
    """An endpoint behind which the server may become another one while the old one still answers."""

    async def moved(self) -> None:
        """Returns once another server is the one to ask than that which was opened last."""
        ...


@runtime_checkable
class MovingAddress(Protocol):
    """`Moving` for who may block, and so has to ask."""

    def has_moved(self, deadline: float) -> bool | None:
        """Whether another server is the one to ask than that which was connected last; None if nobody says so."""
        ...


def endpoint_of(url: str, *, client_name: str) -> Address:
    """What the URL means. Raises ConfigurationError, which names what is wrong and never the password."""
    try:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        if scheme not in ("redis", "rediss", "unix") or (kind and (kind, scheme) == ("sentinel", "unix")):
            raise ConfigurationError(f"expected {_SCHEMES}; found the scheme {parts.scheme!r}")
        if not kind:
            return _direct(parts, client_name)
        if kind == "sentinel":
            return _sentinels(parts, scheme, client_name)
    except ValueError as error:  # of urlsplit or redis-py, about a port or an option
        raise ConfigurationError(f"a Redis URL that cannot be read: {error}") from None
    raise ConfigurationError(f"expected {_SCHEMES}; found the scheme {parts.scheme!r}")


@dataclass(frozen=True)
class _Access:
    """What all servers behind one URL are told and asked."""

    user: str
    password: str
    db: int
    client_name: str
    tls: ssl.SSLContext | None
    deadline: float

    def hello(self) -> list[list[bytes | str | int | float]]:
        hello: list[bytes | str | int | float] = ["HELLO", 3]
        if self.password:
            hello += ["AUTH", self.user or "default", self.password]
        hello += ["SETNAME", re.sub(r"[^!-~]", "-", self.client_name) or "hubbub"]
        return [hello, ["SELECT", self.db]] if self.db else [hello]

    async def connect(self, name: str, factory: Callable[[], P], host: str, port: int) -> P:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.deadline):
                return (await loop.create_connection(factory, host, port, ssl=self.tls))[1]
        except OSError as error:
            raise _unreachable(name, error, self.deadline) from error

    def dial(self, name: str, host: str, port: int, *, deadline: float) -> socket.socket:
        """`connect` for who may block. To look up a name takes as long as the system's resolver takes."""
        deadline = min(self.deadline, deadline)
        try:
            plain = socket.create_connection((host, port), deadline)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname=host)
        except OSError as error:
            raise _unreachable(name, error, deadline) from error


class Direct:
    """One address, that is always the one."""

    def __init__(self, access: _Access, *, host: str, port: int) -> None:
        scheme = "rediss" if access.tls else "redis"
        self.name = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{access.db}"
        self._access = access
        self._host = host
        self._port = port

    async def open(self, factory: Callable[[], P]) -> P:
        """Connect over TCP, or TLS."""
        return await self._access.connect(self.name, factory, self._host, self._port)

    def connect(self, deadline: float) -> socket.socket:
        """Connect over TCP, or TLS."""
        return self._access.dial(self.name, self._host, self._port, deadline=deadline)

    def hello(self) -> list[list[bytes | str | int | float]]:
        """RESP3, user, name, database."""
        return self._access.hello()


class UnixSocket:
    """A server on this machine."""

    def __init__(self, access: _Access, path: str) -> None:
        self.name = f"unix://{path}?db={access.db}"
        self._access = access
        self._path = path

    async def open(self, factory: Callable[[], P]) -> P:
        """Connect through the socket's file."""
        try:
            async with asyncio.timeout(self._access.deadline):
                return (await asyncio.get_running_loop().create_unix_connection(factory, self._path))[1]
        except OSError as error:
            raise _unreachable(self.name, error, self._access.deadline) from error

    def connect(self, deadline: float) -> socket.socket:
        """Connect through the socket's file."""
        deadline = min(self._access.deadline, deadline)
        unix = socket.socket(socket.AF_UNIX)
        try:
            unix.settimeout(deadline)
            unix.connect(self._path)
        except OSError as error:
            unix.close()
            raise _unreachable(self.name, error, deadline) from error
        return unix

    def hello(self) -> list[list[bytes | str | int | float]]:
        """RESP3, user, name, database."""
        return self._access.hello()


class Sentinels:
    """The primary that Sentinels name, asked anew for each connection.

    `ROLE` is part of the greeting: a Sentinel that has not heard of a failover names the old primary.
    """

    def __init__(
        self, access: _Access, hosts: list[tuple[str, int]], *, group: str, options: dict[str, Any], scheme: str
    ) -> None:
        where = ",".join(f"{host}:{port}" for host, port in hosts)
        self._base = f"{scheme}+sentinel://{where}/{group}/{access.db}"
        self._access = access
        self._hosts = hosts
        self._group = group
        self._options = options  # how redis-py connects to a Sentinel
        self._question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", group)
        self._found = ""

    @property
    def name(self) -> str:
        """With the address that was named last."""
        return self._base + (f" (at {self._found})" if self._found else "")

    async def open(self, factory: Callable[[], P]) -> P:
        """Ask where the primary is, and connect to it."""
        host, port = await self._primary()
        self._found = f"{host}:{port}"
        return await self._access.connect(self.name, factory, host, port)

    def connect(self, deadline: float) -> socket.socket:
        """Ask where the primary is, and connect to it."""
        end = time.monotonic() + deadline
        host, port = self._primary_now(end)
        self._found = f"{host}:{port}"
        return self._access.dial(self.name, host, port, deadline=max(end - time.monotonic(), 0.001))

    def has_moved(self, deadline: float) -> bool | None:
        """Ask once. Sentinels that are away are no reason to move."""
        try:
            host, port = self._primary_now(time.monotonic() + deadline)
        except BackendError:
            return None
        return f"{host}:{port}" != self._found

    async def moved(self) -> None:
        """Ask again and again, and return when another primary is named. Sentinels that are away are no reason."""
        while True:
            await asyncio.sleep(SENTINEL_EVERY)
            try:
                host, port = await self._primary()
            except BackendError:
                continue
            if f"{host}:{port}" != self._found:
                return

    def hello(self) -> list[list[bytes | str | int | float]]:
        """RESP3, user, name, database, and the question for the role."""
        return [*self._access.hello(), ["ROLE"]]

    async def _primary(self) -> tuple[str, int]:
        """Whom most of those who answer name: one may not have heard of a failover yet."""
        return self._named(await asyncio.gather(*(self._ask(host, port) for host, port in self._hosts)))

    def _primary_now(self, end: float) -> tuple[str, int]:
        """The same for who may block: one after the other, until most of all name the same one."""
        answers: list[tuple[str, int] | str] = []
        for host, port in self._hosts:
            answers.append(self._ask_now(host, port, min(SENTINEL_DEADLINE, end - time.monotonic())))
            if 2 * answers.count(answers[-1]) > len(self._hosts) and isinstance(answers[-1], tuple):
                break
        return self._named(answers)

    def _named(self, answers: Sequence[tuple[str, int] | str]) -> tuple[str, int]:
        named = Counter(answer for answer in answers if isinstance(answer, tuple))
        if named:
            return named.most_common(1)[0][0]
        raise BackendError(f"{self._base}: no Sentinel names a primary ({'; '.join(map(str, answers))})")

    async def _ask(self, host: str, port: int) -> tuple[str, int] | str:
        """The address that one Sentinel names, or why it does not."""
        try:
            async with (
                asyncio.timeout(SENTINEL_DEADLINE),
                redis.asyncio.Redis(host=host, port=port, retry=Retry(NoBackoff(), 0), **self._options) as sentinel,
            ):
                # redis-py's execute_command carries no types.
                answer: list[bytes] | None = await sentinel.execute_command(*self._question)  # type: ignore[no-untyped-call]
        except (OSError, redis.RedisError) as error:
            return f"{host}:{port}: {str(error) or 'no answer'}"
        return self._read(host, port, answer)

    def _ask_now(self, host: str, port: int, deadline: float) -> tuple[str, int] | str:
        if deadline <= 0:
            return f"{host}:{port}: not asked in time"
        options = self._options | {"socket_connect_timeout": deadline, "socket_timeout": deadline}
        retry = redis.retry.Retry(NoBackoff(), 0)
        try:
            with redis.Redis(host=host, port=port, retry=retry, **options) as sentinel:
                answer: list[bytes] | None = sentinel.execute_command(*self._question)
        except (OSError, redis.RedisError) as error:
            return f"{host}:{port}: {str(error) or 'no answer'}"
        return self._read(host, port, answer)

    def _read(self, host: str, port: int, answer: list[bytes] | None) -> tuple[str, int] | str:
        return (answer[0].decode(), int(answer[1])) if answer else f"{host}:{port} does not know {self._group!r}"


def _direct(parts: SplitResult, client_name: str) -> Address:
    options = _options(parts.geturl())
    host, port, path = options.pop("host", "localhost"), options.pop("port", PORT), options.pop("path", "")
    if parts.scheme != "unix" and not re.fullmatch(r"/?\d*/?", parts.path):
        raise ConfigurationError(f"expected the number of a database at the end of the URL; found {parts.path!r}")
    if parts.scheme == "unix" and not path:
        raise ConfigurationError("expected the path of a socket: unix:///run/redis.sock")
    access = _access(options, client_name, is_tls=parts.scheme == "rediss")
    _refuse(options)
    return UnixSocket(access, path) if parts.scheme == "unix" else Direct(access, host=host, port=port)


def _sentinels(parts: SplitResult, scheme: str, client_name: str) -> Address:
    credentials, _, hosts = parts.netloc.rpartition("@")
    path = re.fullmatch(r"/([^/]+)(?:/(\d*))?", parts.path)
    if path is None or not hosts:
        raise ConfigurationError("expected redis+sentinel://host,host/NAME, the NAME of `sentinel monitor NAME …`")
    options = _options(f"{scheme}://{credentials}@-/{path[2] or ''}?{parts.query}")
    options.pop("host")
    asking: dict[str, Any] = {
        "username": options.pop("sentinel_username", None),
        "password": options.pop("sentinel_password", None),
        "socket_connect_timeout": SENTINEL_DEADLINE,
        "socket_timeout": SENTINEL_DEADLINE,
    }
    if scheme == "rediss":
        asking |= {"ssl": True} | {name: value for name, value in options.items() if name.startswith("ssl_")}
    access = _access(options, client_name, is_tls=scheme == "rediss")
    _refuse(options)
    addresses = []
    for host in hosts.split(","):
        address = urlsplit(f"//{host}")
        if not address.hostname:
            raise ConfigurationError(f"expected hosts with commas between them; found {hosts!r}")
        addresses.append((address.hostname, address.port or SENTINEL_PORT))
    return Sentinels(access, addresses, group=path[1], options=asking, scheme=scheme)


def _options(url: str) -> dict[str, Any]:
    """What redis-py reads in a URL."""
    options: dict[str, Any] = {**redis.asyncio.connection.parse_url(url)}
    options.pop("connection_class", None)
    return options


def _access(options: dict[str, Any], client_name: str, *, is_tls: bool) -> _Access:
    """Takes out of `options` what it understands."""
    given = {name: options.pop(name) for name in list(options) if name.removeprefix("ssl_") in _TLS_OPTIONS - {name}}
    if given and not is_tls:
        raise ConfigurationError(f"{', '.join(sorted(given))} in a Redis URL without TLS: write rediss:// for TLS")
    return _Access(
        user=options.pop("username", ""),
        password=options.pop("password", ""),
        db=options.pop("db", 0),
        client_name=client_name,
        tls=_tls(given) if is_tls else None,
        deadline=options.pop("socket_connect_timeout", CONNECT_DEADLINE),
    )


def _tls(given: dict[str, Any]) -> ssl.SSLContext:
    options: dict[str, Any] = {"cert_reqs": "required", "check_hostname": True}
    options |= {name.removeprefix("ssl_"): value for name, value in given.items()}
    try:
        context: ssl.SSLContext = redis.asyncio.connection.RedisSSLContext(**options).get()
    except (OSError, ValueError, redis.RedisError) as error:
        raise ConfigurationError(f"TLS options of the Redis URL ({', '.join(sorted(given))}): {error}") from error
    return context


def _refuse(options: dict[str, Any]) -> None:
    """What is left was not understood; ignoring it would be a setting that does nothing."""
    if options:
        raise ConfigurationError(f"options of the Redis URL that hubbub does not have: {', '.join(sorted(options))}")


def _unreachable(name: str, error: OSError, deadline: float) -> BackendError:
    """One line that names the fix where the error is a known one."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return BackendError(f"{name}: {error.verify_message}: name its authority with ?ssl_ca_certs=/path/ca.pem")
    if isinstance(error, ssl.SSLError):
        return BackendError(f"{name} does not speak TLS as we do: is redis:// meant, without TLS? ({error})")
    if isinstance(error, TimeoutError):
        # Redis waits in silence for the rest of what it takes for a command when it is greeted with TLS.
        question = ": is redis:// meant, without TLS?" if name.startswith("rediss") else ""
        return BackendError(f"{name} cannot be reached: no connection within {deadline:g} seconds{question}")
    return BackendError(f"{name} cannot be reached: {error}")
