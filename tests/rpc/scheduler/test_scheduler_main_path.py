"""A job from submission to adapter, as user and trainer see it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time

import httpx
from reeltune.scheduler.v1 import training_history_pb2, training_job_pb2

from meshkit.blob import BlobStore
from meshkit.jetstream import JetStream, NatsUnavailable, ensure_consumer, pull
from meshkit.testing import assert_eventually
from tests.rpc.scheduler.scheduler_mesh import Trainer, User, all_of, state_name

ADAPTER = {"adapter_model.safetensors": b"w" * 3_000_000, "adapter_config.json": b"{}", "empty.txt": b""}


async def test_a_job_runs_from_submission_to_download(user: User, trainer: Trainer, blob_store: BlobStore) -> None:
    job = await user.create(name="first")
    assert (state_name(job.state), job.attempt, job.sequence) == ("QUEUED", 0, 1)
    assert job.parameters.lora.rank == 16
    watch = asyncio.create_task(
        all_of(
            user.training.WatchTrainingJob(
                training_history_pb2.WatchTrainingJobRequest(job_id=job.id), metadata=user.metadata
            )
        )
    )

    attempt = await trainer.must_claim()
    assert (attempt.job_id, attempt.number) == (job.id, 1)
    async with attempt.attach() as stream:
        await stream.progress(0, phase="loading model")
        await stream.started(total_steps=2)
        await stream.metrics(1, loss=2.5)
        await stream.log("half way")
        last = await stream.progress(1, phase="training", total_steps=2, fraction=0.5)
        await stream.acked(last)
        assert await user.state(job.id) == "RUNNING"
        files = await attempt.put_files(ADAPTER)
        final = training_job_pb2.JobProgress(step=2, total_steps=2, fraction=1)
        assert await attempt.complete(files, progress=final) == "COMPLETED"
        assert await stream.ended() is None

    done = await user.get(job.id)
    assert (state_name(done.state), done.has_artifact, done.progress.step) == ("COMPLETED", True, 2)
    assert (job.dataset_version, done.dataset_version) == (3, 3), "as it was when the job was accepted"
    assert done.start_time.ToNanoseconds() <= done.end_time.ToNanoseconds()
    messages = await watch
    assert messages[0].snapshot.id == job.id
    events = [message.event for message in messages if message.HasField("event")]
    assert [event.sequence for event in events] == list(range(1, done.sequence + 1))
    changes = [state_name(event.state_change.to) for event in events if event.HasField("state_change")]
    assert changes == ["QUEUED", "STARTING", "RUNNING", "COMPLETED"]
    await _check_artifact(user, job.id)
    manifest = json.loads(await blob_store.get_bytes(f"jobs/{job.id}/attempts/1.manifest.json"))
    assert {file["path"] for file in manifest["files"]} == set(ADAPTER)


async def _check_artifact(user: User, job_id: str) -> None:
    request = training_history_pb2.GetArtifactRequest(job_id=job_id)
    artifact = (await user.training.GetArtifact(request, metadata=user.metadata)).artifact
    async with httpx.AsyncClient(trust_env=False) as client:
        fetched = {file.path: (await client.get(file.url)).content for file in artifact.files}
    assert fetched == ADAPTER
    assert (artifact.dataset_id, artifact.dataset_version) == ((await user.get(job_id)).dataset_id, 3)
    lines = "".join(f"{hashlib.sha256(ADAPTER[path]).hexdigest()}  {path}\n" for path in sorted(ADAPTER))
    assert artifact.digest == hashlib.sha256(lines.encode()).hexdigest()

    download = training_history_pb2.DownloadArtifactRequest(job_id=job_id)
    messages = await all_of(user.training.DownloadArtifact(download, metadata=user.metadata))
    assert messages[0].artifact.digest == messages[-1].end_digest == artifact.digest
    streamed: dict[str, bytes] = {}
    for message in messages[1:-1]:
        if message.HasField("file"):
            path = message.file.path
            streamed[path] = b""
        else:
            assert len(message.chunk) <= 1024 * 1024
            streamed[path] += message.chunk
    assert streamed == ADAPTER


async def test_a_waiting_trainer_has_a_new_job_at_once(user: User, trainer: Trainer, jetstream: JetStream) -> None:
    assert await trainer.claim() is None

    async def stream_is_there() -> bool:
        try:
            await ensure_consumer(jetstream, "JOBS", "trainers-any", "jobs.v1.any")
        except NatsUnavailable:
            return False
        return True

    await assert_eventually(stream_is_there)
    deliveries = pull(jetstream, "JOBS", "trainers-any")
    waiting = asyncio.ensure_future(anext(deliveries))
    seconds = []
    for _ in range(3):
        begin = time.monotonic()
        job = await user.create()
        delivery = await asyncio.wait_for(waiting, 60)
        attempt = await trainer.must_claim()
        seconds.append(time.monotonic() - begin)
        await delivery.ack()
        waiting = asyncio.ensure_future(anext(deliveries))
        assert (attempt.job_id, delivery.msg_id) == (job.id, f"{job.id}:1")
        assert json.loads(delivery.payload) == {"job_id": job.id, "generation": 1}
    assert min(seconds) < 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await deliveries.aclose()
