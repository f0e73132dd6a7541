"""Deleting and bringing back: hidden at once, refused while a live job uses it, gone for good only after its time."""

from __future__ import annotations

import grpc
import pytest
import pytest_asyncio
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_pb2, visibility_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import model_service_pb2 as ms
from reeltune.catalog.v1 import snapshot_service_pb2 as snap

from meshkit.auth.principal import Caller
from meshkit.ids import new_id
from meshkit.testing import assert_eventually
from meshkit.testing.plugin import Serve
from tests.rpc.catalog.catalog_mesh import ALICE, BOB, CatalogMesh, Start, model_files, refused
from tests.rpc.catalog.clips import h264_clip
from tests.rpc.catalog.small_scheduler import SmallScheduler

FILES = {"annotations.csv": b"video,caption\na.mp4,A bar.\n", "a.mp4": h264_clip()}
DAY = "interval '1 day'"


@pytest.fixture
def scheduler() -> SmallScheduler:
    return SmallScheduler()


@pytest_asyncio.fixture(loop_scope="session")
async def mesh(start: Start, serve: Serve, scheduler: SmallScheduler) -> CatalogMesh:
    """A catalog that keeps what is deleted for 7 days."""
    served = await serve(scheduler.registrations)
    return await start(scheduler=served.address, undelete_days=7)


async def delete(mesh: CatalogMesh, entry_id: str, user: str = ALICE) -> None:
    if entry_id.startswith("ds_"):
        await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=entry_id), metadata=mesh.as_user(user))
    else:
        await mesh.models.DeleteModel(ms.DeleteModelRequest(model_id=entry_id), metadata=mesh.as_user(user))


async def undelete(mesh: CatalogMesh, dataset_id: str, user: str = ALICE) -> dataset_pb2.Dataset:
    request = content.UndeleteDatasetRequest(dataset_id=dataset_id)
    return (await mesh.datasets.UndeleteDataset(request, metadata=mesh.as_user(user))).dataset


async def listed(mesh: CatalogMesh, user: str = ALICE, **fields: object) -> list[str]:
    response = await mesh.datasets.ListDatasets(ds.ListDatasetsRequest(**fields), metadata=mesh.as_user(user))
    return [dataset.id for dataset in response.datasets]


async def nothing_is_stored(mesh: CatalogMesh) -> bool:
    return not await mesh.blobs.list() and not await mesh.pool.fetchval("SELECT count(*) FROM entries")


async def test_what_is_deleted_is_hidden_and_can_be_brought_back(mesh: CatalogMesh) -> None:
    ready = await mesh.ready_dataset(FILES, visibility=visibility_pb2.VISIBILITY_SHARED)
    await delete(mesh, ready.id)
    get = ds.GetDatasetRequest(dataset_id=ready.id)
    for user in (ALICE, BOB):
        gone = await refused(mesh.datasets.GetDataset(get, metadata=mesh.as_user(user)))
        assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "DATASET_NOT_FOUND")
    assert (await refused(delete(mesh, ready.id))).reason == "DATASET_NOT_FOUND"
    assert await listed(mesh) == []
    assert await listed(mesh, show_deleted=True) == [ready.id]
    assert await listed(mesh, BOB, show_deleted=True) == []
    assert (await refused(undelete(mesh, ready.id, BOB))).code is grpc.StatusCode.NOT_FOUND
    back = await undelete(mesh, ready.id)
    assert (back.state, back.fingerprint, back.HasField("delete_time")) == (ready.state, ready.fingerprint, False)
    assert await undelete(mesh, ready.id) == back, "once more changes nothing"
    assert await listed(mesh, BOB) == [ready.id]


