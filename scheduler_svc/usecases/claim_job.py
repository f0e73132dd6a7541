"""Gives a waiting job to a trainer."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from meshkit.blob import BlobUnavailable
from meshkit.failpoints import failpoint
from scheduler_svc.clients.attempt_files import AttemptFiles
from scheduler_svc.domain.checkpoints import CheckpointName
from scheduler_svc.domain.files import FileSet
from scheduler_svc.domain.ids import AttemptKey, JobId, WorkerId
from scheduler_svc.domain.job import Job
from scheduler_svc.store.attempt_store import AttemptStore
from scheduler_svc.usecases.issue_tokens import IssuedToken, TokenIssuer


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at one job, given to one worker."""

    job: Job
    grant: IssuedToken
    checkpoint: FileSet | None
    checkpoint_urls: dict[str, str]


async def claim_job(
    worker_id: WorkerId, attempts: AttemptStore, files: AttemptFiles, issuer: TokenIssuer
) -> Claim | None:
    """Returns the next job that fits the worker, STARTING; None when none waits. Raises WorkerNotFound."""
    job = await attempts.claim(worker_id)
    if job is None:
        return None
    await failpoint("claim.after_commit")
    structlog.get_logger().info("job.claimed", job_id=job.id, attempt=job.attempt, worker_id=worker_id)
    grant = issuer.grant(AttemptKey(job.id, job.attempt), worker_id, dataset_id=job.dataset_id, model_id=job.model_id)
    checkpoint = await newest_present(job.id, None, attempts, files) if job.attempt > 1 else None
    return Claim(job, grant, checkpoint, files.download_urls(checkpoint) if checkpoint else {})


async def find_checkpoint(
    key: AttemptKey, older_than: CheckpointName | None, attempts: AttemptStore, files: AttemptFiles
) -> FileSet | None:
    """Returns the checkpoint that an attempt should try next, None when there is none. Raises StaleAttempt."""
    await attempts.check(key)
    if older_than is not None:
        structlog.get_logger().warning(
            "checkpoint.refused", job_id=key.job_id, attempt=key.attempt, step=older_than.step
        )
    return await newest_present(key.job_id, older_than, attempts, files)


async def newest_present(
    job_id: JobId, older_than: CheckpointName | None, attempts: AttemptStore, files: AttemptFiles
) -> FileSet | None:
    """Returns the newest checkpoint, or the newest of the older ones, whose files are all there; it reads none."""
    for checkpoint in await attempts.list_checkpoints(job_id, older_than):
        try:
            if await files.are_present(checkpoint):
                return checkpoint
        except BlobUnavailable:
            # The store is away for the moment; the trainer will read with patience what was verified once.
            return checkpoint
        structlog.get_logger().warning("checkpoint.damaged", job_id=job_id, step=checkpoint.checkpoint_step)
    return None
