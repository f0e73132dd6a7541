"""kill -9 of everything that a running job depends on, once each: the job still completes, on one effective attempt."""

from __future__ import annotations

import json
import os
import signal
import time

import psutil
import pytest
from reeltune.scheduler.v1 import job_event_pb2
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

from meshkit.testing import assert_eventually
from tests.e2e.running_mesh import RunningMesh
from tests.faults.conftest import LEASE_SECONDS, Workplace
from tests.faults.lifecycle_model import Life, check_life
from tests.faults.watched_job import STEPS, WatchedJob, watched_job

# Real trainings, twice for some, and the mesh's start: minutes on a machine that is busy.
pytestmark = pytest.mark.timeout(1200)

UNDISTURBED = ("QUEUED", "STARTING", "RUNNING", "COMPLETED")
TWICE = ("QUEUED", "STARTING", "RUNNING", "QUEUED", "STARTING", "RUNNING", "COMPLETED")
BACK_SECONDS = 60


async def test_the_training_process(workplace: Workplace) -> None:
    async with watched_job(workplace) as job:
        await job.until_checkpointed()
        kill(training_process(workplace.mesh, job.id))

        life = await assert_completed(workplace, job)

        assert life.states == TWICE
        assert life.requeue_reasons == ("CRASHED",)
        assert_went_on_from_a_checkpoint(job.events)


async def test_the_trainer(workplace: Workplace) -> None:
    mesh = workplace.mesh
    async with watched_job(workplace) as job:
        await job.until_checkpointed()
        orphan = training_process(mesh, job.id)
        began = time.monotonic()
        await assert_comes_back(mesh, "trainer")

        await assert_eventually(lambda: not orphan.is_running())
        life = await assert_completed(workplace, job)

        assert life.states == TWICE
        assert life.requeue_reasons == ("LEASE_LOST",)
        assert time.monotonic() - began > LEASE_SECONDS / 2, "nobody steals a lease that still runs"
        assert_went_on_from_a_checkpoint(job.events)


async def test_the_scheduler(workplace: Workplace) -> None:
    async with watched_job(workplace) as job:
        await job.until_checkpointed()
        await assert_comes_back(workplace.mesh, "scheduler")

        life = await assert_completed(workplace, job)

        assert life.states == UNDISTURBED
        assert steps_of(job.events) == list(range(1, STEPS + 1)), "no report was lost or told twice"


async def test_nats(workplace: Workplace) -> None:
    async with watched_job(workplace) as job:
        await job.until_checkpointed()
        kill(workplace.mesh.listener("nats"))
        # The next job's wake-up is published into a broker that is not there.
        async with watched_job(workplace, steps=4) as another:
            life = await assert_completed(workplace, job)
            next_life = await assert_completed(workplace, another)

    assert life.states == next_life.states == UNDISTURBED
    assert steps_of(job.events) == list(range(1, STEPS + 1))
    await assert_eventually(lambda: was_told(workplace.mesh, "nats"), timeout=BACK_SECONDS)


async def assert_completed(workplace: Workplace, job: WatchedJob) -> Life:
    """Waits for the job's end; its history is a possible one, was watched whole, and one attempt alone counts."""
    ended = await job.until_ended()
    events = await job.history()
    life = check_life(events)
    artifact = (await workplace.client.training.GetArtifact(history.GetArtifactRequest(job_id=job.id))).artifact

    assert ended.state == job_pb2.JOB_STATE_COMPLETED, ended
    assert job.events == events, "the watch told every event once and in order"
    assert ended.progress.step == ended.progress.total_steps
    assert artifact.attempt == ended.attempt == life.attempts[-1] == len(life.attempts)
    return life


def assert_went_on_from_a_checkpoint(events: list[job_event_pb2.JobEvent]) -> None:
    first, second = (
        [event for event in events if event.attempt == attempt and event.WhichOneof("event") != "state_change"]
        for attempt in (1, 2)
    )
    published = [event.checkpoint.step for event in first if event.HasField("checkpoint")]
    resumed = steps_of(second)

    assert resumed[0] - 1 in published, f"attempt 2 began with step {resumed[0]}; checkpoints: {published}"
    assert resumed == list(range(resumed[0], STEPS + 1))
    # What attempt 1 told is whole, too, and leaves no step untold between the two.
    assert steps_of(first) == list(range(1, len(steps_of(first)) + 1))
    assert len(steps_of(first)) >= resumed[0] - 1


def steps_of(events: list[job_event_pb2.JobEvent]) -> list[int]:
    """The steps of the training metrics, as told."""
    return [event.metrics.step for event in events if event.HasField("metrics") and "loss" in event.metrics.values]


def training_process(mesh: RunningMesh, job_id: str) -> psutil.Process:
    """The child that trains the job, by the trainer's own log."""
    lines = [json.loads(line) for line in mesh.log("trainer").splitlines() if line.startswith("{")]
    started = [line["pid"] for line in lines if line.get("event") == "child.started" and line["job_id"] == job_id]
    return psutil.Process(started[-1])


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


async def assert_comes_back(mesh: RunningMesh, name: str) -> None:
    """Kills a process of the mesh; `reeltune up` tells of it and starts another."""
    victim = mesh.listener(name)
    kill(victim)
    await assert_eventually(lambda: was_told(mesh, name), timeout=BACK_SECONDS)
    assert mesh.listener(name).pid != victim.pid


def was_told(mesh: RunningMesh, name: str) -> bool:
    told = [line for line in mesh.output.splitlines() if f"  {name} " in line]
    return "ready" in told[-1] and any("died" in line and "killed by SIGKILL" in line for line in told)
