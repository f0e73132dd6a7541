"""Validations that fail by an error of our own: tried again some times, then ended with an issue."""

from __future__ import annotations

import hashlib
import uuid
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import structlog
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_pb2, model_pb2

from catalog_svc.domain.clip import ClipFault, FaultyClip
from catalog_svc.domain.entry import EntryId, EntryKind
from catalog_svc.domain.unforeseen import MAX_FAILURES, pause_after
from catalog_svc.store.validation_store import ClaimedValidation, ValidationStore
from catalog_svc.usecases import leased_worker
from catalog_svc.usecases.validate_dataset import ValidateDataset
from catalog_svc.usecases.validate_model import ValidateModel
from meshkit.testing import assert_eventually
from tests.rpc.catalog.catalog_mesh import ALICE, CatalogMesh, Start, model_files
from tests.rpc.catalog.clips import h264_clip


async def test_an_error_of_our_own_ends_a_dataset_after_some_tries_and_it_can_be_validated_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await start(validation_pause_seconds=0.01)
    dataset = await mesh.create_dataset()
    await mesh.put_all(dataset.id, {"a.mp4": h264_clip(), "annotations.csv": b"video,caption\na.mp4,A bar.\n"})
    tries = []

    async def spoiled(*_: object) -> None:
        tries.append(1)
        raise KeyError("a bug of ours")

    monkeypatch.setattr(ValidateDataset, "_plan", spoiled)
    failed = await mesh.validated(dataset.id)
    request = content.ListDatasetIssuesRequest(dataset_id=dataset.id)
    (issue,) = (await mesh.datasets.ListDatasetIssues(request, metadata=mesh.as_user())).issues
    monkeypatch.undo()
    again = await mesh.validated(dataset.id)

    assert (failed.state, failed.counts.errors) == (dataset_pb2.DATASET_STATE_ERROR, 1)
    assert (len(tries), issue.reason) == (MAX_FAILURES, "VALIDATION_FAILED")
    assert "validate again" in issue.remedy
    assert dataset.id in issue.remedy
    assert "bug of ours" not in str(issue), "the log is for the operator"
    assert again.state == dataset_pb2.DATASET_STATE_READY, await mesh.issues(dataset.id)


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_files_whose_bytes_are_lost_are_named_and_can_be_sent_again(
    mesh: CatalogMesh, *, is_damaged: bool
) -> None:
    files = {"a.mp4": h264_clip(), "b.mp4": h264_clip(1), "annotations.csv": b"video,caption\na.mp4,A.\nb.mp4,B.\n"}
    dataset = await mesh.create_dataset()
    await mesh.put_all(dataset.id, files)

    async def lose(path: str) -> None:
        key = f"contents/{ALICE}/{hashlib.sha256(files[path]).hexdigest()}"
        await (mesh.blobs.put_bytes(key, bytes(len(files[path]))) if is_damaged else mesh.blobs.remove(key))

    await lose("a.mp4")
    lost = await mesh.validated(dataset.id)
    assert lost.state == dataset_pb2.DATASET_STATE_ERROR
    assert await mesh.issues(dataset.id) == [("CLIP_CONTENT_LOST", "a.mp4", 1)]
    await lose("annotations.csv")
    await mesh.put(dataset.id, "a.mp4", files["a.mp4"])
    await mesh.validated(dataset.id)
    assert ("FILE_CONTENT_LOST", "annotations.csv", 0) in await mesh.issues(dataset.id)
    upload = await mesh.open_upload(dataset.id, "annotations.csv", files["annotations.csv"], accepts_headers=True)
    assert not upload.complete, "the bytes are asked for"
    await mesh.put_parts(upload, files["annotations.csv"])
    await mesh.complete(upload.id)
    ready = await mesh.validated(dataset.id)
    assert ready.state == dataset_pb2.DATASET_STATE_READY, await mesh.issues(dataset.id)


async def test_a_text_or_a_model_file_that_is_lost_is_named(mesh: CatalogMesh) -> None:
    texts = {"a.mp4": h264_clip(), "a.txt": b"A bar.", "b.mp4": h264_clip(1), "b.txt": b"Another."}
    dataset, model = await mesh.create_dataset(), await mesh.create_model()
    await mesh.put_all(dataset.id, texts)
    await mesh.put_all(model.id, model_files())
    for data in (texts["b.txt"], model_files()["model.safetensors"]):
        await mesh.blobs.remove(f"contents/{ALICE}/{hashlib.sha256(data).hexdigest()}")
    await mesh.validated(dataset.id)
    assert ("FILE_CONTENT_LOST", "b.txt", 0) in await mesh.issues(dataset.id)
    found = await mesh.validated_model(model.id)
    assert ("FILE_CONTENT_LOST", "model.safetensors") in [(each.reason, each.file) for each in found.issues]
    await mesh.put(model.id, "model.safetensors", model_files()["model.safetensors"])
    assert "FILE_CONTENT_LOST" not in [each.reason for each in (await mesh.validated_model(model.id)).issues]


