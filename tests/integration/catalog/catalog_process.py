"""The catalog as a process of its own, between small services that sign tokens."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest_asyncio
from reeltune.auth.v1 import auth_service_pb2, auth_service_pb2_grpc, session_pb2
from reeltune.catalog.v1 import dataset_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import upload_service_pb2 as us
from reeltune.catalog.v1.dataset_service_pb2_grpc import DatasetServiceStub
from reeltune.catalog.v1.upload_service_pb2_grpc import UploadServiceStub
from reeltune.scheduler.v1 import attempt_service_pb2, attempt_service_pb2_grpc

from meshkit.auth.tokens import TokenSigner, generate_private_key, public_jwk
from meshkit.embedded import S3Server
from meshkit.rpc.client import bearer, open_channel
from meshkit.rpc.registration import ServicerRegistration
from meshkit.testing import Database
from meshkit.testing.plugin import S3_IDENTITY, Serve

KID = "key-1"
MIB = 1024 * 1024


class AuthKeys(auth_service_pb2_grpc.AuthServiceServicer):
    """The auth service, as far as the catalog asks it."""

    def __init__(self, pem: bytes) -> None:
        self._key = session_pb2.JsonWebKey(**public_jwk(pem, KID))

    async def GetJwks(self, request: Any, context: Any) -> auth_service_pb2.GetJwksResponse:  # noqa: N802
        return auth_service_pb2.GetJwksResponse(keys=[self._key])


class GrantKeys(attempt_service_pb2_grpc.AttemptServiceServicer):
    """The scheduler, as far as the catalog asks it."""

    def __init__(self, pem: bytes) -> None:
        self._key = session_pb2.JsonWebKey(**public_jwk(pem, KID))

    async def GetJwks(self, request: Any, context: Any) -> attempt_service_pb2.GetJwksResponse:  # noqa: N802
        return attempt_service_pb2.GetJwksResponse(keys=[self._key])


@dataclass(slots=True)
class Catalog:
    """A running process and a channel to it."""

    process: asyncio.subprocess.Process
    channel: grpc.aio.Channel


@dataclass(frozen=True, slots=True)
class Peers:
    """Those who sign, and what they sign with."""

    address: str
    pem: bytes

    def user(self, user: str = "usr_alice") -> tuple[tuple[str, str], ...]:
        signer = TokenSigner(self.pem, kid=KID, issuer="reeltune-auth", audience="reeltune", typ="at+jwt")
        return bearer(signer.sign(user, timedelta(minutes=5), {"roles": ["user"]}))

    def grant(self, **claims: str) -> tuple[tuple[str, str], ...]:
        signer = TokenSigner(self.pem, kid=KID, issuer="reeltune-scheduler", audience="reeltune-attempts", typ="ag+jwt")
        return bearer(signer.sign("job_1", timedelta(minutes=5), claims))


Start = Callable[..., Awaitable[Catalog]]


@pytest_asyncio.fixture(loop_scope="session")
async def peers(serve: Serve) -> Peers:
    pem = generate_private_key()
    served = await serve(
        [
            ServicerRegistration(auth_service_pb2_grpc.add_AuthServiceServicer_to_server, AuthKeys(pem)),
            ServicerRegistration(attempt_service_pb2_grpc.add_AttemptServiceServicer_to_server, GrantKeys(pem)),
        ]
    )
    return Peers(served.address, pem)


@pytest_asyncio.fixture(loop_scope="session")
async def start(database: Database, s3_server: S3Server, peers: Peers, tmp_path: Path) -> AsyncIterator[Start]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CATALOG_")},
        "CATALOG_POSTGRES_DSN": database.dsn,
        "CATALOG_PAGE_TOKEN_SECRET": "a secret of the tests",
        "CATALOG_S3_ENDPOINT": f"http://{s3_server.endpoint}",
        "CATALOG_S3_ACCESS_KEY": S3_IDENTITY.access_key,
        "CATALOG_S3_SECRET_KEY": S3_IDENTITY.secret_key,
        "CATALOG_S3_BUCKET": "catalog-process",
        "CATALOG_AUTH_TARGET": peers.address,
        "CATALOG_SCHEDULER_TARGET": peers.address,
        "CATALOG_SPOOL_DIR": str(tmp_path),
        "CATALOG_VALIDATION_LEASE_SECONDS": "2",
        "CATALOG_GARBAGE_SECONDS": "0.2",
    }
    async with AsyncExitStack() as stack:

        async def start_process(**overrides: str) -> Catalog:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "catalog_svc", env={**environment, **overrides}, stdout=asyncio.subprocess.PIPE
            )
            stack.push_async_callback(stop, process)
            address = await ready_address(process)
            stack.push_async_callback(cancelled, asyncio.create_task(drain(process)))
            return Catalog(process, await stack.enter_async_context(open_channel(address)))

        yield start_process


async def stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def ready_address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        async for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "service.ready":
                return str(event["address"])
    raise AssertionError("the service ended before it was ready")


async def drain(process: asyncio.subprocess.Process) -> None:
    """Reads on: a full pipe would stop the service."""
    assert process.stdout is not None
    async for _ in process.stdout:
        pass


async def upload(catalog: Catalog, parent_id: str, path: str, data: bytes, metadata: Any) -> None:
    async def requests() -> AsyncIterator[us.UploadFileRequest]:
        digest = hashlib.sha256(data).hexdigest()
        header = us.FileHeader(parent_id=parent_id, path=path, size_bytes=len(data), sha256=digest)
        yield us.UploadFileRequest(header=header)
        for position in range(0, len(data), MIB):
            yield us.UploadFileRequest(chunk=data[position : position + MIB])

    await UploadServiceStub(catalog.channel).UploadFile(requests(), metadata=metadata, timeout=120)


async def create(catalog: Catalog, metadata: Any) -> str:
    request = ds.CreateDatasetRequest(name="clips")
    return str((await DatasetServiceStub(catalog.channel).CreateDataset(request, metadata=metadata)).dataset.id)


async def watch(catalog: Catalog, dataset_id: str, metadata: Any) -> dataset_pb2.Dataset:
    request = ds.WatchDatasetRequest(dataset_id=dataset_id)
    stream = DatasetServiceStub(catalog.channel).WatchDataset(request, metadata=metadata, timeout=90)
    messages = [message.dataset async for message in stream]
    return messages[-1]
