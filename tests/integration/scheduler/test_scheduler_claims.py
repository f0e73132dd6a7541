"""Who gets which job."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import asyncpg
import pytest

from scheduler_svc.domain.errors import WorkerNotFound
from scheduler_svc.domain.ids import AttemptKey, UserId, WorkerId
from scheduler_svc.domain.job import DeviceClass, JobState, StateReason
from scheduler_svc.domain.parameters import QuantizationParameters, QuantizationType, TrainingParameters
from tests.integration.scheduler.scheduler_stores import Stores, check_history

NOT_QUANTIZED = replace(TrainingParameters(), quantization=QuantizationParameters(QuantizationType.NONE))


async def test_eight_claimers_get_each_job_exactly_once(stores: Stores, other_replica: Stores) -> None:
    jobs = {(await stores.submit(UserId(f"usr_{number % 5}"))).id for number in range(40)}
    got: list[str] = []

    async def claim_all(replica: Stores) -> None:
        worker = await replica.worker()
        while (job := await replica.attempts.claim(worker)) is not None:
            assert (job.state, job.attempt, job.worker_id) == (JobState.STARTING, 1, worker)
            got.append(job.id)

    async def until_empty(replica: Stores) -> None:
        # A claimer may find everything locked by the others and see nothing for a moment.
        while await stores.pool.fetchval("SELECT count(*) FROM jobs WHERE state = 'QUEUED'"):
            await claim_all(replica)

    await asyncio.gather(*(until_empty(replica) for replica in (stores, other_replica) for _ in range(4)))
    assert Counter(got) == Counter(jobs)
    for job_id in jobs:
        check_history(await stores.history(job_id))


async def test_oldest_first_and_the_user_with_the_fewest_running_jobs_first(stores: Stores) -> None:
    busy, quiet = UserId("usr_busy"), UserId("usr_quiet")
    busy_jobs = [(await stores.submit(busy)).id for _ in range(3)]
    quiet_jobs = [(await stores.submit(quiet)).id for _ in range(2)]
    order = [(await stores.claimed()).job_id for _ in range(5)]
    assert order == [busy_jobs[0], quiet_jobs[0], busy_jobs[1], quiet_jobs[1], busy_jobs[2]]


async def test_only_a_fitting_worker_gets_a_job(stores: Stores) -> None:
    for_cuda = await stores.submit(device_class=DeviceClass.CUDA)
    needs_4bit = await stores.submit()
    plain = await stores.submit(parameters=NOT_QUANTIZED)
    cpu = await stores.worker("CPU", can_train_4bit=False)
    assert (await stores.claimed(cpu)).job_id == plain.id
    assert await stores.attempts.claim(cpu) is None
    assert (await stores.claimed(await stores.worker("CPU"))).job_id == needs_4bit.id
    assert (await stores.claimed(await stores.worker("CUDA"))).job_id == for_cuda.id


async def test_a_worker_that_proved_unfit_is_not_asked_again(stores: Stores) -> None:
    await stores.submit()
    unfit, other = await stores.worker(), await stores.worker()
    key = await stores.claimed(unfit)
    assert await stores.attempts.fail(key, StateReason.DEVICE_UNFIT, "no kernel", dice=0) is JobState.QUEUED
    await stores.make_due(key.job_id)
    assert await stores.attempts.claim(unfit) is None
    assert await stores.claimed(other) == AttemptKey(key.job_id, 2)


async def test_backoff_keeps_a_job_from_the_workers(stores: Stores) -> None:
    key = await stores.running()
    await stores.attempts.fail(key, StateReason.STORAGE_UNAVAILABLE, "", dice=1)
    worker = await stores.worker()
    assert await stores.attempts.claim(worker) is None
    await stores.make_due(key.job_id)
    assert await stores.claimed(worker) == AttemptKey(key.job_id, 2)


async def test_an_unknown_worker_gets_nothing(stores: Stores) -> None:
    await stores.submit()
    with pytest.raises(WorkerNotFound):
        await stores.attempts.claim(WorkerId("wrk_unknown"))


async def test_the_database_itself_refuses_illegal_changes(stores: Stores) -> None:
    key = await stores.running()
    await stores.jobs.stop(key.job_id, UserId("usr_owner"), stores.lease)
    for statement in (
        "UPDATE jobs SET state = 'COMPLETED', end_time = now(), lease_expire_time = NULL, artifact_attempt = 1",
        "UPDATE jobs SET state = 'RUNNING'",
        "UPDATE jobs SET state = 'PAUSED'",
        "UPDATE jobs SET state = 'STOPPED'",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await stores.pool.execute(statement)


async def test_hot_queries_use_their_indices(stores: Stores) -> None:
    await stores.pool.execute(
        """
        INSERT INTO jobs (id, owner_id, name, model_id, dataset_id, parameters, device_class, needs_4bit, state, reason,
            queue_time, not_before, republish_time, create_time, update_time, end_time)
        SELECT 'job_' || n, 'usr_' || n % 50, '', 'm', 'd', '{}', 'ANY', true, 'STOPPED', 'STOP_REQUESTED',
            now(), now(), now(), now(), now(), now()
        FROM generate_series(1, 20000) AS n
        """
    )
    await stores.pool.execute(
        """
        INSERT INTO job_events (job_id, sequence, create_time, attempt, kind, body)
        SELECT 'job_1', n, now(), 1, 'metrics', '{}' FROM generate_series(1, 20000) AS n
        """
    )
    for number in range(5):
        await stores.submit(UserId(f"usr_{number}"))
    await stores.pool.execute("ANALYZE jobs, job_events")
    sql = stores.jobs._sql
    for query, arguments, index in (
        (sql.choose_next_job, ("wrk_1", stores.lease, []), "jobs_queued"),
        (sql.lock_expired_job, (), "jobs_active"),
        (sql.list_jobs, ("usr_1", *[None] * 6, [], [], [], [], None, [], 50), "jobs_by_owner"),
        (sql.list_events, ("job_1", 19_900, 100), "job_events_pkey"),
        (sql.list_metrics, ("job_1", 10_000, 100), "job_events_metrics"),
    ):
        plan = "\n".join(row[0] for row in await stores.pool.fetch(f"EXPLAIN {query}", *arguments))
        assert index in plan, plan
        assert "Seq Scan on jobs" not in plan.replace("Seq Scan on jobs_", ""), plan
        assert "Seq Scan on job_events" not in plan, plan
