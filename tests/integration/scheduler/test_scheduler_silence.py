"""A lease that is over says that a trainer is dead only if somebody was there to renew it."""

from __future__ import annotations

from datetime import timedelta

from scheduler_svc.domain.job import JobState
from tests.integration.scheduler.scheduler_stores import GRACE, LEASE, OWNER, Stores

SILENCE = timedelta(seconds=15)


async def test_after_a_silence_every_attempt_gets_its_lease_anew(stores: Stores) -> None:
    key = await stores.running()
    await stores.expire(key.job_id)
    await silent_for(stores, "16 s")

    assert await stores.leases.note_sweep(LEASE, SILENCE) == 1

    assert await stores.sweep() == []
    assert (await stores.jobs.get(key.job_id, OWNER)).state is JobState.RUNNING
    left = await stores.pool.fetchval("SELECT lease_expire_time - now() FROM jobs WHERE id = $1", key.job_id)
    assert timedelta(seconds=28) < left <= LEASE


async def test_once_only_and_then_a_dead_trainer_is_found(stores: Stores, other_replica: Stores) -> None:
    key = await stores.running()
    await silent_for(stores, "1 h")
    assert await stores.leases.note_sweep(LEASE, SILENCE) == 1
    assert await other_replica.leases.note_sweep(LEASE, SILENCE) == 0

    await stores.expire(key.job_id)

    assert [job.id for job in await stores.sweep()] == [key.job_id]


async def test_without_a_silence_nothing_is_given_to_anybody(stores: Stores) -> None:
    key = await stores.running()
    await stores.expire(key.job_id)
    await silent_for(stores, "14 s")

    assert await stores.leases.note_sweep(LEASE, SILENCE) == 0

    assert [job.state for job in await stores.sweep()] == [JobState.QUEUED]


async def test_a_job_that_was_being_stopped_gets_its_grace_anew(stores: Stores) -> None:
    key = await stores.running()
    await stores.jobs.stop(key.job_id, OWNER, GRACE)
    await stores.pool.execute("UPDATE jobs SET stop_deadline = now() - interval '1 s'")
    await silent_for(stores, "1 min")

    await stores.leases.note_sweep(LEASE, SILENCE)

    assert await stores.sweep() == []
    assert (await stores.jobs.get(key.job_id, OWNER)).state is JobState.STOPPING


async def silent_for(stores: Stores, duration: str) -> None:
    """As if no replica had swept for so long."""
    await stores.pool.execute(f"UPDATE sweeps SET sweep_time = now() - interval '{duration}'")
