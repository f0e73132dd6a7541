"""The one door through which a job's state changes, inside a transaction that has locked its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from meshkit.postgres import Connection, Queries, after_commit
from meshkit.telemetry.logging import bound_logger
from scheduler_svc import metrics
from scheduler_svc.domain.events import EventBody, StateChange
from scheduler_svc.domain.ids import AttemptKey, JobId, WorkerId
from scheduler_svc.domain.job import MAX_MESSAGE_BYTES, Job, JobState, StateReason, clean_text
from scheduler_svc.domain.lifecycle import Actor, Effect, Facts, transition
from scheduler_svc.domain.retry import FailureCounts
from scheduler_svc.store.rows import LockedJob, Row, event_to_columns, job_from_row

JOB_CHANNEL = "scheduler_job"
"""Payload: the job's id, and whether its state changed (`state`) or something was added to its history (`event`)."""
OUTBOX_CHANNEL = "scheduler_outbox"
REPUBLISH_AFTER = timedelta(seconds=30)
"""How long a job waits before its wake-up is published again."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state that somebody asks for; the defaults are those of a change that needs none of it."""

    target: JobState
    actor: Actor
    reason: StateReason = StateReason.UNSPECIFIED
    message: str = ""
    attempt: int | None = None
    """The attempt of the trainer that asks."""
    worker_id: WorkerId | None = None
    lease: timedelta = timedelta(0)
    stop_grace: timedelta = timedelta(0)
    delay: timedelta = timedelta(0)
    counts: FailureCounts | None = None
    """None keeps them."""
    has_artifact: bool = False
    tries_left: bool = False


async def change_state(connection: Connection, queries: Queries, locked: LockedJob, change: Change) -> Job:
    """Moves the job and records the event; returns it as it is then.

    Raises:
        IllegalTransition: the life cycle does not allow it.
    """
    job = locked.job
    rule = transition(_facts(locked, change), change.target, change.actor, change.reason)
    message = clean_text(change.message, MAX_MESSAGE_BYTES)
    counts = FailureCounts() if Effect.FORGET_FAILURES in rule.effects else change.counts or locked.counts
    row = await connection.fetchrow(
        queries.change_state,
        job.id,
        job.state,
        job.generation,
        job.attempt,
        change.target,
        change.reason,
        message,
        [effect.name for effect in rule.effects],
        change.delay,
        REPUBLISH_AFTER,
        change.worker_id,
        change.lease,
        change.stop_grace,
        change.has_artifact,
        counts.infrastructure,
        counts.crashes,
    )
    if row is None:
        raise AssertionError(f"job {job.id} changed although its row was locked")
    changed = job_from_row(row)
    body = StateChange(job.state, change.target, change.reason, message)
    await insert_events(connection, queries, job.id, changed.sequence, changed.attempt, [body])
    if Effect.OUTBOX in rule.effects:
        await connection.execute(
            queries.insert_outbox, job.id, changed.generation, changed.needs.device_class, row["not_before"]
        )
        await connection.execute(queries.notify, OUTBOX_CHANNEL, "")
    await notify_job(connection, queries, job.id, "state")
    after_commit(connection, lambda: _tell(job, changed, change, row))
    return changed


def _facts(locked: LockedJob, change: Change) -> Facts:
    return Facts(
        state=locked.job.state,
        due=True,
        generation_matches=True,  # both by the query that locked the row
        paused=locked.job.is_paused,
        attempt_matches=change.attempt == locked.job.attempt,
        lease_expired=locked.lease_expired,
        tries_left=change.tries_left,
        files_verified=change.has_artifact,
        grace_spent=locked.grace_spent,
    )


def _tell(before: Job, job: Job, change: Change, row: Row) -> None:
    """Logs and counts a change that is committed."""
    bound_logger().info(
        "job.state_changed",
        job_id=job.id,
        attempt=job.attempt,
        from_state=before.state,
        to_state=job.state,
        reason=job.reason,
        actor=before.owner_id if change.actor is Actor.USER else change.actor,
        worker_id=job.worker_id,
    )
    recipe = job.needs.recipe
    metrics.JOB_CHANGES.labels(before.state, job.state, job.reason, recipe).inc()
    if job.state is JobState.STARTING:
        waited = job.update_time - max(row["queue_time"], row["not_before"])
        metrics.QUEUE_WAIT.labels(job.needs.device_class).observe(max(waited.total_seconds(), 0.0))


async def insert_events(
    connection: Connection,
    queries: Queries,
    job_id: JobId,
    first_sequence: int,
    attempt: int,
    bodies: Sequence[EventBody],
) -> None:
    """Records events whose numbers have been taken from the job's row in this transaction."""
    kinds, levels, texts = zip(*(event_to_columns(body) for body in bodies), strict=True)
    await connection.execute(
        queries.insert_events, job_id, first_sequence, attempt, list(kinds), list(levels), list(texts)
    )


async def notify_job(connection: Connection, queries: Queries, job_id: JobId, what: str) -> None:
    """Wakes those who watch the job once the transaction is committed."""
    await connection.execute(queries.notify, JOB_CHANNEL, f"{job_id} {what}")


async def end_attempt(connection: Connection, queries: Queries, key: AttemptKey, outcome: str, ended_by: Actor) -> None:
    """Closes the record of an attempt."""
    await connection.execute(queries.end_attempt, key.job_id, key.attempt, outcome, ended_by)
    after_commit(connection, metrics.ATTEMPTS_ENDED.labels(outcome, ended_by).inc)
