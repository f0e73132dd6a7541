"""The way into the queue: jobs that are submitted at the same time are accepted by one transaction."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from meshkit.batching import Batcher
from meshkit.failpoints import failpoint
from meshkit.postgres import Connection, Pool, Queries, transaction
from scheduler_svc.domain.errors import JobNotFound, QuotaExceeded
from scheduler_svc.domain.events import StateChange
from scheduler_svc.domain.ids import JobId, UserId
from scheduler_svc.domain.job import Job, JobState, JobSubmission, StateReason
from scheduler_svc.domain.lifecycle import Actor, Facts, transition
from scheduler_svc.domain.parameters import TrainingParameters
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.store.job_changes import OUTBOX_CHANNEL, REPUBLISH_AFTER
from scheduler_svc.store.quota_store import find_room
from scheduler_svc.store.request_store import Answer, find_requests
from scheduler_svc.store.rows import event_to_columns, job_from_row

_MAX_JOBS = 64
_REFUSED_DATA = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""What one job can do to a statement for many."""
_FIRST_EVENT = event_to_columns(StateChange(None, JobState.QUEUED, StateReason.UNSPECIFIED, ""))


@dataclass(frozen=True, slots=True)
class _Asked:
    """One job, and what makes its request known when it comes again."""

    submission: JobSubmission
    key: RequestKey | None


class SubmissionStore:
    """Accepts jobs.

    A commit costs the same for one job as for many: it waits for the disk, and announcing work to the relays makes the
    commits of a database wait for each other. So jobs that come while a commit is under way share the next.
    """

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries
        self._batches = Batcher(self._submit_all, max_items=_MAX_JOBS)

    async def submit(self, submission: JobSubmission, key: RequestKey | None) -> Job:
        """Adds the job with its first event and its wake-up, or returns the one that the same request made before.

        Raises:
            QuotaExceeded: the owner has no room for it.
            RequestIdReused: the id belongs to another request.
            JobNotFound: the job of the same request has been deleted since.
        """
        return await self._batches.ask(_Asked(submission, key))

    async def get_answered(self, owner_id: UserId, answer: Answer) -> Job:
        """Returns the job of a submission's answer as it is now, except for what its owner may have changed since.

        Raises:
            JobNotFound: it has been deleted since.
        """
        return await self._get_answered(self._pool, owner_id, answer)

    async def _submit_all(self, asked: Sequence[_Asked]) -> Sequence[Job | Exception]:
        try:
            return await self._submit_together(asked)
        except _REFUSED_DATA:
            if len(asked) == 1:
                raise
        # Whatever is wrong with one of them is not the others' business.
        answers: list[Job | Exception] = []
        for one in asked:
            try:
                answers += await self._submit_together([one])
            except _REFUSED_DATA as error:
                answers.append(error)
        return answers

    async def _submit_together(self, asked: Sequence[_Asked]) -> Sequence[Job | Exception]:
        transition(Facts(request_id_new=True), JobState.QUEUED, Actor.USER, StateReason.UNSPECIFIED)
        refusals: Sequence[QuotaExceeded | None] = [None] * len(asked)
        async with transaction(self._pool) as connection:
            await failpoint("job.create.before_insert")
            # Hardly anybody has a limit: the statement finds out by itself, which spares a round trip.
            added = await self._add(connection, asked, has_room=False)
            if added is None:
                refusals = await find_room(connection, self._sql, [one.submission.owner_id for one in asked])
                fit = [one for one, refusal in zip(asked, refusals, strict=True) if refusal is None]
                added = await self._add(connection, fit, has_room=True)
            if added is None:
                raise AssertionError("there was room, and then limits counted")
            answers: list[Job | Exception] = []
            for one, refusal in zip(asked, refusals, strict=True):
                create_time = added.get(one.submission.id)
                answers.append(
                    await self._answer(connection, one, refusal)
                    if create_time is None
                    else _accepted(one.submission, create_time)
                )
            await failpoint("job.create.before_commit")
            return answers

    async def _add(
        self, connection: Connection, asked: Sequence[_Asked], *, has_room: bool
    ) -> Mapping[JobId, datetime] | None:
        """Returns the jobs that were added and when; None, and none is, if limits must be looked at first."""
        text = orjson.dumps([_columns(one) for one in asked]).decode()
        kind, _, body = _FIRST_EVENT
        rows = await connection.fetch(
            self._sql.submit_jobs, text, REPUBLISH_AFTER, kind, body, OUTBOX_CHANNEL, has_room
        )
        added = {row["id"]: row["create_time"] for row in rows}
        return None if None in added else added

    async def _answer(self, connection: Connection, one: _Asked, refusal: QuotaExceeded | None) -> Job | Exception:
        """What is answered to one that was not added."""
        if one.key is None:
            return refusal or _source_gone(one.submission)
        # A repetition gets its first answer, whether there would be room for another job or not.
        (known,) = await find_requests(connection, self._sql, [one.key])
        if known is None:
            return refusal or _source_gone(one.submission)
        return await self._repeated(connection, one.submission.owner_id, known)

    async def _repeated(self, connection: Connection, owner_id: UserId, known: Answer | Exception) -> Job | Exception:
        if isinstance(known, Exception):
            return known
        try:
            return await self._get_answered(connection, owner_id, known)
        except JobNotFound as error:
            return error

    async def _get_answered(self, connection: Connection | Pool, owner_id: UserId, answer: Answer) -> Job:
        row = await connection.fetchrow(self._sql.select_job, answer["job_id"], owner_id)
        if row is None:
            raise JobNotFound(answer["job_id"])
        job = job_from_row(row)
        return replace(job, name=answer.get("name", job.name), priority=answer.get("priority", job.priority))


