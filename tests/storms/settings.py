"""What a storm is given: its size, the settings of its nodes, and the channels that are in use.

Answers for: names and numbers that those who publish, listen and judge have to agree on. Refuses to know: processes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

SECRET = "the secret of a storm, of 32 bytes"

#: What a store can be: a server for all nodes, or the file of the only one.
Store = Literal["postgresql", "sqlite"]

#: Channels with memory, and in the store, of which a quiet one: where a node writes it sees what others have written.
#: Those without, and the one that keeps the newest.
RECENT = "recent:a", "recent:b", "recent:c"
DURABLE, QUIET = ("durable:a", "durable:b"), "durable:quiet"
LIVE, LATEST = "live:a", "latest:a"

#: How a back end speaks Python, and what its handlers listen to.
FACES = "asyncio", "sync"
HANDLED = RECENT[0], DURABLE[0]

#: Longer than any fault: what is kept may not be over when it is wanted.
HISTORY_TTL = "5m"

CONFIG = """
[broker]
url = "{url}"
name = "storm"
[store]
url = "{store}"
[server]
drain_time = 0
[auth]
hmac_secret = "{secret}"
[api]
key = "{key}"
[channels.recent]
delivery = "recent"
history_size = 100000
history_ttl = "{ttl}"
subscribe = "anyone"
publish = "anyone"
[channels.durable]
delivery = "durable"
subscribe = "anyone"
publish = "anyone"
[channels.live]
subscribe = "anyone"
publish = "anyone"
[channels.latest]
delivery = "latest"
history_ttl = "{ttl}"
subscribe = "anyone"
publish = "anyone"
"""


class Size(NamedTuple):
    """How large it is: `clients` in all, `rate` publications a second, of which `durable` of ten into the store."""

    nodes: int = 2
    clients: int = 60
    rate: float = 40.0
    durable: int = 3
