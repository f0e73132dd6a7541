"""What attempts write: once, fenced, without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from datetime import timedelta
from uuid import UUID

import pytest

from scheduler_svc.domain.errors import IllegalTransition, JobNotFound, StaleAttempt
from scheduler_svc.domain.events import CheckpointSaved, LogLevel, LogLine, MetricPoint, Report, Started, StateChange
from scheduler_svc.domain.files import FileSet
from scheduler_svc.domain.ids import AttemptKey, JobId
from scheduler_svc.domain.job import Job, JobState, JobUpdate, Progress, StateReason
from scheduler_svc.domain.retry import USER_REASONS
from tests.integration.scheduler.scheduler_stores import FILE, GRACE, OWNER, Stores, check_history, files_of, request


async def test_an_expired_lease_puts_the_job_back(stores: Stores) -> None:
    key = await stores.running()
    assert await stores.sweep() == []
    await stores.expire(key.job_id)
    (job,) = await stores.sweep()
    assert (job.state, job.reason, job.generation) == (JobState.QUEUED, StateReason.LEASE_LOST, 2)
    assert await stores.sweep() == []
    await stores.make_due(job.id)
    assert await stores.claimed() == AttemptKey(job.id, 2)
    check_history(await stores.history(job.id))


async def test_a_heartbeat_in_time_keeps_the_lease(stores: Stores) -> None:
    key = await stores.running()
    await stores.expire(key.job_id)
    await stores.attempts.renew_lease(key)
    assert await stores.sweep() == []
    wait = await stores.expiry.next_deadline()
    assert wait is not None
    assert timedelta(seconds=25) < wait <= stores.lease


async def test_sweepers_do_nothing_twice(stores: Stores, other_replica: Stores) -> None:
    keys = [await stores.running() for _ in range(12)]
    for key in keys:
        await stores.expire(key.job_id)
    swept = await asyncio.gather(*(replica.sweep() for replica in (stores, other_replica) for _ in range(4)))
    assert sorted(job.id for jobs in swept for job in jobs) == sorted(key.job_id for key in keys)
    for key in keys:
        assert (await stores.jobs.get(key.job_id, OWNER)).generation == 2


async def test_every_write_of_a_stale_attempt_is_fenced(stores: Stores) -> None:
    old = await stores.running()
    await stores.expire(old.job_id)
    await stores.sweep()
    await stores.make_due(old.job_id)
    new = await stores.claimed()
    before = await stores.history(old.job_id)
    for write in _all_writes(stores, old):
        with pytest.raises(StaleAttempt):
            await write
    assert await stores.history(old.job_id) == before
    await stores.attempts.renew_lease(new)


async def test_every_write_to_a_final_or_deleted_job_is_fenced(stores: Stores) -> None:
    key = await stores.running()
    await stores.expire(key.job_id)
    await stores.jobs.stop(key.job_id, OWNER, GRACE)
    await stores.sweep()
    assert (await stores.jobs.get(key.job_id, OWNER)).state is JobState.STOPPED
    for write in _all_writes(stores, key):
        with pytest.raises(StaleAttempt):
            await write
    await stores.jobs.delete(key.job_id, OWNER)
    for write in _all_writes(stores, key):
        with pytest.raises(StaleAttempt):
            await write
    with pytest.raises(JobNotFound):
        await stores.jobs.get(key.job_id, OWNER)


def _all_writes(stores: Stores, key: AttemptKey):  # type: ignore[no-untyped-def]
    yield stores.attempts.check(key)
    yield stores.attempts.renew_lease(key)
    yield stores.attempts.record(key, [Report(100, LogLine(LogLevel.INFO, "late"))])
    yield stores.attempts.commit_checkpoint(files_of(key, step=5))
    yield stores.attempts.complete(files_of(key), None)
    yield stores.attempts.fail(key, StateReason.CRASHED, "", dice=0)


async def test_reports_are_recorded_once_and_their_numbers_have_no_gap(stores: Stores) -> None:
    """Two streams of one attempt send overlapping reports while a user reads and a heartbeat comes."""
    key = await stores.running()
    reports = [Report(number, MetricPoint(number, {"loss": 1 / number})) for number in range(2, 202)]

    async def send(start: int, size: int) -> None:
        for first in range(start, len(reports), size):
            await stores.attempts.record(key, reports[max(0, first - 5) : first + size])
            await stores.attempts.renew_lease(key)

    await asyncio.gather(send(0, 7), send(0, 11), send(0, 3))
    events = await stores.history(key.job_id)
    check_history(events)
    steps = [event.body.step for event in events if isinstance(event.body, MetricPoint)]
    assert steps == list(range(2, 202))
    job = await stores.jobs.get(key.job_id, OWNER)
    assert job.sequence == len(events)


async def test_progress_is_kept_on_the_job(stores: Stores) -> None:
    key = await stores.running()
    nan = Progress(phase="training", step=3, total_steps=10, fraction=0.3, loss=float("nan"))
    state, recorded = await stores.attempts.record(key, [Report(2, Progress(step=1)), Report(3, nan)])
    assert (state, recorded) == (JobState.RUNNING, 3)
    job = await stores.jobs.get(key.job_id, OWNER)
    assert repr(job.progress) == repr(nan)
    told = [event.body for event in await stores.history(key.job_id) if isinstance(event.body, Progress)]
    assert [body.step for body in told] == [0, 3]


async def test_checkpoints_are_recorded_once_and_only_the_newest_are_kept(stores: Stores) -> None:
    key = await stores.running()
    for step in (10, 20, 20, 30, 40):
        await stores.attempts.commit_checkpoint(files_of(key, step=step))
    checkpoints = await stores.attempts.list_checkpoints(key.job_id)
    assert [checkpoint.checkpoint_step for checkpoint in checkpoints] == [40, 30, 20]
    assert checkpoints[0].files == (FILE,)
    told = [event.body for event in await stores.history(key.job_id) if isinstance(event.body, CheckpointSaved)]
    assert [body.step for body in told] == [10, 20, 30, 40]
    prefixes = {row["prefix"] for row in await stores.pool.fetch("SELECT prefix FROM garbage")}
    folder = f"jobs/{key.job_id}/attempts/1/checkpoints/10"
    assert prefixes == {f"{folder}/", f"{folder}.manifest.json"}


async def test_completing_twice_answers_the_same(stores: Stores) -> None:
    key = await stores.running()
    results = await asyncio.gather(*(stores.attempts.complete(files_of(key), Progress(step=9)) for _ in range(5)))
    assert results == [JobState.COMPLETED] * 5
    job = await stores.jobs.get(key.job_id, OWNER)
    assert (job.has_artifact, job.progress.step) == (True, 9)
    artifact = await stores.jobs.get_artifact(key.job_id, OWNER)
    assert artifact.files == files_of(key)
    check_history(await stores.history(key.job_id))


async def test_completing_before_the_first_step_was_reported(stores: Stores) -> None:
    await stores.submit()
    key = await stores.claimed()
    assert await stores.attempts.complete(files_of(key), None) is JobState.COMPLETED
    targets = [event.body.target for event in await stores.history(key.job_id) if isinstance(event.body, StateChange)]
    assert targets == ["QUEUED", "STARTING", "RUNNING", "COMPLETED"]


async def test_completing_without_files_needs_a_stop(stores: Stores) -> None:
    key = await stores.running()
    nothing = FileSet(key, ())
    with pytest.raises(IllegalTransition):
        await stores.attempts.complete(nothing, None)
    await stores.jobs.stop(key.job_id, OWNER, GRACE)
    assert await stores.attempts.complete(nothing, None) is JobState.STOPPED
    assert not (await stores.jobs.get(key.job_id, OWNER)).has_artifact


async def test_failing_twice_counts_once(stores: Stores) -> None:
    key = await stores.running()
    results = [await stores.attempts.fail(key, StateReason.CRASHED, "gone", dice=0) for _ in range(3)]
    assert results == [JobState.QUEUED] * 3
    assert await stores.pool.fetchval("SELECT crashes FROM jobs") == 1
    await stores.make_due(key.job_id)
    await stores.claimed()
    with pytest.raises(StaleAttempt):
        await stores.attempts.fail(key, StateReason.CRASHED, "gone", dice=0)


async def test_a_job_ends_by_each_reason_of_its_own(stores: Stores) -> None:
    for reason in sorted(USER_REASONS):
        key = await stores.running()
        assert await stores.attempts.fail(key, reason, "odd", dice=0) is JobState.FAILED
        assert (await stores.jobs.get(key.job_id, OWNER)).reason is reason


async def test_a_poison_job_is_quarantined_at_its_third_crash(stores: Stores) -> None:
    key = await stores.running()
    for expected in (JobState.QUEUED, JobState.QUEUED, JobState.FAILED):
        assert await stores.attempts.fail(key, StateReason.CRASHED, "signal 9", dice=0) is expected
        if expected is JobState.QUEUED:
            await stores.make_due(key.job_id)
            key = await stores.claimed()
    job = await stores.jobs.get(key.job_id, OWNER)
    assert (job.reason, job.attempt) == (StateReason.QUARANTINED, 3)
    assert job.message.startswith("signal 9: ")


async def lose_trainer(stores: Stores, key: AttemptKey) -> Job:
    """Has the lease run out, and the job queued again due at once."""
    await stores.expire(key.job_id)
    (job,) = await stores.sweep()
    if job.state is JobState.QUEUED:
        await stores.make_due(key.job_id)
    return job


async def test_a_job_that_takes_three_trainers_along_is_quarantined(stores: Stores) -> None:
    key = await stores.running()
    for _ in range(2):
        assert (await lose_trainer(stores, key)).state is JobState.QUEUED
        key = await stores.claimed()
    job = await lose_trainer(stores, key)

    assert (job.state, job.reason, job.attempt) == (JobState.FAILED, StateReason.QUARANTINED, 3)
    assert "went silent in attempt 3" in job.message
    check_history(await stores.history(key.job_id))


async def test_a_job_that_gets_on_is_not_blamed_for_its_trainers(stores: Stores) -> None:
    key = await stores.running()
    for step in range(1, 6):
        await stores.attempts.commit_checkpoint(files_of(key, step=step))
        assert (await lose_trainer(stores, key)).state is JobState.QUEUED
        key = await stores.claimed()


async def test_a_trainer_that_was_cut_off_and_comes_back_is_not_held_against_its_job(stores: Stores) -> None:
    key = await stores.running()
    for _ in range(5):
        assert (await lose_trainer(stores, key)).state is JobState.QUEUED
        with pytest.raises(StaleAttempt):
            await stores.attempts.check(key)
        key = await stores.claimed()


async def test_a_stop_that_nobody_answers_ends_with_its_grace(stores: Stores) -> None:
    key = await stores.running()
    await stores.jobs.stop(key.job_id, OWNER, timedelta(milliseconds=50))
    wait = await stores.expiry.next_deadline()
    assert wait is not None
    assert wait <= timedelta(milliseconds=50)
    await stores.pool.execute("SELECT pg_sleep(0.06)")
    (job,) = await stores.sweep()
    assert (job.state, job.reason) == (JobState.STOPPED, StateReason.STOP_GRACE_SPENT)


async def test_after_a_stop_no_job_completes(stores: Stores, other_replica: Stores) -> None:
    """Promise: stop wins over a completion that comes later, however the two cross."""
    for turn in range(60):
        key = await stores.running()
        complete = stores.attempts.complete(files_of(key), None)
        stop = other_replica.jobs.stop(key.job_id, OWNER, GRACE)
        first, second = (complete, stop) if turn % 2 else (stop, complete)
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        stopped = outcomes[1] if turn % 2 else outcomes[0]
        job = await stores.jobs.get(key.job_id, OWNER)
        if isinstance(stopped, IllegalTransition):
            assert job.state is JobState.COMPLETED
        else:
            assert not isinstance(stopped, BaseException)
            assert (job.state, job.has_artifact) == (JobState.STOPPED, True)
        check_history(await stores.history(key.job_id))


async def test_random_lives_of_jobs_keep_every_rule(
    stores: Stores, other_replica: Stores, record_property: pytest.RecordProperty
) -> None:
    """Four workers, two replicas, an owner who tries every verb, leases that end: each history must fit the model.

    `REELTUNE_LIVES_SEED=N` throws the same dice again.
    """
    seed = int(os.environ.get("REELTUNE_LIVES_SEED") or random.SystemRandom().randrange(2**32))
    record_property("seed", seed)
    dice = random.Random(seed)
    jobs = [(await stores.submit()).id for _ in range(25)]

    async def work(replica: Stores) -> None:
        worker = await replica.worker()
        for _ in range(40):
            job = await replica.attempts.claim(worker)
            if job is None:
                await replica.pool.execute(
                    "UPDATE jobs SET not_before = now()"
                    " WHERE id IN (SELECT id FROM jobs WHERE state = 'QUEUED' FOR UPDATE SKIP LOCKED)"
                )
                continue
            assert not job.is_paused, f"seed {seed}: a trainer got a paused job"
            await _live(replica, AttemptKey(job.id, job.attempt), dice)

    async def disturb(replica: Stores) -> None:
        for _ in range(60):
            with contextlib.suppress(IllegalTransition, JobNotFound):
                await _meddle(replica, dice.choice(jobs), dice)
            await replica.sweep()

    workers = [work(replica) for replica in (stores, stores, other_replica, other_replica)]
    await asyncio.gather(*workers, disturb(stores), disturb(other_replica))
    left = {row["id"] for row in await stores.pool.fetch("SELECT id FROM jobs")}
    for job_id in left:
        try:
            check_history(await stores.history(job_id))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, job {job_id}: {error}") from error
        job = await stores.jobs.get(job_id, OWNER)
        assert (job.state is JobState.COMPLETED) <= job.has_artifact
    for job_id in set(jobs) - left:
        assert not await stores.history(job_id)


async def _meddle(replica: Stores, job_id: JobId, dice: random.Random) -> None:
    """What an owner or the network may do to a job at any time."""
    repeated = request(UUID(int=dice.getrandbits(128)), rpc="some rpc")
    move = dice.choice(["stop", "pause", "pause", "resume", "resume", "retry", "retry", "update", "delete", "lease"])
    for _ in range(dice.choice([1, 1, 2])):
        match move:
            case "stop":
                await replica.jobs.stop(job_id, OWNER, timedelta(0), repeated)
            case "pause":
                await replica.jobs.pause(job_id, OWNER, repeated)
            case "resume":
                await replica.jobs.resume(job_id, OWNER, repeated)
            case "retry":
                await replica.jobs.retry(job_id, OWNER, from_scratch=dice.random() < 0.3, key=repeated)
            case "update":
                update = JobUpdate(name=str(dice.random()), priority=dice.randrange(-100, 101))
                await replica.jobs.update(job_id, OWNER, update, repeated)
            case "delete" if dice.random() < 0.2:
                await replica.jobs.delete(job_id, OWNER, repeated)
            case "lease":
                await replica.pool.execute(
                    "UPDATE jobs SET lease_expire_time = now() WHERE id = $1 AND lease_expire_time IS NOT NULL", job_id
                )


async def _live(replica: Stores, key: AttemptKey, dice: random.Random) -> None:
    try:
        await replica.attempts.record(key, [Report(1, Started(5)), Report(2, Progress(step=1))])
        for number in range(3, dice.randrange(4, 8)):
            await replica.attempts.record(key, [Report(number, LogLine(LogLevel.INFO, str(number)))])
        if dice.random() < 0.5:
            await replica.attempts.commit_checkpoint(files_of(key, step=dice.randrange(1, 5)))
        ending = dice.random()
        if ending < 0.4:
            await replica.attempts.complete(files_of(key), None)
        elif ending < 0.8:
            reason = dice.choice([StateReason.CRASHED, StateReason.PREEMPTED, StateReason.BAD_DATA])
            await replica.attempts.fail(key, reason, "", dice=0)
    except StaleAttempt:
        return
