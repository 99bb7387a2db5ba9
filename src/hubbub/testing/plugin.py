"""The pytest plugin: fixtures and a marker, found by pytest wherever hubbub is installed.

Answers for: making a `TestHub` of the hub that the test run has named. Refuses to know: everything else; nothing of
hubbub is imported until a test asks for a fixture.

The fixtures are plain functions, so that they work with pytest-asyncio in both of its modes and with anyio alike. What
has to be awaited, starting and stopping, is left to `async with` in the test.

    @pytest.fixture
    def hubbub_hub():
        return myapp.hub

    async def test_room(hubbub_server):
        async with hubbub_server as server: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hubbub import Hubbub
    from hubbub.testing.hub import TestHub


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "hubbub(patience=5.0, **sections): settings of the fixture hubbub_server, such as client={'ping_interval': 5}",
    )


@pytest.fixture
def hubbub_hub() -> Hubbub:
    """The application's hub. Define this fixture in your conftest.py: `return myapp.hub`."""
    raise pytest.UsageError(
        "hubbub_server does not know your hub: define a fixture hubbub_hub in conftest.py that returns it"
    )


@pytest.fixture
def hubbub_server(hubbub_hub: Hubbub, request: pytest.FixtureRequest) -> TestHub:
    """A `TestHub` of `hubbub_hub`, with the settings of the marker: `async with hubbub_server as server`."""
    from hubbub.testing.hub import TestHub

    marker = request.node.get_closest_marker("hubbub")
    if marker is not None and marker.args:
        raise pytest.UsageError("@pytest.mark.hubbub takes settings by name, such as client={'ping_interval': 5}")
    return TestHub(hubbub_hub, **(marker.kwargs if marker is not None else {}))
