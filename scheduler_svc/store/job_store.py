"""Jobs as their owners see and change them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from meshkit.postgres import Connection, Pool, Queries, after_commit
from meshkit.telemetry.logging import bound_logger
from scheduler_svc.domain.errors import ArtifactNotFound, EtagMismatch, JobInUse, JobNotFound
from scheduler_svc.domain.files import Artifact, CheckpointRecord, FileSet, job_prefix
from scheduler_svc.domain.ids import AttemptKey, JobId, UserId
from scheduler_svc.domain.job import (
    FINAL_STATES,
    Job,
    JobFilter,
    JobState,
    JobSubmission,
    JobUpdate,
    Progress,
    StateReason,
)
from scheduler_svc.domain.lifecycle import (
    Actor,
    check_deletable,
    check_pausable,
    check_retriable,
    stop_target,
)
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.store.garbage_store import collect
from scheduler_svc.store.job_changes import (
    Change,
    change_state,
    notify_job,
)
from scheduler_svc.store.quota_store import find_room
from scheduler_svc.store.request_store import NO_ANSWER, Answer, AnswerCodec, answer_once
from scheduler_svc.store.rows import (
    LockedJob,
    files_from_json,
    job_from_json,
    job_from_row,
    job_to_json,
    locked_job_from_row,
    progress_to_json,
    the_row,
)
from scheduler_svc.store.submission_store import SubmissionStore

_JOB_ANSWER = AnswerCodec(job_to_json, job_from_json)


class JobStore:
    """Jobs by their owner: an id of somebody else's job is an id that is not there."""

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries
        self._submissions = SubmissionStore(pool, queries)

    async def submit(self, submission: JobSubmission, key: RequestKey | None) -> Job:
        """Adds the job with its first event and its wake-up, or returns the one that the same request made before.

        Raises:
            QuotaExceeded: the owner has no room for it.
            RequestIdReused: the id belongs to another request.
            JobNotFound: the job of the same request has been deleted since.
        """
        return await self._submissions.submit(submission, key)

    async def get_answered(self, owner_id: UserId, answer: Answer) -> Job:
        """Returns the job of a submission's answer as it is now, except for what its owner may have changed since.

        Raises:
            JobNotFound: it has been deleted since.
        """
        return await self._submissions.get_answered(owner_id, answer)

    async def get(self, job_id: JobId, owner_id: UserId) -> Job:
        """Returns a job. Raises JobNotFound."""
        row = await self._pool.fetchrow(self._sql.select_job, job_id, owner_id)
        if row is None:
            raise JobNotFound(job_id)
        return job_from_row(row)

    async def list_page(
        self, owner_id: UserId, condition: JobFilter, after: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Job]:
        """Returns jobs of the owner, newest first, from after a position on."""
        if condition.is_empty:
            return []
        rows = await self._pool.fetch(
            self._list_query(condition),
            owner_id,
            *(after or (None, None)),
            None if condition.states is None else sorted(condition.states),
            condition.model_id,
            condition.dataset_id,
            condition.name,
            condition.model_id_not,
            condition.dataset_id_not,
            condition.name_not,
            condition.name_parts,
            condition.source_job_id,
            condition.source_job_id_not,
            limit,
        )
        return [job_from_row(row) for row in rows]

    async def count_foreign_uses(self, entry_id: str, owner_id: UserId, limit: int) -> int:
        """Counts the live jobs of others that use a dataset or model, up to a limit."""
        return int(await self._pool.fetchval(self._sql.count_foreign_uses, entry_id, owner_id, limit))

    async def stop(self, job_id: JobId, owner_id: UserId, grace: timedelta, key: RequestKey | None = None) -> Job:
        """Stops a queued job, or has the trainer stop it; returns it as it is then. Stopping twice changes nothing.

        Raises:
            JobNotFound: it is not there.
            IllegalTransition: it is final.
            RequestIdReused: the request id belongs to another request.
        """

        async def act(connection: Connection) -> Job:
            locked = await self._lock(connection, job_id, owner_id)
            target = stop_target(locked.job.state)
            if target is locked.job.state:
                return locked.job
            change = Change(target, Actor.USER, StateReason.STOP_REQUESTED, "stopped by its owner", stop_grace=grace)
            return await change_state(connection, self._sql, locked, change)

        return await self._once(key, act)

    async def pause(self, job_id: JobId, owner_id: UserId, key: RequestKey | None = None) -> Job:
        """Keeps a queued job from the trainers; returns it as it is then. Pausing twice changes nothing.

        Raises:
            JobNotFound: it is not there.
            IllegalTransition: it is not QUEUED.
            RequestIdReused: the request id belongs to another request.
        """
        change = Change(JobState.QUEUED, Actor.USER, StateReason.PAUSED, "paused by its owner")
        return await self._change_pause(job_id, owner_id, change, key, action="be paused")

    async def resume(self, job_id: JobId, owner_id: UserId, key: RequestKey | None = None) -> Job:
        """Gives a paused job back to the queue; returns it as it is then. A job that is not paused stays as it is.

        Raises:
            JobNotFound: it is not there.
            IllegalTransition: it is not QUEUED.
            RequestIdReused: the request id belongs to another request.
        """
        change = Change(JobState.QUEUED, Actor.USER, StateReason.RESUMED, "resumed by its owner")
        return await self._change_pause(job_id, owner_id, change, key, action="be resumed")

    async def retry(self, job_id: JobId, owner_id: UserId, *, from_scratch: bool, key: RequestKey | None = None) -> Job:
        """Queues a job again that stopped or failed, with all its tries; returns it as it is then.

        It goes on from its newest whole checkpoint; `from_scratch` drops them all. What it made stays until replaced.

        Raises:
            JobNotFound: it is not there.
            IllegalTransition: it is neither STOPPED nor FAILED.
            JobInUse: a live job reads what it has made.
            QuotaExceeded: the owner has no room for it in the queue.
            RequestIdReused: the request id belongs to another request.
        """

        async def act(connection: Connection) -> Job:
            # The owner's turn before any job's row, as submissions take them: one may begin with this very job.
            (refusal,) = await find_room(connection, self._sql, [owner_id])
            locked = await self._lock(connection, job_id, owner_id)
            check_retriable(locked.job.state)
            await self._keep_sources(connection, locked.job)
            if refusal is not None:
                raise refusal
            said = "tried again by its owner"
            if from_scratch:
                said += ", from scratch"
                await self._drop_checkpoints(connection, job_id)
                await connection.execute(self._sql.set_progress, job_id, progress_to_json(Progress()))
            change = Change(JobState.QUEUED, Actor.USER, StateReason.RETRY_REQUESTED, said)
            return await change_state(connection, self._sql, locked, change)

        return await self._once(key, act)

    async def update(self, job_id: JobId, owner_id: UserId, update: JobUpdate, key: RequestKey | None = None) -> Job:
        """Changes a job's name or priority, whatever its state; returns it as it is then.

        Raises:
            JobNotFound: it is not there.
            EtagMismatch: it was changed since the caller has seen it.
            RequestIdReused: the request id belongs to another request.
        """

        async def act(connection: Connection) -> Job:
            job = (await self._lock(connection, job_id, owner_id)).job
            if update.etag not in ("", job.etag):
                raise EtagMismatch(update.etag, job.etag)
            row = await connection.fetchrow(self._sql.update_job, job_id, update.name, update.priority)
            await notify_job(connection, self._sql, job_id, "state")
            told = {"actor": owner_id, "job_id": job_id, "is_renamed": update.name is not None}
            after_commit(connection, lambda: bound_logger().info("audit.job_updated", **told, priority=update.priority))
            return job_from_row(the_row(row))

        return await self._once(key, act)

    async def delete(self, job_id: JobId, owner_id: UserId, key: RequestKey | None = None) -> None:
        """Removes a job's rows and has its objects collected.

        Raises:
            JobNotFound: it is not there.
            IllegalTransition: a trainer has it.
            JobInUse: a live job reads what it has made.
            RequestIdReused: the request id belongs to another request.
        """

        async def act(connection: Connection) -> None:
            locked = await self._lock(connection, job_id, owner_id)
            check_deletable(locked.job.state)
            await self._check_unused(connection, job_id)
            await connection.execute(self._sql.delete_job, job_id)
            if locked.job.attempt:
                await collect(connection, self._sql, job_id, [job_prefix(job_id)])
            await notify_job(connection, self._sql, job_id, "state")
            after_commit(connection, lambda: bound_logger().info("audit.job_deleted", actor=owner_id, job_id=job_id))

        await answer_once(self._pool, self._sql, key, act, NO_ANSWER)

    async def list_checkpoints(
        self, job_id: JobId, owner_id: UserId, after: tuple[int, int] | None, limit: int
    ) -> Sequence[CheckpointRecord]:
        """Returns a job's checkpoints, newest first, from after (attempt, step) on. Raises JobNotFound."""
        await self.get(job_id, owner_id)
        rows = await self._pool.fetch(self._sql.list_checkpoint_page, job_id, *(after or (None, None)), limit)
        return [
            CheckpointRecord(
                attempt=row["attempt"],
                step=row["step"],
                size_bytes=row["size_bytes"],
                create_time=row["create_time"],
                eval_loss=row["eval_loss"],
                is_newest=row["is_newest"],
            )
            for row in rows
        ]

    async def get_artifact(self, job_id: JobId, owner_id: UserId) -> Artifact:
        """Returns what a job made.

        Raises:
            JobNotFound: the job is not there.
            ArtifactNotFound: it has made nothing (yet).
        """
        row = await self._pool.fetchrow(self._sql.select_artifact, job_id, owner_id)
        if row is None:
            raise JobNotFound(job_id)
        if row["attempt"] is None:
            raise ArtifactNotFound(job_id, row["job_state"])
        files = FileSet(AttemptKey(job_id, row["attempt"]), files_from_json(row["files"]))
        return Artifact(files, row["create_time"], row["dataset_id"], row["dataset_version"])

    def _list_query(self, condition: JobFilter) -> str:
        """The query whose index finds the fewest candidates; all take the same arguments."""
        if condition.source_job_id:
            return self._sql.list_followers
        is_live = condition.states is not None and condition.states.isdisjoint(FINAL_STATES)
        return self._sql.list_live_jobs if is_live else self._sql.list_jobs

    async def _change_pause(
        self, job_id: JobId, owner_id: UserId, change: Change, key: RequestKey | None, *, action: str
    ) -> Job:
        async def act(connection: Connection) -> Job:
            locked = await self._lock(connection, job_id, owner_id)
            check_pausable(locked.job.state, action=action)
            if locked.job.is_paused is (change.reason is StateReason.PAUSED):
                return locked.job
            return await change_state(connection, self._sql, locked, change)

        return await self._once(key, act)

    async def _once(self, key: RequestKey | None, act: Callable[[Connection], Awaitable[Job]]) -> Job:
        return await answer_once(self._pool, self._sql, key, act, _JOB_ANSWER)

    async def _lock(self, connection: Connection, job_id: JobId, owner_id: UserId) -> LockedJob:
        row = await connection.fetchrow(self._sql.lock_job_of_owner, job_id, owner_id)
        if row is None:
            raise JobNotFound(job_id)
        return locked_job_from_row(row)

    async def _keep_sources(self, connection: Connection, job: Job) -> None:
        """A job that is queued again may replace what others read, and needs what it reads itself."""
        await self._check_unused(connection, job.id)
        if job.source_job_id is None:
            return
        if await connection.fetchval(self._sql.lock_source, job.source_job_id, job.owner_id) is None:
            raise JobNotFound(job.source_job_id)

    async def _check_unused(self, connection: Connection, job_id: JobId) -> None:
        dependent = await connection.fetchval(self._sql.find_live_dependent, job_id)
        if dependent is not None:
            raise JobInUse(job_id, dependent)

    async def _drop_checkpoints(self, connection: Connection, job_id: JobId) -> None:
        for row in await connection.fetch(self._sql.delete_checkpoints, job_id):
            files = FileSet(AttemptKey(job_id, row["attempt"]), (), row["step"])
            await collect(connection, self._sql, job_id, files.prefixes)
