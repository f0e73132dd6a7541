"""`resume_time`: from the claim of a job whose training process was killed to its first new step, late against early.

A real job; its training process is killed by SIGKILL soon after an early checkpoint, and again after one that is many
epochs later, over all of the data many times. Both times the scheduler hands the job out again; counted is from that
claim to the first step that was not made before. A trainer that read its way to where it was would take longer the
later it was killed: the ratio is of the two, each the median of the jobs.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from reeltune.scheduler.v1 import training_job_pb2 as job_pb2
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb2
from reeltune.scheduler.v1 import training_service_pb2

from benchmarks.mesh_material import BenchMesh, bench_mesh
from benchmarks.report import Result, print_result
from reeltune_cli.client.watch import watch_job

JOBS = 3
CLIPS = 24
BATCH_SIZE = 4
EARLY_STEP, LATE_STEP = 6, 200
CHECKPOINT_STEPS = 2
GOAL = 1.15


async def main() -> None:
    with TemporaryDirectory() as folder:
        async with bench_mesh(Path(folder), clips=CLIPS) as mesh:
            jobs = [await resume_seconds(mesh) for _ in range(JOBS)]
    early, late = (statistics.median(times) for times in zip(*jobs, strict=True))
    print_result(
        Result(
            name="resume_time",
            ratio=late / early,
            goal=GOAL,
            higher_is_better=False,
            figures={
                "early_step": float(EARLY_STEP),
                "late_step": float(LATE_STEP),
                "early_seconds": early,
                "late_seconds": late,
                "lowest_ratio": min(second / first for first, second in jobs),
                "highest_ratio": max(second / first for first, second in jobs),
            },
        )
    )


async def resume_seconds(mesh: BenchMesh) -> tuple[float, float]:
    """Kills one job's training process early and late; the seconds from each claim that follows to a new step."""
    request = training_service_pb2.CreateTrainingJobRequest(
        model_id=mesh.model_id,
        dataset_id=mesh.dataset_id,
        parameters=parameters_pb2.TrainingParameters(
            optimization=parameters_pb2.OptimizationParameters(
                max_steps=100_000, batch_size=BATCH_SIZE, gradient_checkpointing=False
            ),
            checkpoint_every_steps=CHECKPOINT_STEPS,
        ),
    )
    job = (await mesh.client.training.CreateTrainingJob(request)).job
    kills, seconds = [EARLY_STEP, LATE_STEP], []
    claimed: float | None = None
    done = 0
    async for message in watch_job(mesh.client, job.id):
        if not message.HasField("event"):
            continue
        event = message.event
        if event.HasField("state_change"):
            if event.state_change.to == job_pb2.JOB_STATE_STARTING and done:
                claimed = time.perf_counter()
            elif event.state_change.to in (job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_STOPPED):
                break
        elif event.HasField("progress"):
            step = event.progress.step
            if claimed is not None and step > done:
                seconds.append(time.perf_counter() - claimed)
                claimed = None
                if not kills:
                    await mesh.client.training.StopTrainingJob(
                        training_service_pb2.StopTrainingJobRequest(job_id=job.id)
                    )
            elif claimed is None and kills and step >= kills[0]:
                kills.pop(0)
                done = step
                kill_training(mesh)
    if len(seconds) != 2:
        sys.exit(f"the job was resumed {len(seconds)} times")
    return seconds[0], seconds[1]


def kill_training(mesh: BenchMesh) -> None:
    """Kills the process that trains, as the kernel does when memory runs out."""
    records = [*mesh.home.glob("**/warm/*/child.json"), *mesh.home.glob("**/jobs/*/child.json")]
    newest = max(records, key=lambda record: record.stat().st_mtime)
    os.kill(int(json.loads(newest.read_text())["pid"]), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main())
