"""New versions of datasets that never change, and datasets that go on without what is wrong in them."""

from __future__ import annotations

import asyncio
import uuid

import grpc
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_pb2, visibility_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import snapshot_service_pb2 as snap
from reeltune.catalog.v1 import upload_service_pb2 as us
from reeltune.catalog.v1 import version_service_pb2 as vs

from meshkit.auth.principal import Caller
from meshkit.testing import assert_eventually
from tests.rpc.catalog.catalog_mesh import BOB, CatalogMesh, collected, refused
from tests.rpc.catalog.clips import h264_clip, truncated

ROW = b"video,caption\na.mp4,A bar.\n"
READY, ERROR = dataset_pb2.DATASET_STATE_READY, dataset_pb2.DATASET_STATE_ERROR


async def new_version(mesh: CatalogMesh, dataset_id: str, request_id: str = "") -> dataset_pb2.Dataset:
    request = vs.CreateDatasetVersionRequest(dataset_id=dataset_id, request_id=request_id)
    return (await mesh.versions.CreateDatasetVersion(request, metadata=mesh.as_user())).dataset


async def versions_of(
    mesh: CatalogMesh, dataset_id: str, user: str, **fields: object
) -> vs.ListDatasetVersionsResponse:
    request = vs.ListDatasetVersionsRequest(dataset_id=dataset_id, **fields)
    return await mesh.versions.ListDatasetVersions(request, metadata=mesh.as_user(user))


async def get(mesh: CatalogMesh, dataset_id: str) -> dataset_pb2.Dataset:
    request = ds.GetDatasetRequest(dataset_id=dataset_id)
    return (await mesh.datasets.GetDataset(request, metadata=mesh.as_user())).dataset


async def quarantine(mesh: CatalogMesh, dataset_id: str, *places: tuple[str, int]) -> dataset_pb2.Dataset:
    """Quarantines and watches the dataset to its end."""
    items = [vs.QuarantinedItem(file=file, row=row) for file, row in places]
    request = vs.QuarantineDatasetRequest(dataset_id=dataset_id, items=items)
    await mesh.versions.QuarantineDataset(request, metadata=mesh.as_user())
    watch = ds.WatchDatasetRequest(dataset_id=dataset_id)
    states = await collected(mesh.datasets.WatchDataset(watch, metadata=mesh.as_user(), timeout=60))
    return states[-1].dataset  # type: ignore[no-any-return]


async def samples_of(mesh: CatalogMesh, dataset_id: str) -> list[str]:
    request = content.ListSamplesRequest(dataset_id=dataset_id)
    response = await mesh.datasets.ListSamples(request, metadata=mesh.as_user())
    return [clip.path for clip in response.clips]


async def test_a_change_of_a_ready_dataset_makes_a_new_version(mesh: CatalogMesh) -> None:
    first = await mesh.ready_dataset({"annotations.csv": ROW, "a.mp4": h264_clip()})
    assert (first.version, first.base_dataset_id) == (1, "")
    refusal = await refused(mesh.open_upload(first.id, "b.mp4", b"x"))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "CreateDatasetVersion" in refusal.message
    objects = await mesh.blobs.list()

    second = await new_version(mesh, first.id)
    assert (second.version, second.base_dataset_id, second.name) == (2, first.id, first.name)
    assert second.state == dataset_pb2.DATASET_STATE_PENDING
    assert (second.counts.files, second.counts.size_bytes) == (first.counts.files, first.counts.size_bytes)
    assert await mesh.blobs.list() == objects
    same = await mesh.validated(second.id)
    assert (same.state, same.fingerprint) == (READY, first.fingerprint)

    third = await new_version(mesh, second.id)
    await mesh.put_all(third.id, {"annotations.csv": ROW + b"b.mp4,Two bars.\n", "b.mp4": h264_clip(1)})
    changed = await mesh.validated(third.id)
    assert (changed.version, changed.counts.rows) == (3, 2)
    assert changed.fingerprint != first.fingerprint
    assert await get(mesh, first.id) == first
    listed = await versions_of(mesh, first.id, first.owner_id, page_size=2)
    assert [version.version for version in listed.datasets] == [3, 2]
    rest = await versions_of(mesh, first.id, first.owner_id, page_size=2, page_token=listed.next_page_token)
    assert [version.version for version in rest.datasets] == [1]


