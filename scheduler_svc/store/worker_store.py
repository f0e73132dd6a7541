"""Registered trainers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from meshkit.postgres import Pool, Queries
from scheduler_svc.domain.errors import WorkerNotFound
from scheduler_svc.domain.ids import WorkerId
from scheduler_svc.domain.job import DeviceClass, Recipe
from scheduler_svc.domain.worker import Device, Worker
from scheduler_svc.store.rows import worker_from_row


class WorkerStore:
    """Workers: visible to every signed-in user."""

    def __init__(self, pool: Pool, queries: Queries, lease: timedelta) -> None:
        self._pool = pool
        self._sql = queries
        self._lease = lease

    async def register(
        self, worker_id: WorkerId, name: str, device: Device, version: str, recipes: Sequence[Recipe]
    ) -> None:
        """Makes a worker known, or brings a known one up to date."""
        await self._pool.execute(
            self._sql.upsert_worker,
            worker_id,
            name,
            device.device_class,
            device.can_train_4bit,
            asdict(device),
            version,
            device.device_count,
            device.memory_bytes,
            list(recipes),
        )

    async def get(self, worker_id: WorkerId) -> Worker:
        """Returns a worker. Raises WorkerNotFound."""
        row = await self._pool.fetchrow(self._sql.select_worker, worker_id, self._lease)
        if row is None:
            raise WorkerNotFound(worker_id)
        return worker_from_row(row)

    async def list_page(self, after: tuple[str, str] | None, limit: int) -> Sequence[Worker]:
        """Returns workers by name, from after a position on."""
        rows = await self._pool.fetch(self._sql.list_workers, *(after or (None, None)), limit, self._lease)
        return [worker_from_row(row) for row in rows]

    async def four_bit_problem(self, device_class: DeviceClass) -> str | None:
        """Returns why no known worker of the class can train 4-bit layers; None when one can, or none is known."""
        row = await self._pool.fetchrow(self._sql.four_bit_problem, device_class)
        return (row["problem"] or "its probe failed") if row is not None and row["all_unfit"] else None

    async def forget_lost(self, age: timedelta) -> None:
        """Forgets workers that have not been heard of for so long."""
        await self._pool.execute(self._sql.delete_lost_workers, age)
