"""Metrics in buckets: kept as points are recorded, read however many there are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from meshkit.postgres import Connection, Pool, Queries
from scheduler_svc.domain.events import MetricPoint
from scheduler_svc.domain.ids import JobId
from scheduler_svc.domain.metric_buckets import (
    MOST_ROWS,
    SIZES,
    Bucket,
    Summaries,
    Summary,
    condense,
    extend,
    size_for,
)
from scheduler_svc.store.rows import Row, event_from_row


class MetricStore:
    """Reads metrics in buckets; whether the caller may see the job is checked before, by `JobStore.get`."""

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries

    async def summarize(
        self, job_id: JobId, max_buckets: int, names: frozenset[str] | None = None
    ) -> Mapping[str, Sequence[Summary]]:
        """Returns each metric, or those named, in at most so many buckets over the whole job."""
        newest = await self._pool.fetch(self._sql.newest_metric_buckets, job_id, SIZES[:1])
        size = size_for(max((_bucket_from_row(row).end for row in newest), default=0))
        rows = await (self._points(job_id) if size == 1 else self._buckets(job_id, size))
        return condense(rows, max_buckets, names)

    async def _points(self, job_id: JobId) -> list[Summaries]:
        rows = await self._pool.fetch(self._sql.list_metrics, job_id, 0, MOST_ROWS)
        points = [event_from_row(row).body for row in rows]
        return [
            {name: Summary.of(point.step, value) for name, value in point.values.items()}
            for point in points
            if isinstance(point, MetricPoint)
        ]

    async def _buckets(self, job_id: JobId, size: int) -> list[Summaries]:
        rows = await self._pool.fetch(self._sql.list_metric_buckets, job_id, size)
        return [_summaries_from_json(row["summaries"]) for row in rows]


async def add_to_buckets(
    connection: Connection, queries: Queries, job_id: JobId, points: Sequence[MetricPoint]
) -> None:
    """Takes new points into their job's buckets, inside the transaction that has locked the job and records them."""
    if not points:
        return
    newest = await connection.fetch(queries.newest_metric_buckets, job_id, SIZES)
    changed = extend([_bucket_from_row(row) for row in newest], points)
    await connection.execute(
        queries.upsert_metric_buckets,
        job_id,
        [bucket.size for bucket in changed],
        [bucket.number for bucket in changed],
        [bucket.points for bucket in changed],
        [_summaries_to_json(bucket.summaries) for bucket in changed],
    )


def _bucket_from_row(row: Row) -> Bucket:
    return Bucket(row["size"], row["number"], row["points"], _summaries_from_json(row["summaries"]))


def _summaries_from_json(value: Mapping[str, Sequence[Any]]) -> dict[str, Summary]:
    return {name: _summary_from_json(*summary) for name, summary in value.items()}


def _summary_from_json(
    first: int, last: int, least: Any, greatest: Any, value: Any, count: int, nan_count: int
) -> Summary:
    # JSON has no NaN and no infinities: they stand there by name, and `float` reads them.
    return Summary(
        first,
        last,
        None if least is None else float(least),
        None if greatest is None else float(greatest),
        float(value),
        count,
        nan_count,
    )


def _summaries_to_json(summaries: Mapping[str, Summary]) -> str:
    return json.dumps({name: _summary_to_json(summary) for name, summary in summaries.items()}, allow_nan=False)


def _summary_to_json(summary: Summary) -> list[Any]:
    values = (summary.least, summary.greatest, summary.last)
    least, greatest, last = (value if value is None or math.isfinite(value) else repr(value) for value in values)
    return [summary.first_step, summary.last_step, least, greatest, last, summary.count, summary.nan_count]
