"""The auth service as it is bootstrapped, behind a real channel with all interceptors."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from auth_svc.bootstrap import bootstrap
from auth_svc.settings import AuthSettings
from meshkit.background import Background
from meshkit.lifecycle import Runtime
from meshkit.postgres import open_pool
from meshkit.testing import Database, DatabaseSpec
from meshkit.testing.plugin import Serve
from tests.rpc.auth.auth_mesh import AuthMesh, Start


@pytest.fixture(scope="session")
def database_spec() -> DatabaseSpec:
    return DatabaseSpec("auth", "auth_svc.sql.migrations")


@pytest_asyncio.fixture(loop_scope="session")
async def start(database: Database, serve: Serve, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts the service with cheap passwords; keyword arguments override settings."""
    async with AsyncExitStack() as stack:

        async def start_service(**overrides: Any) -> AuthMesh:
            cheap = {"argon2_memory_kib": 19 * 1024, "argon2_time_cost": 2, "argon2_parallelism": 1}
            settings = AuthSettings(
                postgres_dsn=database.dsn,
                keys_dir=tmp_path / "keys",
                page_token_secret="a secret of the tests",
                **{**cheap, **overrides},
            )
            background = Background()
            stack.push_async_callback(background.stop)
            service = await bootstrap(settings, Runtime(stack, background, CollectorRegistry()))
            served = await serve(
                service.registrations, error_table=service.error_table, verifier=service.verifier, settings=settings
            )
            pool = await open_pool(database.dsn, database.schema, max_size=2)
            stack.push_async_callback(pool.close)
            return AuthMesh(served, settings, pool, itertools.count(1))

        yield start_service


@pytest_asyncio.fixture(loop_scope="session")
async def mesh(start: Start) -> AuthMesh:
    return await start()
