"""A mesh that `reeltune up` runs for the tests, and what a test needs to speak with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil

from meshkit.testing import assert_eventually
from tests.e2e.grpc_web import GrpcWebClient

READY_SECONDS = 120.0
STOP_SECONDS = 40.0
PASSWORD = "a long pass phrase"


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A user of the mesh."""

    username: str
    user_id: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """For HTTP/JSON."""
        return {"authorization": f"Bearer {self.token}"}

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """For gRPC."""
        return (("authorization", f"Bearer {self.token}"),)


class RunningMesh:
    """`reeltune up` as a child process."""

    def __init__(self, home: Path, process: subprocess.Popen[bytes]) -> None:
        self.home = home
        self.process = process
        self.data = home / "data"
        endpoint = json.loads((home / "endpoint.json").read_text())
        self.target: str = endpoint["target"]
        self.ca = Path(endpoint["ca_file"])
        self.url = f"https://{self.target}"
        trust = ssl.create_default_context(cafile=endpoint["ca_file"])
        self.http = httpx.AsyncClient(base_url=self.url, verify=trust, timeout=30, trust_env=False)
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        self.channel = grpc.aio.secure_channel(self.target, credentials)
        """Through the edge."""

    @property
    def web(self) -> GrpcWebClient:
        """The browser's client."""
        return GrpcWebClient(self.url, self.ca, self.data / "edge" / "reeltune.protoset")

    @property
    def output(self) -> str:
        """What `reeltune up` has printed."""
        return (self.home / "up.log").read_text("utf-8", errors="replace")

    def port(self, name: str) -> int:
        """The port of one process: `auth`, `catalog`, `scheduler`, `trainer`, `postgres` …"""
        return int(json.loads((self.data / "ports.json").read_text())[name])

    def log(self, name: str) -> str:
        """The log of one process."""
        return (self.data / "logs" / f"{name}.log").read_text("utf-8", errors="replace")

    async def sign_up(self, name: str = "user") -> SignedIn:
        """Makes a user whose name begins with `name`."""
        username = f"{name}-{secrets.token_hex(4)}"
        body = {"username": username, "email": f"{username}@example.com", "password": PASSWORD}
        answer = await self.http.post("/v1/auth/signup", json=body)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        return SignedIn(username, said["user"]["id"], said["tokens"]["accessToken"])

    async def run(
        self, *arguments: str, timeout_seconds: float = 120, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs `reeltune …` as this mesh's user would."""
        return await asyncio.to_thread(reeltune, self.home, *arguments, timeout_seconds=timeout_seconds, stdin=stdin)

    def processes(self) -> dict[str, psutil.Process]:
        """The children of `reeltune up` and theirs, by `pid name`."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return {f"{child.pid} {child.name()}": child for child in children}

    def listener(self, name: str) -> psutil.Process:
        """The process that listens on the port of `auth`, `postgres` …: the one that serves."""
        port = self.port(name)
        for process in self.processes().values():
            with contextlib.suppress(psutil.NoSuchProcess):
                for connection in process.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                        return process
        raise AssertionError(f"nobody listens for {name} on {port}")

    async def close(self) -> None:
        """Closes the clients."""
        await self.http.aclose()
        await self.channel.close()

    async def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Sends the signal and returns the exit code."""
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, STOP_SECONDS)


@contextlib.asynccontextmanager
async def running_mesh(
    home: Path, *options: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[RunningMesh]:
    """Runs `reeltune up` on free ports with everything under `home`, and stops it when the block ends.

    `settings` are the services' own, such as `SCHEDULER_LEASE_SECONDS`.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    endpoint = home / "endpoint.json"
    endpoint.unlink(missing_ok=True)
    with (home / "up.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "reeltune_cli", "up", *(options or ("--port", "0"))],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment(home), **(settings or {})},
            start_new_session=True,
        )

    def is_ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"reeltune up ended:\n{(home / 'up.log').read_text()}")
        return endpoint.exists()

    try:
        await assert_eventually(is_ready, timeout=READY_SECONDS)
        mesh = RunningMesh(home, process)
        try:
            yield mesh
        finally:
            await mesh.close()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                await asyncio.to_thread(process.wait, STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def reeltune(
    home: Path, *arguments: str, timeout_seconds: float = 120, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    return subprocess.run(
        [sys.executable, "-m", "reeltune_cli", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        env=environment(home),
        timeout=timeout_seconds,
        check=False,
    )


def environment(home: Path) -> dict[str, str]:
    """The environment of a user of the mesh; one thread trains, as tests share the machine."""
    kept: dict[str, Any] = {"OMP_NUM_THREADS": "1", "TRAINER_THREADS": "1", **os.environ}
    return {**kept, "REELTUNE_HOME": str(home)}
