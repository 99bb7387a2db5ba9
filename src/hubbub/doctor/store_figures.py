"""What a disk and a PostgreSQL say about themselves, judged. Pure.

Answers for: findings from times, sizes, versions and settings. Refuses to know: how they were asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import NamedTuple

from hubbub.doctor.figures import size
from hubbub.doctor.findings import Finding, Level

#: Seconds that a commit takes, in the middle. A local disk needs 0.1 to 5 ms, one over the network up to 20: above that
#: a lonely publisher waits noticeably.
SLOW = 0.020
#: Ten thousand publications may wait, in batches of up to 500: above this whoever comes last waits ten seconds.
TOO_SLOW = 0.5
#: No disk that survives a power cut is as fast: who says so has written nothing.
TOO_FAST = 0.000_01

#: Bytes. Under the first the next fold of the write-ahead log (64 MiB) may not fit; under the second, somebody should
#: know in time.
FULL, NEARLY_FULL = 100 << 20, 1 << 30

#: Bytes that SQLite's write-ahead log has at most where nobody keeps it from being folded.
WAL_LIMIT = 64 << 20

#: The oldest major version that hubbub is tested with.
OLDEST = 15

#: Seconds. Retention goes by the servers' clocks, and several servers write one log.
CLOCK_OFF = 1.0

#: Seconds after which a server has moved everything out of the outbox, however busy it is.
LATE = 60.0

_FASTER = "a local disk (SSD) for it; batches make up for much of it, a lonely publisher waits"


# ------------------------------------------------------------------------------------------------------------ a file


def library(version: tuple[int, ...]) -> Finding:
    """The version of SQLite."""
    seen = f"SQLite {'.'.join(map(str, version))}"
    if version < (3, 27):
        return Finding("version", "wrong", f"{seen} is too old", "a Python with SQLite 3.27 or later")
    is_mended = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51)
    if is_mended:
        return Finding("version", "ok", seen)
    return Finding(
        *(
            "version",
            "note",
            f"{seen}: before 3.51.3 two connections that write can, rarely, corrupt a file; hubbub has one",
        ),
        "nothing, as long as no other program writes into that file",
    )


#: Where a container keeps what goes with it, and what is kept in memory.
_FLEETING = {"overlay": "the container's own layer", "tmpfs": "memory", "ramfs": "memory"}


def file_system(kind: str, *, is_network: bool) -> Finding:
    """What lies under the folder."""
    if is_network:
        seen = f"{kind} is a network file system: SQLite's locks cannot be trusted there"
        return Finding("file system", "wrong", seen, "a local disk, or store.url = 'postgresql://…'")
    if kind in _FLEETING:
        seen = f"{kind} is {_FLEETING[kind]}: what was acknowledged goes with it"
        return Finding("file system", "warning", seen, "mount a volume, or name a folder on a disk")
    if not kind:
        return Finding("file system", "note", "this system does not say which it is", "never one over the network")
    return Finding("file system", "ok", kind)


def room(free: int) -> Finding:
    """Bytes that are left on the disk."""
    seen = f"{size(free)} are free"
    if free < FULL:
        return Finding("room", "wrong", f"{seen}: soon nothing can be written", "make room on that disk")
    if free < NEARLY_FULL:
        return Finding("room", "warning", seen, "make room, or keep less: retention of [channels.*]")
    return Finding("room", "ok", seen)


def write_ahead_log(length: int) -> Finding:
    """Bytes of the file's write-ahead log."""
    seen = f"the write-ahead log has {size(length)}"
    if length > WAL_LIMIT:
        seen += ": somebody who reads keeps it from being folded into the file"
        return Finding(
            "log", "warning", seen, "end transactions in other programs: a sqlite3 shell, a backup that hangs"
        )
    return Finding("log", "ok", seen)


def schema(found: int, known: int) -> Finding:
    """The schema's version there, and the newest that this hubbub knows."""
    if found > known:
        seen = f"version {found}, and this hubbub knows {known}: it will not start"
        return Finding("schema", "wrong", seen, "upgrade hubbub here")
    if found < known:
        seen = f"version {found} of {known}: the next server that starts brings it up to date"
        return Finding("schema", "note", seen, "`hubbub db backup` before that, or a backup of the database")
    return Finding("schema", "ok", f"version {found}")


# ---------------------------------------------------------------------------------------------------------- how long


def commits(what: str, times: list[float]) -> Finding:
    """From how long each took that was to survive a power cut, in seconds."""
    middle, worst = median(times), max(times)
    seen = f"{len(times)} {what}: median {middle * 1000:.3g} ms, worst {worst * 1000:.3g} ms"
    if middle >= TOO_SLOW:
        return Finding("commit", "wrong", f"{seen}: a burst of publishes waits for many seconds", _FASTER)
    if middle >= SLOW:
        return Finding("commit", "warning", f"{seen}: so long waits who publishes alone", _FASTER)
    if middle < TOO_FAST:
        seen += ": no disk is as fast, so nothing was written there"
        return Finding("commit", "warning", seen, "a disk that keeps what it confirms")
    return Finding("commit", "ok", seen)


def round_trips(times: list[float]) -> Finding:
    """From how long the database took to answer, in seconds. A batch takes three or four, a page of history one."""
    middle, worst = median(times), max(times)
    seen = f"{len(times)} SELECT 1: median {middle * 1000:.3g} ms, worst {worst * 1000:.3g} ms"
    if middle >= SLOW:
        fix = "a database in the same data centre as the nodes; if it is there, see how busy its CPU is"
        return Finding("round trip", "warning", f"{seen}: a commit takes five", fix)
    return Finding("round trip", "ok", seen)


