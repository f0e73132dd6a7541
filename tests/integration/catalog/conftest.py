"""The catalog's database."""

from __future__ import annotations

import pytest

from meshkit.testing import DatabaseSpec


@pytest.fixture(scope="session")
def database_spec() -> DatabaseSpec:
    return DatabaseSpec("catalog")
