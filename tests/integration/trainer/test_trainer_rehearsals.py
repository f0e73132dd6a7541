"""Rehearsals on a trainer: offered when it is told so, run through the whole attempt, and in no time."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from reeltune.scheduler.v1 import (
    attempt_service_pb2,
    recipe_pb2,
    rehearsal_pb2,
    training_job_pb2,
    training_parameters_pb2,
)

from meshkit.testing import assert_eventually
from tests.integration.trainer.conftest import Bench
from tests.rpc.trainer.fixtures import StartTrainer, TrainerProcess
from tests.rpc.trainer.mesh_doubles import JOB, job
from tests.rpc.trainer.running_mesh import Mesh
from trainer_svc.child.process import ChildProcess, spawn_child
from trainer_svc.domain.attempt import Recipe
from trainer_svc.domain.report_buffer import ReportBuffer
from trainer_svc.qlora.launch import child_environment
from trainer_svc.rehearsal.launch import rehearsal_command
from trainer_svc.settings import TrainerSettings
from trainer_svc.usecases.run_attempt import run_attempt


def rehearsal(*, steps: int = 3, checkpoint_every: int = 0, **own: object) -> training_job_pb2.TrainingJob:
    made = job()
    made.parameters.optimization.max_steps = steps
    made.parameters.checkpoint_every_steps = checkpoint_every
    made.parameters.rehearsal.CopyFrom(rehearsal_pb2.RehearsalParameters(**own))
    return made


def failure(mesh: Mesh) -> str:
    (failed,) = mesh.scheduler.failed
    return training_job_pb2.StateReason.Name(failed.reason).removeprefix("STATE_REASON_")


async def started(start_trainer: StartTrainer, **settings: str) -> TrainerProcess:
    return await start_trainer(recipes="rehearsal", **settings)


async def test_a_trainer_for_rehearsals_alone_is_there_at_once_and_says_what_it_is(
    mesh: Mesh, start_trainer: StartTrainer
) -> None:
    trainer = await started(start_trainer)
    await trainer.address()
    await assert_eventually(lambda: mesh.scheduler.registrations)

    (registered,) = mesh.scheduler.registrations
    assert list(registered.recipes) == [recipe_pb2.RECIPE_REHEARSAL]
    assert registered.device.device_count == 1
    assert registered.device.memory_bytes > 0
    assert not registered.device.can_train_4bit
    assert "not probed" in registered.device.four_bit_problem


async def test_a_rehearsal_goes_through_the_whole_attempt(mesh: Mesh, start_trainer: StartTrainer) -> None:
    # Long enough a step for a checkpoint to be published before the training is over.
    sizes = {"artifact_bytes": 100_000, "checkpoint_bytes": 1000}
    mesh.scheduler.waiting.append(rehearsal(steps=5, checkpoint_every=2, step_milliseconds=300, **sizes))
    await started(start_trainer)

    await assert_eventually(lambda: mesh.scheduler.completed)

    (completed,) = mesh.scheduler.completed
    assert {file.path: file.size_bytes > 100_000 for file in completed.files} == {
        "adapter_model.safetensors": True,
        "rehearsal.json": False,
    }
    reports = mesh.scheduler.reports()
    assert [report.WhichOneof("body") for report in reports].count("started") == 1
    assert [report.metrics.step for report in reports if "loss" in report.metrics.values] == [1, 2, 3, 4, 5]
    assert mesh.scheduler.committed


async def test_a_warm_trainer_needs_no_time_for_it(mesh: Mesh, start_trainer: StartTrainer) -> None:
    """Every wait in an attempt that is not for something would show here."""
    trainer = await started(start_trainer)
    seconds = [10.0]
    # About 0.2 s on an idle machine; a busy one needs more than one try.
    while min(seconds) >= 1 and len(seconds) < 30:
        mesh.scheduler.waiting.append(rehearsal(steps=1))
        mesh.scheduler.waiting[-1].id = f"{JOB[:-2]}{len(seconds):02}"
        await assert_eventually(lambda: len(trainer.events("attempt.ended")) == len(seconds))
        claimed, ended = (
            datetime.fromisoformat(trainer.events(event)[-1]["timestamp"]) for event in ("job.claimed", "attempt.ended")
        )
        seconds.append((ended - claimed).total_seconds())
    assert min(seconds) < 1, seconds


async def test_it_is_not_offered_unasked(bench: Bench) -> None:
    assert TrainerSettings.model_fields["recipes"].default == {Recipe.QLORA}

    assert await bench.run("normal", rehearsal=rehearsal_pb2.RehearsalParameters()) == "FAILED"

    assert failure(bench.mesh) == "DEVICE_UNFIT"
    assert "TRAINER_RECIPES" in bench.mesh.scheduler.failed[0].message
    assert not bench.children


async def test_a_drain_order_gives_the_job_back_at_a_checkpoint_and_the_trainer_stays(
    mesh: Mesh, start_trainer: StartTrainer
) -> None:
    mesh.scheduler.order = attempt_service_pb2.ORDER_DRAIN
    mesh.scheduler.waiting.append(rehearsal(steps=100_000, step_milliseconds=20))
    trainer = await started(start_trainer)
    await assert_eventually(lambda: any(report.metrics.step > 1 for report in mesh.scheduler.reports()))

    mesh.scheduler.orders.set()
    await assert_eventually(lambda: mesh.scheduler.failed)
    claims = mesh.scheduler.claims
    await assert_eventually(lambda: mesh.scheduler.claims > claims)

    assert failure(mesh) == "PREEMPTED"
    (checkpoint,) = mesh.scheduler.committed
    step = int(re.findall(r"after step (\d+)", mesh.scheduler.failed[0].message)[0])
    assert checkpoint.step == step
    assert trainer.process.returncode is None


async def test_while_the_scheduler_is_away_the_training_waits_rather_than_that_its_reports_are_lost(
    bench: Bench,
) -> None:
    async def launch(folder: Path) -> ChildProcess:
        return await spawn_child(
            lambda fd: rehearsal_command(folder, fd), folder=folder, environment=child_environment(1)
        )

    scheduler, steps, capacity = bench.mesh.scheduler, 2000, 100
    attempt = await bench.claim(
        optimization=training_parameters_pb2.OptimizationParameters(max_steps=steps),
        rehearsal=rehearsal_pb2.RehearsalParameters(),
    )
    attempt.reports = ReportBuffer(capacity=capacity)
    scheduler.is_away = True
    tools = replace(bench.tools, launch={Recipe.REHEARSAL: launch})
    running = asyncio.create_task(run_attempt(attempt, tools))

    await assert_eventually(lambda: attempt.reports.is_full)
    waits_at = attempt.progress.step
    # A child that is not listened to stops once the socket between the two is full: that is its own bound.
    assert waits_at < capacity
    scheduler.is_away = False

    assert await asyncio.wait_for(running, 60) == "COMPLETED"
    metrics = [report.metrics for report in scheduler.reports() if report.HasField("metrics")]
    assert [point.step for point in metrics if "loss" in point.values] == list(range(1, steps + 1))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("CRASH", "CRASHED"),
        ("EXIT", "CRASHED"),
        ("NONSENSE", "CRASHED"),
        ("SPIN", "STALLED"),
        ("HANG", "STALLED"),
        ("OUT_OF_MEMORY", "OUT_OF_MEMORY"),
        ("NON_FINITE_LOSS", "NON_FINITE_LOSS"),
        ("BAD_DATA", "BAD_DATA"),
    ],
)
async def test_what_goes_wrong_is_told_by_its_name(
    mesh: Mesh, start_trainer: StartTrainer, kind: str, reason: str
) -> None:
    wrong = rehearsal_pb2.Misbehavior(kind=f"MISBEHAVIOR_KIND_{kind}", at_step=2)
    mesh.scheduler.waiting.append(rehearsal(misbehaviors=[wrong]))
    await started(start_trainer, stall_seconds="1")

    await assert_eventually(lambda: mesh.scheduler.failed)

    assert failure(mesh) == reason
