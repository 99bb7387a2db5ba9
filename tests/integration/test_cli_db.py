"""`hubbub db`, as somebody types it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.contracts.stores import Committed
from tests.integration.commands import ran, refusal

from hubbub.clock import SystemClock
from hubbub.model import Publication
from hubbub.stores.base import Draft
from hubbub.stores.sqlite import SqliteStore


async def write(path: Path, count: int) -> str:
    """Writes so many, and returns the epoch."""
    store = SqliteStore(path, clock=SystemClock())
    await store.start(Committed())
    await asyncio.gather(*(store.append(Draft("room", Publication(b"%d" % number))) for number in range(count)))
    head = (await store.heads(["room"]))["room"]
    await store.stop()
    return head.epoch


def test_upgrade_makes_the_file(tmp_path: Path) -> None:
    done = ran(tmp_path, "db", "upgrade", HUBBUB_STORE_URL="sqlite:///app.db")
    assert done.returncode == 0, done.stderr
    assert b"the store is up to date" in done.stdout
    assert (tmp_path / "app.db").is_file()


def test_backup_is_a_store_with_another_epoch_also_while_it_is_in_use(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "app.db"
        epoch = await write(path, 50)
        store = SqliteStore(path, clock=SystemClock())
        await store.start(Committed())  # owned by somebody, as by a server
        done = await asyncio.to_thread(ran, tmp_path, "db", "backup", "copy.db", HUBBUB_STORE_URL="sqlite:///app.db")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(b"copy.db: ")
        await store.stop()
        copy = SqliteStore(tmp_path / "copy.db", clock=SystemClock())
        await copy.start(Committed())
        page = await copy.read("room", 0, 100)
        assert [int(each.data) for each in page.publications] == list(range(50))
        assert page.head.epoch != epoch
        await copy.stop()

    asyncio.run(work())


def test_mistakes_name_their_fix(tmp_path: Path) -> None:
    url = "sqlite:///app.db"
    assert "store.url = 'sqlite:///app.db'" in refusal(ran(tmp_path, "db", "upgrade"), 2)
    assert "hubbub db backup FILE" in refusal(ran(tmp_path, "db", "backup", HUBBUB_STORE_URL=url), 2)
    assert "there is no file app.db" in refusal(ran(tmp_path, "db", "backup", "x.db", HUBBUB_STORE_URL=url), 2)
    ran(tmp_path, "db", "upgrade", HUBBUB_STORE_URL=url)
    assert "exists already" in refusal(ran(tmp_path, "db", "backup", "app.db", HUBBUB_STORE_URL=url), 2)
    assert "sqlite:///app.db" in refusal(ran(tmp_path, "db", "upgrade", HUBBUB_STORE_URL="mysql://x"), 2)
