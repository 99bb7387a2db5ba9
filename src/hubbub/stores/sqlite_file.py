"""The file of a SQLite store: whose it is, whether it may be opened, its schema, and whether it went back in time.

Answers for: one process at a time, clear refusals (another process, a newer schema, somebody else's file, a network
file system), migrations, and noticing that the file is an older copy of itself. Refuses to know: publications.

Beside `app.db` lies `app.db-owner`. Who holds its lock owns the store; in it stands how many commits the store had
when it was last seen. It is written after each commit and never waited for, so a database that knows fewer commits than
its owner's file is an older copy, or lost its last moments: it gets another epoch, and nobody mistakes its offsets.

Where commits are relaxed, a machine that goes down may take the last of them and of these notes with it. So beside
them stands, and is synced before anything is written, that they are relaxed, and on which boot of which machine. It is
taken away when the file is closed and synced; if it is there and this is another boot, the store gets another epoch.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import sqlite3
from pathlib import Path
from typing import NamedTuple

from hubbub.errors import BackendError, ConfigurationError

log = logging.getLogger(__name__)

#: "HUBB": what `PRAGMA application_id` says of a file of ours.
APPLICATION = 0x48554242

#: Each brings the schema from the version of its index to the next. Never changed once released; only added to.
MIGRATIONS = (
    """
    CREATE TABLE meta (epoch TEXT NOT NULL, commits INTEGER NOT NULL);
    CREATE TABLE channel (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        top INTEGER NOT NULL,               -- the last offset that was given
        life INTEGER NOT NULL DEFAULT 0     -- how often the end of this one channel was lost
    );
    CREATE TABLE log (
        channel INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        at INTEGER NOT NULL,                -- microseconds of Unix time
        key TEXT,
        user TEXT,
        client TEXT,
        conn_info BLOB,
        chan_info BLOB,
        tags TEXT,
        data NOT NULL,                      -- TEXT: one JSON value; BLOB: bytes of a binary channel
        PRIMARY KEY (channel, offset)       -- an index: without a rowid, rows over 1 KB took a page each
    );
    CREATE UNIQUE INDEX log_key ON log (channel, key) WHERE key IS NOT NULL;
    """,
)

#: File systems over which SQLite's locks and its shared memory cannot be trusted.
NETWORK = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)

#: What is another one after each start of the machine, where the system says.
_BOOT = Path("/proc/sys/kernel/random/boot_id")

#: Bytes of the note's first line, and behind them of the second.
_LINE = 42

#: Seconds that we wait for a program that has the file open besides us.
BUSY = 5.0


class Note(NamedTuple):
    """What lies beside the database: how many commits it had, who wrote that, and the boot if they were relaxed."""

    commits: int
    pid: int
    relaxed: str = ""

    def is_lost(self, commits: int) -> bool:
        """Whether a database that has so many may lack some that it had."""
        return commits < self.commits or (bool(self.relaxed) and self.relaxed != boot())


def noted(content: bytes) -> Note | None:
    """None where nothing is noted."""
    try:
        commits, pid = content[:_LINE].split()
        return Note(int(commits), int(pid), content[_LINE:].decode().strip())
    except ValueError:
        return None


def beside(path: Path, suffix: str) -> Path:
    """What lies beside the file, such as "-owner": of all names that links give it, there is one."""
    return Path(f"{path.resolve()}{suffix}")


def boot() -> str:
    """This boot of this machine; where nobody can say, each question has another answer."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return secrets.token_hex(16)


