"""The meshes that things are done to: one of `reeltune up`, and one of several replicas. They must survive it all."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from reeltune.catalog.v1 import dataset_pb2, model_pb2

from reeltune_cli.client import Client
from tests.conftest import TOLD
from tests.e2e.conftest import skip_without_servers
from tests.e2e.running_mesh import RunningMesh, running_mesh
from tests.e2e.trained_job import new_owner
from tests.e2e.training_material import Material, make_material, register_dataset, register_model
from tests.faults.fault_mesh import FaultMesh, running_fault_mesh
from tests.faults.mesh_user import MeshUser, signed_up

LEASE_SECONDS = 10.0
"""Longer than a service takes to start again, also on a busy machine."""
SETTINGS = {
    "SCHEDULER_LEASE_SECONDS": str(LEASE_SECONDS),
    "SCHEDULER_HEARTBEAT_SECONDS": "1",
    "SCHEDULER_SWEEP_SECONDS": "0.5",
    "TRAINER_HEARTBEAT_SECONDS": "1",
    "TRAINER_POLL_SECONDS": "0.5",
    # Whether models can take a step is tried elsewhere; a GiB of memory is better used here.
    "CATALOG_MODEL_TOOL_COMMAND": "",
}


@dataclass(frozen=True, slots=True)
class Workplace:
    """A mesh with a user whose model and dataset are READY."""

    mesh: RunningMesh
    client: Client
    model_id: str
    dataset_id: str


@pytest.fixture(scope="package")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A tiny model and a few clips."""
    skip_without_servers()
    return make_material(tmp_path_factory.mktemp("material"))


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def workplace(tmp_path_factory: pytest.TempPathFactory, material: Material) -> AsyncIterator[Workplace]:
    """The mesh that processes are killed in."""
    async with running_mesh(tmp_path_factory.mktemp("faults"), settings=SETTINGS) as mesh, new_owner(mesh) as owner:
        model = await register_model(owner.client, material.model)
        dataset = await register_dataset(owner.client, material.dataset)
        assert (model.state, dataset.state) == (model_pb2.MODEL_STATE_READY, dataset_pb2.DATASET_STATE_READY)
        yield Workplace(mesh, owner.client, model.id, dataset.id)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def large_mesh(
    tmp_path_factory: pytest.TempPathFactory, material: Material
) -> AsyncIterator[tuple[FaultMesh, MeshUser]]:
    """A mesh of several schedulers and trainers, and its first user. Tests take `mesh` and `user`."""
    async with running_fault_mesh(tmp_path_factory.mktemp("large")) as mesh, signed_up(mesh, material) as user:
        yield mesh, user


@pytest_asyncio.fixture(loop_scope="session")
async def mesh(large_mesh: tuple[FaultMesh, MeshUser]) -> AsyncIterator[FaultMesh]:
    """The large mesh, whole before and after."""
    await large_mesh[0].heal()
    yield large_mesh[0]
    await large_mesh[0].heal()


@pytest.fixture
def user(large_mesh: tuple[FaultMesh, MeshUser]) -> MeshUser:
    """A user of the large mesh."""
    return large_mesh[1]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What chance begins with: printed, and given again by REELTUNE_FAULT_SEED."""
    chosen = int(os.environ.get("REELTUNE_FAULT_SEED") or random.SystemRandom().randrange(1_000_000))
    said = f"seed {chosen}: REELTUNE_FAULT_SEED={chosen} pytest {request.node.nodeid}"
    # Shown whether or not the test passes: whoever wonders later can have the very same run.
    request.node.user_properties.append((TOLD, said))
    request.node.add_report_section("setup", "seed", said)
    return chosen


@pytest.fixture
def dice(seed: int) -> random.Random:
    """Chance."""
    return random.Random(seed)