async def test_an_error_of_our_own_ends_a_model_after_some_tries(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = await start(validation_pause_seconds=0.01)
    model = await mesh.create_model()
    await mesh.put_all(model.id, model_files())

    async def spoiled(*_: object) -> None:
        raise KeyError("a bug of ours")

    monkeypatch.setattr(ValidateModel, "check", spoiled)
    failed = await mesh.validated_model(model.id)
    assert failed.state == model_pb2.MODEL_STATE_ERROR
    assert [issue.reason for issue in failed.issues] == ["VALIDATION_FAILED"]


async def test_a_validation_that_kills_its_validators_is_not_taken_up_for_ever(start: Start) -> None:
    mesh = await waiting(await start(validation_lease_seconds=0.2))

    async def claimed() -> ClaimedValidation | None:
        """By a validator that dies at once: the lease is never given back."""
        return await mesh.stores.validations.claim(str(uuid.uuid4()))

    taken = [await assert_eventually(claimed) for _ in range(MAX_FAILURES + 1)]
    assert [found.failures for found in taken if found] == list(range(MAX_FAILURES + 1)), "the last one gives it up"


async def test_an_outage_of_the_database_counts_as_no_death(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = await start()
    dataset = await mesh.create_dataset()
    await mesh.put_all(dataset.id, {"a.mp4": h264_clip(), "annotations.csv": b"video,caption\na.mp4,A bar.\n"})
    plan, release = ValidateDataset._plan, ValidationStore.release
    outages, left = iter(range(MAX_FAILURES + 1)), 0

    async def cut_plan(*args: Any) -> Any:
        nonlocal left
        if next(outages, None) is not None:
            left = 2
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        return await plan(*args)

    async def cut_release(*args: Any, **options: Any) -> None:
        nonlocal left
        if left:
            left -= 1
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        await release(*args, **options)

    monkeypatch.setattr(ValidateDataset, "_plan", cut_plan)
    monkeypatch.setattr(ValidationStore, "release", cut_release)
    monkeypatch.setattr(leased_worker, "RETRY_SECONDS", 0.01)
    with structlog.testing.capture_logs() as logs:
        ready = await mesh.validated(dataset.id)
    assert ready.state == dataset_pb2.DATASET_STATE_READY, await mesh.issues(dataset.id)
    assert [log["failures"] for log in logs if log["event"] == "validation.claimed"] == [0] * (MAX_FAILURES + 2)


async def test_failures_count_from_the_last_clip_that_was_found(start: Start) -> None:
    mesh = await waiting(await start())

    async def failed(*, finds: str = "") -> int:
        """Fails once, after a clip was found, if one is named; returns the failures before."""
        token = str(uuid.uuid4())
        found = await mesh.stores.validations.claim(token)
        assert found is not None
        if finds:
            await mesh.stores.datasets.put_probes(found.entry.id, {finds: FaultyClip(ClipFault.EMPTY, "nothing")})
        await mesh.stores.validations.release(found.entry.id, token, timedelta(), is_failure=True)
        return found.failures

    assert [await failed(), await failed(), await failed(finds="a" * 64), await failed()] == [0, 1, 2, 1]


def test_pauses_grow_and_what_cannot_even_be_given_up_rests_too() -> None:
    pauses = [pause_after(failures) for failures in range(MAX_FAILURES + 2)]
    assert pauses[: MAX_FAILURES - 1] == [5, 10, 20, 40, 80]
    assert pauses[MAX_FAILURES - 1] == 0
    assert pauses[MAX_FAILURES:] == [300, 300]


async def waiting(mesh: CatalogMesh) -> CatalogMesh:
    """Returns a mesh with a dataset to be validated that no service works on any more."""
    dataset = await mesh.create_dataset()
    await mesh.services.aclose()
    await mesh.stores.entries.begin_validation(EntryKind.DATASET, EntryId(dataset.id), ALICE)
    return mesh
