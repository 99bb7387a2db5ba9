"""What the nodes of a storm serve: settings from a file, and an RPC that tells what the process holds.

Answers for: numbers in which a leak would show. Refuses to know: storms. `STORM_CONFIG` names the settings.
"""

from __future__ import annotations

import asyncio
import os

import psutil

from hubbub import Connection, Hubbub

hub = Hubbub(config=os.environ["STORM_CONFIG"])


@hub.rpc("holds")
async def holds(connection: Connection, request: None = None) -> dict[str, int]:
    """Tasks, open files and sockets."""
    return {"tasks": len(asyncio.all_tasks()), "files": psutil.Process().num_fds()}
