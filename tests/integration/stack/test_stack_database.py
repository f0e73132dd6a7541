"""`reeltune cluster database` and the a service's pool on a database of somebody else: by TLS, without a superuser."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from meshkit.embedded import PostgresServer
from meshkit.postgres import open_pool
from meshkit.service_command import read_settings
from meshkit.settings import SETTINGS_DIR_VARIABLE
from reeltune_cli.app import build_app
from reeltune_cli.stack.certificates import ensure_certificates
from reeltune_cli.stack.prepared import Preparation, prepare
from scheduler_svc.settings import SchedulerSettings

OWNER, PASSWORD = "video_owner", "password_1"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def tls_postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[PostgresServer, Path]]:
    folder = tmp_path_factory.mktemp("tls-postgres")
    files = ensure_certificates(folder / "authority")
    settings = {"ssl": "on", "ssl_cert_file": str(files.certificate), "ssl_key_file": str(files.key)}
    server = PostgresServer(folder / "data", settings=settings)
    await server.start()
    connection = await asyncpg.connect(server.dsn())
    await connection.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
    await connection.execute(f"CREATE DATABASE video OWNER {OWNER}")
    await connection.close()
    yield server, files.ca
    await server.stop()


async def test_an_owner_who_is_no_superuser_prepares_a_database_that_services_reach_by_tls(
    tls_postgres: tuple[PostgresServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = tls_postgres
    settings = tmp_path / "scheduler" / "settings"
    options = f"?sslmode=verify-full&sslrootcert={settings / 'postgres-ca.crt'}"
    await asyncio.to_thread(
        prepare,
        Preparation(out=tmp_path, postgres=f"127.0.0.1:{server.port}", database="video", postgres_options=options),
    )
    shutil.copy(authority, settings / "postgres-ca.crt")
    admin = f"{server.role_dsn(OWNER, PASSWORD, 'video')}?sslmode=verify-full&sslrootcert={authority}"
    command = ["cluster", "database", "--admin-dsn", admin]
    command += [f"--prepared={tmp_path / name / 'settings'}" for name in ("auth", "catalog", "scheduler")]
    for _ in range(2):  # done again it sets the passwords anew
        told = await asyncio.to_thread(CliRunner().invoke, build_app(), command)
        assert told.exit_code == 0, told.output

    monkeypatch.setenv(SETTINGS_DIR_VARIABLE, str(settings))
    for name in ("AUTH_TARGET", "CATALOG_TARGET", "KEYS_DIR", "NATS_URL", "S3_ENDPOINT"):
        monkeypatch.setenv(f"SCHEDULER_{name}", "nowhere:1")
    dsn = read_settings(SchedulerSettings, "scheduler_svc").postgres_dsn.get_secret_value()
    pool = await open_pool(dsn, "scheduler")
    try:
        await pool.execute("CREATE TABLE scheduler.mine (id text)")
        assert await pool.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    finally:
        await pool.close()
    other = await asyncpg.connect(admin)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.fetch("SELECT * FROM scheduler.mine")
    finally:
        await other.close()


async def test_a_database_of_another_authority_is_refused(
    tls_postgres: tuple[PostgresServer, Path], tmp_path: Path
) -> None:
    server, _ = tls_postgres
    stranger = ensure_certificates(tmp_path).ca
    dsn = f"{server.dsn()}?sslmode=verify-full&sslrootcert={stranger}"
    command = ["cluster", "database", "--admin-dsn", dsn, f"--prepared={tmp_path}"]
    told = await asyncio.to_thread(CliRunner().invoke, build_app(), command)
    assert told.exit_code == 1
