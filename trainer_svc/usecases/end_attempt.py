"""Tell the scheduler how an attempt ended, for as long as it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from meshkit.failpoints import failpoint
from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.clients.transfers import Transfers
from trainer_svc.domain.attempt import AdapterMade, AttemptFailed, FailReason, RemoteFile
from trainer_svc.domain.backoff import Backoff
from trainer_svc.domain.errors import (
    CredentialRefusedError,
    FilesIncompleteError,
    SchedulerUnavailableError,
    StorageUnavailableError,
)
from trainer_svc.domain.limits import AttemptLimits
from trainer_svc.usecases.live_attempt import LiveAttempt
from trainer_svc.usecases.publish_checkpoints import CheckpointPublisher
from trainer_svc.usecases.publish_files import describe_folder, publish_files

T = TypeVar("T")

_MANIFEST = "manifest.json"


async def publish_artifact(
    attempt: LiveAttempt,
    made: AdapterMade,
    checkpoints: CheckpointPublisher,
    *,
    scheduler: SchedulerClient,
    transfers: Transfers,
    limits: AttemptLimits,
) -> str | AttemptFailed:
    """Publishes the adapter and ends the attempt well; returns the job's state, or why it cannot be published.

    After an order to stop, the checkpoint of the last step is published between the two: what its owner asked for
    comes first, and once the attempt is completed nothing more is taken from it.

    An unreachable scheduler is asked again until the attempt is fenced; the store's troubles are borne for
    `limits.storage` seconds.
    """
    files = await _checked_files(made)
    if isinstance(files, AttemptFailed):
        return files
    attempt.show_phase("publishing")
    gives_up = time.monotonic() + limits.storage

    async def publish_and_complete() -> str | AttemptFailed:
        try:
            await publish_files(attempt, made.adapter, files, scheduler=scheduler, transfers=transfers)
            if attempt.stop_ordered.is_set():
                await finish_checkpoints(attempt, checkpoints, limits)
            await attempt.flush(limits.flush)
            await failpoint("trainer.artifact.uploaded")
            return await scheduler.complete_attempt(attempt.grant, files, attempt.progress, made.early_end)
        except (StorageUnavailableError, FilesIncompleteError) as error:
            if time.monotonic() < gives_up:
                raise SchedulerUnavailableError(str(error)) from error
            return AttemptFailed(FailReason.STORAGE_UNAVAILABLE, f"the adapter could not be published: {error}")

    return await _until_answered(attempt, "artifact.not_published_yet", publish_and_complete)


async def finish_checkpoints(attempt: LiveAttempt, checkpoints: CheckpointPublisher, limits: AttemptLimits) -> None:
    """Publishes the newest checkpoint if that is still to be done, for as long as there is time.

    Raises:
        AttemptFencedError.
    """
    now = time.monotonic()
    ends = [now + limits.last_checkpoint]
    if attempt.stop_time is not None:
        ends.append(attempt.stop_time + limits.stop_total)
    if attempt.drain_time is not None:
        ends.append(attempt.drain_time + limits.drain_publish)
    await checkpoints.finish(max(0.0, min(ends) - now))


async def complete_empty(attempt: LiveAttempt, *, scheduler: SchedulerClient, limits: AttemptLimits) -> str:
    """Ends an attempt that was stopped before it had anything to publish; returns the job's state."""
    await attempt.flush(limits.flush)
    return await _until_answered(
        attempt,
        "attempt.not_completed_yet",
        lambda: scheduler.complete_attempt(attempt.grant, (), attempt.progress),
    )


async def fail_attempt(
    attempt: LiveAttempt, failed: AttemptFailed, *, scheduler: SchedulerClient, limits: AttemptLimits
) -> str:
    """Ends an attempt badly; returns the job's state."""
    await attempt.flush(limits.flush)
    return await _until_answered(
        attempt,
        "attempt.not_failed_yet",
        lambda: scheduler.fail_attempt(attempt.grant, failed.reason, failed.message),
    )


async def _until_answered(attempt: LiveAttempt, event: str, ask: Callable[[], Awaitable[T]]) -> T:
    """Asks again while the scheduler is away: the attempt's stream finds out when there is no point any more."""
    backoff = Backoff(first=0.3, longest=5.0)
    while True:
        try:
            return await ask()
        except (SchedulerUnavailableError, CredentialRefusedError) as error:
            if backoff.failures == 0:
                structlog.get_logger().warning(event, job_id=attempt.claim.job_id, cause=str(error))
            await asyncio.sleep(backoff.next_delay())


async def _checked_files(made: AdapterMade) -> Sequence[RemoteFile] | AttemptFailed:
    """The adapter's files on the disk, if they are those that the child said it wrote."""
    try:
        found = await asyncio.to_thread(describe_folder, made.adapter)
    except OSError as error:
        told = f"the adapter cannot be read on the trainer's disk: {error.strerror or error}"
        return AttemptFailed(FailReason.STORAGE_UNAVAILABLE, told)
    # Digests travel in the artifact itself: the library's own manifest would say the same twice.
    files = [file for file in found if file.path != _MANIFEST]
    if not files or set(files) != set(made.files):
        return AttemptFailed(FailReason.CRASHED, "the adapter on the disk differs from what the training process wrote")
    return files
