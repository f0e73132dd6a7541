"""The outbox: wake-ups that are still to be published."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from meshkit.postgres import Pool, Queries, transaction
from scheduler_svc.domain.ids import JobId
from scheduler_svc.domain.job import DeviceClass, WakeUp
from scheduler_svc.store.rows import Row


class OutboxStore:
    """The outbox."""

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries

    @contextlib.asynccontextmanager
    async def take(self, limit: int) -> AsyncIterator[OutboxBatch]:
        """Gives due wake-ups that nobody else has; those marked as published are gone when the block ends."""
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(self._sql.lock_due_outbox, limit)
            batch = OutboxBatch([_wake_up_from_row(row) for row in rows], rows[0]["idle_workers"] if rows else 0)
            yield batch
            if batch.published:
                await connection.execute(self._sql.delete_outbox, batch.published)

    async def republish_waiting(self) -> None:
        """Puts wake-ups of jobs that have waited long back into the outbox, and drops those that nobody needs."""
        await self._pool.execute(self._sql.republish_waiting)
        await self._pool.execute(self._sql.delete_stale_outbox)

    async def republish_all(self) -> None:
        """Puts a wake-up of every queued job into the outbox."""
        await self._pool.execute(self._sql.republish_all)

    async def next_due(self) -> timedelta | None:
        """Returns the time until the next wake-up is due; None when there is none."""
        wait: timedelta | None = await self._pool.fetchval(self._sql.next_outbox)
        return wait


class OutboxBatch:
    """Some wake-ups, locked for the one who publishes them."""

    def __init__(self, wake_ups: Sequence[WakeUp], idle_trainers: int) -> None:
        self.wake_ups = wake_ups
        self.idle_trainers = idle_trainers
        """How many could be woken."""
        self.published: list[int] = []
        """Ids of those that the broker has confirmed, and of those that need no message beside them."""


def _wake_up_from_row(row: Row) -> WakeUp:
    return WakeUp(row["id"], JobId(row["job_id"]), row["generation"], DeviceClass(row["device_class"]))
