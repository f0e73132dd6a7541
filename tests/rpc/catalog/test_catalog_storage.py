"""Storage: what users take up, and no more than their quota lets them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from reeltune.catalog.v1 import import_pb2
from reeltune.catalog.v1 import upload_service_pb2 as us
from reeltune.catalog.v1 import usage_service_pb2 as pb
from reeltune.scheduler.v1 import quota_pb2

from meshkit.blob import BlobNotFound
from meshkit.ids import new_id
from meshkit.rpc.failure import Failure
from meshkit.testing import assert_eventually
from meshkit.testing.plugin import Serve
from tests.rpc.catalog.catalog_mesh import ALICE, BOB, CatalogMesh, Start, refused
from tests.rpc.catalog.small_scheduler import SmallScheduler


@pytest.fixture
def scheduler() -> SmallScheduler:
    found = SmallScheduler()
    found.quotas[ALICE] = quota_pb2.Quota(storage_bytes=1000, usage=quota_pb2.QuotaUsage(storage_bytes=300))
    return found


@pytest_asyncio.fixture(loop_scope="session")
async def mesh(start: Start, serve: Serve, scheduler: SmallScheduler) -> CatalogMesh:
    """A catalog whose ALICE may store 1,000 bytes, and has 300 in artifacts."""
    served = await serve(scheduler.registrations)
    return await start(scheduler=served.address)


async def test_uploads_beyond_the_quota_are_refused(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.put(dataset.id, "a.mp4", b"a" * 400)
    full = await refused(mesh.open_upload(dataset.id, "b.mp4", b"b" * 301))
    assert (full.code, full.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert full.metadata == {"quota": "storage_bytes", "limit": "1000", "used": "700", "wanted": "301"}
    assert (await mesh.open_upload(dataset.id, "copy.mp4", b"a" * 400)).complete, "stored already: no byte more"
    upload = await mesh.open_upload(dataset.id, "b.mp4", b"b" * 300)
    assert (await mesh.open_upload(dataset.id, "b.mp4", b"b" * 300)).id == upload.id, "resumed: announced once"
    assert (await refused(mesh.open_upload(dataset.id, "c.mp4", b"c"))).reason == "QUOTA_EXCEEDED"
    assert (await refused(_stream(mesh, dataset.id, b"c"))).reason == "QUOTA_EXCEEDED"
    bobs = await mesh.create_dataset(user=BOB)
    await mesh.put(bobs.id, "large.mp4", b"x" * 5000, user=BOB)


@pytest.mark.parametrize("fetches", [1, 4])
async def test_an_import_that_meets_the_quota_ends_there_and_leaves_nothing_half_stored(
    start: Start, serve: Serve, scheduler: SmallScheduler, tmp_path: Path, fetches: int
) -> None:
    (tmp_path / "set").mkdir()
    for number in range(6):
        (tmp_path / "set" / f"{number}.mp4").write_bytes(bytes([number]) * 200)
    served = await serve(scheduler.registrations)
    mesh = await start(scheduler=served.address, import_folders=str(tmp_path), import_fetches=fetches)
    dataset = await mesh.create_dataset()

    ended = await mesh.imported(dataset.id, folder=import_pb2.FolderSource(path=str(tmp_path / "set")))

    assert (ended.state, ended.error_reason) == (import_pb2.IMPORT_STATE_FAILED, "QUOTA_EXCEEDED")
    assert "storage" in ended.error_message
    paths = await mesh.paths(dataset.id)
    assert len(paths) == ended.counts.files_done == 3, "as many as there is room for"
    usage = await _usage(mesh)
    assert (usage.stored_bytes, usage.stored_files, usage.pending_bytes) == (200 * len(paths), len(paths), 0)
    wanted = {(tmp_path / "set" / path).read_bytes() for path in paths}

    async def is_clean() -> bool:
        try:
            return {await mesh.blobs.get_bytes(item.key) for item in await mesh.blobs.list()} == wanted
        except BlobNotFound:  # removed between the two
            return False

    await assert_eventually(is_clean)


async def test_the_quota_is_not_asked_for_with_every_upload(mesh: CatalogMesh, scheduler: SmallScheduler) -> None:
    dataset, metadata = await mesh.create_dataset(), mesh.as_user()
    for number in range(20):
        digest = hashlib.sha256(bytes([number])).hexdigest()
        file = us.FileHeader(parent_id=dataset.id, path=f"{number}.mp4", size_bytes=1, sha256=digest)
        await mesh.uploads.CreateUpload(us.CreateUploadRequest(file=file), metadata=metadata)
    assert scheduler.quota_calls < 20


async def test_uploads_side_by_side_do_not_slip_past_the_quota(mesh: CatalogMesh) -> None:
    parents = [await mesh.create_dataset(f"set {number}") for number in range(10)]
    uploads = (mesh.open_upload(parent.id, "a.mp4", bytes([n]) * 200) for n, parent in enumerate(parents))
    outcomes = await asyncio.gather(*uploads, return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 3
    assert (await _usage(mesh)).pending_bytes == 600


async def test_a_scheduler_that_is_away_stops_no_upload(mesh: CatalogMesh, scheduler: SmallScheduler) -> None:
    scheduler.is_away = True
    dataset = await mesh.create_dataset()
    await mesh.put(dataset.id, "a.mp4", b"a" * 2000)
    assert (await _usage(mesh)).stored_bytes == 2000


async def test_usage_counts_shared_bytes_once(mesh: CatalogMesh) -> None:
    dataset, model = await mesh.create_dataset(), await mesh.create_model()
    await mesh.put_all(dataset.id, {"a.json": b"{}", "b.json": b"{}", "c.json": b"[1]"})
    await mesh.put(model.id, "config.json", b"{}")
    await mesh.open_upload(dataset.id, "d.mp4", b"12345")
    usage = await _usage(mesh)
    assert (usage.user_id, usage.stored_bytes, usage.stored_files, usage.pending_bytes) == (ALICE, 5, 2, 5)
    assert (usage.datasets, usage.dataset_bytes, usage.models, usage.model_bytes) == (1, 7, 1, 2)
    assert await _usage(mesh, BOB) == pb.Usage(user_id=BOB)


async def test_admins_see_what_everybody_stores(mesh: CatalogMesh) -> None:
    users = sorted(new_id("usr") for _ in range(3))
    for number, user in enumerate(users, start=1):
        dataset = await mesh.create_dataset(user=user)
        await mesh.put(dataset.id, "a.mp4", b"x" * number, user=user)
    admin = mesh.tokens.user("usr_admin", "user", "admin")
    seen, token = [], ""
    while True:
        page = await mesh.usage.ListUsage(pb.ListUsageRequest(page_size=2, page_token=token), metadata=admin)
        seen += [(usage.user_id, usage.stored_bytes, usage.datasets) for usage in page.usage]
        token = page.next_page_token
        if not token:
            break
    assert seen == [(user, number, 1) for number, user in enumerate(users, start=1)]
    one = await mesh.usage.GetUsage(pb.GetUsageRequest(user_id=users[1]), metadata=admin)
    assert one.usage.stored_bytes == 2
    for call in (
        mesh.usage.ListUsage(pb.ListUsageRequest(), metadata=mesh.as_user()),
        mesh.usage.GetUsage(pb.GetUsageRequest(user_id=users[1]), metadata=mesh.as_user()),
    ):
        refusal: Failure = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")


async def _usage(mesh: CatalogMesh, user: str = ALICE) -> pb.Usage:
    return (await mesh.usage.GetMyUsage(pb.GetMyUsageRequest(), metadata=mesh.as_user(user))).usage


async def _stream(mesh: CatalogMesh, parent_id: str, data: bytes) -> us.UploadFileResponse:
    async def requests() -> AsyncIterator[us.UploadFileRequest]:
        digest = hashlib.sha256(data).hexdigest()
        yield us.UploadFileRequest(
            header=us.FileHeader(parent_id=parent_id, path="s.mp4", size_bytes=len(data), sha256=digest)
        )
        yield us.UploadFileRequest(chunk=data)

    return await mesh.uploads.UploadFile(requests(), metadata=mesh.as_user(), timeout=60)
