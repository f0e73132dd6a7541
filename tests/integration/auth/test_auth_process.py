"""The service as an operator runs it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from auth_svc.domain.user import Role, User
from auth_svc.store.key_folder import KeyFolder
from auth_svc.store.user_store import UserStore
from meshkit.testing import Database

Environment = dict[str, str]


@pytest.fixture
def environment(database: Database, tmp_path: Path) -> Environment:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AUTH_")}
    return {
        **inherited,
        "AUTH_POSTGRES_DSN": database.dsn,
        "AUTH_KEYS_DIR": str(tmp_path / "keys"),
        "AUTH_PAGE_TOKEN_SECRET": "a secret of the tests",
    }


async def run(environment: Environment, *arguments: str) -> tuple[int, str]:
    """Runs a command to its end; returns the exit code and what it printed on both streams."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "auth_svc", *arguments,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest_asyncio.fixture(loop_scope="session")
async def service(environment: Environment) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "auth_svc", env=environment, stdout=asyncio.subprocess.PIPE
    )
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_it_says_when_it_is_ready_and_stops_on_sigterm(service: asyncio.subprocess.Process) -> None:
    assert service.stdout is not None
    async with asyncio.timeout(60):
        async for line in service.stdout:
            event = json.loads(line)
            if event["event"] == "service.ready":
                break
        assert event["address"].startswith("127.0.0.1:")
        assert event["services"] == [f"reeltune.auth.v1.{name}Service" for name in ("Auth", "User", "Revocation")]
        service.terminate()
        assert await service.wait() == 0


async def test_the_operator_grants_the_first_admin(environment: Environment, users: UserStore, ada: User) -> None:
    code, output = await run(environment, "grant-admin", "ADA")
    assert code == 0
    assert ada.id in output
    assert (await users.get(ada.id)).roles == {Role.USER, Role.ADMIN}
    code, output = await run(environment, "grant-admin", "nobody")
    assert code == 1
    assert "sign up first" in output
    assert "Traceback" not in output


async def test_keys_are_rotated_one_rotation_at_a_time(environment: Environment) -> None:
    folder = KeyFolder(Path(environment["AUTH_KEYS_DIR"]))
    first = folder.ensure_keys()[0].kid
    code, output = await run(environment, "rotate-key")
    assert code == 0
    second, kept = (key.kid for key in folder.load_keys())
    assert second in output
    assert kept == first
    code, output = await run(environment, "rotate-key")
    assert code == 1
    assert "--force" in output
    assert [key.kid for key in folder.load_keys()] == [second, first]
    code, _ = await run(environment, "rotate-key", "--force")
    assert code == 0
    assert folder.load_keys()[1].kid == second


async def test_missing_settings_are_named_without_a_traceback(environment: Environment) -> None:
    del environment["AUTH_KEYS_DIR"]
    environment["AUTH_PASSWORD_MIN_LENGTH"] = "8"
    environment["AUTH_PAGE_TOKEN_SECRET"] = "leak-me"
    code, output = await run(environment)
    assert code == 1
    for name in ("AUTH_KEYS_DIR", "AUTH_PASSWORD_MIN_LENGTH", "AUTH_PAGE_TOKEN_SECRET"):
        assert name in output
    assert "Traceback" not in output
    assert "leak-me" not in output
