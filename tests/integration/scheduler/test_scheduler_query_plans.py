"""Hot queries stay quick however many jobs there have been: none looks through a table that grows, and each few rows.

The stores' own calls are made, more often than it takes Postgres to settle for a generic plan, and the server's own
counters are read afterwards: which tables were scanned, which indexes used, how many rows touched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from benchmarks.bulk_jobs import fill, job_id
from meshkit.postgres import open_pool
from meshkit.testing import Database
from meshkit.testing.databases import DatabaseFactory, DatabaseSpec
from scheduler_svc.domain.events import LogLevel, LogLine, MetricPoint, Report
from scheduler_svc.domain.ids import AttemptKey, JobId, UserId
from scheduler_svc.domain.job import JobFilter, JobState
from scheduler_svc.store.census_store import CensusStore
from scheduler_svc.store.metric_store import MetricStore
from tests.integration.scheduler.scheduler_stores import GRACE, Stores

JOBS = 100_000
QUEUED, RUNNING = 300, 100
OWNERS = 40
GROWING = frozenset({"jobs", "job_events", "attempts", "metric_buckets", "device_usage"})
CALLS = 8
"""After five Postgres may plan without looking at the parameters."""
LONG = JobId(job_id(JOBS - QUEUED))
"""A running job with a long history."""
LONG_EVENTS = 60_000
OWNER = UserId(f"usr_{(JOBS - QUEUED) % OWNERS}")
FOLLOWERS = 30
"""Jobs that began with it: the oldest of its owner, so that whoever walks through the owner's jobs meets them last."""


@dataclass
class Crowd:
    """A database with many jobs, and what was done to it."""

    stores: Stores
    database: Database

    async def counters(self) -> dict[str, dict[str, int]]:
        """Returns rows of the server's counters by table and index."""
        await self.stores.pool.execute("SELECT pg_stat_force_next_flush()")
        connection = await asyncpg.connect(self.database.superuser_dsn)
        try:
            tables = await connection.fetch(
                "SELECT relname, seq_scan, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) AS tuples"
                " FROM pg_stat_user_tables"
            )
            indexes = await connection.fetch("SELECT indexrelname, idx_scan, idx_tup_read FROM pg_stat_user_indexes")
        finally:
            await connection.close()
        return {
            "scans": {row["relname"]: row["seq_scan"] for row in tables if row["relname"] in GROWING},
            "tuples": {row["relname"]: row["tuples"] for row in tables},
            "indexes": {row["indexrelname"]: row["idx_scan"] for row in indexes},
            "entries": {row["indexrelname"]: row["idx_tup_read"] for row in indexes},
        }


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def crowd(database_factory: DatabaseFactory, database_spec: DatabaseSpec) -> AsyncIterator[Crowd]:
    async with database_factory.fresh(database_spec) as database:
        # One connection: its prepared statements grow old, and its counters are all there are.
        pool = await open_pool(database.dsn, "scheduler", max_size=1, statement_timeout_seconds=120)
        try:
            stores = Stores(pool)
            async with pool.acquire() as connection:
                await fill(connection, JOBS, owners=OWNERS, queued=QUEUED, running=RUNNING)
            await _followers(pool)
            await _long_history(pool)
            yield Crowd(stores, database)
        finally:
            await pool.close()


async def _followers(pool: Any) -> None:
    """Has some jobs of each owner begin with another one."""
    await pool.execute(
        """UPDATE jobs SET recipe = 'EVALUATION',
            source_job_id = CASE owner_id WHEN $1 THEN $2 ELSE 'job_' || owner_id END
        WHERE id <= $3""",
        OWNER,
        LONG,
        job_id(FOLLOWERS * OWNERS),
    )


