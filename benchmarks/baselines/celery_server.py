"""The baseline of `job_accept` as processes: RabbitMQ, and FastAPI under uvicorn."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from benchmarks.baselines.celery_job import CREATE_TABLE
from benchmarks.baselines.rabbitmq import RabbitServer
from meshkit.embedded import PostgresServer, free_port
from meshkit.embedded.process import StartableServer

_SCHEMA = "baseline"


@asynccontextmanager
async def celery_service(
    folder: Path, postgres: PostgresServer, jwks: Mapping[str, Any], *, workers: int
) -> AsyncIterator[int]:
    """Runs the service on an empty table in a schema of its own in `postgres`; gives its port.

    Raises:
        FileNotFoundError: RabbitMQ is not installed; the text says how to.
    """
    dsn = await postgres.create_role_and_schema(_SCHEMA, secrets.token_urlsafe(24), _SCHEMA)
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"DROP TABLE IF EXISTS jobs; {CREATE_TABLE}")
    await connection.close()
    broker = RabbitServer(folder / "rabbitmq")
    await broker.start()
    try:
        environment = {
            "BASELINE_POSTGRES_DSN": dsn,
            "BASELINE_BROKER": broker.url,
            "BASELINE_JWKS": json.dumps(jwks),
        }
        service = _Uvicorn(folder / "uvicorn", environment, workers)
        await service.start()
        try:
            yield service.port
        finally:
            await service.stop()
    finally:
        await broker.stop()


class _Uvicorn(StartableServer):
    """The service, with uvloop and httptools, and without an access log, which ours writes."""

    def __init__(self, folder: Path, environment: Mapping[str, str], workers: int) -> None:
        super().__init__("uvicorn", folder)
        self.port = free_port()
        self._environment = environment
        self._workers = workers

    async def start(self) -> None:
        """Starts it and returns once it answers."""
        app = "benchmarks.baselines.celery_service:app"
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--workers", str(self._workers))
        command = [sys.executable, "-m", "uvicorn", app, *where, "--no-access-log", "--log-level", "warning"]
        await self.run_until_ready(command, self._answers, env=self._environment)

    async def _answers(self) -> bool:
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            try:
                return (await client.get(f"http://127.0.0.1:{self.port}/health")).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False
