"""The catalog's database."""

from __future__ import annotations

import pytest

from meshkit.testing import DatabaseSpec
from tests.integration.catalog.catalog_process import peers, start  # noqa: F401 - fixtures


@pytest.fixture(scope="session")
def database_spec() -> DatabaseSpec:
    return DatabaseSpec("catalog")
