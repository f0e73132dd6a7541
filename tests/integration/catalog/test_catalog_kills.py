"""kill -9 of the catalog wherever it hurts: after a restart everything is finished, and finished once."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import grpc
import httpx
import pytest_asyncio
from reeltune.catalog.v1 import dataset_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import upload_service_pb2 as us
from reeltune.catalog.v1.dataset_service_pb2_grpc import DatasetServiceStub
from reeltune.catalog.v1.upload_service_pb2_grpc import UploadServiceStub

from catalog_svc.domain.upload import PART_BYTES
from meshkit.blob import BlobStore
from meshkit.embedded import S3Server
from meshkit.failpoints import VARIABLE
from meshkit.testing import Database, assert_eventually
from meshkit.testing.plugin import S3_IDENTITY
from tests.integration.catalog.catalog_process import Catalog, Peers, Start, create, watch
from tests.rpc.catalog.clips import h264_clip

UPLOAD_PLACES = ("upload.opened", "upload.stored", "upload.after_commit")
# What is found is kept twice a second: clips that take longer are kept one after another, however fast the machine is.
AMID_PROBES = "validation.clip_probed=delay:0.6 validation.probes_kept=kill:2"
BEFORE_END = "validation.before_end=kill"
_Answer = TypeVar("_Answer")


@dataclass(slots=True)
class MortalCatalog:
    """A catalog that is started again whenever it has died, as every mesh does."""

    start: Start
    http: httpx.AsyncClient
    metadata: Any
    current: Catalog
    deaths: int = 0

    async def arm(self, failpoints: str, **settings: str) -> None:
        """Starts it anew, to die at the given places."""
        self.current.process.kill()
        await self.current.process.wait()
        self.current = await self.start(**{VARIABLE: failpoints}, **settings)

    async def call(self, ask: Callable[[grpc.aio.Channel], Awaitable[_Answer]]) -> _Answer:
        """Makes a call, and makes it again after a death."""
        while True:
            try:
                return await ask(self.current.channel)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                assert await self.current.process.wait() == -9
                self.deaths += 1
                self.current = await self.start()

    async def put(self, dataset_id: str, path: str, data: bytes, *, accepts_headers: bool = False) -> None:
        """Uploads a file as a client does that begins anew after each death."""
        digest = hashlib.sha256(data).hexdigest()
        header = us.FileHeader(parent_id=dataset_id, path=path, size_bytes=len(data), sha256=digest)
        request = us.CreateUploadRequest(file=header, accepts_headers=accepts_headers)
        created = await self.call(lambda c: UploadServiceStub(c).CreateUpload(request, metadata=self.metadata))
        for part in created.upload.parts:
            body = data[part.offset_bytes : part.offset_bytes + part.size_bytes]
            assert part.arrived or (await self.http.put(part.url, content=body, headers=dict(part.headers))).is_success
        if not created.upload.complete:
            complete = us.CompleteUploadRequest(upload_id=created.upload.id)
            await self.call(lambda c: UploadServiceStub(c).CompleteUpload(complete, metadata=self.metadata, timeout=60))


@pytest_asyncio.fixture(loop_scope="session")
async def catalog(start: Start, peers: Peers) -> AsyncIterator[MortalCatalog]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        yield MortalCatalog(start, http, peers.user(), await start())


@pytest_asyncio.fixture(loop_scope="session")
async def blobs(catalog: MortalCatalog, s3_server: S3Server) -> AsyncIterator[BlobStore]:
    store = BlobStore(s3_server.endpoint, S3_IDENTITY.access_key, S3_IDENTITY.secret_key, "catalog-process")
    # The bucket is that of all tests of the process.
    for prefix in ("contents/", "uploads/"):
        await store.remove_prefix(prefix)
    yield store
    await store.close()


async def test_what_a_killed_catalog_had_begun_is_finished_once(
    catalog: MortalCatalog, database: Database, blobs: BlobStore
) -> None:
    files = {f"clips/{number}.mp4": h264_clip(number, frames=48, width=320, height=240) for number in range(8)}
    rows = "".join(f"{path},A bar.\n" for path in files)
    dataset_id = await create(catalog.current, catalog.metadata)
    paths = iter(files)
    for accepts_headers in (False, True):
        for place in UPLOAD_PLACES:
            await catalog.arm(f"{place}=kill")
            path = next(paths)
            await catalog.put(dataset_id, path, files[path], accepts_headers=accepts_headers)
    await catalog.arm("upload.assembled=kill")
    notes = {"annotations.csv": f"video,caption\n{rows}".encode(), "large.bin": os.urandom(2 * PART_BYTES + 7)}
    await catalog.put(dataset_id, "large.bin", notes["large.bin"])
    assert catalog.deaths == 7
    await asyncio.gather(*(catalog.put(dataset_id, path, data) for path, data in {**files, **notes}.items()))

    # With more processes than clips all would be found at once.
    await catalog.arm(AMID_PROBES, CATALOG_DECODE_PROCESSES="2")
    validate = ds.ValidateDatasetRequest(dataset_id=dataset_id)
    await DatasetServiceStub(catalog.current.channel).ValidateDataset(validate, metadata=catalog.metadata)
    for following in (BEFORE_END, ""):
        assert await asyncio.wait_for(catalog.current.process.wait(), 150) == -9
        if following:
            assert 2 <= await _probes_kept(database) < len(files)
        catalog.current = await catalog.start(**{VARIABLE: following})
    ready = await watch(catalog.current, dataset_id, catalog.metadata)

    everything = {**files, **notes}
    size = sum(len(data) for data in everything.values())
    assert ready.state == dataset_pb2.DATASET_STATE_READY
    assert (ready.counts.files, ready.counts.size_bytes, ready.counts.rows) == (len(everything), size, len(files))
    connection = await asyncpg.connect(database.dsn, server_settings={"search_path": database.schema})
    try:
        usage = await connection.fetchrow("SELECT stored_bytes, stored_objects, pending_bytes FROM storage_usage")
        assert tuple(usage or ()) == (size, len(everything), 0)
        assert await connection.fetchval("SELECT count(*) FROM samples") == len(files)
        # What was being removed in the moment of a death comes up again after ten minutes.
        await connection.execute("UPDATE garbage SET due_time = now()")
    finally:
        await connection.close()
    wanted = sorted(f"contents/usr_alice/{hashlib.sha256(data).hexdigest()}" for data in everything.values())

    async def only_what_is_wanted() -> bool:
        # A clip's poster lies beside it, under its name with an ending.
        return sorted({item.key.partition(".")[0] for item in await blobs.list("contents/")}) == wanted

    await assert_eventually(only_what_is_wanted)


async def test_bytes_that_a_killed_catalog_has_just_removed_are_asked_for_again(
    catalog: MortalCatalog, blobs: BlobStore
) -> None:
    dataset_id, data = await create(catalog.current, catalog.metadata), os.urandom(1000)
    await catalog.put(dataset_id, "a.mp4", data, accepts_headers=True)
    await catalog.arm("garbage.removed=kill")
    removal = us.DeleteFileRequest(parent_id=dataset_id, path="a.mp4")
    await UploadServiceStub(catalog.current.channel).DeleteFile(removal, metadata=catalog.metadata)
    assert await asyncio.wait_for(catalog.current.process.wait(), 60) == -9
    catalog.current = await catalog.start()
    await catalog.put(dataset_id, "b.mp4", data, accepts_headers=True)
    assert await blobs.get_bytes(f"contents/usr_alice/{hashlib.sha256(data).hexdigest()}") == data


async def _probes_kept(database: Database) -> int:
    connection = await asyncpg.connect(database.dsn, server_settings={"search_path": database.schema})
    try:
        return int(await connection.fetchval("SELECT count(*) FROM clip_probes"))
    finally:
        await connection.close()
