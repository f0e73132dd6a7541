"""`orchestration`: speed of a job through Envoy, scheduler and worker, against the same training child run bare.

Samples per second from the first optimizer step to the end: for a job until its owner is told COMPLETED, so that
heartbeats, every step's report, checkpoints and the publishing of the adapter are in it; for the bare process until its
adapter is written. Same model, clips, steps and checkpoints; the two run in turn, and the ratio is the median of the
pairs. The whole mesh runs on the machine that trains.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from reeltune.scheduler.v1 import training_job_pb2 as job_pb2
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb2
from reeltune.scheduler.v1 import training_service_pb2

from benchmarks.mesh_material import bench_mesh
from benchmarks.report import Result, print_result
from reeltune_cli.client.connection import Client
from reeltune_cli.client.watch import watch_job

PAIRS = 3
CLIPS = 48
STEPS = 150
BATCH_SIZE = 4
CHECKPOINT_STEPS = 50
GOAL = 0.97


async def main() -> None:
    with TemporaryDirectory() as folder:
        work = Path(folder)
        async with bench_mesh(work, clips=CLIPS) as mesh:
            ids = mesh.model_id, mesh.dataset_id
            await job_seconds(mesh.client, *ids, steps=3)  # fills the trainer's caches
            pairs = [
                (
                    await job_seconds(mesh.client, *ids),
                    await bare_seconds(work / "model", work / "dataset", work / f"out{number}"),
                )
                for number in range(PAIRS)
            ]
    ratios = [bare / ours for ours, bare in pairs]
    samples = (STEPS - 1) * BATCH_SIZE
    print_result(
        Result(
            name="orchestration",
            ratio=statistics.median(ratios),
            goal=GOAL,
            higher_is_better=True,
            figures={
                "job_samples_per_second": samples / statistics.median(ours for ours, _ in pairs),
                "bare_samples_per_second": samples / statistics.median(bare for _, bare in pairs),
                "job_seconds": statistics.median(ours for ours, _ in pairs),
                "bare_seconds": statistics.median(bare for _, bare in pairs),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            },
        )
    )


async def job_seconds(client: Client, model_id: str, dataset_id: str, steps: int = STEPS) -> float:
    """Runs one job to its end; seconds from its first step to COMPLETED, as its owner sees them."""
    request = training_service_pb2.CreateTrainingJobRequest(
        model_id=model_id,
        dataset_id=dataset_id,
        parameters=parameters_pb2.TrainingParameters(
            optimization=parameters_pb2.OptimizationParameters(
                max_steps=steps, batch_size=BATCH_SIZE, gradient_accumulation_steps=1, gradient_checkpointing=False
            ),
            checkpoint_every_steps=CHECKPOINT_STEPS,
        ),
    )
    job = (await client.training.CreateTrainingJob(request)).job
    state, began, ended = job.state, 0.0, 0.0
    async for message in watch_job(client, job.id):
        if message.HasField("event") and message.event.HasField("state_change"):
            state = message.event.state_change.to
            if state == job_pb2.JOB_STATE_RUNNING:
                began = time.perf_counter()
            ended = time.perf_counter()
    if state != job_pb2.JOB_STATE_COMPLETED:
        sys.exit(f"the job ended as {job_pb2.JobState.Name(state)}")
    return ended - began


async def bare_seconds(model: Path, dataset: Path, out: Path) -> float:
    """Seconds from the first step of the bare training process to its adapter."""
    settings = {
        "optimization.max_steps": STEPS,
        "optimization.batch_size": BATCH_SIZE,
        "optimization.gradient_accumulation_steps": 1,
        "optimization.gradient_checkpointing": "false",
        "optimization.seed": 0,
        "checkpoint_every_steps": CHECKPOINT_STEPS,
    }
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trainer_svc.qlora"),
        *("--model", str(model), "--dataset", str(dataset), "--out", str(out), *overrides),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    began, ended = 0.0, 0.0
    async for line in process.stdout:
        if line.startswith(b"step 1 "):
            began = time.perf_counter()
        elif line.startswith(b"completed"):
            ended = time.perf_counter()
    if await process.wait() or not ended:
        sys.exit("the bare training failed")
    return ended - began


if __name__ == "__main__":
    asyncio.run(main())
