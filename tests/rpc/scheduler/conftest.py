"""The scheduler as it is bootstrapped, with real Postgres, NATS and S3, behind real channels with all interceptors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from reeltune.auth.v1.auth_service_pb2_grpc import add_AuthServiceServicer_to_server
from reeltune.auth.v1.revocation_service_pb2_grpc import add_RevocationServiceServicer_to_server
from reeltune.catalog.v1.dataset_service_pb2_grpc import add_DatasetServiceServicer_to_server
from reeltune.catalog.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from reeltune.catalog.v1.sample_service_pb2_grpc import add_SampleServiceServicer_to_server

from meshkit.blob import BlobStore
from meshkit.embedded import NatsServer, S3Server
from meshkit.ids import new_id
from meshkit.jetstream import JetStream
from meshkit.rpc.registration import ServicerRegistration
from meshkit.testing import Database, DatabaseSpec
from meshkit.testing.plugin import NATS_USER, S3_IDENTITY, Serve
from scheduler_svc.settings import SchedulerSettings
from tests.rpc.scheduler.scheduler_mesh import (
    JOIN_SECRET,
    Replica,
    SmallAuth,
    SmallCatalog,
    Trainer,
    User,
    UserKeys,
    start_replica,
)

StartReplica = Callable[..., Awaitable[Replica]]
NewUser = Callable[..., User]


@pytest.fixture(scope="session")
def database_spec() -> DatabaseSpec:
    return DatabaseSpec("scheduler", "scheduler_svc.sql.migrations")


@pytest.fixture
def user_keys() -> UserKeys:
    return UserKeys()


@pytest.fixture
def catalog() -> SmallCatalog:
    return SmallCatalog()


@pytest_asyncio.fixture(loop_scope="session")
async def neighbours(serve: Serve, user_keys: UserKeys, catalog: SmallCatalog) -> dict[str, str]:
    """The auth and catalog services that the scheduler calls."""
    small = SmallAuth(user_keys)
    auth_registrations = [
        ServicerRegistration(add_AuthServiceServicer_to_server, small),
        ServicerRegistration(add_RevocationServiceServicer_to_server, small),
    ]
    auth = await serve(auth_registrations, verifier=user_keys.verifier)
    registrations = [
        ServicerRegistration(add_ModelServiceServicer_to_server, catalog),
        ServicerRegistration(add_DatasetServiceServicer_to_server, catalog),
        ServicerRegistration(add_SampleServiceServicer_to_server, catalog),
    ]
    catalog_server = await serve(registrations, verifier=user_keys.verifier)
    return {"auth_target": auth.address, "catalog_target": catalog_server.address}


@pytest_asyncio.fixture(loop_scope="session")
async def start(
    database: Database,
    nats_server: NatsServer,
    jetstream: JetStream,
    s3_server: S3Server,
    blob_store: BlobStore,
    neighbours: dict[str, str],
    tmp_path: Path,
) -> AsyncIterator[StartReplica]:
    """Starts a replica; keyword arguments override settings."""
    async with AsyncExitStack() as stack:

        async def start_one(**overrides: Any) -> Replica:
            settings = SchedulerSettings(
                **{
                    "postgres_dsn": database.dsn,
                    "page_token_secret": "a secret of the tests",
                    "keys_dir": tmp_path / "keys",
                    "join_secret": JOIN_SECRET,
                    "nats_url": nats_server.url,
                    "nats_user": NATS_USER.name,
                    "nats_password": NATS_USER.password,
                    "s3_endpoint": f"http://{s3_server.endpoint}",
                    "s3_access_key": S3_IDENTITY.access_key,
                    "s3_secret_key": S3_IDENTITY.secret_key,
                    "s3_bucket": blob_store.bucket,
                    # Seldom enough to be no burden, and soon enough for nobody to wait for a sweep.
                    "sweep_seconds": 0.2,
                    "revocation_poll_seconds": 0.2,
                    **neighbours,
                    **overrides,
                }
            )
            replica = await start_replica(settings)
            stopped = asyncio.Event()
            stop = replica._stop

            async def stop_once() -> None:
                if not stopped.is_set():
                    stopped.set()
                    await stop()

            replica._stop = stop_once
            stack.push_async_callback(stop_once)
            return replica

        yield start_one


@pytest_asyncio.fixture(loop_scope="session")
async def replica(start: StartReplica) -> Replica:
    return await start()


@pytest.fixture
def new_user(replica: Replica, user_keys: UserKeys, catalog: SmallCatalog) -> NewUser:
    """Signs a new user in, who owns a READY model and dataset."""

    def make(*roles: str) -> User:
        user_id = new_id("usr")
        metadata = user_keys.user(user_id, *roles)
        return User(replica, user_id, metadata, catalog.add_model(user_id), catalog.add_dataset(user_id))

    return make


@pytest.fixture
def user(new_user: NewUser) -> User:
    return new_user()


@pytest_asyncio.fixture(loop_scope="session")
async def trainer(replica: Replica) -> Trainer:
    return await Trainer(replica).register()
