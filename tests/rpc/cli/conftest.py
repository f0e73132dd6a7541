"""The command line against a real auth service, and against a mesh that fails on purpose."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from meshkit.auth.principal import Caller
from meshkit.testing import TokenMint
from meshkit.testing.plugin import Serve
from reeltune_cli.client import Client, Credentials, Endpoint, MemoryCredentials
from tests.rpc.auth.conftest import database_spec, mesh, start  # noqa: F401 — fixtures
from tests.rpc.cli.failing_mesh import FailingMesh

_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "reeltune-home"


@pytest.fixture
def run(home: Path) -> Run:
    """Runs `reeltune …` as a process of its own, with a home of its own."""

    async def run_command(*arguments: str, endpoint: str, stdin: str = "") -> Result:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "reeltune_cli", *arguments,
            env={**os.environ, "REELTUNE_HOME": str(home), "REELTUNE_ENDPOINT": endpoint},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # without a terminal, where a hidden prompt would ask
        )  # fmt: skip
        try:
            async with asyncio.timeout(_SECONDS):
                stdout, stderr = await process.communicate(stdin.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Result(process.returncode or 0, stdout.decode(), stderr.decode())

    return run_command


@pytest_asyncio.fixture(loop_scope="session")
async def failing_mesh(serve: Serve) -> AsyncIterator[FailingMesh]:
    async with FailingMesh() as failing:
        failing.served = await serve(failing.registrations())
        yield failing


@pytest_asyncio.fixture(loop_scope="session")
async def client(failing_mesh: FailingMesh, token_mint: TokenMint) -> AsyncIterator[Client]:
    """A signed-in client of the failing mesh."""
    credentials = MemoryCredentials()
    token = token_mint.token(Caller.USER, "usr_1", roles=("user",))
    credentials.save(Credentials("ada", token, time.time() + 240, "", 0))
    async with Client(Endpoint(failing_mesh.served.address, plaintext=True), credentials) as client:
        yield client
