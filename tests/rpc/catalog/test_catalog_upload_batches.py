"""Many uploads by one call: each file by itself, and its outcome in its place."""

from __future__ import annotations

import asyncio
import hashlib
import os

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import upload_batch_service_pb2 as pb
from reeltune.catalog.v1 import upload_service_pb2 as us

from catalog_svc.domain.upload import PART_BYTES, StoredFile, Upload
from meshkit.ids import new_id
from meshkit.postgres import open_pool, transaction
from meshkit.testing import Database, assert_eventually
from tests.rpc.catalog.catalog_mesh import ALICE, BOB, CatalogMesh, Start, refused


def wanted(parent_id: str, path: str, data: bytes, *, accepts_headers: bool = True) -> us.CreateUploadRequest:
    digest = hashlib.sha256(data).hexdigest()
    header = us.FileHeader(parent_id=parent_id, path=path, size_bytes=len(data), sha256=digest)
    return us.CreateUploadRequest(file=header, accepts_headers=accepts_headers)


async def create(
    mesh: CatalogMesh, requests: list[us.CreateUploadRequest], user: str = ALICE
) -> list[pb.CreatedUpload]:
    request = pb.BatchCreateUploadsRequest(requests=requests)
    return list((await mesh.batches.BatchCreateUploads(request, metadata=mesh.as_user(user))).results)


async def complete(mesh: CatalogMesh, upload_ids: list[str], user: str = ALICE) -> list[pb.CompletedUpload]:
    requests = [us.CompleteUploadRequest(upload_id=upload_id) for upload_id in upload_ids]
    request = pb.BatchCompleteUploadsRequest(requests=requests)
    return list((await mesh.batches.BatchCompleteUploads(request, metadata=mesh.as_user(user))).results)


def reason(status: status_pb2.Status) -> str:
    (info,) = (detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR))
    unpacked = error_details_pb2.ErrorInfo()
    info.Unpack(unpacked)
    return unpacked.reason


async def test_many_files_take_two_calls(mesh: CatalogMesh) -> None:
    first, second = await mesh.create_dataset("first"), await mesh.create_dataset("second")
    files = {f"{number:02}.mp4": os.urandom(1000 + number) for number in range(32)}
    requests = [
        wanted(parent.id, path, data, accepts_headers=parent is first)
        for parent in (first, second)
        for path, data in files.items()
    ]
    results = await create(mesh, requests)
    assert [result.path for result in results] == [*files, *files]
    assert all(bool(result.upload.parts[0].headers) == (n < 32) for n, result in enumerate(results))
    await asyncio.gather(*(mesh.put_parts(result.upload, files[result.path]) for result in results))
    ids = [result.upload.id for result in results]
    completed = await complete(mesh, ids)
    assert [result.upload_id for result in completed] == ids
    assert [result.file.path for result in completed] == [*files, *files]
    assert await mesh.paths(first.id) == await mesh.paths(second.id) == list(files)
    assert await complete(mesh, ids) == completed
    assert all(result.upload.complete for result in await create(mesh, requests))


async def test_each_file_fails_by_itself(start: Start) -> None:
    mesh = await start(max_file_bytes=1000)
    dataset, model = await mesh.create_dataset(), await mesh.create_model()
    await mesh.put(dataset.id, "a/b.mp4", b"there")
    results = await create(
        mesh,
        [
            wanted(dataset.id, "good.mp4", b"good"),
            wanted(dataset.id, "a", b"a folder"),
            wanted(dataset.id, "../a.mp4", b"outside"),
            wanted(model.id, "model.pkl", b"runs"),
            wanted(dataset.id, "large.mp4", b"x" * 1001),
            wanted(dataset.id, "copy.mp4", b"there"),
        ],
    )
    outcomes = [reason(result.error) if result.HasField("error") else result.upload.complete for result in results]
    assert outcomes == [False, "FIELD_INVALID", "FIELD_INVALID", "FILE_NOT_ALLOWED", "FILE_TOO_LARGE", True]
    assert [result.path for result in results][1:4] == ["a", "../a.mp4", "model.pkl"]
    assert results[3].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    good = results[0].upload
    (incomplete,) = await complete(mesh, [good.id])
    assert (reason(incomplete.error), incomplete.upload_id) == ("UPLOAD_INCOMPLETE", good.id)
    await mesh.put_parts(good, b"good")
    unknown = new_id("upl")
    done, absent = await complete(mesh, [good.id, unknown])
    assert (done.file.path, reason(absent.error)) == ("good.mp4", "UPLOAD_NOT_FOUND")
    assert await mesh.paths(dataset.id) == ["a/b.mp4", "copy.mp4", "good.mp4"]


async def test_foreign_ids_are_like_none(mesh: CatalogMesh) -> None:
    dataset, model = await mesh.create_dataset(), await mesh.create_model()
    upload = await mesh.open_upload(dataset.id, "a.mp4", b"hers", accepts_headers=True)
    for foreign, absent in ((dataset.id, new_id("ds")), (model.id, new_id("mdl"))):
        requests = [wanted(parent, "config.json", b"{}") for parent in (foreign, absent)]
        theirs, nobodys = await create(mesh, requests, BOB)
        assert theirs == nobodys
        assert theirs.error.code == grpc.StatusCode.NOT_FOUND.value[0]
    theirs_too, nobodys_too = await complete(mesh, [upload.id, new_id("upl")], BOB)
    assert theirs_too.error == nobodys_too.error
    assert reason(theirs_too.error) == "UPLOAD_NOT_FOUND"


