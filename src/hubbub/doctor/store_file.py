"""The file of a SQLite store, looked at without touching it.

Answers for: whether it may be opened, whose it is, what is in it, and how soon its disk keeps what it is given. Refuses
to know: how figures are judged.

Nothing is locked, not even for a moment: a server that starts in that moment would be refused.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from hubbub.clock import Clock
from hubbub.doctor import store_figures as figures
from hubbub.doctor.figures import size
from hubbub.doctor.findings import Finding
from hubbub.stores.sqlite_file import APPLICATION, MIGRATIONS, NETWORK, Note, beside, file_system_of, noted

#: How often the disk is asked, and with how many bytes: a page of SQLite's log.
WRITES, PAGE = 20, 4096

#: Seconds that somebody who writes is waited for.
_BUSY = 2.0

#: One line for each lock of a file on the system.
_LOCKS = Path("/proc/locks")


def examined_file(path: Path, clock: Clock) -> list[Finding]:
    """Everything about one file. Blocks."""
    findings = [figures.library(sqlite3.sqlite_version_info)]
    folder = path.resolve().parent
    if not folder.is_dir():
        return [*findings, Finding("folder", "wrong", f"there is no folder {folder}", f"mkdir -p {folder}")]
    findings += _folder(path, folder)
    kind = file_system_of(folder)
    findings.append(figures.file_system(kind, is_network=kind in NETWORK))
    findings.append(figures.room(shutil.disk_usage(folder).free))
    if os.access(folder, os.W_OK):
        findings.append(_commits(folder, clock))
    if kind not in NETWORK:
        findings += _contents(path)
    return findings


def _folder(path: Path, folder: Path) -> Iterator[Finding]:
    """Beside the file SQLite makes others, so a file that may be written is not enough."""
    files = [path, *(beside(path, suffix) for suffix in ("-owner", "-wal", "-shm"))]
    closed = [each for each in (folder, *(file for file in files if file.exists())) if not os.access(each, os.W_OK)]
    if closed:
        user = f"this user (uid {os.getuid()})"
        why = f", and SQLite makes files there beside {path.name}" if closed[0] == folder else ""
        fix = f"chown {os.getuid()} {closed[0]}, if hubbub runs as this user; else run hubbub doctor as that one"
        yield Finding("file", "wrong", f"{closed[0]} may not be written by {user}{why}", fix)
    elif not path.exists():
        yield Finding("file", "ok", f"not there yet: the first server makes it, in {folder}")
    elif not path.is_file():
        yield Finding("file", "wrong", f"{path} is no file", "name a file in store.url")
    else:
        yield Finding("file", "ok", f"{path.resolve()}, {size(path.stat().st_size)}")


def _commits(folder: Path, clock: Clock) -> Finding:
    """What the disk takes to keep a page, in a file that has no name and is gone afterwards."""
    times = []
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(WRITES):
                before = clock.now()
                file.write(bytes(PAGE))
                file.flush()
                os.fsync(file.fileno())
                times.append(clock.now() - before)
    except OSError as error:
        return Finding("commit", "wrong", f"{folder} cannot be written: {error}", "make room there, or mend the disk")
    return figures.commits("writes with fsync", times)


# --- who has it


def note_of(path: Path) -> Note | None:
    """What lies beside the database; None where there is nothing to read."""
    try:
        return noted(beside(path, "-owner").read_bytes())
    except OSError:
        return None


def owner(path: Path, locks: Path = _LOCKS) -> int | None:
    """The process that has locked the store; 0 for nobody; None where the system does not say."""
    try:
        found = beside(path, "-owner").stat()
        lines = [line.split() for line in locks.read_text().splitlines()]
    except FileNotFoundError:
        return 0 if locks.exists() else None
    except OSError:
        return None
    note = note_of(path)
    here = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for words in lines:
        if words[1] == "FLOCK" and words[5].endswith(f":{found.st_ino}"):
            pid = int(words[4])
            # Some file systems have another number there than here; who has noted itself is meant all the same.
            if words[5] == here or (note is not None and pid == note.pid):
                return pid
    return 0


def _owned(pid: int | None) -> Finding:
    if pid is None:
        return Finding("owner", "note", "this system does not say who has it open", "one process at a time may")
    if not pid:
        return Finding("owner", "ok", "no server has it open")
    fix = "nothing if that is your server; a second one on this file is refused"
    return Finding("owner", "note", f"process {pid} has it open", fix)


# --- what is in it


def _contents(path: Path) -> Iterator[Finding]:
    if not path.is_file() or not path.stat().st_size:
        return
    pid, note = owner(path), note_of(path)  # the note first: what is committed meanwhile makes no older copy of it
    yield _owned(pid)
    try:
        with closing(_opened(path)) as connection:
            yield from _read(connection, note, is_wal=_is_wal(path))
    except sqlite3.DatabaseError as error:
        yield _unreadable(path, error)
        return
    wal = beside(path, "-wal")
    yield figures.write_ahead_log(wal.stat().st_size if wal.exists() else 0)


def _opened(path: Path) -> sqlite3.Connection:
    """Where there is no write-ahead log, nothing may be made for it, either: it would stay."""
    how = "mode=ro" if beside(path, "-wal").exists() else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, isolation_level=None, timeout=_BUSY)


def _is_wal(path: Path) -> bool:
    """What its header says; asked without a log, SQLite itself says something else."""
    with path.open("rb") as file:
        return file.read(20)[18:] == b"\2\2"


def _unreadable(path: Path, error: sqlite3.DatabaseError) -> Finding:
    if isinstance(error, sqlite3.OperationalError):
        return Finding(
            "contents", "warning", f"{path} cannot be read: {error}", "see who else has it open, and as whom"
        )
    fix = "name another file, or put a backup in its place"
    return Finding("contents", "wrong", f"{path} is no SQLite file, or a broken one: {error}", fix)


def _read(connection: sqlite3.Connection, note: Note | None, *, is_wal: bool) -> Iterator[Finding]:
    connection.execute("BEGIN")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        yield Finding("contents", "wrong", "it is another program's file", "name a file of its own in store.url")
        return
    yield figures.schema(version, len(MIGRATIONS))
    if version > len(MIGRATIONS):
        return
    if not is_wal:
        seen = "journal_mode is not WAL: another program has changed it"
        yield Finding("journal", "warning", seen, "the next server that starts sets it to WAL; stop what changes it")
    yield _age(connection, note)
    yield _filling(connection)


def _age(connection: sqlite3.Connection, note: Note | None) -> Finding:
    """Whether the file is the newest that was here."""
    (commits,) = connection.execute("SELECT commits FROM meta").fetchone()
    if note is not None and commits >= note.commits and note.is_lost(commits):
        seen = "commits were relaxed, and the machine went down: all channels get another epoch, and clients are told"
        return Finding("age", "note", seen, "nothing if that is known; the next server that starts does it")
    if commits and (note is None or commits < note.commits):
        last = f"its last owner had {note.commits:,}" if note else "nobody has noted how many it should have"
        seen = f"an older copy: {commits:,} commits, and {last}. All channels get another epoch, and clients are told"
        return Finding("age", "note", seen, "nothing if you have put back a backup; else look for the newer file")
    return Finding("age", "ok", f"{commits:,} commits, as noted beside it")


def _filling(connection: sqlite3.Connection) -> Finding:
    (channels,) = connection.execute("SELECT count(*) FROM channel").fetchone()
    pages, free, page = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    seen = f"{channels:,} channels in {size(pages * page)}, of which {size(free * page)} are free for what comes"
    return Finding("contents", "ok", seen)
