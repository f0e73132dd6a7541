"""`reeltune up` on servers that somebody else runs; and that nothing outlives it, even when it is killed."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from meshkit.embedded import NatsServer, PostgresServer, S3Server
from meshkit.testing import assert_eventually
from meshkit.testing.plugin import NATS_USER, S3_IDENTITY
from tests.e2e.conftest import skip_without_servers
from tests.e2e.running_mesh import running_mesh
from tests.e2e.test_upload import upload_by_presigned_url


async def test_external_servers_are_used_and_no_process_outlives_a_killed_up(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    postgres_server: PostgresServer,
    nats_server: NatsServer,
    s3_server: S3Server,
) -> None:
    skip_without_servers()
    monkeypatch.setenv("REELTUNE_POSTGRES_DSN", postgres_server.dsn())
    monkeypatch.setenv("REELTUNE_S3_ACCESS_KEY", S3_IDENTITY.access_key)
    monkeypatch.setenv("REELTUNE_S3_SECRET_KEY", S3_IDENTITY.secret_key)
    nats_url = nats_server.url.replace("nats://", f"nats://{NATS_USER.name}:{NATS_USER.password}@")
    options = ("--port", "0", "--nats-url", nats_url, "--s3-endpoint", f"http://{s3_server.endpoint}")

    async with running_mesh(tmp_path_factory.mktemp("external"), *options, "--s3-bucket", "external") as mesh:
        assert not any((mesh.data / name).exists() for name in ("postgres", "nats", "s3"))
        upload = await upload_by_presigned_url(mesh, await mesh.sign_up(), b"text")
        assert f"{mesh.url}/s3/external/" in upload["parts"][0]["url"]

        children = mesh.processes()
        os.kill(mesh.process.pid, signal.SIGKILL)
        await assert_eventually(lambda: not [name for name, child in children.items() if lives(child)])


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
