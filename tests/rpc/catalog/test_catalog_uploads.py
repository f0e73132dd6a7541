"""Uploads: verified, resumable, never half-way, and only what may be there."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import grpc
import pytest
from reeltune.catalog.v1 import dataset_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import upload_service_pb2 as us

from catalog_svc.domain.upload import PART_BYTES
from meshkit.testing import assert_eventually
from tests.rpc.catalog.catalog_mesh import ALICE, CatalogMesh, Start, refused
from tests.rpc.catalog.clips import h264_clip


def header(parent_id: str, path: str, data: bytes, **other: object) -> us.FileHeader:
    digest = hashlib.sha256(data).hexdigest()
    return us.FileHeader(**{"parent_id": parent_id, "path": path, "size_bytes": len(data), "sha256": digest, **other})


async def chunks_of(
    first: us.FileHeader | None, data: bytes, size: int = 300_000
) -> AsyncIterator[us.UploadFileRequest]:
    if first is not None:
        yield us.UploadFileRequest(header=first)
    for start in range(0, len(data), size):
        yield us.UploadFileRequest(chunk=data[start : start + size])


async def files_of(mesh: CatalogMesh, parent_id: str) -> list[str]:
    response = await mesh.uploads.ListFiles(us.ListFilesRequest(parent_id=parent_id), metadata=mesh.as_user())
    return [file.path for file in response.files]


async def test_a_large_file_goes_in_parts_and_is_resumed(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    data = os.urandom(2 * PART_BYTES + 12_345)
    upload = await mesh.open_upload(dataset.id, "big.mp4", data)
    assert [part.size_bytes for part in upload.parts] == [PART_BYTES, PART_BYTES, 12_345]
    first = upload.parts[0]
    assert (await mesh.http.put(first.url, content=data[:PART_BYTES])).status_code == 200
    incomplete = await refused(mesh.complete(upload.id))
    assert (incomplete.code, incomplete.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_INCOMPLETE")
    assert incomplete.metadata["missing_parts"] == "2,3"
    resumed = await mesh.open_upload(dataset.id, "big.mp4", data)
    assert resumed.id == upload.id
    assert [part.arrived for part in upload.parts] == [False, False, False]
    assert [part.arrived for part in resumed.parts] == [True, False, False]
    for part in resumed.parts[1:]:
        body = data[part.offset_bytes : part.offset_bytes + part.size_bytes]
        assert (await mesh.http.put(part.url, content=body)).status_code == 200
    stored = await mesh.complete(upload.id)
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    again = await mesh.complete(upload.id)
    assert (again.path, again.sha256) == (stored.path, stored.sha256)
    assert await mesh.blobs.get_bytes(f"contents/{ALICE}/{stored.sha256}") == data


async def test_a_part_url_takes_exactly_the_announced_bytes(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    upload = await mesh.open_upload(dataset.id, "a.mp4", b"x" * 100)
    too_long = await mesh.http.put(upload.parts[0].url, content=b"x" * 101)
    assert too_long.status_code == 403
    last = "1" if upload.id.endswith("0") else "0"
    other_key = upload.parts[0].url.replace(upload.id, upload.id[:-1] + last)
    assert (await mesh.http.put(other_key, content=b"x" * 100)).status_code == 403


async def test_bytes_that_are_there_already_need_not_be_sent(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.put(dataset.id, "a.mp4", b"same bytes")
    upload = await mesh.open_upload(dataset.id, "copy/of/a.mp4", b"same bytes")
    assert upload.complete
    assert not upload.parts
    assert await files_of(mesh, dataset.id) == ["a.mp4", "copy/of/a.mp4"]
    assert (await mesh.complete(upload.id)).path == "copy/of/a.mp4"


async def test_an_empty_file_can_be_stored(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.put(dataset.id, "empty.mp4", b"")
    assert await files_of(mesh, dataset.id) == ["empty.mp4"]


async def test_wrong_bytes_are_never_put_in_place(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    for size in (100, PART_BYTES + 100):
        promised, sent = os.urandom(size), os.urandom(size)
        upload = await mesh.open_upload(dataset.id, "a.mp4", promised)
        await mesh.put_parts(upload, sent)
        wrong = await refused(mesh.complete(upload.id))
        assert (wrong.code, wrong.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH")
        assert (await refused(mesh.complete(upload.id))).reason == "UPLOAD_NOT_FOUND"
    assert await files_of(mesh, dataset.id) == []

    async def nothing_left() -> bool:
        return not await mesh.blobs.list()

    await assert_eventually(nothing_left)


async def test_an_upload_without_bytes_is_incomplete(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    upload = await mesh.open_upload(dataset.id, "a.mp4", b"some bytes")
    assert (await refused(mesh.complete(upload.id))).reason == "UPLOAD_INCOMPLETE"
    await mesh.put_parts(upload, b"some bytes")
    assert (await mesh.complete(upload.id)).path == "a.mp4"


@pytest.mark.parametrize("size", [1000, PART_BYTES + 1000])
async def test_concurrent_completes_all_succeed_and_count_once(mesh: CatalogMesh, size: int) -> None:
    dataset = await mesh.create_dataset()
    data = os.urandom(size)
    upload = await mesh.open_upload(dataset.id, "a.mp4", data)
    await mesh.put_parts(upload, data)
    stored = await asyncio.gather(*(mesh.complete(upload.id) for _ in range(8)))
    assert len({file.sha256 for file in stored}) == 1
    request = ds.GetDatasetRequest(dataset_id=dataset.id)
    current = (await mesh.datasets.GetDataset(request, metadata=mesh.as_user())).dataset
    assert (current.counts.files, current.counts.size_bytes) == (1, size)


async def test_two_replicas_may_complete_one_upload(start: Start) -> None:
    first, second = await start(), await start()
    dataset = await first.create_dataset()
    data = os.urandom(PART_BYTES + 5)
    upload = await first.open_upload(dataset.id, "a.mp4", data)
    await first.put_parts(upload, data)
    outcomes = await asyncio.gather(first.complete(upload.id), second.complete(upload.id), return_exceptions=True)
    assert any(not isinstance(outcome, BaseException) for outcome in outcomes), outcomes
    assert (await second.complete(upload.id)).path == "a.mp4"
    assert await files_of(first, dataset.id) == ["a.mp4"]


async def test_a_new_file_replaces_the_one_at_its_path(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.put(dataset.id, "a.mp4", b"old")
    await mesh.put(dataset.id, "a.mp4", b"newer")
    current = (
        await mesh.datasets.GetDataset(ds.GetDatasetRequest(dataset_id=dataset.id), metadata=mesh.as_user())
    ).dataset
    assert (current.counts.files, current.counts.size_bytes) == (1, 5)

    async def one_object() -> bool:
        return len(await mesh.blobs.list()) == 1

    await assert_eventually(one_object)


async def test_content_is_kept_while_any_path_uses_it(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.put_all(dataset.id, {"a.mp4": b"shared", "b.mp4": b"shared"})
    await mesh.uploads.DeleteFile(us.DeleteFileRequest(parent_id=dataset.id, path="a.mp4"), metadata=mesh.as_user())
    marker = await mesh.create_dataset("marker")
    await mesh.put(marker.id, "x.mp4", b"goes")
    await mesh.uploads.DeleteFile(us.DeleteFileRequest(parent_id=marker.id, path="x.mp4"), metadata=mesh.as_user())

    shared = f"contents/{ALICE}/{hashlib.sha256(b'shared').hexdigest()}"

    async def only_the_shared_one() -> bool:
        return [item.key for item in await mesh.blobs.list()] == [shared]

    await assert_eventually(only_the_shared_one)


@pytest.mark.parametrize("size", [0, 10, 300_000, 2 * PART_BYTES + 77])
async def test_a_file_can_be_streamed(mesh: CatalogMesh, size: int) -> None:
    dataset = await mesh.create_dataset()
    data = os.urandom(size)
    first = header(dataset.id, "a.mp4", data)
    response = await mesh.uploads.UploadFile(chunks_of(first, data, 1_000_000), metadata=mesh.as_user())
    assert response.file.sha256 == first.sha256
    assert await mesh.blobs.get_bytes(f"contents/{ALICE}/{first.sha256}") == data


async def test_a_stream_that_does_not_keep_its_word_commits_nothing(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    data = os.urandom(PART_BYTES + 1000)

    async def upload(requests: AsyncIterator[us.UploadFileRequest]) -> str:
        return (await refused(mesh.uploads.UploadFile(requests, metadata=mesh.as_user()))).reason

    promised = header(dataset.id, "a.mp4", data)
    assert await upload(chunks_of(promised, data[:-1])) == "LENGTH_MISMATCH"
    assert await upload(chunks_of(promised, data + b"x")) == "LENGTH_MISMATCH"
    assert await upload(chunks_of(promised, data[:-1] + b"?")) in ("DIGEST_MISMATCH",)
    assert await upload(chunks_of(None, data)) == "FIELD_INVALID"
    assert await upload(chunks_of(None, b"")) == "FIELD_INVALID"
    assert await files_of(mesh, dataset.id) == []

    async def nothing_left() -> bool:
        return not await mesh.blobs.list()

    await assert_eventually(nothing_left)


async def test_a_stream_that_is_cut_commits_nothing(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    data = os.urandom(PART_BYTES + 1000)
    sent = asyncio.Event()

    async def requests() -> AsyncIterator[us.UploadFileRequest]:
        async for request in chunks_of(header(dataset.id, "a.mp4", data), data[: PART_BYTES + 10]):
            yield request
        sent.set()
        await asyncio.Event().wait()

    call = mesh.uploads.UploadFile(requests(), metadata=mesh.as_user())
    await asyncio.wait_for(sent.wait(), 60)

    async def upload_is_open() -> bool:
        return bool(await mesh.pool.fetchval("SELECT count(*) FROM uploads"))

    await assert_eventually(upload_is_open)
    call.cancel()

    async def nothing_left() -> bool:
        open_uploads = await mesh.pool.fetchval("SELECT count(*) FROM uploads")
        return open_uploads == 0 and not await mesh.blobs.list()

    await assert_eventually(nothing_left)
    assert await files_of(mesh, dataset.id) == []


@pytest.mark.parametrize("has_header", [True, False])
async def test_a_client_that_falls_silent_is_let_go(start: Start, has_header: bool) -> None:
    mesh = await start(upload_stall_seconds=0.3)
    dataset = await mesh.create_dataset()

    async def requests() -> AsyncIterator[us.UploadFileRequest]:
        if has_header:
            yield us.UploadFileRequest(header=header(dataset.id, "a.mp4", b"never sent"))
        await asyncio.Event().wait()

    stalled = await refused(mesh.uploads.UploadFile(requests(), metadata=mesh.as_user(), timeout=60))
    assert (stalled.code, stalled.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "UPLOAD_STALLED")
    assert await mesh.pool.fetchval("SELECT count(*) FROM uploads") == 0


async def test_only_so_many_files_are_streamed_at_once(start: Start) -> None:
    mesh = await start(upload_streams=1)
    dataset = await mesh.create_dataset()
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[us.UploadFileRequest]:
        yield us.UploadFileRequest(header=header(dataset.id, "a.mp4", b"slow"))
        await go_on.wait()
        yield us.UploadFileRequest(chunk=b"slow")

    first = asyncio.ensure_future(mesh.uploads.UploadFile(slow(), metadata=mesh.as_user(), timeout=30))

    async def upload_is_open() -> bool:
        return bool(await mesh.pool.fetchval("SELECT count(*) FROM uploads"))

    await assert_eventually(upload_is_open)
    second = chunks_of(header(dataset.id, "b.mp4", b"fast"), b"fast")
    busy = await refused(mesh.uploads.UploadFile(second, metadata=mesh.as_user(), timeout=60))
    assert (busy.code, busy.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "UPLOADS_BUSY")
    assert busy.retry_after is not None
    go_on.set()
    assert (await first).file.path == "a.mp4"


async def test_abandoned_uploads_are_collected(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    small = await mesh.open_upload(dataset.id, "a.mp4", b"never completed")
    await mesh.put_parts(small, b"never completed")
    await mesh.open_upload(dataset.id, "b.mp4", os.urandom(PART_BYTES + 1))
    await mesh.pool.execute("UPDATE uploads SET touch_time = now() - interval '25 hours'")

    async def collected() -> bool:
        return await mesh.pool.fetchval("SELECT count(*) FROM uploads") == 0 and not await mesh.blobs.list()

    await assert_eventually(collected)
    assert (await refused(mesh.complete(small.id))).reason == "UPLOAD_NOT_FOUND"


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../a.mp4", "a/../b.mp4", "a//b.mp4", "./a.mp4", "a/", "a\\b.mp4", "a\nb.mp4", "a\x00b", "é" * 257],
)
async def test_bad_paths_are_refused_naming_the_field(mesh: CatalogMesh, path: str) -> None:
    dataset = await mesh.create_dataset()
    failure = await refused(mesh.open_upload(dataset.id, path, b"x"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert failure.field_violations[0].field == "file.path"


async def test_a_file_is_no_folder(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.put(dataset.id, "a/b.mp4", b"x")
    for path in ("a", "a/b.mp4/c.mp4"):
        assert (await refused(mesh.open_upload(dataset.id, path, b"y"))).field_violations[0].field == "file.path"
    await mesh.put(dataset.id, "a.mp4", b"z")


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "model.pt",
        "x.pth",
        "x.ckpt",
        "x.pkl",
        "modeling_x.py",
        "x.msgpack",
        "x.h5",
        "x.exe",
        "Model.BIN",
    ],
)
async def test_a_model_never_takes_files_that_run(mesh: CatalogMesh, name: str) -> None:
    model = await mesh.create_model()
    failure = await refused(mesh.open_upload(model.id, f"sub/{name}", b"x"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FILE_NOT_ALLOWED")
    assert failure.metadata["path"] == f"sub/{name}"
    assert failure.metadata["remedy"]
    streamed = chunks_of(header(model.id, name, b"x"), b"x")
    assert (await refused(mesh.uploads.UploadFile(streamed, metadata=mesh.as_user()))).reason == "FILE_NOT_ALLOWED"


async def test_limits_of_the_operator_hold(start: Start) -> None:
    mesh = await start(max_file_bytes=1000, max_files=2)
    dataset = await mesh.create_dataset()
    too_large = await refused(mesh.open_upload(dataset.id, "a.mp4", b"x" * 1001))
    assert (too_large.code, too_large.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE")
    await mesh.put_all(dataset.id, {"a.mp4": b"1", "b.mp4": b"2"})
    assert (await refused(mesh.open_upload(dataset.id, "c.mp4", b"3"))).reason == "TOO_MANY_FILES"


async def test_a_ready_dataset_never_changes(mesh: CatalogMesh) -> None:
    files = {"annotations.csv": b"video,caption\na.mp4,A bar.\n", "a.mp4": h264_clip()}
    ready = await mesh.ready_dataset(files)
    opened = await refused(mesh.open_upload(ready.id, "b.mp4", b"x"))
    assert (opened.code, opened.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DATASET_STATE_CONFLICT")
    assert (opened.metadata["state"], opened.metadata["allowed"]) == ("READY", "ERROR,PENDING")
    streamed = chunks_of(header(ready.id, "b.mp4", b"x"), b"x")
    assert (
        await refused(mesh.uploads.UploadFile(streamed, metadata=mesh.as_user()))
    ).reason == "DATASET_STATE_CONFLICT"
    removal = us.DeleteFileRequest(parent_id=ready.id, path="a.mp4")
    assert (await refused(mesh.uploads.DeleteFile(removal, metadata=mesh.as_user()))).reason == "DATASET_STATE_CONFLICT"


async def test_an_upload_that_ends_after_validation_began_is_refused(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.put_all(dataset.id, {"annotations.csv": b"video,caption\na.mp4,A bar.\n", "a.mp4": h264_clip()})
    late = await mesh.open_upload(dataset.id, "late.mp4", b"late")
    await mesh.put_parts(late, b"late")
    await mesh.validated(dataset.id)
    assert (await refused(mesh.complete(late.id))).reason == "DATASET_STATE_CONFLICT"

    async def only_the_two() -> bool:
        pictures = [stat.key for stat in await mesh.blobs.list() if stat.key.endswith(".poster.jpg")]
        return len(pictures) == 1 and len(await mesh.blobs.list()) == 3

    await assert_eventually(only_the_two)


async def test_mending_an_error_makes_the_dataset_pending_and_then_ready(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.put_all(dataset.id, {"annotations.csv": b"video,caption\na.mp4,A bar.\n", "a.mp4": b"no clip"})
    broken = await mesh.validated(dataset.id)
    assert broken.state == dataset_pb2.DATASET_STATE_ERROR
    assert await mesh.issues(dataset.id) == [("CLIP_NOT_VIDEO", "a.mp4", 1)]
    await mesh.put(dataset.id, "a.mp4", h264_clip())
    request = ds.GetDatasetRequest(dataset_id=dataset.id)
    pending = (await mesh.datasets.GetDataset(request, metadata=mesh.as_user())).dataset
    assert pending.state == dataset_pb2.DATASET_STATE_PENDING
    assert (await mesh.validated(dataset.id)).state == dataset_pb2.DATASET_STATE_READY
    assert pending.owner_id == ALICE
