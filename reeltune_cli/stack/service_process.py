"""One of the mesh's own services as a child process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit.embedded.process import StartableServer

_ASK_SECONDS = 2.0


class ServiceProcess(StartableServer):
    """`python -m <name>_svc`, ready when its health check says SERVING."""

    def __init__(
        self, name: str, data_dir: Path, target: str, environment: Mapping[str, str], *, stop_timeout_seconds: float
    ) -> None:
        super().__init__(name, data_dir, ready_timeout_seconds=90, stop_timeout_seconds=stop_timeout_seconds)
        self.target = target
        self._environment = dict(environment)

    async def start(self) -> None:
        """Starts the service and returns once it serves.

        Raises:
            ServerNotReady: it ended or was not ready in time; the text quotes its log.
        """
        channel = grpc.aio.insecure_channel(
            self.target, options=[("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        )
        async with channel:
            stub = health_pb2_grpc.HealthStub(channel)
            command = [sys.executable, "-m", f"{self.name}_svc"]
            await self.run_until_ready(command, lambda: _is_serving(stub), env=self._environment)


async def _is_serving(stub: health_pb2_grpc.HealthStub) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_ASK_SECONDS)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False
