"""Clips that stay in their owner's bucket: trained from, and refused once they are no longer what they were."""

from __future__ import annotations

import asyncio

import pytest
from reeltune.catalog.v1 import dataset_pb2, dataset_service_pb2
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

from reeltune_cli.client.watch import watch_dataset, watch_job
from tests.e2e.import_sources import BUCKET, ImportSources
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.test_ways_of_import import imported, storage_location
from tests.e2e.trained_job import JOB_SECONDS, TrainedJob, get_job, submit
from tests.e2e.training_material import first_clips, parameters
from tests.rpc.catalog.clips import h264_clip


async def test_objects_are_trained_from_until_they_change_or_go(
    stack: RunningMesh, sources: ImportSources, trained: TrainedJob, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = first_clips(trained.material, tmp_path_factory.mktemp("referred") / "set")
    keys = {f"referred/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()}
    for key, path in keys.items():
        await sources.bucket.put_bytes(key, path.read_bytes())
    owner = trained.owner.user
    source = {
        "uri": f"s3://{BUCKET}/referred/",
        "storageLocationId": await storage_location(stack, owner, sources),
        "mode": "IMPORT_MODE_REFERENCE",
    }
    dataset_id, _ = await imported(stack, owner, "datasets", {"bucket": source})
    assert await validated(trained, dataset_id) == dataset_pb2.DATASET_STATE_READY

    first = await run(trained, dataset_id)
    assert first.state == job_pb2.JOB_STATE_COMPLETED, first.message

    clip = next(key for key in keys if key.endswith(".mp4"))
    whole = keys[clip].read_bytes()
    for change in ("another clip", "no clip"):
        if change == "another clip":
            await sources.bucket.put_bytes(clip, h264_clip(7))
        else:
            await sources.bucket.remove(clip)
        broken = await run(trained, dataset_id)
        assert (broken.state, broken.reason) == (job_pb2.JOB_STATE_FAILED, job_pb2.STATE_REASON_BAD_DATA), change
        assert "REFERENCE_BROKEN" in broken.message
        assert clip in broken.message
        assert "put the former one back" in broken.message
        assert broken.attempt == 1, "nothing that a second trainer could do better"
        await sources.bucket.put_bytes(clip, whole)
    again = await run(trained, dataset_id)
    assert again.state == job_pb2.JOB_STATE_COMPLETED, again.message


async def validated(trained: TrainedJob, dataset_id: str) -> dataset_pb2.DatasetState.ValueType:
    client = trained.owner.client
    await client.datasets.ValidateDataset(dataset_service_pb2.ValidateDatasetRequest(dataset_id=dataset_id))
    async with asyncio.timeout(240):
        last = [dataset async for dataset in watch_dataset(client, dataset_id)][-1]
    return last.state


async def run(trained: TrainedJob, dataset_id: str) -> job_pb2.TrainingJob:
    """One job of two steps, to its end."""
    client = trained.owner.client
    job = await submit(client, trained.model.id, dataset_id, parameters(2))
    async with asyncio.timeout(JOB_SECONDS):
        async for _ in watch_job(client, job.id):
            pass
    return await get_job(client, job.id)
