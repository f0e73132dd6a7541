"""The catalog service as it is wired, behind a real channel with all interceptors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from catalog_svc.bootstrap import ERRORS, LONG_RPCS, make_stores, wire
from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.clients.scheduler import Scheduler
from catalog_svc.settings import CatalogSettings
from meshkit.background import Background
from meshkit.blob import BlobStore
from meshkit.embedded import S3Server
from meshkit.lifecycle import Runtime
from meshkit.postgres import open_pool
from meshkit.rpc.client import open_channel
from meshkit.testing import Database, DatabaseSpec, TokenMint
from meshkit.testing.plugin import S3_IDENTITY, Serve
from tests.rpc.catalog.catalog_mesh import CatalogMesh, Start


@pytest.fixture(scope="session")
def database_spec() -> DatabaseSpec:
    return DatabaseSpec("catalog", "catalog_svc.sql.migrations")


@pytest_asyncio.fixture(loop_scope="session")
async def start(
    database: Database,
    blob_store: BlobStore,
    s3_server: S3Server,
    serve: Serve,
    token_mint: TokenMint,
    tmp_path: Path,
) -> AsyncIterator[Start]:
    """Starts the service; keyword arguments override settings."""
    async with AsyncExitStack() as stack:

        async def start_service(scheduler: str = "", *, is_verifying: bool = True, **overrides: Any) -> CatalogMesh:
            """`scheduler` is the address of one; none by default, and what is deleted goes at once."""
            settings = CatalogSettings(
                **{
                    "postgres_dsn": database.dsn,
                    "page_token_secret": "a secret of the tests",
                    "s3_endpoint": f"http://{s3_server.endpoint}",
                    "s3_access_key": S3_IDENTITY.access_key,
                    "s3_secret_key": S3_IDENTITY.secret_key,
                    "auth_target": "127.0.0.1:1",
                    "spool_dir": tmp_path,
                    "garbage_seconds": 0.2,
                    "sweep_seconds": 3600,
                    "undelete_days": 0,
                    "validation_lease_seconds": 3,
                    **overrides,
                }
            )
            pool = await open_pool(database.dsn, database.schema, max_size=8)
            stack.push_async_callback(pool.close)
            services = await stack.enter_async_context(AsyncExitStack())
            background = Background()
            channel = await stack.enter_async_context(open_channel(scheduler)) if scheduler else None
            stores = make_stores(settings, pool, ObjectStore(blob_store, is_verifying=is_verifying), Scheduler(channel))
            registrations = wire(settings, Runtime(services, background, CollectorRegistry()), stores)
            services.push_async_callback(background.stop)
            served = await serve(registrations, error_table=ERRORS, long_rpcs=LONG_RPCS, settings=settings)
            http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=30))
            return CatalogMesh(served, settings, pool, blob_store, stores, token_mint, http, services)

        yield start_service


@pytest_asyncio.fixture(loop_scope="session")
async def mesh(start: Start) -> CatalogMesh:
    return await start()
