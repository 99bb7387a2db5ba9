"""`hubbub db`: the store of durable channels, from outside.

Answers for: bringing its schema up to date without serving, and a copy of it while a server uses it. Refuses to know:
what is in it, and how its schema changes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from hubbub.cli.arguments import add_config, settings_of
from hubbub.errors import ConfigurationError

if TYPE_CHECKING:
    from hubbub.model import Publication
    from hubbub.settings import Settings

EXAMPLE = """\
  hubbub db upgrade
  hubbub db backup /backups/monday.db"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    parser.add_argument(
        "action", choices=("upgrade", "backup"), help="the schema up to date; a copy, also while serving"
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="where the copy goes; it must not exist yet")
    parser.add_argument("--hub", metavar="module:hub", help="the store of an application, such as main:hub")
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Do it."""
    settings = _settings(options)
    url = settings.store.url
    if not url or url.startswith("memory:"):
        raise ConfigurationError("there is no store: set store.url = 'sqlite:///app.db' (HUBBUB_STORE_URL)")
    if options.action == "upgrade":
        asyncio.run(_upgrade(settings))
        print("the store is up to date")
        return 0
    if not url.startswith("sqlite:"):
        raise ConfigurationError("PostgreSQL has its own way to be copied: pg_dump, or base backups with archived WAL")
    path = Path(url.removeprefix("sqlite:///"))
    if options.file is None:
        raise ConfigurationError("a copy needs a file: hubbub db backup FILE")
    _backup(path, options.file)
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    if options.hub is None:
        return settings_of(options)
    from hubbub.cli.application import hub_of

    return hub_of(options.hub).settings


class _Nobody:
    """Nothing is written here that anybody could be told of."""

    def on_committed(self, channel: str, publication: Publication, epoch: str) -> None:
        """Never called."""


async def _upgrade(settings: Settings) -> None:
    from hubbub.assembly import store_of
    from hubbub.clock import SystemClock

    store = store_of(settings, SystemClock())
    assert store is not None, "a URL names one"
    await store.start(_Nobody())
    await store.stop()


def _backup(path: Path, target: Path) -> None:
    from hubbub.stores.sqlite_file import back_up

    done = threading.Event()
    talking = threading.Thread(target=_tell, args=(path, target, done), daemon=True)
    talking.start()
    try:
        back_up(path, target)
    finally:
        done.set()
        talking.join()
    print(f"{target}: {_megabytes(target)}")


def _tell(path: Path, target: Path, done: threading.Event) -> None:
    """A line a second about what takes longer than that."""
    while not done.wait(1):
        if target.exists():
            print(f"{_megabytes(target)} of at most {_megabytes(path)}", file=sys.stderr)


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
