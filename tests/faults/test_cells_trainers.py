"""What can befall a trainer, and what a job can do to it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import pytest

from meshkit.testing import assert_eventually
from tests.faults.fault_mesh import STOP_GRACE_SECONDS, FaultMesh, Trainer
from tests.faults.mesh_user import Ended, MeshUser, rehearsal

ENDLESS = 1_000_000
ZOMBIE_SECONDS = 10
"""How long a trainer may take to give up an attempt that it has lost."""


async def running_on(mesh: FaultMesh, user: MeshUser, job_id: str, *, attempt: int = 1, step: int = 1) -> Trainer:
    """The trainer of an attempt, once that has made so many steps."""

    async def trainer() -> Trainer | None:
        job = await user.get(job_id)
        if job.attempt != attempt or job.progress.step < step:
            return None
        return next(each for each in mesh.trainers if worker_id(each) == job.worker_id)

    return await assert_eventually(trainer, timeout=60)


def worker_id(trainer: Trainer) -> str:
    registered = trainer.events("worker.registered")
    return str(registered[-1]["worker_id"]) if registered else ""


def training_child(mesh: FaultMesh, trainer: Trainer) -> psutil.Process:
    """The training process that a trainer has recorded."""
    (record,) = Path(mesh.home).glob(f"**/{trainer.name}/data/jobs/*/child.json")
    return psutil.Process(json.loads(record.read_text())["pid"])


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def steps_of(ended: Ended, attempt: int) -> list[int]:
    """The steps that an attempt told of, each of which has its metrics."""
    return [
        event.metrics.step
        for event in ended.events
        if event.attempt == attempt and event.WhichOneof("event") == "metrics" and "loss" in event.metrics.values
    ]


async def test_a_frozen_trainer_that_thaws_lets_go_of_the_job_it_lost(mesh: FaultMesh, user: MeshUser) -> None:
    job = await user.create(rehearsal(80, 100, checkpoint_every_steps=5))
    frozen = await running_on(mesh, user, job.id, step=6)
    child = training_child(mesh, frozen)
    fenced_before = len(frozen.events("attempt.fenced"))

    frozen.freeze()
    successor = await running_on(mesh, user, job.id, attempt=2)
    frozen.thaw()
    thawed = time.monotonic()

    await assert_eventually(lambda: len(frozen.events("attempt.fenced")) > fenced_before, timeout=ZOMBIE_SECONDS)
    await assert_eventually(lambda: is_gone(child), timeout=ZOMBIE_SECONDS - (time.monotonic() - thawed))
    ended = await user.ended(job.id)
    assert successor is not frozen
    assert (ended.state, ended.life.attempts, ended.life.requeue_reasons) == ("COMPLETED", (1, 2), ("LEASE_LOST",))
    assert not frozen.events("attempt.ended") or frozen.events("attempt.ended")[-1]["job_id"] != job.id


async def test_a_training_that_spins_in_native_code_is_killed_and_tried_again(mesh: FaultMesh, user: MeshUser) -> None:
    deaths = len(mesh.deaths)
    job = await user.create(rehearsal(6, 20, ("SPIN", 3, 1)))

    ended = await user.ended(job.id)

    assert (ended.state, ended.life.attempts, ended.life.requeue_reasons) == ("COMPLETED", (1, 2), ("STALLED",))
    assert len(mesh.deaths) == deaths


@pytest.mark.parametrize("kind", ["IGNORE_ORDERS"])
async def test_a_stop_takes_effect_although_the_training_ignores_it_and_the_schedulers_restart(
    mesh: FaultMesh, user: MeshUser, kind: str
) -> None:
    job = await user.create(rehearsal(ENDLESS, 20, (kind, 3)))
    trainer = await running_on(mesh, user, job.id, step=3)
    child = training_child(mesh, trainer)

    stopped = time.monotonic()
    await user.stop(job.id)
    for scheduler in mesh.schedulers:
        scheduler.signal(signal.SIGKILL)
    ended = await user.ended(job.id)

    assert (ended.state, ended.life.attempts) == ("STOPPED", (1,))
    # The grace, the restart of both schedulers on a busy machine, and what a sweep takes.
    assert time.monotonic() - stopped < STOP_GRACE_SECONDS + 12
    await assert_eventually(lambda: is_gone(child), timeout=ZOMBIE_SECONDS)
