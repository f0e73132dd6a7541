"""A trainer's attempt between small real services, with a child program in place of the training library's."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio

from meshkit.auth.principal import Caller
from meshkit.rpc.client import open_channel
from meshkit.testing import TokenMint, assert_eventually
from meshkit.testing.plugin import Serve
from tests.rpc.trainer.mesh_doubles import JOIN_SECRET, Catalog, FileStore, job
from tests.rpc.trainer.running_mesh import Mesh, serve_mesh, small_catalog
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
    """Overridden where children really train."""
    return small_catalog(store)


@pytest_asyncio.fixture(loop_scope="session")
async def mesh(serve: Serve, token_mint: TokenMint, catalog: Catalog) -> Mesh:
    return await serve_mesh(serve, token_mint, catalog)


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


@dataclass
class TrainerProcess:
    """A trainer in a process of its own."""

    process: asyncio.subprocess.Process
    log: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it logged under one event name."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    async def address(self) -> str:
        """Where it serves, once it does."""
        ready = await assert_eventually(lambda: self.events("service.ready"), timeout=20)
        return str(ready[0]["address"])

    async def exit_code(self, seconds: float = 25) -> int:
        return await asyncio.wait_for(self.process.wait(), seconds)


class StartTrainer(Protocol):
    async def __call__(self, script: str = "", **settings: str) -> TrainerProcess: ...


@pytest_asyncio.fixture(loop_scope="session")
async def start_trainer(mesh: Mesh, tmp_path: Path) -> AsyncIterator[StartTrainer]:
    """Starts trainers on one data folder: with the training library, or with children that play `script`."""
    started: list[TrainerProcess] = []

    async def start(script: str = "", **settings: str) -> TrainerProcess:
        defaults = {
            "scheduler_target": mesh.scheduler_target,
            "catalog_target": mesh.catalog_target,
            "auth_target": mesh.auth_target,
            "join_secret": JOIN_SECRET,
            "data_dir": str(tmp_path / "data"),
            "threads": "1",
            "heartbeat_seconds": "0.2",
            "poll_seconds": "0.2",
            "device": "cpu",
            "name": "test trainer",
        }
        variables = {f"TRAINER_{name.upper()}": value for name, value in (defaults | settings).items()}
        command = [str(FAKE_CHILD.with_name("trainer_process.py"))] if script else ["-m", "trainer_svc"]
        log = tmp_path / f"trainer-{len(started)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                env={**os.environ, **variables, "FAKE_SCRIPT": script},
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
            )
        started.append(TrainerProcess(process, log))
        return started[-1]

    yield start
    for trainer in started:
        if trainer.process.returncode is None:
            trainer.process.kill()
            await trainer.process.wait()
