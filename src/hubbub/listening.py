"""Where a server listens: its sockets, and those of several processes that share one address.

Answers for: one port for all addresses of a host, for an address that is taken being one line that names the fix, and
for a place that stays ours while the processes behind it come and go. Refuses to know: who accepts.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from hubbub.errors import ConfigurationError
from hubbub.settings import Server as ServerSettings

#: Connections that wait to be accepted: a crowd returns at once.
BACKLOG = 4096

#: Whether the system spreads connections evenly over all that listen with SO_REUSEPORT. Others have the option too, and
#: give everything to the one that came last.
SPREADS = sys.platform == "linux"

#: What clients of a Unix socket need is the right to write; who may come to its folder is the folder's affair.
_ANYBODY = 0o666


class Place:
    """An address that several processes listen on, taken for as long as this is open.

    Raises ConfigurationError where it is taken.
    """

    def __init__(self, server: ServerSettings) -> None:
        self._server = server
        self._held = [_listen_at(server.unix)] if server.unix else _bind(server)
        self._spreads = SPREADS and not server.unix
        if self._spreads:
            for held in self._held:
                # It took the port for itself alone, as one server does: now our own may join it, and still nobody else.
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        elif not server.unix:
            for held in self._held:
                held.listen(BACKLOG)
        self.url = url_of(server, 0 if server.unix else self._held[0].getsockname()[1])

    def share(self) -> list[socket.socket]:
        """The sockets of one process more, to be closed by whoever asked for them.

        Where the system spreads, nobody connects to them before the process listens, nor after it has gone.
        """
        if not self._spreads:
            return [held.dup() for held in self._held]
        return [_bound(held.family, *held.getsockname()[:2], is_shared=True) for held in self._held]

    def close(self) -> None:
        """Free the address; what was shared has to be closed, too. Idempotent."""
        if self._server.unix and self._held:
            give_way(self._server.unix)
        while self._held:
            self._held.pop().close()


def listen(server: ServerSettings) -> list[socket.socket]:
    """The listening sockets of a host that may have several addresses. Raises ConfigurationError."""
    sockets = _bind(server)
    for each in sockets:
        try:
            each.listen(BACKLOG)
        except OSError as error:
            host, port = each.getsockname()[:2]
            _close(sockets)
            raise ConfigurationError(_why_not(error, host, port)) from None
    return sockets


def url_of(server: ServerSettings, port: int) -> str:
    """Where a server with these settings is found that listens on `port`."""
    if server.unix:
        return f"unix:{server.unix}"
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"{'https' if server.tls_key else 'http'}://{host}:{port}"


def make_way(path: str) -> None:
    """Remove the Unix socket of a server that is gone. Raises ConfigurationError for that of one that is not."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ConfigurationError(f"server.unix = {path!r} is a file, and no socket")
    except FileNotFoundError:
        if not Path(path).parent.is_dir():
            raise ConfigurationError(f"server.unix = {path!r}: there is no such folder") from None
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise ConfigurationError(f"server.unix = {path!r} is taken: a server listens there")
    os.unlink(path)


def give_way(path: str) -> None:
    """Remove our own Unix socket, as long as it is ours: the next process may take its place while we drain."""
    Path(path).unlink(missing_ok=True)


def _listen_at(path: str) -> socket.socket:
    make_way(path)
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(path)
        os.chmod(path, _ANYBODY)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigurationError(f"server.unix = {path!r}: {error.strerror or error}") from None
    return listening


def _bind(server: ServerSettings) -> list[socket.socket]:
    """A socket for each address of the host, all on one port."""
    sockets: list[socket.socket] = []
    port = server.port
    for family, host in _addresses(server):
        try:
            sockets.append(_bound(family, host, port))
        except OSError as error:
            _close(sockets)
            raise ConfigurationError(_why_not(error, host, port)) from None
        port = sockets[0].getsockname()[1]
    return sockets


def _addresses(server: ServerSettings) -> Iterator[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(server.host or None, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigurationError(f"server.host (--host) = {server.host!r}: {error.strerror}") from None
    yield from dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found)


def _bound(family: int, host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let anybody in
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # the addresses of version 4 have a socket of their own
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken: choose another by --port (server.port), or 0 for a free one"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges: choose one from 1024 on by --port (server.port)"
    return f"cannot listen on {host}, port {port} (--host, --port): {error.strerror}"
