"""The embedded servers: data found again, stale files, clear errors, and no child that outlives its parent."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import httpx
import psutil
import pytest

from meshkit.blob import BlobStore
from meshkit.embedded import (
    EnvoyServer,
    NatsServer,
    NatsUser,
    PostgresServer,
    S3Identity,
    S3Server,
    ServerNotReady,
    free_ports,
)
from meshkit.testing import assert_eventually

ENVOY_CONFIG = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: public
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: public
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: "/"}, direct_response: {status: 200, body: {inline_string: hello}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"""


def test_free_ports_are_different() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20


async def test_postgres_finds_its_data_again_and_keeps_its_password_private(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "pg")
    await server.start()
    await _execute(server.dsn(), "CREATE TABLE kept (id int)")
    first_pid = server.pid
    await server.stop()
    assert server.pid is None
    again = PostgresServer(tmp_path / "pg", port=server.port)
    await again.start()
    try:
        assert again.pid != first_pid
        await _execute(again.dsn(), "INSERT INTO kept VALUES (1)")
    finally:
        await again.stop()
    assert stat.S_IMODE((tmp_path / "pg" / "superuser.password").stat().st_mode) == 0o600


async def test_postgres_starts_over_a_pid_file_that_names_a_stranger(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "pg")
    await server.start()
    await server.kill()
    pid_file = server.cluster_dir / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    await server.start()
    assert pid_file.read_text().splitlines()[0] == str(server.pid)
    await server.stop()


async def test_a_second_postgres_on_the_same_data_is_refused(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "pg")
    await server.start()
    try:
        with pytest.raises(ServerNotReady, match=f"process {server.pid}"):
            await PostgresServer(tmp_path / "pg").start()
    finally:
        await server.stop()


async def test_a_first_start_that_was_cut_short_is_made_good(tmp_path: Path) -> None:
    half = tmp_path / "pg" / "cluster.building"
    half.mkdir(parents=True)
    (half / "rubbish").touch()
    server = PostgresServer(tmp_path / "pg")
    await server.start()
    assert server.cluster_dir.is_dir()
    assert not half.exists()
    await server.stop()


async def test_the_error_of_a_server_quotes_its_log(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "pg", settings={"shared_buffers": "nonsense"})
    with pytest.raises(ServerNotReady, match=r"(?s)ended with code.*shared_buffers"):
        await server.start()
    assert server.pid is None


async def test_nats_refuses_a_bad_configuration_with_its_reason(tmp_path: Path) -> None:
    users = [NatsUser("twice", "password-1"), NatsUser("twice", "password-2")]
    with pytest.raises(ServerNotReady, match="twice"):
        await NatsServer(tmp_path / "nats", users).start()


async def test_the_inner_ports_of_the_object_store_serve_no_stranger(tmp_path: Path) -> None:
    server = S3Server(tmp_path / "s3", [S3Identity("key", "a secret of a test")])
    await server.start()
    try:
        await _put_a_clip(server)
        listening = _listening_ports(server.pid) - {server.port}
        assert len(listening) >= 6, "each part of the server has a port or two"
        for port in listening:
            assert await _unsigned_answers(port) <= {400, 401, 404, 405}, port
            assert await _grpc_refusal(grpc.aio.insecure_channel(f"127.0.0.1:{port}")) == "UNAVAILABLE"
            trusting = grpc.ssl_channel_credentials((tmp_path / "s3" / "inner" / "inner.pem").read_bytes())
            assert await _grpc_refusal(grpc.aio.secure_channel(f"127.0.0.1:{port}", trusting)) == "UNAVAILABLE"
    finally:
        await server.stop()
    assert stat.S_IMODE((tmp_path / "s3" / "inner" / "inner.key").stat().st_mode) == 0o600


async def test_waiting_ends_with_the_server(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", [NatsUser("user", "password")])
    await server.start()
    waiting = asyncio.create_task(server.wait())
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert await asyncio.wait_for(waiting, 60) == -signal.SIGKILL
    assert server.returncode == -signal.SIGKILL


async def test_envoy_serves_on_the_port_it_was_given_by_the_system(tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text(ENVOY_CONFIG)
    server = EnvoyServer(config, tmp_path / "data", concurrency=1)
    await server.start()
    try:
        port = (await server.listener_ports())["public"]
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "hello"
    finally:
        await server.stop()
    assert server.returncode == 0


async def test_envoy_refuses_a_bad_configuration_with_its_reason(tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text(ENVOY_CONFIG.replace("stat_prefix", "start_prefix"))
    with pytest.raises(ServerNotReady, match="start_prefix"):
        await EnvoyServer(config, tmp_path / "data").start()


_PARENT = """
import asyncio, sys
from pathlib import Path
from meshkit.embedded import NatsServer, NatsUser, PostgresServer

async def main() -> None:
    root = Path(sys.argv[1])
    servers = [PostgresServer(root / "pg"), NatsServer(root / "nats", [NatsUser("user", "password")])]
    for server in servers:
        await server.start()
    print(*(server.pid for server in servers), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="NOT TESTED: setpriv is not installed")
async def test_servers_die_with_their_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_PARENT), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in (await asyncio.to_thread(parent.stdout.readline)).split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait(timeout=60)
    parent.stdout.close()
    await assert_eventually(lambda: not any(_runs(pid) for pid in pids))


@pytest.mark.skipif(os.geteuid() != 0, reason="runs as an ordinary user already")
async def test_postgres_runs_for_an_ordinary_user_too(request: pytest.FixtureRequest) -> None:
    # Not under `tmp_path`, whose parents are closed to everybody but root.
    folder = tempfile.mkdtemp(prefix="ordinary-")
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.chown(folder, 12345, 12345)
    command = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", sys.executable, "-c", _ORDINARY]
    done = await asyncio.to_thread(
        subprocess.run,
        [*command, folder],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": folder},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["12345", "1"]


_ORDINARY = """
import asyncio, os, sys
from pathlib import Path
import asyncpg
from meshkit.embedded import PostgresServer

async def main() -> None:
    server = PostgresServer(Path(sys.argv[1]) / "pg")
    await server.start()
    connection = await asyncpg.connect(server.dsn())
    print(os.geteuid(), await connection.fetchval("SELECT 1"))
    await connection.close()
    await server.stop()

asyncio.run(main())
"""


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def _put_a_clip(server: S3Server) -> None:
    store = BlobStore(server.endpoint, "key", "a secret of a test", "clips")
    await store.ensure_bucket()
    await store.put_bytes("private.mp4", b"nobody else's business")


def _listening_ports(pid: int | None) -> set[int]:
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    connections = [one for process in family for one in process.net_connections("tcp")]
    return {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}


async def _unsigned_answers(port: int) -> set[int]:
    """How the port answers requests that would list, read, write or delete; 404 stands for no HTTP at all."""
    wanted = ("GET /buckets/", "GET /buckets/clips/private.mp4", "GET /dir/assign", "POST /buckets/clips/evil.mp4",
              "DELETE /buckets/clips/private.mp4", "GET /col/delete?collection=clips", "PUT /1,01637037d6")  # fmt: skip
    statuses = set()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5, trust_env=False) as http:
        for method, path in (line.split() for line in wanted):
            try:
                statuses.add((await http.request(method, path)).status_code)
            except httpx.TransportError:
                statuses.add(404)
    return statuses


async def _grpc_refusal(channel: grpc.aio.Channel) -> str:
    async with channel:
        try:
            call: Any = channel.unary_unary("/filer_pb.SeaweedFiler/LookupDirectoryEntry")
            await call(b"", timeout=10)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
    return "OK"
