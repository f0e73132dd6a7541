"""Real jobs one after the other through a trainer that keeps its training process."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from reeltune.scheduler.v1 import training_job_pb2, training_parameters_pb2

from meshkit.testing import assert_eventually
from tests.rpc.trainer.fixtures import StartTrainer
from tests.rpc.trainer.mesh_doubles import JOB, Catalog, FileStore, job
from tests.rpc.trainer.running_mesh import Mesh
from tests.rpc.trainer.tiny_catalog import tiny_catalog

OTHER_OWNER = "usr_01J00000000000000000000002"


@pytest.fixture
def catalog(store: FileStore, tmp_path: Path) -> Catalog:
    return tiny_catalog(store, tmp_path)


def small(owner: str = "") -> training_job_pb2.TrainingJob:
    submitted = job(
        lora=training_parameters_pb2.LoraParameters(rank=4),
        sampling=training_parameters_pb2.SamplingParameters(max_frames=2),
        optimization=training_parameters_pb2.OptimizationParameters(max_steps=2, gradient_checkpointing=False),
    )
    submitted.owner_id = owner or submitted.owner_id
    return submitted


async def test_the_process_of_a_completed_job_trains_its_owners_next_and_nobody_elses(
    mesh: Mesh, start_trainer: StartTrainer, tmp_path: Path
) -> None:
    scheduler = mesh.scheduler
    trainer = await start_trainer(warm_idle_seconds="120")
    adapters: list[bytes] = []

    async def run(submitted: training_job_pb2.TrainingJob) -> int:
        """The process that trained it."""
        scheduler.received.clear()
        done = len(scheduler.completed)
        scheduler.waiting.append(submitted)
        await assert_eventually(lambda: len(scheduler.completed) > done or scheduler.failed, timeout=120)
        assert not scheduler.failed, scheduler.failed
        adapters.append(mesh.store.files[f"jobs/{JOB}/adapter_model.safetensors"])
        return int(trainer.events("child.started")[-1]["pid"])

    first = await run(small())
    assert await run(small()) == first
    assert adapters[0] == adapters[1]
    assert [event["pid"] for event in trainer.events("child.warm")] == [first]

    # Another owner's job never meets a process that has read this one's files.
    second = await run(small(OTHER_OWNER))
    assert second != first
    assert not psutil.pid_exists(first)
    assert adapters[2] == adapters[0]

    # A job that is stopped takes its process along.
    await assert_eventually(lambda: not scheduler.waiting)
    endless = small(OTHER_OWNER)
    endless.parameters.optimization.max_steps = 100_000
    scheduler.received.clear()
    scheduler.waiting.append(endless)
    await assert_eventually(lambda: scheduler.received.get(JOB) and trainer.events("child.warm")[1:])
    scheduler.orders.set()
    await assert_eventually(lambda: len(scheduler.completed) == 4)
    await assert_eventually(lambda: not psutil.pid_exists(second))
    await assert_eventually(lambda: not list((tmp_path / "data" / "warm").iterdir()))


async def test_a_process_that_nobody_needs_gives_its_memory_back(
    mesh: Mesh, start_trainer: StartTrainer, tmp_path: Path
) -> None:
    mesh.scheduler.waiting.append(small())
    trainer = await start_trainer(warm_idle_seconds="0.5")
    await assert_eventually(lambda: mesh.scheduler.completed or mesh.scheduler.failed, timeout=120)
    assert not mesh.scheduler.failed
    await assert_eventually(lambda: trainer.events("child.warm_ended"))
    assert not psutil.pid_exists(trainer.events("child.started")[0]["pid"])
    assert not list((tmp_path / "data" / "warm").iterdir())
