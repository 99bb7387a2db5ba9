"""What the nodes of a storm serve: settings from a file; an RPC tells what the process holds, one ends it.

Answers for: numbers in which a leak would show, and death right after the next commit. Refuses to know: storms.
`STORM_CONFIG` names the settings.
"""

from __future__ import annotations

import asyncio
import os
import signal

import psutil

from hubbub import Connection, Hubbub
from hubbub.core import node
from hubbub.core.mailbox import Mailbox
from hubbub.model import Publication

hub = Hubbub(config=os.environ["STORM_CONFIG"])


@hub.rpc("holds")
async def holds(connection: Connection, request: None = None) -> dict[str, int]:
    """Tasks, open files and sockets."""
    return {"tasks": len(asyncio.all_tasks()), "files": psutil.Process().num_fds()}


@hub.rpc("die_after_commit")
async def die_after_commit(connection: Connection, request: None = None) -> None:
    """The next publication that is written here is the last: nobody hears of it, its publisher neither."""
    Doomed.is_next = True


class Doomed(Mailbox):
    """Tells of every commit, until it is to die instead."""

    is_next = False

    def on_committed(self, channel: str, publication: Publication, epoch: str) -> None:
        """The process ends here, or goes on."""
        if Doomed.is_next:
            os.write(1, f"dies after the commit of {channel} {epoch} {publication.offset}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        super().on_committed(channel, publication, epoch)


node.Mailbox = Doomed  # type: ignore[attr-defined]  # its own import, of every node that this process makes