async def test_a_version_keeps_its_bytes_when_the_one_it_came_from_goes(mesh: CatalogMesh) -> None:
    first = await mesh.ready_dataset({"annotations.csv": ROW, "a.mp4": h264_clip()})
    second = await mesh.validated((await new_version(mesh, first.id)).id)
    await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=first.id), metadata=mesh.as_user())

    async def garbage_is_gone() -> bool:
        return not await mesh.pool.fetchval("SELECT count(*) FROM garbage WHERE due_time <= now()")

    await assert_eventually(garbage_is_gone)
    grant = mesh.tokens.machine(Caller.ATTEMPT, "job_1", dataset=second.id, model="mdl_x")
    request = snap.GetClipsRequest(dataset_id=second.id, paths=["a.mp4"])
    (clip,) = (await mesh.snapshots.GetClips(request, metadata=grant)).clips
    assert (await mesh.http.get(clip.url)).content == h264_clip()
    assert (await new_version(mesh, second.id)).version == 3, "numbers are never given twice"


async def test_versions_are_made_once_and_one_after_the_other(mesh: CatalogMesh) -> None:
    first = await mesh.ready_dataset({"annotations.csv": ROW, "a.mp4": h264_clip()})
    request_id = str(uuid.uuid4())
    same = await asyncio.gather(*(new_version(mesh, first.id, request_id) for _ in range(8)))
    assert {version.version for version in same} == {2}
    made = await asyncio.gather(*(new_version(mesh, first.id) for _ in range(8)))
    assert sorted(version.version for version in made) == list(range(3, 11))
    other = await mesh.ready_dataset({"annotations.csv": ROW, "a.mp4": h264_clip()}, name="other")
    assert (await refused(new_version(mesh, other.id, request_id))).reason == "REQUEST_ID_REUSED"
    assert (await refused(mesh.create_dataset(first.name, request_id=request_id))).reason == "REQUEST_ID_REUSED"
    pending = await refused(new_version(mesh, made[0].id))
    assert (pending.reason, pending.metadata["allowed"]) == ("DATASET_STATE_CONFLICT", "READY")


async def test_all_versions_have_one_name(mesh: CatalogMesh) -> None:
    first = await mesh.ready_dataset({"annotations.csv": ROW, "a.mp4": h264_clip()}, name="clips")
    second = await new_version(mesh, first.id)
    await mesh.create_dataset("taken")
    for name, reason in (("taken", "DATASET_EXISTS"), ("new", "")):
        request = ds.UpdateDatasetRequest(dataset=dataset_pb2.Dataset(id=second.id, name=name))
        update = mesh.datasets.UpdateDataset(request, metadata=mesh.as_user())
        if reason:
            assert (await refused(update)).reason == reason
        else:
            assert (await update).dataset.name == name
    assert (await get(mesh, first.id)).name == "new"
    await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=first.id), metadata=mesh.as_user())
    assert (await refused(mesh.create_dataset("new"))).reason == "DATASET_EXISTS"
    await mesh.create_dataset("clips")


async def test_others_see_the_versions_that_are_shared(mesh: CatalogMesh) -> None:
    files = {"annotations.csv": ROW, "a.mp4": h264_clip()}
    first = await mesh.ready_dataset(files, visibility=visibility_pb2.VISIBILITY_SHARED)
    second = await new_version(mesh, first.id)
    hidden = dataset_pb2.Dataset(id=second.id, visibility=visibility_pb2.VISIBILITY_PRIVATE)
    await mesh.datasets.UpdateDataset(ds.UpdateDatasetRequest(dataset=hidden), metadata=mesh.as_user())
    assert [version.id for version in (await versions_of(mesh, first.id, BOB)).datasets] == [first.id]
    assert (await refused(versions_of(mesh, second.id, BOB))).code is grpc.StatusCode.NOT_FOUND


async def broken(mesh: CatalogMesh) -> dataset_pb2.Dataset:
    rows = b"a.mp4,A bar.\nb.mp4,Cut short.\nnone.mp4,Nothing.\na.mp4,\nb.mp4,Cut again.\n"
    dataset = await mesh.create_dataset()
    await mesh.put_all(
        dataset.id, {"annotations.csv": b"video,caption\n" + rows, "a.mp4": h264_clip(), "b.mp4": truncated()}
    )
    found = await mesh.validated(dataset.id)
    assert (found.state, found.counts.errors) == (ERROR, 3), await mesh.issues(dataset.id)
    return found


