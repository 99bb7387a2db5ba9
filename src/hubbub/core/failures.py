"""What becomes of a failure: an answer for whoever asked, and a line in the log for whoever runs the server.

Answers for: three kinds. What was meant to be told is told. A backend that is away is told without its address, and
logged in one line, sparingly: it fails thousands a minute. What nobody foresaw is error 100, and a traceback in the
log. Refuses to know: who asked, and how answers travel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from hubbub.core.hooks import Counters
from hubbub.errors import BackendError, InternalError, PublishFailed, ReplyError
from hubbub.sparing import SparingLog

log = logging.getLogger(__name__)


class Failures:
    """Those of one node. `now` is its monotonic clock."""

    def __init__(self, observer: Counters, *, now: Callable[[], float]) -> None:
        self._observer = observer
        self._now = now
        self._sparing = SparingLog(log)

    def answer(self, error: Exception, kind: str, who: str = "") -> ReplyError:
        """What is answered. `kind` is what failed, `who` for whom; both for the log."""
        if isinstance(error, ReplyError):
            return error
        self._observer.count("command_failed")
        if isinstance(error, BackendError):
            self._sparing.warning(kind, self._now(), "%s%s failed: %s", kind, who, error)
            return InternalError(error.outcome if isinstance(error, PublishFailed) else "")
        log.error("%s%s failed", kind, who, exc_info=error)
        return InternalError()
