"""What only a file can suffer: a crash, a full disk, another program, an older copy, and files that are not ours."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.stores import Committed

from hubbub.clock import SystemClock
from hubbub.errors import BackendError, ConfigurationError, PublishFailed
from hubbub.model import Position, Publication
from hubbub.stores import sqlite_file
from hubbub.stores.base import Draft
from hubbub.stores.sqlite import SqliteStore
from hubbub.stores.sqlite_file import APPLICATION, MIGRATIONS, StoreFile, back_up, file_system_of

#: Writes for ever, ten callers at once, and says what was acknowledged. Its argument limits the size of its files.
WRITER = """
import asyncio, json, resource, signal, sys
from pathlib import Path
from hubbub.clock import SystemClock
from hubbub.errors import PublishFailed
from hubbub.model import Publication
from hubbub.stores.base import Draft
from hubbub.stores.sqlite import SqliteStore

class Nobody:
    def on_committed(self, channel, publication, epoch): pass

async def write(store, name):
    for number in range(100_000):
        text = json.dumps([name, number, "x" * 500])
        try:
            done = await store.append(Draft("room", Publication(text.encode())))
        except PublishFailed as error:
            print("failed", name, number, error.is_retry_safe, str(error), flush=True)
            return
        print("done", name, number, done.position.offset, flush=True)

async def main(path, limit):
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    store = SqliteStore(Path(path), clock=SystemClock())
    await store.start(Nobody())
    print("ready", flush=True)
    await asyncio.gather(*(write(store, name) for name in range(10)))
    await store.stop()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def writer(path: Path, *, limit: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(limit)], stdout=subprocess.PIPE, text=True)


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, clock=SystemClock(), **options)
    await store.start(Committed())
    try:
        yield store
    finally:
        await store.stop()


async def append(store: SqliteStore, data: bytes = b"{}") -> Position:
    position = (await store.append(Draft("room", Publication(data)))).position
    assert position is not None
    return position


async def written(store: SqliteStore) -> list[tuple[int, int]]:
    """Who wrote what, in the order of the log; that it has no hole is checked here."""
    found: list[tuple[int, int]] = []
    offset = 0
    while publications := (await store.read("room", offset, 500)).publications:
        for publication in publications:
            offset += 1
            assert publication.offset == offset
            name, number, _ = json.loads(publication.data)
            found.append((name, number))
    assert (await store.heads(["room"]))["room"].offset == offset
    return found


def acknowledged(lines: list[str]) -> dict[int, tuple[int, int]]:
    words = [line.split() for line in lines if line.startswith("done") and line.endswith("\n")]
    return {int(offset): (int(name), int(number)) for _, name, number, offset in words}


@pytest.mark.parametrize("run", range(4))
async def test_killed_at_any_moment_it_has_what_it_acknowledged(tmp_path: Path, run: int) -> None:
    path = tmp_path / "app.db"
    with writer(path) as process:
        assert process.stdout is not None
        lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(random.randint(20, 400))]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    async with opened(path) as store:
        log = await written(store)
    told = acknowledged(lines)
    assert told
    assert {offset: log[offset - 1] for offset in told} == told
    assert len(log) <= len(told) + 10  # beyond it, what each writer was still waiting for
    for name in range(10):
        assert [number for other, number in log if other == name] == list(range(sum(other == name for other, _ in log)))


async def test_a_full_disk_refuses_plainly_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    process = writer(path, limit=1 << 20)
    lines, _ = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0
    failed = [line for line in lines.splitlines() if line.startswith("failed")]
    assert len(failed) == 10
    assert all("not published" in line and "True" in line for line in failed), failed
    told = acknowledged(lines.splitlines(keepends=True))
    assert told
    async with opened(path) as store:
        log = await written(store)
        assert {offset: log[offset - 1] for offset in told} == told
        assert len(log) == len(told)
        await append(store)  # there is room again


