"""Connections to PostgreSQL: how they are asked for, why there is none, and what is logged while it is away.

Answers for: what a connection asks of the server for itself; the first one, which waits a moment for a database that
starts, and says in one line what to change where there is none to be had; that each one is to the database that the
store knows; and one line for each outage, however many connections notice it. Refuses to know: what they are for.

What may pass by itself (it starts, it is full, its name is not known yet) is tried again for DEADLINE at the start, as
the broker does with Redis: services that are started together come up in any order. What somebody has to change is
refused at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import asyncpg

from hubbub.clock import Clock
from hubbub.errors import BackendError, ConfigurationError
from hubbub.sparing import SparingLog
from hubbub.stores.postgresql_schema import Emptied, lacking, look_back, migrate

log = logging.getLogger(__name__)

#: Seconds that a batch, a read and a start are tried, and between two attempts.
DEADLINE, PAUSE = 5.0, 0.1

#: What another attempt may heal.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # an idle connection that was told its end, and is not closed yet
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,  # we stood still, and nothing of that transaction is there
)

#: Milliseconds that a statement waits for a lock: only where whoever has sent it gave it up long ago.
LOCK_TIMEOUT = 6000

#: Milliseconds after which a statement that is under way notices that nobody waits for it any more.
NOTICE = 2000

#: Everything that a database and the way to it can answer.
FAILED = (*AWAY, asyncpg.PostgresError)


def session(*, is_relaxed: bool) -> dict[str, str]:
    """What each connection asks of the server for itself."""
    return {
        "synchronous_commit": "off" if is_relaxed else "on",
        "application_name": "hubbub",
        # A process that stands still in a transaction would hold its channels' rows for all others.
        "idle_in_transaction_session_timeout": "10000",
        # Without it whoever waits for a lock does not end with its client, and each attempt leaves a connection behind.
        "lock_timeout": str(LOCK_TIMEOUT),
        # Offsets are read with a lock on their row: what it says once the lock is there, not as it was before.
        "default_transaction_isolation": "read committed",
        # Compiling the query of a page takes up to half a second, and running it two milliseconds.
        "jit": "off",
    }


class StandbyAway(TimeoutError):
    """A commit that was given up still waits for the synchronous standby, and so would the next one."""


def is_answer(error: BaseException) -> bool:
    """Whether the server has said that, and the connection can be asked something else."""
    if isinstance(error, AWAY):
        return isinstance(error, (StandbyAway, Emptied))
    return isinstance(error, asyncpg.PostgresError)


async def hang_up(connection: Any) -> None:
    """Disconnect; where that has no answer in a second, it is cut."""
    with suppress(*AWAY):
        await connection.close(timeout=1)


def shown(url: str) -> str:
    """Host and database of a URL: what may be told of it. User, password and options may not."""
    address, _, options = url.partition("://")[2].partition("?")
    if "@" not in address and "@" in options:
        return "postgresql://…"  # a password with a question mark, or an option with somebody's address: nobody can say
    return f"postgresql://{address.rpartition('@')[2]}"


# ----------------------------------------------------------------------------------------------- why there is none


class Trouble(NamedTuple):
    """Why there is no connection. `is_for_good`: until somebody changes something."""

    what: str
    fix: str
    is_for_good: bool


NO_POOLER = "name PostgreSQL itself in store.url: hubbub keeps its few connections open, and needs no pooler"
_NOT_OURS = "see whether it is PostgreSQL that listens there, and what its log says"
_FORM = "correct store.url: postgresql://user:password@host:port/name, with %2F for / and %40 for @ in a password"

#: The first that fits says what to do.
_FOR_GOOD: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (asyncpg.InvalidCatalogNameError, "CREATE DATABASE, or correct the name at the end of store.url"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "correct user and password in store.url, or pg_hba.conf of the server",
    ),
    (asyncpg.InvalidSchemaNameError, "CREATE SCHEMA AUTHORIZATION for its user, or correct its search_path"),
    (asyncpg.InsufficientPrivilegeError, "`hubbub doctor` says which right is missing, and how to give it"),
    (
        (asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError, asyncpg.CantChangeRuntimeParamError),
        "drop that option from store.url, or correct it",
    ),
    (
        (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError),
        NO_POOLER,
    ),
    (
        asyncpg.exceptions.SyntaxOrAccessError,
        "its tables hubbub_… are not as hubbub made them: name another database or schema, or put back a backup",
    ),
    (
        ssl.SSLCertVerificationError,
        "correct the host in store.url, or name who signed its certificate: ?sslrootcert=FILE",
    ),
    (asyncpg.exceptions.ClientConfigurationError, "correct store.url and its options"),
)
_FOR_NOW: tuple[tuple[type[BaseException], str], ...] = (
    (asyncpg.TooManyConnectionsError, "end what holds them, or a higher max_connections (or the limit of the role)"),
    (asyncpg.LockNotAvailableError, "end what holds a lock on its tables hubbub_… (pg_locks says who)"),
    (asyncpg.CannotConnectNowError, "wait: it starts, recovers or stops; its log says which"),
    (
        asyncpg.ReadOnlySQLTransactionError,
        "name the primary in store.url; after a failover, an address that moves with it",
    ),
    (socket.gaierror, "correct the host in store.url, or see to it that its name is known here"),
    (
        TimeoutError,
        "see whether it is stopped or overloaded, and whether something on the way drops connections",
    ),
    (asyncpg.PostgresConnectionError, _NOT_OURS),
)
_START_IT = "start it, correct store.url, or open the way to it (listen_addresses, firewall)"


def trouble(error: BaseException) -> Trouble:
    """What an attempt to connect has met, in one line, and what to do about it."""
    what = (str(error) or f"no answer within {DEADLINE:g} seconds").splitlines()[0]
    if isinstance(error, asyncpg.ProtocolViolationError) and "startup parameter" in what:
        return Trouble(f"a pooler (PgBouncer?) refuses hubbub's settings: {what}", NO_POOLER, True)
    if isinstance(error, asyncpg.InsufficientPrivilegeError) and "for database" in what:
        return Trouble(what, "GRANT CONNECT ON DATABASE … TO its user", True)
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in what:
        fix = "drop sslmode from store.url or let the server speak TLS (ssl = on); else correct host and port"
        return Trouble("it takes no TLS, or is no PostgreSQL", fix, True)
    if isinstance(error, ConnectionError) and "connection_lost" in what:
        return Trouble("it ends the connection without a word", _NOT_OURS, False)
    for kind, fix in _FOR_GOOD:
        if isinstance(error, kind):
            return Trouble(what, fix, True)
    if isinstance(error, ValueError):  # its text may be a piece of the password
        return Trouble("it cannot be understood", _FORM, True)
    fix = next((fix for kind, fix in _FOR_NOW if isinstance(error, kind)), _START_IT)
    return Trouble(what, fix, False)


async def pooler(connection: Any, connect: Callable[[], Awaitable[Any]]) -> str:
    """What is in between: "" for nothing, else "transaction" where it is seen to change servers, or "session".

    A pooler names a process that the server does not have. One that gives a server back after each transaction gives
    ours to somebody who begins one; `connect` makes that other connection.
    """
    try:
        mine = await connection.fetchval("SELECT pg_backend_pid()")
        if connection.get_server_pid() == mine:
            return ""
        other = await connect()
        try:
            async with other.transaction():
                await other.execute("SELECT 1")
                return "session" if await connection.fetchval("SELECT pg_backend_pid()") == mine else "transaction"
        finally:
            await hang_up(other)
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        return "transaction"  # what was prepared is on the server that ours was
    except FAILED:
        return "session"


# ------------------------------------------------------------------------------------------------------ the database


class Database:
    """The database at `url`. Connections are made here, and whoever uses one says what becomes of it."""

    def __init__(self, url: str, *, clock: Clock, is_relaxed: bool) -> None:
        self.name = shown(url)
        self._url = url
        self._clock = clock
        self._is_relaxed = is_relaxed
        self._since: float | None = None  # when it was first missed
        self._left: set[int] = set()  # server processes of connections that were given up
        self._warnings = SparingLog(log)

    async def connect(self) -> Any:
        """One more connection, to the database that the store knows. Raises one of FAILED."""
        connection = await self._dial()
        try:
            await self._look_back(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def prepare(self) -> None:
        """Wait until it is there, and bring the schema up to date.

        Raises ConfigurationError for what has to be changed, BackendError for what did not pass within DEADLINE.
        """
        end = self._clock.now() + DEADLINE
        while True:
            try:
                return await self._prepare(max(end - self._clock.now(), PAUSE))
            except (*FAILED, ValueError) as error:
                seen = trouble(error)
                text = f"store.url: {self.name}: {seen.what}: {seen.fix}"
                if seen.is_for_good:
                    cause = error if isinstance(error, FAILED) else None
                    raise ConfigurationError(text) from cause
                if self._clock.now() + PAUSE >= end:
                    raise BackendError(text) from error
            await asyncio.sleep(PAUSE)

    async def _prepare(self, seconds: float) -> None:
        """Once. Only what is not the schema has so many seconds: another server may take its time to change that."""
        connection = None
        try:
            async with asyncio.timeout(seconds):
                connection = await self._dial()
                await self._check(connection)
            try:
                await migrate(connection)
                await self._look_back(connection)
            except asyncpg.InsufficientPrivilegeError:
                await self._refuse_missing_rights(connection)  # it knows more of them
                raise
            await self._refuse_missing_rights(connection)
        finally:
            if connection is not None:
                await hang_up(connection)

    async def _check(self, connection: Any) -> None:
        """What would fail later, and strangely."""
        if await pooler(connection, self._dial) == "transaction":
            raise ConfigurationError(
                f"store.url: {self.name}: a pooler changes servers between transactions: {NO_POOLER}"
            )
        given = await connection.fetchval("SELECT current_setting('synchronous_commit')")
        if given == "off" and not self._is_relaxed:
            raise ConfigurationError(
                f"store.url: {self.name}: something in between drops synchronous_commit = on: {NO_POOLER}"
            )

    async def _refuse_missing_rights(self, connection: Any) -> None:
        if missing := await lacking(connection, is_relaxed=self._is_relaxed):
            fixes = "; ".join(each.fix for each in missing)
            raise ConfigurationError(f"store.url: {self.name}: {missing[0].seen}: {fixes}")

    async def _dial(self) -> Any:
        settings = session(is_relaxed=self._is_relaxed)
        connection = await asyncpg.connect(self._url, timeout=DEADLINE, server_settings=settings)
        try:
            if await connection.fetchval(
                "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool"
            ):
                raise asyncpg.ReadOnlySQLTransactionError("it is a standby or read-only, and takes no writes")
            with suppress(asyncpg.InvalidParameterValueError):  # a server on Windows cannot
                await connection.execute(f"SET client_connection_check_interval = {NOTICE}")
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _look_back(self, connection: Any) -> None:
        if await look_back(connection, is_relaxed=self._is_relaxed):
            text = (
                "%s: this database was restored, promoted or lost its last moments: durable channels have a new epoch"
            )
            log.error(text, self.name)

    # --- connections that are given up

    def give_up(self, connection: Any) -> None:
        """Cut one that perhaps still waits for an answer. What it does there may go on for a while."""
        if not connection.is_closed():
            self._left.add(connection.get_server_pid())
        connection.terminate()

    async def hold_back(self, connection: Any) -> None:
        """To be asked before each transaction that writes.

        Raises StandbyAway while a commit that was given up still waits for the synchronous standby. Nothing ends that
        wait early but the standby (what is cancelled there is committed here alone), so what came next would be left
        behind as well, with a connection each, until the database has no more of them.
        """
        if self._left:
            asked = list(self._left)  # meanwhile there may be more
            query = "SELECT pid FROM pg_stat_activity WHERE pid = ANY($1::int[]) AND wait_event = 'SyncRep'"
            waiting = {pid for (pid,) in await connection.fetch(query, asked)}
            self._left -= {pid for pid in asked if pid not in waiting}
        if self._left:
            fix = "bring it back, or change synchronous_standby_names"
            raise StandbyAway(f"commits wait for the synchronous standby: {fix}")

    # --- outages

    def missed(self, error: BaseException) -> None:
        """Something had no answer, or an error that another attempt may heal."""
        if self._since is None:
            now = self._since = self._clock.now()
            what = (str(error) or "no answer in time").splitlines()[0]
            self._warnings.warning("away", now, "%s: the database is away: %s", self.name, what)

    def answered(self) -> None:
        """Something was done there."""
        if self._since is not None:
            now, since, self._since = self._clock.now(), self._since, None
            self._warnings.warning("back", now, "%s: the database is there again, after %.1f s", self.name, now - since)
