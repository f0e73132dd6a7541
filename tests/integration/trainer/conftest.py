"""A trainer's attempt between small real services, with a child program in place of the training library's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from reeltune.catalog.v1.snapshot_service_pb2_grpc import add_SnapshotServiceServicer_to_server
from reeltune.scheduler.v1.attempt_service_pb2_grpc import add_AttemptServiceServicer_to_server
from reeltune.scheduler.v1.training_service_pb2_grpc import add_TrainingServiceServicer_to_server

from meshkit.auth.principal import Caller
from meshkit.rpc.client import open_channel
from meshkit.rpc.registration import ServicerRegistration
from meshkit.testing import TokenMint
from meshkit.testing.plugin import Serve
from tests.rpc.trainer.mesh_doubles import Catalog, FileStore, Jobs, Scheduler, job, sample
from trainer_svc.child.process import ChildProcess, spawn_child
from trainer_svc.clients.catalog import CatalogClient
from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.clients.transfers import Transfers, open_http_client
from trainer_svc.domain.limits import AttemptLimits
from trainer_svc.qlora.launch import child_environment
from trainer_svc.usecases.content_cache import ContentCache
from trainer_svc.usecases.live_attempt import LiveAttempt
from trainer_svc.usecases.run_attempt import AttemptTools, run_attempt

FAKE_CHILD = Path(__file__).with_name("fake_child.py")
ATTACH = "/reeltune.scheduler.v1.AttemptService/Attach"
LIMITS = AttemptLimits(
    heartbeat=0.1,
    silence=2.0,
    lost_grant=1.0,
    loading=10.0,
    progress=1.0,
    stop_grace=1.0,
    drain_grace=1.0,
    drain_total=5.0,
    storage=1.0,
    flush=2.0,
)


@pytest.fixture
def store() -> Iterator[FileStore]:
    opened = FileStore()
    yield opened
    opened.close()


@pytest.fixture
def catalog(store: FileStore) -> Catalog:
    return Catalog(
        store,
        model={"config.json": b'{"model_type": "tiny"}', "model.safetensors": b"weights" * 1000},
        clips={"a/one.mp4": b"first clip", "two.mp4": b"second clip"},
        samples=[sample("s1", "a/one.mp4", "What?", "This."), sample("s2", "two.mp4", "And?", "That.", "eval")],
    )


@dataclass
class Mesh:
    """The services that a trainer talks to, and where they are."""

    scheduler: Scheduler
    jobs: Jobs
    catalog: Catalog
    store: FileStore
    scheduler_target: str
    catalog_target: str


@pytest_asyncio.fixture(loop_scope="session")
async def mesh(serve: Serve, token_mint: TokenMint, store: FileStore, catalog: Catalog) -> Mesh:
    scheduler, jobs = Scheduler(token_mint, store), Jobs()
    scheduling = await serve(
        [
            ServicerRegistration(add_AttemptServiceServicer_to_server, scheduler),
            ServicerRegistration(add_TrainingServiceServicer_to_server, jobs),
        ],
        long_rpcs=frozenset({ATTACH}),
    )
    cataloguing = await serve([ServicerRegistration(add_SnapshotServiceServicer_to_server, catalog)])
    return Mesh(scheduler, jobs, catalog, store, scheduling.address, cataloguing.address)


@dataclass
class Bench:
    """What it takes to run attempts."""

    mesh: Mesh
    tools: AttemptTools
    folder: Path
    children: list[ChildProcess]
    script: str = "normal"

    async def claim(self, **parameters: object) -> LiveAttempt:
        """A job, submitted and claimed."""
        self.mesh.scheduler.waiting.append(job(**parameters))
        token = self.mesh.scheduler.mint.token(Caller.WORKER, "wrk")
        claimed = await self.tools.scheduler.claim(token)
        assert claimed is not None
        return LiveAttempt(claimed)

    async def run(self, script: str, **parameters: object) -> str:
        """One whole attempt with the child playing `script`; returns the job's state after it."""
        self.script = script
        return await asyncio.wait_for(run_attempt(await self.claim(**parameters), self.tools), 30)


@pytest_asyncio.fixture(loop_scope="session")
async def bench(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Bench]:
    children: list[ChildProcess] = []

    async def launch(folder: Path) -> ChildProcess:
        child = await spawn_child(
            lambda fd: [sys.executable, str(FAKE_CHILD), made.script, str(folder), str(fd)],
            folder=folder,
            environment=child_environment(1),
        )
        children.append(child)
        return child

    async with (
        open_channel(mesh.scheduler_target) as scheduling,
        open_channel(mesh.catalog_target) as cataloguing,
        open_http_client(None) as http,
    ):
        transfers = Transfers(http, tries=3, first_delay=0.01)
        tools = AttemptTools(
            scheduler=SchedulerClient(scheduling),
            catalog=CatalogClient.for_attempt(cataloguing),
            transfers=transfers,
            cache=ContentCache(tmp_path / "cache", transfers, budget_bytes=10**9),
            launch=launch,
            jobs_folder=tmp_path / "jobs",
            limits=LIMITS,
            threads=1,
        )
        made = Bench(mesh, tools, tmp_path, children)
        yield made
