"""Names, request ids, etags, lists, watches: what datasets and models have in common."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from reeltune.catalog.v1 import dataset_pb2, visibility_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import model_service_pb2 as ms

from meshkit.testing import assert_eventually
from tests.rpc.catalog.catalog_mesh import ALICE, BOB, CatalogMesh, collected, refused
from tests.rpc.catalog.clips import h264_clip


async def update(mesh: CatalogMesh, dataset: dataset_pb2.Dataset, *paths: str) -> dataset_pb2.Dataset:
    request = ds.UpdateDatasetRequest(dataset=dataset, update_mask=FieldMask(paths=paths))
    return (await mesh.datasets.UpdateDataset(request, metadata=mesh.as_user())).dataset


async def test_names_are_unique_per_owner_and_kind(mesh: CatalogMesh) -> None:
    await mesh.create_dataset("clips")
    taken = await refused(mesh.create_dataset("clips"))
    assert (taken.code, taken.reason, taken.metadata["name"]) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "DATASET_EXISTS",
        "clips",
    )
    await mesh.create_dataset("clips", user=BOB)
    await mesh.create_model("clips")
    assert (await refused(mesh.create_model("clips"))).reason == "MODEL_EXISTS"


@pytest.mark.parametrize(
    "name", [" ", " a", "a ", "a\nb", "a\0b", "a\x9b31m", "a\u202e4pm", "a\u2067b", "\u200b", "\u200d\u200c"]
)
async def test_names_that_cannot_be_kept_are_refused(mesh: CatalogMesh, name: str) -> None:
    failure = await refused(mesh.create_dataset(name))
    assert (failure.reason, failure.field_violations[0].field) == ("FIELD_INVALID", "name")


async def test_names_of_every_script_are_kept(mesh: CatalogMesh) -> None:
    for name in ("کتاب\u200cخانه", "映像　その１", '👩\u200d🎓 100% "x"_', "O'Brien; --"):
        assert (await mesh.create_dataset(name)).name == name


async def test_a_repeated_create_gets_the_first_answer(mesh: CatalogMesh) -> None:
    request_id = str(uuid.uuid4())
    answers = await asyncio.gather(*(mesh.create_dataset("clips", request_id=request_id) for _ in range(20)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    first = answers[0]
    await update(mesh, dataset_pb2.Dataset(id=first.id, name="renamed"))
    await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=first.id), metadata=mesh.as_user())
    assert await mesh.create_dataset("clips", request_id=request_id) == first
    reused = await refused(mesh.create_dataset("other", request_id=request_id))
    assert (reused.code, reused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert (await refused(mesh.create_model("clips", request_id=request_id))).reason == "REQUEST_ID_REUSED"
    assert (await mesh.create_dataset("clips", user=BOB, request_id=request_id)).id != first.id


async def test_a_failed_create_does_not_use_up_its_request_id(mesh: CatalogMesh) -> None:
    existing = await mesh.create_dataset("clips")
    request_id = str(uuid.uuid4())
    assert (await refused(mesh.create_dataset("clips", request_id=request_id))).reason == "DATASET_EXISTS"
    await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=existing.id), metadata=mesh.as_user())
    assert (await mesh.create_dataset("clips", request_id=request_id)).name == "clips"


async def test_updates_take_what_the_mask_names_and_honour_the_etag(mesh: CatalogMesh) -> None:
    first = await mesh.create_dataset("clips", description="old")
    changed = await update(mesh, dataset_pb2.Dataset(id=first.id, name="new", description="new"), "description")
    assert (changed.name, changed.description) == ("clips", "new")
    assert changed.etag != first.etag
    cleared = await update(mesh, dataset_pb2.Dataset(id=first.id), "description")
    assert cleared.description == ""
    by_fields = await update(mesh, dataset_pb2.Dataset(id=first.id, name="new", etag=cleared.etag))
    assert by_fields.name == "new"
    stale = await refused(update(mesh, dataset_pb2.Dataset(id=first.id, name="newer", etag=cleared.etag)))
    assert (stale.code, stale.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    unknown = await refused(update(mesh, dataset_pb2.Dataset(id=first.id), "state"))
    assert unknown.field_violations[0].field == "update_mask"
    await mesh.create_dataset("taken")
    assert (await refused(update(mesh, dataset_pb2.Dataset(id=first.id, name="taken")))).reason == "DATASET_EXISTS"
    blank = await refused(update(mesh, dataset_pb2.Dataset(id=first.id), "name"))
    assert blank.field_violations[0].field == "dataset.name"


async def list_page(mesh: CatalogMesh, user: str = ALICE, **fields: object) -> ds.ListDatasetsResponse:
    return await mesh.datasets.ListDatasets(ds.ListDatasetsRequest(**fields), metadata=mesh.as_user(user))


async def test_pages_are_complete_and_stable_while_others_insert_and_delete(mesh: CatalogMesh) -> None:
    names = [f"set {number:02}" for number in range(23)]
    created = [await mesh.create_dataset(name) for name in names]
    shared = await mesh.create_dataset("of bob", user=BOB, visibility=visibility_pb2.VISIBILITY_SHARED)
    await mesh.create_dataset("private of bob", user=BOB)
    seen, token, round_number = [], "", 0
    while True:
        page = await list_page(mesh, page_size=5, page_token=token)
        seen += [dataset.id for dataset in page.datasets]
        token, round_number = page.next_page_token, round_number + 1
        await mesh.create_dataset(f"inserted {round_number}")
        if round_number == 2:
            gone = ds.DeleteDatasetRequest(dataset_id=created[-1].id)
            await mesh.datasets.DeleteDataset(gone, metadata=mesh.as_user())
        if not token:
            break
    assert seen == [shared.id, *(dataset.id for dataset in reversed(created))]


async def test_a_page_ends_before_it_is_too_large_for_a_message(mesh: CatalogMesh) -> None:
    created = [await mesh.create_dataset(f"set {number:03}", description="é" * 2000) for number in range(3)]
    await mesh.pool.execute("UPDATE entries SET description = repeat('x', 1500000)")
    seen, token = [], ""
    while True:
        page = await list_page(mesh, page_size=1000, page_token=token)
        seen += [dataset.id for dataset in page.datasets]
        token = page.next_page_token
        if not token:
            break
        assert len(page.datasets) == 1
    assert seen == [dataset.id for dataset in reversed(created)]


async def test_page_tokens_belong_to_their_caller_kind_and_filter(mesh: CatalogMesh) -> None:
    for number in range(3):
        await mesh.create_dataset(f"set {number}")
    token = (await list_page(mesh, page_size=1)).next_page_token
    assert token
    other = "A" if token[-2] != "A" else "B"
    for call in (
        list_page(mesh, BOB, page_token=token),
        list_page(mesh, page_token=token, filter="state = READY"),
        list_page(mesh, page_token=token[:-2] + other + token[-1]),
        list_page(mesh, page_token="nonsense"),
        mesh.models.ListModels(ms.ListModelsRequest(page_token=token), metadata=mesh.as_user()),
    ):
        assert (await refused(call)).reason == "PAGE_TOKEN_INVALID"
    assert (await refused(list_page(mesh, page_size=-1))).reason == "FIELD_INVALID"
    assert len((await list_page(mesh, page_size=100_000)).datasets) == 3


async def test_filters_choose_what_they_say(mesh: CatalogMesh) -> None:
    await mesh.create_dataset("Moving bars")
    await mesh.create_dataset("100% still")
    await mesh.create_dataset("moving circles", user=BOB, visibility=visibility_pb2.VISIBILITY_SHARED)

    async def names(text: str) -> list[str]:
        return sorted(dataset.name for dataset in (await list_page(mesh, filter=text)).datasets)

    assert await names('name : "MOVING"') == ["Moving bars", "moving circles"]
    assert await names('name : "%"') == ["100% still"]
    assert await names('name = "moving bars"') == ["Moving bars"]
    assert await names('name != "moving bars" AND owner_id = "usr_alice"') == ["100% still"]
    assert await names("visibility = SHARED") == ["moving circles"]
    assert await names(f'owner_id != "{ALICE}"') == ["moving circles"]
    assert await names("state = PENDING AND state != PENDING") == []
    assert await names("state != READY AND visibility != SHARED") == ["100% still", "Moving bars"]
    for bad in ("colour = red", "state = GREEN", "name", "name : x OR name : y"):
        assert (await refused(list_page(mesh, filter=bad))).reason == "FILTER_INVALID"


async def test_a_watch_ends_when_the_dataset_is_deleted(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    watch = mesh.datasets.WatchDataset(
        ds.WatchDatasetRequest(dataset_id=dataset.id), metadata=mesh.as_user(), timeout=60
    )
    assert (await watch.read()).dataset == dataset
    await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=dataset.id), metadata=mesh.as_user())
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await watch.read()
    assert ended.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watch_shows_every_state_and_ends_at_the_end(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.put_all(dataset.id, {"annotations.csv": b"video,caption\na.mp4,A bar.\n", "a.mp4": h264_clip()})
    request = ds.WatchDatasetRequest(dataset_id=dataset.id)
    watch = mesh.datasets.WatchDataset(request, metadata=mesh.as_user(), timeout=30)
    reading = asyncio.create_task(collected(watch))

    async def is_watched() -> bool:
        return bool(mesh.stores.changes._waiting)

    await assert_eventually(is_watched)
    await mesh.datasets.ValidateDataset(ds.ValidateDatasetRequest(dataset_id=dataset.id), metadata=mesh.as_user())
    states = [message.dataset.state for message in await reading]
    assert states[0] == dataset_pb2.DATASET_STATE_PENDING
    assert states[-1] == dataset_pb2.DATASET_STATE_READY
    assert states == sorted(states)
    assert len(await collected(mesh.datasets.WatchDataset(request, metadata=mesh.as_user(), timeout=60))) == 1


async def test_a_second_validation_is_refused_while_one_runs_or_all_is_well(mesh: CatalogMesh) -> None:
    ready = await mesh.ready_dataset({"annotations.csv": b"video,caption\na.mp4,A bar.\n", "a.mp4": h264_clip()})
    failure = await refused(
        mesh.datasets.ValidateDataset(ds.ValidateDatasetRequest(dataset_id=ready.id), metadata=mesh.as_user())
    )
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DATASET_STATE_CONFLICT")
    assert failure.metadata == {"state": "READY", "allowed": "ERROR,PENDING"}
