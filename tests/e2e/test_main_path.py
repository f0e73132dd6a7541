"""The main job through gRPC at the edge: clips and a model up, a real NF4 job watched, its adapter down and at work."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from pathlib import Path

import grpc
import pytest
from reeltune.scheduler.v1 import artifact_pb2
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2
from reeltune.trainer.v1 import inference_service_pb2 as inference_pb2

from reeltune_cli.client.download import download_artifact, stream_artifact
from reeltune_cli.client.watch import watch_job
from reeltune_cli.demo.evaluation import ask, normalised
from tests.e2e.trained_job import ADAPTER_FILES, STEPS, TrainedJob, folder_digests, get_job


async def test_the_job_lived_as_the_contract_says(trained: TrainedJob) -> None:
    first, *rest = trained.watched
    events = [message.event for message in rest if message.HasField("event")]
    changes = [event.state_change for event in events if event.HasField("state_change")]

    assert trained.created.state == job_pb2.JOB_STATE_QUEUED
    assert first.HasField("snapshot")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [change.to for change in changes] == [
        job_pb2.JOB_STATE_QUEUED,
        job_pb2.JOB_STATE_STARTING,
        job_pb2.JOB_STATE_RUNNING,
        job_pb2.JOB_STATE_COMPLETED,
    ]
    points = [event.metrics for event in events if event.HasField("metrics") and "loss" in event.metrics.values]
    assert [point.step for point in points] == list(range(1, STEPS + 1))
    assert all(math.isfinite(point.values["loss"]) for point in points)
    assert points[-1].values["loss"] < points[0].values["loss"], "it learns"
    assert any(event.HasField("checkpoint") for event in events)


async def test_the_finished_job_tells_every_value_in_force(trained: TrainedJob) -> None:
    job = await get_job(trained.owner.client, trained.id)

    assert (job.state, job.attempt, job.has_artifact) == (job_pb2.JOB_STATE_COMPLETED, 1, True)
    assert (job.progress.step, job.progress.total_steps, job.progress.fraction) == (STEPS, STEPS, 1.0)
    assert job.worker_id
    assert job.create_time.ToDatetime() < job.start_time.ToDatetime() <= job.end_time.ToDatetime()
    assert job.parameters.lora.rank == 8
    assert job.parameters.quantization.double_quantization, "a default that nobody set"


async def test_the_history_is_kept_and_a_watch_goes_on_where_it_broke(trained: TrainedJob) -> None:
    client = trained.owner.client
    watched = [message.event for message in trained.watched if message.HasField("event")]
    listed: list[object] = []
    request = history.ListEventsRequest(job_id=trained.id, page_size=4)
    while True:
        page = await client.training.ListEvents(request)
        listed += page.events
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    resumed = [m.event async for m in watch_job(client, trained.id, after_sequence=5) if m.HasField("event")]
    metrics = await client.training.ListMetrics(history.ListMetricsRequest(job_id=trained.id))

    assert listed == watched
    assert resumed == watched[5:]
    assert [point for point in watched if point.HasField("metrics")] == list(metrics.points)


async def test_a_watch_from_the_future_is_refused(trained: TrainedJob) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in watch_job(trained.owner.client, trained.id, after_sequence=10_000):
            pass

    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_the_adapter_is_the_same_by_url_and_by_stream(trained: TrainedJob, tmp_path: Path) -> None:
    client = trained.owner.client

    by_url = await download_artifact(client, trained.id, tmp_path / "url")
    by_stream = await stream_artifact(client, trained.id, tmp_path / "stream")

    digests = {file.path: file.sha256 for file in by_url.files}
    assert set(digests) >= ADAPTER_FILES
    assert folder_digests(tmp_path / "url") == folder_digests(tmp_path / "stream") == digests
    assert by_url.digest == by_stream.digest
    assert (by_url.attempt, by_url.size_bytes) == (1, sum(file.size_bytes for file in by_url.files))
    assert not any(file.url for file in by_stream.files)
    assert not pickled(by_url)


async def test_plain_peft_gives_the_answers_that_the_mesh_gives(trained: TrainedJob, tmp_path: Path) -> None:
    client, material = trained.owner.client, trained.material
    await download_artifact(client, trained.id, tmp_path / "adapter")
    rows = material.rows[:4]

    answers = [
        await ask(
            client, trained.id, material.dataset / row["video"], row["question"], inference_pb2.RESPONDER_BOTH, 16
        )
        for row in rows
    ]
    questions = [{"clip": str(material.dataset / row["video"]), "question": row["question"]} for row in rows]
    plain = await reload_with_plain_peft(material.model, tmp_path, questions)

    tuned = [normalised(each[inference_pb2.RESPONDER_TUNED]) for each in answers]
    assert tuned == [normalised(text) for text in plain]
    assert all(tuned), "an adapter that answers nothing would agree with anything"
    assert all(each[inference_pb2.RESPONDER_BASE] != each[inference_pb2.RESPONDER_TUNED] for each in answers)


async def test_a_clip_of_the_dataset_can_be_asked_about_by_its_path(trained: TrainedJob) -> None:
    row = trained.material.rows[0]
    request = inference_pb2.GenerateRequest(
        job_id=trained.id,
        dataset_clip=inference_pb2.DatasetClip(dataset_id=trained.dataset.id, path=row["video"]),
        prompt=row["question"],
        max_new_tokens=16,
    )

    pieces = [piece async for piece in trained.owner.client.inference.Generate(request, timeout=60)]

    assert pieces[-1].HasField("end")
    assert "".join(piece.text for piece in pieces) == pieces[-1].end.text
    assert pieces[-1].end.prompt_tokens > 20, "the clip's frames are part of the question"


def pickled(artifact: artifact_pb2.Artifact) -> list[str]:
    return [file.path for file in artifact.files if Path(file.path).suffix in (".bin", ".pt", ".pkl", ".pth")]


async def reload_with_plain_peft(model: Path, folder: Path, questions: list[dict[str, str]]) -> list[str]:
    asked = folder / "questions.json"
    asked.write_text(json.dumps(questions))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trainer_svc.qlora.plain_reload", "--model", str(model)),
        *("--adapter", str(folder / "adapter"), "--questions", str(asked), "--frames", "4"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, complained.decode()
    answers: list[str] = json.loads(said)
    return answers
