"""Fixtures of the trainer's tests: the services around it, and trainers in processes of their own."""

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

from meshkit.testing import TokenMint, assert_eventually
from meshkit.testing.plugin import Serve
from tests.rpc.trainer.mesh_doubles import JOIN_SECRET, Catalog, FileStore
from tests.rpc.trainer.running_mesh import Mesh, serve_mesh, small_catalog

FAKE_TRAINER = Path(__file__).with_name("trainer_process.py")


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
        ready = await assert_eventually(lambda: self.events("service.ready"))
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
            # A report that comes by the clock is in nobody's way only where it is asked for.
            "meter_seconds": "0",
            "device": "cpu",
            "name": "test trainer",
        }
        variables = {f"TRAINER_{name.upper()}": value for name, value in (defaults | settings).items()}
        command = [str(FAKE_TRAINER)] if script else ["-m", "trainer_svc"]
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
