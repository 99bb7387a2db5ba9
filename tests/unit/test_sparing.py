"""One warning of a kind in a while, and nothing is lost."""

from __future__ import annotations

import logging

import pytest

from hubbub.sparing import MAX_KINDS, WARN_EVERY, SparingLog


def test_each_kind_warns_once_in_a_while_and_the_rest_is_info(caplog: pytest.LogCaptureFixture) -> None:
    sparing = SparingLog(logging.getLogger("hubbub.test"))
    with caplog.at_level(logging.INFO):
        for time, kind in ((0.0, "a"), (1.0, "a"), (1.0, "b"), (WARN_EVERY, "a"), (WARN_EVERY + 1, "b"), (0.0, "a")):
            sparing.warning(kind, time, "%s at %g", kind, time)
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert found == [
        ("WARNING", "a at 0"),
        ("INFO", "a at 1"),
        ("WARNING", "b at 1"),
        ("WARNING", "a at 60"),
        ("WARNING", "b at 61"),
        ("WARNING", "a at 0"),  # the clock was set back by as much
    ]
    caplog.clear()


def test_kinds_are_bounded() -> None:
    log = logging.getLogger("hubbub.quiet")
    log.disabled = True
    sparing = SparingLog(log)
    for number in range(MAX_KINDS * 3):
        sparing.warning(str(number), 0.0, "")
    assert len(sparing._warned) <= MAX_KINDS
