"""What can befall a trainer, and what a job can do to it: frozen, cut off, sent away, drained, ignored, killed."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import pytest
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb2
from reeltune.scheduler.v1 import worker_service_pb2

from auth_svc.store.user_store import UserStore
from meshkit.postgres import open_pool
from meshkit.testing import assert_eventually
from reeltune_cli.client import Client
from tests.e2e.running_mesh import PASSWORD
from tests.e2e.training_material import Material
from tests.faults.fault_mesh import STOP_GRACE_SECONDS, FaultMesh, Shape, Trainer, running_fault_mesh
from tests.faults.mesh_user import Ended, MeshUser, rehearsal, signed_up

ENDLESS = 1_000_000
EXIT_SECONDS = 60
ZOMBIE_SECONDS = 30
"""How long a trainer may take to give up an attempt that it has lost."""
PATIENCE = {
    "SCHEDULER_LEASE_SECONDS": "15",
    "SCHEDULER_HEARTBEAT_SECONDS": "2.5",
    "TRAINER_HEARTBEAT_SECONDS": "2.5",
    "TRAINER_STALL_SECONDS": "600",
}
"""Half as long as in earnest."""
PARTITION_SECONDS = 7.5


async def running_on(mesh: FaultMesh, user: MeshUser, job_id: str, *, attempt: int = 1, step: int = 1) -> Trainer:
    """The trainer of an attempt, once that has made so many steps."""

    async def trainer() -> Trainer | None:
        job = await user.get(job_id)
        if job.attempt != attempt or job.progress.step < step:
            return None
        return next(each for each in mesh.trainers if worker_id(each) == job.worker_id)

    return await assert_eventually(trainer)


def worker_id(trainer: Trainer) -> str:
    registered = trainer.events("worker.registered")
    return str(registered[-1]["worker_id"]) if registered else ""


def training_child(mesh: FaultMesh, trainer: Trainer) -> psutil.Process:
    """The training process that a trainer has recorded."""
    (record,) = Path(mesh.home).glob(f"**/{trainer.name}/data/jobs/*/child.json")
    return psutil.Process(json.loads(record.read_text())["pid"])


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def sent_away(trainer: Trainer) -> None:
    """Sends SIGTERM and waits until the process is gone; its successor may be there in the same moment."""
    pid = trainer.pid
    assert pid is not None
    trainer.signal(signal.SIGTERM)
    await assert_eventually(lambda: trainer.pid != pid, timeout=EXIT_SECONDS)


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


@pytest.mark.parametrize("kind", ["IGNORE_ORDERS", "SPIN"])
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
    # The grace, the restart of both schedulers on a busy machine, and the lease for which they then take no job.
    assert time.monotonic() - stopped < STOP_GRACE_SECONDS + 30
    await assert_eventually(lambda: is_gone(child), timeout=ZOMBIE_SECONDS)


async def test_a_trainer_sent_away_in_the_middle_of_a_step_redoes_one_step_at_most(
    mesh: FaultMesh, user: MeshUser
) -> None:
    job = await user.create(rehearsal(40, 200, checkpoint_every_steps=0))
    trainer = await running_on(mesh, user, job.id, step=4)

    await sent_away(trainer)
    ended = await user.ended(job.id)

    assert (ended.state, ended.life.attempts, ended.life.requeue_reasons) == ("COMPLETED", (1, 2), ("PREEMPTED",))
    last, first = max(steps_of(ended, 1)), min(steps_of(ended, 2))
    assert last <= first <= last + 1
    assert sorted({*steps_of(ended, 1), *steps_of(ended, 2)}) == list(range(1, 41))


async def test_a_trainer_sent_away_goes_although_its_training_ignores_everything(
    mesh: FaultMesh, user: MeshUser
) -> None:
    job = await user.create(rehearsal(30, 200, ("IGNORE_ORDERS", 3, 1), checkpoint_every_steps=2))
    trainer = await running_on(mesh, user, job.id, step=4)
    child = training_child(mesh, trainer)

    await sent_away(trainer)
    assert is_gone(child)
    ended = await user.ended(job.id)

    assert (ended.state, ended.life.attempts, ended.life.requeue_reasons) == ("COMPLETED", (1, 2), ("PREEMPTED",))
    assert min(steps_of(ended, 2)) > 1


async def test_a_drained_trainer_gives_its_job_back_and_stays_without_one(mesh: FaultMesh, user: MeshUser) -> None:
    job = await user.create(rehearsal(40, 100, checkpoint_every_steps=0))
    trainer = await running_on(mesh, user, job.id, step=3)
    starts = trainer.starts
    async with Client(mesh.endpoint) as admin:
        await become_admin(mesh, admin)
        await admin.workers.DrainWorker(worker_service_pb2.DrainWorkerRequest(worker_id=worker_id(trainer)))
        ended = await user.ended(job.id)
        others = await user.all_ended([(await user.create()).id for _ in range(3)])
        await admin.workers.ResumeWorker(worker_service_pb2.ResumeWorkerRequest(worker_id=worker_id(trainer)))

    assert (ended.state, ended.life.attempts, ended.life.requeue_reasons) == ("COMPLETED", (1, 2), ("PREEMPTED",))
    assert min(steps_of(ended, 2)) == max(steps_of(ended, 1)) + 1
    assert worker_id(trainer) not in {each.job.worker_id for each in (ended, *others)}
    assert trainer.starts == starts
    # Back in service it takes jobs again.
    jobs = [(await user.create(rehearsal(3, 100))).id for _ in range(4)]
    assert worker_id(trainer) in {each.job.worker_id for each in await user.all_ended(jobs)}


async def test_a_job_that_kills_its_trainers_is_quarantined_and_its_neighbours_live(
    mesh: FaultMesh, user: MeshUser
) -> None:
    deaths = len(mesh.deaths)
    poison = await user.create(rehearsal(6, 20, ("KILL_WORKER", 2, 3), checkpoint_every_steps=0))
    neighbours = [(await user.create(rehearsal(5, 200))).id for _ in range(6)]

    ended = await user.ended(poison.id)
    assert (ended.state, ended.reason, ended.life.attempts) == ("FAILED", "QUARANTINED", (1, 2, 3))
    assert ended.life.requeue_reasons == ("LEASE_LOST", "LEASE_LOST")
    assert {each.state for each in await user.all_ended(neighbours)} == {"COMPLETED"}
    await assert_eventually(lambda: len(mesh.deaths) == deaths + 3)


async def test_half_a_lease_without_a_network_costs_no_attempt(
    tmp_path_factory: pytest.TempPathFactory, material: Material
) -> None:
    """Half of it without anything that passes upwards, downwards, or at all."""
    shape = Shape(schedulers=1, trainers=3, settings=PATIENCE)
    async with (
        running_fault_mesh(tmp_path_factory.mktemp("partition"), shape) as mesh,
        signed_up(mesh, material) as user,
    ):
        jobs = [(await user.create(long_enough())).id for _ in mesh.trainers]
        trainers = [await running_on(mesh, user, job_id) for job_id in jobs]
        for trainer, ways in zip(trainers, ({"down": False}, {"up": False}, {}), strict=True):
            trainer.link.partition(**ways)
        began = time.monotonic()
        await assert_eventually(lambda: time.monotonic() - began > PARTITION_SECONDS, timeout=PARTITION_SECONDS + 5)
        for trainer in trainers:
            trainer.link.heal()
        ended = await user.all_ended(jobs)

    assert {(each.state, each.life.attempts) for each in ended} == {("COMPLETED", (1,))}
    # What was told meanwhile was kept, and is there once.
    assert all(steps_of(each, 1) == list(range(1, STEPS + 1)) for each in ended)


STEPS = 80


def long_enough() -> parameters_pb2.TrainingParameters:
    return rehearsal(STEPS, 130, checkpoint_every_steps=20)


async def become_admin(mesh: FaultMesh, client: Client) -> None:
    """Signs a new user up, as an admin."""
    username = f"admin-{time.time_ns()}"
    await client.session.sign_up(username, f"{username}@example.com", PASSWORD)
    pool = await open_pool(mesh.postgres.service_dsn("auth"), "auth", max_size=1)
    try:
        await UserStore(pool).grant_admin(username)
    finally:
        await pool.close()
    await client.session.log_in(username, PASSWORD)
