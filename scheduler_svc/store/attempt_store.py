"""Attempts: claimed, kept alive, reported on and ended; every write is fenced by (job, attempt)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from meshkit.failpoints import failpoint
from meshkit.postgres import Connection, Pool, Queries, transaction
from scheduler_svc.domain.checkpoints import CheckpointName, RecordedCheckpoint, kept_checkpoints
from scheduler_svc.domain.errors import ArtifactNotFound, StaleAttempt, WorkerNotFound
from scheduler_svc.domain.events import CheckpointSaved, MetricPoint, Report, digest_reports
from scheduler_svc.domain.files import Artifact, FileSet, attempt_prefixes
from scheduler_svc.domain.ids import AttemptKey, JobId, WorkerId
from scheduler_svc.domain.job import ACTIVE_STATES, Job, JobState, Progress, StateReason
from scheduler_svc.domain.lifecycle import Actor
from scheduler_svc.domain.retry import judge_failure, told
from scheduler_svc.store.garbage_store import collect
from scheduler_svc.store.job_changes import Change, change_state, end_attempt, insert_events, notify_job
from scheduler_svc.store.metric_store import add_to_buckets
from scheduler_svc.store.rows import (
    LockedJob,
    Row,
    files_from_json,
    files_to_json,
    locked_job_from_row,
    progress_to_json,
    the_row,
)

_COMPLETED_OUTCOMES = frozenset({JobState.COMPLETED, JobState.STOPPED})


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """How an attempt stands."""

    state: JobState
    recorded_report: int
    is_effective: bool
    """It is the job's present attempt and the job is not final."""
    ended_by_trainer: bool
    """The trainer ended it itself, well or badly."""
    worker_id: WorkerId
    is_draining: bool
    """The worker is to give its job back."""
    model_id: str
    dataset_id: str


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a heartbeat found."""

    state: JobState
    is_draining: bool
    """The worker is to give its job back."""


class AttemptStore:
    """What trainers write."""

    def __init__(self, pool: Pool, queries: Queries, lease: timedelta) -> None:
        self._pool = pool
        self._sql = queries
        self._lease = lease
        # Turns are given by the database; who waits for one need not hold a connection meanwhile.
        self._claim_turn = asyncio.Lock()

    async def claim(self, worker_id: WorkerId) -> Job | None:
        """Gives the worker the next job that fits it, under a new attempt and a lease; None when none waits.

        Raises:
            WorkerNotFound: the worker is not registered (any more).
        """
        knock = await self._pool.fetchrow(self._sql.knock, worker_id)
        if knock is None:
            raise WorkerNotFound(worker_id)
        # Idle trainers ask all the time: they wait for nobody's turn when there is nothing to claim.
        if not knock["has_work"]:
            return None
        async with self._claim_turn, transaction(self._pool) as connection:
            await connection.execute(self._sql.take_claim_turn)
            locked = await self._lock_next_job(connection, worker_id)
            if locked is None:
                return None
            change = Change(JobState.STARTING, Actor.TRAINER, worker_id=worker_id, lease=self._lease)
            job = await change_state(connection, self._sql, locked, change)
            await connection.execute(self._sql.insert_attempt, job.id, job.attempt, worker_id)
            await connection.execute(self._sql.mark_served, job.owner_id)
            await failpoint("claim.before_commit")
            return job

    async def status(self, key: AttemptKey) -> AttemptStatus:
        """Returns how an attempt stands. Raises StaleAttempt when its job is gone."""
        row = await self._pool.fetchrow(self._sql.select_attempt, key.job_id, key.attempt)
        if row is None:
            raise StaleAttempt(key.job_id, key.attempt)
        state = JobState(row["job_state"])
        return AttemptStatus(
            state=state,
            recorded_report=row["recorded_report"],
            is_effective=row["job_attempt"] == key.attempt and state in ACTIVE_STATES,
            ended_by_trainer=row["ended_by"] == Actor.TRAINER,
            worker_id=WorkerId(row["worker_id"]),
            is_draining=row["is_draining"],
            model_id=row["model_id"],
            dataset_id=row["dataset_id"],
        )

    async def check(self, key: AttemptKey) -> AttemptStatus:
        """Returns how an effective attempt stands, as its trainer asks. Raises StaleAttempt for any other."""
        status = await self.status(key)
        if not status.is_effective:
            await self._pool.execute(self._sql.mark_outlived, key.job_id, key.attempt)
            raise StaleAttempt(key.job_id, key.attempt)
        return status

    async def renew_lease(self, key: AttemptKey) -> Renewal:
        """Keeps the attempt alive and returns how it stands. Raises StaleAttempt."""
        row = await self._pool.fetchrow(self._sql.renew_lease, key.job_id, key.attempt, self._lease)
        if row is None:
            raise StaleAttempt(key.job_id, key.attempt)
        return Renewal(JobState(row["state"]), row["is_draining"])

    async def record(self, key: AttemptKey, reports: Sequence[Report]) -> tuple[JobState, int]:
        """Records what is new in the reports, once, and renews the lease; returns the state and the highest report.

        Raises:
            StaleAttempt: the attempt is fenced; nothing was recorded.
        """
        async with transaction(self._pool) as connection:
            locked = await self._lock(connection, key)
            recorded = await connection.fetchval(self._sql.recorded_report, key.job_id, key.attempt)
            digest = digest_reports(reports, recorded, locked.job.progress)
            if digest.has_started and locked.job.state is JobState.STARTING:
                change = Change(JobState.RUNNING, Actor.TRAINER, attempt=key.attempt)
                await change_state(connection, self._sql, locked, change)
            count = len(digest.bodies)
            progress = None if digest.progress is None else progress_to_json(digest.progress)
            taken = self._sql.take_sequences, key.job_id, key.attempt, count, progress, self._lease
            row = the_row(await connection.fetchrow(*taken))
            if digest.bodies:
                first = row["sequence"] - count + 1
                await insert_events(connection, self._sql, key.job_id, first, key.attempt, digest.bodies)
                points = [body for body in digest.bodies if isinstance(body, MetricPoint)]
                await add_to_buckets(connection, self._sql, key.job_id, points)
                await notify_job(connection, self._sql, key.job_id, "event")
            if digest.last_number > recorded:
                await connection.execute(self._sql.record_report, key.job_id, key.attempt, digest.last_number)
            return JobState(row["state"]), digest.last_number

    async def commit_checkpoint(self, files: FileSet, eval_loss: float | None = None) -> None:
        """Records a checkpoint whose files are verified, once, and gives up what the job's policy does not keep.

        Raises:
            StaleAttempt: the attempt is fenced.
        """
        key, step = files.key, files.checkpoint_step
        async with transaction(self._pool) as connection:
            locked = await self._lock(connection, key)
            new = await connection.fetchval(
                self._sql.insert_checkpoint,
                key.job_id,
                key.attempt,
                step,
                files_to_json(files.files),
                files.size_bytes,
                eval_loss,
            )
            await connection.execute(self._sql.delete_uploads, key.job_id, key.attempt, files.prefixes[0])
            if new is None or step is None:
                return
            taken = self._sql.take_sequences, key.job_id, key.attempt, 1, None, self._lease
            row = the_row(await connection.fetchrow(*taken))
            body = CheckpointSaved(step, files.size_bytes)
            await insert_events(connection, self._sql, key.job_id, row["sequence"], key.attempt, [body])
            await self._drop_old_checkpoints(connection, locked.job)
            await notify_job(connection, self._sql, key.job_id, "event")

    async def list_checkpoints(self, job_id: JobId, older_than: CheckpointName | None = None) -> Sequence[FileSet]:
        """Returns a job's checkpoints, the newest first; those older than one of them, if it is named."""
        rows = await self._pool.fetch(self._sql.list_checkpoints, job_id)
        return [
            FileSet(AttemptKey(job_id, row["attempt"]), files_from_json(row["files"]), row["step"])
            for row in rows
            if older_than is None or CheckpointName(row["attempt"], row["step"]) < older_than
        ]

    async def get_source_artifact(self, key: AttemptKey) -> Artifact:
        """Returns what the job of an effective attempt begins with. Raises StaleAttempt, ArtifactNotFound."""
        status = await self.check(key)
        row = await self._pool.fetchrow(self._sql.select_source_artifact, key.job_id)
        if row is None:
            raise ArtifactNotFound(key.job_id, status.state)
        files = FileSet(AttemptKey(JobId(row["id"]), row["attempt"]), files_from_json(row["files"]))
        return Artifact(files, row["create_time"], row["dataset_id"], row["dataset_version"])

    async def complete(self, files: FileSet, progress: Progress | None, early_end: str = "") -> JobState:
        """Ends an attempt well, with the artifact whose files are verified; returns the state.

        `early_end` says why it ended before its last step; empty when it did not.

        A repetition returns what the first call did.

        Raises:
            StaleAttempt: the attempt is fenced.
            IllegalTransition: there are no files, and nobody asked to stop.
        """
        key = files.key
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(self._sql.lock_job, key.job_id)
            if row is not None and await self._ended_as(connection, key, _COMPLETED_OUTCOMES):
                return JobState(row["state"])
            locked = _checked(row, key)
            if locked.job.state is JobState.STARTING and files.files:
                locked = await self._started(connection, locked, key)
            if progress is not None:
                await connection.execute(self._sql.set_progress, key.job_id, progress_to_json(progress))
            change = _good_end(locked, key, early_end, has_artifact=bool(files.files))
            job = await change_state(connection, self._sql, locked, change)
            if files.files:
                await self._publish(connection, files)
            await close_attempt(connection, self._sql, key, job.state, Actor.TRAINER)
            await failpoint("complete.before_commit")
            return job.state

    async def fail(self, key: AttemptKey, reason: StateReason, message: str, *, dice: float) -> JobState:
        """Ends an attempt badly; returns the state that the retry policy gives the job. A repetition changes nothing.

        Raises:
            StaleAttempt: the attempt is fenced.
        """
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(self._sql.lock_job, key.job_id)
            if row is not None and row["attempt"] == key.attempt and await self._ended_as(connection, key, {reason}):
                return JobState(row["state"])
            locked = _checked(row, key)
            verdict = judge_failure(locked.job.state, reason, locked.counts, dice=dice)
            change = Change(
                verdict.target,
                Actor.TRAINER,
                verdict.reason,
                told(verdict, message),
                attempt=key.attempt,
                delay=verdict.delay,
                counts=verdict.counts,
                tries_left=verdict.target is JobState.QUEUED,
            )
            job = await change_state(connection, self._sql, locked, change)
            await close_attempt(connection, self._sql, key, reason, Actor.TRAINER)
            return job.state

    async def _lock_next_job(self, connection: Connection, worker_id: WorkerId) -> LockedJob | None:
        passed: list[str] = []
        while True:
            chosen = await connection.fetchval(self._sql.choose_next_job, worker_id, self._lease, passed)
            if chosen is None:
                return None
            row = await connection.fetchrow(self._sql.lock_chosen_job, chosen)
            if row is not None:
                return locked_job_from_row(row)
            # Its owner stops, pauses or changes it right now: whoever is slow at that holds nobody else up.
            passed.append(chosen)

    async def _lock(self, connection: Connection, key: AttemptKey) -> LockedJob:
        return await lock_attempt(connection, self._sql, key)

    async def _started(self, connection: Connection, locked: LockedJob, key: AttemptKey) -> LockedJob:
        """The report of the first step may still be on its way: who has an artifact has made steps."""
        job = await change_state(
            connection, self._sql, locked, Change(JobState.RUNNING, Actor.TRAINER, attempt=key.attempt)
        )
        return LockedJob(job, locked.counts, locked.lease_expired, locked.grace_spent)

    async def _ended_as(self, connection: Connection, key: AttemptKey, outcomes: Collection[str]) -> bool:
        row = await connection.fetchrow(self._sql.select_attempt, key.job_id, key.attempt)
        return row is not None and row["ended_by"] == Actor.TRAINER and row["outcome"] in outcomes

    async def _publish(self, connection: Connection, files: FileSet) -> None:
        """Makes the files the job's artifact; those that it had from before a retry are collected."""
        job_id = files.key.job_id
        stored = files_to_json(files.files)
        replaced = await connection.fetchval(self._sql.insert_artifact, job_id, files.key.attempt, stored, files.digest)
        if replaced is not None:
            await collect(connection, self._sql, job_id, attempt_prefixes(AttemptKey(job_id, replaced)))

    async def _drop_old_checkpoints(self, connection: Connection, job: Job) -> None:
        rows = await connection.fetch(self._sql.list_checkpoints, job.id)
        recorded = [RecordedCheckpoint(CheckpointName(row["attempt"], row["step"]), row["eval_loss"]) for row in rows]
        kept = kept_checkpoints(recorded, job.parameters.checkpoints)
        for each in recorded:
            if each.name not in kept:
                await drop_checkpoint(connection, self._sql, job.id, each.name)


