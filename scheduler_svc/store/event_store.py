"""A job's history."""

from __future__ import annotations

from collections.abc import Sequence

from meshkit.postgres import Pool, Queries
from scheduler_svc.domain.events import JobEvent, LogLevel
from scheduler_svc.domain.ids import JobId
from scheduler_svc.store.rows import event_from_row


class EventStore:
    """Reads events in order; whether the caller may see the job is checked before, by `JobStore.get`."""

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries

    async def list_events(self, job_id: JobId, after_sequence: int, limit: int) -> Sequence[JobEvent]:
        """Returns events of every kind."""
        rows = await self._pool.fetch(self._sql.list_events, job_id, after_sequence, limit)
        return [event_from_row(row) for row in rows]

    async def list_logs(
        self, job_id: JobId, after_sequence: int, limit: int, min_level: LogLevel
    ) -> Sequence[JobEvent]:
        """Returns log lines of at least a level."""
        rows = await self._pool.fetch(self._sql.list_logs, job_id, after_sequence, limit, min_level)
        return [event_from_row(row) for row in rows]

    async def list_metrics(self, job_id: JobId, after_sequence: int, limit: int) -> Sequence[JobEvent]:
        """Returns metrics."""
        rows = await self._pool.fetch(self._sql.list_metrics, job_id, after_sequence, limit)
        return [event_from_row(row) for row in rows]
