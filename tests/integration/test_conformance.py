"""Autobahn's cases: RFC 6455 as others read it."""

from __future__ import annotations

from tests.conformance import failed, results


async def test_no_case_of_autobahns_fails() -> None:
    found = await results()
    assert len(found) > 200
    assert failed(found) == []