async def _long_history(pool: Any) -> None:
    """Gives one job many events, and buckets for its metrics."""
    await pool.execute(
        """INSERT INTO job_events (job_id, sequence, create_time, attempt, kind, level, body)
        SELECT $1, n, now(), 1, CASE n % 2 WHEN 0 THEN 'log' ELSE 'metrics' END, CASE n % 2 WHEN 0 THEN 2 END,
            CASE n % 2 WHEN 0 THEN '{"text": "x"}'::jsonb ELSE '{"step": 1, "values": {"loss": 1.0}}' END
        FROM generate_series(4, $2::bigint) AS n""",
        LONG,
        LONG_EVENTS,
        timeout=120,
    )
    await pool.execute("UPDATE jobs SET sequence = $2 WHERE id = $1", LONG, LONG_EVENTS)
    await pool.execute(
        """INSERT INTO metric_buckets (job_id, size, number, points, summaries)
        SELECT $1, size, n, size, '{"loss": [1, 2, 0.5, 1.5, 1.0, 16, 0]}'
        FROM (VALUES (16), (256), (4096)) AS sizes (size), generate_series(0, 30000 / size - 1) AS n
        ON CONFLICT (job_id, size, number) DO UPDATE SET points = excluded.points""",
        LONG,
    )
    await pool.execute("ANALYZE", timeout=120)


Act = Callable[[Stores, int], Awaitable[Any]]


