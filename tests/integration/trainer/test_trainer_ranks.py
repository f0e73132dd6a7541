"""A job for two devices through the whole trainer, one of whose processes is killed in the middle."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest
from reeltune.scheduler.v1 import artifact_pb2, attempt_service_pb2, training_job_pb2, training_parameters_pb2

from meshkit.testing import assert_eventually
from tests.rpc.trainer.fixtures import StartTrainer
from tests.rpc.trainer.mesh_doubles import JOB, Catalog, FileStore, job
from tests.rpc.trainer.running_mesh import Mesh
from tests.rpc.trainer.tiny_catalog import tiny_catalog


@pytest.fixture
def catalog(store: FileStore, tmp_path: Path) -> Catalog:
    return tiny_catalog(store, tmp_path)


def for_two_devices(*, steps: int) -> training_job_pb2.TrainingJob:
    submitted = job(
        lora=training_parameters_pb2.LoraParameters(rank=4),
        sampling=training_parameters_pb2.SamplingParameters(max_frames=2),
        optimization=training_parameters_pb2.OptimizationParameters(
            batch_size=4, max_steps=steps, gradient_checkpointing=False
        ),
        checkpoint_every_steps=2,
    )
    submitted.device_count = 2
    return submitted


def processes_of(tmp_path: Path) -> list[psutil.Process]:
    """The further ranks of the running attempt."""
    (record,) = (tmp_path / "data" / "jobs").glob("*/child.json")
    child = psutil.Process(json.loads(record.read_text())["pid"])
    return [each for each in child.children() if "trainer_svc.qlora.rank_child" in each.cmdline()]


async def test_a_killed_process_of_two_costs_an_attempt_and_no_checkpoint(
    mesh: Mesh, start_trainer: StartTrainer, tmp_path: Path
) -> None:
    # Without an end of its own, so that it surely runs when it is killed.
    mesh.scheduler.waiting.append(for_two_devices(steps=100_000))
    await start_trainer(devices="2", threads="2")
    await assert_eventually(lambda: mesh.scheduler.committed or mesh.scheduler.failed, timeout=120)
    assert mesh.scheduler.registrations[0].device.device_count == 2

    (other,) = processes_of(tmp_path)
    other.send_signal(signal.SIGKILL)
    await assert_eventually(lambda: mesh.scheduler.failed)

    (failed,) = mesh.scheduler.failed
    assert failed.reason == training_job_pb2.STATE_REASON_CRASHED
    assert "rank 1 of 2 was killed" in failed.message
    saved = mesh.scheduler.committed[-1]
    await assert_eventually(lambda: not list((tmp_path / "data" / "jobs").iterdir()))

    # What a scheduler does then: the same job again, from there.
    mesh.scheduler.received.clear()
    mesh.scheduler.checkpoints.insert(0, stored(mesh, saved))
    again = for_two_devices(steps=100_000)
    again.attempt = 1
    mesh.scheduler.waiting.append(again)
    await assert_eventually(
        lambda: any(r.progress.step > saved.step for r in mesh.scheduler.received.get(JOB, {}).values()), timeout=120
    )
    lines = [report.log.text for report in mesh.scheduler.reports() if report.HasField("log")]
    assert any(f"steps {saved.step + 1} to 100000; on 2 x CPU" in line for line in lines)
    assert len(mesh.scheduler.failed) == 1


def stored(mesh: Mesh, checkpoint: attempt_service_pb2.Checkpoint) -> attempt_service_pb2.Checkpoint:
    """The checkpoint with URLs to read it from."""
    files = [
        artifact_pb2.ArtifactFile(
            path=file.path,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            url=mesh.store.url(f"jobs/{JOB}/checkpoints/{checkpoint.step}/{file.path}"),
        )
        for file in checkpoint.files
    ]
    return attempt_service_pb2.Checkpoint(step=checkpoint.step, attempt=1, files=files)