# -------------------------------------------------------------------------------------------------------- PostgreSQL

Facts = Mapping[str, str]


def postgres(facts: Facts) -> Iterator[Finding]:
    """From its settings, by name, and `version`, `recovery` and `pooler`, see `store_server`."""
    yield _version(facts["server_version"])
    yield _role(facts)
    yield from _unsafe(facts)
    if facts["server_encoding"] != "UTF8":
        seen = f"the database is {facts['server_encoding']}: not every text can be written"
        yield Finding("encoding", "wrong", seen, "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name that")
    if facts["autovacuum"] == "off":
        seen = "autovacuum is off: the log grows although retention deletes"
        yield Finding("vacuum", "warning", seen, "postgresql.conf: autovacuum = on")


def _version(text: str) -> Finding:
    seen = f"PostgreSQL {text}"
    if int(text.split()[0].split(".")[0]) < OLDEST:
        return Finding("version", "wrong", f"{seen} is too old", f"PostgreSQL {OLDEST} or later")
    return Finding("version", "ok", seen)


def _role(facts: Facts) -> Finding:
    if facts["recovery"] == "t":
        seen = "it is a standby, and takes no writes"
        return Finding("role", "wrong", seen, "name the primary; after a failover, an address that moves with it")
    if facts["default_transaction_read_only"] == "on":
        seen = "default_transaction_read_only is on: it takes no writes"
        fix = f"ALTER ROLE {facts['user']} SET default_transaction_read_only = off"
        return Finding("role", "wrong", seen, fix)
    standbys = int(facts["standbys"])
    if not standbys:
        return Finding("role", "ok", "primary, no standby")
    seen = f"primary, {standbys} standby" + ("s" if standbys > 1 else "")
    if facts["synchronous_standby_names"]:
        return Finding("role", "ok", f"{seen}, a commit waits for {facts['synchronous_standby_names']}")
    return Finding(
        *("role", "note", f"{seen}: a failover may lose the last publications. It is noticed, and clients are told"),
        "nothing if that is meant; else postgresql.conf: synchronous_standby_names",
    )


def _unsafe(facts: Facts) -> Iterator[Finding]:
    """What makes an acknowledgement worth less than it says."""
    found = False
    for name, level, what in _SAFE:
        if facts[name] == "off":
            found = True
            yield Finding("durability", level, f"{name} is off: {what}", f"postgresql.conf: {name} = on")
    wanted, given = facts["wanted"], facts["synchronous_commit"]
    if given != wanted:
        found = True
        seen = f"synchronous_commit is {given} although hubbub asks for {wanted}: something in between drops that"
        fix = "name PostgreSQL itself in store.url, not a pooler"
        yield Finding("durability", "wrong" if wanted == "on" else "warning", seen, fix)
    elif wanted == "off":
        seen = "store.durability is relaxed: a crash of the database may lose what was acknowledged in its last second"
        yield Finding("durability", "note", seen, "nothing if that is meant")
    elif not found:
        yield Finding("durability", "ok", "fsync, full_page_writes and synchronous_commit are on")


_SAFE: tuple[tuple[str, Level, str], ...] = (
    ("fsync", "wrong", "a power cut loses what was acknowledged, or the whole database"),
    ("full_page_writes", "warning", "a power cut can leave half a page, unless the file system never does"),
)


class Room(NamedTuple):
    """Connections: how many this user may have, how many there are, and how many of these are hubbub's."""

    limit: int
    used: int
    ours: int


def connections(found: Room, wanted: int) -> Finding:
    """`wanted`: what one server takes, all of its workers together."""
    seen = f"{found.used} of {found.limit} are taken, {found.ours} by hubbub; a server as configured takes {wanted}"
    fix = "postgresql.conf: a higher max_connections (or the limits of role and database), or fewer workers"
    if wanted > found.limit:
        return Finding("connections", "wrong", seen, fix)
    if found.used - min(found.ours, wanted) + wanted > found.limit:
        return Finding("connections", "warning", f"{seen}: there is no room for it", fix)
    return Finding("connections", "ok", seen)


def clock(ahead: float, trip: float) -> Finding:
    """By how many seconds the database's clock is ahead of ours, as seen over a round trip of so many."""
    if abs(ahead) <= CLOCK_OFF + trip / 2:
        return Finding("clock", "ok", "the database's and this machine's agree")
    way = "ahead of" if ahead > 0 else "behind"
    seen = f"the database's is {abs(ahead):.1f} s {way} this machine's: one of them is wrong"
    return Finding("clock", "warning", seen, "run NTP on both: retention goes by the clock of whoever has written")


def outbox(waiting: int, age: float) -> Finding:
    """How many publications wait there, the oldest for so many seconds."""
    if not waiting:
        return Finding("outbox", "ok", "nothing waits in the outbox")
    seen = f"{waiting:,} publications wait in the outbox, the oldest for {age:.0f} s"
    if age < LATE:
        return Finding("outbox", "ok", seen)
    return Finding("outbox", "warning", f"{seen}: nobody moves them into the log", "start a server on this store")


def pooler(mode: str) -> Finding:
    """Something between us and the database, and whether it changes servers between transactions."""
    fix = "name PostgreSQL itself in store.url: hubbub keeps its few connections open, and needs no pooler"
    if mode == "transaction":
        seen = "a pooler changes servers between transactions: prepared statements get lost there, and nothing works"
        return Finding("pooler", "wrong", seen, fix)
    seen = "a pooler is in between (PgBouncer?): it works in session mode only, with a pool as large as the connections"
    return Finding("pooler", "warning", seen, fix)
