"""The scheduler's stores on a fresh database for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from meshkit.postgres import open_pool
from meshkit.testing import Database, DatabaseSpec
from tests.integration.scheduler.scheduler_stores import Stores


@pytest.fixture(scope="session")
def database_spec() -> DatabaseSpec:
    return DatabaseSpec("scheduler", "scheduler_svc.sql.migrations")


@pytest_asyncio.fixture(loop_scope="session")
async def stores(database: Database) -> AsyncIterator[Stores]:
    pool = await open_pool(database.dsn, "scheduler", max_size=12)
    yield Stores(pool)
    await pool.close()


@pytest_asyncio.fixture(loop_scope="session")
async def other_replica(database: Database) -> AsyncIterator[Stores]:
    """The stores of a second replica on the same database."""
    pool = await open_pool(database.dsn, "scheduler", max_size=12)
    yield Stores(pool)
    await pool.close()
