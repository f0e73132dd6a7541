"""`first_step`: from `CreateTrainingJob` to the first optimizer step on a warm trainer, against the same training bare.

Ours goes through the edge, scheduler, claim, materialisation of model and clips (cached, as on any trainer that has
had the data once) and the training child. The baseline is `python -m trainer_svc.qlora` on the same folders, from the
start of its process to its first step: what no orchestration can go below. Parts are taken from the job's own events.
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
BATCH_SIZE = 4
GOAL = 1.25
Seconds = dict[str, float]


async def main() -> None:
    with TemporaryDirectory() as folder:
        work = Path(folder)
        async with bench_mesh(work, clips=CLIPS) as mesh:
            ids = mesh.model_id, mesh.dataset_id
            await job_seconds(mesh.client, *ids)  # warms the trainer's caches
            pairs = [
                (
                    await job_seconds(mesh.client, *ids),
                    await bare_seconds(work / "model", work / "dataset", work / f"out{number}"),
                )
                for number in range(PAIRS)
            ]
    ratios = [ours["first_step"] / bare for ours, bare in pairs]
    parts = {f"{name}_seconds": statistics.median(ours[name] for ours, _ in pairs) for name in pairs[0][0]}
    print_result(
        Result(
            name="first_step",
            ratio=statistics.median(ratios),
            goal=GOAL,
            higher_is_better=False,
            figures=parts
            | {
                "bare_first_step_seconds": statistics.median(bare for _, bare in pairs),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            },
        )
    )


async def job_seconds(client: Client, model_id: str, dataset_id: str) -> Seconds:
    """Runs one job to its end; seconds from the call to: its answer, the claim, each phase, the first step."""
    request = training_service_pb2.CreateTrainingJobRequest(
        model_id=model_id,
        dataset_id=dataset_id,
        parameters=parameters_pb2.TrainingParameters(
            optimization=parameters_pb2.OptimizationParameters(
                max_steps=3, batch_size=BATCH_SIZE, gradient_accumulation_steps=1, gradient_checkpointing=False
            )
        ),
    )
    began = time.perf_counter()
    job = (await client.training.CreateTrainingJob(request)).job
    seconds = {"accepted": time.perf_counter() - began}
    state = job.state
    async for message in watch_job(client, job.id):
        now = time.perf_counter() - began
        if not message.HasField("event"):
            continue
        event = message.event
        if event.HasField("state_change"):
            state = event.state_change.to
            if state == job_pb2.JOB_STATE_STARTING:
                seconds["claimed"] = now
            elif state == job_pb2.JOB_STATE_RUNNING:
                seconds["first_step"] = now
        elif event.HasField("progress") and event.progress.phase and "first_step" not in seconds:
            seconds.setdefault(f"phase_{event.progress.phase.replace(' ', '_')}", now)
    if state != job_pb2.JOB_STATE_COMPLETED:
        sys.exit(f"the job ended as {job_pb2.JobState.Name(state)}")
    return seconds


async def bare_seconds(model: Path, dataset: Path, out: Path) -> float:
    """Seconds from the start of the bare training process to its first step."""
    settings = {
        "optimization.max_steps": "3",
        "optimization.batch_size": str(BATCH_SIZE),
        "optimization.gradient_accumulation_steps": "1",
        "optimization.gradient_checkpointing": "false",
    }
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trainer_svc.qlora"),
        *("--model", str(model), "--dataset", str(dataset), "--out", str(out), *overrides),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    first_step: float | None = None
    async for line in process.stdout:
        if first_step is None and line.startswith(b"step 1 "):
            first_step = time.perf_counter() - began
    if await process.wait() or first_step is None:
        sys.exit("the bare training failed")
    return first_step


if __name__ == "__main__":
    asyncio.run(main())
