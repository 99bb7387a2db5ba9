"""A PostgreSQL 15 of our own for a benchmark, as it comes: fsync and synchronous_commit are on.

Answers for: making a cluster, starting it on a free port as somebody who is not root (which PostgreSQL refuses), and
leaving nothing behind. Refuses to know: what is measured. Where there is no program the rows that need one are left out
(`NoPostgres`).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.backend import free_port

#: Where Debian has its programs, which are on no PATH; else those on the PATH are taken.
_DEBIAN = "/usr/lib/postgresql/15/bin"

#: Seconds for its first answer.
_PATIENCE = 30.0


class NoPostgres(Exception):
    """There are no programs of PostgreSQL."""


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a fresh server's database. It shares its cores with the load. Raises NoPostgres."""
    programs = os.pathsep.join([_DEBIAN, os.environ.get("PATH", "")])
    initdb, program, ready = (shutil.which(name, path=programs) for name in ("initdb", "postgres", "pg_isready"))
    if initdb is None or program is None or ready is None:
        raise NoPostgres("no PostgreSQL on this machine (apt-get install postgresql)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        nobody = _nobody(folder)
        data = str(Path(folder) / "data")
        make = [*nobody, initdb, "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder)
        port = free_port()
        options = ("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-p", str(port))
        command = [*nobody, program, "-D", data, *options]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
        try:
            _wait(server, [ready, "-q", "-h", "127.0.0.1", "-p", str(port)])
            yield f"postgresql://bench@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing in it is worth keeping
            server.wait()


def _nobody(folder: str) -> list[str]:
    """What a command begins with so that it is not root's."""
    if os.getuid() != 0:
        return []
    user = pwd.getpwnam("nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]


def _wait(server: subprocess.Popen[bytes], question: list[str]) -> None:
    end = time.monotonic() + _PATIENCE
    while subprocess.run(question).returncode != 0:
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError("PostgreSQL did not start")
        time.sleep(0.05)
