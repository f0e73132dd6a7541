"""Quotas hold whoever asks at the same time, and what is stored is counted right whatever happens to it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from meshkit.postgres import transaction
from meshkit.testing import assert_eventually
from scheduler_svc.domain.errors import EtagMismatch, JobInUse, QuotaExceeded
from scheduler_svc.domain.files import StoredFile
from scheduler_svc.domain.ids import AttemptKey, UserId
from scheduler_svc.domain.job import Job, JobState, Recipe, StateReason
from scheduler_svc.domain.quota import EVERYBODY, Limit, Quota, QuotaChange
from scheduler_svc.domain.request_key import RequestKey
from tests.integration.scheduler.scheduler_stores import OWNER, Stores, files_of, submission

A, B = UserId("usr_a"), UserId("usr_b")


async def limit(stores: Stores, user_id: UserId, **limits: Any) -> Quota:
    """Sets limits of a user."""
    change = QuotaChange(frozenset(Limit(name) for name in limits), Quota(user_id, **limits))
    return await stores.quotas.update(user_id, change, "", None)


async def test_thirty_submissions_at_once_on_two_replicas_stop_at_the_limit(
    stores: Stores, other_replica: Stores
) -> None:
    await limit(stores, EVERYBODY, queued_jobs=10)
    replicas = (stores, other_replica)
    outcomes: list[Job | BaseException] = await asyncio.gather(
        *(replicas[number % 2].submit(A) for number in range(30)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, QuotaExceeded)]
    assert len(refused) == 20
    assert sum(isinstance(outcome, Job) for outcome in outcomes) == 10
    assert {(error.limit_name, error.limit, error.used) for error in refused} == {(Limit.QUEUED_JOBS, 10, 10)}
    await stores.submit(B)


async def test_a_retry_and_an_evaluation_of_the_same_job_wait_for_each_other_in_no_circle(
    stores: Stores, other_replica: Stores
) -> None:
    await limit(stores, OWNER, queued_jobs=10)
    source = await stores.running()
    await stores.jobs.stop(source.job_id, OWNER, stores.lease)
    assert await stores.attempts.complete(files_of(source), None) is JobState.STOPPED
    evaluation = submission(source_job_id=source.job_id, recipe=Recipe.EVALUATION)
    async with transaction(stores.pool) as connection:
        await connection.execute(stores.queries.take_submission_turns, [OWNER])

        async def wait_for_their_turn(count: int) -> bool:
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            return bool(await connection.fetchval(waiting) == count)

        evaluating = asyncio.create_task(other_replica.jobs.submit(evaluation, None))
        await assert_eventually(lambda: wait_for_their_turn(1))
        retrying = asyncio.create_task(stores.jobs.retry(source.job_id, OWNER, from_scratch=False))
        await assert_eventually(lambda: wait_for_their_turn(2))
    assert (await evaluating).source_job_id == source.job_id
    with pytest.raises(JobInUse):
        await retrying


async def test_a_limit_holds_for_its_owner_alone_whoever_submits_at_the_same_time(
    stores: Stores, other_replica: Stores
) -> None:
    await limit(stores, A, queued_jobs=3)
    keys = [RequestKey(B, uuid4(), "CreateTrainingJob", "digest") for _ in range(5)]
    replicas = (stores, other_replica)
    asked: list[tuple[UserId, RequestKey | None]] = [(A, None), (B, None), *((B, key) for key in keys)] * 6
    outcomes: list[Job | BaseException] = await asyncio.gather(
        *(replicas[n % 2].jobs.submit(submission(owner), key) for n, (owner, key) in enumerate(asked)),
        return_exceptions=True,
    )
    jobs = [outcome for outcome in outcomes if isinstance(outcome, Job)]
    assert sum(isinstance(outcome, QuotaExceeded) for outcome in outcomes) == len(outcomes) - len(jobs) == 3
    assert len({job.id for job in jobs if job.owner_id == A}) == 3
    assert len({job.id for job in jobs if job.owner_id == B}) == 6 + len(keys)
    assert await stores.pool.fetchval("SELECT count(*) FROM jobs") == 3 + 6 + len(keys)


async def test_a_limit_that_comes_in_between_stops_what_is_submitted_after(
    stores: Stores, other_replica: Stores
) -> None:
    await stores.submit(A)
    await limit(other_replica, A, queued_jobs=1)
    with pytest.raises(QuotaExceeded):
        await stores.submit(A)
    await limit(other_replica, A, queued_jobs=2)
    await stores.submit(A)


async def test_a_repetition_gets_its_first_answer_though_there_is_no_room(stores: Stores) -> None:
    await limit(stores, A, queued_jobs=1)
    key = RequestKey(A, uuid4(), "CreateTrainingJob", "digest")
    outcomes = await asyncio.gather(
        *(stores.jobs.submit(submission(A), key) for _ in range(8)),
        *(stores.jobs.submit(submission(B), None) for _ in range(3)),
    )
    assert len({job.id for job in outcomes if job.owner_id == A}) == 1
    with pytest.raises(QuotaExceeded):
        await stores.submit(A)


async def test_room_comes_back_when_a_job_leaves_the_queue(stores: Stores) -> None:
    await limit(stores, A, queued_jobs=1)
    await stores.submit(A)
    with pytest.raises(QuotaExceeded):
        await stores.submit(A)
    await stores.claimed()
    await stores.submit(A)


async def test_a_retry_needs_room_and_a_requeue_does_not(stores: Stores) -> None:
    await limit(stores, A, queued_jobs=1)
    await stores.submit(A)
    failed, running = await stores.claimed(), None
    await stores.attempts.fail(failed, StateReason.BAD_DATA, "", dice=0)
    await stores.submit(A)
    running = await stores.claimed()
    await stores.submit(A)
    with pytest.raises(QuotaExceeded):
        await stores.jobs.retry(failed.job_id, A, from_scratch=False)
    assert (await stores.jobs.get(failed.job_id, A)).state is JobState.FAILED
    assert await stores.attempts.fail(running, StateReason.CRASHED, "", dice=0) is JobState.QUEUED


async def test_ones_own_quota_replaces_everybodys_as_a_whole(stores: Stores) -> None:
    await limit(stores, EVERYBODY, queued_jobs=0, running_jobs=5)
    with pytest.raises(QuotaExceeded):
        await stores.submit(A)
    first = await limit(stores, A, queued_jobs=None)
    assert (first.queued_jobs, first.running_jobs, first.revision) == (None, 5, 1), "it starts from everybody's"
    await stores.submit(A)
    await limit(stores, EVERYBODY, running_jobs=1)
    state = await stores.quotas.get(A)
    assert (state.quota.running_jobs, state.is_default) == (5, False)
    state = await stores.quotas.get(B)
    assert (state.quota.running_jobs, state.is_default, state.quota.etag) == (1, True, "r0")


async def test_of_two_changes_of_one_etag_one_is_made(stores: Stores, other_replica: Stores) -> None:
    change = QuotaChange(frozenset({Limit.RUNNING_JOBS}), Quota(A, running_jobs=1))
    outcomes = await asyncio.gather(
        *(replica.quotas.update(A, change, "r0", None) for replica in (stores, other_replica)), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {EtagMismatch, Quota}


async def test_full_storage_refuses_new_jobs_only(stores: Stores) -> None:
    await stores.submit(A)
    key = await stores.claimed()
    await limit(stores, A, storage_bytes=6)
    await stores.attempts.commit_checkpoint(sized(key, 5, step=1))
    await stores.submit(A)
    await stores.attempts.commit_checkpoint(sized(key, 5, step=2))
    with pytest.raises(QuotaExceeded) as caught:
        await stores.submit(A)
    assert (caught.value.limit_name, caught.value.limit, caught.value.used) == (Limit.STORAGE, 6, 10)
    assert await stores.attempts.complete(sized(key, 7), None) is JobState.COMPLETED
    assert (await stores.quotas.get(A)).usage.storage_bytes == 17
    await stores.jobs.delete(key.job_id, A)
    assert (await stores.quotas.get(A)).usage.storage_bytes == 0
    await stores.submit(A)


def sized(key: AttemptKey, size: int, *, step: int | None = None) -> Any:
    """A checkpoint or artifact of so many bytes."""
    return replace(files_of(key, step=step), files=(StoredFile("a", size, "ab" * 32),))


@pytest.mark.parametrize("seed", range(3))
async def test_stored_bytes_never_drift(stores: Stores, other_replica: Stores, seed: int) -> None:
    """Jobs of three owners live, fail, end and are deleted on two replicas; the sum is right after every turn."""
    dice = random.Random(seed)
    owners = [UserId(f"usr_{number}") for number in range(3)]
    workers = [await stores.worker() for _ in range(4)]
    held: list[AttemptKey] = []
    for turn in range(12):
        await asyncio.gather(*(live_a_little(r, dice, owners, workers, held) for r in (stores, other_replica) * 3))
        counted = {row["owner_id"]: row["size_bytes"] for row in await stores.pool.fetch("SELECT * FROM owner_storage")}
        rows = await stores.pool.fetch(
            """
            SELECT owner_id, sum(size)::bigint AS size FROM (
                SELECT job_id, size_bytes AS size FROM checkpoints
                UNION ALL
                SELECT job_id, (file ->> 'size_bytes')::bigint FROM artifacts, jsonb_array_elements(files) AS file
            ) AS stored JOIN jobs ON jobs.id = job_id GROUP BY owner_id
            """
        )
        summed = {row["owner_id"]: row["size"] for row in rows}
        assert {owner: size for owner, size in counted.items() if size} == summed, f"seed {seed}, turn {turn}"
    assert await stores.pool.fetchval("SELECT count(*) FROM owner_storage") == len(owners)


async def live_a_little(
    stores: Stores, dice: random.Random, owners: list[UserId], workers: list[Any], held: list[AttemptKey]
) -> None:
    for _ in range(2):
        await stores.submit(dice.choice(owners))
    if (job := await stores.attempts.claim(dice.choice(workers))) is not None:
        held.append(AttemptKey(job.id, job.attempt))
    if not held:
        return
    key = held.pop(dice.randrange(len(held)))
    for step in range(1, dice.randint(2, 6)):
        await stores.attempts.commit_checkpoint(sized(key, dice.randint(1, 10**9), step=step))
    match dice.randint(0, 3):
        case 0:
            await stores.attempts.fail(key, StateReason.PREEMPTED, "", dice=0)
        case 1:
            await stores.attempts.complete(sized(key, dice.randint(1, 10**9)), None)
        case 2:
            await stores.attempts.fail(key, StateReason.BAD_DATA, "", dice=0)
            await stores.jobs.retry(key.job_id, await owner_of(stores, key), from_scratch=dice.random() < 0.5)
        case 3:
            await stores.attempts.complete(sized(key, 5), None)
            await stores.jobs.delete(key.job_id, await owner_of(stores, key))


async def owner_of(stores: Stores, key: AttemptKey) -> UserId:
    return UserId(await stores.pool.fetchval("SELECT owner_id FROM jobs WHERE id = $1", key.job_id))


async def test_usage_counts_what_there_is(stores: Stores) -> None:
    await limit(stores, A, device_hours_per_day=1)
    for _ in range(3):
        await stores.submit(A)
    await stores.claimed()
    await stores.pool.execute("UPDATE device_usage SET start_time = now() - interval '90 m'")
    state = await stores.quotas.get(A)
    assert (state.usage.running_jobs, state.usage.queued_jobs) == (1, 2)
    assert state.usage.device_hours == pytest.approx(1.5, abs=0.01)
    assert state.usage.device_hours_free_time is not None
    (listed,) = await stores.quotas.list_page(None, 10)
    assert listed.usage.queued_jobs == 2


async def test_old_device_time_is_forgotten(stores: Stores) -> None:
    await stores.submit(A)
    key = await stores.claimed()
    await stores.quotas.forget_old_usage(timedelta(0))
    assert await stores.pool.fetchval("SELECT count(*) FROM device_usage") == 1, "it still runs"
    await stores.attempts.fail(key, StateReason.BAD_DATA, "", dice=0)
    await stores.quotas.forget_old_usage(timedelta(days=8))
    assert await stores.pool.fetchval("SELECT count(*) FROM device_usage") == 1
    await stores.pool.execute("UPDATE device_usage SET end_time = end_time - interval '9 days'")
    await stores.quotas.forget_old_usage(timedelta(days=8))
    assert await stores.pool.fetchval("SELECT count(*) FROM device_usage") == 0