async def test_a_dataset_goes_on_without_what_is_wrong_in_it(mesh: CatalogMesh) -> None:
    dataset = await broken(mesh)
    ready = await quarantine(mesh, dataset.id)
    assert ready.state == READY, await mesh.issues(dataset.id)
    counts = ready.counts
    assert (counts.rows, counts.quarantined_rows, counts.clips, counts.quarantined_clips) == (1, 4, 1, 1)
    assert await samples_of(mesh, dataset.id) == ["a.mp4"]
    request = vs.ListQuarantineRequest(dataset_id=dataset.id, page_size=2)
    page = await mesh.versions.ListQuarantine(request, metadata=mesh.as_user())
    assert [(item.file, item.row) for item in page.items] == [("annotations.csv", 3), ("annotations.csv", 4)]
    request.page_token = page.next_page_token
    page = await mesh.versions.ListQuarantine(request, metadata=mesh.as_user())
    assert [(item.file, item.row, item.reason) for item in page.items] == [("b.mp4", 0, "CLIP_TRUNCATED")]
    grant = mesh.tokens.machine(Caller.ATTEMPT, "job_1", dataset=dataset.id, model="mdl_x")
    snapshot = snap.StreamDatasetSnapshotRequest(dataset_id=dataset.id)
    pieces = await collected(mesh.snapshots.StreamDatasetSnapshot(snapshot, metadata=grant))
    assert (pieces[-1].end.clips, pieces[-1].end.samples) == (1, 1)


async def test_what_is_uploaded_anew_leaves_quarantine(mesh: CatalogMesh) -> None:
    dataset = await broken(mesh)
    ready = await quarantine(mesh, dataset.id)
    mended = await new_version(mesh, ready.id)
    await mesh.put(mended.id, "b.mp4", h264_clip(5))
    found = await mesh.validated(mended.id)
    assert found.state == READY
    assert (found.counts.rows, found.counts.quarantined_rows, found.counts.quarantined_clips) == (3, 2, 0)


async def test_named_rows_are_left_out_whether_sound_or_not(mesh: CatalogMesh) -> None:
    dataset = await broken(mesh)
    still = await quarantine(mesh, dataset.id, ("annotations.csv", 1), ("annotations.csv", 4), ("annotations.csv", 4))
    assert (still.state, still.counts.quarantined_rows, still.counts.errors) == (ERROR, 2, 2)
    for place, field in ((("none.csv", 1), "items[0].file"), (("a.mp4", 0), "items[0].row")):
        refusal = await refused(quarantine(mesh, dataset.id, place))
        assert (refusal.reason, refusal.field_violations[0].field) == ("FIELD_INVALID", field)
    empty = await quarantine(mesh, dataset.id)
    assert empty.state == ERROR
    assert await mesh.issues(dataset.id) == [
        ("ROWS_ALL_QUARANTINED", "annotations.csv", 0),
        ("CLIP_UNUSED", "a.mp4", 0),
    ]
    assert (await refused(quarantine(mesh, dataset.id))).reason == "NOT_QUARANTINABLE"


async def test_text_files_and_their_clips_can_be_left_out(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    files = {
        "a.mp4": h264_clip(),
        "a.txt": b"A bar.",
        "b.mp4": h264_clip(1),
        "b.txt": b"  ",
        "c.mp4": truncated(),
        "c.txt": b"C",
    }
    await mesh.put_all(dataset.id, files)
    assert (await mesh.validated(dataset.id)).state == ERROR
    ready = await quarantine(mesh, dataset.id)
    assert ready.state == READY, await mesh.issues(dataset.id)
    assert (ready.counts.rows, ready.counts.quarantined_rows, ready.counts.quarantined_clips) == (1, 2, 1)


async def test_only_what_is_in_error_can_be_quarantined(mesh: CatalogMesh) -> None:
    ready = await mesh.ready_dataset({"annotations.csv": ROW, "a.mp4": h264_clip()})
    assert (await refused(quarantine(mesh, ready.id))).reason == "DATASET_STATE_CONFLICT"
    missing = await mesh.create_dataset("none")
    await mesh.put(missing.id, "a.mp4", h264_clip())
    assert (await mesh.validated(missing.id)).state == ERROR
    assert (await refused(quarantine(mesh, missing.id))).reason == "NOT_QUARANTINABLE"
    removal = us.DeleteFileRequest(parent_id=ready.id, path="a.mp4")
    assert "CreateDatasetVersion" in (await refused(mesh.uploads.DeleteFile(removal, metadata=mesh.as_user()))).message