async def _list(stores: Stores, condition: JobFilter, *, deep: bool = False) -> None:
    """A page of the user's jobs; a deep one begins in the middle of them."""
    middle = await stores.jobs.get(JobId(job_id(JOBS // 2 - (JOBS // 2 - int(OWNER[4:])) % OWNERS)), OWNER)
    after = (middle.create_time, middle.id) if deep else None
    assert deep or await stores.jobs.list_page(OWNER, condition, after, 51) is not None
    if deep:
        assert len(await stores.jobs.list_page(OWNER, condition, after, 51)) == 51


async def _list_followers(stores: Stores, _: int) -> None:
    """Two pages of what began with a job."""
    condition = JobFilter(source_job_id=LONG)
    newer = await stores.jobs.list_page(OWNER, condition, None, 20)
    older = await stores.jobs.list_page(OWNER, condition, (newer[-1].create_time, newer[-1].id), 20)
    assert (len(newer), len(older)) == (20, FOLLOWERS - 20)
    assert {job.source_job_id for job in (*newer, *older)} == {LONG}


async def _sweep(stores: Stores, _: int) -> None:
    assert await stores.expiry.expire_one(dice=0.5) is None
    assert await stores.expiry.next_deadline() is not None


async def _outbox(stores: Stores, _: int) -> None:
    await stores.outbox.republish_waiting()
    async with stores.outbox.take(100) as batch:
        batch.published.extend(wake_up.id for wake_up in batch.wake_ups)
    await stores.outbox.next_due()


async def _claim(stores: Stores, number: int) -> None:
    assert await stores.attempts.claim(await stores.worker()) is not None


async def _submit_and_stop(stores: Stores, _: int) -> None:
    job = await stores.submit(OWNER)
    await stores.jobs.stop(job.id, OWNER, GRACE)


async def _record(stores: Stores, number: int) -> None:
    reports = [
        Report(2 * number + 1, MetricPoint(number, {"loss": 1.0})),
        Report(2 * number + 2, LogLine(LogLevel.INFO, "x")),
    ]
    await stores.attempts.record(AttemptKey(LONG, 1), reports)


async def _renew(stores: Stores, _: int) -> None:
    await stores.attempts.status(AttemptKey(LONG, 1))
    await stores.attempts.renew_lease(AttemptKey(LONG, 1))


HOT: dict[str, tuple[Act, set[str], int]] = {
    # What is done, by which indexes at least, touching how many rows at most each time.
    "get": (lambda s, n: s.jobs.get(LONG, OWNER), {"jobs_pkey"}, 2),
    "list": (lambda s, n: _list(s, JobFilter()), {"jobs_by_owner"}, 60),
    "list from the middle": (lambda s, n: _list(s, JobFilter(), deep=True), {"jobs_by_owner"}, 60),
    "list by state": (
        lambda s, n: _list(s, JobFilter(states=frozenset({JobState.RUNNING, JobState.STARTING}))),
        {"jobs_active"},
        60,
    ),
    "list what waits": (
        lambda s, n: _list(s, JobFilter(states=frozenset({JobState.QUEUED}))),
        {"jobs_queued"},
        60,
    ),
    "list what began with a job": (_list_followers, {"jobs_by_source"}, 2 * FOLLOWERS),
    "claim": (_claim, {"jobs_queued"}, 2500),
    "submit and stop": (_submit_and_stop, {"jobs_pkey"}, 120),
    "sweep": (_sweep, {"jobs_active"}, 2 * RUNNING + 40),
    "outbox": (_outbox, {"jobs_queued"}, 3 * QUEUED),
    "watch": (lambda s, n: s.events.list_events(LONG, LONG_EVENTS - 100, 500), {"job_events_pkey"}, 150),
    "watch from the beginning": (lambda s, n: s.events.list_events(LONG, 0, 500), {"job_events_pkey"}, 510),
    "logs": (lambda s, n: s.events.list_logs(LONG, 30_000, 100, LogLevel.INFO), {"job_events_logs"}, 110),
    "metrics": (lambda s, n: s.events.list_metrics(LONG, 30_000, 100), {"job_events_metrics"}, 110),
    "metrics in buckets": (
        lambda s, n: MetricStore(s.pool, s.queries).summarize(LONG, 1000),
        {"metric_buckets_pkey"},
        2000,
    ),
    "record": (_record, {"jobs_pkey", "metric_buckets_pkey"}, 60),
    "heartbeat": (_renew, {"jobs_pkey", "attempts_pkey"}, 20),
}


@pytest.mark.parametrize("name", HOT)
async def test_a_hot_query_uses_its_index_and_touches_few_rows(crowd: Crowd, name: str) -> None:
    act, indexes, most_rows = HOT[name]
    before = await crowd.counters()
    for number in range(CALLS):
        await act(crowd.stores, number)
    after = await crowd.counters()
    grown = {
        kind: {key: after[kind][key] - before[kind].get(key, 0) for key in after[kind] if after[kind][key]}
        for kind in after
    }
    scanned = [table for table, scans in grown["scans"].items() if scans > 0]
    assert not scanned, f"{name} reads all of {scanned}"
    used = {index for index, scans in grown["indexes"].items() if scans > 0}
    # By prefix: of two indexes on the same jobs either will do.
    assert all(any(index.startswith(wanted) for index in used) for wanted in indexes), f"{name} uses {sorted(used)}"
    rows = sum(grown["tuples"][table] for table in GROWING if table in grown["tuples"]) / CALLS
    assert rows <= most_rows, f"{name} touches {rows:.0f} rows of growing tables each time, by {sorted(used)}"
    entries = max(grown["entries"].values(), default=0) / CALLS
    assert entries <= 2 * most_rows, f"{name} reads {entries:.0f} entries of one index each time: {grown['entries']}"


async def test_no_growing_table_is_scanned_when_the_queue_is_viewed(crowd: Crowd) -> None:
    queue_store = pytest.importorskip("scheduler_svc.store.queue_store")
    store = queue_store.QueueStore(crowd.stores.pool, crowd.stores.queries, crowd.stores.lease)
    before = await crowd.counters()
    for _ in range(CALLS):
        assert len((await store.read()).jobs) > 0
    after = await crowd.counters()
    assert before["scans"] == after["scans"]


async def test_no_growing_table_is_scanned_when_everything_is_counted(crowd: Crowd) -> None:
    census = CensusStore(crowd.stores.pool, crowd.stores.queries, crowd.stores.lease)
    before = await crowd.counters()
    for _ in range(CALLS):
        assert await census.count()
    after = await crowd.counters()
    assert before["scans"] == after["scans"]
    rows = (after["tuples"]["jobs"] - before["tuples"]["jobs"]) / CALLS
    # Live jobs, and for each trainer whether it has one.
    assert rows <= 2 * (QUEUED + RUNNING), f"{rows:.0f} jobs are looked at"
