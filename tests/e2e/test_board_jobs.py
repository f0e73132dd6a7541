"""A trainer that stands for a small board of two devices, in the mesh: what fits trains on both, and what does not is
refused before it begins."""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from reeltune.catalog.v1 import dataset_pb2
from reeltune.scheduler.v1 import estimate_service_pb2 as estimates
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1 import worker_pb2
from safetensors.torch import load_file

from meshkit.testing import assert_eventually
from reeltune_cli.client.download import download_artifact
from reeltune_cli.client.errors import describe_rpc_error
from reeltune_cli.client.watch import watch_job
from tests.e2e.running_mesh import RunningMesh, environment
from tests.e2e.trained_job import ADAPTER_FILES, JOB_SECONDS, TrainedJob, get_job
from tests.e2e.training_material import parameters, register_dataset

JETSON = worker_pb2.DEVICE_CLASS_JETSON
NAME = "nano"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def board(stack: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    """A trainer of the profile `jetson-nano-emulated`, whose two devices are processes on the CPU."""
    home = tmp_path_factory.mktemp("board")
    user = await stack.sign_up()
    targets = [f"--{name}=127.0.0.1:{stack.port(name)}" for name in ("scheduler", "catalog", "auth")]
    secret = json.loads((stack.data / "secrets.json").read_text())["join_secret"]
    with (home / "trainer.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "reeltune_cli", "trainer", *targets, "--name", NAME, "--device", "cpu"),
                *("--ca", str(stack.ca), "--profile", "jetson-nano-emulated"),
            ],
            env={**environment(home), "REELTUNE_JOIN_SECRET": secret, "TRAINER_DEVICES": "2"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    async def is_listed() -> bool:
        assert process.poll() is None, (home / "trainer.log").read_text()
        answer = await stack.http.get("/v1/workers", headers=user.headers)
        return NAME in [worker["name"] for worker in answer.json()["workers"]]

    try:
        await assert_eventually(is_listed, timeout=120)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, 60)


async def test_a_job_of_two_devices_trains_on_both_and_its_adapter_is_taken(
    board: None, trained: TrainedJob, tmp_path: Path
) -> None:
    client = trained.owner.client
    request = pb.CreateTrainingJobRequest(
        model_id=trained.model.id,
        dataset_id=trained.dataset.id,
        parameters=parameters(3),
        device_class=JETSON,
        device_count=2,
    )
    created = (await client.training.CreateTrainingJob(request)).job
    async with asyncio.timeout(JOB_SECONDS):
        async for _ in watch_job(client, created.id):
            pass
    job = await get_job(client, created.id)
    assert job.state == job_pb2.JOB_STATE_COMPLETED, job.message
    assert (job.progress.step, job.device_count, job.attempt) == (3, 2, 1)
    logs = await client.training.ListLogs(history.ListLogsRequest(job_id=job.id))
    assert any("on 2 x CPU" in line.log.text for line in logs.lines), [line.log.text for line in logs.lines]
    await download_artifact(client, job.id, tmp_path / "adapter")
    assert {file.name for file in (tmp_path / "adapter").iterdir()} >= ADAPTER_FILES
    learned = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(bool(value.any()) for name, value in learned.items() if "lora_B" in name)


async def test_a_job_too_large_for_the_board_is_refused_by_the_estimate(
    board: None, trained: TrainedJob, tmp_path: Path
) -> None:
    """One row says so much that attention over it alone is more than 4 GiB."""
    client = trained.owner.client
    dataset = await register_dataset(client, _wordy(trained, tmp_path / "wordy"), "wordy")
    assert dataset.state == dataset_pb2.DATASET_STATE_READY, dataset
    asked = estimates.EstimateTrainingJobRequest(
        model_id=trained.model.id, dataset_id=dataset.id, parameters=parameters(3), device_class=JETSON
    )
    (told,) = (await client.estimates.EstimateTrainingJob(asked, timeout=60)).devices
    assert (list(told.trainers), told.fit) == ([NAME], estimates.FIT_EXCEEDS)
    assert told.least_bytes > told.memory_bytes > 0

    request = pb.CreateTrainingJobRequest(
        model_id=trained.model.id, dataset_id=dataset.id, parameters=parameters(3), device_class=JETSON
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.training.CreateTrainingJob(request, timeout=60)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert describe_rpc_error(refused.value).reason == "JOB_TOO_LARGE"
    listed = await client.training.ListTrainingJobs(pb.ListTrainingJobsRequest(page_size=100))
    assert dataset.id not in {job.dataset_id for job in listed.jobs}


def _wordy(trained: TrainedJob, folder: Path) -> Path:
    clip = trained.material.clips[0]
    (folder / "clips").mkdir(parents=True)
    shutil.copy(clip, folder / "clips" / clip.name)
    with (folder / "annotations.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "question", "answer"))
        writer.writerow((f"clips/{clip.name}", "What is it? " * 10_000, "red"))
    return folder
