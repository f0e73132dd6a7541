"""A replica as a process of its own, that can be killed and started again at the same address."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from meshkit.embedded import free_ports
from meshkit.embedded.process import StartableServer
from scheduler_svc.settings import SchedulerSettings


class ReplicaProcess(StartableServer):
    """`python -m scheduler_svc` with the settings of a replica that runs inside the test."""

    def __init__(self, settings: SchedulerSettings, folder: Path) -> None:
        super().__init__("scheduler", folder, ready_timeout_seconds=60, stop_timeout_seconds=30)
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("SCHEDULER_")}
        for name, value in settings.model_copy(update={"port": port}):
            text = value.get_secret_value() if isinstance(value, SecretStr) else value
            if text is not None:
                self._environment[f"SCHEDULER_{name.upper()}"] = str(text)

    async def start(self) -> None:
        """Starts it and returns once it serves."""
        async with grpc.aio.insecure_channel(self.address, options=RECONNECT_QUICKLY) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            await self.run_until_ready(
                [sys.executable, "-m", "scheduler_svc"], lambda: _is_serving(stub), env=self._environment
            )


RECONNECT_QUICKLY = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]


async def _is_serving(stub: health_pb2_grpc.HealthStub) -> bool:
    try:
        response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
    except grpc.aio.AioRpcError:
        return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
