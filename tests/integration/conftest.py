"""What several integration tests need and is slow to make."""

from __future__ import annotations

import pytest
from tests.integration.certificates import Certificate, make_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))
