"""`reeltune up` itself: one at a time, deaths noticed, a clean end, and the data found again."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import stat
import sysconfig
import time
from pathlib import Path

import psutil
import pytest

from meshkit.testing import assert_eventually
from tests.e2e.conftest import skip_without_servers
from tests.e2e.running_mesh import PASSWORD, RunningMesh, reeltune, running_mesh

START_SECONDS = 60.0
"""Several times what it takes on an idle machine: tells a wait that should not be from a machine that is busy."""
STOP_SECONDS = 30.0


async def test_a_life_with_deaths_a_stop_and_a_second_start(tmp_path_factory: pytest.TempPathFactory) -> None:
    skip_without_servers()
    home = tmp_path_factory.mktemp("life")
    async with running_mesh(home) as mesh:
        user = await mesh.sign_up("kept")
        await assert_second_up_is_refused(mesh)
        for name in ("nats", "auth", "edge", "postgres"):
            await assert_comes_back(mesh, name)
        await assert_still_knows(mesh, user.username)
        await assert_stops_cleanly(mesh, signal.SIGINT)

    async with running_mesh(home, "--no-trainer") as again:
        await assert_still_knows(again, user.username)
        assert again.target == mesh.target, "the edge's port is remembered"
        assert again.ca.read_bytes() == mesh.ca.read_bytes()
        await assert_stops_cleanly(again, signal.SIGTERM)


async def test_it_is_up_in_time(stack: RunningMesh) -> None:
    line = next(line for line in stack.output.splitlines() if "Reeltune is up after" in line)

    assert float(line.split("after ")[1].split(" s")[0]) <= START_SECONDS


async def test_what_it_printed_to_try_works_as_pasted(stack: RunningMesh) -> None:
    commands = [line.strip() for line in stack.output.splitlines() if line.startswith(("  curl", "  grpcurl"))]
    assert len(commands) == 2
    name = f"ada-{secrets.token_hex(4)}"

    for command in commands:
        shell = await asyncio.create_subprocess_shell(
            # The README's lines, pasted into the same mesh by another test, sign up the same user.
            command.replace('"ada', f'"{name}'),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"},
        )
        said, _ = await asyncio.wait_for(shell.communicate(), 60)
        assert shell.returncode == 0, said
        assert b'"accessToken"' in said or b'"keys"' in said


async def test_every_port_is_on_loopback_and_every_secret_for_its_owner_only(stack: RunningMesh) -> None:
    for process in (psutil.Process(stack.process.pid), *stack.processes().values()):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                address = connection.laddr.ip.removeprefix("::ffff:")
                assert address in ("127.0.0.1", "::1"), f"{process.name()} listens on {connection.laddr}"

    assert stat.S_IMODE(stack.data.stat().st_mode) == 0o700
    for private in (
        stack.data / "secrets.json",
        stack.data / "certificates" / "ca.key",
        stack.data / "certificates" / "edge.key",
        *(stack.data / "auth" / "keys").glob("*.pem"),
        *(stack.data / "scheduler" / "keys").glob("*.pem"),
    ):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600, private


async def test_no_secret_is_in_any_log(stack: RunningMesh) -> None:
    user = await stack.sign_up()
    kept = [value for value in (stack.data / "secrets.json").read_text().split('"') if len(value) >= 32]
    assert len(kept) > 5

    for path in (*(stack.data / "logs").iterdir(), stack.home / "up.log"):
        text = path.read_text("utf-8", errors="replace")
        if path.name != "up.log":  # it prints an example of a sign-up
            assert PASSWORD not in text, path
        assert user.token not in text, path
        assert not [secret for secret in kept if secret in text], path


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        refused = reeltune(tmp_path, "up", "--port", str(port))

    assert refused.returncode == 1
    assert f"port {port} is already used by" in refused.stderr
    assert f"process {os.getpid()}" in refused.stderr
    assert "--port" in refused.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--nats-url", "nats://localhost:4222"), "user:password"),
        (("--s3-endpoint", "localhost:9000"), "http://host:port"),
        (("--s3-endpoint", "http://localhost:9000"), "REELTUNE_S3_ACCESS_KEY"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(tmp_path: Path, options: tuple[str, ...], word: str) -> None:
    refused = reeltune(tmp_path, "up", "--port", "0", *options)

    assert refused.returncode == 1
    assert word in refused.stderr.replace("\n", "")
    assert not (tmp_path / "data" / "postgres").exists()


def test_doctor_finds_this_machine_fit(tmp_path: Path) -> None:
    skip_without_servers()
    found = reeltune(tmp_path, "doctor", "--output", "json", timeout_seconds=200)

    assert found.returncode == 0, found.stdout + found.stderr
    document = json.loads(found.stdout)
    assert document["fit"] is True
    assert {"Postgres", "NATS", "S3 server", "Envoy", "training device"} <= {
        finding["subject"] for finding in document["findings"]
    }


async def assert_second_up_is_refused(mesh: RunningMesh) -> None:
    refused = await mesh.run("up", "--port", "0")

    assert refused.returncode == 1
    assert "already runs on" in refused.stderr
    assert str(mesh.process.pid) in refused.stderr
    assert mesh.process.poll() is None


async def assert_comes_back(mesh: RunningMesh, name: str) -> None:
    victim = mesh.listener(name)
    os.kill(victim.pid, signal.SIGKILL)

    def is_back() -> bool:
        told = mesh.output.count(f"{name:<10} ready")
        return told >= 2 and mesh.listener(name).pid != victim.pid

    await assert_eventually(is_back)
    assert f"{name:<10} died" in mesh.output
    assert "killed by SIGKILL" in mesh.output


async def assert_still_knows(mesh: RunningMesh, username: str) -> None:
    async def can_log_in() -> bool:
        answer = await mesh.http.post("/auth/login", json={"username": username, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        token = answer.json()["tokens"]["accessToken"]
        me = await mesh.http.get("/users/me", headers={"authorization": f"Bearer {token}"})
        return bool(me.status_code == 200 and me.json()["username"] == username)

    await assert_eventually(can_log_in)


async def assert_stops_cleanly(mesh: RunningMesh, number: signal.Signals) -> None:
    children = mesh.processes()
    assert len(children) >= 7
    began = time.monotonic()

    code = await mesh.stop(number)

    assert time.monotonic() - began < STOP_SECONDS
    assert code == 0, mesh.output
    assert not [name for name, child in children.items() if child.is_running()]
    for name in ("auth", "catalog", "scheduler"):
        assert "service.stopped" in mesh.log(name)
        assert "service.stop_timed_out" not in mesh.log(name)