async def test_one_process_owns_a_file(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    process = writer(path)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
    assert (await asyncio.to_thread(process.stdout.readline)).startswith("done")
    with pytest.raises(ConfigurationError, match=f"open in another process .pid {process.pid}.*PostgreSQL"):
        await SqliteStore(path, clock=SystemClock()).start(Committed())
    process.kill()
    process.communicate()
    async with opened(path):
        pass


async def test_a_program_that_holds_the_lock_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with opened(path, busy=0.1) as store:
        await append(store)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PublishFailed, match="another program holds the file's lock") as failed:
            await append(store)
        assert failed.value.is_retry_safe
        assert len((await store.read("room", 0, 10)).publications) == 1
        other.execute("ROLLBACK")
        other.close()
        assert (await append(store)).offset == 2


@pytest.mark.parametrize("happens", ["before", "after"])
async def test_a_commit_without_an_answer_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happens: str
) -> None:
    is_failing = False

    class Flaky(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if sql != "COMMIT" or not is_failing:
                return super().execute(sql, *arguments)
            if happens == "after":
                super().execute(sql)
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Flaky))
    async with opened(tmp_path / "app.db") as store:
        await append(store)
        is_failing = True
        if happens == "after":
            assert (await append(store)).offset == 2
        else:
            with pytest.raises(PublishFailed) as failed:
                await append(store)
            assert failed.value.is_retry_safe
        is_failing = False
        assert (await append(store)).offset == (3 if happens == "after" else 2)


