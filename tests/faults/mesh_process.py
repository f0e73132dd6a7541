"""One service of the mesh as a child process that can be killed, frozen, told to fail and given another clock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit.embedded.process import StartableServer
from meshkit.failpoints import VARIABLE
from tests.faults.clock_skew import skewed_environment

_ASK_SECONDS = 1.0
_READY_SECONDS = 60


class MeshProcess(StartableServer):
    """A service; the mesh starts it again when it dies, as long as it is wanted."""

    def __init__(
        self, name: str, data_dir: Path, target: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        super().__init__(name, data_dir, ready_timeout_seconds=_READY_SECONDS, stop_timeout_seconds=30)
        self.target = target
        self.log_path = log
        self.is_wanted = False
        self.failpoints = ""
        """For the next start; see `meshkit.failpoints`. A start after that has none."""
        self.skew_seconds = 0.0
        """How far the clock of the next starts is ahead."""
        self.starts = 0
        self._command = list(command)
        self._environment = dict(environment)
        self._is_odd = False
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Starts it and returns once it serves.

        Raises:
            ServerNotReady: it ended or was not ready in time; the text quotes its log.
        """
        self.is_wanted = True
        async with self._starting:
            if self.pid is not None:
                return
            failpoints, self.failpoints = self.failpoints, ""
            self._is_odd = bool(failpoints or self.skew_seconds)
            self.starts += 1
            environment = {**self._environment, VARIABLE: failpoints, **skewed_environment(self.skew_seconds)}
            options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
            async with grpc.aio.insecure_channel(self.target, options=options) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                await self.run_until_ready(self._command, lambda: _is_serving(stub), env=environment)

    async def restart(self, *, failpoints: str = "", skew_seconds: float = 0.0) -> None:
        """Kills it and starts it again, with failpoints armed or another clock."""
        await self.take_down()
        self.failpoints, self.skew_seconds = failpoints, skew_seconds
        await self.start()

    async def take_down(self) -> None:
        """Kills it; nobody starts it again."""
        self.is_wanted = False
        async with self._starting:
            self.thaw()
            await self.kill()

    async def make_ordinary(self) -> None:
        """Brings it back as it was made: running, with its own clock and no failpoints."""
        self.thaw()
        self.failpoints, self.skew_seconds = "", 0.0
        if self._is_odd:
            await self.take_down()
        await self.start()

    async def terminate(self) -> int:
        """Sends SIGTERM and returns the exit code; nobody starts it again."""
        self.is_wanted = False
        self.signal(signal.SIGTERM)
        return await self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it runs."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stops it in the middle of whatever it does."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on as if nothing had happened."""
        self.signal(signal.SIGCONT)

    def log(self) -> str:
        """Its log, of all its lives."""
        return self.log_path.read_text("utf-8", errors="replace") if self.log_path.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log that tell of an event."""
        found = []
        for line in self.log().splitlines():
            # What was killed may have written the half of a line.
            with contextlib.suppress(ValueError):
                event = json.loads(line) if f'"{name}"' in line else {}
                found += [event] if event.get("event") == name else []
        return found

    def reached(self, failpoint: str) -> bool:
        """Tells whether a failpoint has been reached."""
        return f"failpoint {failpoint}: " in self.log()


def service_command(name: str) -> list[str]:
    """`python -m NAME_svc`."""
    return [sys.executable, "-m", f"{name}_svc"]


async def _is_serving(stub: health_pb2_grpc.HealthStub) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_ASK_SECONDS)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False
