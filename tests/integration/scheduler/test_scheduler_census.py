"""What is counted is what is there: gauges of queue and trainers, counters and log lines of what is committed."""

from __future__ import annotations

from datetime import timedelta

import pytest
import structlog

from meshkit.postgres import Queries, transaction
from scheduler_svc import metrics
from scheduler_svc.domain.ids import UserId
from scheduler_svc.domain.job import DeviceClass, JobState, StateReason
from scheduler_svc.domain.lifecycle import Actor
from scheduler_svc.store.attempt_store import lock_attempt
from scheduler_svc.store.census_store import CensusStore
from scheduler_svc.store.job_changes import Change, change_state
from tests.integration.scheduler.scheduler_stores import OWNER, Stores


async def test_the_census_counts_queue_and_trainers(stores: Stores) -> None:
    census = CensusStore(stores.pool, stores.queries, timedelta(seconds=30))
    gauges = await _counted(census)
    assert gauges["reeltune_scheduler_queue_depth"] == {(each,): 0 for each in DeviceClass}
    assert gauges["reeltune_scheduler_trainers"]["CUDA", "ready"] == 0

    key = await stores.running()  # on a trainer of its own
    paused = await stores.submit()
    await stores.jobs.pause(paused.id, OWNER)
    delayed = await stores.submit()
    await stores.pool.execute("UPDATE jobs SET not_before = now() + interval '1 h' WHERE id = $1", delayed.id)
    old = await stores.submit()
    await stores.pool.execute(
        "UPDATE jobs SET queue_time = now() - interval '90 s', not_before = now() - interval '60 s' WHERE id = $1",
        old.id,
    )
    draining, gone = await stores.worker(), await stores.worker("CUDA")
    await stores.worker("CUDA")
    await stores.workers.drain(draining, None)
    await stores.pool.execute("UPDATE workers SET heartbeat_time = now() - interval '1 h' WHERE id = $1", gone)

    gauges = await _counted(census)
    assert gauges["reeltune_scheduler_queue_depth"][old.needs.device_class,] == 1
    # Since it could have been taken, not since it was asked for.
    assert 60 <= gauges["reeltune_scheduler_queue_oldest_age_seconds"][old.needs.device_class,] < 85
    assert gauges["reeltune_scheduler_queue_held"][old.needs.device_class, "paused"] == 1
    assert gauges["reeltune_scheduler_queue_held"][old.needs.device_class, "delayed"] == 1
    assert gauges["reeltune_scheduler_jobs"]["QUEUED", "QLORA"] == 3
    assert gauges["reeltune_scheduler_jobs"]["RUNNING", "QLORA"] == 1
    trainers = gauges["reeltune_scheduler_trainers"]
    assert {each: count for each, count in trainers.items() if count} == {
        ("CPU", "busy"): 1,
        ("CPU", "draining"): 1,
        ("CUDA", "ready"): 1,
        ("CUDA", "gone"): 1,
    }
    assert gauges["reeltune_scheduler_outbox_due"][()] >= 1
    assert key.attempt == 1


async def test_what_an_owners_limits_hold_back_asks_for_no_trainer(stores: Stores) -> None:
    census = CensusStore(stores.pool, stores.queries, timedelta(seconds=30))
    await stores.running()
    jobs = [await stores.submit() for _ in range(3)]
    others = await stores.submit(UserId("usr_other"))
    needs = jobs[0].needs.device_class
    assert others.needs.device_class == needs

    async def counted() -> tuple[float, float]:
        gauges = await _counted(census)
        assert gauges["reeltune_scheduler_jobs"]["QUEUED", "QLORA"] == 4
        return gauges["reeltune_scheduler_queue_depth"][needs,], gauges["reeltune_scheduler_queue_held"][
            needs, "limited"
        ]

    await stores.pool.execute(
        "INSERT INTO quotas (user_id, update_time) VALUES ('default', now()) ON CONFLICT DO NOTHING"
    )
    limit = "UPDATE quotas SET {} = {} WHERE user_id = 'default'"
    for running, expected in (("NULL", (4, 0)), ("3", (3, 1)), ("1", (1, 3)), ("0", (0, 4))):
        await stores.pool.execute(limit.format("running_jobs", running))
        assert await counted() == expected, running
    await stores.pool.execute(limit.format("running_jobs", "NULL"))
    await stores.pool.execute("UPDATE device_usage SET start_time = now() - interval '3 h'")
    await stores.pool.execute(limit.format("device_hours_per_day", "2"))
    assert await counted() == (1, 3), "the other owner has used none"