async def drop_checkpoint(connection: Connection, queries: Queries, job_id: JobId, name: CheckpointName) -> None:
    """Forgets a checkpoint and has its objects collected."""
    await connection.execute(queries.delete_checkpoint, job_id, name.attempt, name.step)
    await collect(connection, queries, job_id, FileSet(AttemptKey(job_id, name.attempt), (), name.step).prefixes)


async def close_attempt(
    connection: Connection, queries: Queries, key: AttemptKey, outcome: str, ended_by: Actor
) -> None:
    """Closes the record of an attempt and has what it stored collected, but for what the job still points to then.

    After a good end, too: a checkpoint whose upload was under way, or a file that was prepared and not published.
    """
    await end_attempt(connection, queries, key, outcome, ended_by)
    await connection.execute(queries.delete_uploads, key.job_id, key.attempt, "")
    await collect(connection, queries, key.job_id, attempt_prefixes(key))


async def lock_attempt(connection: Connection, queries: Queries, key: AttemptKey) -> LockedJob:
    """Locks the job of an effective attempt until the transaction ends. Raises StaleAttempt for any other."""
    return _checked(await connection.fetchrow(queries.lock_job, key.job_id), key)


def _good_end(locked: LockedJob, key: AttemptKey, early_end: str, *, has_artifact: bool) -> Change:
    """STOPPED after an order to stop, whatever else ended it; else COMPLETED."""
    if locked.job.state is JobState.STOPPING:
        target, reason, message = JobState.STOPPED, StateReason.STOP_REQUESTED, locked.job.message
    else:
        target, message = JobState.COMPLETED, early_end
        reason = StateReason.EARLY_STOPPED if early_end else StateReason.UNSPECIFIED
    return Change(target, Actor.TRAINER, reason, message, attempt=key.attempt, has_artifact=has_artifact)


def _checked(row: Row | None, key: AttemptKey) -> LockedJob:
    """The fence: the locked job, if the attempt is its present one and a trainer may still write."""
    if row is None:
        raise StaleAttempt(key.job_id, key.attempt)
    locked = locked_job_from_row(row)
    if locked.job.attempt != key.attempt or locked.job.state not in ACTIVE_STATES:
        raise StaleAttempt(key.job_id, key.attempt)
    return locked