async def test_attempts_read_what_was_deleted_under_them(mesh: CatalogMesh) -> None:
    ready = await mesh.ready_dataset(FILES)
    await delete(mesh, ready.id)
    grant = mesh.tokens.machine(Caller.ATTEMPT, "job_1", dataset=ready.id, model="mdl_x")
    request = snap.GetClipsRequest(dataset_id=ready.id, paths=["a.mp4"])
    (clip,) = (await mesh.snapshots.GetClips(request, metadata=grant)).clips
    assert (await mesh.http.get(clip.url)).content == FILES["a.mp4"]


async def test_after_seven_days_it_is_gone_with_its_bytes(mesh: CatalogMesh) -> None:
    ready, model = await mesh.ready_dataset(FILES), await mesh.create_model()
    await mesh.put_all(model.id, model_files())
    await mesh.open_upload(model.id, "extra.json", b"never sent")
    await delete(mesh, ready.id)
    await delete(mesh, model.id)
    await mesh.pool.execute(f"UPDATE entries SET delete_time = delete_time - 6 * {DAY}")
    await undelete(mesh, ready.id)
    await delete(mesh, ready.id)
    await mesh.pool.execute(f"UPDATE entries SET delete_time = now() - 7 * {DAY} - interval '1 second'")
    assert (await refused(undelete(mesh, ready.id))).reason == "DATASET_NOT_FOUND"
    await assert_eventually(lambda: nothing_is_stored(mesh))
    # What the address of the open upload may still write counts until it has ended.
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")

    async def nothing_counts() -> bool:
        usage = await mesh.pool.fetchrow("SELECT stored_bytes, stored_objects, pending_bytes FROM storage_usage")
        return tuple(usage or ()) == (0, 0, 0)

    await assert_eventually(nothing_counts)


async def test_a_name_is_free_after_deletion_and_must_be_free_to_come_back(mesh: CatalogMesh) -> None:
    first = await mesh.create_dataset("clips")
    await delete(mesh, first.id)
    second = await mesh.create_dataset("clips")
    taken = await refused(undelete(mesh, first.id))
    assert (taken.reason, taken.metadata["name"]) == ("DATASET_EXISTS", "clips")
    await delete(mesh, second.id)
    assert (await undelete(mesh, first.id)).name == "clips"


async def test_a_validation_that_deletion_cut_ends_after_coming_back(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.put_all(dataset.id, FILES)
    await mesh.datasets.ValidateDataset(ds.ValidateDatasetRequest(dataset_id=dataset.id), metadata=mesh.as_user())
    await delete(mesh, dataset.id)
    await undelete(mesh, dataset.id)

    async def is_ready() -> bool:
        request = ds.GetDatasetRequest(dataset_id=dataset.id)
        found = (await mesh.datasets.GetDataset(request, metadata=mesh.as_user())).dataset
        return bool(found.state == dataset_pb2.DATASET_STATE_READY)

    await assert_eventually(is_ready)


async def test_what_a_live_job_uses_is_not_deleted(mesh: CatalogMesh, scheduler: SmallScheduler) -> None:
    dataset, model = await mesh.create_dataset(), await mesh.create_model()
    scheduler.job_ids = [new_id("job") for _ in range(7)]
    for entry_id in (dataset.id, model.id):
        refusal = await refused(delete(mesh, entry_id))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "IN_USE")
        assert refusal.metadata["jobs"].split(",") == scheduler.job_ids[:5]
    scheduler.job_ids, scheduler.others = [], 2
    refusal = await refused(delete(mesh, dataset.id))
    assert (refusal.reason, refusal.metadata) == ("IN_USE", {"jobs": "", "jobs_of_others": "2"})
    assert (await refused(delete(mesh, dataset.id, BOB))).reason == "DATASET_NOT_FOUND", "whether it is used or not"
    scheduler.others, scheduler.is_away = 0, True
    unknown = await refused(delete(mesh, dataset.id))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    scheduler.is_away = False
    await delete(mesh, dataset.id)
    await delete(mesh, model.id)
    request = ms.UndeleteModelRequest(model_id=model.id)
    assert (await mesh.models.UndeleteModel(request, metadata=mesh.as_user())).model.id == model.id