class StoreFile:
    """A store's file, owned from `open` until `close`."""

    def __init__(self, path: Path, *, is_relaxed: bool = False, busy: float = BUSY) -> None:
        self.path = path
        self.epoch = ""
        self._is_relaxed = is_relaxed
        self._busy = busy
        self._owner = -1  # the descriptor of the owner's file

    def open(self) -> sqlite3.Connection:
        """The one connection that writes. Raises ConfigurationError for what must not be opened, BackendError."""
        folder = self.path.resolve().parent
        if not folder.is_dir():
            raise ConfigurationError(f"store.url: there is no folder {folder}")
        kind = file_system_of(folder)
        if kind in NETWORK:
            raise ConfigurationError(f"store.url: {self.path} is on a network file system ({kind}): use a local disk")
        try:
            self._own()
            return self._connect()
        except (sqlite3.Error, OSError) as error:
            self._disown()
            raise BackendError(f"{self.path} cannot be opened as a store: {error}") from error
        except BaseException:
            self._disown()
            raise

    def reader(self) -> sqlite3.Connection:
        """A connection that cannot write. For one thread at a time, whichever that is."""
        uri = f"{self.path.resolve().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=self._busy, check_same_thread=False)
        connection.text_factory = bytes
        return connection

    @property
    def _synchronous(self) -> str:
        return "NORMAL" if self._is_relaxed else "FULL"

    @property
    def size(self) -> int:
        """Bytes of it on the disk, with its write-ahead log."""
        size = 0
        for path in (self.path, beside(self.path, "-wal")):
            with contextlib.suppress(OSError):
                size += path.stat().st_size
        return size

    def note(self, commits: int) -> None:
        """The store has so many commits now. A note that cannot be written only notices less."""
        with contextlib.suppress(OSError):
            os.pwrite(self._owner, b"%-20d %-20d\n" % (commits, os.getpid()), 0)

    def close(self, connection: sqlite3.Connection) -> None:
        """Fold the write-ahead log into the file, and let others have it."""
        is_folded = False
        with contextlib.suppress(sqlite3.Error):
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            is_folded = not busy
        connection.close()
        with contextlib.suppress(OSError):
            if is_folded:  # and synced: from here on the machine may go down
                os.ftruncate(self._owner, _LINE)
            os.fsync(self._owner)
        self._disown()

    def _mark(self) -> None:
        """That the machine may take commits with it, or that it may not. Synced before the first one."""
        os.ftruncate(self._owner, _LINE)
        if self._is_relaxed:
            os.pwrite(self._owner, f"{boot()}\n".encode(), _LINE)
        os.fsync(self._owner)
        folder = os.open(self.path.resolve().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    # --- one owner

    def _own(self) -> None:
        self._owner = os.open(beside(self.path, "-owner"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (self._noted() or Note(0, 0)).pid
            raise ConfigurationError(
                f"store.url: {self.path} is open in another process (pid {holder or 'unknown'}): one process owns a"
                " SQLite store; give each its own file, or use PostgreSQL for several"
            ) from None

    def _disown(self) -> None:
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def _noted(self) -> Note | None:
        return noted(os.pread(self._owner, 200, 0))

    # --- the schema

    def _connect(self) -> sqlite3.Connection:
        is_new = not self.path.exists() or self.path.stat().st_size == 0
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=self._busy, check_same_thread=False)
        try:
            if not is_new:
                self._check_ours(connection)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
            connection.execute(f"PRAGMA journal_size_limit={64 << 20}")
            connection.text_factory = bytes
            self._migrate(connection)
            self._look_back(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_ours(self, connection: sqlite3.Connection) -> None:
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
        except sqlite3.DatabaseError as error:
            raise ConfigurationError(f"store.url: {self.path} is no SQLite file, or a broken one: {error}") from None
        if application == version == 0 and not tables:
            return  # begun by one of us that was killed before it came further
        if application != APPLICATION:
            raise ConfigurationError(
                f"store.url: {self.path} is another program's: name a file of its own, or a new one"
            )
        if version > len(MIGRATIONS):
            raise ConfigurationError(
                f"store.url: {self.path} has schema {version}, and this hubbub knows {len(MIGRATIONS)}: upgrade hubbub"
            )

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            first = f"INSERT INTO meta VALUES ('{secrets.token_hex(4)}', 0);" if number == 1 else ""
            if number == 1:
                connection.execute(f"PRAGMA application_id={APPLICATION}")
            connection.executescript(f"BEGIN IMMEDIATE; {script} {first} PRAGMA user_version={number}; COMMIT")

    def _look_back(self, connection: sqlite3.Connection) -> None:
        """Take another epoch if this is an older copy of what was here, or if nobody can say."""
        epoch, commits = connection.execute("SELECT epoch, commits FROM meta").fetchone()
        self.epoch = epoch.decode()
        note = self._noted()
        is_lost = note.is_lost(commits) if note is not None else commits > 0
        if is_lost:
            self.epoch = secrets.token_hex(4)
        if is_lost or (note is not None and note.relaxed):  # what relaxed commits have left is on the disk from here on
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("UPDATE meta SET epoch = ?", (self.epoch,))
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
        if is_lost:
            log.error("%s is an older copy or lost its last moments: all channels have a new epoch", self.path)
        self.note(commits)
        self._mark()


def back_up(path: Path, target: Path) -> None:
    """A copy as it is in one instant, also while a server writes. Opened as a store, the copy has another epoch.

    Raises ConfigurationError where there is nothing to copy or something in its way, BackendError.
    """
    if not path.is_file():
        raise ConfigurationError(f"store.url: there is no file {path}")
    if target.exists():
        raise ConfigurationError(f"{target} exists already: name a file that does not")
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=BUSY)
    try:
        connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        raise BackendError(f"{path} cannot be copied to {target}: {error}") from error
    finally:
        connection.close()


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """What kind of file system a folder is on, such as ext4; "" where the system does not say."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    best = ("", "")
    for mount in lines:
        before, _, after = mount.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        if folder.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, after.split()[0])
    return best[1]
