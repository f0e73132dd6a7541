"""A small job on a trainer that stands for a Jetson board: 4 GiB for its processes, held to it by the system."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil
import pytest
from reeltune.scheduler.v1 import training_parameters_pb2, worker_pb2

from meshkit.testing import assert_eventually
from tests.rpc.trainer.fixtures import StartTrainer
from tests.rpc.trainer.mesh_doubles import Catalog, FileStore, job
from tests.rpc.trainer.running_mesh import Mesh
from tests.rpc.trainer.tiny_catalog import tiny_catalog

BOARD = 4 << 30


@pytest.fixture
def catalog(store: FileStore, tmp_path: Path) -> Catalog:
    return tiny_catalog(store, tmp_path)


async def test_a_small_job_completes_within_the_boards_memory_and_tells_what_the_device_does(
    mesh: Mesh, start_trainer: StartTrainer
) -> None:
    optimization = training_parameters_pb2.OptimizationParameters(batch_size=4, max_steps=60)
    sampling = training_parameters_pb2.SamplingParameters(max_frames=4)
    mesh.scheduler.waiting.append(job(optimization=optimization, sampling=sampling))
    trainer = await start_trainer(profile="jetson-nano-emulated", meter_seconds="0.1", threads="0")
    limits: set[int] = set()

    def is_over() -> bool:
        for child in psutil.Process(trainer.process.pid).children(recursive=True):
            try:
                if "trainer_svc.qlora" in " ".join(child.cmdline()):
                    limits.add(child.rlimit(resource.RLIMIT_DATA)[1])
            except psutil.Error:
                continue  # it has ended
        return bool(mesh.scheduler.completed or mesh.scheduler.failed)

    await assert_eventually(is_over, timeout=300)
    assert not mesh.scheduler.failed, mesh.scheduler.failed
    assert BOARD in limits
    device = mesh.scheduler.registrations[-1].device
    assert (device.device_class, device.profile) == (worker_pb2.DEVICE_CLASS_JETSON, "jetson-nano-emulated")
    assert 0 < device.memory_bytes <= BOARD
    assert device.matmul_flops > 0
    told = [dict(r.metrics.values) for r in mesh.scheduler.reports() if r.HasField("metrics")]
    metered = [values for values in told if "device_memory_bytes" in values]
    assert metered
    assert all("loss" not in values for values in metered), "a point of its own"
    assert 0 < max(values["device_memory_bytes"] for values in metered) < BOARD
