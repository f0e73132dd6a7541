"""A mesh with a signed-in user, a READY model and a READY dataset: what jobs need."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from reeltune.catalog.v1 import dataset_service_pb2, model_service_pb2

from meshkit.embedded import PostgresServer
from reeltune_cli.client.connection import Client
from reeltune_cli.client.upload import upload_folder
from reeltune_cli.client.watch import watch_dataset, watch_model
from reeltune_cli.stack.background import background_mesh


@dataclass(frozen=True, slots=True)
class BenchMesh:
    """A running mesh and its first user."""

    client: Client
    home: Path
    model_id: str
    dataset_id: str

    @property
    def ports(self) -> dict[str, int]:
        """The port of each process: `scheduler`, `nats`, …"""
        ports: dict[str, int] = json.loads((self.home / "data" / "ports.json").read_text())
        return ports

    @property
    def postgres(self) -> PostgresServer:
        """The mesh's database server, to ask and not to start."""
        return PostgresServer(self.home / "data" / "postgres", port=self.ports["postgres"])


@asynccontextmanager
async def bench_mesh(work: Path, *options: str, clips: int = 4) -> AsyncIterator[BenchMesh]:
    """Runs `reeltune up OPTIONS` with a user `bench`, a tiny model and a tiny dataset until the block ends."""
    model, dataset, home = work / "model", work / "dataset", work / "home"
    await run_python("-m", "benchmarks.tiny_material", str(model), str(dataset), str(clips))
    async with background_mesh(home, *options) as endpoint, Client(endpoint) as client:
        await client.session.sign_up("bench", "bench@example.com", secrets.token_urlsafe(24))
        yield BenchMesh(client, home, *await register(client, model, dataset))


async def register(client: Client, model: Path, dataset: Path) -> tuple[str, str]:
    """Uploads both folders and waits until they are READY; returns their ids."""
    created = await client.models.CreateModel(model_service_pb2.CreateModelRequest(name="bench"))
    model_id = created.model.id
    await upload_folder(client, model_id, model)
    await client.models.ValidateModel(model_service_pb2.ValidateModelRequest(model_id=model_id))
    async for _ in watch_model(client, model_id):
        pass
    # The rows for the bare trainer are not for the catalog.
    (dataset / "rows.jsonl").rename(dataset.parent / "rows.jsonl")
    made = await client.datasets.CreateDataset(dataset_service_pb2.CreateDatasetRequest(name="bench"))
    dataset_id = made.dataset.id
    await upload_folder(client, dataset_id, dataset)
    (dataset.parent / "rows.jsonl").rename(dataset / "rows.jsonl")
    await client.datasets.ValidateDataset(dataset_service_pb2.ValidateDatasetRequest(dataset_id=dataset_id))
    async for _ in watch_dataset(client, dataset_id):
        pass
    return model_id, dataset_id


async def run_python(*arguments: str) -> None:
    """Runs Python to its end; a failure ends the benchmark."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    if await process.wait():
        sys.exit(f"{' '.join(arguments[:2])} failed")