def _columns(asked: _Asked) -> dict[str, Any]:
    """What the statement takes: the columns of `jobs` that a submission says, and those of `request_ids`."""
    submission, needs = asked.submission, asked.submission.needs
    columns: dict[str, Any] = {
        "id": submission.id,
        "owner_id": submission.owner_id,
        "name": submission.name,
        "model_id": submission.model_id,
        "dataset_id": submission.dataset_id,
        "dataset_version": submission.dataset_version,
        "parameters": _parameters_json(submission.parameters),
        "priority": submission.priority,
        "device_class": needs.device_class,
        "device_count": needs.device_count,
        "device_memory_bytes": needs.device_memory_bytes,
        "recipe": needs.recipe,
        "needs_4bit": needs.is_4bit,
        "source_job_id": submission.source_job_id,
    }
    if asked.key is not None:
        columns |= {
            "request_id": str(asked.key.request_id),
            "rpc": asked.key.rpc,
            "body_sha256": asked.key.body_sha256,
            "answer": {"job_id": submission.id, "name": submission.name, "priority": submission.priority},
        }
    return columns


@functools.lru_cache(maxsize=256)
def _parameters_json(parameters: TrainingParameters) -> orjson.Fragment:
    # orjson reads dataclasses as they are: in plain values the parameters cost more than the rest of the job.
    return orjson.Fragment(orjson.dumps(parameters))


def _source_gone(submission: JobSubmission) -> JobNotFound:
    """Why a job was neither added nor refused: its source was deleted, or taken up again, a moment ago."""
    if submission.source_job_id is None:
        raise AssertionError("a job without a source is added, refused or known")
    return JobNotFound(submission.source_job_id)


def _accepted(submission: JobSubmission, create_time: datetime) -> Job:
    return Job(
        id=submission.id,
        owner_id=submission.owner_id,
        name=submission.name,
        model_id=submission.model_id,
        dataset_id=submission.dataset_id,
        dataset_version=submission.dataset_version,
        parameters=submission.parameters,
        needs=submission.needs,
        priority=submission.priority,
        state=JobState.QUEUED,
        reason=StateReason.UNSPECIFIED,
        message="",
        generation=1,
        attempt=0,
        worker_id=None,
        sequence=1,
        create_time=create_time,
        update_time=create_time,
        source_job_id=submission.source_job_id,
    )
