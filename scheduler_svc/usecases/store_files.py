"""Takes what an attempt stores: checkpoints and the artifact."""

from __future__ import annotations

import structlog

from meshkit.failpoints import failpoint
from scheduler_svc.clients.attempt_files import AttemptFiles
from scheduler_svc.domain.errors import InvalidField, StaleAttempt
from scheduler_svc.domain.files import FileSet, check_files
from scheduler_svc.domain.job import JobState, Progress
from scheduler_svc.store.attempt_store import AttemptStore


async def prepare_files(file_set: FileSet, attempts: AttemptStore, files: AttemptFiles) -> dict[str, str]:
    """Returns, by path, URLs to PUT the files to. Raises InvalidField, StaleAttempt."""
    check_files(file_set, "files")
    await attempts.check(file_set.key)
    return files.upload_urls(file_set)


async def commit_checkpoint(file_set: FileSet, attempts: AttemptStore, files: AttemptFiles) -> None:
    """Records a checkpoint whose files were PUT. Raises InvalidField, StaleAttempt, FilesIncomplete."""
    if not file_set.files:
        raise InvalidField("checkpoint.files", "must name at least one file")
    check_files(file_set, "checkpoint.files")
    await attempts.check(file_set.key)
    await files.publish(file_set)
    await failpoint("checkpoint.files_verified")
    await attempts.commit_checkpoint(file_set)
    await failpoint("checkpoint.after_commit")


async def complete_attempt(
    file_set: FileSet, progress: Progress | None, attempts: AttemptStore, files: AttemptFiles
) -> JobState:
    """Publishes the artifact and ends the attempt; returns COMPLETED, or STOPPED after a stop. May be repeated.

    Raises:
        InvalidField: the files are not good, or there are none and nobody asked to stop.
        StaleAttempt: the attempt is fenced.
        FilesIncomplete: a file is missing or differs.
    """
    key = file_set.key
    check_files(file_set, "files")
    status = await attempts.status(key)
    if status.is_effective:
        if not file_set.files and status.state is not JobState.STOPPING:
            raise InvalidField("files", "may be empty only after an order to stop")
        if file_set.files:
            await files.publish(file_set)
            await failpoint("complete.files_verified")
    elif not status.ended_by_trainer:
        raise StaleAttempt(key.job_id, key.attempt)
    state = await attempts.complete(file_set, progress)
    await failpoint("complete.after_commit")
    structlog.get_logger().info("attempt.completed", job_id=key.job_id, attempt=key.attempt, state=state)
    return state