def large(parent_id: str, path: str, parts: int) -> us.CreateUploadRequest:
    header = us.FileHeader(parent_id=parent_id, path=path, size_bytes=parts * PART_BYTES, sha256="0" * 64)
    return us.CreateUploadRequest(file=header, accepts_headers=True)


async def test_the_parts_of_a_batch_have_bounds(mesh: CatalogMesh) -> None:
    """Else a call of some kilobytes would keep the service busy for long, and its answer be too large to be sent."""
    dataset = await mesh.create_dataset()
    results = await create(mesh, [large(dataset.id, "a.mp4", 2560)] * 64)
    assert {reason(result.error) for result in results} == {"BATCH_TOO_LARGE"}
    assert results[0].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "CreateUpload" in results[0].error.message
    assert await mesh.pool.fetchval("SELECT count(*) FROM uploads") == 0
    several = await create(
        mesh, [*(large(dataset.id, f"{n}.mp4", 400) for n in range(3)), wanted(dataset.id, "s", b"")]
    )
    assert [len(result.upload.parts) for result in several] == [400, 400, 0, 1]
    assert reason(several[2].error) == "BATCH_TOO_LARGE"
    assert await mesh.pool.fetchval("SELECT count(*) FROM uploads") == 3


async def test_an_upload_of_any_size_fits_into_an_answer(start: Start) -> None:
    mesh = await start(max_file_bytes=2**40)
    dataset = await mesh.create_dataset()
    size = 9_999 * PART_BYTES
    upload = await mesh.open_upload(dataset.id, "a.mp4", b"", size_bytes=size)
    assert sum(part.size_bytes for part in upload.parts) == size
    assert upload.ByteSize() < 2 * 1024 * 1024  # addresses may be longer than those of this test


async def test_an_error_that_nobody_foresaw_is_that_of_one_file(
    mesh: CatalogMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = await mesh.create_dataset()
    results = await create(mesh, [wanted(dataset.id, path, path.encode()) for path in ("a", "b", "c")])
    await asyncio.gather(*(mesh.put_parts(result.upload, result.path.encode()) for result in results))
    commit = mesh.stores.files.commit

    async def commit_all_but_one(upload: Upload) -> StoredFile:
        if upload.header.path == "b":
            raise ZeroDivisionError
        return await commit(upload)

    async def commit_none(*_: object) -> list[StoredFile]:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(mesh.stores.file_batches, "commit", commit_none)
        patched.setattr(mesh.stores.files, "commit", commit_all_but_one)
        a, b, c = await complete(mesh, [result.upload.id for result in results])
    assert (a.file.path, reason(b.error), c.file.path) == ("a", "INTERNAL", "c")
    assert b.error.code == grpc.StatusCode.INTERNAL.value[0]
    assert "ZeroDivision" not in str(b.error)
    assert (await complete(mesh, [b.upload_id]))[0].file.path == "b"


async def test_batches_that_wait_leave_connections_to_others(mesh: CatalogMesh, database: Database) -> None:
    dataset, other = await mesh.create_dataset("a"), await mesh.create_dataset("b")
    own = await open_pool(database.dsn, database.schema, min_size=1, max_size=1)
    async with own, transaction(own) as connection:
        await connection.execute("SELECT FROM entries WHERE id = $1 FOR UPDATE", dataset.id)
        batches = [
            asyncio.create_task(create(mesh, [wanted(dataset.id, f"{n} {m}.mp4", b"x") for m in range(16)]))
            for n in range(4)
        ]

        async def are_waiting() -> bool:
            query = "SELECT count(*) >= 4 FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"
            return bool(await connection.fetchval(query, database.name))

        await assert_eventually(are_waiting)
        request = ds.GetDatasetRequest(dataset_id=other.id)
        assert (await mesh.datasets.GetDataset(request, metadata=mesh.as_user(), timeout=60)).dataset.id == other.id
    await asyncio.gather(*batches)


@pytest.mark.parametrize("count", [0, 65])
async def test_a_batch_has_bounds(mesh: CatalogMesh, count: int) -> None:
    dataset = await mesh.create_dataset()
    refusal = await refused(create(mesh, [wanted(dataset.id, f"{n}.mp4", b"x") for n in range(count)]))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert (await refused(complete(mesh, [new_id("upl")] * count))).field_violations[0].field == "requests"


async def test_a_broken_rule_of_the_contract_fails_the_whole_call(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    broken = wanted(dataset.id, "b.mp4", b"x")
    broken.file.sha256 = "no digest"
    refusal = await refused(create(mesh, [wanted(dataset.id, "a.mp4", b"x"), broken]))
    assert refusal.field_violations[0].field == "requests[1].file.sha256"
    assert await mesh.pool.fetchval("SELECT count(*) FROM uploads") == 0


async def test_the_same_file_twice_in_a_batch_is_one_upload(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    one, two = await create(mesh, [wanted(dataset.id, "a.mp4", b"x")] * 2)
    assert one.upload.id == two.upload.id
    await mesh.put_parts(one.upload, b"x")
    completed = await complete(mesh, [one.upload.id] * 2)
    assert [result.file.path for result in completed] == ["a.mp4", "a.mp4"]
    # Who sends no headers for one of the two gets an address without them.
    plain, same = await create(mesh, [wanted(dataset.id, "b", b"y", accepts_headers=how) for how in (True, False)])
    assert plain == same
    assert not plain.upload.parts[0].headers