async def test_a_sweep_writes_nothing_where_nothing_is_old(tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    def commits() -> int:
        connection = sqlite3.connect(path)
        (count,) = connection.execute("SELECT commits FROM meta").fetchone()
        connection.close()
        return int(count)

    async with opened(path) as store:
        await asyncio.gather(*(store.append(Draft(f"room{number}", Publication(b"{}"))) for number in range(700)))
        await store.trim("room7", 1)  # one in which there is nothing
        before = commits()
        assert await store.sweep(lambda channel: 3600.0) == 0
        assert await store.sweep(lambda channel: 0.0) == 0
        assert commits() == before
        assert await store.sweep(lambda channel: -3600.0 if channel == "room9" else 3600.0) == 1
        assert commits() == before + 1


# --- older copies


def copy_of(path: Path, folder: Path) -> Path:
    """A copy of the whole store, as somebody who stops the server makes it."""
    folder.mkdir()
    for file in (path, Path(f"{path}-owner")):
        shutil.copy(file, folder / file.name)
    return folder / path.name


async def test_the_same_file_has_the_same_epoch(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    epochs = set()
    for _ in range(3):
        async with opened(path) as store:
            epochs.add((await append(store)).epoch)
    assert len(epochs) == 1


async def test_an_older_copy_gets_another_epoch(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with opened(path) as store:
        old = await append(store)
    shutil.copy(path, tmp_path / "backup.db")
    async with opened(path) as store:
        await append(store)
    shutil.copy(tmp_path / "backup.db", path)
    async with opened(path) as store:
        new = await append(store)
        assert new.offset == 2
        assert new.epoch != old.epoch
        assert (await store.heads(["other"]))["other"].epoch == new.epoch
    async with opened(path) as store:
        assert (await append(store)).epoch == new.epoch


async def test_a_store_that_is_started_again_remembers_nothing_of_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    store = SqliteStore(path, clock=SystemClock())
    await store.start(Committed())
    old = await append(store)
    back_up(path, tmp_path / "backup.db")
    for _ in range(5):
        await append(store)
    await store.stop()
    shutil.copy(tmp_path / "backup.db", path)
    await store.start(Committed())
    new = await append(store)
    assert new.offset == 2
    assert new.epoch != old.epoch
    await store.stop()
    async with opened(path) as other:
        await append(other)
    await store.start(Committed())
    assert (await append(store)).offset == 4
    assert [each.offset for each in (await store.read("room", 0, 10)).publications] == [1, 2, 3, 4]
    await store.stop()


async def test_a_file_that_comes_alone_gets_another_epoch(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with opened(path) as store:
        old = await append(store)
    (tmp_path / "app.db-owner").unlink()
    async with opened(path) as store:
        assert (await append(store)).epoch != old.epoch


async def test_a_copy_of_everything_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with opened(path) as store:
        old = await append(store)
    async with opened(copy_of(path, tmp_path / "there")) as store:
        assert await append(store) == Position(old.epoch, 2)


# --- what a machine takes with it


async def cut(path: Path, there: Path, *, is_relaxed: bool) -> tuple[Position, Path]:
    """Where it stood, and what is on the disk when the machine goes down: the file and its note, and no log."""
    async with opened(path, is_relaxed=is_relaxed) as store:
        await append(store)
    async with opened(path, is_relaxed=is_relaxed) as store:  # all of what came before is in the file by now
        before = (await store.heads(["room"]))["room"]
        copy = copy_of(path, there)
        await append(store)
    return before, copy


async def test_a_power_cut_of_relaxed_commits_is_another_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, copy = await cut(tmp_path / "app.db", tmp_path / "there", is_relaxed=True)
    monkeypatch.setattr(sqlite_file, "_BOOT", boot := tmp_path / "boot")
    boot.write_text("another one\n")
    async with opened(copy) as store:  # also where commits are not relaxed any more
        after = await append(store)
        assert after.offset == before.offset + 1
        assert after.epoch != before.epoch
    for is_relaxed in (True, False):
        async with opened(copy, is_relaxed=is_relaxed) as store:
            assert (await store.heads(["room"]))["room"] == after


async def test_a_power_cut_without_relaxed_commits_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, copy = await cut(tmp_path / "app.db", tmp_path / "there", is_relaxed=False)
    monkeypatch.setattr(sqlite_file, "_BOOT", boot := tmp_path / "boot")
    boot.write_text("another one\n")
    async with opened(copy) as store:
        assert (await store.heads(["room"]))["room"] == before


async def test_a_process_that_is_killed_takes_no_relaxed_commit_with_it(tmp_path: Path) -> None:
    before, copy = await cut(tmp_path / "app.db", tmp_path / "there", is_relaxed=True)
    if not sqlite_file._BOOT.exists():
        pytest.skip("this system does not say whether it was started anew")
    async with opened(copy, is_relaxed=True) as store:
        assert (await store.heads(["room"]))["room"] == before


async def test_where_nobody_knows_the_boot_each_unclean_end_is_another_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_BOOT", tmp_path / "nothing")
    before, copy = await cut(tmp_path / "app.db", tmp_path / "there", is_relaxed=True)
    async with opened(copy, is_relaxed=True) as store:
        after = (await store.heads(["room"]))["room"]
    assert after.epoch != before.epoch
    async with opened(copy, is_relaxed=True) as store:  # it ended well
        assert (await store.heads(["room"]))["room"] == after


async def test_an_end_with_somebody_reading_is_no_clean_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only in the write-ahead log is not on the disk yet."""
    path = tmp_path / "app.db"
    monkeypatch.setattr(sqlite_file, "_BOOT", boot := tmp_path / "boot")
    boot.write_text("one\n")
    async with opened(path, is_relaxed=True, busy=0.1) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN")
        other.execute("SELECT * FROM log").fetchall()
        old = await append(store)
    other.close()
    boot.write_text("two\n")
    async with opened(path) as store:
        assert (await store.heads(["room"]))["room"].epoch != old.epoch


async def test_a_start_that_fails_late_leaves_the_file_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "app.db"

    def fail(file: StoreFile) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as broken:
        broken.setattr(StoreFile, "reader", fail)
        await refused(path, "cannot be opened as a store: unable to open", BackendError)
    async with opened(path) as store:
        assert (await append(store)).offset == 1


async def test_a_note_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "app.db-owner").mkdir()
    await refused(tmp_path / "app.db", "app.db-owner", BackendError)


# --- files that are not ours


async def refused(path: Path, match: str, of: type[Exception] = ConfigurationError) -> None:
    with pytest.raises(of, match=match):
        await SqliteStore(path, clock=SystemClock()).start(Committed())


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with opened(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    connection.close()
    await refused(path, "upgrade hubbub")


async def test_another_programs_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    await refused(path, "another program's")
    assert path.read_bytes() == before


async def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    path.write_text("A shopping list, long enough to be taken for a header of a hundred bytes. " * 10)
    before = path.read_bytes()
    await refused(path, "no SQLite file")
    assert path.read_bytes() == before


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    await refused(tmp_path / "missing" / "app.db", "there is no folder")


async def test_a_path_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "app.db").mkdir()
    await refused(tmp_path / "app.db", "app.db", (BackendError, ConfigurationError))  # type: ignore[arg-type]  # a tuple will do


def test_the_kind_of_a_file_system_is_that_of_the_deepest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:1 / / rw,relatime - ext4 /dev/vda rw\n"
        "30 22 0:2 / /srv rw - nfs4 server:/srv rw\n"
        "31 30 0:3 / /srv/a\\040b rw - tmpfs tmpfs rw\n"
    )
    assert file_system_of(Path("/var/lib"), mounts) == "ext4"
    assert file_system_of(Path("/srv/data"), mounts) == "nfs4"
    assert file_system_of(Path("/srv/a b/c"), mounts) == "tmpfs"
    assert file_system_of(Path("/var"), tmp_path / "nothing") == ""


async def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubbub.stores.sqlite_file.file_system_of", lambda folder: "nfs4")
    await refused(tmp_path / "app.db", "network file system .nfs4.*local disk")
    assert not (tmp_path / "app.db").exists()


async def test_a_file_of_ours_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "app.db") as store:
        await append(store, '"ünï"'.encode())
    with sqlite3.connect(tmp_path / "app.db") as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        # What an operator sees who looks for a message.
        assert connection.execute("SELECT name, data FROM log JOIN channel ON id = channel").fetchall() == [
            ("room", '"ünï"')
        ]
    connection.close()


async def test_a_first_start_that_was_cut_short_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")  # as far as one got that was killed in the next moment
    connection.close()
    assert path.stat().st_size > 0
    async with opened(path) as store:
        assert (await append(store)).offset == 1


async def test_a_store_is_opened_again_by_the_same_object(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "app.db", clock=SystemClock())
    for offset in (1, 2, 3):
        await store.start(Committed())
        reads = [asyncio.ensure_future(store.read("room", 0, 10)) for _ in range(20)]
        assert (await append(store)).offset == offset
        await asyncio.gather(*reads)
        await store.stop()


# --- links


def linked(path: Path, name: str) -> Path:
    """The same file by the name that a release gives it."""
    link = path.parent / name / path.name
    link.parent.mkdir()
    link.symlink_to(path)
    return link


async def test_a_file_has_one_owner_whatever_links_lead_to_it(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with opened(linked(path, "one")) as store:
        await append(store)
        for other in (linked(path, "two"), path):
            await refused(other, "open in another process")
        assert (await append(store)).offset == 2
    names = {"app.db", "app.db-owner", "one", "two"}
    assert set(os.listdir(tmp_path)) == names  # the note lies beside the file


async def test_a_new_release_with_its_own_link_has_the_same_epoch(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    epochs = set()
    for name in ("one", "two", "three"):
        async with opened(linked(path, name)) as store:
            epochs.add((await append(store)).epoch)
    assert len(epochs) == 1


# --- who loses patience


@asynccontextmanager
async def held(path: Path) -> AsyncIterator[None]:
    """Another program is writing there."""
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


async def test_a_start_that_somebody_gives_up_leaves_the_file_to_others(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with opened(path) as store:
        old = await append(store)
    (tmp_path / "app.db-owner").unlink()  # so that opening has to write
    store = SqliteStore(path, clock=SystemClock(), busy=60)
    async with held(path):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await store.start(Committed())
        with pytest.raises(TimeoutError):  # it waits for the thread that opens, and the event loop goes on
            async with asyncio.timeout(0.2):
                await store.stop()
    await store.stop()
    async with opened(path) as other:
        new = await append(other)
        assert new.offset == 2
        assert new.epoch != old.epoch
    await store.start(Committed())
    assert await append(store) == new._replace(offset=3)
    await store.stop()


async def test_a_stop_that_somebody_gives_up_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    store = SqliteStore(path, clock=SystemClock(), busy=60)
    await store.start(Committed())
    async with held(path):
        appending = asyncio.ensure_future(store.append(Draft("room", Publication(b"{}"))))
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await store.stop()
    await store.stop()
    published = await appending
    assert published.position is not None
    async with opened(path) as other:
        assert (await other.heads(["room"]))["room"] == published.position


async def test_one_that_does_not_run_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "app.db", clock=SystemClock())
    for _ in range(2):
        for asked in (store.read("room", 0, 1), store.trim("room", 1), store.replace_epoch("room", "x")):
            with pytest.raises(BackendError, match="not running"):
                await asked
        await store.start(Committed())
        await append(store)
        await store.stop()
