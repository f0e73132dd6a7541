"""One mesh for all kills: it must survive each of them. Leases are short, so that nobody waits for half a minute."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from reeltune.catalog.v1 import dataset_pb2, model_pb2

from reeltune_cli.client import Client
from tests.e2e.conftest import skip_without_servers
from tests.e2e.running_mesh import RunningMesh, running_mesh
from tests.e2e.trained_job import new_owner
from tests.e2e.training_material import make_material, register_dataset, register_model

LEASE_SECONDS = 10.0
"""Longer than a service takes to start again, also on a busy machine."""
SETTINGS = {
    "SCHEDULER_LEASE_SECONDS": str(LEASE_SECONDS),
    "SCHEDULER_HEARTBEAT_SECONDS": "1",
    "SCHEDULER_SWEEP_SECONDS": "0.5",
    "TRAINER_HEARTBEAT_SECONDS": "1",
    "TRAINER_POLL_SECONDS": "0.5",
}


@dataclass(frozen=True, slots=True)
class Workplace:
    """A mesh with a user whose model and dataset are READY."""

    mesh: RunningMesh
    client: Client
    model_id: str
    dataset_id: str


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def workplace(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Workplace]:
    """The mesh that processes are killed in."""
    skip_without_servers()
    material = make_material(tmp_path_factory.mktemp("material"))
    async with running_mesh(tmp_path_factory.mktemp("faults"), settings=SETTINGS) as mesh, new_owner(mesh) as owner:
        model = await register_model(owner.client, material.model)
        dataset = await register_dataset(owner.client, material.dataset)
        assert (model.state, dataset.state) == (model_pb2.MODEL_STATE_READY, dataset_pb2.DATASET_STATE_READY)
        yield Workplace(mesh, owner.client, model.id, dataset.id)
