"""A lease that is over says that a trainer is dead only if somebody was there to renew it."""

from __future__ import annotations

import time
from datetime import timedelta

import asyncpg
import pytest

from meshkit.testing import assert_eventually
from scheduler_svc.domain.ids import JobId
from scheduler_svc.domain.job import JobState
from scheduler_svc.usecases.sweep_leases import Sweeper
from tests.integration.scheduler.scheduler_stores import GRACE, LEASE, OWNER, Stores

SILENCE = timedelta(seconds=15)
SHORT = timedelta(seconds=1)


async def test_after_a_silence_every_attempt_gets_its_lease_anew(stores: Stores) -> None:
    key = await stores.running()
    await stores.expire(key.job_id)
    await silent_for(stores, "16 s")

    assert await stores.expiry.note_sweep(LEASE, SILENCE) == 1

    assert await stores.sweep() == []
    assert (await stores.jobs.get(key.job_id, OWNER)).state is JobState.RUNNING
    left = await stores.pool.fetchval("SELECT lease_expire_time - now() FROM jobs WHERE id = $1", key.job_id)
    assert timedelta(seconds=28) < left <= LEASE


async def test_once_only_and_then_a_dead_trainer_is_found(stores: Stores, other_replica: Stores) -> None:
    key = await stores.running()
    await silent_for(stores, "1 h")
    assert await stores.expiry.note_sweep(LEASE, SILENCE) == 1
    assert await other_replica.expiry.note_sweep(LEASE, SILENCE) == 0

    await stores.expire(key.job_id)

    assert [job.id for job in await stores.sweep()] == [key.job_id]


async def test_without_a_silence_nothing_is_given_to_anybody(stores: Stores) -> None:
    key = await stores.running()
    await stores.expire(key.job_id)
    await silent_for(stores, "14 s")

    assert await stores.expiry.note_sweep(LEASE, SILENCE) == 0

    assert [job.state for job in await stores.sweep()] == [JobState.QUEUED]


async def test_a_job_that_was_being_stopped_gets_its_grace_anew(stores: Stores) -> None:
    key = await stores.running()
    await stores.jobs.stop(key.job_id, OWNER, GRACE)
    await stores.pool.execute("UPDATE jobs SET stop_deadline = now() - interval '1 s'")
    await silent_for(stores, "1 min")

    await stores.expiry.note_sweep(LEASE, SILENCE)

    assert await stores.sweep() == []
    assert (await stores.jobs.get(key.job_id, OWNER)).state is JobState.STOPPING


async def test_a_replica_that_has_just_begun_takes_no_job_before_a_lease_has_gone_by(stores: Stores) -> None:
    """Trainers that live come back to it; those that do not are found when a lease has gone by."""
    dead, living = await stores.running(), await stores.running()
    for key in (dead, living):
        await stores.expire(key.job_id)
    began = time.monotonic()
    sweeper = new_replica(stores)
    await sweeper.sweep()
    assert await states(stores) == {"RUNNING"}
    await stores.attempts.renew_lease(living)

    await assert_eventually(lambda: is_taken(stores, sweeper, dead.job_id))

    assert time.monotonic() - began >= SHORT.total_seconds()
    assert (await stores.jobs.get(living.job_id, OWNER)).state is JobState.RUNNING


async def test_however_often_replicas_die_no_job_is_taken_from_a_trainer(stores: Stores) -> None:
    key = await stores.running()
    await stores.expire(key.job_id)

    for _ in range(20):
        await new_replica(stores).sweep()

    assert (await stores.jobs.get(key.job_id, OWNER)).state is JobState.RUNNING


async def test_a_replica_that_could_not_reach_the_database_has_been_away(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await stores.running()
    sweeper = new_replica(stores)
    await sweeper.sweep()
    await assert_eventually(lambda: not sweeper.presence.missing(time.monotonic()))

    with monkeypatch.context() as patched:

        async def away(*_: object) -> int:
            raise asyncpg.ConnectionDoesNotExistError

        patched.setattr(stores.expiry, "note_sweep", away)
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await sweeper.sweep()
    await stores.expire(key.job_id)
    await sweeper.sweep()

    assert (await stores.jobs.get(key.job_id, OWNER)).state is JobState.RUNNING
    await assert_eventually(lambda: is_taken(stores, sweeper, key.job_id))


async def test_one_that_was_there_all_the_time_waits_for_nothing(stores: Stores) -> None:
    key = await stores.running()
    sweeper = new_replica(stores)
    await sweeper.sweep()
    await assert_eventually(lambda: not sweeper.presence.missing(time.monotonic()))
    await stores.expire(key.job_id)

    await new_replica(stores).sweep()
    assert await states(stores) == {"RUNNING"}, "its neighbour has just begun"
    await sweeper.sweep()

    assert await states(stores) == {"QUEUED"}


def new_replica(stores: Stores) -> Sweeper:
    """A sweeper that has just begun, of a scheduler with short leases."""
    return Sweeper(
        stores.expiry, stores.outbox, stores.requests, stores.workers, stores.quotas, lease=SHORT, interval_seconds=10
    )


async def is_taken(stores: Stores, sweeper: Sweeper, job_id: JobId) -> bool:
    await sweeper.sweep()
    return (await stores.jobs.get(job_id, OWNER)).state is JobState.QUEUED


async def states(stores: Stores) -> set[str]:
    return {row["state"] for row in await stores.pool.fetch("SELECT state FROM jobs")}


async def silent_for(stores: Stores, duration: str) -> None:
    """As if no replica had swept for so long."""
    await stores.pool.execute(f"UPDATE sweeps SET sweep_time = now() - interval '{duration}'")
