"""A JSON Web Key Set that stands behind a URL.

Answers for: having its keys without ever blocking the event loop, new ones in the background and when a token names a
key that is not among them, the old ones for as long as the URL fails, and not asking more often than every few seconds
whatever tokens come. Refuses to know: tokens, and what keys are good for (`keys`).

HTTP is the standard library's, in a thread of its own: a dozen requests an hour are not worth a client library. The
thread is a daemon: no deadline of ours ends a name server's silence, and it must not hold up the process's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any

from hubbub.errors import InternalError, TokenInvalid
from hubbub.keys import Key, key_set
from hubbub.version import VERSION

log = logging.getLogger(__name__)

#: Seconds between two fetches in calm times: how long a key is believed that its issuer has withdrawn.
REFRESH = 600.0
#: Seconds between two fetches, whatever tokens ask for.
GAP = 10.0
#: Seconds until a failed fetch is tried again: the first and the longest wait.
RETRY, LONGEST_RETRY = 1.0, 60.0
#: Seconds for one step of a fetch, and for all of it; the start of the server waits no longer, either.
STEP_TIMEOUT, TIMEOUT = 3.0, 5.0
#: Bytes. A set of dozens of keys with certificates is smaller.
MAX_DOCUMENT = 1 << 20
#: Unknown names of keys that are remembered as asked for.
MAX_ASKED = 1000

Fetch = Callable[[str], bytes]


class RemoteKeys:
    """The keys behind `url`. `start` it before use; everything on one event loop."""

    def __init__(self, url: str, *, refresh: float = REFRESH, gap: float = GAP, retry: float = RETRY) -> None:
        self._url = url
        self._refresh, self._gap, self._retry = refresh, gap, retry
        self._keys: tuple[Key, ...] = ()
        self._begun = 0  # fetches, the one under way included
        self._loaded = 0  # which of them the keys are from
        self._asked: dict[str, int] = {}  # names of keys, and how many fetches had begun when they were asked for
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to fetch, and wait for the first answer, but never long: a server without keys can get them later."""
        tried = asyncio.Event()
        self._wanted = asyncio.Event()  # of this loop
        self._task = asyncio.create_task(self._run(tried), name="fetch auth.jwks_url")
        await tried.wait()

    async def stop(self) -> None:
        """End. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def find(self, kid: str) -> Sequence[Key]:
        """The keys of this name, all of them for "". Raises InternalError (temporary), TokenInvalid.

        A name that is not there is looked for once: its token is refused for now, which SDKs come back from, and for
        good if a fetch that began later does not know it either. If it comes again, it is looked for again.
        """
        found = [key for key in self._keys if kid in ("", key.id)]
        if found:
            return found
        if self._loaded > self._asked.setdefault(kid, self._begun):
            del self._asked[kid]
            raise TokenInvalid(f"token: kid {kid[:80]!r} is not among the keys of auth.jwks_url")
        if len(self._asked) > MAX_ASKED:
            self._asked.clear()
        self._wanted.set()
        raise InternalError("the keys to verify this token with are being fetched")

    async def _run(self, tried: asyncio.Event) -> None:
        failures = 0
        while True:
            self._wanted.clear()
            failures = 0 if await self._fetch() else failures + 1
            tried.set()
            wait = self._refresh
            if failures:
                wait = min(self._retry * 2 ** min(failures - 1, 16), LONGEST_RETRY) * random.uniform(0.5, 1)
            await asyncio.sleep(min(wait, self._gap))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0, wait - self._gap)):
                    await self._wanted.wait()

    async def _fetch(self) -> bool:
        self._begun += 1
        number = self._begun
        try:
            async with asyncio.timeout(TIMEOUT):
                keys = key_set(await _in_a_thread(lambda: fetch(self._url)))
        except TimeoutError:
            self._failed(f"no answer within {TIMEOUT:g} seconds")
        except (OSError, HTTPException, ValueError) as error:
            self._failed(_reason(error))
        except Exception:
            # A failure that nobody thought of must not end all refreshing.
            log.exception("auth.jwks_url: the keys of %s cannot be read", self._url)
        else:
            if number > 1 and {key.id for key in keys} != {key.id for key in self._keys}:
                log.info("auth.jwks_url: the keys of %s are now %s", self._url, ", ".join(key.id for key in keys))
            self._keys, self._loaded = keys, number
            return True
        return False

    def _failed(self, reason: str) -> None:
        consequence = "the old keys hold" if self._keys else "nobody can connect with a token of theirs"
        log.warning("auth.jwks_url: %s: %s; %s until it works", self._url, reason, consequence)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The place where keys come from is configured, and nothing that an answer may change."""

    def redirect_request(self, *_: Any) -> None:
        return None


def fetch(url: str) -> bytes:
    """What stands behind `url`; blocks. Raises OSError, HTTPException or ValueError."""
    opener = urllib.request.build_opener(_NoRedirects)
    headers = {"Accept": "application/jwk-set+json, application/json", "User-Agent": f"hubbub/{VERSION}"}
    with opener.open(urllib.request.Request(url, headers=headers), timeout=STEP_TIMEOUT) as response:
        document: bytes = response.read(MAX_DOCUMENT + 1)
    if len(document) > MAX_DOCUMENT:
        raise ValueError(f"it answers with more than {MAX_DOCUMENT} bytes")
    return document


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        place = error.headers.get("Location") if 300 <= error.code < 400 else None
        return f"it answers {error.code}" + (f", a redirect to {place[:200]!r}; set that instead" if place else "")
    if isinstance(error, urllib.error.URLError):
        return f"cannot be reached: {error.reason}"
    return str(error) or type(error).__name__


async def _in_a_thread(work: Callable[[], bytes]) -> bytes:
    loop = asyncio.get_running_loop()
    result: asyncio.Future[bytes] = loop.create_future()

    def deliver(document: bytes | None, error: Exception | None) -> None:
        if result.done():
            return  # nobody waits any more
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(document or b"")

    def run() -> None:
        outcome: tuple[bytes | None, Exception | None]
        try:
            outcome = (work(), None)
        except Exception as error:
            outcome = (None, error)
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(deliver, *outcome)

    threading.Thread(target=run, name="auth.jwks_url", daemon=True).start()
    return await result
