"""A trainer's attempt between small real services, with a child program in place of the training library's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from meshkit.auth.principal import Caller
from meshkit.rpc.client import open_channel
from tests.rpc.trainer import fake_child
from tests.rpc.trainer.fixtures import catalog, mesh, start_trainer, store  # noqa: F401 - fixtures
from tests.rpc.trainer.mesh_doubles import job
from tests.rpc.trainer.running_mesh import Mesh
from trainer_svc.child.process import ChildProcess, spawn_child
from trainer_svc.clients.catalog import CatalogClient
from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.clients.transfers import Transfers, open_http_client
from trainer_svc.domain.attempt import Recipe
from trainer_svc.domain.limits import AttemptLimits
from trainer_svc.qlora.launch import child_environment
from trainer_svc.usecases.content_cache import ContentCache
from trainer_svc.usecases.live_attempt import LiveAttempt
from trainer_svc.usecases.run_attempt import AttemptTools, run_attempt

FAKE_CHILD = Path(fake_child.__file__)
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
    last_checkpoint=1.0,
    flush=2.0,
)


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
        return await asyncio.wait_for(run_attempt(await self.claim(**parameters), self.tools), 60)


@pytest_asyncio.fixture(loop_scope="session")
async def bench(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Bench]:  # noqa: F811 - the fixture
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
            launch={Recipe.QLORA: launch},
            jobs_folder=tmp_path / "jobs",
            limits=LIMITS,
            threads=1,
        )
        made = Bench(mesh, tools, tmp_path, children)
        yield made
