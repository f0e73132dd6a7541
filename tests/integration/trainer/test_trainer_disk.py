"""A trainer whose disk takes no more: typed and retryable, nothing half-written counts, and the trainer lives on.

A limit on the size of files stands for the disk without room: it needs no rights, and children inherit it.
"""

from __future__ import annotations

import resource

import psutil

from meshkit.testing import assert_eventually
from tests.integration.trainer.conftest import Bench
from tests.integration.trainer.test_trainer_attempt import reason
from tests.integration.trainer.test_trainer_rehearsals import failure, rehearsal, started
from tests.rpc.trainer.fixtures import StartTrainer, TrainerProcess
from tests.rpc.trainer.mesh_doubles import JOB
from tests.rpc.trainer.running_mesh import Mesh
from trainer_svc.usecases.run_attempt import run_attempt

ROOM = 300_000


async def cramped(mesh: Mesh, start_trainer: StartTrainer) -> TrainerProcess:
    """A trainer on whose disk no file larger than `ROOM` fits."""
    trainer = await started(start_trainer)
    await trainer.address()
    psutil.Process(trainer.process.pid).rlimit(psutil.RLIMIT_FSIZE, (ROOM, ROOM))
    return trainer


async def test_a_checkpoint_that_does_not_fit_is_a_warning(mesh: Mesh, start_trainer: StartTrainer) -> None:
    await cramped(mesh, start_trainer)
    mesh.scheduler.waiting.append(rehearsal(steps=4, checkpoint_every=2, checkpoint_bytes=2 * ROOM))

    await assert_eventually(lambda: mesh.scheduler.completed or mesh.scheduler.failed)

    assert not mesh.scheduler.failed
    assert not mesh.scheduler.committed
    lines = [report.log.text for report in mesh.scheduler.reports() if report.HasField("log")]
    assert any("no checkpoint of step 2" in line and "training goes on" in line for line in lines)


async def test_an_adapter_that_does_not_fit_ends_the_attempt_and_not_the_trainer(
    mesh: Mesh, start_trainer: StartTrainer
) -> None:
    trainer = await cramped(mesh, start_trainer)
    mesh.scheduler.waiting.append(rehearsal(steps=2, artifact_bytes=2 * ROOM))

    await assert_eventually(lambda: mesh.scheduler.failed)

    assert failure(mesh) == "STORAGE_UNAVAILABLE"
    assert "make room" in mesh.scheduler.failed[0].message
    assert not [path for method, path in mesh.store.requests if method == "PUT"], "nothing half-written was published"

    mesh.scheduler.waiting.append(rehearsal(steps=2))
    mesh.scheduler.waiting[-1].id = JOB[:-1] + "2"
    await assert_eventually(lambda: mesh.scheduler.completed)
    assert trainer.process.returncode is None


async def test_a_model_that_does_not_fit_ends_the_attempt_and_leaves_no_half_of_it(bench: Bench) -> None:
    bench.mesh.catalog.model["model.safetensors"] = b"w" * 6_000_000
    attempt = await bench.claim()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Of this process: what else it writes meanwhile is smaller.
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, before[1]))
    try:
        await run_attempt(attempt, bench.tools)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert reason(bench) == "STORAGE_UNAVAILABLE"
    assert "file too large" in bench.mesh.scheduler.failed[0].message.lower()
    assert not list((bench.folder / "cache").rglob("model.safetensors*"))
    assert not list((bench.folder / "cache").rglob(".*.part"))

    # With room again the same trainer takes the same job.
    assert await bench.run("normal") == "COMPLETED"
