"""Contents: an owner's bytes are stored once, whatever datasets and models use them, and go with the last of these."""

from __future__ import annotations

import asyncio
import hashlib
import os

import grpc
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import model_service_pb2 as ms
from reeltune.catalog.v1 import upload_service_pb2 as us

from catalog_svc.domain.upload import PART_BYTES
from meshkit.testing import assert_eventually
from tests.rpc.catalog.catalog_mesh import ALICE, BOB, CatalogMesh, Start, refused


async def delete_dataset(mesh: CatalogMesh, dataset_id: str) -> None:
    await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=dataset_id), metadata=mesh.as_user())


async def keys(mesh: CatalogMesh) -> list[str]:
    return [item.key for item in await mesh.blobs.list()]


async def usage(mesh: CatalogMesh, user: str = ALICE) -> tuple[int, int, int]:
    """Returns a user's stored bytes, stored objects and announced bytes."""
    row = await mesh.pool.fetchrow("SELECT * FROM storage_usage WHERE owner_id = $1", user)
    return (0, 0, 0) if row is None else (row["stored_bytes"], row["stored_objects"], row["pending_bytes"])


def content_key(data: bytes, user: str = ALICE) -> str:
    return f"contents/{user}/{hashlib.sha256(data).hexdigest()}"


async def test_what_an_owner_has_stored_anywhere_is_never_sent_again(mesh: CatalogMesh) -> None:
    first, second = await mesh.create_dataset("first"), await mesh.create_dataset("second")
    model = await mesh.create_model()
    data = b'{"same": "bytes"}'
    await mesh.put(first.id, "a.json", data)
    for parent, path in ((second.id, "b/c.json"), (model.id, "config.json")):
        upload = await mesh.open_upload(parent, path, data)
        assert upload.complete
        assert not upload.parts
        assert (await mesh.complete(upload.id)).path == path
    assert await usage(mesh) == (len(data), 1, 0)
    await assert_eventually(lambda: _is(mesh, [content_key(data)]))


async def test_what_others_have_stored_tells_nobody_anything(mesh: CatalogMesh) -> None:
    alices = await mesh.create_dataset()
    await mesh.put(alices.id, "a.mp4", b"a secret of alice")
    bobs = await mesh.create_dataset(user=BOB)
    upload = await mesh.open_upload(bobs.id, "a.mp4", b"a secret of alice", user=BOB)
    assert not upload.complete
    assert (await refused(mesh.complete(upload.id, user=BOB))).reason == "UPLOAD_INCOMPLETE"
    await mesh.put_parts(upload, b"a secret of alice")
    await mesh.complete(upload.id, user=BOB)
    await delete_dataset(mesh, alices.id)
    await assert_eventually(lambda: _is(mesh, [content_key(b"a secret of alice", BOB)]))


async def test_content_goes_with_the_last_that_uses_it(mesh: CatalogMesh) -> None:
    dataset, model = await mesh.create_dataset(), await mesh.create_model()
    await mesh.put_all(dataset.id, {"a.json": b"{}", "b.json": b"{ }"})
    await mesh.put(model.id, "config.json", b"{}")
    await delete_dataset(mesh, dataset.id)
    await assert_eventually(lambda: _is(mesh, [content_key(b"{}")]))
    await assert_eventually(lambda: _uses(mesh, (2, 1, 0)))
    await mesh.models.DeleteModel(ms.DeleteModelRequest(model_id=model.id), metadata=mesh.as_user())
    await assert_eventually(lambda: _is(mesh, []))
    await assert_eventually(lambda: _uses(mesh, (0, 0, 0)))


async def test_what_is_on_its_way_counts_as_announced(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    small = await mesh.open_upload(dataset.id, "a.mp4", b"12345")
    await mesh.open_upload(dataset.id, "a.mp4", b"12345")
    await mesh.open_upload(dataset.id, "b.mp4", b"1234567")
    assert await usage(mesh) == (0, 0, 12)
    await mesh.put_parts(small, b"12345")
    await mesh.complete(small.id)
    assert await usage(mesh) == (5, 1, 7)
    await mesh.pool.execute("UPDATE uploads SET touch_time = now() - interval '25 hours'")
    await assert_eventually(lambda: _uses(mesh, (5, 1, 0)))
    await delete_dataset(mesh, dataset.id)
    await assert_eventually(lambda: _uses(mesh, (0, 0, 0)))


async def test_bytes_stored_by_a_service_that_died_before_it_recorded_them_are_collected(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    for data in (b"small", os.urandom(PART_BYTES + 1)):
        await mesh.open_upload(dataset.id, "a.mp4", data)
        await mesh.blobs.put_bytes(content_key(data), data)
    await mesh.pool.execute("UPDATE uploads SET touch_time = now() - interval '25 hours'")
    await assert_eventually(lambda: _is(mesh, []))


async def test_a_deleted_entry_takes_along_what_its_uploads_store_afterwards(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    upload = await mesh.open_upload(dataset.id, "a.mp4", b"late")
    await delete_dataset(mesh, dataset.id)
    assert await usage(mesh) == (0, 0, len(b"late"))  # its address may still write as much
    await mesh.put_parts(upload, b"late")
    await mesh.blobs.put_bytes(content_key(b"late"), b"late")
    assert (await refused(mesh.complete(upload.id))).code is grpc.StatusCode.NOT_FOUND
    due = "UPDATE garbage SET due_time = now() WHERE object_key = $1 RETURNING id"
    assert await mesh.pool.fetch(due, content_key(b"late"))
    await assert_eventually(lambda: _lacks(mesh, content_key(b"late")))


async def test_content_that_comes_and_goes_at_once_is_there_for_whoever_has_it(start: Start) -> None:
    mesh = await start(garbage_seconds=0.01)
    data = b"wanted by all"
    lasting = await mesh.create_dataset("lasting")

    async def come_and_go(number: int) -> None:
        for turn in range(6):
            dataset = await mesh.create_dataset(f"{number} {turn}")
            await mesh.put(dataset.id, "a.mp4", data)
            assert await mesh.blobs.get_bytes(content_key(data)) == data
            await mesh.uploads.DeleteFile(
                us.DeleteFileRequest(parent_id=dataset.id, path="a.mp4"), metadata=mesh.as_user()
            )
            await delete_dataset(mesh, dataset.id)

    await asyncio.gather(*(come_and_go(number) for number in range(4)))
    await mesh.put(lasting.id, "a.mp4", data)
    await assert_eventually(lambda: _is(mesh, [content_key(data)]))
    assert await usage(mesh) == (len(data), 1, 0)
    assert await mesh.blobs.get_bytes(content_key(data)) == data


async def _is(mesh: CatalogMesh, expected: list[str]) -> bool:
    return await keys(mesh) == expected


async def _lacks(mesh: CatalogMesh, key: str) -> bool:
    return key not in await keys(mesh)


async def _uses(mesh: CatalogMesh, expected: tuple[int, int, int]) -> bool:
    return await usage(mesh) == expected
