"""The service as an operator runs it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from meshkit.embedded import S3Server
from meshkit.testing import Database
from meshkit.testing.plugin import S3_IDENTITY
from scheduler_svc.signing_keys import load_signing_keys

Environment = dict[str, str]


@pytest.fixture
def environment(database: Database, s3_server: S3Server, tmp_path: Path) -> Environment:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SCHEDULER_")}
    return {
        **inherited,
        "SCHEDULER_POSTGRES_DSN": database.dsn,
        "SCHEDULER_KEYS_DIR": str(tmp_path / "keys"),
        "SCHEDULER_PAGE_TOKEN_SECRET": "a secret of the tests",
        "SCHEDULER_JOIN_SECRET": "canary-join-secret-of-the-tests",
        "SCHEDULER_NATS_URL": "nats://127.0.0.1:9",
        "SCHEDULER_NATS_USER": "scheduler",
        "SCHEDULER_NATS_PASSWORD": "canary-nats-password",
        "SCHEDULER_S3_ENDPOINT": f"http://{s3_server.endpoint}",
        "SCHEDULER_S3_ACCESS_KEY": S3_IDENTITY.access_key,
        "SCHEDULER_S3_SECRET_KEY": S3_IDENTITY.secret_key,
        "SCHEDULER_S3_BUCKET": "test",
        "SCHEDULER_AUTH_TARGET": "127.0.0.1:9",
        "SCHEDULER_CATALOG_TARGET": "127.0.0.1:9",
    }


@pytest_asyncio.fixture(loop_scope="session")
async def service(environment: Environment) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scheduler_svc", env=environment, stdout=asyncio.subprocess.PIPE
    )
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_it_is_ready_without_its_neighbours_and_stops_on_sigterm(
    service: asyncio.subprocess.Process, environment: Environment
) -> None:
    assert service.stdout is not None
    lines = []
    async with asyncio.timeout(60):
        async for line in service.stdout:
            lines.append(line.decode())
            if json.loads(line)["event"] == "service.ready":
                break
        services = json.loads(lines[-1])["services"]
        assert [name.rpartition(".")[2] for name in services] == [
            "TrainingService",
            "WorkerService",
            "UseService",
            "EstimateService",
            "QuotaService",
            "PresetService",
            "AttemptService",
            "CheckpointService",
            "PostTrainingService",
            "SourceService",
        ]
        service.send_signal(signal.SIGTERM)
        rest = await service.stdout.read()
        assert await service.wait() == 0
    assert "canary" not in "".join(lines) + rest.decode()
    (key_file,) = Path(environment["SCHEDULER_KEYS_DIR"]).iterdir()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


async def test_wrong_settings_are_told_without_their_values(environment: Environment) -> None:
    broken = {**environment, "SCHEDULER_JOIN_SECRET": "short", "SCHEDULER_LEASE_SECONDS": "-1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scheduler_svc", env=broken, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode == 1
    text = said.decode()
    assert "SCHEDULER_JOIN_SECRET" in text
    assert "SCHEDULER_LEASE_SECONDS" in text
    assert "Traceback" not in text
    lease = {**environment, "SCHEDULER_LEASE_SECONDS": "6"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scheduler_svc", env=lease, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert "twice heartbeat_seconds" in said.decode()
    assert "short" not in text.replace("SHORT", "")


def test_replicas_that_start_together_share_one_key(tmp_path: Path) -> None:
    keys = [load_signing_keys(tmp_path / "keys") for _ in range(3)]
    assert len({key.kid for loaded in keys for key in loaded}) == 1
    (tmp_path / "keys" / "0002.pem").write_bytes(load_signing_keys(tmp_path / "next")[0].private_pem)
    first, second = load_signing_keys(tmp_path / "keys")
    assert (first.kid, second.kid) == (load_signing_keys(tmp_path / "next")[0].kid, keys[0][0].kid)
    (tmp_path / "keys" / "0003.pem").write_text("no key")
    with pytest.raises(ValueError, match=r"0003\.pem"):
        load_signing_keys(tmp_path / "keys")
