"""Metrics in buckets: kept with the points, true to them, and quick however many there are."""

from __future__ import annotations

import json
import math
import random
import re
import time
from pathlib import Path

import pytest

from scheduler_svc.domain.events import MetricPoint, Report
from scheduler_svc.domain.ids import AttemptKey
from scheduler_svc.domain.job import StateReason
from scheduler_svc.domain.metric_buckets import Summary
from scheduler_svc.store.metric_store import MetricStore
from tests.integration.scheduler.scheduler_stores import OWNER, Stores
from tests.unit.scheduler.test_scheduler_metric_buckets import reference, shown

MIGRATIONS = Path(__file__).parents[3] / "scheduler_svc" / "sql" / "migrations"


class Training:
    """A job whose trainer reports metrics, dies, and goes on from a checkpoint."""

    def __init__(self, stores: Stores, key: AttemptKey) -> None:
        self.stores = stores
        self.key = key
        self.points: list[MetricPoint] = []
        self._report = 1

    async def measure(self, *points: MetricPoint) -> None:
        reports = [Report(self._report + number, point) for number, point in enumerate(points, start=1)]
        await self.stores.attempts.record(self.key, reports)
        await self.stores.attempts.record(self.key, reports[-2:])  # a trainer that reconnects sends some again
        self._report += len(points)
        self.points += points

    async def start_again(self) -> None:
        await self.stores.attempts.fail(self.key, StateReason.PREEMPTED, "", dice=0.5)
        await self.stores.make_due(self.key.job_id)
        self.key = await self.stores.claimed()
        self._report = 0


async def test_buckets_are_those_of_the_points_whatever_happens_on_the_way(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, record_property: pytest.RecordProperty
) -> None:
    seed = random.randrange(2**32)
    record_property("seed", seed)
    dice = random.Random(seed)
    training = Training(stores, await stores.running())
    job_id = training.key.job_id
    step = 0
    for _ in range(40):
        batch = []
        for _ in range(dice.randrange(1, 40)):
            step += 1
            values = {"loss": dice.choice([dice.random(), math.nan, math.inf, -math.inf, 1e300, -0.5])}
            if step % 10 == 0:
                values["eval_loss"] = float(step)
            batch.append(MetricPoint(step, values))
        await training.measure(*batch)
        if dice.random() < 0.2:
            await training.start_again()
            step = max(0, step - dice.randrange(30))
    metrics = MetricStore(stores.pool, stores.queries)
    count = len(training.points)
    for most_rows in (4096, count // 16 + 1, count // 256 + 1):
        # As if the job had more points: the same answer from the points themselves and from buckets of each size.
        monkeypatch.setattr("scheduler_svc.domain.metric_buckets.MOST_ROWS", most_rows)
        size = {4096: 1, count // 16 + 1: 16}.get(most_rows, 256)
        for max_buckets in (1, 7, 10_000):
            group = size * math.ceil(math.ceil(count / size) / max_buckets)
            stretches = [training.points[at : at + group] for at in range(0, count, group)]
            for names in (None, frozenset({"loss"})):
                series = await metrics.summarize(job_id, max_buckets, names)
                for name in ("loss", "eval_loss"):
                    expected = [reference(stretch)[name] for stretch in stretches if name in reference(stretch)]
                    wanted = names is None or name in names
                    assert [shown(bucket) for bucket in series.get(name, ())] == expected * wanted, f"seed {seed}"
    await stores.attempts.fail(training.key, StateReason.BAD_DATA, "", dice=0.5)
    await stores.jobs.delete(job_id, OWNER)
    assert await stores.pool.fetchval("SELECT count(*) FROM metric_buckets") == 0


async def test_nothing_of_a_fenced_attempt_is_in_the_buckets(stores: Stores) -> None:
    training = Training(stores, await stores.running())
    await training.measure(MetricPoint(1, {"loss": 1.0}))
    stale = training.key
    await training.start_again()
    with pytest.raises(Exception, match="fenced"):
        await stores.attempts.record(stale, [Report(9, MetricPoint(2, {"loss": -1.0}))])
    await training.measure(MetricPoint(2, {"loss": 0.5}))
    series = await MetricStore(stores.pool, stores.queries).summarize(stale.job_id, 1)
    assert series == {"loss": [Summary(1, 2, 0.5, 1.0, 0.5, count=2)]}


async def test_the_migration_puts_into_buckets_what_is_there(stores: Stores) -> None:
    for length in (1, 40):
        training = Training(stores, await stores.running())
        for step in range(length):
            values = {"loss": [1.5, math.nan, math.inf, -math.inf, 1e-300][step % 5]}
            values |= {"rare": 2.5} if step == 7 else {}
            await training.measure(MetricPoint(step, values), MetricPoint(step, {}))
    query = "SELECT * FROM metric_buckets ORDER BY job_id, size, number"
    kept = [dict(row) for row in await stores.pool.fetch(query)]
    await stores.pool.execute("DELETE FROM metric_buckets")
    (file,) = MIGRATIONS.glob("*_create_metric_buckets.sql")
    backfill = re.search(r"INSERT INTO metric_buckets.*", file.read_text(), re.DOTALL)
    assert backfill is not None
    await stores.pool.execute(backfill[0])
    made = [dict(row) for row in await stores.pool.fetch(query)]

    def plain(rows: list[dict[str, object]]) -> str:
        text = json.dumps(rows, sort_keys=True)
        return text.replace('"-Infinity"', '"-inf"').replace('"Infinity"', '"inf"').replace('"NaN"', '"nan"')

    assert len(kept) == 3 + 5 + 1 + 1
    assert plain(made) == plain(kept)


async def test_a_million_points_are_told_in_a_moment(stores: Stores, record_property: pytest.RecordProperty) -> None:
    """Eight metrics at each of a million steps. Only the buckets are there: a series needs nothing else."""
    key = await stores.running()
    await stores.pool.execute(
        """INSERT INTO metric_buckets
        SELECT $1, size, number, points, (
            SELECT jsonb_object_agg(
                'metric_' || metric, jsonb_build_array(first, first + points - 1, -number, number, 1.25, points, 0)
            ) FROM generate_series(1, 8) AS metric
        )
        FROM (VALUES (16), (256)) AS sizes (size), generate_series(0, 999999 / size) AS number,
            LATERAL (SELECT number * size AS first, least(size, 1000000 - number * size) AS points) AS stretch""",
        key.job_id,
    )
    metrics = MetricStore(stores.pool, stores.queries)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        series = await metrics.summarize(key.job_id, 1000)
        times.append(time.perf_counter() - began)
        assert len(series) == 8
        for buckets in series.values():
            assert 256 <= len(buckets) <= 1000
            assert sum(bucket.count for bucket in buckets) == 1_000_000
            assert (buckets[0].first_step, buckets[-1].last_step) == (0, 999_999)
    record_property("median_seconds", sorted(times)[2])
    assert min(times) < 0.5, times
