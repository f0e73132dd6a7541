"""What the sweeper finds: leases that are over, wake-ups that are due, objects that nobody needs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from meshkit.failpoints import failpoint
from meshkit.postgres import Connection, Pool, Queries, transaction
from scheduler_svc.domain.files import FileSet
from scheduler_svc.domain.ids import AttemptKey, JobId
from scheduler_svc.domain.job import DeviceClass, Job, JobState, StateReason, WakeUp
from scheduler_svc.domain.lifecycle import Actor
from scheduler_svc.domain.retry import judge_failure
from scheduler_svc.store.attempt_store import close_attempt
from scheduler_svc.store.job_changes import Change, change_state
from scheduler_svc.store.rows import LockedJob, Row, files_from_json, locked_job_from_row


class LeaseStore:
    """Leases and stop graces, by the database's clock alone; safe on any number of replicas at once."""

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


class OutboxStore:
    """The outbox."""

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries

    @contextlib.asynccontextmanager
    async def take(self, limit: int) -> AsyncIterator[OutboxBatch]:
        """Gives due wake-ups that nobody else has; those marked as published are gone when the block ends."""
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(self._sql.lock_due_outbox, limit)
            batch = OutboxBatch([_wake_up_from_row(row) for row in rows], rows[0]["idle_workers"] if rows else 0)
            yield batch
            if batch.published:
                await connection.execute(self._sql.delete_outbox, batch.published)

    async def republish_waiting(self) -> None:
        """Puts wake-ups of jobs that have waited long back into the outbox, and drops those that nobody needs."""
        await self._pool.execute(self._sql.republish_waiting)
        await self._pool.execute(self._sql.delete_stale_outbox)

    async def republish_all(self) -> None:
        """Puts a wake-up of every queued job into the outbox."""
        await self._pool.execute(self._sql.republish_all)

    async def next_due(self) -> timedelta | None:
        """Returns the time until the next wake-up is due; None when there is none."""
        wait: timedelta | None = await self._pool.fetchval(self._sql.next_outbox)
        return wait


class OutboxBatch:
    """Some wake-ups, locked for the one who publishes them."""

    def __init__(self, wake_ups: Sequence[WakeUp], idle_trainers: int) -> None:
        self.wake_ups = wake_ups
        self.idle_trainers = idle_trainers
        """How many could be woken."""
        self.published: list[int] = []
        """Ids of those that the broker has confirmed, and of those that need no message beside them."""


class Garbage:
    """A prefix to empty, and what of it must stay."""

    def __init__(self, prefix: str, kept_names: frozenset[str]) -> None:
        self.prefix = prefix
        self.kept_names = kept_names
        self.is_empty = False
        """Set by the collector once nothing is left to remove."""


class GarbageStore:
    """Objects that nobody needs any more."""

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[Garbage | None]:
        """Gives one due prefix that nobody else has."""
        async with transaction(self._pool) as connection:
            await connection.execute(self._sql.allow_idle)
            row = await connection.fetchrow(self._sql.lock_due_garbage)
            if row is None:
                yield None
                return
            kept = await self._kept_names(connection, JobId(row["job_id"]))
            garbage = Garbage(row["prefix"], kept)
            yield garbage
            if garbage.is_empty:
                query = self._sql.delete_garbage if row["is_final"] else self._sql.postpone_garbage
                await connection.execute(query, row["id"])

    async def _kept_names(self, connection: Connection, job_id: JobId) -> frozenset[str]:
        rows = await connection.fetch(self._sql.list_referenced_files, job_id)
        kept: set[str] = set()
        for row in rows:
            files = FileSet(AttemptKey(job_id, row["attempt"]), files_from_json(row["files"]), row["step"])
            kept.add(files.manifest_name)
            kept.update(files.object_name(file) for file in files.files)
        return frozenset(kept)


def _wake_up_from_row(row: Row) -> WakeUp:
    return WakeUp(row["id"], JobId(row["job_id"]), row["generation"], DeviceClass(row["device_class"]))


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
