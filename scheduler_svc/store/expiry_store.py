"""Leases and stop graces that are over, and the jobs that are taken away for it."""

from __future__ import annotations

from datetime import timedelta

from meshkit.failpoints import failpoint
from meshkit.postgres import Pool, Queries, transaction
from scheduler_svc.domain.ids import AttemptKey
from scheduler_svc.domain.job import Job, JobState, StateReason
from scheduler_svc.domain.lifecycle import Actor
from scheduler_svc.domain.retry import judge_failure
from scheduler_svc.store.attempt_store import close_attempt
from scheduler_svc.store.job_changes import Change, change_state
from scheduler_svc.store.rows import LockedJob, locked_job_from_row


class ExpiryStore:
    """What is over, by the database's clock alone; safe on any number of replicas at once."""

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries

    async def expire_one(self, *, dice: float) -> Job | None:
        """Takes one job from a trainer whose time is over; None when there is none."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(self._sql.lock_expired_job)
            if row is None:
                return None
            locked = locked_job_from_row(row)
            losses = await connection.fetchval(self._sql.count_silent_losses, locked.job.id, locked.job.attempt)
            change = _verdict_on(locked, dice, losses)
            job = await change_state(connection, self._sql, locked, change)
            key = AttemptKey(job.id, job.attempt)
            outcome = StateReason.LEASE_LOST if locked.lease_expired else StateReason.STOP_GRACE_SPENT
            await close_attempt(connection, self._sql, key, outcome, Actor.SWEEPER)
            await failpoint("sweep.before_commit")
            return job

    async def note_sweep(self, lease: timedelta, silence: timedelta) -> int:
        """Notes that somebody is about to look for leases that are over; returns how many began anew.

        After a `silence` of all replicas, or of the database, a lease that is over is no sign of a dead trainer:
        nobody was there to renew it. Every attempt then gets another one.
        """
        return len(await self._pool.fetch(self._sql.note_sweep, lease, silence))

    async def next_deadline(self) -> timedelta | None:
        """Returns the time until the next lease or stop grace is over; None when no trainer has a job."""
        wait: timedelta | None = await self._pool.fetchval(self._sql.next_deadline)
        return wait


def _verdict_on(locked: LockedJob, dice: float, silent_losses: int) -> Change:
    if locked.job.state is JobState.STOPPING:
        said = "its trainer did not save the adapter in time after the stop; events and checkpoints are kept"
        return Change(JobState.STOPPED, Actor.SWEEPER, StateReason.STOP_GRACE_SPENT, said)
    verdict = judge_failure(
        locked.job.state, StateReason.LEASE_LOST, locked.counts, dice=dice, silent_losses=silent_losses
    )
    said = f"trainer {locked.job.worker_id} went silent in attempt {locked.job.attempt}"
    return Change(
        verdict.target,
        Actor.SWEEPER,
        verdict.reason,
        f"{said}: {verdict.advice}" if verdict.advice else said,
        delay=verdict.delay,
        counts=verdict.counts,
        tries_left=verdict.target is JobState.QUEUED,
    )