async def test_a_replica_counts_what_only_a_newer_one_knows(stores: Stores) -> None:
    census = CensusStore(stores.pool, stores.queries, timedelta(seconds=30))
    # As they would come from a schema that is a release ahead; here, constraints would refuse them.
    rows = {
        "count_queue": "SELECT 'NPU' AS device_class, 'DISTILLATION' AS recipe, 2 AS claimable, 7 AS oldest_seconds, "
        "1 AS paused, 0 AS delayed, 0 AS limited",
        "count_held": "SELECT 'RUNNING' AS state, 'DISTILLATION' AS recipe, 1 AS jobs",
        "count_trainers": stores.queries.count_trainers,
        "count_backlog": stores.queries.count_backlog,
    }
    newer = CensusStore(stores.pool, Queries(rows), timedelta(seconds=30))
    assert (await _counted(census)).keys() == (gauges := await _counted(newer)).keys()
    assert gauges["reeltune_scheduler_queue_depth"]["NPU",] == 2
    assert gauges["reeltune_scheduler_queue_oldest_age_seconds"]["NPU",] == 7
    assert gauges["reeltune_scheduler_queue_held"]["NPU", "paused"] == 1
    assert gauges["reeltune_scheduler_jobs"]["QUEUED", "DISTILLATION"] == 3
    assert gauges["reeltune_scheduler_jobs"]["RUNNING", "DISTILLATION"] == 1


async def test_changes_are_counted_and_logged_with_their_reason(stores: Stores) -> None:
    lost = {"outcome": "LEASE_LOST", "ended_by": "sweeper"}
    back = {"from_state": "RUNNING", "to_state": "QUEUED", "reason": "LEASE_LOST", "kind": "QLORA"}
    lost_before, back_before = _value(metrics.ATTEMPTS_ENDED, lost), _value(metrics.JOB_CHANGES, back)
    taken_before = _value(metrics.QUEUE_WAIT, {"device_class": "ANY"}, "_count")
    key = await stores.running()
    await stores.expire(key.job_id)
    with structlog.testing.capture_logs() as lines:
        await stores.sweep()
    assert _value(metrics.ATTEMPTS_ENDED, lost) == lost_before + 1
    assert _value(metrics.JOB_CHANGES, back) == back_before + 1
    assert _value(metrics.QUEUE_WAIT, {"device_class": "ANY"}, "_count") == taken_before + 1
    (line,) = [line for line in lines if line["event"] == "job.state_changed"]
    assert (line["job_id"], line["attempt"], line["reason"]) == (key.job_id, key.attempt, StateReason.LEASE_LOST)
    assert (line["from_state"], line["to_state"], line["actor"]) == ("RUNNING", "QUEUED", "sweeper")


async def test_what_is_rolled_back_is_neither_counted_nor_logged(stores: Stores) -> None:
    key = await stores.running()
    labels = {"from_state": "RUNNING", "to_state": "STOPPING", "reason": "STOP_REQUESTED", "kind": "QLORA"}
    before = _value(metrics.JOB_CHANGES, labels)
    change = Change(JobState.STOPPING, Actor.USER, StateReason.STOP_REQUESTED)

    async def change_and_fail() -> None:
        async with transaction(stores.pool) as connection:
            locked = await lock_attempt(connection, stores.queries, key)
            await change_state(connection, stores.queries, locked, change)
            raise ZeroDivisionError

    with structlog.testing.capture_logs() as lines, pytest.raises(ZeroDivisionError):
        await change_and_fail()
    assert _value(metrics.JOB_CHANGES, labels) == before
    assert "job.state_changed" not in {line["event"] for line in lines}


async def _counted(census: CensusStore) -> dict[str, dict[tuple[str, ...], float]]:
    return {reading.name: dict(reading.values) for reading in await census.count()}


def _value(metric: object, labels: dict[str, str], suffix: str = "_total") -> float:
    name = metric._name + suffix  # type: ignore[attr-defined]  # there is no public way to ask a metric for its name
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0
