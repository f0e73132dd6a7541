"""Uploads straight to their place: what the store verifies is never read or copied, and nothing else gets there."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import zlib
from base64 import b64encode
from collections.abc import Mapping

import grpc
import pytest
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import upload_pb2
from reeltune.catalog.v1 import upload_service_pb2 as us

from catalog_svc.clients.object_store import Digest
from catalog_svc.domain.entry import EntryId
from catalog_svc.domain.errors import QuotaExceeded
from catalog_svc.domain.storage_usage import StorageAllowance
from catalog_svc.domain.upload import PART_BYTES, FileHeader, UploadId
from meshkit.ids import new_id
from meshkit.testing import assert_eventually
from tests.rpc.catalog.catalog_mesh import ALICE, BOB, CatalogMesh, Start, refused

CLIP = b"the bytes of a clip"
OTHER = b"as many other bytes"
assert len(CLIP) == len(OTHER)


def key_of(data: bytes, user: str = ALICE) -> str:
    return f"contents/{user}/{hashlib.sha256(data).hexdigest()}"


async def keys(mesh: CatalogMesh) -> list[str]:
    return [item.key for item in await mesh.blobs.list()]


async def opened(
    mesh: CatalogMesh, parent_id: str, path: str = "a.mp4", data: bytes = CLIP, user: str = ALICE
) -> upload_pb2.Upload:
    return await mesh.open_upload(parent_id, path, data, user, accepts_headers=True)


async def put(mesh: CatalogMesh, upload: upload_pb2.Upload, data: bytes = CLIP) -> int:
    part = upload.parts[0]
    return (await mesh.http.put(part.url, content=data, headers=dict(part.headers))).status_code


async def pending(mesh: CatalogMesh) -> int:
    return int(await mesh.pool.fetchval("SELECT pending_bytes FROM storage_usage WHERE owner_id = $1", ALICE) or 0)


async def counts(mesh: CatalogMesh, *, stored: int, late: int) -> None:
    """Waits until the only owner has stored so much, and so much may still come."""

    async def is_so() -> bool:
        row = await mesh.pool.fetchrow("SELECT stored_bytes, pending_bytes FROM storage_usage")
        return tuple(row or ()) == (stored, late)

    await assert_eventually(is_so)


async def delete_dataset(mesh: CatalogMesh, dataset_id: str) -> None:
    await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=dataset_id), metadata=mesh.as_user())


async def delete_file(mesh: CatalogMesh, parent_id: str, path: str = "a.mp4") -> None:
    request = us.DeleteFileRequest(parent_id=parent_id, path=path)
    await mesh.uploads.DeleteFile(request, metadata=mesh.as_user())


async def only(mesh: CatalogMesh, *expected: str) -> None:
    """Waits until the store holds these objects and no others."""

    async def is_so() -> bool:
        return await keys(mesh) == sorted(expected)

    await assert_eventually(is_so)


@pytest.mark.parametrize("size", [0, 19, 300_000, PART_BYTES])
async def test_a_file_of_one_part_goes_straight_to_its_place(mesh: CatalogMesh, size: int) -> None:
    dataset, data = await mesh.create_dataset(), os.urandom(size)
    upload = await opened(mesh, dataset.id, data=data)
    assert [(part.number, part.size_bytes) for part in upload.parts] == [(1, size)]
    assert await pending(mesh) == size
    assert (await refused(mesh.complete(upload.id))).reason == "UPLOAD_INCOMPLETE"
    assert await put(mesh, upload, data) == 200
    assert await keys(mesh) == [key_of(data)]
    # The store vouches for the bytes: they need not be read.
    known = await mesh.stores.files.get_upload(UploadId(upload.id), ALICE)
    assert await mesh.stores.objects.sent_digest(known) == Digest(size, hashlib.sha256(data).hexdigest())
    stored = await mesh.complete(upload.id)
    assert (stored.path, stored.size_bytes, stored.sha256) == ("a.mp4", size, hashlib.sha256(data).hexdigest())
    assert (await mesh.complete(upload.id)).sha256 == stored.sha256
    assert await mesh.blobs.get_bytes(key_of(data)) == data
    assert await pending(mesh) == 0
    # Nothing was staged, so there is nothing to be collected but what the URL may still write.
    kinds = await mesh.pool.fetch("SELECT kind, object_key, due_time > now() AS is_later FROM garbage")
    assert [tuple(row) for row in kinds] == [("CONTENT", key_of(data), True)]


async def test_who_sends_no_headers_is_told_of_none(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    staged = await mesh.open_upload(dataset.id, "a.mp4", CLIP)
    assert not staged.parts[0].headers
    assert f"/uploads/{staged.id}?" in staged.parts[0].url


@pytest.mark.parametrize("is_direct_first", [True, False])
async def test_a_file_is_on_its_way_once(mesh: CatalogMesh, is_direct_first: bool) -> None:
    dataset = await mesh.create_dataset()
    first, second = [
        await mesh.open_upload(dataset.id, "a.mp4", CLIP, accepts_headers=accepts)
        for accepts in (is_direct_first, not is_direct_first)
    ]
    assert first.id != second.id
    assert await pending(mesh) == len(CLIP)
    assert await put(mesh, first) == 200
    assert (await refused(mesh.complete(first.id))).reason == "UPLOAD_NOT_FOUND"
    assert await put(mesh, second) in (200, 412)
    assert (await mesh.complete(second.id)).path == "a.mp4"
    assert await pending(mesh) == 0
    assert await mesh.blobs.get_bytes(key_of(CLIP)) == CLIP
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")
    await only(mesh, key_of(CLIP))


@pytest.mark.parametrize("is_verifying", [True, False])
@pytest.mark.parametrize("sent", [CLIP, OTHER])
async def test_what_no_store_vouches_for_is_read(mesh: CatalogMesh, sent: bytes, is_verifying: bool) -> None:
    """As when the store was another one, or held for a better one, when the address was given out."""
    dataset = await mesh.create_dataset()
    upload = await opened(mesh, dataset.id)
    await mesh.blobs.put_bytes(key_of(CLIP), sent)
    mesh.stores.objects.is_verifying = is_verifying
    if sent == CLIP:
        assert (await mesh.complete(upload.id)).path == "a.mp4"
        return
    refusal = await refused(mesh.complete(upload.id))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH")
    # The wrong bytes lie in nobody's way.
    again = await opened(mesh, dataset.id)
    assert bool(again.parts[0].headers) == is_verifying
    assert await put(mesh, again) == 200
    assert (await mesh.complete(again.id)).path == "a.mp4"
    assert await mesh.blobs.get_bytes(key_of(CLIP)) == CLIP
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")
    await only(mesh, key_of(CLIP))


async def test_a_store_that_verifies_no_more_is_not_believed(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    upload = await opened(mesh, dataset.id)
    assert await put(mesh, upload) == 200
    mesh.stores.objects.is_verifying = False
    assert (await mesh.complete(upload.id)).sha256 == hashlib.sha256(CLIP).hexdigest()


async def test_larger_files_go_in_parts(mesh: CatalogMesh) -> None:
    dataset, data = await mesh.create_dataset(), os.urandom(PART_BYTES + 1)
    upload = await opened(mesh, dataset.id, data=data)
    assert len(upload.parts) == 2
    assert not any(part.headers for part in upload.parts)
    await mesh.put_parts(upload, data)
    assert (await mesh.complete(upload.id)).size_bytes == len(data)


async def test_where_the_store_verifies_nothing_the_service_does(start: Start) -> None:
    mesh = await start(is_verifying=False)
    dataset = await mesh.create_dataset()
    upload = await opened(mesh, dataset.id)
    assert not upload.parts[0].headers
    assert await put(mesh, upload, OTHER) == 200
    assert (await refused(mesh.complete(upload.id))).reason == "DIGEST_MISMATCH"


COPY_SOURCE = "what Bob has stored"


def _crc32(data: bytes) -> str:
    return b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def _checksum(data: bytes) -> str:
    return b64encode(hashlib.sha256(data).digest()).decode()


@pytest.mark.parametrize(
    ("body", "change"),
    [
        (OTHER, {}),
        (OTHER, {"x-amz-checksum-sha256": _checksum(OTHER)}),
        (OTHER, {"x-amz-checksum-sha256": None}),
        (OTHER, {"x-amz-checksum-sha256": None, "if-none-match": None}),
        (CLIP, {"if-none-match": None}),
        (CLIP + b"!", {}),
        (CLIP[:-1], {}),
        (b"", {}),
        (gzip.compress(CLIP, mtime=0), {"content-encoding": "gzip"}),
        (CLIP, {"content-encoding": "gzip"}),
        (CLIP, {"content-type": "text/html"}),
        (CLIP, {"x-amz-copy-source": COPY_SOURCE}),
        (b"", {"x-amz-copy-source": COPY_SOURCE}),
        (OTHER, {"x-amz-sdk-checksum-algorithm": "CRC32", "x-amz-checksum-crc32": _crc32(OTHER)}),
        (CLIP, {"x-amz-acl": "public-read"}),
        (CLIP, {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-decoded-content-length": "19"}),
        (CLIP, {"x-amz-server-side-encryption-customer-algorithm": "AES256"}),
    ],
)
async def test_nothing_but_the_announced_bytes_gets_to_their_place(
    mesh: CatalogMesh, body: bytes, change: Mapping[str, str | None]
) -> None:
    dataset = await mesh.create_dataset()
    upload = await opened(mesh, dataset.id)
    bobs = key_of(OTHER, BOB)
    await mesh.blobs.put_bytes(bobs, OTHER)
    headers = {name: value for name, value in {**upload.parts[0].headers, **change}.items() if value is not None}
    if "x-amz-copy-source" in headers:
        headers["x-amz-copy-source"] = f"/{mesh.blobs.bucket}/{bobs}"
    refusal = await mesh.http.put(upload.parts[0].url, content=body, headers=headers)
    assert refusal.status_code in (400, 403)
    assert await keys(mesh) == [bobs]
    assert (await refused(mesh.complete(upload.id))).reason == "UPLOAD_INCOMPLETE"
    assert await put(mesh, upload) == 200
    assert (await mesh.complete(upload.id)).path == "a.mp4"


async def test_an_address_writes_to_no_other_place(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    bobs = await mesh.create_dataset(user=BOB)
    upload = await opened(mesh, dataset.id)
    part = upload.parts[0]
    for other in (part.url.replace(ALICE, BOB), part.url.replace("/contents/", "/uploads/")):
        assert (await mesh.http.put(other, content=CLIP, headers=dict(part.headers))).status_code == 403
    # The same bytes of another owner are another object, and tell nobody that they are here.
    assert await put(mesh, upload) == 200
    theirs = await opened(mesh, bobs.id, user=BOB)
    assert not theirs.complete
    assert (await refused(mesh.complete(theirs.id, user=BOB))).reason == "UPLOAD_INCOMPLETE"
    assert (await refused(mesh.complete(upload.id, user=BOB))).reason == "UPLOAD_NOT_FOUND"
    assert await put(mesh, theirs) == 200
    assert (await mesh.complete(theirs.id, user=BOB)).path == "a.mp4"
    assert sorted(await keys(mesh)) == sorted((key_of(CLIP), key_of(CLIP, BOB)))


async def test_the_same_bytes_of_several_uploads_arrive_once(mesh: CatalogMesh) -> None:
    datasets = [await mesh.create_dataset(f"{number}") for number in range(4)]
    uploads = await asyncio.gather(*(opened(mesh, dataset.id) for dataset in datasets))
    answers = await asyncio.gather(*(put(mesh, upload) for upload in uploads))
    assert sorted(answers) == [200, 412, 412, 412]
    await asyncio.gather(*(mesh.complete(upload.id) for upload in uploads))
    for dataset in datasets[1:]:
        await delete_dataset(mesh, dataset.id)
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")
    await assert_eventually(lambda: _has_no_garbage(mesh))
    assert await mesh.blobs.get_bytes(key_of(CLIP)) == CLIP


async def test_a_false_length_is_refused_and_harms_no_other_file(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.put(dataset.id, "a.mp4", CLIP)
    false = await mesh.open_upload(dataset.id, "b.mp4", CLIP, accepts_headers=True, size_bytes=len(CLIP) + 5)
    assert await put(mesh, false, CLIP + b"12345") in (400, 412)
    refusal = await refused(mesh.complete(false.id))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "LENGTH_MISMATCH")
    assert (await refused(mesh.complete(false.id))).reason == "UPLOAD_NOT_FOUND"
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")
    await assert_eventually(lambda: _has_no_garbage(mesh))
    assert await mesh.blobs.get_bytes(key_of(CLIP)) == CLIP


async def test_an_address_that_is_used_again_changes_nothing_that_lasts(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    upload = await opened(mesh, dataset.id)
    assert await put(mesh, upload) == 200
    await mesh.complete(upload.id)
    assert (await put(mesh, upload), await put(mesh, upload, OTHER)) == (412, 412)
    await delete_file(mesh, dataset.id)
    await only(mesh)
    # The file is gone, and the address still lives: what comes by it is collected when it does no longer.
    assert await put(mesh, upload) == 200
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")
    await only(mesh)
    assert (await mesh.complete(upload.id)).path == "a.mp4"  # it was, once


async def test_bytes_that_come_after_their_upload_has_ended_are_collected(mesh: CatalogMesh) -> None:
    gone, kept = await mesh.create_dataset("gone"), await mesh.create_dataset("kept")
    with_parent, idle = await opened(mesh, gone.id), await opened(mesh, kept.id, data=OTHER)
    await delete_dataset(mesh, gone.id)
    await mesh.pool.execute("UPDATE uploads SET touch_time = now() - interval '25 hours' WHERE id = $1", idle.id)
    await assert_eventually(lambda: _has_no_upload(mesh))
    await assert_eventually(lambda: _has_no_garbage(mesh))
    assert (await put(mesh, with_parent), await put(mesh, idle, OTHER)) == (200, 200)
    assert (await refused(mesh.complete(with_parent.id))).reason == "UPLOAD_NOT_FOUND"
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")
    await only(mesh, key_of(OTHER))  # its address had ended long before, were these truly 25 hours
    fresh = await opened(mesh, kept.id, data=OTHER)
    assert await put(mesh, fresh, OTHER) == 412
    assert (await mesh.complete(fresh.id)).path == "a.mp4"


async def test_an_upload_that_is_dropped_soon_is_looked_after_until_its_address_ends(start: Start) -> None:
    mesh = await start(abandoned_upload_hours=1e-9)
    dataset = await mesh.create_dataset()
    upload = await opened(mesh, dataset.id)
    await assert_eventually(lambda: _has_no_upload(mesh))
    assert await put(mesh, upload) == 200
    assert await mesh.pool.execute("UPDATE garbage SET due_time = now() WHERE due_time > now()") != "UPDATE 0"
    await only(mesh)


async def test_what_an_address_may_still_write_counts_until_it_has_ended(start: Start) -> None:
    mesh = await start(abandoned_upload_hours=24)
    size = len(CLIP)
    first = await mesh.create_dataset("first")
    await opened(mesh, first.id)
    await delete_dataset(mesh, first.id)
    await counts(mesh, stored=0, late=size)
    second = await mesh.create_dataset("second")
    upload = await opened(mesh, second.id)
    await counts(mesh, stored=0, late=size)  # of the upload, which may write the same place
    assert await put(mesh, upload) == 200
    await mesh.complete(upload.id)
    await counts(mesh, stored=size, late=0)
    await delete_file(mesh, second.id)
    await counts(mesh, stored=0, late=size)
    await only(mesh)  # the collector has been here once: what comes now comes late
    assert await put(mesh, upload) == 200
    staged = await mesh.open_upload(second.id, "b.mp4", OTHER)
    await delete_dataset(mesh, second.id)
    await counts(mesh, stored=0, late=size + len(OTHER))
    await mesh.put_parts(staged, OTHER)
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")
    await only(mesh)
    await counts(mesh, stored=0, late=0)
    third = await mesh.create_dataset("third")
    idle = await opened(mesh, third.id)
    false = await mesh.open_upload(third.id, "b.mp4", CLIP, accepts_headers=True, size_bytes=size + 5)
    await counts(mesh, stored=0, late=2 * size + 5)
    await mesh.pool.execute("UPDATE uploads SET touch_time = now() - interval '25 hours'")
    await assert_eventually(lambda: _has_no_upload(mesh))
    await counts(mesh, stored=0, late=0)
    assert await put(mesh, idle) == 200
    assert await put(mesh, false, CLIP + b"12345") in (400, 412)


async def test_a_dropped_upload_holds_its_room_against_the_next(start: Start) -> None:
    mesh = await start()
    dataset = await mesh.create_dataset("gone")
    await opened(mesh, dataset.id)
    await delete_dataset(mesh, dataset.id)
    header = FileHeader(
        EntryId((await mesh.create_dataset()).id), "b.mp4", len(OTHER), hashlib.sha256(OTHER).hexdigest()
    )
    room = StorageAllowance(len(CLIP) + len(OTHER) - 1, used_elsewhere_bytes=0)
    with pytest.raises(QuotaExceeded):
        await mesh.stores.files.open_upload(
            UploadId(new_id("upl")), ALICE, header, is_resumable=True, is_direct=True, allowance=room
        )
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")
    await assert_eventually(lambda: _has_no_garbage(mesh))
    await mesh.stores.files.open_upload(
        UploadId(new_id("upl")), ALICE, header, is_resumable=True, is_direct=True, allowance=room
    )


async def test_what_one_deletes_while_another_sends_it_stays(mesh: CatalogMesh) -> None:
    first, second = await mesh.create_dataset("first"), await mesh.create_dataset("second")
    one, two = await opened(mesh, first.id), await opened(mesh, second.id)
    assert await put(mesh, one) == 200
    await mesh.complete(one.id)
    await delete_dataset(mesh, first.id)
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")
    await assert_eventually(lambda: _has_no_garbage(mesh))
    assert await put(mesh, two) == 412
    assert (await mesh.complete(two.id)).sha256 == hashlib.sha256(CLIP).hexdigest()
    assert await mesh.blobs.get_bytes(key_of(CLIP)) == CLIP


async def test_content_that_comes_and_goes_by_all_ways_is_there_for_whoever_has_it(start: Start) -> None:
    mesh = await start(garbage_seconds=0.01)

    async def come_and_go(number: int) -> None:
        for turn in range(6):
            dataset = await mesh.create_dataset(f"{number} {turn}")
            upload = await mesh.open_upload(dataset.id, "a.mp4", CLIP, accepts_headers=number > 0)
            if upload.parts:
                answer = await put(mesh, upload)
                assert answer in ((200, 412) if number > 0 else (200,))
                await mesh.complete(upload.id)
            assert await mesh.blobs.get_bytes(key_of(CLIP)) == CLIP
            await delete_file(mesh, dataset.id)
            await delete_dataset(mesh, dataset.id)

    await asyncio.gather(*(come_and_go(number) for number in range(4)))
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")
    await only(mesh)
    await counts(mesh, stored=0, late=0)
    assert await mesh.pool.fetchval("SELECT stored_objects FROM storage_usage") == 0


async def _has_no_garbage(mesh: CatalogMesh) -> bool:
    """Tells whether all that is due is removed: what is being removed is due again in ten minutes, late bytes in 20."""
    return not await mesh.pool.fetchval("SELECT count(*) FROM garbage WHERE due_time <= now() + interval '15 minutes'")


async def _has_no_upload(mesh: CatalogMesh) -> bool:
    return not await mesh.pool.fetchval("SELECT count(*) FROM uploads")
