"""One job that was really trained, from the files on a user's disk to an adapter, through gRPC at the edge."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from reeltune.catalog.v1 import dataset_pb2, model_pb2
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb2
from reeltune.scheduler.v1 import training_service_pb2 as pb

from reeltune_cli.client import Client, Endpoint
from reeltune_cli.client.watch import watch_job
from tests.e2e.running_mesh import PASSWORD, RunningMesh, SignedIn
from tests.e2e.training_material import Material, parameters, register_dataset, register_model

STEPS = 16
JOB_SECONDS = 300
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors", "reeltune_adapter.json"}


@dataclass(frozen=True, slots=True)
class Owner:
    """A user with a client that signs every call and refreshes its session."""

    client: Client
    user: SignedIn


@dataclass(frozen=True, slots=True)
class TrainedJob:
    """A completed job and everything that led to it."""

    owner: Owner
    material: Material
    model: model_pb2.Model
    dataset: dataset_pb2.Dataset
    created: job_pb2.TrainingJob
    """As `CreateTrainingJob` answered."""
    watched: list[history.WatchTrainingJobResponse]
    """Everything that the watch told, to its end."""

    @property
    def id(self) -> str:
        return self.created.id


@contextlib.asynccontextmanager
async def new_owner(mesh: RunningMesh, name: str = "owner") -> AsyncIterator[Owner]:
    """Makes a user and connects as that user."""
    user = await mesh.sign_up(name)
    async with Client(Endpoint(mesh.target, mesh.ca)) as client:
        await client.session.log_in(user.username, PASSWORD)
        yield Owner(client, user)


async def train(owner: Owner, material: Material) -> TrainedJob:
    """Uploads, validates, submits and watches to the end."""
    model, dataset = await asyncio.gather(
        register_model(owner.client, material.model), register_dataset(owner.client, material.dataset)
    )
    assert model.state == model_pb2.MODEL_STATE_READY, model.issues
    assert dataset.state == dataset_pb2.DATASET_STATE_READY, dataset
    created = await submit(owner.client, model.id, dataset.id, parameters(STEPS))
    async with asyncio.timeout(JOB_SECONDS):
        watched = [message async for message in watch_job(owner.client, created.id)]
    return TrainedJob(owner, material, model, dataset, created, watched)


async def submit(
    client: Client, model_id: str, dataset_id: str, wanted: parameters_pb2.TrainingParameters
) -> job_pb2.TrainingJob:
    """Asks for a job and returns it, QUEUED."""
    request = pb.CreateTrainingJobRequest(model_id=model_id, dataset_id=dataset_id, name="tiny", parameters=wanted)
    return (await client.training.CreateTrainingJob(request, timeout=60)).job


async def get_job(client: Client, job_id: str) -> job_pb2.TrainingJob:
    """Returns the job as it is now."""
    return (await client.training.GetTrainingJob(pb.GetTrainingJobRequest(job_id=job_id))).job


def folder_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path in the folder."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
