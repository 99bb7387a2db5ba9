"""`hubbub doctor`: how what it sees of a store is judged."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from tests.backends import free_port

from hubbub.clock import SystemClock
from hubbub.doctor import store_figures as figures
from hubbub.doctor.store import stored
from hubbub.doctor.store_file import note_of, owner
from hubbub.settings import load
from hubbub.stores.sqlite_file import Note

MIB = 1 << 20


@pytest.mark.parametrize(
    ("version", "level"),
    [
        *(((3, 26, 0), "wrong"), ((3, 40, 1), "note"), ((3, 50, 6), "note"), ((3, 51, 2), "note")),
        *(((3, 50, 7), "ok"), ((3, 51, 3), "ok"), ((3, 52, 0), "ok")),
    ],
)
def test_versions_of_sqlite(version: tuple[int, ...], level: str) -> None:
    found = figures.library(version)
    assert found.level == level
    assert bool(found.fix) == (level != "ok")


@pytest.mark.parametrize(
    ("kind", "is_network", "level"),
    [
        *(("ext4", False, "ok"), ("nfs4", True, "wrong"), ("overlay", False, "warning"), ("tmpfs", False, "warning")),
        ("", False, "note"),
    ],
)
def test_file_systems(kind: str, is_network: bool, level: str) -> None:
    assert figures.file_system(kind, is_network=is_network).level == level


@pytest.mark.parametrize(("free", "level"), [(0, "wrong"), (500 * MIB, "warning"), (5000 * MIB, "ok")])
def test_room(free: int, level: str) -> None:
    assert figures.room(free).level == level


def test_a_log_that_nobody_may_fold_is_doubtful() -> None:
    assert figures.write_ahead_log(4 * MIB).level == "ok"
    assert figures.write_ahead_log(65 * MIB).level == "warning"


def test_schemas() -> None:
    assert [figures.schema(found, 2).level for found in (1, 2, 3)] == ["note", "ok", "wrong"]


@pytest.mark.parametrize(("each", "level"), [(0.000_001, "warning"), (0.0003, "ok"), (0.03, "warning"), (0.6, "wrong")])
def test_commits(each: float, level: str) -> None:
    found = figures.commits("writes", [each] * 19 + [each * 100])
    assert found.level == level
    assert f"worst {each * 100_000:.3g} ms" in found.seen


def test_round_trips() -> None:
    assert figures.round_trips([0.001] * 3).level == "ok"
    assert figures.round_trips([0.05] * 3).level == "warning"


WELL = {
    **dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit", "autovacuum"), "on"),
    **{"server_version": "15.18 (Debian 15.18-0+deb12u1)", "server_encoding": "UTF8", "recovery": "f", "wanted": "on"},
    **{"default_transaction_read_only": "off", "synchronous_standby_names": "", "standbys": "0", "user": "app"},
}


def test_a_postgresql_as_it_comes_is_well() -> None:
    assert {found.level for found in figures.postgres(WELL)} == {"ok"}


@pytest.mark.parametrize(
    ("change", "subject", "level"),
    [
        ({"server_version": "14.9"}, "version", "wrong"),
        ({"recovery": "t"}, "role", "wrong"),
        ({"default_transaction_read_only": "on"}, "role", "wrong"),
        ({"standbys": "2"}, "role", "note"),
        ({"fsync": "off"}, "durability", "wrong"),
        ({"full_page_writes": "off"}, "durability", "warning"),
        ({"synchronous_commit": "off"}, "durability", "wrong"),
        ({"wanted": "off", "synchronous_commit": "off"}, "durability", "note"),
        ({"wanted": "off"}, "durability", "warning"),
        ({"server_encoding": "SQL_ASCII"}, "encoding", "wrong"),
        ({"autovacuum": "off"}, "vacuum", "warning"),
    ],
)
def test_what_is_set_badly_has_its_fix(change: dict[str, str], subject: str, level: str) -> None:
    (found,) = [each for each in figures.postgres(WELL | change) if each.level != "ok"]
    assert (found.subject, found.level) == (subject, level)
    assert found.fix


def test_a_standby_that_commits_wait_for_is_well() -> None:
    found = list(figures.postgres(WELL | {"standbys": "1", "synchronous_standby_names": "ANY 1 (a, b)"}))
    assert {each.level for each in found} == {"ok"}
    assert any("a commit waits for ANY 1 (a, b)" in each.seen for each in found)


@pytest.mark.parametrize(
    ("limit", "used", "ours", "level"),
    [
        *((97, 0, 0, "ok"), (97, 88, 0, "ok"), (97, 89, 0, "warning"), (8, 0, 0, "wrong")),
        (97, 97, 9, "ok"),  # it is the one that runs
    ],
)
def test_room_for_connections(limit: int, used: int, ours: int, level: str) -> None:
    assert figures.connections(figures.Room(limit, used, ours), 9).level == level


def test_clocks() -> None:
    assert figures.clock(0.5, 0.01).level == "ok"
    assert figures.clock(-5, 0.01).level == "warning"
    assert "behind" in figures.clock(-5, 0.01).seen


def test_poolers() -> None:
    assert figures.pooler("transaction").level == "wrong"
    assert figures.pooler("session").level == "warning"


def test_an_outbox_that_nobody_empties() -> None:
    assert figures.outbox(0, 0).level == "ok"
    assert figures.outbox(5, 2).level == "ok"
    assert figures.outbox(5, 200).level == "warning"


# ------------------------------------------------------------------------------------------------------- whose file


def test_the_owner_is_read_from_the_locks_of_the_system(tmp_path: Path) -> None:
    path, locks = tmp_path / "app.db", tmp_path / "locks"
    assert owner(path) == 0
    assert owner(path, locks) is None
    (tmp_path / "app.db-owner").write_text("12 4711\n")
    assert note_of(path) == Note(12, 4711)
    inode = (tmp_path / "app.db-owner").stat().st_ino
    other = "1: POSIX  ADVISORY  WRITE 815 fe:00:1 0 EOF\n"
    locks.write_text(other)
    assert owner(path, locks) == 0
    locks.write_text(f"{other}2: FLOCK  ADVISORY  WRITE 4711 fe:00:{inode} 0 EOF\n")
    assert owner(path, locks) == 4711
    locks.write_text(f"1: FLOCK  ADVISORY  WRITE 815 ff:ff:{inode} 0 EOF\n")  # of another disk
    assert owner(path, locks) == 0


def test_a_real_lock_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with Path(f"{path}-owner").open("w") as file:
        if (before := owner(path)) is None:
            pytest.skip("this system does not say who has locked a file")
        assert before == 0
        assert note_of(path) is None
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"0 {os.getpid()}\n")
        file.flush()
        assert owner(path) == os.getpid()
    assert note_of(path) == Note(0, os.getpid())


# ---------------------------------------------------------------------------------------------------- which store


async def test_a_store_that_forgets_is_doubtful_and_no_password_is_shown() -> None:
    assert await stored(load(None, {}, {}), SystemClock()) is None
    url = f"postgresql://ann:secret@127.0.0.1:{free_port()}/x?password=secret"
    part = await stored(load(None, {}, {"store.url": url}), SystemClock())
    assert part is not None
    assert "secret" not in str(part)
    part = await stored(load(None, {}, {"store.url": "memory://"}), SystemClock())
    assert part is not None
    assert [each.level for each in part.findings] == ["warning"]
